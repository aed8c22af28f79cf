"""The channels that pass the operations of a node's edges by: added up, and shuffled with what was mixed, in one go."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from balenas_plugin.mixed_ops.channels import channel_shuffle


def joined(
    mixed: Tensor, rests: Sequence[Tensor], weights: Sequence[Tensor] | None, *, k: int, shuffle: bool
) -> Tensor:
    """Return a node of what its edges have mixed and of what has passed them by; differentiable twice.

    Args:
        mixed: the sum over the edges, (N, C/k, ...).
        rests: of each edge, (N, C - C/k, ...); they are added up.
        weights: of the edges, numbers; None: all are 1.
        k: into how many parts the channels are divided.
        shuffle: the channels, see `channel_shuffle`.
    """
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if traced or forward_ad._current_level >= 0:  # what looks at each operation
        scaled = rests if weights is None else [w * rest for w, rest in zip(weights, rests, strict=True)]
        whole = torch.cat([mixed, reduce(torch.add, scaled)], 1)
        return channel_shuffle(whole, k) if shuffle else whole
    result: Tensor = _Joined.apply(k, shuffle, mixed, len(rests), *rests, *(weights or ()))
    return result


class _Joined(torch.autograd.Function):
    """Forward one pass over each rest, into its place; backward one copy, and one pass for each weighted rest.

    The rests are kept for the gradients of weights alone.
    """

    @staticmethod
    def forward(ctx: Any, k: int, shuffle: bool, mixed: Tensor, edges: int, *given: Tensor) -> Tensor:
        rests, weights = given[:edges], given[edges:]
        ctx.k, ctx.shuffle, ctx.edges = k, shuffle, edges
        ctx.channels_last = mixed.dim() == 4 and mixed.is_contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(*weights, *(rests if any(ctx.needs_input_grad[4 + edges :]) else ()))
        return node_of(mixed, rests, weights, k=k, shuffle=shuffle)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_mixed, whole = parted(gradients[0], k=ctx.k, shuffle=ctx.shuffle, channels_last=ctx.channels_last)
        weighted = len(ctx.needs_input_grad) > 4 + ctx.edges
        weights, kept = (ctx.saved_tensors[: ctx.edges], ctx.saved_tensors[ctx.edges :]) if weighted else ((), ())
        of_rests = [whole * w for w in weights] if weighted else [whole] * ctx.edges
        of_weights = [(whole * rest).sum() for rest in kept] if kept else [None] * len(weights)
        return (None, None, of_mixed, None, *of_rests, *of_weights)


def node_of(mixed: Tensor, rests: Sequence[Tensor], weights: Sequence[Tensor], *, k: int, shuffle: bool) -> Tensor:
    """Return what `joined` does, without a graph; no weights: all are 1."""
    dtype = reduce(torch.promote_types, (t.dtype for t in (mixed, *rests)))
    shape = mixed.shape[0], k * mixed.shape[1], *mixed.shape[2:]
    whole = torch.empty(shape, dtype=dtype, device=mixed.device)
    parts = _parts(whole, k, shuffle)
    parts[:, 0] = mixed
    add_up(parts[:, 1:], [rest.unflatten(1, (k - 1, -1)) for rest in rests], weights)
    return whole


def add_up(total: Tensor, terms: Sequence[Tensor], weights: Sequence[Tensor], *, begun: bool = False) -> None:
    """Write the sum of terms, each times its weight if there are any, into a tensor, or add them to what it holds."""
    on_host = total.device.type == "cpu"  # reading a number from an accelerator would wait for the device
    for number, term in enumerate(terms):
        first = number == 0 and not begun
        if not weights:
            (total.copy_ if first else total.add_)(term)
        elif first:
            torch.mul(term, weights[number], out=total)
        elif on_host:
            total.add_(term, alpha=weights[number].item())
        else:
            total.addcmul_(term, weights[number])


def parted(gradient: Tensor, *, k: int, shuffle: bool, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Return of a node's gradient that of what was mixed, and that of the sum of what has passed by."""
    parts = _parts(gradient, k, shuffle)
    of_mixed = parts[:, 0]
    if channels_last:
        of_mixed = of_mixed.movedim(1, -1).contiguous().movedim(-1, 1)
    return of_mixed, parts[:, 1:].reshape(parts.shape[0], -1, *parts.shape[3:])


def _parts(whole: Tensor, k: int, shuffle: bool) -> Tensor:
    """Return a view of a node as its k parts, what was mixed first: (N, k, C/k, ...)."""
    places = (-1, k) if shuffle else (k, -1)
    parts: Tensor = whole.reshape(whole.shape[0], *places, *whole.shape[2:])  # which vmap knows, unlike unflatten
    return parts.transpose(1, 2) if shuffle else parts
