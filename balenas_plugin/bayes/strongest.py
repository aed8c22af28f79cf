r"""Which n edges of a node are the strongest, each with its best operation: exact probabilities, outcomes one by one.

A node ranks its incoming edges by their best operation's score and keeps the n best, each with that operation (Liu et
al. 2019); an input choice is the case of edges with one operation each. With the weakest kept score at x,

.. math:: P(S) = \int \sum_{w \in S} a_w(x) \prod_{i \in S \setminus w} A_i(x) \prod_{e \notin S} F_e(x)\,dx ,

where :math:`a_i` is the density of entry i (an operation on an edge) as the best of its edge, :math:`A_i` its tail
above x, and :math:`F_e` the probability that all of edge e lies below x.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from balenas_plugin.bayes.laws import AT_ONCE, Law, joined
from balenas_plugin.bayes.laws.quadrature import log_tail_integral, quadrature
from balenas_plugin.bayes.ranking import Listed

Entry = tuple[int, int]
"""(edge, operation): one operation on one incoming edge of a node."""

_LISTED = 1000
"""The most outcomes that are all computed, and sorted."""

_INTERVALS = 256
"""Of the scores of draws."""

_IMPOSSIBLE = -1e300  # a logarithm of zero that may be multiplied by zero


class StrongestEdges:
    """The ways in which a node can keep `n` of its edges, each with its best operation.

    Which edge is the stronger does not matter: an outcome is a tuple of (edge, operation) in edge order.

    Args:
        edges: the law of each edge's scores, of the operations that may be chosen.
        n: number of edges kept; all of them, where fewer have an operation that may be chosen.
    """

    def __init__(self, edges: Sequence[Law], n: int) -> None:
        possible = [(e, law.kept.nonzero().flatten()) for e, law in enumerate(edges) if law.kept.any()]
        laws = [edges[e][kept] for e, kept in possible]
        n = min(n, len(laws))
        self._set_entries([(e, kept.tolist()) for e, kept in possible], n)
        least = torch.stack([law.least().max() for law in laws])
        lowest = least.clamp_min(least.topk(n).values[-1])[self._edge]
        x, log_weight = quadrature(joined(laws).ends(lowest))
        at, above, below = [], [], []
        for law in laws:
            log_below = law.log_below(x)
            best = law.log_density(x) + (log_below.sum(0) - log_below)
            at.append(best)
            above.append(law.log_above(x) if len(law) == 1 else log_tail_integral(best, log_weight))
            below.append(log_below.sum(0))
        self._set_tables(torch.cat(at), torch.cat(above), torch.stack(below), log_weight)

    @classmethod
    def of_draws(cls, edges: Sequence[Tensor], n: int) -> StrongestEdges:
        """Return the same for edges of which only draws are known: independent of each other, their scores are not.

        Which operation is an edge's best, and its score, is counted among the draws, 256 intervals of scores apart. How
        edges compare is computed from that, which is far less uncertain than to count outcomes.

        Args:
            edges: drawn scores of each edge's operations, shape (draws, K).
            n: as above.
        """
        self = cls.__new__(cls)
        best = [scores.max(-1) for scores in edges]
        self._set_entries([(e, b.indices.unique().tolist()) for e, b in enumerate(best)], n)
        pooled = torch.cat([b.values for b in best]).double().sort().values
        inner = pooled[torch.linspace(0, len(pooled) - 1, _INTERVALS + 1).long()[1:-1]]
        shares = torch.zeros(len(self._entries), _INTERVALS, dtype=torch.float64)
        for i, (e, operation) in enumerate(self._entries):
            chosen = best[e].values[best[e].indices == operation].double()
            shares[i] = torch.bincount(torch.bucketize(chosen, inner), minlength=_INTERVALS) / len(best[e].values)
        beyond = shares.flip(-1).cumsum(-1).flip(-1) - shares / 2  # at the middle of each interval
        of_edge = torch.zeros(len(edges), _INTERVALS, dtype=torch.float64).index_add_(0, self._edge, shares)
        before = of_edge.cumsum(-1) - of_edge / 2
        self._set_tables(shares.log(), beyond.log(), before.log(), torch.zeros(_INTERVALS, dtype=torch.float64))
        return self

    def _set_entries(self, possible: Sequence[tuple[int, list[int]]], n: int) -> None:
        self._n = n
        self._sizes = [len(operations) for _, operations in possible]
        self._entries = [(e, operation) for e, operations in possible for operation in operations]
        self._place = {entry: i for i, entry in enumerate(self._entries)}
        self._known: dict[tuple[int, ...], float] = {}
        self._edge = torch.arange(len(possible)).repeat_interleave(torch.tensor(self._sizes))

    def _set_tables(self, at: Tensor, above: Tensor, below: Tensor, log_weight: Tensor) -> None:
        """Take the logarithms of a and A, shape (entries, Q), of F, shape (edges, Q), and of the nodes' weights."""
        self._log_weight = log_weight
        self._above = above.clamp_min(_IMPOSSIBLE)
        self._below = below.clamp_min(_IMPOSSIBLE)
        hazard = (at - self._above).exp().clamp_max(-_IMPOSSIBLE)
        self._hazard = torch.where(self._above > _IMPOSSIBLE, hazard, 0)

    def log_probability(self, outcome: tuple[Entry, ...]) -> float:
        """Return log P(outcome) in nats, -inf where it is none of this node."""
        edges = {edge for edge, _ in outcome}
        if len(outcome) != self._n or len(edges) != self._n or not set(outcome) <= set(self._place):
            return -math.inf
        members = tuple(sorted(self._place[entry] for entry in outcome))
        return self._look_up([members])[0]

    def best_first(self) -> Iterator[tuple[tuple[Entry, ...], float]]:
        """Yield every outcome once with its log-probability, from the most to the least probable.

        Every probability is exact; so is the order of up to 1,000 outcomes, and of any number of sets of edges with
        one operation each and equal sigmas. Otherwise the next is the most probable of the outcomes that differ in
        one entry from one already listed, or from the next, or are the strongest at some x: an outcome that all ways
        of single exchanges reach only through less probable ones than itself may come after some of those.
        """
        complete = self._count() <= _LISTED
        first = self._all() if complete else self._strongest_anywhere()
        seen = set(map(tuple, first.tolist()))
        found = [(-value, members) for members, value in zip(seen, self._look_up(list(seen)), strict=True)]
        heapq.heapify(found)
        exchanged = set(seen) if complete else set()
        while found:
            cost, members = found[0]
            if members in exchanged:
                heapq.heappop(found)
                yield tuple(self._entries[i] for i in members), -cost
                continue
            exchanged.add(members)
            new = set(map(tuple, self._exchanged(members).tolist())) - seen
            seen |= new
            for other, value in zip(new, self._look_up(list(new)), strict=True):
                heapq.heappush(found, (-value, other))

    def _look_up(self, outcomes: Sequence[tuple[int, ...]]) -> list[float]:
        """Return the log-probabilities of outcomes given as positions of entries; each is computed once."""
        new = [members for members in outcomes if members not in self._known]
        if new:
            self._known.update(zip(new, self._log_probability(torch.tensor(new)).tolist(), strict=True))
        return [self._known[members] for members in outcomes]

    def _count(self) -> float:
        """Return the number of outcomes: the n-th elementary symmetric polynomial of the edges' sizes."""
        ways = [1.0] + [0.0] * self._n
        for size in self._sizes:
            ways = [1.0] + [ways[k] + size * ways[k - 1] for k in range(1, self._n + 1)]
        return ways[self._n]

    def _all(self) -> Tensor:
        first = [0, *itertools.accumulate(self._sizes)]
        return torch.tensor(
            [
                entries
                for edges in itertools.combinations(range(len(self._sizes)), self._n)
                for entries in itertools.product(*(range(first[e], first[e + 1]) for e in edges))
            ]
        )

    def _strongest_anywhere(self) -> Tensor:
        """Return, for every x, the n entries of different edges with the best odds of lying above; shape (Q, n)."""
        odds = self._above - self._below[self._edge]
        of_edges = [part.max(0) for part in torch.split(odds, self._sizes)]
        first = torch.tensor([0, *itertools.accumulate(self._sizes)][:-1])
        best = torch.stack([part.indices for part in of_edges]) + first[:, None]  # (edges, Q)
        edges = torch.stack([part.values for part in of_edges]).topk(self._n, dim=0).indices
        return best.gather(0, edges).sort(0).values.T

    def _exchanged(self, members: tuple[int, ...]) -> Tensor:
        """Return the outcomes with one entry exchanged, shape (N, n)."""
        kept = torch.tensor(members)
        free = torch.ones(len(self._sizes), dtype=torch.bool)
        free[self._edge[kept]] = False
        rows = []
        for place, entry in enumerate(members):
            allowed = free[self._edge] | (self._edge == self._edge[entry])
            allowed[entry] = False
            others = allowed.nonzero()
            changed = kept.repeat(len(others), 1)
            changed[:, place] = others[:, 0]
            rows.append(changed)
        return torch.cat(rows).sort(1).values

    def _log_probability(self, rows: Tensor) -> Tensor:
        """Return log P of outcomes, shape (N,), given as positions of entries, shape (N, n)."""
        found = []
        for part in torch.split(rows, max(AT_ONCE // len(self._log_weight), 1)):
            kept = torch.zeros(len(part), len(self._entries), dtype=torch.float64).scatter_(1, part, 1)
            left = torch.ones(len(part), len(self._sizes), dtype=torch.float64).scatter_(1, self._edge[part], 0)
            weakest = (kept @ self._hazard).log()
            found.append(torch.logsumexp(kept @ self._above + left @ self._below + weakest + self._log_weight, -1))
        return torch.cat(found)


def counted_edges(edges: Sequence[Tensor], n: int) -> Listed:
    """Return outcome -> log of its share among draws: for scores of edges that are not independent.

    Args:
        edges: drawn scores of each edge's operations, shape (draws, K).
        n: number of edges kept.
    """
    strength, operation = (torch.stack(each, -1) for each in zip(*(scores.max(-1) for scores in edges), strict=True))
    kept = strength.topk(n).indices.sort(-1).values
    outcomes = torch.stack([kept, operation.gather(-1, kept)], -1)
    different, counts = torch.unique(outcomes, dim=0, return_counts=True)
    shares = (counts.double() / len(outcomes)).log().tolist()
    return Listed(
        (tuple(map(tuple, entries)), value) for entries, value in zip(different.tolist(), shares, strict=True)
    )
