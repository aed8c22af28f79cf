"""The plain baseline: torchvision's ResNet-18 with the stem for small images, of any width."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

_WIDTH = 64  # of torchvision's first stage
_LARGE_IMAGES = 128


class NarrowResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """ResNet-18 (He et al. 2016) whose stages have `width`, 2, 4 and 8 times as many channels.

    Images of less than 128 pixels a side get a stem that keeps the resolution, as the paper's networks for CIFAR-10.

    Args:
        width: channels of the first stage; torchvision's has 64.
        num_classes: size of the output.
        image_size: side of the images in pixels.
    """

    def __init__(self, *, width: int, num_classes: int, image_size: int) -> None:
        self._width = width
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
        small = image_size < _LARGE_IMAGES
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(3, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        if small:
            self.maxpool = nn.Identity()
        self.fc = nn.Linear(self.inplanes, num_classes)

    def _make_layer(self, block: Any, planes: int, blocks: int, *given: Any, **options: Any) -> nn.Sequential:
        if planes == _WIDTH:
            self.inplanes = self._width
        layer: nn.Sequential = super()._make_layer(block, planes * self._width // _WIDTH, blocks, *given, **options)
        return layer
