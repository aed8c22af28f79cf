"""Add what a benchmark knows to what a search found, marked as unseen by it, unless BALENAS_GROUND_TRUTH is "off"."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from balenas_plugin.benchmarks import Benchmark
from balenas_plugin.errors import BalenasError, DataError, OptionError
from balenas_plugin.search_spaces import SearchSpace, space_of_notation

SWITCH = "BALENAS_GROUND_TRUTH"
"""Environment variable that hides the ground truth, for somebody who wants to choose without having seen it."""

_logger = logging.getLogger(__name__)


def hidden() -> bool:
    """Return whether the environment says that nothing is to be looked up or shown unless it is asked for."""
    return os.environ.get(SWITCH, "").strip().lower() in ("off", "0", "no", "false")


def open_table(space: SearchSpace, table: Path | None = None) -> Benchmark | None:
    """Return the benchmark of a space in a table, or None where none is at hand, it is hidden, or the space has none.

    Args:
        space: that the architectures are of.
        table: the table or its folder, which is shown even if ground truth is hidden. None looks where the benchmark's
            tables are kept (NAS-Bench-201's: in BALENAS_DATA, else the one that ships); a table that cannot be read
            ends no search, because nobody asked for it: it is named once, and left alone.

    Raises:
        BalenasError: the `table` that is given is not there or cannot be read.
    """
    if not space.ground_truth or (table is None and hidden()):
        return None
    path = find_table(space, table)
    if path is None:
        return None
    return _table_at_hand(space.ground_truth, path) if table is None else _benchmark(space.ground_truth, path)


def find_table(space: SearchSpace, table: Path | None = None) -> Path | None:
    """Return where a space's benchmark has its table; None where none is at hand, or the space has no benchmark.

    Raises:
        BalenasError: the `table` that is given is not there; the message says where the space's comes from.
    """
    path: Path | None = _reader(space.ground_truth).find_table(table) if space.ground_truth else None
    return path


def require_benchmark(space: SearchSpace, table: Path | None = None) -> Benchmark:
    """Return the benchmark of a space in a table, or in the one at hand.

    Raises:
        OptionError: the space has no benchmark.
        BalenasError: there is no table, or it cannot be read.
    """
    if not space.ground_truth:
        raise OptionError(f"no benchmark holds the architectures of the space {space.name or 'that is searched'}")
    benchmark: Benchmark = _reader(space.ground_truth).open_benchmark(table)
    return benchmark


def _reader(name: str) -> Any:
    """Return the module that a space names, or the object in it, "module:name"."""
    module, _, inside = name.partition(":")
    return getattr(import_module(module), inside) if inside else import_module(module)


@lru_cache(maxsize=4)
def _table_at_hand(reader: str, path: Path) -> Benchmark | None:
    try:
        return _benchmark(reader, path)
    except BalenasError as error:
        _logger.warning("No ground truth: %s", error)
        return None


@lru_cache(maxsize=4)
def _benchmark(reader: str, path: Path) -> Benchmark:
    benchmark: Benchmark = _reader(reader).open_benchmark(path)
    return benchmark


def ground_truth_of(notation: Mapping[str, str], table: Path | None = None) -> dict[str, Any] | None:
    """Return the benchmark's record of an architecture; None where no table is at hand, or it lacks the architecture.

    Args:
        notation: an architecture in the space's own notations.
        table: as in `open_table`.
    """
    space = space_of_notation(notation)
    benchmark = open_table(space, table)
    if benchmark is None or notation[space.name] not in benchmark.positions:
        return None
    return benchmark.describe(notation[space.name]).to_dict()


def metric_in_words(metric: str) -> str:
    """Return of which images an accuracy is, by its metric: "test", "validation" or "predicted validation"."""
    return metric.removesuffix("_accuracy").replace("_", " ").replace("valid", "validation")


def headline(record: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the one accuracy of a benchmark's record to show beside others, in percent, under a name that says so."""
    values = {} if record is None else record["values"]
    ranked_by = dict.fromkeys(values, "test_accuracy") | dict((record or {}).get("ranked_by", {}))
    found = [dataset for dataset, metric in ranked_by.items() if metric in values.get(dataset, {})]
    chosen = ["cifar10"] if "cifar10" in found else found[:1]
    return {f"ground truth: {d} {metric_in_words(ranked_by[d])}": values[d][ranked_by[d]] for d in chosen}


def accuracies_of(notations: Sequence[Mapping[str, str]], table: Path | None = None) -> dict[str, Any] | None:
    """Return the accuracies of many architectures that their benchmark ranks by; None where no table is at hand.

    Args:
        notations: architectures of one space, in its own notations.
        table: as in `open_table`.

    Returns:
        {"unseen_by_search": True, "table": its name, "ranked_by": data set -> the metric, "accuracy": data set -> one
        percent an architecture, None where the table does not know it}; a data set that the table lacks is left out.
    """
    space = space_of_notation(notations[0]) if notations else SearchSpace()
    benchmark = open_table(space, table)
    if benchmark is None:
        return None
    accuracy: dict[str, list[float | None]] = {}
    for dataset, metric in benchmark.ranked_by.items():
        values = [_known(benchmark, notation[space.name], dataset, metric) for notation in notations]
        if any(value is not None for value in values):
            accuracy[dataset] = values
    ranked_by = {dataset: benchmark.ranked_by[dataset] for dataset in accuracy}
    return {"unseen_by_search": True, "table": benchmark.name, "ranked_by": ranked_by, "accuracy": accuracy}


def _known(benchmark: Benchmark, architecture: str, dataset: str, metric: str) -> float | None:
    try:
        return benchmark.query(architecture, dataset, metric)
    except (DataError, OptionError):
        return None
