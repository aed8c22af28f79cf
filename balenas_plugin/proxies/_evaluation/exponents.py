"""Carry a power of two beside every activation, so that a product over many layers stays within floating point.

SynFlow's path sums grow by a factor per layer: 1e50 at 17 cells, beyond float64 (1e308) at a few hundred layers. Under
`ExponentTracking` a tensor holds a mantissa, and the exponent is kept apart: value = mantissa * 2^exponent. Operations
that are homogeneous (convolution, pooling, ReLU, reshaping ...) add the exponents of their operands, sums align them,
and each result is scaled back to a peak near 1. Anything else is computed on the plain values. Gradients of the
output's mantissa M then need no care: sum_i m_i dM/dm_i <= M for every activation m of a positive network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SUMS = frozenset(
    {"add", "add_", "sub", "sub_", "maximum", "minimum"}
    | {"__add__", "__radd__", "__iadd__", "__sub__", "__rsub__", "__isub__"}
)
_JOINS = frozenset({"cat", "concat", "concatenate", "stack"})
_QUOTIENTS = frozenset({"div", "div_", "__truediv__", "__itruediv__"})
_WITH_BIAS = frozenset({"conv1d", "conv2d", "conv3d", "linear"})
_HOMOGENEOUS = frozenset(
    {"conv1d", "conv2d", "conv3d", "linear", "mul", "mul_", "__mul__", "__rmul__", "__imul__"}
    | {"matmul", "__matmul__", "bmm", "mm", "relu", "relu_", "leaky_relu", "leaky_relu_", "prelu"}
    | {"avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
    | {"max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "mean", "sum", "amax", "interpolate"}
    | {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "expand", "view_as"}
    | {"chunk", "split", "unbind", "narrow", "__getitem__", "contiguous", "clone", "dropout", "feature_dropout", "to"}
    | {"zeros_like", "__get__", "size", "dim", "numel", "stride", "is_floating_point", "pixel_shuffle"}
)
_ZERO = -(10**9)  # the exponent of a tensor of zeros: any other operand of a sum is larger
_LARGEST_SHIFT = 100  # 2^100 is within float32 too; peaks further from 1 take several operations to come back


class ExponentTracking(TorchFunctionMode):
    """Compute on mantissas; ask for the exponent of a result with `exponent`.

    Assignment to a part of a tensor (``x[...] = y``) and in-place operations that are not homogeneous are not followed.
    """

    def __init__(self) -> None:
        super().__init__()
        # Keyed by identity; the tensor is held so that its id stays its own. Lives as long as one forward pass.
        self._known: dict[int, tuple[Tensor, int]] = {}

    def exponent(self, tensor: Tensor) -> int:
        """Return e, where the value of `tensor` is what it holds times 2^e. A tensor never met is its own value."""
        if id(tensor) in self._known:
            return self._known[id(tensor)][1]
        return 0 if bool(tensor.any()) else _ZERO

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        options: dict[str, Any] = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _SUMS and any(isinstance(value, Tensor) and value.is_floating_point() for value in args):
            return self._sum(func, name, list(args), options)
        if name in _JOINS:
            return self._join(func, list(args), options)
        if name in _WITH_BIAS:
            return self._layer(func, name, list(args), options)
        if name in _HOMOGENEOUS:
            return self._settle(func(*args, **options), args, sum(self._exponents(args, options)))
        if name in _QUOTIENTS and len(args) == 2:
            return self._settle(func(*args, **options), args, self._exponent_of(args[0]) - self._exponent_of(args[1]))
        plain = self._plain(args)
        named = dict(zip(options, self._plain(list(options.values())), strict=True))
        return self._settle(func(*plain, **named), plain, 0)

    def _sum(self, func: Callable[..., Any], name: str, args: list[Any], options: dict[str, Any]) -> Any:
        """Bring both operands to the larger exponent; a plain number has exponent 0."""
        operands = [*args, options.pop("other")] if "other" in options else args
        exponent = max(map(self._exponent_of, operands))
        aligned = [self._aligned(operand, exponent) for operand in operands]
        if name.startswith("__i") or name in ("add_", "sub_"):  # in place: the caller keeps the tensor, so scale that
            aligned[0] = operands[0].mul_(_power_of_two(self._exponent_of(operands[0]) - exponent))
        return self._settle(func(*aligned, **options), aligned, exponent)

    def _join(self, func: Callable[..., Any], args: list[Any], options: dict[str, Any]) -> Any:
        """Bring all tensors of a list to the largest exponent."""
        tensors = args.pop(0) if args else options.pop("tensors")
        exponent = max(map(self.exponent, tensors))
        aligned = [self._aligned(tensor, exponent) for tensor in tensors]
        return self._settle(func(aligned, *args, **options), args, exponent)

    def _layer(self, func: Callable[..., Any], name: str, args: list[Any], options: dict[str, Any]) -> Any:
        """Apply a convolution or linear layer without its bias, then add the bias at the right scale."""
        bias = args[2] if len(args) > 2 else options.get("bias")
        if len(args) > 2:
            args[2] = None
        options.pop("bias", None)
        result = self._settle(func(*args, **options), args, sum(self._exponents(args, options)))
        if bias is None:
            return result
        trailing = 0 if name == "linear" else result.dim() - 2
        return self._sum(torch.add, "add", [result, bias.reshape(-1, *[1] * trailing)], {})

    def _settle(self, result: Any, args: Sequence[Any], exponent: int) -> Any:
        """Note the exponent of `result`, scaled to a peak near 1; other things than floating tensors pass unchanged."""
        if isinstance(result, (tuple, list)) and any(isinstance(item, Tensor) for item in result):
            return type(result)([self._settle(item, args, exponent) for item in result])
        if not isinstance(result, Tensor) or not result.is_floating_point() or result.numel() == 0:
            return result
        if args and result is args[0]:  # computed in place: the operand is the result, not yet scaled
            self._known[id(result)] = (result, exponent)
        peak = float(result.detach().abs().max())
        if peak == 0:
            self._known[id(result)] = (result, _ZERO)
            return result
        shift = math.frexp(peak)[1] if math.isfinite(peak) else 0
        shift = max(-_LARGEST_SHIFT, min(_LARGEST_SHIFT, shift))
        scaled = result * 2.0**-shift if shift else result
        self._known[id(scaled)] = (scaled, exponent + shift)
        return scaled

    def _exponents(self, args: Sequence[Any], options: Mapping[str, Any]) -> list[int]:
        return [self.exponent(value) for value in (*args, *options.values()) if isinstance(value, Tensor)]

    def _exponent_of(self, operand: Any) -> int:
        if isinstance(operand, Tensor):
            return self.exponent(operand)
        return 0 if operand else _ZERO

    def _aligned(self, operand: Any, exponent: int) -> Any:
        """Return a tensor or number at `exponent`; what vanishes is hundreds of digits below the sum's rounding."""
        shift = self._exponent_of(operand) - exponent
        return operand * _power_of_two(shift) if shift else operand

    def _plain(self, values: Sequence[Any]) -> list[Any]:
        """Return `values` with every tensor, also inside lists, as its own value."""
        return [
            type(value)(self._plain(value))
            if type(value) in (list, tuple)
            else self._aligned(value, 0)
            if isinstance(value, Tensor) and id(value) in self._known
            else value
            for value in values
        ]


def _power_of_two(exponent: int) -> float:
    return 2.0**exponent if exponent < 1024 else math.inf
