"""Plain: SNIP without the absolute value."""

from __future__ import annotations

from torch import Tensor, nn

from balenas_plugin.proxies._evaluation.network import borrowed, total
from balenas_plugin.proxies._registry import Proxy


def plain(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return ``sum w g`` over the Conv2d and Linear weights w, where g is the loss's gradient for w.

    The loss is the mean cross-entropy of the batch in training mode.

    Abdelfattah et al. 2021 (their code).
    """
    with borrowed(model) as network:
        gradients = network.gradients(network.loss(inputs, targets))
        return total((w * g).sum() for w, g in zip(network.weights.values(), gradients, strict=True))


PROXY = Proxy(
    name="plain",
    compute=plain,
    higher_is_better=True,
    needs_labels=True,
    description="sum of weight x gradient, signed",
    source="Abdelfattah et al. 2021 (their code)",
)
