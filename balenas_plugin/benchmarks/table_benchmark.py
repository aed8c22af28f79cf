"""Ground truth of NAS-Bench-201 in memory: one column of numbers for each data set and metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
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


class TableBenchmark(Benchmark):
    """NAS-Bench-201's ground truth held in memory as columns; a query takes about a microsecond.

    Args:
        name: what the numbers come from.
        architectures: canonical strings, all different.
        columns: column name -> one value per architecture.
        indices: NAS-Bench-201's number of each, or None where it is not known.
        num_seeds: how many times each was trained on the data set where that is most, or None where it is not known.
        checksum: "verified", or "no checksum" for a table that another program wrote.
    """

    space = "nasbench201"
    ranked_by = RANKED_BY

    def __init__(
        self,
        *,
        name: str,
        architectures: Iterable[str],
        columns: Mapping[str, npt.NDArray[np.floating[Any]]],
        indices: npt.NDArray[np.integer[Any]] | None = None,
        num_seeds: npt.NDArray[np.integer[Any]] | None = None,
        checksum: str = "no checksum",
    ) -> None:
        self.checksum = checksum
        self._name = name
        self._positions = {architecture: position for position, architecture in enumerate(architectures)}
        self._indices, self._num_seeds = indices, num_seeds
        self._columns = {column: values for column, values in columns.items() if not np.isnan(values).all()}
        for values in self._columns.values():
            values.setflags(write=False)

    @property
    def name(self) -> str:
        """Return the name that was given."""
        return self._name

    @property
    def columns(self) -> Mapping[str, npt.NDArray[np.floating[Any]]]:
        """Return the columns that are not empty, read-only."""
        return self._columns

    @property
    def positions(self) -> Mapping[str, int]:
        """Return the row of every architecture."""
        return self._positions

    def index(self, architecture: str) -> int | None:
        """Return NAS-Bench-201's number (see `Benchmark.index`)."""
        return None if self._indices is None else int(self._indices[self._positions[architecture]])

    def num_seeds(self, architecture: str) -> int | None:
        """Return the `n_seeds` column (see `Benchmark.num_seeds`)."""
        return None if self._num_seeds is None else int(self._num_seeds[self._positions[architecture]])

    def everyone(self, dataset: str, metric: str) -> npt.NDArray[np.floating[Any]] | None:
        """Return the column of a metric (see `Benchmark.everyone`)."""
        return self._columns.get(COLUMN[dataset, metric])

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
        value = float(self._columns[column][self._positions[key]])
        if math.isnan(value):
            known = ", ".join(self._values(key, dataset)) or "nothing"
            raise DataError(
                f"{self.name} does not know {metric} on {dataset} of {key}: it was not trained with that many seeds, "
                f"or not for that long. It knows: {known}."
            )
        return value

    def values(self, architecture: str) -> dict[str, dict[str, float]]:
        """Return all that is known of an architecture (see `Benchmark.values`)."""
        return {dataset: known for dataset in DATASETS if (known := self._values(architecture, dataset))}

    def _values(self, architecture: str, dataset: str) -> dict[str, float]:
        place = self._positions[architecture]
        values = {metric: float(column[place]) for metric, column in self._by_dataset[dataset].items()}
        return {metric: value for metric, value in values.items() if not math.isnan(value)}

    @cached_property
    def _by_dataset(self) -> dict[str, dict[str, npt.NDArray[np.floating[Any]]]]:
        """Data set -> metric -> its column."""
        return {
            dataset: {m: self._columns[COLUMN[dataset, m]] for m in available_metrics(dataset, self.columns)}
            for dataset in DATASETS
        }
