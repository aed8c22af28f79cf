"""A search space of three edges, as a folder of search_spaces/ would hold it: what a space must say, and no more.

Node 1 gets `first` of the cell's input; node 2, the output, gets `second` of node 1 and `bypass` of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.errors import SpaceError
from balenas_plugin.search_spaces import NONE, PARAMETRIC, SKIP, CellEdge, Reading, SearchSpace

OPERATIONS = ("conv", "pass", "void")
EDGES = {"first": (0, 1), "second": (1, 2), "bypass": (0, 2)}
_CHOICES = dict.fromkeys(EDGES, OPERATIONS)
_KINDS = {"conv": PARAMETRIC, "pass": SKIP, "void": NONE}


class Void(nn.Module):
    """No connection."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def operation(name: str, channels: int) -> nn.Module:
    """Return a layer."""
    if name == "conv":
        return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
    return nn.Identity() if name == "pass" else Void()


class Network(nn.Module):
    """Cells between a stem and a classifier; `edge` makes what stands on an edge."""

    def __init__(self, edge: Any, channels: int, cells: int, num_labels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.cells = nn.ModuleList(nn.ModuleDict({name: edge(name) for name in EDGES}) for _ in range(cells))
        self.head = nn.Linear(channels, num_labels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for cell in self.cells:
            x = cell["second"](cell["first"](x)) + cell["bypass"](x)
        return self.head(x.mean((2, 3)))


class Chain(SearchSpace):
    """The space."""

    name = "chain"
    title = "Chain-27"
    supernet = "balenas_plugin.search_spaces.chain.supernet:ChainSupernet"
    ground_truth = "balenas_plugin.search_spaces.chain.ground_truth"
    size = 27
    choices = _CHOICES
    kinds = _KINDS

    def __init__(
        self, *, channels: int = 4, cells_per_stage: int = 1, num_classes: int = 10, image_size: int = 8
    ) -> None:
        self._sizes = (channels, cells_per_stage, num_classes)
        self.image_shape = (3, image_size, image_size)

    def like(self, supernet: Any, image_shape: tuple[int, int, int]) -> Chain:
        classes = supernet.head.out_features
        return Chain(channels=supernet.stem.out_channels, num_classes=classes, image_size=image_shape[1])

    def notation(self, architecture: Architecture) -> str:
        return "{first}>{second}/{bypass}".format(**architecture)

    def read(self, text: str, *, notation: str | None = None) -> Reading:
        words = text.replace(">", "/").split("/")
        if len(words) != 3 or not set(words) <= set(OPERATIONS):
            raise SpaceError(f"{text!r} is no architecture of Chain-27, such as conv>pass/void")
        return Reading("own", sample=dict(zip(EDGES, words, strict=True)))

    def cells(self, architecture: Mapping[str, Any]) -> dict[str, list[CellEdge]]:
        edges = [
            CellEdge(*nodes, str(architecture[label]), label) for label, nodes in EDGES.items() if label in architecture
        ]
        return {"chain": edges} if edges else {}

    def build(self, architecture: Architecture) -> nn.Module:
        return Network(lambda name: operation(architecture[name], self._sizes[0]), *self._sizes)


SPACE = Chain()
