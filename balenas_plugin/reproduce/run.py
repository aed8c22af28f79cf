"""Reproduce a table or a figure: search what it needs, choose, look up or train, write."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from balenas_plugin import __version__
from balenas_plugin.benchmarks import Benchmark
from balenas_plugin.config import SearchConfig
from balenas_plugin.data import DataConfig
from balenas_plugin.diagnostics import read_log
from balenas_plugin.errors import OptionError, SearchFailedError, nearest
from balenas_plugin.ground_truth import require_benchmark
from balenas_plugin.reproduce.charts import Chart
from balenas_plugin.reproduce.experiments import TUNING, Experiment, Row, tuning
from balenas_plugin.reproduce.family import EXPERIMENTS
from balenas_plugin.reproduce.figures import FIGURES, Figure, space_of_config, values_of
from balenas_plugin.reproduce.picks import Accuracies, Picker, SupernetOf
from balenas_plugin.reproduce.retraining.protocol import Protocol
from balenas_plugin.reproduce.retraining.retrained import RetrainedTable
from balenas_plugin.reproduce.scales import Scale
from balenas_plugin.reproduce.searches import Search, searches_of
from balenas_plugin.reproduce.tables import Table
from balenas_plugin.reproduce.units import Workload, run_units
from balenas_plugin.search_spaces import get_space

Finished = Mapping[tuple[str, int], Search]
"""Name of a search and seed -> the search that has ended."""


def experiment_of(name: str, methods: Sequence[str] | None, scale: Scale | None = None) -> Experiment | Figure:
    """Return a table's or a figure's experiment, with some methods only if they are given.

    Args:
        name: of the table or the figure.
        methods: their names; None: all.
        scale: whose trials the table "tuning" lists.

    Raises:
        OptionError: it has no such method, or the scale no trials.
    """
    experiment: Experiment | Figure
    if name == TUNING:
        if scale is None or not scale.trials:
            raise OptionError("the scale has no trials: list some, e.g. `trials: {darts: [{strategy: {...}}]}`")
        experiment = tuning({method: scale.tried(method) for method in scale.trials})
    else:
        experiment = FIGURES[name] if name in FIGURES else EXPERIMENTS[name]
    known = list(dict.fromkeys(row.method for row in experiment.rows))
    for method in methods or ():
        if method not in known:
            rows = [row for row in experiment.rows if _plain(method) in _plain(row.title)]
            hint = nearest(method, known)
            if rows and _plain(method) not in map(_plain, known):
                names = " ".join(dict.fromkeys(row.method for row in rows))
                titles = "; ".join(row.title for row in rows[:4]) + ("; ..." if len(rows) > 4 else "")
                hint = f": it is a row or several ({titles}), which come with --methods {names}."
            raise OptionError(f"{name} has no method {method!r}{hint} Its methods: {', '.join(known)}")
    return experiment.with_methods(methods)


def _plain(text: str) -> str:
    """Return the letters and digits alone, in lower case."""
    return "".join(character for character in text.lower() if character.isalnum())


def seeds_of(text: str) -> list[int]:
    """Return the seeds that "0-3", "5" or "0,2,7-9" name.

    Raises:
        OptionError: it is something else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise OptionError(f'--seeds expects numbers and ranges, e.g. "0-3" or "0,2,7-9", got {text!r}')
        seeds.extend(range(int(first), int(last if dash else first) + 1))
    return list(dict.fromkeys(seeds))


def reproduce(
    experiment: Experiment | Figure,
    scale: Scale,
    seeds: Sequence[int],
    output: Path,
    *,
    table: Path | None,
    jobs: int,
    supernet_of: SupernetOf,
    name: str | None = None,
) -> tuple[Table | RetrainedTable | Chart, list[Path]]:
    """Run the searches that are missing; return the table or the figure, and its files. What was found before is kept.

    Args:
        experiment: what to compare.
        scale: how large.
        seeds: of the searches.
        output: where to search and write.
        table: the ground truth; None: in the folder that BALENAS_DATA names, else what ships.
        jobs: searches at a time.
        supernet_of: opens the supernet of a finished search, for tables that select by its accuracy.
        name: of the files, without ending; None: the experiment's.

    Raises:
        BalenasError: bad input, or a search failed. The files are written all the same, with what there is.
        KeyboardInterrupt: the user stopped; calling it again goes on.
    """
    if name is not None and (Path(name).name != name or name in ("", "..")):
        raise OptionError(f"--name expects a name for the files, e.g. {experiment.name}-again, got {name!r}")
    found: Table | RetrainedTable | Chart
    if isinstance(experiment, Figure):
        found, failure = _draw(experiment, scale, seeds, output, table=table, jobs=jobs)
    elif experiment.retrained:
        found, failure = _retrain(experiment, scale, seeds, output, jobs=jobs, supernet_of=supernet_of)
    else:
        found, failure = _tabulate(experiment, scale, seeds, output, table=table, jobs=jobs, supernet_of=supernet_of)
    found = replace(found, name=name)
    files = found.write(output)
    if failure is not None:
        raise failure
    return found, files


