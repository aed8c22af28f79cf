"""Compute the drawn candidate only: GDAS, ProxylessNAS and their relatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

Others = Literal["scalar", "none"]
"""How the candidates not drawn take part: as the bare number of their weight, or not at all."""

Run = Callable[[int], Any]
"""Computes a candidate: a tensor, or lists, tuples and dicts of them."""


@dataclass(frozen=True, eq=False)
class Gates:
    """Candidates of which only the gradient in their weights is wanted.

    Args:
        weights: mixing weights, shape (K,).
        evaluated: which candidates.
        run: computes one of them.
    """

    weights: Tensor
    evaluated: Sequence[int]
    run: Run


def drawn_path(weights: Tensor, chosen: int, run: Run, *, others: Others | Sequence[int] = "scalar") -> Any:
    """Return weights[chosen] times the result of the chosen candidate; the others are not computed.

    Args:
        weights: one-hot mixing weights, shape (K,).
        chosen: the candidate whose weight is 1.
        run: computes a candidate.
        others: "scalar" adds the weights of the others as numbers. They add 0, but their gradient is the sum of the
            incoming gradient, as if each had the output 1 everywhere: GDAS's published NAS-Bench-201 search. With
            "none" their gradient is 0: GDAS in the DARTS space. Those that are listed have the gradient that they have
            in the sum over all, see `evaluated_backwards`: ProxylessNAS.

    Source: Dong and Yang 2019 (GDAS); Cai, Zhu and Han 2019 (ProxylessNAS).
    """
    weight = weights[chosen]
    if others == "none" or not weights.requires_grad:
        return tree_map(lambda part: weight * part, run(chosen))
    if others == "scalar":
        rest = weights.sum() - weight
        return tree_map(lambda part: weight * part + rest, run(chosen))
    result = tree_map(lambda part: weight * part, run(chosen))
    return evaluated_backwards(result, [Gates(weights, [int(k) for k in others], run)])


def evaluated_backwards(result: Any, gates: Sequence[Gates]) -> Any:
    """Return the result (a copy), to which candidates with the weight 0 are added as far as the gradient can tell.

    The backward pass computes each of them, one after the other and without a gradient of its own, for the gradient in
    its weight: the sum of its output times the incoming gradient. So no output of theirs is kept.
    """
    parts, structure = tree_flatten(result)
    return tree_unflatten(_EvaluatedBackwards.apply(gates, *(g.weights for g in gates), *parts), structure)


class _EvaluatedBackwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Sequence[Gates], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.gates, device = gates, tensors[-1].device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        return tuple(part.clone() for part in tensors[len(gates) :])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        device, dtype, enabled = ctx.autocast
        found = []
        with torch.no_grad(), torch.autocast(device, dtype, enabled):
            for gate in ctx.gates:
                found.append(torch.zeros_like(gate.weights))
                for k in gate.evaluated:
                    pairs = zip(tree_leaves(gate.run(k)), gradients, strict=True)
                    found[-1][k] = sum((part * gradient).sum(dtype=found[-1].dtype) for part, gradient in pairs)
        return None, *found, *gradients
