"""Norm of the loss's gradient."""

from __future__ import annotations

from torch import Tensor, nn

from balenas_plugin.proxies._evaluation.network import borrowed, total
from balenas_plugin.proxies._registry import Proxy


def grad_norm(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return the sum over the Conv2d and Linear layers of ``||g||_2``, where g is the loss's gradient for the weight.

    The loss is the mean cross-entropy of the batch in training mode.

    Abdelfattah et al. 2021.
    """
    with borrowed(model) as network:
        return total(g.norm() for g in network.gradients(network.loss(inputs, targets)))


PROXY = Proxy(
    name="grad_norm",
    compute=grad_norm,
    higher_is_better=True,
    needs_labels=True,
    description="sum over the layers of the Euclidean norm of the weight's gradient",
    source="Abdelfattah et al. 2021",
)
