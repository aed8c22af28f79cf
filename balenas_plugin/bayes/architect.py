r"""Architecture gradients of the bilevel problem (Eq. 1): first order, and second order through one unrolled step.

.. math::
    w' &= w - \eta\,(\text{momentum} \cdot \text{buffer} + \nabla_w L_{train}(w, \alpha) + \text{wd} \cdot w) \\
    \nabla_\alpha L_{val}(w', \alpha) &\approx \partial_\alpha L_{val}(w', \alpha)
        - \eta\, \frac{\partial_\alpha L_{train}(w^+, \alpha) - \partial_\alpha L_{train}(w^-, \alpha)}{2R},
    \quad w^\pm = w \pm R\,v,\ v = \nabla_{w'} L_{val},\ R = 0.01 / \lVert v \rVert

Weights are changed in place and put back bit for bit, so no model is copied and a loss is any closure over the model.

Source: Liu et al. 2019 (DARTS), Eq. (7)-(8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from balenas_plugin.restoring import restored

Loss = Callable[[], Tensor]
Average = Callable[[Sequence[Tensor]], list[Tensor]]
"""Returns the means of tensors over the processes that compute the same on other parts of a batch."""

FINITE_DIFFERENCES = ("central", "one-sided")
"""How the mixed second derivative is taken: as in the reference, or with one evaluation less."""


@dataclass(frozen=True, kw_only=True)
class VirtualStep:
    """The weight optimizer's next step, as the architect imagines it.

    Args:
        lr: eta, its learning rate.
        momentum: momentum factor.
        weight_decay: L2 coefficient.
        momentum_buffers: one per weight, or None where there is none yet.
    """

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    momentum_buffers: Sequence[Tensor | None] = ()


def gradients(loss: Tensor, parameters: Sequence[Tensor], *, average: Average = list) -> list[Tensor]:
    """Return d loss / d parameters, with zeros for a parameter that the loss does not depend on."""
    found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    return average([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])


@contextmanager
def frozen(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Compute no gradients of `tensors` in the block: neither step needs those of the other's."""
    learned = [t for t in tensors if t.requires_grad]
    for t in learned:
        t.requires_grad_(False)
    try:
        yield
    finally:
        for t in learned:
            t.requires_grad_(True)


def unrolled_weights(weights: Sequence[Tensor], train_gradient: Sequence[Tensor], step: VirtualStep) -> list[Tensor]:
    """Return w' = w - eta (momentum buffer + gradient + wd w), one tensor per weight."""
    buffers = step.momentum_buffers or [None] * len(weights)
    new = []
    for w, g, buffer in zip(weights, train_gradient, buffers, strict=True):
        direction = g + step.weight_decay * w.detach()
        if buffer is not None:
            direction = direction + step.momentum * buffer
        new.append(w.detach() - step.lr * direction)
    return new


def finite_difference_hvp(
    train_loss: Loss,
    alphas: Sequence[Tensor],
    weights: Sequence[Tensor],
    v: Sequence[Tensor],
    *,
    scale: float = 0.01,
    at_w: Sequence[Tensor] | None = None,
    average: Average = list,
) -> list[Tensor]:
    r"""Return :math:`\nabla^2_{\alpha,w} L_{train} \cdot v` by finite differences along v, one tensor per alpha.

    Args:
        train_loss: evaluates L_train at the current weights and alphas.
        v: a direction in weight space, one tensor per weight.
        scale: R ||v||, the length of the displacement.
        at_w: the gradient of L_train in the alphas at the current weights, if it is known: then the difference is
            one-sided, :math:`(g(w + R v) - g(w)) / R`, and costs one evaluation; else central, and costs two.
        average: of gradients, over processes.
    """
    norm = torch.sqrt(sum((x.detach().square().sum() for x in v), start=torch.zeros((), device=v[0].device)))
    if norm == 0:
        return [torch.zeros_like(a) for a in alphas]
    radius = scale / norm

    def displaced(sign: int) -> list[Tensor]:
        with torch.no_grad():
            for w, start, direction in zip(weights, w0, v, strict=True):
                w.copy_(start + sign * radius * direction)
        return gradients(train_loss(), alphas, average=average)

    with restored(weights) as w0:
        plus = displaced(+1)
        if at_w is not None:
            return [(p - g) / radius for p, g in zip(plus, at_w, strict=True)]
        minus = displaced(-1)
    return [(p - m) / (2 * radius) for p, m in zip(plus, minus, strict=True)]


def second_order_gradient(
    *,
    train_loss: Loss,
    val_loss: Loss,
    alphas: Sequence[Tensor],
    weights: Sequence[Tensor],
    step: VirtualStep,
    finite_difference: str = "central",
    average: Average = list,
) -> tuple[list[Tensor], Tensor]:
    """Return the second-order architecture gradient at the current alphas, and L_val(w', alpha).

    Args:
        train_loss: evaluates the mean training loss at the current weights and alphas.
        val_loss: the same on the validation batch.
        alphas: architecture parameters, at a draw from q or at its mean.
        weights: network weights; equal before and after, bit for bit.
        step: the virtual weight step.
        finite_difference: one of `FINITE_DIFFERENCES`.
        average: of gradients, over processes.

    Returns:
        One gradient per alpha (same shapes), and the scalar validation loss at w'.
    """
    count = len(alphas)
    at_w: Sequence[Tensor] | None = None
    if finite_difference == "one-sided":  # the gradient at w costs next to nothing in the same backward pass
        found = gradients(train_loss(), [*alphas, *weights], average=average)
        at_w, train_gradient = found[:count], found[count:]
    else:
        train_gradient = gradients(train_loss(), weights, average=average)
    with restored(weights):
        with torch.no_grad():
            for w, new in zip(weights, unrolled_weights(weights, train_gradient, step), strict=True):
                w.copy_(new)
        loss = val_loss()
        both = gradients(loss, [*alphas, *weights], average=average)
    direct, v = both[:count], both[count:]
    implicit = finite_difference_hvp(train_loss, alphas, weights, v, at_w=at_w, average=average)
    return [d - step.lr * i for d, i in zip(direct, implicit, strict=True)], loss.detach()
