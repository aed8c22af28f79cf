"""Ground truth of NAS-Bench-201, whose numbers are columns of a table, whatever file they come from."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from balenas_plugin.benchmarks.benchmark import Benchmark
from balenas_plugin.benchmarks.measures import COLUMN, DATASETS, RANKED_BY, available_metrics, column_of
from balenas_plugin.errors import DataError, SpaceError
from balenas_plugin.search_spaces.nasbench201 import format_string, from_nni, parse

ArchitectureLike = str | Sequence[int] | Mapping[str, str]
"""NAS-Bench-201's string, six operation indices, or a mapping as in NNI; `canonical` makes the string of each."""


def canonical(architecture: ArchitectureLike) -> str:
    """Return the NAS-Bench-201 string of `architecture`.

    Raises:
        SpaceError: it is malformed; the message says where.
    """
    indices: Sequence[int]
    if isinstance(architecture, str):
        indices = parse(architecture.strip())
    elif isinstance(architecture, Mapping):
        indices = from_nni(architecture)
    else:
        try:
            indices = tuple(architecture)
        except TypeError:
            kind = type(architecture).__name__
            raise SpaceError(f"an architecture is a string, six operation indices or a mapping, not {kind}") from None
    return str(format_string(indices))


class ColumnBenchmark(Benchmark):
    """NAS-Bench-201's ground truth; a backend implements the abstract members and, where it can, `all_values`."""

    space = "nasbench201"
    ranked_by = RANKED_BY

    @property
    @abstractmethod
    def columns(self) -> Collection[str]:
        """Return the columns (of `measures.COLUMNS`) that at least one architecture has."""

    @abstractmethod
    def value(self, architecture: str, column: str) -> float:
        """Return one number of an architecture of `positions`, NaN where it is not known."""

    def all_values(self, column: str) -> npt.NDArray[np.floating[Any]] | None:
        """Return `column` of every architecture, or None where reading them all would take minutes."""
        return None

    def everyone(self, dataset: str, metric: str) -> npt.NDArray[np.floating[Any]] | None:
        """Return the column of a metric (see `Benchmark.everyone`)."""
        return self.all_values(COLUMN[dataset, metric])

    def canonical(self, architecture: ArchitectureLike) -> str:
        """Return the NAS-Bench-201 string of `architecture` (see `canonical`)."""
        return canonical(architecture)

    def query(self, architecture: ArchitectureLike, dataset: str, metric: str) -> float:
        """Return `metric` of `architecture` on `dataset`.

        Args:
            architecture: the NAS-Bench-201 string, six operation indices, or a mapping as in NNI.
            dataset: one of `measures.DATASETS`.
            metric: one of `measures.METRICS`, with its unit there; accuracies are in percent.

        Raises:
            SpaceError: `architecture` is malformed.
            OptionError: `dataset` or `metric` is unknown, or this benchmark does not have the combination.
            DataError: this benchmark does not hold the architecture, or not this number of it.
        """
        column = COLUMN.get((dataset, metric))
        if column is None or column not in self.columns:
            column = column_of(dataset, metric, columns=self.columns, source=self.name)  # raises
        key = self.key(architecture)
        value = self.value(key, column)
        if math.isnan(value):
            known = ", ".join(self._values(key, dataset)) or "nothing"
            raise DataError(
                f"{self.name} does not know {metric} on {dataset} of {key}: it was not trained with that many seeds, "
                f"or not for that long. It knows: {known}."
            )
        return value

    def available(self) -> dict[str, tuple[str, ...]]:
        """Return data set -> the metrics that can be queried."""
        return {dataset: available_metrics(dataset, self.columns) for dataset in DATASETS}

    def values(self, architecture: str) -> dict[str, dict[str, float]]:
        """Return all that is known of an architecture (see `Benchmark.values`)."""
        return {dataset: known for dataset in DATASETS if (known := self._values(architecture, dataset))}

    def _values(self, key: str, dataset: str) -> dict[str, float]:
        columns = {metric: COLUMN[dataset, metric] for metric in available_metrics(dataset, self.columns)}
        values = {metric: self.value(key, column) for metric, column in columns.items()}
        return {metric: value for metric, value in values.items() if not math.isnan(value)}
