"""Decide whether a network's output depends on its input at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.proxies._evaluation.exponents import ExponentTracking
from balenas_plugin.proxies._evaluation.linearised import (
    EmbeddingsAsInputs,
    NormalisationRemoved,
    example_of_ones,
    is_differentiable,
)
from balenas_plugin.proxies._evaluation.network import borrowed, gradients


def depends_on_input(model: nn.Module, inputs: Tensor) -> bool:
    """Return whether the output of `model` depends on its input; False only where two gradients are exactly zero.

    First the gradient of the linearised network (absolute parameters, normalisations reduced to their weight, one
    example of ones): it is the sum of all paths' products, so it vanishes only if no path leads through. A network with
    saturating activations can vanish there too, so the answer is False only if the real network's gradient on the
    batch, in training mode, is also exactly zero. The second is computed for the few that fail the first.

    Args:
        model: any network, of any outputs; it is left as it was.
        inputs: a batch ``(N, ...)``. Tokens have no gradient, so that of their embeddings is looked at; where there are
            no embeddings either, the answer is True.
    """
    return _has_live_path(model, inputs) or _has_live_gradient(model, inputs)


def _has_live_path(model: nn.Module, inputs: Tensor) -> bool:
    with borrowed(model, training=False, absolute=True) as network:
        example = _leaf(example_of_ones(inputs))
        with EmbeddingsAsInputs(ones=True) as embedded, NormalisationRemoved(keep_scale=True):
            output = _weighted_output(network.run(example))
        if _has_gradient(output, example, embedded):
            return True
        # Zero, or not a number: once more, to distinguish an underflow or overflow from a dead end.
        embedded = EmbeddingsAsInputs(ones=True)
        with embedded, ExponentTracking(), NormalisationRemoved(keep_scale=True):
            output = _weighted_output(network.run(example))
        return _has_gradient(output, example, embedded)


def _has_live_gradient(model: nn.Module, inputs: Tensor) -> bool:
    with borrowed(model) as network:
        batch = _leaf(inputs.detach().clone())
        with EmbeddingsAsInputs(ones=False) as embedded:
            output = _weighted_output(network.run(batch))
        return _has_gradient(output, batch, embedded)


def _leaf(inputs: Tensor) -> Tensor:
    return inputs.requires_grad_() if is_differentiable(inputs) else inputs


def _has_gradient(output: Tensor, inputs: Tensor, embedded: EmbeddingsAsInputs) -> bool:
    """Return whether any gradient of `output` for the inputs is other than zero (and is a number)."""
    leaves = [inputs] if inputs.requires_grad else embedded.leaves
    return not leaves or any(bool((gradient.abs() > 0).any()) for gradient in gradients(output, leaves))


def _weighted_output(outputs: Any) -> Tensor:
    """Return a weighted sum of all outputs (the plain sum of a softmax would be constant)."""
    total = torch.zeros(())
    for number, tensor in enumerate(_tensors(outputs)):
        values = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).flatten()
        weights = torch.arange(1, values.numel() + 1, dtype=values.dtype, device=values.device)
        weighted = (values * weights).sum()
        total = weighted if number == 0 else total + weighted.to(total.device)
    return total


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of numbers, not indices, in what a network returned."""
    if isinstance(outputs, Tensor):
        if is_differentiable(outputs):
            yield outputs
    elif isinstance(outputs, (list, tuple, Mapping)):
        for part in outputs.values() if isinstance(outputs, Mapping) else outputs:
            yield from _tensors(part)
    elif hasattr(outputs, "__dict__"):  # a data class
        yield from _tensors(vars(outputs))
