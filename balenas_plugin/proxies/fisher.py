"""Fisher: how much the loss would change if whole channels were removed."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from balenas_plugin.proxies._evaluation.network import borrowed, gradients, total
from balenas_plugin.proxies._registry import Proxy


def fisher(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return the Fisher information of the channels of all convolutions and Linear layers, times weights per channel.

    A mask of ones on a layer's output, one entry per example n and channel c, has the gradient
    ``m_nc = sum_hw activation_nchw * gradient_nchw``; the channel's information is ``1/2 mean_n m_nc^2``.

    The loss is the mean cross-entropy of the batch in training mode.

    Theis et al. 2018 (Fisher pruning); Abdelfattah et al. 2021 for the factor of weights per channel.
    """
    masks: dict[tuple[_ConvNd | nn.Linear, torch.Size], Tensor] = {}

    def mask_channels(layer: _ConvNd | nn.Linear, _: object, output: Tensor) -> Tensor:
        channel = 1 if isinstance(layer, _ConvNd) else output.dim() - 1
        shape = torch.Size(size if axis in (0, channel) else 1 for axis, size in enumerate(output.shape))
        if (layer, shape) not in masks:
            masks[layer, shape] = output.new_ones(shape, requires_grad=True)
        return output * masks[layer, shape]

    with borrowed(model) as network, contextlib.ExitStack() as hooks:
        network.require_weights()
        for layer in model.modules():
            if isinstance(layer, (_ConvNd, nn.Linear)):
                hooks.callback(layer.register_forward_hook(mask_channels).remove)
        loss = network.loss(inputs, targets)
        return total(
            g.square().mean(0).sum() / 2 * (layer.weight.numel() // _channels(layer))
            for (layer, _), g in zip(masks, gradients(loss, masks.values()), strict=True)
        )


def _channels(layer: _ConvNd | nn.Linear) -> int:
    return layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features


PROXY = Proxy(
    name="fisher",
    compute=fisher,
    higher_is_better=True,
    needs_labels=True,
    description="Fisher information of the channels: the loss's sensitivity to removing channels",
    source="Theis et al. 2018 (Fisher pruning); Turner et al. 2020 (BlockSwap); Abdelfattah et al. 2021",
)
