"""The `balenas` command."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balenas_plugin import __version__
from balenas_plugin.errors import BalenasError

_EXAMPLES = """\
examples:
  balenas doctor                                  is everything installed that a search needs?
  balenas search configs/quickstart.yml           search NAS-Bench-201 on bundled images, minutes on a laptop
  balenas search configs/quickstart.yml --set evaluator.epochs=3 --seed 1 --output runs/trial
  balenas search configs/quickstart.yml --resume  continue the last run of this name after a crash or Ctrl-C

exit codes: 0 done, 2 bad input (one message says what and how to cure it), 130 stopped with Ctrl-C
"""

_SEARCH_EXAMPLES = """\
examples:
  balenas search configs/quickstart.yml
  balenas search configs/quickstart.yml --set strategy.num_mc_samples=1 --set data.name=cifar10 --set data.root=~/data
  balenas search configs/quickstart.yml --set strategy.name=DARTS      one of NNI's own strategies, for comparison
  balenas search configs/quickstart.yml --output runs/trial --overwrite

The run's folder then holds config.yml, manifest.json, history.csv, posterior.json, architectures.json and checkpoints/.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="balenas",
        description="Search neural architectures by learning a distribution over them (BaLeNAS).",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"balenas {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    search = commands.add_parser(
        "search", help="run a search from a YAML file", epilog=_SEARCH_EXAMPLES, formatter_class=formatter
    )
    search.add_argument("config", type=Path, metavar="CONFIG.yml", help="what to search, on what, how (see configs/)")
    search.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        dest="overrides",
        help="override one option; repeatable",
    )
    search.add_argument("--seed", type=int, help="seed of everything random, instead of the config's")
    search.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the run (default: runs/<name>, numbered when it exists)"
    )
    search.add_argument("--resume", action="store_true", help="continue an interrupted run, exactly")
    search.add_argument("--overwrite", action="store_true", help="replace the run that is in --output")
    search.set_defaults(run=_search)

    doctor = commands.add_parser("doctor", help="check the installation and name what is broken, with its cure")
    doctor.set_defaults(run=_doctor)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except BalenasError as error:
        print(f"balenas: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("balenas: stopped. The same command with --resume continues where it was.", file=sys.stderr)
        return 130


def _doctor(options: argparse.Namespace) -> int:
    from balenas_plugin.doctor import run_doctor

    return run_doctor()


def _search(options: argparse.Namespace) -> int:
    from balenas_plugin.config import load_config
    from balenas_plugin.run_folder import new_run_folder, resumed_run_folder

    config = load_config(options.config, options.overrides, seed=options.seed)
    if options.resume:
        folder = resumed_run_folder(config, options.output)
        if folder.finished:
            print(f"{folder.path} is finished already; its architectures:")
            _print_architectures(folder)
            return 0
    else:
        folder = new_run_folder(config, options.output, overwrite=options.overwrite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NNI warns about every class of a torch newer than itself
        from balenas_plugin.adapters.nni.run import run_search
    run_search(config, folder, resume=options.resume)
    _print_architectures(folder)
    return 0


def _print_architectures(folder: Any) -> None:
    import json

    records = json.loads(folder.architectures.read_text(encoding="utf-8"))
    print(f"\n{'rank':>4}  {'probability':>11}  architecture")
    for record in records:
        name = next(iter(record["notation"].values()), None) or json.dumps(record["choices"])
        probability = f"{record['probability']:11.3g}" if "probability" in record else " " * 11
        mark = "  <- argmax of the mean" if record.get("chosen_by") == "argmax of the mean" else ""
        print(f"{record['rank']:>4}  {probability}  {name}{mark}")
    print(f"\nEverything about this run: {folder.path}")


if __name__ == "__main__":
    sys.exit(main())
