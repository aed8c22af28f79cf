"""Enumerate combinations of independent choices from the most to the least probable, exactly and one by one."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

Group = TypeVar("Group")
Item = TypeVar("Item")

Outcome = Any
"""A hashable description of what was decided; every decision has its own kind."""


class Outcomes(Protocol):
    """The outcomes of one decision under a posterior; log-probabilities are in nats."""

    def best_first(self) -> Iterator[tuple[Outcome, float]]:
        """Yield every outcome that is possible once, with its log-probability, the most probable first."""

    def log_probability(self, outcome: Outcome) -> float:
        """Return log P(outcome), -inf for what cannot be."""


class Listed(dict[Outcome, float]):
    """Outcomes that are all known: outcome -> log-probability."""

    def best_first(self) -> Iterator[tuple[Outcome, float]]:
        """Yield the outcomes in order; ties in the order of the mapping."""
        yield from sorted(self.items(), key=lambda item: -item[1])

    def log_probability(self, outcome: Outcome) -> float:
        """Return log P(outcome)."""
        return self.get(outcome, float("-inf"))


@dataclass(frozen=True)
class Translated:
    """Outcomes of one notation in another.

    Args:
        outcomes: in the one notation.
        forth: translates an outcome of theirs.
        back: translates it back.
    """

    outcomes: Outcomes
    forth: Callable[[Outcome], Outcome]
    back: Callable[[Outcome], Outcome]

    def best_first(self) -> Iterator[tuple[Outcome, float]]:
        """Yield the outcomes in their order."""
        return ((self.forth(outcome), value) for outcome, value in self.outcomes.best_first())

    def log_probability(self, outcome: Outcome) -> float:
        """Return log P(outcome)."""
        return self.outcomes.log_probability(self.back(outcome))


class Recalled(Generic[Item]):
    """An iterator whose items stay available by their position; nothing is drawn before it is asked for."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._coming = iter(items)
        self._items: list[Item] = []

    def at(self, position: int) -> Item | None:
        """Return the item at a position, or None behind the last."""
        while len(self._items) <= position:
            try:
                self._items.append(next(self._coming))
            except StopIteration:
                return None
        return self._items[position]


class Ranked(NamedTuple, Generic[Group]):
    """One combination: an outcome per group, and its log-probability in nats."""

    outcomes: dict[Group, Outcome]
    log_probability: float


def iterate_best_first(groups: Mapping[Group, Outcomes]) -> Iterator[Ranked[Group]]:
    """Yield every combination of one outcome per group, in order of decreasing total log-probability.

    Best-first search over vectors of positions in the outcomes of each group: memory grows with what was yielded, not
    with the size of the space. Ties are broken by the order of the groups and outcomes given.

    Args:
        groups: group -> its outcomes; the groups are independent.
    """
    names = list(groups)
    ordered = [Recalled(groups[name].best_first()) for name in names]
    firsts = [outcomes.at(0) for outcomes in ordered]
    if None in firsts:
        return  # a group without an outcome

    def item(group: int, position: int) -> tuple[Outcome, float]:
        found = ordered[group].at(position)
        assert found is not None  # it was looked at before it came into the heap
        return found

    # A vector is kept as its non-zero entries, (-group, position) each, which sort as the whole vectors do. Each is
    # reached once: from the one with its last entry lowered by one. Its cost is what it is less probable by than zero.
    heap: list[tuple[float, tuple[tuple[int, int], ...]]] = [(0.0, ())]
    while heap:
        _, entries = heapq.heappop(heap)
        chosen = {-g: i for g, i in entries}
        items = [item(g, chosen.get(g, 0)) for g in range(len(names))]
        total = sum(value for _, value in items)
        yield Ranked({name: outcome for name, (outcome, _) in zip(names, items, strict=True)}, total)
        last = -entries[-1][0] if entries else 0
        for g in range(last, len(names)):
            position = chosen.get(g, 0) + 1
            if ordered[g].at(position) is not None:
                successor = (*(entries[:-1] if g in chosen else entries), (-g, position))
                heapq.heappush(heap, (sum(item(-k, 0)[1] - item(-k, i)[1] for k, i in successor), successor))
