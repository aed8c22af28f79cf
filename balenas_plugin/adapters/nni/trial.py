"""A search as a trial of any NNI experiment: ``python -m balenas_plugin.adapters.nni.trial CONFIG.yml``.

NNI's parameters are options of the config by their dotted names (``strategy.num_mc_samples``), so a search space in
an experiment's YAML file compares whatever `balenas search` can be given. After every epoch the trial reports the
validation metric of the mean architecture, with the losses, the entropy and sigma beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nni

from balenas_plugin.adapters.nni.run.config_run import run_search
from balenas_plugin.adapters.nni.run.processes import end_predecessor
from balenas_plugin.adapters.nni.run.reports import EpochReports, TrialReport, final_metric
from balenas_plugin.config import load_config
from balenas_plugin.errors import BalenasError, OptionError
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.run_folder.location import new_run_folder

OUTPUT = "search"
"""Folder of the run inside the trial's own."""


def run_trial(config_path: Path, overrides: Sequence[str] = ()) -> None:
    """Search with the parameters that NNI gives this process, and report to it.

    A trial that is started again, as NNI does after its manager was killed, goes on from its last epoch.

    Args:
        config_path: the YAML file of a search.
        overrides: "a.b=value"; NNI's parameters win over them.

    Raises:
        BalenasError: bad input, or the manager is gone.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes that Lightning starts, one may ask NNI
        nni.get_next_parameter()
    report = TrialReport()
    parameters = report.parameters
    if not isinstance(parameters, Mapping):
        raise OptionError(f"a trial expects options by name from NNI, got {parameters!r}")
    config = load_config(config_path, [*overrides, *as_overrides(parameters)])
    place = os.environ.get("NNI_OUTPUT_DIR")
    if place is None:  # started by hand
        folder = new_run_folder(config, None, overwrite=False)
    else:
        end_predecessor()
        folder = RunFolder(Path(place, OUTPUT))
    reports = EpochReports(report)
    records = run_search(config, folder, resume=folder.manifest.exists(), callbacks=[reports], show_progress=False)
    if records:
        report.final(final_metric(reports, records))
        print(f"{folder.path}: {json.dumps(records[0]['choices'])}")


def as_overrides(parameters: Mapping[str, Any]) -> Iterator[str]:
    """Yield NNI's parameters as "a.b=value"; the `_name` of a nested choice is the config's `name`.

    >>> list(as_overrides({"strategy": {"_name": "BaLeNAS", "num_mc_samples": 3}, "seed": 1}))
    ['strategy={"name": "BaLeNAS", "num_mc_samples": 3}', 'seed=1']
    """
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            value = {"name" if key == "_name" else key: entry for key, entry in value.items()}
        yield f"{name}={json.dumps(value)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trial; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m balenas_plugin.adapters.nni.trial", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG.yml", help="what to search, on what, how (see configs/)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", dest="overrides", help="override one option"
    )
    options = parser.parse_args(arguments)
    try:
        run_trial(options.config, options.overrides)
    except BalenasError as error:
        print(f"balenas: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # NNI's way to cancel a trial
        print("balenas: the trial was cancelled.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
