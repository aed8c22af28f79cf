r"""How sharp the validation loss is in the architecture parameters: largest eigenvalue and trace of its Hessian.

Source: Zela et al. 2020, "Understanding and Robustifying Differentiable Architecture Search"; Fig. 3 of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from balenas_plugin.bayes.hessian import architecture_hessian, largest_eigenvalue
from balenas_plugin.bayes.lanczos import hessian_product, hutchinson_trace, lanczos_largest_eigenvalue

EXACT_UP_TO = 64
"""Architecture parameters up to which the whole Hessian is computed: NAS-Bench-201 has 30, the DARTS space 224."""

_TRACE_SAMPLES = 16


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """The Hessian of the validation loss in the architecture parameters, in 1/logit^2.

    Args:
        eigenvalue: the largest (signed).
        trace: the sum of all.
        method: "exact" (one backward pass a parameter), or "lanczos" (the trace is then Hutchinson's estimate).
        products: Hessian-vector products computed; each costs about a forward and a backward pass of the batch.
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
        losses: each evaluates a scalar loss at the current alphas, twice differentiable.
        alphas: architecture parameters (logits), n in all.
        exact_up_to: compute the whole Hessian up to this n.
        seed: of Lanczos' first vector and of the trace's signs, in generators of their own.
    """
    n = sum(alpha.numel() for alpha in alphas)
    if n <= exact_up_to:
        hessian = sum(architecture_hessian(loss, alphas) for loss in losses) / len(losses)
        assert isinstance(hessian, Tensor)
        # float64: the eigenvalue of a given matrix should not depend on the solver's rounding
        hessian = hessian.double().cpu()
        if not torch.isfinite(hessian).all():
            return Curvature(eigenvalue=float("nan"), trace=float("nan"), method="exact", products=n * len(losses))
        return Curvature(
            eigenvalue=largest_eigenvalue(hessian),
            trace=float(hessian.trace()),
            method="exact",
            products=n * len(losses),
        )
    products = [hessian_product(loss, alphas) for loss in losses]  # the graphs of all batches are held at once

    def multiply(vector: Tensor) -> Tensor:
        total = products[0](vector)
        for product in products[1:]:
            total = total + product(vector)
        return total.detach() / len(products)

    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(n, generator=generator).to(alphas[0])
    eigenvalue, steps = lanczos_largest_eigenvalue(multiply, start)
    trace = hutchinson_trace(multiply, start, num_samples=_TRACE_SAMPLES, generator=generator)
    used = (steps + _TRACE_SAMPLES) * len(losses)
    return Curvature(eigenvalue=eigenvalue, trace=trace, method="lanczos", products=used)
