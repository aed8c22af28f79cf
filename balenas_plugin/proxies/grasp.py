"""GraSP: how much the gradient's norm would change if single weights were removed."""

from __future__ import annotations

from torch import Tensor, nn

from balenas_plugin.proxies._evaluation.network import borrowed, total
from balenas_plugin.proxies._registry import Proxy


def grasp(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return ``-sum w (H g)``, signed, over the Conv2d and Linear weights w.

    g is the gradient and H the Hessian of the loss for all w; the loss is the mean cross-entropy of the batch in
    training mode. The product H g is the gradient of ``<g, stop(g)>``. In float32 the cancellation in the sum costs up
    to 9 %: score a float64 copy where the digits matter.

    BaLeNAS (Zhang et al. 2022), Eq. (8); Wang et al. 2020 (GraSP).
    """
    with borrowed(model) as network:
        gradients = network.gradients(network.loss(inputs, targets), create_graph=True)
        inner = sum((g * g.detach()).sum() for g in gradients)
        assert isinstance(inner, Tensor)
        hessian_products = network.gradients(inner)
        return 0.0 - total((w * hg).sum() for w, hg in zip(network.weights.values(), hessian_products, strict=True))


PROXY = Proxy(
    name="grasp",
    compute=grasp,
    higher_is_better=True,
    needs_labels=True,
    description="minus the sum of weight x (Hessian x gradient): the gradient flow kept when removing weights",
    source="Wang et al. 2020 (GraSP); Eq. (8) of BaLeNAS; sign and sum of Abdelfattah et al. 2021",
)
