"""Enumerate combinations of independent choices from the most to the least probable, exactly."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

Group = TypeVar("Group")
Outcome = TypeVar("Outcome")


class Ranked(NamedTuple, Generic[Group, Outcome]):
    """One combination: an outcome per group, and its log-probability in nats."""

    outcomes: dict[Group, Outcome]
    log_probability: float


def iterate_best_first(groups: Mapping[Group, Mapping[Outcome, float]]) -> Iterator[Ranked[Group, Outcome]]:
    """Yield every combination of one outcome per group, in order of decreasing total log-probability.

    Best-first search over index vectors into the sorted outcomes of each group: memory grows with what was yielded,
    not with the size of the space. Ties are broken by the order of the groups and outcomes given.

    Args:
        groups: group -> outcome -> log-probability in nats; the groups are independent.
    """
    names = list(groups)
    ordered = [sorted(groups[name].items(), key=lambda item: -item[1]) for name in names]

    def total(index: tuple[int, ...]) -> float:
        return sum(outcomes[i][1] for outcomes, i in zip(ordered, index, strict=True))

    start = (0,) * len(names)
    # Each vector is reached once: from the one with its last non-zero entry lowered by one.
    heap = [(-total(start), start)]
    while heap:
        cost, index = heapq.heappop(heap)
        chosen = {name: outcomes[i][0] for name, outcomes, i in zip(names, ordered, index, strict=True)}
        yield Ranked(chosen, -cost)
        last = max((g for g, i in enumerate(index) if i), default=0)
        for g in range(last, len(names)):
            if index[g] + 1 < len(ordered[g]):
                successor = (*index[:g], index[g] + 1, *index[g + 1 :])
                heapq.heappush(heap, (-total(successor), successor))


def best_first(groups: Mapping[Group, Mapping[Outcome, float]], k: int) -> list[Ranked[Group, Outcome]]:
    """Return the k most probable combinations (all of them, if there are fewer); see `iterate_best_first`."""
    return list(islice(iterate_best_first(groups), k))
