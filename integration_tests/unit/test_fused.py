"""Mixed operations computed together equal the same operations one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from balenas_plugin.fused import Branch, Chain, Fan, Opaque, Zero, combine, read_chain
from balenas_plugin.fused.lanes import Lanes
from balenas_plugin.fused.sums import average_pool, weighted_sum

CHANNELS = 4


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0


class Scaled(nn.Module):
    """Something that only it understands."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * self.factor


def conv_block(kernel_size: int, **norm: object) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(CHANNELS, **norm),  # type: ignore[arg-type]
    )


def separable(kernel_size: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, kernel_size, padding=kernel_size // 2, groups=CHANNELS, bias=False),
            nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
            nn.BatchNorm2d(CHANNELS),
        ]
    return nn.Sequential(*layers)


OPERATIONS = {
    "zero": Nothing,
    "identity": nn.Identity,
    "conv 1x1": lambda: conv_block(1),
    "conv 3x3": lambda: conv_block(3),
    "norm without gamma": lambda: conv_block(3, affine=False),
    "norm without statistics": lambda: conv_block(1, track_running_stats=False),
    "norm of another momentum": lambda: conv_block(3, momentum=0.3),
    "norm first": lambda: nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.ReLU()),
    "separable": lambda: separable(3),
    "biased": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
    "average": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "average with padding": lambda: nn.AvgPool2d(3, 1, 1),
    "maximum": lambda: nn.MaxPool2d(3, 1, 1),
    "normalised maximum": lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(CHANNELS, affine=False)),
    "unknown": Scaled,
}
UNWRAP = {Nothing: lambda module: Zero()}


def reference(branches: list[Branch], x: Tensor, weights: Tensor) -> dict[int, Tensor]:
    """Call one operation after the other."""
    sums: dict[int, Tensor] = {}
    for branch, weight in zip(branches, weights.unbind(), strict=True):
        term = weight * branch.operation(x)
        sums[branch.target] = term if branch.target not in sums else sums[branch.target] + term
    return sums


def through_fan(branches: list[Branch], x: Tensor, weights: Tensor) -> dict[int, Tensor]:
    of_targets = weights.chunk(len({branch.target for branch in branches}))
    return {target: combine([found]) for target, found in Fan(branches, UNWRAP)(x, of_targets).items()}


def run(how, names: list[str], targets: int, *, dtype: torch.dtype, channels_last: bool, training: bool):
    """Return results, gradients (input, weights, parameters) and buffers of one pass."""
    torch.manual_seed(0)
    branches = [Branch(OPERATIONS[name]().to(dtype), target) for target in range(targets) for name in names]
    model = nn.ModuleList(branch.operation for branch in branches).train(training)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.5, 0.5)
    x = torch.randn(6, CHANNELS, 5, 7, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    x.requires_grad_()
    weights = torch.randn(len(branches), dtype=dtype, requires_grad=True)
    results = how(branches, x, weights)
    loss = sum((torch.sin(result) * torch.rand_like(result[:1])).sum() for _, result in sorted(results.items()))
    assert isinstance(loss, Tensor)
    loss.backward()
    return results, [x.grad, weights.grad, *(p.grad for p in model.parameters())], dict(model.named_buffers())


def assert_same(given, expected, tolerance: float) -> None:
    for a, b in zip(given[0].values(), expected[0].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.detach().abs().max()))
    largest = max(float(g.abs().max()) for g in expected[1] if g is not None)
    for a, b in zip(given[1], expected[1], strict=True):
        a, b = (torch.zeros(()) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * largest, check_dtype=False)
    for name, buffer in expected[2].items():
        torch.testing.assert_close(given[2][name], buffer, rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=5),
    targets=st.integers(1, 3),
    channels_last=st.booleans(),
    training=st.booleans(),
)
def test_a_fan_equals_its_branches_one_by_one(names, targets, channels_last, training) -> None:
    if set(names) == {"zero"}:
        names = [*names, "identity"]
    options = {"dtype": torch.float64, "channels_last": channels_last, "training": training}
    expected = run(reference, names, targets, **options)
    assert_same(run(through_fan, names, targets, **options), expected, 1e-10)


@pytest.mark.parametrize("channels_last", [False, True])
def test_float32_agrees_to_rounding(channels_last: bool) -> None:
    options = {"dtype": torch.float32, "channels_last": channels_last, "training": True}
    expected = run(reference, sorted(OPERATIONS), 3, **options)
    assert_same(run(through_fan, sorted(OPERATIONS), 3, **options), expected, 1e-5)


@pytest.mark.parametrize("name", ["separable", "conv 3x3", "biased"])
@pytest.mark.parametrize("wide", [False, True])
def test_lanes_are_the_same_side_by_side_and_alone(name: str, wide: bool) -> None:
    torch.manual_seed(0)
    operations = [OPERATIONS[name]().double() for _ in range(3)]
    copies = copy.deepcopy(operations)
    chains = [read_chain(operation) for operation in operations]
    assert all(isinstance(chain, Chain) for chain in chains)
    x = torch.randn(4, CHANNELS, 6, 6, dtype=torch.float64)
    lanes = Lanes(chains)
    results = lanes(torch.relu(x) if lanes.starts_with_relu else x, wide=wide)
    for result, operation, original in zip(results, operations, copies, strict=True):
        torch.testing.assert_close(result, original(x), rtol=1e-12, atol=1e-12)
        for buffer, expected in zip(operation.buffers(), original.buffers(), strict=True):
            torch.testing.assert_close(buffer, expected, rtol=1e-12, atol=1e-12)


