"""The network that NAS-Bench-101 trains of a module.

    image -> stem -> M modules at C -> pool -> M modules at 2C -> pool -> M modules at 4C -> mean -> linear

A vertex adds what its parents give, the output joins it instead; what comes from the module's input is projected and
always added. The output's channels are divided among the vertices that feed it, the first take the remainder; any other
vertex has the most channels of those that it feeds, and one that gets more channels than it has leaves the last out.

Source: Ying et al. 2019 (NAS-Bench-101, Section 2.1 and Figure 1); the widths are those of its released code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from balenas_plugin.errors import SpaceError
from balenas_plugin.options import PositiveInt, checked

from .module_spec import CONV1X1, CONV3X3, MAXPOOL, ModuleSpec

_MOMENTUM = 0.003
_STACKS = 3


class NasBench101Network(nn.Module):
    """An image classifier of modules that are all alike.

    Args:
        spec: of the module; what it does not use is left out.
        channels: of the stem and the first stack; the benchmark uses 128.
        cells_per_stage: modules of a stack; the benchmark uses 3.
        num_classes: size of the output.

    Raises:
        SpaceError: no path of the module leads from the input to the output.
        OptionError: a size is no whole number of at least 1.
    """

    def __init__(
        self, spec: ModuleSpec, *, channels: int = 128, cells_per_stage: int = 3, num_classes: int = 10
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "cells_per_stage": cells_per_stage, "num_classes": num_classes}
        for name, size in sizes.items():
            checked(name, size, PositiveInt)
        spec = spec.pruned()
        if len(spec.operations) < 2:
            raise SpaceError("no path leads from the module's input to its output")
        self.stem = _conv_bn_relu(3, channels, 3)
        self.stacks = nn.Sequential()
        width = channels
        for stack in range(_STACKS):
            if stack:
                self.stacks.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
            given, width = width, channels << stack
            modules = [VertexModule(spec, width if number else given, width) for number in range(cells_per_stage)]
            self.stacks.append(nn.Sequential(*modules))
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.classifier(self.stacks(self.stem(images)).mean((2, 3)))
        return logits


class VertexModule(nn.Module):
    """One module."""

    def __init__(self, spec: ModuleSpec, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.widths = vertex_widths(spec, in_channels, out_channels)
        output = len(self.widths) - 1
        self.projections = nn.ModuleDict(
            {str(v): _conv_bn_relu(in_channels, self.widths[v], 1) for v in range(1, output + 1) if spec.matrix[0][v]}
        )
        self.operations = nn.ModuleDict(
            {str(v): _operation(spec.operations[v], self.widths[v]) for v in range(1, output)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        values = {0: x}
        output = len(self.widths) - 1
        for v in range(1, output + 1):
            inner = [values[u] for u in self.spec.parents(v) if u]
            given = [torch.cat(inner, 1)] if v == output and inner else [value[:, : self.widths[v]] for value in inner]
            given += [self.projections[str(v)](x)] if str(v) in self.projections else []
            received = sum(given[1:], given[0])
            values[v] = received if v == output else self.operations[str(v)](received)
        return values[output]


def vertex_widths(spec: ModuleSpec, in_channels: int, out_channels: int) -> list[int]:
    """Return the channels of each vertex of a pruned module."""
    output = len(spec.operations) - 1
    widths = [in_channels, *[0] * (output - 1), out_channels]
    joined = [v for v in range(1, output) if spec.matrix[v][output]]
    for place, v in enumerate(joined):
        widths[v] = out_channels // len(joined) + (place < out_channels % len(joined))
    for v in reversed(range(1, output)):
        widths[v] = widths[v] or max(widths[w] for w in range(v + 1, output) if spec.matrix[v][w])
    return widths


def _operation(name: str, channels: int) -> nn.Module:
    if name == MAXPOOL:
        return nn.MaxPool2d(3, stride=1, padding=1)
    return _conv_bn_relu(channels, channels, {CONV3X3: 3, CONV1X1: 1}[name])


def _conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels, momentum=_MOMENTUM),
        nn.ReLU(),
    )
