"""SynFlow with batch-norm kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from balenas_plugin.proxies._evaluation.linearised import EmbeddingsAsInputs, example_of_ones, in_double_if_possible
from balenas_plugin.proxies._evaluation.network import borrowed
from balenas_plugin.proxies._registry import Proxy
from balenas_plugin.proxies.synflow import summed_saliency


def synflow_bn(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return what `synflow` does with normalisations kept, in training mode (so they normalise the example of ones)."""

    def compute(dtype: torch.dtype | None) -> float:
        with borrowed(model, absolute=True, dtype=dtype) as network, EmbeddingsAsInputs(ones=True):
            network.require_weights()
            return summed_saliency(network, network(example_of_ones(inputs, dtype)).sum())

    return in_double_if_possible(compute)


PROXY = Proxy(
    name="synflow_bn",
    compute=synflow_bn,
    higher_is_better=True,
    needs_labels=False,
    description="SynFlow with batch-norm kept",
    source="Abdelfattah et al. 2021 (the variant of their code)",
)
