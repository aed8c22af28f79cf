"""The one interface to the ground truth of any space, whatever file it comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from balenas_plugin.errors import DataError, OptionError, SpaceError, nearest
from balenas_plugin.search_spaces import get_space


@dataclass(frozen=True)
class GroundTruth:
    """What a benchmark knows of one architecture. The search never saw it, and no search may use it.

    Attributes:
        architecture: in the space's notation.
        index: its number in the benchmark, or None where the file does not say.
        benchmark: the file that the numbers come from.
        num_seeds: how many trainings the averages are of, or None where the file does not say.
        values: data set -> metric -> value (accuracies in percent).
        rank: data set -> 1 + the number of better architectures by `ranked_by`.
        regret: data set -> the best architecture's accuracy minus this one's, in percentage points.
        ranked_by: data set -> the metric that architectures are ranked by, where it is known of this one.
        num_ranked: data set -> how many architectures the rank is among: those of which the metric is known.
        num_architectures: how many architectures are held.
        unseen_by_search: always true; written into every file beside the numbers.
    """

    architecture: str
    index: int | None
    benchmark: str
    num_seeds: int | None
    values: Mapping[str, Mapping[str, float]]
    rank: Mapping[str, int]
    regret: Mapping[str, float]
    ranked_by: Mapping[str, str]
    num_ranked: Mapping[str, int]
    num_architectures: int
    unseen_by_search: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain containers, for JSON and YAML."""
        return dict(vars(self))


class Benchmark(ABC):
    """Ground truth of the architectures of a space; a backend implements the abstract members and what else it can.

    Attributes:
        space: name of the space.
        ranked_by: data set -> the metric that its architectures are ranked by, for every data set.
    """

    space: str
    ranked_by: Mapping[str, str]

    @property
    @abstractmethod
    def name(self) -> str:
        """Say what the numbers come from, for messages and records."""

    @property
    @abstractmethod
    def positions(self) -> Collection[str]:
        """Return every architecture that is held, in the space's notation; in the order of `everyone`."""

    @abstractmethod
    def values(self, architecture: str) -> dict[str, dict[str, float]]:
        """Return data set -> metric -> value, of what is known of an architecture of `positions`."""

    def index(self, architecture: str) -> int | None:
        """Return the number of an architecture of `positions`, None where the file does not say."""
        return None

    def num_seeds(self, architecture: str) -> int | None:
        """Return how often an architecture of `positions` was trained, None where the file does not say."""
        return None

    def everyone(self, dataset: str, metric: str) -> npt.NDArray[np.floating[Any]] | None:
        """Return a metric of every architecture, or None where reading them all would take minutes."""
        return None

    def canonical(self, architecture: Any) -> str:
        """Return an architecture in the space's notation.

        Args:
            architecture: a sample, or text that the space can read.

        Raises:
            SpaceError: it is malformed; the message says where.
        """
        space = get_space(self.space)
        architecture = architecture if isinstance(architecture, Mapping) else space.read(str(architecture)).sample
        text = None if architecture is None else space.notation(dict(architecture))
        if text is None:
            raise SpaceError(f"{architecture!r} does not name an architecture of {space.title}")
        return text

    def query(self, architecture: Any, dataset: str, metric: str) -> float:
        """Return `metric` of `architecture` on `dataset`; accuracies are in percent.

        Args:
            architecture: anything that `canonical` takes.
            dataset: one of `ranked_by`.
            metric: that is known of it.

        Raises:
            SpaceError: `architecture` is malformed.
            OptionError: there is no such data set.
            DataError: this benchmark does not hold the architecture, or not this number of it.
        """
        if dataset not in self.ranked_by:
            allowed = ", ".join(self.ranked_by) + nearest(dataset, self.ranked_by)
            raise OptionError(f"{self.name} has no data set {dataset!r}; choose one of {allowed}")
        key = self.key(architecture)
        known = self.values(key).get(dataset, {})
        if metric not in known:
            raise DataError(f"{self.name} does not know {metric} on {dataset} of {key}: it knows {', '.join(known)}.")
        return known[metric]

    def describe(self, architecture: Any) -> GroundTruth:
        """Return everything that the benchmark knows of `architecture`, with its rank and regret per data set.

        Raises:
            SpaceError: `architecture` is malformed.
            DataError: this benchmark does not hold the architecture.
        """
        key = self.key(architecture)
        values = self.values(key)
        rank, regret = {}, {}
        for dataset, metric in self.ranked_by.items():
            own, everyone = values.get(dataset, {}).get(metric), self._worst_first.get(dataset)
            if own is not None and everyone:
                rank[dataset] = 1 + len(everyone) - bisect_right(everyone, own)
                regret[dataset] = everyone[-1] - own
        return GroundTruth(
            architecture=key,
            index=self.index(key),
            benchmark=self.name,
            num_seeds=self.num_seeds(key),
            values=values,
            rank=rank,
            regret=regret,
            ranked_by={name: metric for name, metric in self.ranked_by.items() if metric in values.get(name, {})},
            num_ranked={dataset: len(self._worst_first[dataset]) for dataset in rank},
            num_architectures=len(self.positions),
        )

    @cached_property
    def _worst_first(self) -> dict[str, list[float]]:
        """Data set -> what is known by `ranked_by`, in ascending order."""
        found = {dataset: self.everyone(dataset, metric) for dataset, metric in self.ranked_by.items()}
        return {dataset: np.sort(of[~np.isnan(of)]).tolist() for dataset, of in found.items() if of is not None}

    def architecture(self, index: int) -> str:
        """Return the architecture with a number.

        Raises:
            DataError: this benchmark does not hold it, or does not say the numbers.
        """
        found = next((text for text in self.positions if self.index(text) == index), None)
        if found is None:
            raise DataError(f"{self.name} holds {len(self.positions)} architectures, and none with the number {index}.")
        return found

    def key(self, architecture: Any) -> str:
        """Return an architecture in the space's notation, in which it is most often given already.

        Raises:
            SpaceError: it is malformed.
            DataError: it is not held.
        """
        if isinstance(architecture, str) and architecture in self.positions:
            return architecture
        key = self.canonical(architecture)
        if key not in self.positions:
            raise DataError(f"{self.held}, not {key}.")
        return key

    @property
    def held(self) -> str:
        """Say how many of the space's architectures are held."""
        space = get_space(self.space)
        all_of_them = f"{space.title}'s {space.size or ''}".rstrip()
        return f"{self.name} holds {len(self.positions)} of {all_of_them} architectures"
