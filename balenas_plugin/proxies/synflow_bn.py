"""SynFlow with batch-norm kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from balenas_plugin.proxies._linearised import example_of_ones
from balenas_plugin.proxies._network import borrowed
from balenas_plugin.proxies._registry import Proxy
from balenas_plugin.proxies.synflow import summed_saliency


def synflow_bn(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return what `synflow` does with batch-norm kept, in training mode (so it normalises the example of ones)."""
    with borrowed(model, absolute=True, dtype=torch.float64) as network:
        return summed_saliency(network, network(example_of_ones(inputs, torch.float64)).sum())


PROXY = Proxy(
    name="synflow_bn",
    compute=synflow_bn,
    higher_is_better=True,
    needs_labels=False,
    description="SynFlow with batch-norm kept",
    source="Abdelfattah et al. 2021 (the variant of their code)",
)
