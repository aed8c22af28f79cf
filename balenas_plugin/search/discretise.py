"""Rules that turn architecture parameters into the architecture of a cell, where the largest logit is not all."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def best_pairs(edges: Sequence[Tensor], number: int, *, without: int | None = None) -> list[tuple[int, int]]:
    """Return a node's best (input, operation) pairs, the best first; both may have the same input.

    Args:
        edges: one tensor of logits, shape (K,), per input of the node; each is normalised by its own softmax.
        number: of pairs.
        without: an operation that is never chosen, such as `none`.

    Source: Dong and Yang 2019 (GDAS) in the DARTS space.
    """
    ranked = [
        (-float(probability), source, operation)
        for source, logits in enumerate(edges)
        for operation, probability in enumerate(logits.softmax(-1))
        if operation != without
    ]
    return [(source, operation) for _, source, operation in sorted(ranked)[:number]]


def strongest_edges(edges: Sequence[Tensor], number: int, *, without: int | None = None) -> list[tuple[int, int]]:
    """Return a node's strongest inputs, the strongest first, each with its best operation: (input, operation).

    Args:
        edges: one tensor of mixing weights, shape (K,), per input of the node; its best weight is an input's strength.
        number: of inputs.
        without: an operation that is never chosen, such as `none`.

    Source: Liu et al. 2019 (DARTS).
    """
    best = []
    for source, weights in enumerate(edges):
        ranked = [(-float(w), operation) for operation, w in enumerate(weights) if operation != without]
        strength, operation = min(ranked)
        best.append((strength, source, operation))
    return [(source, operation) for _, source, operation in sorted(best)[:number]]
