"""Build the network of one NAS-Bench-201 architecture.

    image -> stem -> N cells at C -> residual block -> N cells at 2C -> residual block -> N cells at 4C
          -> batch-norm, ReLU -> global average pool -> linear classifier

Only the operations that the architecture uses exist as modules. Parameters come in the order of the benchmark's own
networks: stem; cells in order, each with its edges in the order of `EDGES`; last batch-norm; classifier. Weights are
freshly initialised with PyTorch's defaults, as in the networks that Abdelfattah et al. (2021) score.

Source: Dong and Yang 2020 (NAS-Bench-201, Section 2.1 and Figure 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from balenas_plugin.errors import OptionError

from .notation import (
    EDGES,
    NODES,
    OPERATIONS,
    Indices,
    check_indices,
    format_string,
    parse,
)
from .operations import ResidualBlock, build_operation

STAGES = 3
"""Of the benchmark's networks."""


def build_network(
    architecture: str | Sequence[int],
    *,
    channels: int = 16,
    cells_per_stage: int = 5,
    stages: int = STAGES,
    num_classes: int = 10,
) -> NasBench201Network:
    """Return a freshly initialised network of `architecture` (the string, or the six operation indices).

    Args:
        architecture: NAS-Bench-201's string, or one index into `OPERATIONS` per edge of `EDGES`.
        channels: C, the width of the first stage; the benchmark uses 16.
        cells_per_stage: N; the benchmark uses 5.
        stages: S, each with twice the channels and half the resolution of the one before; the benchmark uses 3.
        num_classes: size of the output.

    Raises:
        SpaceError: `architecture` is malformed.
        OptionError: a size is not a positive integer.
    """
    sizes = {"channels": channels, "cells_per_stage": cells_per_stage, "stages": stages, "num_classes": num_classes}
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{name} is {value!r}; it must be an integer of at least 1")
    indices = parse(architecture) if isinstance(architecture, str) else check_indices(architecture)
    return NasBench201Network(indices, **sizes)


class Cell(nn.Module):
    """Four nodes, each the sum of what its live edges make of the nodes before it; node 3 is the output."""

    def __init__(self, indices: Indices, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.operations = nn.ModuleDict(
            {
                str(edge): build_operation(OPERATIONS[index], channels)
                for edge, index in zip(EDGES, indices, strict=True)
                if OPERATIONS[index] != "none"
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to the same shape; a node without a live edge is zero."""
        nodes = [x]
        for node in NODES:
            live = [edge for edge in EDGES if edge.target == node and str(edge) in self.operations]
            terms = [self.operations[str(edge)](nodes[edge.source]) for edge in live]
            nodes.append(sum(terms[1:], start=terms[0]) if terms else torch.zeros_like(x))
        return nodes[-1]


class NasBench201Network(nn.Module):
    """An image classifier whose cells all have the architecture `indices`; build it with `build_network`."""

    def __init__(self, indices: Indices, *, channels: int, cells_per_stage: int, stages: int, num_classes: int) -> None:
        super().__init__()
        self.architecture = format_string(indices)
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.cells = nn.Sequential()
        width = channels
        for stage in range(stages):
            if stage > 0:
                self.cells.append(ResidualBlock(width, 2 * width))
                width *= 2
            for _ in range(cells_per_stage):
                self.cells.append(Cell(indices, width))
        self.last_norm = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)``, H and W multiples of 2 to the power of S - 1, to logits ``(N, num_classes)``."""
        features = self.last_norm(self.cells(self.stem(images)))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits

    def extra_repr(self) -> str:
        """Show the architecture in the network's printed form."""
        return self.architecture
