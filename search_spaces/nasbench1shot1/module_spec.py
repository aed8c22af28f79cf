"""A module of NAS-Bench-101: vertices in topological order, edges between them, an operation on every inner vertex.

Source: Ying et al. 2019 (NAS-Bench-101, Sections 2.1 and 2.2); the hash is that of its released table.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

INPUT, OUTPUT = "input", "output"

CONV3X3, CONV1X1, MAXPOOL = "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"

_NUMBERS = {INPUT: -1, OUTPUT: -2, CONV3X3: 0, CONV1X1: 1, MAXPOOL: 2}
"""What hashes number labels by."""


Matrix = tuple[tuple[int, ...], ...]

Key = tuple[Matrix, tuple[str, ...]]
"""The same for isomorphic modules, and for no others."""


@dataclass(frozen=True)
class ModuleSpec:
    """A module.

    Args:
        matrix: ``matrix[u][v]`` is 1 where vertex u feeds vertex v; vertex 0 is the input, the last one the output.
        operations: one a vertex: `INPUT`, then `CONV3X3`, `CONV1X1` or `MAXPOOL`, and `OUTPUT`.
    """

    matrix: Matrix
    operations: tuple[str, ...]

    @classmethod
    def of(cls, parents: Sequence[Iterable[int]], operations: Iterable[str]) -> ModuleSpec:
        """Return the module whose vertices 1, 2, ..., the output last, have these parents."""
        given = [frozenset[int](), *map(frozenset[int], parents)]
        matrix = tuple(tuple(int(u in sources) for sources in given) for u in range(len(given)))
        return cls(matrix, (INPUT, *operations, OUTPUT))

    def parents(self, vertex: int) -> list[int]:
        """Return the vertices that feed one."""
        return [u for u in range(vertex) if self.matrix[u][vertex]]

    def pruned(self) -> ModuleSpec:
        """Return the module without vertices that the input does not reach, or that do not reach the output."""
        count = len(self.operations)
        reached, used = {0}, {count - 1}
        for v in range(count):
            reached |= {v} if any(self.matrix[u][v] for u in reached if u < v) else set()
        for u in reversed(range(count)):
            used |= {u} if any(self.matrix[u][v] for v in used if u < v) else set()
        kept = sorted(reached & used)
        matrix = tuple(tuple(self.matrix[u][v] for v in kept) for u in kept)
        return ModuleSpec(matrix, tuple(self.operations[v] for v in kept))

    def key(self) -> Key:
        """Return what the pruned module has in common with the modules isomorphic to it; far quicker than the hash."""
        spec = self.pruned()
        matrix, orders = canonical_orders(spec.matrix)
        return matrix, min(tuple(spec.operations[v] for v in order) for order in orders)

    def hash(self) -> str:
        """Return NAS-Bench-101's hash of the pruned module: isomorphic modules have the same.

        It starts with each vertex's degrees and operation, and mixes in the neighbours' hashes once for each vertex.
        """
        spec = self.pruned()
        vertices = range(len(spec.operations))
        before = [[u for u in vertices if spec.matrix[u][v]] for v in vertices]
        after = [[w for w in vertices if spec.matrix[v][w]] for v in vertices]
        known = [_md5(str((len(after[v]), len(before[v]), _NUMBERS[spec.operations[v]]))) for v in vertices]
        for _ in vertices:
            known = [
                _md5(
                    "".join(sorted(known[u] for u in before[v]))
                    + "|"
                    + "".join(sorted(known[w] for w in after[v]))
                    + "|"
                    + known[v]
                )
                for v in vertices
            ]
        return _md5(str(sorted(known)))


@lru_cache(maxsize=100_000)
def canonical_orders(matrix: Matrix) -> tuple[Matrix, list[tuple[int, ...]]]:
    """Return the smallest matrix that an order of the vertices gives, and the orders that give it.

    Only orders that put alike vertices side by side are tried: those with the same degrees, whose neighbours are alike.
    """
    vertices = range(len(matrix))
    before = [[u for u in vertices if matrix[u][v]] for v in vertices]
    after = [[w for w in vertices if matrix[v][w]] for v in vertices]
    kinds = [len(matrix) * (v == 0) - (v == len(matrix) - 1) for v in vertices]
    for _ in vertices:
        seen = [(kinds[v], sorted(kinds[u] for u in before[v]), sorted(kinds[w] for w in after[v])) for v in vertices]
        ranks = sorted(seen)
        kinds = [ranks.index(kind) for kind in seen]
    groups = [[v for v in vertices if kinds[v] == kind] for kind in sorted(set(kinds))]
    orders = [tuple(itertools.chain(*order)) for order in itertools.product(*map(itertools.permutations, groups))]
    found = [tuple(tuple(matrix[u][v] for v in order) for u in order) for order in orders]
    least = min(found)
    return least, [order for order, other in zip(orders, found, strict=True) if other == least]


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
