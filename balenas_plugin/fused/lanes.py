"""Chains of one signature, side by side on one input: first convolutions and batch-norms become wide ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from balenas_plugin.fused.chains import Chain
from balenas_plugin.fused.depthwise import convolution
from balenas_plugin.fused.sums import average_pool


class Lanes:
    """n chains of one signature on one input; the results may be scaled, at no cost if a batch-norm comes last.

    A dense first convolution is one convolution with n times the output channels. On an accelerator, where launches
    cost more than arithmetic, the lanes stay side by side behind it, in grouped convolutions. On a CPU grouped and
    depthwise convolutions gain nothing from width (their backward pass even loses): there each lane goes on alone.

    Args:
        chains: one signature, at least one layer with parameters.
    """

    def __init__(self, chains: Sequence[Chain]) -> None:
        self.chains = tuple(chains)
        self.layers = list(zip(*(chain.layers for chain in self.chains), strict=True))
        self.starts_with_relu = isinstance(self.layers[0][0], nn.ReLU)
        self.can_scale = isinstance(self.layers[-1][0], nn.BatchNorm2d)
        only_last = not any(isinstance(layers[0], (nn.Conv2d, nn.BatchNorm2d)) for layers in self.layers[:-1])
        self.alike = only_last and isinstance(norm := self.layers[-1][0], nn.BatchNorm2d) and not norm.affine

    def __call__(
        self, x: Tensor, scale: Tensor | None = None, *, wide: bool | None = None, counts: bool = True
    ) -> list[Tensor]:
        """Return the result of each chain.

        Args:
            x: the input; behind the first layer if that is a ReLU, which the caller applies once for all.
            scale: one factor per chain, shape (n,), only where `can_scale`.
            wide: side by side all the way; None decides by the device.
            counts: whether running statistics change; not where a pass is computed again.
        """
        widen = x.device.type != "cpu" if wide is None else wide
        lanes = [x]  # one tensor that all chains share, or one that holds them side by side, or one per chain
        n, shared = len(self.chains), True
        for depth, layers in enumerate(self.layers[1:] if self.starts_with_relu else self.layers):
            last = depth == len(self.layers) - 1 - self.starts_with_relu
            head = layers[0]
            if isinstance(head, nn.Conv2d):
                dense = shared and head.groups == 1
                if not dense and not widen:
                    lanes = _spread(lanes, n, shared)
                lanes = _convolve(lanes, cast(Sequence[nn.Conv2d], layers), shared)
                shared = False
            elif isinstance(head, nn.BatchNorm2d):
                lanes = lanes * n if shared else lanes
                shared = False
                norms = cast(Sequence[nn.BatchNorm2d], layers)
                lanes = _normalise(lanes, norms, scale if last else None, counts)
            else:
                lanes = [parameterless(lane, head) for lane in lanes]
        return _spread(lanes, n, shared)

    def again(self, x: Tensor, scale: Tensor | None = None, *, rectify: bool = False) -> list[Tensor]:
        """Return the same, but keep no more than `x` for the backward pass, which computes the chains once more.

        Values and gradients are the same ones, bit for bit.

        Args:
            x, scale: as in `__call__`.
            rectify: whether the ReLU that the chains begin with is still to be applied to x.
        """
        passes = itertools.count()

        def run(x: Tensor, scale: Tensor | None) -> list[Tensor]:
            return self(F.relu(x) if rectify else x, scale, counts=next(passes) == 0)

        result: list[Tensor] = checkpoint(run, x, scale, use_reentrant=False, preserve_rng_state=False)
        return result

    def common(self, x: Tensor) -> Tensor | None:
        """Return the one result of all chains, None where it may not be one.

        It is where all that chains have of their own is a batch-norm without weights, in training: its statistics are
        kept as if each had been called.

        Args:
            x: as in `__call__`.
        """
        norms = cast(Sequence[nn.BatchNorm2d], self.layers[-1])
        if not self.alike or not all(norm.training for norm in norms):
            return None
        for layers in self.layers[self.starts_with_relu : -1]:
            x = parameterless(x, layers[0])
        head = norms[0]
        if not head.track_running_stats:
            return F.batch_norm(x, None, None, training=True, eps=head.eps)
        mean, variance = map(torch.zeros_like, _statistics(norms[:1]))
        y = F.batch_norm(x, mean, variance, training=True, momentum=1.0, eps=head.eps)  # writes those of the batch
        with torch.no_grad():
            batch = [mean] * len(norms) + [variance] * len(norms)
            torch._foreach_lerp_(_statistics(norms), batch, cast(float, head.momentum))
            torch._foreach_add_([cast(Tensor, norm.num_batches_tracked) for norm in norms], 1)
        return y


def parameterless(x: Tensor, layer: nn.Module) -> Tensor:
    """Apply a ReLU or a pooling layer."""
    if isinstance(layer, nn.ReLU):
        return F.relu(x)
    if isinstance(layer, nn.AvgPool2d):
        return average_pool(x, layer)
    result: Tensor = layer(x)
    return result


def _spread(lanes: list[Tensor], n: int, shared: bool) -> list[Tensor]:
    """Return one tensor per chain."""
    if len(lanes) == n:
        return lanes
    (only,) = lanes
    return [only] * n if shared else list(only.chunk(n, dim=1))


def _convolve(lanes: list[Tensor], layers: Sequence[nn.Conv2d], shared: bool) -> list[Tensor]:
    head, n = layers[0], len(layers)
    if len(lanes) == n:
        return [
            convolution(x, c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups)
            for x, c in zip(lanes, layers, strict=True)
        ]
    (x,) = lanes
    groups = n * head.groups
    if shared:
        if head.groups == 1:
            groups = 1
        else:
            x = torch.cat([x] * n, dim=1)
    weight = torch.cat([c.weight for c in layers])
    bias = None if head.bias is None else torch.cat([cast(Tensor, c.bias) for c in layers])
    return [F.conv2d(x, weight, bias, head.stride, cast(tuple[int, int], head.padding), head.dilation, groups)]


def _normalise(
    lanes: list[Tensor], layers: Sequence[nn.BatchNorm2d], scale: Tensor | None, counts: bool
) -> list[Tensor]:
    n = len(layers)
    if len(lanes) == n:
        scales = [None] * n if scale is None else list(scale[:, None])
        return [_batch_norm(x, [norm], s, counts) for x, norm, s in zip(lanes, layers, scales, strict=True)]
    if len({norm.training for norm in layers}) > 1:
        return _normalise(_spread(lanes, n, shared=False), layers, scale, counts)
    return [_batch_norm(lanes[0], layers, scale, counts)]


def _batch_norm(x: Tensor, norms: Sequence[nn.BatchNorm2d], scale: Tensor | None, counts: bool) -> Tensor:
    """Normalise n lanes side by side; a lane's scale multiplies its gamma and beta, which is to scale its result.

    Running statistics and counters change as if each layer had been called, if the pass counts.
    """
    head, features = norms[0], norms[0].num_features
    gamma = beta = None
    if scale is not None:
        gamma = scale.repeat_interleave(features).to(head.weight.dtype if head.affine else x.dtype)
    if head.affine:
        both = torch.cat([*(norm.weight for norm in norms), *(norm.bias for norm in norms)]).view(2, -1)
        gamma, beta = (both if gamma is None else both * gamma).unbind()
    statistics = mean = variance = None
    if head.track_running_stats:
        statistics = torch.cat(_statistics(norms)).view(2, -1)
        mean, variance = statistics.unbind()
    y = F.batch_norm(
        x,
        mean,
        variance,
        gamma,
        beta,
        training=head.training or not head.track_running_stats,
        momentum=cast(float, head.momentum),
        eps=head.eps,
    )
    if counts and head.training and statistics is not None:
        _keep(statistics, norms)
    return y


def _statistics(norms: Sequence[nn.BatchNorm2d]) -> list[Tensor]:
    """Return the running means, then the running variances."""
    return [cast(Tensor, norm.running_mean) for norm in norms] + [cast(Tensor, norm.running_var) for norm in norms]


@torch.no_grad()
def _keep(statistics: Tensor, norms: Sequence[nn.BatchNorm2d]) -> None:
    torch._foreach_copy_(_statistics(norms), list(statistics.view(2 * len(norms), -1).unbind()))
    torch._foreach_add_([cast(Tensor, norm.num_batches_tracked) for norm in norms], 1)
