"""Networks that are written as modules of their own."""

from __future__ import annotations

import random

import nni
import torch
import torch.nn.functional as F
from nni.nas.hub.pytorch import DARTS, NasBench201
from nni.nas.nn.pytorch import ModelSpace, MutableBatchNorm2d, MutableConv2d, MutableLinear
from nni.nas.space import model_context
from torch import Tensor, nn

from balenas_plugin.search_spaces.nasbench201 import build_network, parse, to_nni

ARCHITECTURE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"
IMAGES = (2, 3, 16, 16)


class UserNetwork(nn.Module):
    """Functions, attributes and tensors beside the layers, as users write them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding="same")
        self.norm = nn.BatchNorm2d(4)
        self.add_module("1x1", nn.Conv2d(4, 6, 1))
        self.heads = nn.ModuleDict({"a-b": nn.Linear(6 * 4, 5)})
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.gate = nn.Parameter(torch.randn(3))
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1))
        self.register_buffer("table", torch.randn(6, 4, 4), persistent=False)
        self.unused = nn.Linear(2, 2)
        self.drop = 0.3

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x * mask
        x = (x - self.mean) * torch.sigmoid(self.gate).view(3, 1, 1)
        x = F.relu(self.norm(self.conv(x))) * self.scale
        x = getattr(self, "1x1")(F.interpolate(x, size=(4, 4))) + self.table
        x = F.dropout(x[:, :, ::2, ::2] + torch.arange(2), self.drop, self.training)
        return self.heads["a-b"](x.reshape(x.shape[0], -1))


class Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


class SharedWeights(nn.Module):
    """One layer in two blocks, one block twice in a row, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        layer, block = nn.Linear(6, 6), Twice(nn.Linear(6, 6))
        self.first, self.second = Twice(layer), Twice(layer)
        self.row = nn.Sequential(block, nn.ReLU(), block)
        self.embed = nn.Embedding(9, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.row(self.second(self.first(self.embed(tokens)))).mean(1))


class Parameters(nn.Module):
    """Parameters in lists, some of them frozen, and one layer frozen too."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.ParameterList([nn.Parameter(torch.randn(4)) for _ in range(2)])
        self.shifts = nn.ParameterDict({"a b": nn.Parameter(torch.zeros(4))})
        self.fixed = nn.Parameter(torch.full((4,), 2.0), requires_grad=False)
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.layers[0].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x * self.factors[0] + self.factors[1] * self.shifts["a b"] * self.fixed


class Noisy(nn.Module):
    """Drops whole examples in training, with a different course of the code in each mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.auxiliary = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.layer(x)
        if self.training:
            keep = y.new_empty((y.shape[0], 1)).bernoulli_(0.5)
            return y * keep, self.auxiliary(y)
        return y


class Lists(nn.Module):
    """A block that takes a list and one that returns one, which the network goes through."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, values: list[Tensor]) -> Tensor:
            return self.layer(sum(values))

    class Powers(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x, x**2, x**3]

    def __init__(self) -> None:
        super().__init__()
        self.sum = self.Sum()
        self.powers = self.Powers()

    def forward(self, x: Tensor) -> Tensor:
        return self.sum([value + 1 for value in self.powers(x)])


class Sizes(ModelSpace):
    """A space of sizes, whose layers are NNI's own classes even once it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        width = nni.choice("width", [4, 6])
        self.conv = MutableConv2d(3, width, 3)
        self.norm = MutableBatchNorm2d(width)
        self.head = MutableLinear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def nni_network() -> nn.Module:
    return NasBench201(stem_out_channels=4, num_modules_per_stack=2).freeze(to_nni(parse(ARCHITECTURE)))


def darts() -> nn.Module:
    random.seed(3)
    architecture: dict = {}
    DARTS(width=4, num_cells=3, dataset="cifar").random(architecture)
    with model_context(architecture):
        return DARTS(width=4, num_cells=3, dataset="cifar", auxiliary_loss=True, drop_path_prob=0.2)


NETWORKS = {
    "nni": (nni_network, IMAGES),
    "ours": (lambda: build_network(ARCHITECTURE, channels=4, cells_per_stage=2), IMAGES),
    "user": (UserNetwork, IMAGES),
    "darts": (darts, (2, 3, 32, 32)),
    "nni_sizes": (lambda: Sizes().freeze({"width": 6}), IMAGES),
    "shared": (SharedWeights, None),
    "parameters": (Parameters, (3, 4)),
    "noisy": (Noisy, (3, 4)),
    "lists": (Lists, (3, 4)),
    "sequential": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.PReLU(), nn.Softmax(-1)), (2, 3, 2, 2)),
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network whose batch-norms have seen data, so that their statistics matter."""
    factory, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = factory()
    example = torch.randint(0, 9, (3, 7)) if shape is None else torch.randn(shape)
    with torch.no_grad():
        network.train()(example)
    return network, example
