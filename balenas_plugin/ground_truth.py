"""Add what a benchmark knows to what a search found, marked as unseen by it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from balenas_plugin.benchmarks import RANKED_BY, Benchmark, find_table, open_benchmark
from balenas_plugin.errors import BalenasError, DataError, OptionError

_logger = logging.getLogger(__name__)


def open_table(table: Path | None = None) -> Benchmark | None:
    """Return the benchmark in a table, or None where no table is at hand.

    Args:
        table: the table or its folder. None looks in the folder that BALENAS_DATA names; a table there that cannot be
            read ends no search, because nobody asked for it: it is named once, and left alone.

    Raises:
        BalenasError: the `table` that is given is not there or cannot be read.
    """
    if table is None:
        return _table_at_hand(find_table())
    return _benchmark(find_table(table))


@lru_cache(maxsize=4)
def _table_at_hand(path: Path | None) -> Benchmark | None:
    try:
        return None if path is None else _benchmark(path)
    except BalenasError as error:
        _logger.warning("No ground truth: %s", error)
        return None


@lru_cache(maxsize=4)
def _benchmark(path: Path | None) -> Benchmark:
    return open_benchmark(path)


def ground_truth_of(notation: Mapping[str, str], table: Path | None = None) -> dict[str, Any] | None:
    """Return the benchmark's record of an architecture; None where no table is at hand, or it lacks the architecture.

    Args:
        notation: an architecture in the space's own notations.
        table: as in `open_table`.
    """
    benchmark = open_table(table) if "nasbench201" in notation else None
    if benchmark is None or notation["nasbench201"] not in benchmark.positions:
        return None
    return benchmark.describe(notation["nasbench201"]).to_dict()


def headline(record: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the one accuracy of a benchmark's record to show beside others, in percent, under a name that tells."""
    accuracies = {} if record is None else {k: v.get("test_accuracy") for k, v in record["values"].items()}
    found = [(dataset, value) for dataset, value in accuracies.items() if value is not None]
    dataset, value = next((pair for pair in found if pair[0] == "cifar10"), found[0] if found else ("", None))
    return {} if value is None else {f"ground truth: {dataset} test": value}


def accuracies_of(notations: Sequence[Mapping[str, str]], table: Path | None = None) -> dict[str, Any] | None:
    """Return the test accuracies of many architectures, or None where no table is at hand.

    Args:
        notations: architectures in the space's own notations.
        table: as in `open_table`.

    Returns:
        {"unseen_by_search": True, "table": its name, "accuracy": data set -> one percent an architecture, None where
        the table does not know it}; a data set that the table lacks is left out.
    """
    known = bool(notations) and all("nasbench201" in notation for notation in notations)
    benchmark = open_table(table) if known else None
    if benchmark is None:
        return None
    accuracy: dict[str, list[float | None]] = {}
    for dataset, metric in RANKED_BY.items():
        values = [_known(benchmark, notation["nasbench201"], dataset, metric) for notation in notations]
        if metric == "test_accuracy" and any(value is not None for value in values):
            accuracy[dataset] = values
    return {"unseen_by_search": True, "table": benchmark.name, "accuracy": accuracy}


def _known(benchmark: Benchmark, architecture: str, dataset: str, metric: str) -> float | None:
    try:
        return benchmark.query(architecture, dataset, metric)
    except (DataError, OptionError):
        return None
