"""Reproduce a table: search what it needs, choose, look up, write."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from balenas_plugin import __version__
from balenas_plugin.benchmarks import open_benchmark
from balenas_plugin.errors import OptionError, SearchFailedError, nearest
from balenas_plugin.reproduce.experiments import EXPERIMENTS, Experiment
from balenas_plugin.reproduce.picks import Picker
from balenas_plugin.reproduce.scales import Scale
from balenas_plugin.reproduce.searches import Search, run_searches, searches_of
from balenas_plugin.reproduce.tables import Table


def experiment_of(name: str, methods: Sequence[str] | None) -> Experiment:
    """Return an experiment, with some methods only if they are given.

    Raises:
        OptionError: it has no such method.
    """
    experiment = EXPERIMENTS[name]
    known = list(dict.fromkeys(row.method for row in experiment.rows))
    for method in methods or ():
        if method not in known:
            raise OptionError(
                f"{name} has no method {method!r}{nearest(method, known)} Its methods: {', '.join(known)}"
            )
    return experiment.with_methods(methods)


def seeds_of(text: str) -> list[int]:
    """Return the seeds that "0-3", "5" or "0,2,7-9" name.

    Raises:
        OptionError: it is something else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise OptionError(f'--seeds wants numbers and ranges, e.g. "0-3" or "0,2,7-9", got {text!r}')
        seeds.extend(range(int(first), int(last if dash else first) + 1))
    return list(dict.fromkeys(seeds))


def reproduce(
    experiment: Experiment, scale: Scale, seeds: Sequence[int], output: Path, *, table: Path | None, jobs: int
) -> Table:
    """Run the searches that are missing, and return the table; what was found before is kept.

    Raises:
        BalenasError: bad input, or a search failed. The table is written all the same, with what there is.
        KeyboardInterrupt: the user stopped; calling it again goes on.
    """
    benchmark = open_benchmark(table)  # first: without it the searches would be for nothing
    names = list(dict.fromkeys(row.search for row in experiment.rows if row.search is not None))
    searches = searches_of(output, [scale.config(name, seed) for seed in seeds for name in names])
    failure: SearchFailedError | None = None
    try:
        run_searches(searches, jobs=jobs)
    except SearchFailedError as error:
        failure = error
    by_name = {(s.config.name, s.config.seed): s for s in searches if s.folder.finished}
    config = scale.config(next(iter(scale.searches)), seeds[0])
    picker = Picker(output / "picks", benchmark, scale.proxy_networks, config.data, workers=jobs)
    results = {
        row.title: {
            seed: picker.accuracies(row, _search(by_name, row.search, seed), seed)
            for seed in seeds
            if row.search is None or (row.search, seed) in by_name
        }
        for row in experiment.rows
    }
    about = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "scale": scale.name,
        "seeds": ", ".join(map(str, seeds)),
        "ground truth": benchmark.name,
        "version": f"balenas_plugin {__version__}",
    }
    found = Table(experiment, results, about)
    found.write(output)
    if failure is not None:
        raise failure
    return found


def _search(by_name: dict[tuple[str, int], Search], name: str | None, seed: int) -> Search | None:
    return None if name is None else by_name[name, seed]
