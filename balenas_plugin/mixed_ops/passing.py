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
        dtype = reduce(torch.promote_types, (t.dtype for t in (mixed, *rests)))
        shape = mixed.shape[0], k * mixed.shape[1], *mixed.shape[2:]
        whole = torch.empty(shape, dtype=dtype, device=mixed.device)
        parts = _parts(whole, k, shuffle)
        parts[:, 0] = mixed
        others = parts[:, 1:]
        on_host = mixed.device.type == "cpu"  # reading a number from an accelerator would wait for the device
        for number, rest in enumerate(rests):
            part = rest.unflatten(1, (k - 1, -1))
            if not weights:
                (others.add_ if number else others.copy_)(part)
            elif number == 0:
                torch.mul(part, weights[0], out=others)
            elif on_host:
                others.add_(part, alpha=weights[number].item())
            else:
                others.addcmul_(part, weights[number])
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        parts = _parts(gradients[0], ctx.k, ctx.shuffle)
        of_mixed = parts[:, 0]
        if ctx.channels_last:  # as mixed was
            of_mixed = of_mixed.movedim(1, -1).contiguous().movedim(-1, 1)
        whole = parts[:, 1:].reshape(parts.shape[0], -1, *parts.shape[3:])
        weighted = len(ctx.needs_input_grad) > 4 + ctx.edges
        weights, kept = (ctx.saved_tensors[: ctx.edges], ctx.saved_tensors[ctx.edges :]) if weighted else ((), ())
        of_rests = [whole * w for w in weights] if weighted else [whole] * ctx.edges
        of_weights = [(whole * rest).sum() for rest in kept] if kept else [None] * len(weights)
        return (None, None, of_mixed, None, *of_rests, *of_weights)


def _parts(whole: Tensor, k: int, shuffle: bool) -> Tensor:
    """Return a view of a node as its k parts, what was mixed first: (N, k, C/k, ...)."""
    places = (-1, k) if shuffle else (k, -1)
    parts: Tensor = whole.reshape(whole.shape[0], *places, *whole.shape[2:])  # which vmap knows, unlike unflatten
    return parts.transpose(1, 2) if shuffle else parts
