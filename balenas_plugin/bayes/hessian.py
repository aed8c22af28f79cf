r"""The exact Hessian of the validation loss in the architecture parameters, and its largest eigenvalue.

The dominant eigenvalue of :math:`\nabla^2_\alpha L_{val}` tells how sharp the optimum found is (Fig. 3 of the paper).

Source: Zela et al. 2020, "Understanding and Robustifying Differentiable Architecture Search".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def architecture_hessian(loss: Callable[[], Tensor], alphas: Sequence[Tensor], *, damping: float = 0.0) -> Tensor:
    """Return d2 loss / d alpha2 + damping * I over all alphas jointly.

    Args:
        loss: evaluates the scalar loss at the current alphas, twice differentiable.
        alphas: architecture parameters (logits), flattened and joined in the order given; n entries in all.
        damping: added to the diagonal (the architecture weight decay, in the reference).

    Returns:
        A symmetric n x n matrix in the dtype and on the device of the alphas. Costs n backward passes.
    """
    value = loss()
    first = torch.autograd.grad(value, list(alphas), create_graph=True, allow_unused=True)
    gradient = torch.cat(
        [torch.zeros_like(a).flatten() if g is None else g.flatten() for a, g in zip(alphas, first, strict=True)]
    )
    rows = []
    for entry in gradient:
        second: Sequence[Tensor | None] = [None] * len(alphas)  # where the loss does not depend on an alpha
        if entry.requires_grad:
            second = torch.autograd.grad(entry, list(alphas), retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    torch.zeros_like(a).flatten() if h is None else h.flatten()
                    for a, h in zip(alphas, second, strict=True)
                ]
            )
        )
    hessian = torch.stack(rows).detach()
    hessian = (hessian + hessian.T) / 2  # removes the rounding asymmetry
    return hessian + damping * torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)


def largest_eigenvalue(hessian: Tensor) -> float:
    """Return the largest signed eigenvalue of a symmetric matrix."""
    return float(torch.linalg.eigvalsh(hessian)[-1])
