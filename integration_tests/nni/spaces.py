"""Tiny model spaces, one for every kind that NNI's DARTS can search; inputs are vectors of 8 or images of 1 x 6 x 6."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nni
import torch
from nni.nas.nn.pytorch import (
    Cell,
    InputChoice,
    LayerChoice,
    ModelSpace,
    MutableBatchNorm2d,
    MutableConv2d,
    MutableLayerNorm,
    MutableLinear,
    MutableMultiheadAttention,
    Repeat,
)
from torch import Tensor, nn

VECTOR = (8,)
IMAGE = (1, 6, 6)
CLASSES = 3


class Layers(ModelSpace):
    """Two independent LayerChoices, one of a list and one of named layers."""

    def __init__(self) -> None:
        super().__init__()
        self.op = LayerChoice([nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Identity()], label="op")
        self.act = LayerChoice({"relu": nn.ReLU(), "none": nn.Identity()}, label="act")
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.op(x)))


class NestedLayers(ModelSpace):
    """A LayerChoice one of whose candidates holds another."""

    def __init__(self) -> None:
        super().__init__()
        inner = LayerChoice({"wide": nn.Linear(8, 8), "thin": nn.Linear(8, 8, bias=False)}, label="inner")
        self.outer = LayerChoice([nn.Linear(8, 8), nn.Sequential(inner, nn.Tanh())], label="outer")
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.outer(x))


class SharedLabel(ModelSpace):
    """Three LayerChoices of which two share a label."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LayerChoice([nn.Linear(8, 8), nn.Identity()], label="shared")
        self.second = LayerChoice([nn.Linear(8, 8), nn.Identity()], label="shared")
        self.own = LayerChoice([nn.Linear(8, CLASSES), nn.Linear(8, CLASSES, bias=False)], label="a_head")

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self.second(torch.tanh(self.first(x))))


class Inputs(ModelSpace):
    """An InputChoice at the output: `n_chosen` of four tensors."""

    def __init__(self, n_chosen: int = 1, reduction: str = "sum") -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(8, CLASSES) for _ in range(4))
        self.inputs = InputChoice(4, n_chosen=n_chosen, reduction=reduction, label="inputs")

    def forward(self, x: Tensor) -> Tensor:
        return self.inputs([head(x) for head in self.heads])


class Depth(ModelSpace):
    """A Repeat of one to three blocks, each with a LayerChoice of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Repeat(
            lambda index: LayerChoice([nn.Linear(8, 8), nn.Identity()], label=f"block{index}"), (1, 3), label="depth"
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


class DepthExpression(ModelSpace):
    """A Repeat whose depth is an expression of a value choice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Repeat(lambda index: nn.Linear(8, 8), nni.choice("half_depth", [1, 2]) * 2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


def _operations() -> dict[str, nn.Module]:
    return {"linear": nn.Linear(8, 8), "identity": nn.Identity()}


def _factories() -> dict[str, Callable[..., nn.Module]]:
    return {
        "linear": lambda node, op, chosen: nn.Linear(8, 8),
        "identity": lambda node, op, chosen: nn.Identity(),
        "scaled": lambda node, op, chosen: nn.Linear(8, 8, bias=False),
    }


class PlainCell(ModelSpace):
    """A Cell that keeps all nodes; NNI searches it as LayerChoices and InputChoices, and can freeze it."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(
            _operations(), num_nodes=2, num_ops_per_node=1, num_predecessors=2, merge_op="all", label="cell"
        )
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x, torch.tanh(x)))


class LooseEndCell(ModelSpace):
    """A Cell that keeps the nodes nothing else uses; a supernet cell, which NNI cannot freeze."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(_operations(), num_nodes=2, num_predecessors=2, merge_op="loose_end", label="cell")
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x, torch.tanh(x)))


class FactoryCell(ModelSpace):
    """A Cell built by operation factories, two operations per node; a supernet cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(
            _factories(), num_nodes=2, num_ops_per_node=2, num_predecessors=2, merge_op="all", label="cell"
        )
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x, torch.tanh(x)))


class SharedCells(ModelSpace):
    """Two supernet cells under one label: one architecture, two sets of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Linear(16, 8)
        self.first = Cell(_factories(), num_nodes=2, num_predecessors=2, merge_op="all", label="cell")
        self.second = Cell(_factories(), num_nodes=2, num_predecessors=2, merge_op="all", label="cell")
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(self.first(x, torch.tanh(x)))
        return self.head(self.second(x, y))


