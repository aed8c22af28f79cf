r"""The exact Hessian of the validation loss in the architecture parameters, and its largest eigenvalue.

The dominant eigenvalue of :math:`\nabla^2_\alpha L_{val}` shows how sharp the optimum found is (Fig. 3 of the paper).

Source: Zela et al. 2020, "Understanding and Robustifying Differentiable Architecture Search".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from balenas_plugin.bayes.second_derivatives.batch_norm import FastSecondDerivative

_ONCE_ONLY = ("torch::autograd::Error", "Error", "DelayedError", "NotImplemented")
"""Names of autograd's nodes that stand for an error."""


class NoSecondDerivativeError(RuntimeError):
    """An operation of the loss can be differentiated only once."""


def twice_differentiable_gradient(loss: Callable[[], Tensor], alphas: Sequence[Tensor]) -> Tensor:
    """Return d loss / d alpha, joined to one vector, with the graph for another derivative.

    Raises:
        NoSecondDerivativeError: there is none. Autograd would leave the operation out without a word: its own error
            lies off the path to the alphas, which is all that it looks at.
    """
    with FastSecondDerivative():
        value = loss()
    first = torch.autograd.grad(value, list(alphas), create_graph=True, allow_unused=True)
    gradient = joined(first, alphas)
    seen: set[object] = set()
    waiting = [gradient.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() in _ONCE_ONLY:
            raise NoSecondDerivativeError("an operation of the loss can be differentiated only once")
        waiting += [following for following, _ in node.next_functions]
    return gradient


def joined(gradients: Sequence[Tensor | None], alphas: Sequence[Tensor]) -> Tensor:
    """Return the gradients as one vector; zeros where the loss does not depend on an alpha."""
    return torch.cat(
        [torch.zeros_like(a).flatten() if g is None else g.flatten() for a, g in zip(alphas, gradients, strict=True)]
    )


def architecture_hessian(loss: Callable[[], Tensor], alphas: Sequence[Tensor], *, damping: float = 0.0) -> Tensor:
    """Return d2 loss / d alpha2 + damping * I over all alphas jointly.

    Args:
        loss: evaluates the scalar loss at the current alphas, twice differentiable.
        alphas: architecture parameters (logits), flattened and joined in the order given; n entries in all.
        damping: added to the diagonal (the architecture weight decay, in the reference).

    Returns:
        A symmetric n x n matrix in the dtype and on the device of the alphas. Costs n backward passes.

    Raises:
        NoSecondDerivativeError: an operation of the loss can be differentiated only once.
    """
    gradient = twice_differentiable_gradient(loss, alphas)
    rows = []
    for entry in gradient:
        second: Sequence[Tensor | None] = [None] * len(alphas)  # where the loss does not depend on an alpha
        if entry.requires_grad:
            second = torch.autograd.grad(entry, list(alphas), retain_graph=True, allow_unused=True)
        rows.append(joined(second, alphas))
    hessian = torch.stack(rows).detach()
    hessian = (hessian + hessian.T) / 2  # removes the rounding asymmetry
    return hessian + damping * torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)


def largest_eigenvalue(hessian: Tensor) -> float:
    """Return the largest signed eigenvalue of a symmetric matrix."""
    return float(torch.linalg.eigvalsh(hessian)[-1])
