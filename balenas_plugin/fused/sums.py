"""Weighted sums of tensors without temporaries, and 3x3 mean pooling as shifted sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Made = tuple[Tensor, Callable[[Tensor], Tensor]]
"""What a term is made of, and how."""


def weighted_sum(weights: Tensor, terms: list[Tensor], made: Sequence[Made | None] = ()) -> Tensor:
    """Return sum_k weights[k] terms[k]; differentiable twice.

    Args:
        weights: shape (K,).
        terms: K tensors of one shape.
        made: of each term, what is kept in its place for the backward pass, which makes it again; None: itself.
    """
    if torch.compiler.is_compiling():  # the compiler fuses this by itself
        return sum((w * t for w, t in zip(weights.unbind(), terms, strict=True)), start=torch.zeros_like(terms[0]))
    result: Tensor = _WeightedSum.apply(weights, made or [None] * len(terms), *terms)
    return result


class _WeightedSum(torch.autograd.Function):
    """One pass over each term forward; backward one product and one dot product a term, no intermediate results."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, made: Sequence[Made | None], *terms: Tensor) -> Tensor:
        kept = [term if m is None else m[0] for term, m in zip(terms, made, strict=True)]
        ctx.save_for_backward(weights, *(kept if ctx.needs_input_grad[0] else ()))
        ctx.make = [None if m is None else m[1] for m in made]
        dtype = terms[0].dtype
        for term in terms[1:]:
            dtype = torch.promote_types(dtype, term.dtype)
        total = (terms[0] * weights[0]).to(dtype)
        on_host = weights.device.type == "cpu"
        for weight, term in zip(weights[1:].tolist() if on_host else weights[1:].unbind(), terms[1:], strict=True):
            # a number is the fastest weight, but reading it from an accelerator would wait for the device
            if on_host:
                total.add_(term, alpha=weight)
            else:
                total.addcmul_(term, weight)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        weights, *kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        product = _sum_of_products if is_batched(gradient) else _inner_product
        of_weights = None
        if wanted[0]:
            each = [product(gradient, t if make is None else make(t)) for t, make in zip(kept, ctx.make, strict=True)]
            of_weights = torch.stack(each).to(weights)
        of_terms = [gradient * w if needed else None for w, needed in zip(weights, wanted[2:], strict=True)]
        return (of_weights, None, *of_terms)


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype == b.dtype:
        if a.is_contiguous() and b.is_contiguous():
            return torch.dot(a.view(-1), b.view(-1))
        if a.dim() == 4 and all(t.is_contiguous(memory_format=torch.channels_last) for t in (a, b)):
            return torch.dot(*(t.permute(0, 2, 3, 1).reshape(-1) for t in (a, b)))
    return _sum_of_products(a, b)


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


_BATCHED = 0  # a bit of each dispatch key that such gradients have
for _name in ("Batched", "FuncTorchBatched"):
    if (_key := torch._C._parse_dispatch_key(_name)) is not None:
        _BATCHED |= torch._C.DispatchKeySet(_key).raw_repr()


def is_batched(gradient: Tensor) -> bool:
    """Return whether it stands for several gradients (is_grads_batched, vmap), whose memory cannot be looked at."""
    return bool(torch._C._dispatch_keys(gradient).raw_repr() & _BATCHED)


def is_mean_3x3(layer: nn.AvgPool2d) -> bool:
    """Return whether it is the mean of each pixel's 3x3 neighbourhood inside the image."""
    return (
        _pair(layer.kernel_size) == (3, 3)
        and _pair(layer.stride) == (1, 1)
        and _pair(layer.padding) == (1, 1)
        and not layer.count_include_pad
        and not layer.ceil_mode
        and layer.divisor_override is None
    )


def average_pool(x: Tensor, layer: nn.AvgPool2d) -> Tensor:
    """Return `layer(x)`, by shifted sums where these are faster: 3x3 at stride 1 in channels-last memory on a CPU."""
    if (
        is_mean_3x3(layer)
        and x.device.type == "cpu"
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    ):
        return _MeanPool3x3.apply(x)  # type: ignore[no-any-return]  # `apply` has no types
    return F.avg_pool2d(
        x,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.ceil_mode,
        layer.count_include_pad,
        layer.divisor_override,
    )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[return-value]  # of two


class _MeanPool3x3(torch.autograd.Function):
    """y = (sum over the 3x3 neighbourhood) / (number of pixels in it); the sum is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _neighbourhood_sum(x).mul_(_inverse_counts(x.shape[2], x.shape[3], x.dtype, x.device))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        height, width = gradient.shape[2:]
        counts = _inverse_counts(height, width, gradient.dtype, gradient.device)
        if is_batched(gradient):
            return 9 * F.avg_pool2d(gradient * counts, 3, 1, 1)
        return _NeighbourhoodSum.apply(gradient * counts)  # type: ignore[no-any-return]  # `apply` has no types


class _NeighbourhoodSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _neighbourhood_sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _NeighbourhoodSum.apply(gradients[0])  # type: ignore[no-any-return]  # `apply` has no types


def _neighbourhood_sum(x: Tensor) -> Tensor:
    """Return the sum of each pixel's 3x3 neighbourhood, first along the rows, then along the columns."""
    for dim in (2, 3):
        total, size = x.clone(memory_format=torch.channels_last), x.shape[dim]
        if size > 1:
            total.narrow(dim, 1, size - 1).add_(x.narrow(dim, 0, size - 1))
            total.narrow(dim, 0, size - 1).add_(x.narrow(dim, 1, size - 1))
        x = total
    return x


@lru_cache(maxsize=32)
def _inverse_counts(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return 1 / (pixels of each 3x3 neighbourhood inside the image), shape (1, 1, H, W)."""
    with torch.inference_mode(False):  # it is kept, and a pass that is differentiated may use it next
        rows, columns = (
            torch.tensor([1 + (k > 0) + (k < size - 1) for k in range(size)], dtype=dtype, device=device)
            for size in (height, width)
        )
        return 1 / (rows[:, None] * columns)[None, None]