class CrowdedCell(ModelSpace):
    """A supernet cell whose first node has fewer inputs than operations, so NNI takes an input twice."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(_factories(), num_nodes=1, num_ops_per_node=2, num_predecessors=1, label="cell")
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x))


class ConvolutionValues(ModelSpace):
    """Value choices of a convolution, the batch norm after it and the linear layer after that."""

    def __init__(self) -> None:
        super().__init__()
        channels, kernel = nni.choice("channels", [2, 4]), nni.choice("kernel", [1, 3])
        self.conv = MutableConv2d(1, channels, kernel, padding=kernel // 2)
        self.norm = MutableBatchNorm2d(channels)
        self.head = MutableLinear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class LinearValues(ModelSpace):
    """A hidden width, and one derived from it by an expression."""

    def __init__(self) -> None:
        super().__init__()
        width = nni.choice("width", [2, 4, 6])
        self.first = MutableLinear(8, width)
        self.second = MutableLinear(width, width + 1)
        self.head = MutableLinear(width + 1, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


class LayerNormValues(ModelSpace):
    """The width of a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        width = nni.choice("width", [4, 8])
        self.first = MutableLinear(8, width)
        self.norm = MutableLayerNorm(width)
        self.head = MutableLinear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.first(x)))


class AttentionValues(ModelSpace):
    """The width of a multi-head attention over two tokens."""

    def __init__(self) -> None:
        super().__init__()
        width = nni.choice("width", [4, 8])
        self.embed = MutableLinear(4, width)
        self.attention = MutableMultiheadAttention(width, 1, batch_first=True)
        self.head = MutableLinear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.reshape(-1, 2, 4))
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head(mixed.mean(1))


class Convolutions(ModelSpace):
    """A choice between pooling, an identity and two convolutions."""

    def __init__(self) -> None:
        super().__init__()

        def convolution(size: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(4, 4, size, padding=size // 2, bias=False), nn.BatchNorm2d(4))

        self.stem = nn.Conv2d(1, 4, 1)
        pool = nn.AvgPool2d(3, 1, 1)
        self.op = LayerChoice([pool, nn.Identity(), convolution(1), convolution(3)], label="op")
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.op(self.stem(x)).mean((2, 3)))


class NothingToSearch(ModelSpace):
    """A model without a choice."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model space and what is known about it.

    Args:
        space: creates it.
        size: number of its distinct networks.
        shape: of one input.
        freezes: NNI can freeze its supernet.
        faithful: samples whose frozen network computes, in NNI, what the supernet does when every choice is certain.
            Not so where NNI's supernet averages the chosen inputs that the frozen network adds up, or normalises and
            scales a narrow layer as if it had its full width.
    """

    space: Callable[[], ModelSpace]
    size: int
    shape: tuple[int, ...] = VECTOR
    freezes: bool = True
    faithful: Callable[[dict[str, Any]], bool] = lambda architecture: True


CASES = {
    "layer_choice": Case(space=Layers, size=3 * 2),
    "nested_layer_choice": Case(space=NestedLayers, size=1 + 2),
    "shared_label": Case(space=SharedLabel, size=2 * 2),
    "input_choice": Case(space=Inputs, size=4),
    "input_choice_two_sum": Case(space=lambda: Inputs(2, "sum"), size=6, faithful=lambda architecture: False),
    "input_choice_two_mean": Case(space=lambda: Inputs(2, "mean"), size=6, faithful=lambda architecture: False),
    "repeat": Case(space=Depth, size=2 + 2**2 + 2**3),
    "repeat_expression": Case(space=DepthExpression, size=2),
    "cell_plain": Case(space=PlainCell, size=(2 * 2) * (3 * 2)),
    "cell_loose_end": Case(space=LooseEndCell, size=(2 * 2) * (3 * 2), freezes=False),
    "cell_factory": Case(space=FactoryCell, size=3**2 * (3 * 3**2), freezes=False),
    "cell_shared": Case(space=SharedCells, size=(2 * 3) * (3 * 3), freezes=False),
    "cell_crowded": Case(space=CrowdedCell, size=3, freezes=False),
    "convolution_values": Case(space=ConvolutionValues, size=2 * 2, shape=IMAGE),
    "linear_values": Case(space=LinearValues, size=3),
    "layer_norm_values": Case(space=LayerNormValues, size=2, faithful=lambda architecture: architecture["width"] == 8),
    "attention_values": Case(space=AttentionValues, size=2, faithful=lambda architecture: architecture["width"] == 8),
}
