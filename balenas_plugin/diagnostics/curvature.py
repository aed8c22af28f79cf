r"""How sharp the validation loss is in the architecture parameters: largest eigenvalue and trace of its Hessian.

Source: Zela et al. 2020, "Understanding and Robustifying Differentiable Architecture Search"; Fig. 3 of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from balenas_plugin.bayes.second_derivatives.hessian import architecture_hessian, largest_eigenvalue
from balenas_plugin.bayes.second_derivatives.lanczos import (
    Multiply,
    difference_product,
    hessian_product,
    hutchinson_trace,
    lanczos_largest_eigenvalue,
)

EXACT_UP_TO = 64
"""Architecture parameters up to which the whole Hessian is computed: NAS-Bench-201 has 30, the DARTS space 224."""

_TRACE_SAMPLES = 16
_MOST_PRODUCTS = 55  # of Lanczos, with those of the trace
_SHARE = 0.05  # of the iterations; a product costs one at most
_USUAL_EPOCHS = 5


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """The Hessian of the validation loss in the architecture parameters, in 1/logit^2.

    Args:
        eigenvalue: the largest (signed).
        trace: the sum of all.
        method: "exact" (the whole matrix), or "lanczos" (the trace is then Hutchinson's estimate); with
            " by differences" where the loss can be differentiated only once.
        products: Hessian-vector products computed; each costs about a forward and a backward pass of the batch, twice
            that by differences.
    """

    eigenvalue: float
    trace: float
    method: str
    products: int


def measure_curvature(
    losses: Sequence[Callable[[], Tensor]], alphas: Sequence[Tensor], *, exact_up_to: int = EXACT_UP_TO, seed: int = 0
) -> Curvature:
    """Return the curvature of the mean of `losses`, one of each validation batch.

    Args:
        losses: each evaluates a scalar loss at the current alphas.
        alphas: architecture parameters (logits), n in all.
        exact_up_to: compute the whole Hessian up to this n.
        seed: of Lanczos' first vector and of the trace's signs, in generators of their own.
    """
    n = sum(alpha.numel() for alpha in alphas)
    like = torch.cat([alpha.detach().flatten() for alpha in alphas])
    try:
        if n <= exact_up_to:
            return _of_matrix(_mean([architecture_hessian(loss, alphas) for loss in losses]), len(losses), "exact")
        products = [hessian_product(loss, alphas) for loss in losses]  # the graphs of all batches are held at once
        return _by_lanczos(products, like, seed, "lanczos")
    except RuntimeError:  # torch says in many ways that there is no second derivative
        products = [difference_product(loss, alphas) for loss in losses]
        if n > exact_up_to:
            return _by_lanczos(products, like, seed, "lanczos by differences")
        columns = [_mean([multiply(axis) for multiply in products]) for axis in torch.eye(n).to(like)]
        return _of_matrix(torch.stack(columns), len(losses), "exact by differences")


def epochs_between(logits: int, iterations: float, *, method: str = "auto", batches: int = 1) -> int:
    """Return every how many epochs to measure, so that it takes at most a twentieth of a search; 5 at least.

    Args:
        logits: n, of all choices.
        iterations: of an epoch.
        method: "exact", "lanczos", or "auto" for the first up to `EXACT_UP_TO` logits.
        batches: that the loss is averaged over.
    """
    exact = method == "exact" or (method == "auto" and logits <= EXACT_UP_TO)
    products = batches * (logits if exact else _MOST_PRODUCTS)
    return max(_USUAL_EPOCHS, math.ceil(products / (_SHARE * iterations)))


def _of_matrix(hessian: Tensor, batches: int, method: str) -> Curvature:
    used = len(hessian) * batches
    if not torch.isfinite(hessian).all():
        return Curvature(eigenvalue=math.nan, trace=math.nan, method=method, products=used)
    hessian = hessian.double().cpu()  # so that the solver adds no rounding of its own
    eigenvalue = largest_eigenvalue((hessian + hessian.T) / 2)
    return Curvature(eigenvalue=eigenvalue, trace=float(hessian.trace()), method=method, products=used)


def _by_lanczos(products: Sequence[Multiply], like: Tensor, seed: int, method: str) -> Curvature:
    def multiply(vector: Tensor) -> Tensor:
        return _mean([product(vector).detach() for product in products])

    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(len(like), generator=generator).to(like)
    eigenvalue, steps = lanczos_largest_eigenvalue(multiply, start)
    trace = hutchinson_trace(multiply, like, num_samples=_TRACE_SAMPLES, generator=generator)
    used = (steps + _TRACE_SAMPLES) * len(products)
    return Curvature(eigenvalue=eigenvalue, trace=trace, method=method, products=used)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(0)
