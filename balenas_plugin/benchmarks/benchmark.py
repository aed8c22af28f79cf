"""The one interface to NAS-Bench-201's ground truth, whatever file it comes from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from balenas_plugin.benchmarks.measures import COLUMN, DATASETS, RANKED_BY, available_metrics, column_of
from balenas_plugin.errors import DataError, SpaceError
from balenas_plugin.search_spaces.nasbench201 import format_string, from_nni, parse

Architecture = str | Sequence[int] | Mapping[str, str]
"""NAS-Bench-201's string, six operation indices, or a sample of NNI's space; `canonical` makes the string of each."""


def canonical(architecture: Architecture) -> str:
    """Return the NAS-Bench-201 string of `architecture`.

    Raises:
        SpaceError: it is malformed; the message says where.
    """
    if isinstance(architecture, str):
        return format_string(parse(architecture.strip()))
    if isinstance(architecture, Mapping):
        return format_string(from_nni(architecture))
    try:
        indices = tuple(architecture)
    except TypeError:
        raise SpaceError(
            f"an architecture is a string, six operation indices or an NNI sample, not {type(architecture).__name__}"
        ) from None
    return format_string(indices)


@dataclass(frozen=True)
class GroundTruth:
    """What a benchmark knows of one architecture. The search never saw it, and no search may use it.

    Attributes:
        architecture: the NAS-Bench-201 string.
        index: the architecture's number in NAS-Bench-201, or None where the file does not say.
        benchmark: the file that the numbers come from.
        values: data set -> metric -> value (accuracies in percent; see `measures` for the other units).
        rank: data set -> 1 + the number of better architectures by `ranked_by`; empty where the file's architectures
            are read one at a time.
        regret: data set -> the best architecture's accuracy minus this one's, in percentage points.
        ranked_by: data set -> the metric of `rank` and `regret`.
        num_architectures: how many architectures the ranks are among.
        unseen_by_search: always true; written into every file beside the numbers.
    """

    architecture: str
    index: int | None
    benchmark: str
    values: Mapping[str, Mapping[str, float]]
    rank: Mapping[str, int]
    regret: Mapping[str, float]
    ranked_by: Mapping[str, str]
    num_architectures: int
    unseen_by_search: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain containers, for JSON and YAML."""
        return asdict(self)


class Benchmark(ABC):
    """Ground truth of architectures; a backend implements the abstract members and, where it can, `all_values`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Say what the numbers come from, for messages and records."""

    @property
    @abstractmethod
    def columns(self) -> Collection[str]:
        """Return the columns (of `measures.COLUMNS`) that at least one architecture has."""

    @property
    @abstractmethod
    def positions(self) -> Mapping[str, int]:
        """Return the canonical string of every architecture that is held -> its place in `all_values`."""

    @abstractmethod
    def value(self, architecture: str, column: str) -> float:
        """Return one number of an architecture of `positions`, NaN where it is not known."""

    @abstractmethod
    def index(self, architecture: str) -> int | None:
        """Return NAS-Bench-201's number of an architecture of `positions`, None where the file does not say."""

    def all_values(self, column: str) -> npt.NDArray[np.floating[Any]] | None:
        """Return `column` of every architecture, or None where reading them all would take minutes."""
        return None

    def query(self, architecture: Architecture, dataset: str, metric: str) -> float:
        """Return `metric` of `architecture` on `dataset`.

        Args:
            architecture: the NAS-Bench-201 string, six operation indices, or a sample of NNI's space.
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
        key = self._key(architecture)
        value = self.value(key, column)
        if math.isnan(value):
            known = ", ".join(self._known_values(key, dataset)) or "nothing"
            raise DataError(
                f"{self.name} does not know {metric} on {dataset} of {key}: it was not trained with that many seeds, "
                f"or not for that long. It knows: {known}."
            )
        return value

    def available(self) -> dict[str, tuple[str, ...]]:
        """Return data set -> the metrics that can be queried."""
        return {dataset: available_metrics(dataset, self.columns) for dataset in DATASETS}

    def describe(self, architecture: Architecture) -> GroundTruth:
        """Return everything that the benchmark knows of `architecture`, with its rank and regret per data set.

        Raises:
            SpaceError: `architecture` is malformed.
            DataError: this benchmark does not hold the architecture.
        """
        key = self._key(architecture)
        values = {dataset: known for dataset in DATASETS if (known := self._known_values(key, dataset))}
        rank, regret = {}, {}
        for dataset, metric in RANKED_BY.items():
            everyone = self.all_values(COLUMN[dataset, metric]) if metric in values.get(dataset, {}) else None
            if everyone is not None:
                own = values[dataset][metric]
                rank[dataset] = 1 + int(np.count_nonzero(everyone > own))  # NaN is never greater
                regret[dataset] = float(np.nanmax(everyone)) - own
        return GroundTruth(
            architecture=key,
            index=self.index(key),
            benchmark=self.name,
            values=values,
            rank=rank,
            regret=regret,
            ranked_by={dataset: RANKED_BY[dataset] for dataset in rank},
            num_architectures=len(self.positions),
        )

    def architecture(self, index: int) -> str:
        """Return the string of the architecture with a number in NAS-Bench-201.

        Raises:
            DataError: this benchmark does not hold it, or does not say the numbers.
        """
        found = next((text for text in self.positions if self.index(text) == index), None)
        if found is None:
            raise DataError(f"{self.name} holds {len(self.positions)} architectures, and none with the number {index}.")
        return found

    def _key(self, architecture: Architecture) -> str:
        """Return the canonical string of `architecture`, which is held; most often it is given so already."""
        if isinstance(architecture, str) and architecture in self.positions:
            return architecture
        key = canonical(architecture)
        if key not in self.positions:
            raise DataError(
                f"{self.name} holds {len(self.positions)} of NAS-Bench-201's 15625 architectures, not {key}."
            )
        return key

    def _known_values(self, key: str, dataset: str) -> dict[str, float]:
        columns = {metric: COLUMN[dataset, metric] for metric in available_metrics(dataset, self.columns)}
        values = {metric: self.value(key, column) for metric, column in columns.items()}
        return {metric: value for metric, value in values.items() if not math.isnan(value)}
