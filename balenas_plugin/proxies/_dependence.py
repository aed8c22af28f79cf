"""Decide whether a network's output depends on its input at all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from balenas_plugin.proxies._exponents import ExponentTracking
from balenas_plugin.proxies._linearised import BatchNormRemoved, example_of_ones
from balenas_plugin.proxies._network import Network, borrowed, gradients


def depends_on_input(model: nn.Module, inputs: Tensor) -> bool:
    """Return whether the output of `model` depends on its input; False only where two gradients are exactly zero.

    First the gradient of the linearised network (absolute parameters, batch-norm reduced to its weight, one example of
    ones): it is the sum of all paths' products, so it vanishes only if no path leads through. A network with saturating
    activations can vanish there too, so the answer is False only if the real network's gradient on the batch, in
    training mode, is also exactly zero. The second is computed for the few that fail the first.

    Args:
        model: any network; it is left as it was.
        inputs: a batch ``(N, ...)``. Integer inputs have no gradient: the answer is then True.
    """
    if not inputs.is_floating_point():
        return True
    return _has_live_path(model, inputs) or _has_live_gradient(model, inputs)


def _has_live_path(model: nn.Module, inputs: Tensor) -> bool:
    with borrowed(model, training=False, absolute=True) as network:
        leaf = example_of_ones(inputs, inputs.dtype).requires_grad_()
        with BatchNormRemoved(keep_scale=True):
            output = _weighted_output(network, leaf)
        if _has_gradient(output, leaf):
            return True
        # Zero, or not a number: once more, to tell an underflow or overflow from a dead end.
        with ExponentTracking(), BatchNormRemoved(keep_scale=True):
            output = _weighted_output(network, leaf)
        return _has_gradient(output, leaf)


def _has_live_gradient(model: nn.Module, inputs: Tensor) -> bool:
    with borrowed(model) as network:
        leaf = inputs.detach().clone().requires_grad_()
        return _has_gradient(_weighted_output(network, leaf), leaf)


def _weighted_output(network: Network, inputs: Tensor) -> Tensor:
    """Return a weighted sum of the outputs (the plain sum of a softmax would be constant)."""
    outputs = network(inputs).flatten()
    return (outputs * torch.arange(1, outputs.numel() + 1, dtype=outputs.dtype, device=outputs.device)).sum()


def _has_gradient(output: Tensor, leaf: Tensor) -> bool:
    """Return whether any entry of the gradient of `output` for `leaf` is other than zero (and is a number)."""
    (gradient,) = gradients(output, [leaf])
    return bool((gradient.abs() > 0).any())
