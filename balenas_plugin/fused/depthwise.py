r"""Depthwise convolutions whose backward pass is made of forward ones.

oneDNN, which computes torch's convolutions on a CPU, has quick kernels for any depthwise forward pass, but for few
backward passes: those of dilated kernels take 4 to 20 times as long as the forward pass, those of 5x5 and larger ones 5
times. Both gradients are correlations themselves. With the form :math:`\langle g, x \star w \rangle`, linear in each of
three tensors, every gradient of any order is one of its three derivatives:

- in g: the convolution of x with w,
- in x: the convolution of g with w flipped; where stride and dilation are both 2, of the even pixels,
- in w: the correlation of x with g. It is a depthwise convolution of one image with N C channels, whose kernel is g;
  stride and dilation change places. Where a C compiler is at hand, it is compiled (`compiled`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from balenas_plugin.fused import compiled
from balenas_plugin.fused.compiled import Geometry
from balenas_plugin.fused.sums import is_batched

_Pair = int | tuple[int, ...]


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair | str = 0,
    dilation: _Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Return what `torch.nn.functional.conv2d` does; its backward pass is this module's where that is faster.

    Values are torch's. What the backward pass is depends on shapes, memory format and type alone, so the same search
    finds the same.
    """
    if groups > 1 and bias is None and _differentiated(input, weight):
        geometry = geometry_of(weight, stride, padding, dilation, groups)
        if geometry is not None and pays(geometry, tuple(input.shape), torch.get_num_threads()):
            _used.setdefault((groups, geometry), {})[tuple(input.shape)] = None
            return cast(Tensor, _Convolution.apply(input, weight, geometry))
    return F.conv2d(input, weight, bias, cast(Any, stride), cast(Any, padding), cast(Any, dilation), groups)


class Convolutions(TorchFunctionMode):
    """Inside the block every convolution is this module's: for layers that are not fused."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take over `torch.nn.functional.conv2d`."""
        return (convolution if func is F.conv2d else func)(*args, **(kwargs or {}))


def geometry_of(weight: Tensor, stride: _Pair, padding: _Pair | str, dilation: _Pair, groups: int) -> Geometry | None:
    """Return the geometry of a convolution, None if it is not of this kind."""
    channels, per_group, height, width = weight.shape
    steps, dilations = _pair(stride), _pair(dilation)
    square = height == width and height % 2 == 1 and steps[0] == steps[1] and dilations[0] == dilations[1]
    if groups != channels or per_group != 1 or not square or isinstance(padding, str):
        return None
    geometry = Geometry(height, steps[0], dilations[0])
    return geometry if _pair(padding) == (geometry.padding, geometry.padding) else None


@lru_cache(maxsize=1024)
def pays(geometry: Geometry, shape: tuple[int, ...], threads: int) -> bool:
    """Return whether this module's backward pass is faster on this machine: a rule by shape, from measurements.

    Args:
        geometry: of the kernel.
        shape: (N, C, H, W) of the input, in channels-last memory.
        threads: of torch.
    """
    examples, channels, *sides = shape
    if examples * channels * sides[0] * sides[1] < _FEWEST:
        return False
    capability = torch.backends.cpu.get_cpu_capability()
    least, plain = min(sides), geometry.size == 3 and geometry.dilation == 1  # plain ones oneDNN has kernels for
    if capability not in ("AVX2", "AVX512") or plain or geometry.stride > 2 or geometry.dilation > 2:
        return False
    if threads <= _MOST_THREADS and least >= 4 and _compiled(geometry.size) is not None:
        return True
    match geometry:
        case Geometry(dilation=2):
            return least >= 2 * geometry.stride
        case Geometry(dilation=1, stride=1):
            return capability == "AVX512" and geometry.size >= 5 and least >= 8
        case Geometry(dilation=1, stride=2):
            return capability == "AVX512" and geometry.size >= 7 and least >= 16
    return False


_FEWEST = 4096
"""Elements of an input below which the calls cost more than the arithmetic."""

_MOST_THREADS = 4
"""Beyond which oneDNN's are faster than one."""


def _compiled(size: int) -> compiled.WeightGradient | None:
    return compiled.weight_gradient() if size in compiled.SIZES else None


_used: dict[tuple[int, Geometry], dict[tuple[int, ...], None]] = {}


def used_for(layer: nn.Module) -> Geometry | None:
    """Return the geometry of a layer if the backward passes of such layers were this module's, None if not."""
    if not isinstance(layer, nn.Conv2d) or not isinstance(layer.groups, int) or layer.groups == 1:
        return None
    geometry = geometry_of(layer.weight, layer.stride, layer.padding, layer.dilation, layer.groups)
    return geometry if geometry is not None and (layer.groups, geometry) in _used else None


