"""Floating-point operations of one example."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from balenas_plugin.proxies._evaluation.network import borrowed
from balenas_plugin.proxies._registry import Proxy


def flops(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return the floating-point operations of one example's forward pass in evaluation mode.

    Convolutions and matrix products count, a multiply-add as two operations; `inputs` ``(N, ...)`` give the size.
    """
    with borrowed(model, training=False) as network, torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.run(inputs[:1])
    return float(counter.get_total_flops())


PROXY = Proxy(
    name="flops",
    compute=flops,
    higher_is_better=True,
    needs_labels=False,
    description="floating-point operations of one example's forward pass (a multiply-add is two)",
    source="torch.utils.flop_counter; the size baseline of NAS-Bench-Suite-Zero (Krishnakumar et al. 2022)",
)
