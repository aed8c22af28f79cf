"""Surgery on channels: operations are really built narrower, and widened with copies of what they had."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from balenas_plugin.errors import SpaceError
from balenas_plugin.mixed_ops.channels import (
    channel_shuffle,
    keeps_width,
    narrowed,
    random_copies,
    require_widenable,
    widen,
    width_of,
)
from balenas_plugin.mixed_ops.passing import joined


class Bottleneck(nn.Module):
    """A module of a user's own, whose forward does more than to call its layers in turn."""

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 3 * channels, 1)
        self.spatial = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(3 * channels)
        self.project = nn.Conv2d(3 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.norm(self.spatial(self.expand(x))).relu())


class Halves(nn.Module):
    """Two convolutions side by side (a factorized reduction)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(channels, channels // 2, 1, stride=2) for _ in range(2))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([part(x) for part in self.parts], 1))


def depthwise(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


OPERATIONS = {
    "depthwise": depthwise,
    "grouped": lambda channels: nn.Conv2d(channels, channels, 3, padding=1, groups=2),
    "own": Bottleneck,
    "own, grouped": lambda channels: Bottleneck(channels, groups=2),
    "own, depthwise": lambda channels: Bottleneck(channels, groups=3 * channels),
    "halves": Halves,
    "pool": lambda channels: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(channels, affine=False)),
}


def shapes(operation: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in operation.state_dict().items()}


@pytest.mark.parametrize("make", OPERATIONS.values(), ids=OPERATIONS)
def test_a_narrow_operation_and_a_widened_one_are_what_their_width_asks_for(make):
    whole = make(16)
    narrow = narrowed(whole, 4)
    assert width_of(whole) == 16
    assert shapes(narrow) == shapes(make(4))
    assert [m.groups for m in narrow.modules() if hasattr(m, "groups")] == [
        m.groups for m in make(4).modules() if hasattr(m, "groups")
    ]
    widen(narrow, k=4, new_k=2, copies=random_copies(torch.Generator().manual_seed(1)))
    assert shapes(narrow) == shapes(make(8))
    assert narrow(torch.randn(2, 8, 6, 6)).shape[1] == 8
    assert keeps_width(narrow, 8)
    sixth = narrowed(make(72), 6)  # as DrNAS on CIFAR-10
    require_widenable(sixth, k=6, new_k=4)
    widen(sixth, k=6, new_k=4, copies=random_copies(torch.Generator().manual_seed(1)))
    assert shapes(sixth) == shapes(make(18))


def test_a_depthwise_convolution_of_one_channel_is_widened_as_one():
    narrow = narrowed(depthwise(4), 4)
    widen(narrow, k=4, new_k=1, copies=random_copies(torch.Generator().manual_seed(1)))
    assert shapes(narrow) == shapes(depthwise(4))


def test_weights_keep_the_law_they_were_initialised_by():
    torch.manual_seed(0)
    narrow = narrowed(nn.Conv2d(512, 512, 1), 4)
    assert narrow.weight.std().item() == pytest.approx(nn.Conv2d(128, 128, 1).weight.std().item(), rel=0.02)


def test_copies_come_from_the_generator_and_momentum_goes_with_them():
    after = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        operation = narrowed(Bottleneck(8), 4)
        sgd = torch.optim.SGD(operation.parameters(), lr=0.1, momentum=0.9)
        operation(torch.randn(2, 2, 5, 5)).sum().backward()
        sgd.step()
        buffers = {p: sgd.state[p]["momentum_buffer"].clone() for p in operation.parameters()}
        values = {p: p.detach().clone() for p in operation.parameters()}
        widen(operation, k=4, new_k=2, copies=random_copies(torch.Generator().manual_seed(seed)), optimizers=[sgd])
        weight = operation.project.weight
        pairs = [
            (weight[i, j].item(), sgd.state[weight]["momentum_buffer"][i, j].item())
            for i in range(4)
            for j in range(12)
        ]
        old = set(zip(values[weight].flatten().tolist(), buffers[weight].flatten().tolist(), strict=True))
        assert set(pairs) <= old
        assert all(p.grad is None and sgd.state[p]["momentum_buffer"].shape == p.shape for p in operation.parameters())
        operation(torch.randn(2, 4, 5, 5)).sum().backward()
        sgd.step()
        after.append(weight.detach().clone())
    assert torch.equal(after[0], after[1])
    assert not torch.equal(after[0], after[2])


def test_the_input_of_a_layer_copies_what_fed_it():
    """So do batch-norms: their statistics belong to the channels that were copied."""
    operation = narrowed(depthwise(8), 2)
    operation[2].running_mean.copy_(torch.arange(4.0))
    indices = iter([torch.tensor([3, 3, 0, 1]), torch.tensor([2, 0, 2, 1])])
    point = operation[1].weight.detach().clone()
    widen(operation, k=2, new_k=1, copies=lambda channels, added: next(indices))
    assert operation[2].running_mean.tolist() == [0, 1, 2, 3, 2, 0, 2, 1]
    assert torch.equal(operation[1].weight[:4, 4:], point[:, [3, 3, 0, 1]])


class OfSixteen(nn.Conv2d):
    """Works with 16 channels only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(len(x), 16, *x.shape[2:]))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (nn.Conv2d(6, 6, 1), r"edge.1 \(Conv2d\) has 6 channels .* cannot be divided by k=4"),
        (nn.Conv2d(16, 16, 1, groups=8), "k=4 in its 8 groups"),
        (nn.ConvTranspose2d(16, 16, 1), "edge.1 is a ConvTranspose2d, of which partial channels cannot be built"),
        (nn.GRU(16, 16), "edge.1 is a GRU"),
        (OfSixteen(16, 16, 1), "does not run with 4 of its 16 channels"),
        (nn.Conv2d(16, 32, 1), "makes 8 channels of 4"),
    ],
)
def test_what_cannot_be_narrowed_is_refused(operation, message):
    with pytest.raises(SpaceError, match=message):
        narrowed(nn.Sequential(nn.ReLU(), operation), 4, called="edge")


def test_a_shuffle_takes_one_channel_of_each_group_in_turn():
    assert channel_shuffle(torch.arange(8).view(1, 8), 4).tolist() == [[0, 2, 4, 6, 1, 3, 5, 7]]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_node_is_joined_in_one_go(weighted, shuffle):
    """Values and both derivatives are those of the operations one by one; so are rows of a Hessian, taken at once."""
    torch.manual_seed(0)
    mixed = torch.randn(2, 2, 3, 3).double().to(memory_format=torch.channels_last).requires_grad_()
    nodes = [torch.randn(2, 8, 3, 3).double().requires_grad_() for _ in range(2)]
    weights = [torch.randn(()).double().requires_grad_() for _ in nodes] if weighted else []

    def node(mixed, *given):
        return joined(mixed, [x[:, 2:] for x in given[:2]], given[2:] or None, k=4, shuffle=shuffle)

    scaled = [w * x[:, 2:] for w, x in zip(weights, nodes, strict=True)] if weighted else [x[:, 2:] for x in nodes]
    whole = torch.cat([mixed, sum(scaled[1:], start=scaled[0])], 1)
    one_by_one = channel_shuffle(whole, 4) if shuffle else whole
    given = [mixed, *nodes, *weights]
    torch.testing.assert_close(node(*given), one_by_one)
    assert torch.autograd.gradcheck(node, given, check_batched_grad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(node, given, check_batched_grad=True, fast_mode=True)
