"""A rule that turns architecture parameters into the architecture of a cell, where the largest logit is not all."""

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
