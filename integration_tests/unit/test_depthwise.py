"""Depthwise convolutions with a backward pass of their own equal torch's, in every derivative."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.fused import Fan, compiled, depthwise
from balenas_plugin.fused.depthwise import Convolutions, Geometry, convolution
from balenas_plugin.fused.fan import Branch

KINDS = [Geometry(3, 1, 2), Geometry(5, 1, 1), Geometry(3, 2, 2), Geometry(7, 2, 1), Geometry(5, 1, 3)]


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use it for small images too, and on any processor."""
    monkeypatch.setattr(depthwise, "pays", lambda *_: True)


def tensors(
    kind: Geometry, dtype: torch.dtype, *, sides: tuple[int, int] = (9, 6), channels: int = 2
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(3, channels, *sides, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), torch.randn(channels, 1, kind.size, kind.size, dtype=dtype, requires_grad=True)


def own(kind: Geometry) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, w: depthwise._Convolution.apply(x, w, kind)


def torchs(kind: Geometry) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, w: F.conv2d(x, w, None, kind.stride, kind.padding, kind.dilation, w.shape[0])


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("sides", [(9, 6), (8, 8), (2, 3)])
def test_gradients_of_all_orders_are_torchs(kind: Geometry, sides, monkeypatch) -> None:
    monkeypatch.setattr(depthwise, "_IN_CACHE", 2 * sides[0] * sides[1])  # so that the batch is split

    def derivatives(how: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        of = tensors(kind, torch.float64, sides=sides)
        y = how(*of)
        first = torch.autograd.grad(y.sin().sum(), of, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), of, create_graph=True)
        third = torch.autograd.grad(sum(g.sin().sum() for g in second), of)
        several = torch.autograd.grad(how(*of), of, torch.stack([y.detach(), y.detach().cos()]), is_grads_batched=True)
        return [y, *first, *second, *third, *several]

    for given, expected in zip(derivatives(own(kind)), derivatives(torchs(kind)), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12 * float(expected.detach().abs().max()))


@pytest.fixture(params=["compiled", "torch"])
def how_compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the weight gradient in either way."""
    if request.param == "torch":
        monkeypatch.setattr(compiled, "weight_gradient", lambda: None)
    elif compiled.weight_gradient() is None:
        pytest.skip("no C compiler here")


@pytest.mark.usefixtures("how_compiled")
@pytest.mark.parametrize("channels", [2, 45])
@pytest.mark.parametrize("kind", [*KINDS, Geometry(3, 1, 1), Geometry(5, 2, 1)], ids=str)
def test_float32_is_as_close_to_float64_as_torchs(kind: Geometry, channels: int) -> None:
    def gradients(how: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
        of = [
            t.detach().to(dtype).requires_grad_()
            for t in tensors(kind, torch.float32, sides=(17, 10), channels=channels)
        ]
        return [g.double() for g in torch.autograd.grad(how(*of).sin().sum(), of)]

    exact = gradients(torchs(kind), torch.float64)
    for given, expected, right in zip(
        gradients(own(kind), torch.float32), gradients(torchs(kind), torch.float32), exact, strict=True
    ):
        assert (given - right).norm() <= 2 * (expected - right).norm() + 1e-7 * right.norm()


def graph_of(x: Tensor, weight: Tensor, kind: Geometry, groups: int = 2) -> str:
    made = convolution(x, weight, None, (kind.stride,) * 2, (kind.padding,) * 2, (kind.dilation,) * 2, groups)
    return type(made.grad_fn).__name__


@pytest.mark.usefixtures("everywhere")
def test_what_is_not_understood_is_torchs() -> None:
    kind = KINDS[0]
    x, w = tensors(kind, torch.float32)
    assert graph_of(x, w, kind) == "_ConvolutionBackward"
    assert graph_of(x, w.detach(), kind) == "_ConvolutionBackward"  # the architecture step
    assert graph_of(x.contiguous(), w, kind) == "ConvolutionBackward0"
    assert graph_of(x.double(), w.double(), kind) == "ConvolutionBackward0"
    assert graph_of(x, w[:, :, :, 1:], kind) == "ConvolutionBackward0"
    assert graph_of(x, w.expand(2, 2, 3, 3), kind, groups=1) == "ConvolutionBackward0"
    with torch.autocast("cpu", torch.bfloat16):
        assert graph_of(x, w, kind) == "ConvolutionBackward0"
    assert convolution(x, w, None, 1, "same", 2, 2).shape == x.shape
    with torch.no_grad():
        assert convolution(x, w, None, 1, 2, 2, 2).grad_fn is None


@pytest.mark.parametrize(
    ("kind", "shape", "capability", "expected"),
    [
        (Geometry(3, 1, 1), (16, 16, 32, 32), "AVX512", False),
        (Geometry(5, 1, 2), (16, 16, 2, 2), "AVX512", True),
        (Geometry(5, 1, 2), (16, 16, 32, 32), "DEFAULT", False),
        (Geometry(3, 1, 2), (16, 16, 32, 32), "AVX2", True),
        (Geometry(5, 1, 1), (16, 16, 32, 32), "AVX2", False),
        (Geometry(5, 1, 1), (16, 16, 32, 32), "AVX512", True),
        (Geometry(5, 2, 1), (16, 16, 32, 32), "AVX512", False),
        (Geometry(5, 2, 2), (16, 16, 32, 32), "DEFAULT", False),
        (Geometry(5, 1, 2), (2, 8, 8, 8), "AVX512", False),
    ],
)
def test_the_rule_goes_by_shape(kind, shape, capability, expected, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(compiled, "weight_gradient", lambda: None)
    assert depthwise.pays.__wrapped__(kind, shape, 1) is (expected and math.prod(shape) >= 4096)


def test_with_a_compiler_more_of_them_pay(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(compiled, "weight_gradient", lambda: lambda *_: None)
    shape, pays = (16, 16, 32, 32), depthwise.pays.__wrapped__
    assert not pays(Geometry(3, 1, 1), shape, 1)
    assert [pays(Geometry(5, 2, 1), shape, threads) for threads in (4, 8)] == [True, False]
    assert not pays(Geometry(9, 1, 1), shape, 1)


@pytest.mark.parametrize("command", ["false", "no-such-compiler -x", "true", '"'])
def test_without_a_working_compiler_torch_computes(command: str, monkeypatch) -> None:
    monkeypatch.setenv("CC", command)
    assert compiled.weight_gradient.__wrapped__() is None


@pytest.mark.usefixtures("everywhere")
def test_lanes_and_called_operations_use_it(monkeypatch) -> None:
    monkeypatch.setattr(depthwise, "_used", {})
    torch.manual_seed(0)
    dilated = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False)
    operation = nn.Sequential(nn.ReLU(), dilated, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    called = nn.Sequential(copy.deepcopy(operation), nn.Sigmoid())  # not understood by a fan
    for module in (operation, called):
        x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
        expected = torch.autograd.grad(module(x).sin().sum(), [x, *module.parameters()])
        assert depthwise.used_for(dilated) is None
        with Convolutions():
            (found,) = Fan([Branch(module, 0)])(x, [torch.ones(1)]).values()
        (result,) = found.ready or found.terms
        given = torch.autograd.grad(result.sin().sum(), [x, *module.parameters()])
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
        assert depthwise.used_for(dilated) == KINDS[0]
        depthwise._used.clear()
