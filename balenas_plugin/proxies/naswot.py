"""NASWOT: whether the examples of a batch switch different rectified units on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from balenas_plugin.proxies._evaluation.network import borrowed
from balenas_plugin.proxies._registry import Proxy

_RECTIFIERS = frozenset({"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_"})
_EXACT_IN_FLOAT32 = 2**24


def naswot(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return ``log |det K_H|`` of the kernel ``K_H[i, j] = N_A - d_H(c_i, c_j)`` of the examples' binary codes.

    The code c_i of an example says which of the network's N_A rectified units are positive for it; d_H is the Hamming
    distance. Every ReLU counts, called as a module or as a function, also leaky and clipped ones (ReLU6). The network
    is in training mode. ``-inf`` for a network without them (with a warning).

    Mellor et al. 2021 ("Neural architecture search without training", ICML).
    """
    codes = _CodeKernel(inputs.shape[0])
    with borrowed(model) as network, torch.no_grad(), codes:
        network.run(inputs)
    if codes.kernel is None:
        warnings.warn(f"naswot: {type(model).__name__} has no rectified units, so no binary codes", stacklevel=2)
        return -math.inf
    return float(torch.linalg.slogdet(codes.kernel.cpu()).logabsdet)


class _CodeKernel(TorchFunctionMode):
    """Add up, over all rectified units that a forward pass meets, in how many each two examples agree."""

    def __init__(self, num_examples: int) -> None:
        super().__init__()
        self._num_examples = num_examples
        self.kernel: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        options: dict[str, Any] = kwargs or {}
        name = getattr(func, "__name__", "")
        clips_at_zero = name in ("hardtanh", "hardtanh_") and [*args[1:2], options.get("min_val")][0] == 0  # ReLU6
        if name in _RECTIFIERS or clips_at_zero:
            self._add(args[0] if args else options["input"])
        return func(*args, **options)

    def _add(self, before: Tensor) -> None:
        if before.dim() == 0 or before.shape[0] != self._num_examples:
            return  # a function of the weights, not of the examples
        positive = before.flatten(1) > 0
        units = positive.shape[1]
        signs = positive.to(torch.float32 if units < _EXACT_IN_FLOAT32 else torch.float64).mul_(2).sub_(1)
        agreements = ((signs @ signs.T).double() + units) / 2  # whole numbers, exact
        self.kernel = agreements if self.kernel is None else self.kernel + agreements


PROXY = Proxy(
    name="naswot",
    compute=naswot,
    higher_is_better=True,
    needs_labels=False,
    description="log-determinant of how often the examples' rectified units agree",
    source="Mellor et al. 2021 (NASWOT)",
)