def _tabulate(
    experiment: Experiment,
    scale: Scale,
    seeds: Sequence[int],
    output: Path,
    *,
    table: Path | None,
    jobs: int,
    supernet_of: SupernetOf,
) -> tuple[Table, SearchFailedError | None]:
    config = scale.config(next(iter(scale.searches)), seeds[0])
    if not isinstance(config.data, DataConfig):
        raise OptionError(f"tables are made of searches on images, and data.name {config.data.name} is a text")
    benchmark = require_benchmark(space_of_config(config), table)  # without it the searches would be for nothing
    finished, failure = _search(_configs(experiment, scale, seeds), output, jobs=jobs)
    images = config.images("a table")
    networks = scale.proxy_networks
    picker = Picker(
        output / "scores",
        get_space(benchmark.space),
        networks.sizes,
        images,
        batch_size=networks.batch_size,
        benchmark=benchmark,
        supernet_of=supernet_of,
        workers=jobs,
    )

    def found(row: Row, seed: int) -> Accuracies:
        search = None if row.search is None else finished[row.search, seed]
        return {**picker.accuracies(row, search, seed), **({} if search is None else search.costs())}

    results = {
        row.title: {seed: found(row, seed) for seed in seeds if row.search is None or (row.search, seed) in finished}
        for row in experiment.rows
    }
    return Table(experiment, results, _about(scale, seeds, benchmark)), failure


def _retrain(
    experiment: Experiment, scale: Scale, seeds: Sequence[int], output: Path, *, jobs: int, supernet_of: SupernetOf
) -> tuple[RetrainedTable, SearchFailedError | None]:
    configs = _configs(experiment, scale, seeds)
    protocol = _protocol(experiment, scale, seeds, output, jobs=jobs, supernet_of=supernet_of)
    finished, failure = _search(configs, output, jobs=jobs)
    found = protocol.run(finished, _about(scale, seeds, None))
    failures = [*([str(failure)] if failure is not None else []), *protocol.failures]
    return found, SearchFailedError("\n".join(failures)) if failures else None


def _protocol(
    experiment: Experiment, scale: Scale, seeds: Sequence[int], output: Path, *, jobs: int, supernet_of: SupernetOf
) -> Protocol:
    if scale.retraining is None:
        raise OptionError(
            f"{experiment.name} trains what is found, and the scale {scale.name} does not say how: add a section "
            "`retraining`, as configs/reproduce/small.yml has it"
        )
    configs = _configs(experiment, scale, seeds)
    searched = [row.search for row in EXPERIMENTS[experiment.name].rows if row.search in scale.searches]
    config = configs[0] if configs else scale.config(str(next(iter(searched), "darts-cells")), seeds[0])
    return Protocol(experiment, scale.retraining, config, seeds, output, jobs, supernet_of)


def workloads(
    experiment: Experiment | Figure, scale: Scale, seeds: Sequence[int], output: Path, *, supernet_of: SupernetOf
) -> list[Workload]:
    """Return what `reproduce` would have to do: the searches of each kind, and trainings.

    Raises:
        BalenasError: bad input.
    """
    searches = searches_of(output, _configs(experiment, scale, seeds))
    found = []
    for name in dict.fromkeys(search.config.name for search in searches):
        alike = [search for search in searches if search.config.name == name]
        took = [search.costs().get("cpu_seconds", 0.0) for search in alike if search.finished]
        found.append(Workload(f"searches {name}", len(alike), took))
    if isinstance(experiment, Experiment) and experiment.retrained:
        found += _protocol(experiment, scale, seeds, output, jobs=1, supernet_of=supernet_of).workloads()
    return found


def _draw(
    figure: Figure, scale: Scale, seeds: Sequence[int], output: Path, *, table: Path | None, jobs: int
) -> tuple[Chart, SearchFailedError | None]:
    configs = _configs(figure, scale, seeds)
    figure.require_measured(configs)
    benchmark = require_benchmark(space_of_config(configs[0]), table) if figure.quantity.looked_up else None
    finished, failure = _search(configs, output, jobs=jobs)
    logs = {key: read_log(search.folder.diagnostics).records for key, search in finished.items()}
    about = _about(scale, seeds, benchmark)

    def chart(figure: Figure) -> Chart:
        results = {
            row.title: {
                seed: values_of(figure.quantity, logs[row.search, seed], benchmark)
                for seed in seeds
                if (row.search, seed) in logs
            }
            for row in figure.rows
        }
        looked_up = {}
        if figure.quantity.partly and benchmark is not None:
            known = sum(len(values) for found in results.values() for values in found.values())
            asked = sum(max(len(records) - 1, 0) for records in logs.values())
            looked_up = {"looked up": f"{known} of {asked} architectures; {benchmark.held}"}
        beside = None if figure.beside is None else chart(figure.beside)
        return Chart(figure, results, about | looked_up, beside=beside)

    return chart(figure), failure


def _configs(experiment: Experiment | Figure, scale: Scale, seeds: Sequence[int]) -> list[SearchConfig]:
    """Return the searches that an experiment needs, seed by seed."""
    names = list(dict.fromkeys(row.search for row in experiment.rows if row.search is not None))
    return [scale.config(name, seed) for seed in seeds for name in names]


def _search(configs: Sequence[SearchConfig], output: Path, *, jobs: int) -> tuple[Finished, SearchFailedError | None]:
    """Run the searches that are missing; return those that have ended, and what went wrong with the others."""
    searches = searches_of(output, configs)
    failure = None
    try:
        run_units(searches, jobs=jobs)
    except SearchFailedError as error:
        failure = error
    return {(s.config.name, s.config.seed): s for s in searches if s.folder.finished}, failure


def _about(scale: Scale, seeds: Sequence[int], benchmark: Benchmark | None) -> dict[str, str]:
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "scale": scale.name,
        "seeds": ", ".join(map(str, seeds)),
        "ground truth": "none: nothing is looked up" if benchmark is None else benchmark.name,
        "version": f"balenas_plugin {__version__}",
    }
