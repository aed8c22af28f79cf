"""Add what a benchmark knows to what a search found, marked as unseen by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from balenas_plugin.benchmarks import RANKED_BY, Benchmark, find_table, open_benchmark
from balenas_plugin.errors import DataError, OptionError


@lru_cache(maxsize=4)
def _benchmark(path: Path) -> Benchmark:
    return open_benchmark(path)


def ground_truth_of(notation: Mapping[str, str], table: Path | None = None) -> dict[str, Any] | None:
    """Return the benchmark's record of an architecture, or None where no table is at hand.

    Args:
        notation: an architecture in the space's own notations.
        table: the table or its folder; None looks in the folder that BALENAS_DATA names.
    """
    found = find_table(table) if "nasbench201" in notation else None
    return None if found is None else _benchmark(found).describe(notation["nasbench201"]).to_dict()


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
        table: as in `ground_truth_of`.

    Returns:
        {"unseen_by_search": True, "table": its name, "accuracy": data set -> one percent an architecture, None where
        the table does not know it}; a data set that the table lacks is left out.
    """
    known = bool(notations) and all("nasbench201" in notation for notation in notations)
    found = find_table(table) if known else None
    if found is None:
        return None
    benchmark = _benchmark(found)
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
