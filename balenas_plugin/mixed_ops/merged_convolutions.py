"""MergeNAS: the convolutions of an edge share one kernel, and are computed as one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.mixed_ops._mixed_op import MixedOp


class MergedConvolutions(MixedOp):
    r"""Convolve once with :math:`W \odot \sum_i \alpha_i M_i`: the kernels of an edge are parts of one.

    Merged are ReLU-convolution-batch-norm, and ReLU-depthwise-pointwise-batch-norm (once or twice), of odd square
    kernels that keep the size, where an edge has several; all else is mixed beside them. :math:`M_i` is 1 where the
    i-th kernel has its entries in the largest one's grid. One batch-norm follows the merged kernel. It takes the scale
    of the weights away: merged operations compete with each other, but hardly with others.

    Args:
        single: a separable convolution is applied once, where the space's may be applied twice.
        merge_skip: add the input times the weight of an identity before the batch-norm, where it then competes; None:
            with plain convolutions, as in NAS-Bench-201, not with separable ones.
        keep_scale: multiply what the batch-norm returns by the sum of the merged weights, so that these compete.

    Source: Wang et al. 2020, "MergeNAS: Merge Operations into One for Differentiable Architecture Search"; the masks
    are those of EAutoDet (Wang et al. 2022).
    """

    name = "merged-convolutions"
    source = "Wang et al. 2020"
    adds_up = False

    def __init__(self, *, single: bool = True, merge_skip: bool | None = None, keep_scale: bool = False) -> None:
        self.single, self.merge_skip, self.keep_scale = single, merge_skip, keep_scale

    def build(self, candidates: Mapping[str, nn.Module], *, called: str) -> dict[str, nn.Module] | None:
        """Return the candidates with parts of shared kernels in the place of convolutions; None if there are none."""
        groups: dict[object, dict[str, Kernel]] = {}
        for name, candidate in candidates.items():
            if (kernel := read_kernel(candidate)) is not None:
                groups.setdefault(kernel.family, {})[name] = kernel
        found = dict(candidates)
        for members in groups.values():
            if len(members) < 2:
                continue
            first = next(iter(members.values()))
            skips = [] if not self._merges_skip(first) else [k for k, c in found.items() if isinstance(c, nn.Identity)]
            kernels: list[Kernel | None] = [*members.values(), *(None for _ in skips)]
            shared = SharedKernel(kernels, twice=first.separable and not self.single, keep_scale=self.keep_scale)
            found |= {name: Part(shared, k) for k, name in enumerate([*members, *skips])}
        return found if any(isinstance(each, Part) for each in found.values()) else None

    def _merges_skip(self, kernel: Kernel) -> bool:
        possible = kernel.stride == 1 and kernel.inputs == kernel.outputs
        return possible and (not kernel.separable if self.merge_skip is None else self.merge_skip)

    def mix(self, x: Tensor, candidates: Sequence[nn.Module], weights: Tensor) -> Tensor:
        """Return the sum of the candidates, those of one kernel convolved at once."""
        terms: list[Tensor] = []
        merged: dict[SharedKernel, dict[int, Tensor]] = {}
        for weight, candidate in zip(weights, candidates, strict=False):
            if isinstance(candidate, Part):
                merged.setdefault(candidate.shared, {})[candidate.number] = weight
            else:
                terms.append(weight * candidate(x))
        none = weights.new_zeros(())
        for shared, by_number in merged.items():
            terms.append(shared(x, torch.stack([by_number.get(k, none) for k in range(len(shared.masks))])))
        return sum(terms[1:], start=terms[0])


@dataclass(frozen=True)
class Kernel:
    """A convolution that can be part of a shared kernel, as a candidate applies it.

    Args:
        size: k, odd.
        dilation: d.
        stride: of the first layer.
        inputs, outputs: numbers of channels.
        separable: whether it is depthwise, and a pointwise one follows.
        rectified: whether a ReLU comes before.
        norm: the batch-norm behind it.
    """

    size: int
    dilation: int
    stride: int
    inputs: int
    outputs: int
    separable: bool
    rectified: bool
    norm: nn.BatchNorm2d

    @property
    def family(self) -> object:
        """What kernels share that can be merged."""
        norm = (self.norm.eps, self.norm.momentum, self.norm.affine, self.norm.track_running_stats)
        return self.stride, self.inputs, self.outputs, self.separable, self.rectified, norm

    @property
    def reach(self) -> int:
        """The side of the grid that it covers, in pixels."""
        return (self.size - 1) * self.dilation + 1

    def mask(self, side: int) -> Tensor:
        """Return where its entries are in a grid of a larger or equal side, shape (side, side), 1 or 0."""
        start = (side - self.reach) // 2
        rows = torch.zeros(side)
        rows[start : start + self.reach : self.dilation] = 1
        return rows.outer(rows)


def read_kernel(candidate: nn.Module) -> Kernel | None:
    """Return the convolution that a candidate consists of, None if it is anything else."""
    layers = [module for module in candidate.modules() if not list(module.children())]
    rectified = bool(layers) and type(layers[0]) is nn.ReLU
    for separable in (False, True):
        block = 2 + separable + rectified
        if len(layers) != block and not (separable and len(layers) == 2 * block):
            continue
        found = [_block(layers[i : i + block], separable, rectified) for i in range(0, len(layers), block)]
        if all(found):
            return found[0]
    return None


def _block(layers: Sequence[Any], separable: bool, rectified: bool) -> Kernel | None:
    """Return what a ReLU, one convolution or two, and a batch-norm are."""
    *relu, conv, norm = layers if not separable else [*layers[:-2], layers[-1]]
    if rectified != (len(relu) == 1 and isinstance(relu[0], nn.ReLU)) or len(relu) > 1:
        return None
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or not _plain(conv):
        return None
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
    if depthwise != separable or (not separable and conv.groups > 1):
        return None
    outputs = conv.out_channels
    if separable:
        point = layers[-2]
        if not isinstance(point, nn.Conv2d) or point.kernel_size != (1, 1) or point.groups > 1 or not _plain(point):
            return None
        outputs = point.out_channels
    size, dilation, stride = conv.kernel_size[0], conv.dilation[0], conv.stride[0]
    return Kernel(size, dilation, stride, conv.in_channels, outputs, separable, rectified, norm)


def _plain(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is square, odd, without bias, and keeps the size at stride 1."""
    size, dilation = conv.kernel_size[0], conv.dilation[0]
    square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.dilation, conv.stride))
    keeps = conv.padding == (dilation * (size // 2),) * 2 and conv.padding_mode == "zeros"
    return square and size % 2 == 1 and keeps and conv.bias is None


def merged_kernel(
    weight: Tensor,
    masks: Tensor,
    mixing: Tensor,
    *,
    pointwise: Tensor | None = None,
    average: Tensor | float = 0.0,
    skip: Tensor | float = 0.0,
) -> Tensor:
    """Return the kernel of what an edge computes before its batch-norm, at stride 1.

    Args:
        weight: the shared kernel, shape (out, in, S, S), or (channels, 1, S, S) if it is depthwise.
        masks: where the entries of each part are, shape (number of parts, S, S).
        mixing: weight of each part, shape (number of parts,).
        pointwise: of a separable convolution, shape (out, channels, 1, 1), which makes one kernel of both.
        average: mixing weight of 3 x 3 average pooling that counts the padding.
        skip: mixing weight of an identity.
    """
    kernel = weight * torch.einsum("i,ihw->hw", mixing, masks.to(mixing.dtype))
    if pointwise is not None:
        kernel = pointwise * kernel.transpose(0, 1)
    if isinstance(average, Tensor) or isinstance(skip, Tensor):
        middle = torch.zeros(2, *kernel.shape[2:], dtype=kernel.dtype, device=kernel.device)
        centre = kernel.shape[-1] // 2
        middle[0, centre - 1 : centre + 2, centre - 1 : centre + 2] = 1 / 9
        middle[1, centre, centre] = 1
        same = torch.eye(*kernel.shape[:2], dtype=kernel.dtype, device=kernel.device)[..., None, None]
        kernel = kernel + same * (average * middle[0] + skip * middle[1])
    return kernel


class SharedKernel(nn.Module):
    """One kernel that several convolutions are parts of, and one batch-norm.

    Args:
        kernels: the convolutions; None stands for an identity, which is added before the batch-norm.
        twice: apply a separable convolution twice, with weights of its own each time.
        keep_scale: multiply the result by the sum of the weights.
    """

    masks: Tensor
    """Where the entries of each part are, shape (number of parts, side, side)."""

    def __init__(self, kernels: Sequence[Kernel | None], *, twice: bool = False, keep_scale: bool = False) -> None:
        super().__init__()
        known = [kernel for kernel in kernels if kernel is not None]
        self.keep_scale = keep_scale
        side = max(kernel.reach for kernel in known)
        masks = [torch.zeros(side, side) if kernel is None else kernel.mask(side) for kernel in kernels]
        self.register_buffer("masks", torch.stack(masks), persistent=False)
        self.skips = [k for k, kernel in enumerate(kernels) if kernel is None]
        self.stages = nn.ModuleList(_Stage(known[0], side, first=i == 0) for i in range(1 + twice))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the merged convolution.

        Args:
            x: (N, C, H, W).
            weights: of each part, shape (number of parts,).
        """
        skip = weights[self.skips].sum() if self.skips else None
        stages: Any = self.stages
        for stage in stages:
            x = stage(x, merged_kernel(stage.weight, self.masks, weights), skip)
        return weights.sum() * x if self.keep_scale else x


class _Stage(nn.Module):
    """ReLU, the merged convolution, a pointwise one if it is separable, batch-norm."""

    def __init__(self, kernel: Kernel, side: int, *, first: bool) -> None:
        super().__init__()
        inputs = kernel.inputs if first else kernel.outputs
        self.rectified, self.padding, self.stride = kernel.rectified, side // 2, kernel.stride if first else 1
        self.groups = inputs if kernel.separable else 1
        outputs = inputs if kernel.separable else kernel.outputs
        self.weight = nn.Conv2d(inputs, outputs, side, groups=self.groups, bias=False).weight
        self.pointwise = nn.Conv2d(inputs, kernel.outputs, 1, bias=False) if kernel.separable else nn.Identity()
        self.norm = copy.deepcopy(kernel.norm)

    def forward(self, x: Tensor, kernel: Tensor, skip: Tensor | None) -> Tensor:
        seen = F.relu(x) if self.rectified else x
        found = F.conv2d(seen, kernel, stride=self.stride, padding=self.padding, groups=self.groups)
        found = self.pointwise(found)
        return self.norm(found if skip is None else found + skip * x)  # type: ignore[no-any-return]  # of a tensor


class Part(nn.Module):
    """One of the convolutions that share a kernel, alone.

    Args:
        shared: the kernel.
        number: of the part.
    """

    def __init__(self, shared: SharedKernel, number: int) -> None:
        super().__init__()
        self.shared, self.number = shared, number

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution with this part of the kernel."""
        weights = F.one_hot(torch.tensor(self.number, device=x.device), len(self.shared.masks)).to(x.dtype)
        return self.shared(x, weights)  # type: ignore[no-any-return]  # of a tensor