def _pair(value: _Pair) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _differentiated(x: Tensor, weight: Tensor) -> bool:
    """Return whether there may be a backward pass of these tensors, plain float32 ones in channels-last memory."""
    return bool(
        torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and not torch.compiler.is_compiling()
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


class _Convolution(torch.autograd.Function):
    """The derivative in g: x * w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _forward(x, weight, geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        of_x, of_weight, _ = ctx.needs_input_grad
        return (
            _in_input(gradient, x, weight, ctx.geometry) if of_x else None,
            _in_weight(gradient, x, weight, ctx.geometry) if of_weight else None,
            None,
        )


class _InputGradient(torch.autograd.Function):
    """The derivative in x, of g and w."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, like: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(gradient, weight)
        ctx.geometry = geometry
        flipped, channels, half = weight.flip(2, 3), weight.shape[0], geometry.size // 2
        if geometry.stride == 1:
            return F.conv2d(gradient, flipped, None, 1, geometry.padding, geometry.dilation, channels)
        if geometry.stride != geometry.dilation:
            return _torchs(gradient, like, weight, geometry, (True, False))
        examples, _, height, width = like.shape
        found = gradient.new_zeros((examples, height, width, channels)).permute(0, 3, 1, 2)
        step = geometry.stride
        found[:, :, ::step, ::step] = F.conv2d(gradient, flipped, None, 1, half, 1, channels)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (along,), (gradient, weight) = gradients, ctx.saved_tensors
        of_gradient, _, of_weight, _ = ctx.needs_input_grad
        return (
            _again(along, weight, ctx.geometry) if of_gradient else None,
            None,
            _in_weight(gradient, along, weight, ctx.geometry) if of_weight else None,
            None,
        )


class _WeightGradient(torch.autograd.Function):
    """The derivative in w, of g and x."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(gradient, x)
        ctx.geometry = geometry
        size, step, dilation = geometry
        if x.dtype == torch.float32 and torch.get_num_threads() <= _MOST_THREADS and (found := _compiled(size)):
            return found(gradient, x, geometry)
        if step == dilation:  # no other pixels are met
            x, step, dilation = x[:, :, ::step, ::step], 1, 1
        padding, images = dilation * (size // 2), max(1, _IN_CACHE // x[0].numel())
        parts = zip(gradient.split(images), x.split(images), strict=True)
        each = [_correlation(g, part, size, padding, step, dilation) for g, part in parts]
        return each[0] if len(each) == 1 else torch.stack(each).sum(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (along,), (gradient, x) = gradients, ctx.saved_tensors
        of_gradient, of_x, _ = ctx.needs_input_grad
        return (
            _again(x, along, ctx.geometry) if of_gradient else None,
            _in_input(gradient, x, along, ctx.geometry) if of_x else None,
            None,
        )


_IN_CACHE = 2**18
"""Elements of the images whose correlation is computed at once."""


def _correlation(gradient: Tensor, x: Tensor, size: int, padding: int, step: int, dilation: int) -> Tensor:
    examples, channels, height, width = x.shape
    planes = examples * channels
    image = x.permute(2, 3, 0, 1).reshape(1, height, width, planes).permute(0, 3, 1, 2)  # channels-last too
    kernel = gradient.reshape(planes, 1, *gradient.shape[2:])
    found = F.conv2d(image, kernel, None, dilation, padding, step, planes)[0, :, :size, :size]
    return found.reshape(examples, channels, 1, *found.shape[1:]).sum(0)


def _forward(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    return F.conv2d(x, weight, None, geometry.stride, geometry.padding, geometry.dilation, weight.shape[0])


def _again(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    batched = is_batched(x) or is_batched(weight)
    return _forward(x, weight, geometry) if batched else cast(Tensor, _Convolution.apply(x, weight, geometry))


def _in_input(gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if is_batched(gradient) or is_batched(weight):
        return _torchs(gradient, x, weight, geometry, (True, False))
    return cast(Tensor, _InputGradient.apply(gradient, x.detach(), weight, geometry))


def _in_weight(gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if is_batched(gradient) or is_batched(x):
        return _torchs(gradient, x, weight, geometry, (False, True))
    return cast(Tensor, _WeightGradient.apply(gradient, x, geometry))


def _torchs(gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool]) -> Tensor:
    """Return the gradient in the input or in the weight as torch computes it, which vmap knows."""
    step, padding, dilation = ([n] * 2 for n in (geometry.stride, geometry.padding, geometry.dilation))
    found = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, step, padding, dilation, False, [0, 0], weight.shape[0], [*wanted, False]
    )
    return cast(Tensor, found[wanted.index(True)])
