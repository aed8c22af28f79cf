"""Number of parameters."""

from __future__ import annotations

from torch import Tensor, nn

from balenas_plugin.proxies._registry import Proxy


def params(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return the number of parameters of `model`, shared ones once; the batch is not looked at."""
    return float(sum(parameter.numel() for parameter in model.parameters()))


PROXY = Proxy(
    name="params",
    compute=params,
    higher_is_better=True,
    needs_labels=False,
    description="number of parameters",
    source="the size baseline of Abdelfattah et al. 2021 and of NAS-Bench-Suite-Zero (Krishnakumar et al. 2022)",
)
