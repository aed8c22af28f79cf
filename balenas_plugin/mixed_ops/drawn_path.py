"""Compute the drawn candidate only: GDAS and its relatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor
from torch.utils._pytree import tree_map

Others = Literal["scalar", "none"]
"""How the candidates not drawn take part: as the bare number of their weight, or not at all."""


def drawn_path(weights: Tensor, chosen: int, run: Callable[[int], Any], *, others: str = "scalar") -> Any:
    """Return weights[chosen] times the result of the chosen candidate; the others are not computed.

    Args:
        weights: one-hot mixing weights, shape (K,).
        chosen: the candidate whose weight is 1.
        run: computes a candidate: a tensor, or lists, tuples and dicts of them.
        others: "scalar" adds the weights of the others as numbers. They add 0, but their gradient is the sum of the
            incoming gradient, as if each had the output 1 everywhere: GDAS's published NAS-Bench-201 search. With
            "none" their gradient is 0: GDAS in the DARTS space.

    Source: Dong and Yang 2019 (GDAS).
    """
    weight = weights[chosen]
    if others == "none" or not weights.requires_grad:
        return tree_map(lambda part: weight * part, run(chosen))
    rest = weights.sum() - weight
    return tree_map(lambda part: weight * part + rest, run(chosen))
