"""The DARTS space's operations as references search them: batch-norm without weights, also behind pools."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Zero(nn.Module):
    """Nothing."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x[..., :: self.stride, :: self.stride]


class FactorizedReduce(nn.Module):
    """Half the resolution: two convolutions of stride 2, the second a pixel further."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1, self.conv_2 = (nn.Conv2d(channels, channels // 2, 1, stride=2, bias=False) for _ in range(2))
        self.bn = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], 1))


def separable(channels: int, size: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    """Return ReLU, depthwise and pointwise convolution, batch-norm."""
    padding = dilation * (size // 2)
    depthwise = nn.Conv2d(channels, channels, size, stride, padding, dilation, groups=channels, bias=False)
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    return [nn.ReLU(), depthwise, pointwise, nn.BatchNorm2d(channels, affine=False)]


def operations(names: Sequence[str], channels: int, stride: int) -> dict[str, nn.Module]:
    """Return the operations of those names."""

    def made(name: str) -> nn.Module:
        size = int(name[-1]) if name[-1].isdigit() else 0
        if name == "none":
            return Zero(stride)
        if name == "skip_connect":
            return nn.Identity() if stride == 1 else FactorizedReduce(channels)
        if "pool" in name:
            average = nn.AvgPool2d(size, stride, size // 2, count_include_pad=False)
            pool = average if name.startswith("avg") else nn.MaxPool2d(size, stride, size // 2)
            return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))
        if name.startswith("dil"):
            return nn.Sequential(*separable(channels, size, stride, dilation=2))
        return nn.Sequential(*separable(channels, size, stride), *separable(channels, size, 1))

    return {name: made(name) for name in names}
