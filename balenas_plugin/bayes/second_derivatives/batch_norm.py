r"""Batch-norm in training mode whose second derivative costs about what its first does.

Torch composes the second derivative of some thirty element-wise operations, which was half of what a Hessian of a small
supernet cost on a CPU. Written out it is a few. With :math:`\hat x = (x - \mathrm{mean}) r`, means over the m values of
a channel, and the projection :math:`P u = u - \overline{u} - \hat x\,\overline{u \hat x}`, the first derivative is
:math:`r \gamma P g_y`, and that of :math:`\langle v, r \gamma P g_y \rangle`

.. math::
    \partial_{g_y} &= \gamma r P v \qquad
    \partial_\gamma = \textstyle\sum v\, r P g_y =: u \\
    \partial_x &= -\gamma r \left( \overline{v \hat x}\, r P g_y + \overline{g_y \hat x}\, r P v
        + \tfrac{u}{m} \hat x \right)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class FastSecondDerivative(TorchFunctionMode):
    """Inside the block, batch-norms in training mode get the second derivative of this module.

    Values, first derivatives and running statistics are torch's to rounding. What is not float32 or float64, and what
    normalises by running statistics, is left to torch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take over `torch.nn.functional.batch_norm`."""
        if func is torch.nn.functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    plain = input.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(input.device.type)
    valid = input.numel() > input.shape[1]  # of a single value a channel torch says that it cannot
    if not (training and plain and valid and (weight is None or weight.dtype == input.dtype)):
        return torch.nn.functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    y: Tensor = _BatchNorm.apply(input, weight, bias, running_mean, running_var, momentum, eps)
    return y


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean, r = torch.native_batch_norm(x, gamma, beta, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, gamma, mean, r)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, mean, r = ctx.saved_tensors
        if torch.is_grad_enabled():  # there will be a second derivative of this pass
            of_x, of_gamma, of_beta = _BatchNormBackward.apply(gradients[0], x, gamma, mean, r, ctx.eps)
        else:
            of_x, of_gamma, of_beta = _backward(gradients[0], x, gamma, mean, r, ctx.eps)
        _, gamma_wanted, beta_wanted, *_ = ctx.needs_input_grad
        return of_x, of_gamma if gamma_wanted else None, of_beta if beta_wanted else None, None, None, None, None


class _BatchNormBackward(torch.autograd.Function):
    """(g_y, x, gamma) -> gradients in x, gamma and beta; mean and r are functions of x."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, gamma: Tensor | None, mean: Tensor, r: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        projected, with_x, total = _backward(gradient, x, None, mean, r, eps)
        ctx.save_for_backward(x, gamma, mean, r, projected, with_x)
        ctx.eps = eps
        of_x = projected.clone() if gamma is None else projected * _of_channels(gamma, x)
        return of_x, with_x, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor, of_gamma: Tensor, of_beta: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, mean, r, projected, with_x = ctx.saved_tensors
        m = x.numel() // x.shape[1]
        v_projected, v_with_x, _ = _backward(v, x, None, mean, r, ctx.eps)
        u = (v * projected).sum([0, *range(2, x.dim())])
        scale = r if gamma is None else r * gamma
        # x_hat = r x - r mean
        of_gradient = v_projected * _of_channels(scale / r, x)
        of_gradient.addcmul_(x, _of_channels(of_gamma * r, x)).add_(_of_channels(of_beta - of_gamma * r * mean, x))
        by_x = -scale * u * r / m
        of_x = projected * _of_channels(of_gamma - scale * v_with_x / m, x)
        of_x.addcmul_(v_projected, _of_channels(-scale * with_x / m, x))
        of_x.addcmul_(x, _of_channels(by_x, x)).sub_(_of_channels(by_x * mean, x))
        return of_gradient, of_x, None if gamma is None else u, None, None, None


def _backward(
    g: Tensor, x: Tensor, gamma: Tensor | None, mean: Tensor, r: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return r gamma P g, sum g x_hat and sum g, the last two of shape (C,)."""
    wanted = [True, True, True]
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        g, x, gamma, None, None, mean, r, True, eps, wanted
    )
    return found


def _of_channels(values: Tensor, x: Tensor) -> Tensor:
    """Return values of shape (C,) as (1, C, 1, ...)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))
