"""SNIP: how much the loss would change if single weights were removed."""

from __future__ import annotations

from torch import Tensor, nn

from balenas_plugin.proxies._evaluation.network import borrowed, total
from balenas_plugin.proxies._registry import Proxy


def snip(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return ``sum |w g|`` over the Conv2d and Linear weights w, where g is the loss's gradient for w.

    The loss is the mean cross-entropy of the batch in training mode.

    BaLeNAS (Zhang et al. 2022), Eq. (8); Lee et al. 2019 (SNIP).
    """
    with borrowed(model) as network:
        gradients = network.gradients(network.loss(inputs, targets))
        return total((w * g).abs().sum() for w, g in zip(network.weights.values(), gradients, strict=True))


PROXY = Proxy(
    name="snip",
    compute=snip,
    higher_is_better=True,
    needs_labels=True,
    description="sum of |weight x gradient|: the loss's sensitivity to removing weights",
    source="Lee et al. 2019 (SNIP); Eq. (8) of BaLeNAS; summed over the network by Abdelfattah et al. 2021",
)
