"""The operations of the DARTS space and of the cells that are written in its form, as plain PyTorch layers.

Parameters come in the order of the reference's own layers, so that its weights are loaded by order.

Sources: Liu et al. 2019 (DARTS, `cnn/operations.py`); Zela et al. 2020 (RobustDARTS, the noise of S4).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.bayes.decisions import NO_CONNECTION
from balenas_plugin.errors import SpaceError, nearest
from balenas_plugin.search_spaces import NONE, PARAMETER_FREE, PARAMETRIC, SKIP


class FactorizedReduce(nn.Module):
    """Halve the resolution: two 1x1 convolutions of stride 2, the second of them a pixel further to the lower right.

    An odd side is rounded up, as in NNI; the reference fails there.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H/2, W/2)``."""
        x = self.relu(x)
        shifted = F.pad(x, (-1, 1, -1, 1))
        halved: Tensor = self.bn(torch.cat([self.conv_1(x), self.conv_2(shifted)], dim=1))
        return halved


class Zero(nn.Module):
    """No connection."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to zeros of ``(N, C, H/stride, W/stride)``."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """Unit normal noise in the place of the input, drawn anew in each pass, in evaluation mode too."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to noise of ``(N, C, H/stride, W/stride)``."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


def relu_conv_bn(in_channels: int, out_channels: int, affine: bool = True) -> nn.Sequential:
    """Return ReLU, a 1x1 convolution and batch-norm."""
    convolution = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(out_channels, affine=affine))


def _separable(channels: int, size: int, stride: int, affine: bool, *, dilation: int = 1) -> nn.Sequential:
    """Return ReLU, a depthwise and a pointwise convolution, and batch-norm."""
    depthwise = nn.Conv2d(
        channels,
        channels,
        size,
        stride=stride,
        padding=dilation * (size // 2),
        dilation=dilation,
        groups=channels,
        bias=False,
    )
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, pointwise, nn.BatchNorm2d(channels, affine=affine))


def _twice(size: int) -> Callable[[int, int, bool], nn.Module]:
    return lambda channels, stride, affine: nn.Sequential(
        *_separable(channels, size, stride, affine), *_separable(channels, size, 1, affine)
    )


def _dilated(size: int) -> Callable[[int, int, bool], nn.Module]:
    return lambda channels, stride, affine: _separable(channels, size, stride, affine, dilation=2)


def _row_and_column(channels: int, stride: int, affine: bool) -> nn.Module:
    row = nn.Conv2d(channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False)
    column = nn.Conv2d(channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False)
    return nn.Sequential(nn.ReLU(), row, column, nn.BatchNorm2d(channels, affine=affine))


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


POOLS: dict[str, Callable[[int], nn.Module]] = {
    "max_pool_3x3": lambda stride: nn.MaxPool2d(3, stride=stride, padding=1),
    "avg_pool_3x3": lambda stride: nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False),
}

OTHERS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    NO_CONNECTION: lambda channels, stride, affine: Zero(stride),
    "skip_connect": _skip,
    "sep_conv_3x3": _twice(3),
    "sep_conv_5x5": _twice(5),
    "sep_conv_7x7": _twice(7),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
    "conv_7x1_1x7": _row_and_column,
    "noise": lambda channels, stride, affine: Noise(stride),
}

NAMES = (*POOLS, *OTHERS)
"""Every operation: those of DARTS, NASNet and AmoebaNet as the reference writes them, and noise."""

_WITHOUT_WEIGHTS = {NO_CONNECTION: NONE, "skip_connect": SKIP, "noise": PARAMETER_FREE}
KINDS = dict.fromkeys(POOLS, PARAMETER_FREE) | dict.fromkeys(OTHERS, PARAMETRIC) | _WITHOUT_WEIGHTS
"""Operation -> its kind."""


def build_operation(
    name: str, channels: int, stride: int, *, affine: bool = True, normalise_pools: bool = False
) -> nn.Module:
    """Return a layer: ``(N, channels, H, W)`` in, ``(N, channels, H/stride, W/stride)`` out.

    Args:
        name: one of `NAMES`.
        channels: C.
        stride: 1 or 2.
        affine: whether batch-norms have weights.
        normalise_pools: whether a batch-norm follows a pooling layer.

    Raises:
        SpaceError: there is no such operation.
    """
    if name in POOLS:
        pool = POOLS[name](stride)
        return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=affine)) if normalise_pools else pool
    if name not in OTHERS:
        raise SpaceError(f"unknown operation {name!r}; allowed: {', '.join(NAMES)}{nearest(name, NAMES)}")
    return OTHERS[name](channels, stride, affine)