def test_second_derivatives_agree() -> None:
    """The diagnostics take the Hessian in the weights of the mix."""

    def hessian(how) -> Tensor:
        torch.manual_seed(0)
        names = ["identity", "conv 3x3", "average", "unknown"]
        branches = [Branch(OPERATIONS[name]().double(), 0) for name in names]
        x = torch.randn(3, CHANNELS, 4, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last)

        def loss(weights: Tensor) -> Tensor:
            first = how(branches, x, weights)[0]
            return torch.sin(how(branches, first, weights)[0]).sum()

        return torch.autograd.functional.hessian(loss, torch.randn(4, dtype=torch.float64))

    torch.testing.assert_close(hessian(through_fan), hessian(reference), rtol=1e-9, atol=1e-9)


def test_zeros_are_not_called_and_equal_pooling_runs_once() -> None:
    calls: list[str] = []

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append("zero")
            return x * 0

    x = torch.randn(2, CHANNELS, 5, 5)
    branches = [Branch(operation, target) for target in (1, 2) for operation in (Counted(), nn.MaxPool2d(3, 1, 1))]
    found = Fan(branches, {Counted: lambda module: Zero()})(x, [torch.ones(2)] * 2)
    assert calls == []
    assert found[1].terms[0] is found[2].terms[0]


def test_an_identity_is_its_input_itself() -> None:
    x = torch.randn(2, CHANNELS, 5, 5)
    assert Fan([Branch(nn.Identity(), 0)])(x, [torch.ones(1)])[0].terms[0] is x


@pytest.mark.parametrize(
    "operation",
    [
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(4, momentum=None),
        nn.MaxPool2d(3, return_indices=True),
        nn.Sequential(nn.ReLU(), nn.Dropout()),
        nn.SyncBatchNorm(4),
        type("Own", (nn.Conv2d,), {"forward": lambda self, x: x})(4, 4, 1),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_what_is_not_plain_is_called_as_it_is(operation: nn.Module) -> None:
    assert isinstance(read_chain(operation), Opaque)
    assert list(Fan([Branch(operation, 0)]).called) == [0]


@pytest.mark.parametrize("kind", ["conv 3x3", "separable", "biased", "average", "identity"])
def test_computing_again_keeps_less_and_changes_nothing(kind: str) -> None:
    torch.manual_seed(0)
    operations, given = [OPERATIONS[kind](), conv_block(1)], torch.randn(8, CHANNELS, 9, 9)
    found = []
    for again in (False, True):
        branches = [Branch(copy.deepcopy(operation), 1) for operation in operations]
        x, weights, kept = given.clone().requires_grad_(), torch.ones(2, requires_grad=True), dict[int, int]()

        def pack(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = combine(list(Fan(branches)(x, [weights], again=again).values()))
        y.square().sum().backward()
        states = [state for branch in branches for state in branch.operation.state_dict().values()]
        trained = [parameter.grad for branch in branches for parameter in branch.operation.parameters()]
        found.append(([y, x.grad, weights.grad, *trained, *states], sum(kept.values())))
    (plain, much), (computed_again, little) = found
    assert all(torch.equal(a, b) for a, b in zip(plain, computed_again, strict=True))
    assert little < much


def test_a_hook_makes_a_layer_be_called() -> None:
    block = conv_block(3)
    assert isinstance(read_chain(block), Chain)
    block[1].register_forward_hook(lambda *_: None)
    assert isinstance(read_chain(block), Opaque)


def test_without_a_batch_dimension_operations_are_called() -> None:
    torch.manual_seed(0)
    x = torch.randn(CHANNELS, 5, 5)
    branches = [Branch(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), 0) for _ in range(2)]
    expected = sum(branch.operation(x) for branch in branches)
    torch.testing.assert_close(through_fan(branches, x, torch.ones(2))[0], expected)


@given(height=st.integers(1, 6), width=st.integers(1, 6), channels=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_mean_pool_by_shifted_sums(height: int, width: int, channels: int) -> None:
    layer = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    x = torch.randn(2, channels, height, width, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    a, b = (x.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
    torch.testing.assert_close(average_pool(a, layer), layer(b), rtol=1e-12, atol=1e-12)
    gradient = torch.randn_like(x)
    average_pool(a, layer).backward(gradient)
    layer(b).backward(gradient)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


def test_the_mean_pool_has_right_derivatives_of_both_orders() -> None:
    layer = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: average_pool(t, layer), x)
    assert torch.autograd.gradgradcheck(lambda t: average_pool(t, layer), x)


def test_weighted_sum_has_right_derivatives_of_both_orders() -> None:
    weights = torch.randn(3, dtype=torch.float64, requires_grad=True)
    terms = [torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda w, *t: weighted_sum(w, list(t)), (weights, *terms))
    assert torch.autograd.gradgradcheck(lambda w, *t: weighted_sum(w, list(t)), (weights, *terms))


def test_weighted_sum_mixes_precisions() -> None:
    weights = torch.tensor([0.5, 2.0], requires_grad=True)
    terms = [torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True), torch.ones(2, 2, requires_grad=True)]
    total = weighted_sum(weights, terms)
    assert total.dtype == torch.float32
    total.sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [4.0, 4.0]
    assert terms[0].grad is not None
    assert terms[0].grad.dtype == torch.bfloat16
