"""The layers that a NAS-Bench-201 network is made of.

Source: Dong and Yang 2020 (NAS-Bench-201, Section 2.1 and Figure 1).
"""

from __future__ import annotations

from torch import Tensor, nn

from balenas_plugin.errors import SpaceError, nearest

from .notation import OPERATIONS


def relu_conv_bn(in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Return ReLU, convolution without bias (zero-padded to keep the size at stride 1) and affine batch-norm."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def build_operation(name: str, channels: int) -> nn.Module:
    """Return the layer called `name` on one edge: ``(N, channels, H, W)`` in, the same shape out.

    ``none`` has no layer: a cell leaves such an edge out.

    Raises:
        SpaceError: `name` is ``none`` or no operation of NAS-Bench-201.
    """
    if name == "skip_connect":
        return nn.Identity()
    if name == "nor_conv_1x1":
        return relu_conv_bn(channels, channels, kernel_size=1)
    if name == "nor_conv_3x3":
        return relu_conv_bn(channels, channels, kernel_size=3)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    layers = OPERATIONS[1:]
    raise SpaceError(f"operation {name!r} has no layer; allowed: {', '.join(layers)}{nearest(name, layers)}")


class ResidualBlock(nn.Module):
    """Halve the resolution: two 3x3 convolutions, the first with stride 2, beside a pooled 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_a = relu_conv_bn(in_channels, out_channels, kernel_size=3, stride=2)
        self.conv_b = relu_conv_bn(out_channels, out_channels, kernel_size=3)
        self.downsample = nn.Sequential(
            nn.AvgPool2d(2, stride=2),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H/2, W/2)``."""
        halved: Tensor = self.downsample(x) + self.conv_b(self.conv_a(x))
        return halved
