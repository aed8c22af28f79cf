"""A cell as one compiled function equals its branches one by one, in every derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from balenas_plugin.fused import Branch, Cell, Fan, Zero, cell_kernels, cell_of, compiled
from balenas_plugin.mixed_ops.passing import joined


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def block(channels: int, size: int = 3, **options: int) -> nn.Sequential:
    options = {"padding": size // 2, "bias": False, **options}
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, size, **options), nn.BatchNorm2d(channels))


def pool(**options: bool) -> nn.AvgPool2d:
    return nn.AvgPool2d(3, 1, 1, **{"count_include_pad": False, **options})


def candidates(channels: int) -> list[nn.Module]:
    dilated = block(channels, padding=2, dilation=2)
    return [Nothing(), nn.Identity(), block(channels, 1), block(channels), pool(), dilated, block(channels)]


Edges = list[list[nn.Module]]


def edges(channels: int, dtype: torch.dtype, nodes: int = 3) -> Edges:
    """Return the candidates of each edge; two edges have few of them."""
    torch.manual_seed(0)
    made = [candidates(channels) for _ in range(nodes * (nodes - 1) // 2)]
    made[0] = made[0][2:4]
    made[-1] = [nn.Identity(), pool()]
    with torch.no_grad():
        for parameter in nn.ModuleList(nn.ModuleList(edge) for edge in made).to(dtype).parameters():
            parameter.normal_(0.3, 0.5)
    return made


def cell(made: Edges, nodes: int = 3) -> Cell | None:
    rest, fans = iter(made), []
    for source in range(nodes - 1):
        branches = [Branch(each, target) for target in range(source + 1, nodes) for each in next(rest)]
        fans.append(Fan(branches, {Nothing: lambda module: Zero()}))
    return cell_of(fans)


def one_by_one(made: Edges, x: Tensor, weights: Sequence[Tensor], nodes: int = 3) -> Tensor:
    found, rest = [x] + [torch.zeros_like(x)] * (nodes - 1), iter(zip(made, weights, strict=True))
    for source in range(nodes - 1):
        for target in range(source + 1, nodes):
            for each, weight in zip(*next(rest), strict=True):
                found[target] = found[target] + weight * each(found[source])
    return found[-1]


def one_function(made: Edges, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    whole = cell(made)
    assert whole is not None
    y = whole(x, weights)
    assert y is not None
    return y


def inputs(made: Edges, dtype: torch.dtype, *, channels: int = 5, sides: tuple[int, int] = (5, 3)) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.randn(3, channels, *sides, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return [x, *(torch.rand(len(edge), dtype=dtype) + 0.2 for edge in made)]


How = Callable[[Edges, Tensor, Sequence[Tensor]], Tensor]

pytestmark = pytest.mark.skipif(cell_kernels.kernels(torch.float64) is None, reason="no C compiler here")


@pytest.mark.parametrize("asked", ["x", "mixing", "convolutions", "norms", "x mixing convolutions norms"])
@pytest.mark.parametrize(("channels", "sides"), [(5, (5, 3)), (29, (1, 1)), (4, (6, 7))])
def test_values_gradients_and_statistics_are_those_of_the_branches(asked: str, channels: int, sides) -> None:
    def found(how: How) -> list[Tensor]:
        made = edges(channels, torch.float64)
        layers = nn.ModuleList(nn.ModuleList(edge) for edge in made)
        x, *weights = inputs(made, torch.float64, channels=channels, sides=sides)
        parameters = {
            "x": [x],
            "mixing": weights,
            "convolutions": [p for p in layers.parameters() if p.dim() == 4],
            "norms": [p for p in layers.parameters() if p.dim() == 1],
        }
        for name, tensors in parameters.items():
            for tensor in tensors:
                tensor.requires_grad_(name in asked.split())
        y = how(made, x, weights)
        of = [t for name in asked.split() for t in parameters[name]]
        again = torch.autograd.grad(how(made, x, weights).sin().sum(), of, allow_unused=True, materialize_grads=True)
        return [y, *again, *(b.double() for b in layers.buffers())]

    for given, expected in zip(found(one_function), found(one_by_one), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-10 * float(expected.detach().abs().max()))


def test_derivatives_of_higher_order_and_several_at_once() -> None:
    def found(how: How) -> list[Tensor]:
        made = edges(5, torch.float64)
        x, *weights = inputs(made, torch.float64)
        parameters = [p for edge in made for each in edge for p in each.parameters()]
        # x depends on the weights, as in a network of several cells
        of = [t.requires_grad_() for t in (x, *weights, *parameters)]
        y = how(made, x * weights[1].sum(), weights)
        first = torch.autograd.grad(y.sin().sum(), of, create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), of, allow_unused=True, materialize_grads=True)
        y = how(made, x * 1.0, weights)
        several = torch.autograd.grad(y, of, torch.stack([y.detach(), y.detach().cos()]), is_grads_batched=True)
        return [*first, *second, *several]

    for given, expected in zip(found(one_function), found(one_by_one), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-9 * float(expected.detach().abs().max()))


def test_float32_is_as_close_to_float64_as_torchs() -> None:
    def found(how: How, dtype: torch.dtype, offset: float) -> list[Tensor]:
        made = edges(20, torch.float32)
        x, *weights = inputs(made, torch.float32, channels=20, sides=(16, 16))
        layers = nn.ModuleList(nn.ModuleList(edge) for edge in made).to(dtype)
        of = [t.detach().to(dtype).requires_grad_() for t in (x + offset, *weights)]
        gradients = torch.autograd.grad(how(made, of[0], of[1:]).sin().sum(), [*of, *layers.parameters()])
        return [g.double() for g in gradients]

    for offset in (0.0, 30.0):  # with an offset the means are large beside the deviations
        exact = found(one_by_one, torch.float64, offset)
        given, torchs = (found(how, torch.float32, offset) for how in (one_function, one_by_one))

        def error(of: list[Tensor], exact: list[Tensor] = exact) -> float:
            return sum(float((a - b).norm() / b.norm()) for a, b in zip(of, exact, strict=True))

        assert error(given) <= 1.5 * error(torchs)


def test_a_channel_of_one_value_has_no_variance() -> None:
    z = torch.full((4, 3, 8, 8), 77.7).contiguous(memory_format=torch.channels_last)
    moments = torch.empty(3, 1, 3)
    cell_kernels.kernels(torch.float32).moments(z, 1e-5, moments, 0)
    moments = moments[:, 0]
    torch.testing.assert_close(moments[0], torch.full((3,), 77.7), rtol=1e-7, atol=0)
    assert torch.equal(moments[2], torch.zeros(3))
    torch.testing.assert_close(moments[1], torch.full((3,), 1e-5).rsqrt())


class Mode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_where_it_does_not_fit() -> None:
    made = edges(5, torch.float32)
    x, *weights = inputs(made, torch.float32)
    whole = cell(made)
    assert whole(x, weights) is not None
    assert whole(x.contiguous(), weights) is None
    assert whole(x.double(), weights) is None
    assert whole(x.half(), [w.half() for w in weights]) is None
    assert whole(x, [w.double() for w in weights]) is None
    assert whole(x[0], weights) is None
    assert whole(x[:1, :, :1, :1], weights) is None
    assert whole(x[:, :4].contiguous(memory_format=torch.channels_last), weights) is None
    for around in (Mode(), torch.autocast("cpu", torch.bfloat16)):
        with around:
            assert whole(x, weights) is None
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert whole(x, weights) is not None
        large = torch.empty(64, 5, 32, 32).contiguous(memory_format=torch.channels_last)
        assert whole(large, weights) is None
    finally:
        torch.set_num_threads(threads)
    assert (whole(large, weights) is None) is (threads > 2)
    made[0][0][2].eval()
    assert whole(x, weights) is None


def test_without_a_compiler_it_does_not_fit(monkeypatch) -> None:
    made = edges(5, torch.float32)
    x, *weights = inputs(made, torch.float32)
    monkeypatch.setenv("CC", "false")
    assert compiled.compile_c("") is None
    monkeypatch.setattr("balenas_plugin.fused.cell.kernels", cell_kernels.kernels.__wrapped__)
    assert cell(made)(x, weights) is None


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "unknown": nn.Sigmoid,
    "other pooling": lambda: pool(count_include_pad=True),
    "stride": lambda: block(5, stride=2),
    "groups": lambda: block(5, groups=5),
    "bias": lambda: block(5, bias=True),
    "padding": lambda: block(5, padding=2),
    "two convolutions": lambda: nn.Sequential(*block(5)[:2], *block(5)[1:]),
    "other momentum": lambda: nn.Sequential(*block(5)[:2], nn.BatchNorm2d(5, momentum=0.3)),
    "no gamma": lambda: nn.Sequential(*block(5)[:2], nn.BatchNorm2d(5, affine=False)),
    "no statistics": lambda: nn.Sequential(*block(5)[:2], nn.BatchNorm2d(5, track_running_stats=False)),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_candidates_make_no_such_cell(other: str) -> None:
    made = edges(5, torch.float32)
    assert cell(made) is not None
    made[1].append(OTHERS[other]())
    assert cell(made) is None


def test_a_gradient_of_any_layout_and_a_graph_kept() -> None:
    def found(how: How) -> list[Tensor]:
        made = edges(4, torch.float64)
        x, *weights = inputs(made, torch.float64, channels=4)
        of = [w.requires_grad_() for w in weights]
        y = how(made, x, of)
        expanded = torch.autograd.grad(y.mean((2, 3)).sum(), of, retain_graph=True)
        return [*expanded, *torch.autograd.grad(y, of, torch.ones(y.shape, dtype=y.dtype))]

    for given, expected in zip(found(one_function), found(one_by_one), strict=True):
        torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("weighed", [True, False])
def test_channels_that_pass_the_branches_by(weighed):
    """Values are those of the nodes one by one; derivatives of both orders, and several at once, are numerical ones."""
    made = edges(2, torch.float64)
    x, *mixing = inputs(made, torch.float64, channels=8, sides=(3, 2))
    scales = [torch.rand((), dtype=torch.float64) + 0.3 for _ in made] if weighed else []

    def whole(x: Tensor, *given: Tensor) -> Tensor:
        found = cell(made)(x, given[: len(made)], (4, True), given[len(made) :])
        assert found is not None
        return found

    nodes, rest = [x], iter(zip(made, mixing, strict=True))
    received = [torch.zeros_like(x[:, :2])] * 3
    for source in range(2):
        for target in range(source + 1, 3):
            for each, weight in zip(*next(rest), strict=True):
                received[target] = received[target] + weight * each(nodes[source][:, :2])
        of_edges = [scales[:1], scales[1:]][source] if weighed else None
        nodes.append(joined(received[source + 1], [n[:, 2:] for n in nodes], of_edges, k=4, shuffle=True))
    torch.testing.assert_close(whole(x, *mixing, *scales), nodes[-1])
    given = [tensor.requires_grad_() for tensor in (x, *mixing, *scales)]
    assert torch.autograd.gradcheck(whole, given, fast_mode=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(whole, given, fast_mode=True)
