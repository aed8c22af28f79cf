"""A cell of convolutions, skips and mean pooling as one function, whose passes are compiled (`cell_kernels`).

Torch computes the convolutions; the statistics of batch-norms, the sum of all that goes into a node with its ReLU, and
in the backward pass the gradients of both are one pass each. Autograd sees one node in the place of a few hundred. A
backward pass that is differentiated itself, or of several gradients at once, goes through the cell written plainly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.fused.cell_kernels import LANE, kernels
from balenas_plugin.fused.fan import Fan
from balenas_plugin.fused.passing_by import Passing
from balenas_plugin.fused.sums import is_batched, is_mean_3x3

_Place = tuple[int, int, int]
"""Target of a branch, number of its edge, and its place among the edge's candidates."""


@dataclass
class _Group:
    """Chains of ReLU, convolution and batch-norm whose convolutions are one.

    Args:
        first: number of the first batch-norm among those of the cell.
    """

    places: list[_Place]
    convolutions: Sequence[nn.Conv2d]
    norms: Sequence[nn.BatchNorm2d]
    first: int

    @property
    def options(self) -> tuple[Any, Any]:
        """Padding and dilation."""
        return self.convolutions[0].padding, self.convolutions[0].dilation

    def joined(self, weights: Sequence[Tensor]) -> Tensor:
        """Return the weight of the one convolution; of those of the cell."""
        own = weights[self.first : self.first + len(self.norms)]
        return own[0] if len(own) == 1 else torch.cat(cast(Any, own))


@dataclass
class _Source:
    """What leaves one node."""

    groups: list[_Group] = field(default_factory=list)
    skips: list[_Place] = field(default_factory=list)
    pooled: list[_Place] = field(default_factory=list)


class Cell:
    """The branches between the nodes of a cell; `cell_of` returns one where it understands them all."""

    def __init__(self) -> None:
        self.sources: list[_Source] = []
        self.edges = 0
        """How many there are, in the order of their sources."""
        self.norms: list[nn.BatchNorm2d] = []

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], parts: tuple[int, bool] = (1, False), scales: Sequence[Tensor] = ()
    ) -> Tensor | None:
        """Return the last node; batch-norms keep the statistics of the batch as if each had been called.

        None where that is not known to be right, or not faster: it is on few threads of a CPU, in channels-last memory.

        Args:
            x: the input, known to be a plain tensor.
            weights: of each edge.
            parts: into how many parts the channels of nodes are divided, of which the branches see the first, and
                whether they are shuffled.
            scales: of what passes the edges to each node by, numbers; none: all are 1.
        """
        alone = torch.get_num_threads() <= _MOST_THREADS or x.numel() <= _SPLIT_BY_TORCH
        fits = (
            alone
            and x.device.type == "cpu"
            and x.dim() == 4
            and (parts[0] > 1 or x.is_contiguous(memory_format=torch.channels_last))
            and x.shape[1] == parts[0] * self.norms[0].num_features
            and x.numel() > x.shape[1]
            and all(norm.training for norm in self.norms)
            and not torch.is_autocast_enabled("cpu")
            and not torch._C._len_torch_function_stack()
            and kernels(x.dtype) is not None
        )
        if not fits:
            return None
        convolutions = [c._parameters["weight"] for s in self.sources for g in s.groups for c in g.convolutions]
        norms = [norm._parameters for norm in self.norms]
        affine = [*(n["weight"] for n in norms), *(n["bias"] for n in norms)]
        if not all(t.dtype == x.dtype and t.is_contiguous() for t in cast(Any, (*weights, *affine, *scales))):
            return None
        return cast(Tensor, _Cell.apply(self, parts, x, *weights, *convolutions, *affine, *scales))

    def parts(self, tensors: Sequence[Any]) -> tuple[Sequence[Any], ...]:
        """Return of what belongs to each tensor that of weights of edges, of convolutions, gammas, betas and scales."""
        ends = list(accumulate([self.edges, *[len(self.norms)] * 3]))
        return tuple(tensors[a:b] for a, b in zip([0, *ends], [*ends, len(tensors)], strict=True))

    def keep_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Let batch-norms take over the moments of a batch, shape (batch-norms, C)."""
        buffers = [norm._buffers for norm in self.norms]
        running = [*(b["running_mean"] for b in buffers), *(b["running_var"] for b in buffers)]
        momentum = cast(float, self.norms[0].momentum)
        torch._foreach_lerp_(cast(Any, running), [*mean.unbind(), *variance.unbind()], momentum)
        torch._foreach_add_(cast(Any, [b["num_batches_tracked"] for b in buffers]), 1)

    def plainly(self, parts: tuple[int, bool], x: Tensor, *tensors: Tensor) -> Tensor:
        """Return the last node, computed by torch branch by branch, without statistics."""
        weights, convolutions, gammas, betas, scales = self.parts(tensors)
        passing = Passing(parts, scales)
        nodes: list[Any] = [x, *[0] * len(self.sources)]
        for number, source in enumerate(self.sources):
            node = passing.enter(passing.differentiable(nodes[number]) if number else x)
            for group in source.groups:
                for k, (target, edge, at) in enumerate(group.places, group.first):
                    padding, dilation = group.options
                    z, w = F.conv2d(F.relu(node), convolutions[k], None, 1, padding, dilation), weights[edge][at]
                    y = F.batch_norm(z, None, None, w * gammas[k], w * betas[k], True, 0.0, group.norms[0].eps)
                    nodes[target] = nodes[target] + y
            for target, edge, at in source.skips:
                nodes[target] = nodes[target] + weights[edge][at] * node
            for target, edge, at in source.pooled:
                mean = F.avg_pool2d(node, 3, 1, 1, ceil_mode=False, count_include_pad=False)
                nodes[target] = nodes[target] + weights[edge][at] * mean
        return passing.differentiable(nodes[-1])


_MOST_THREADS = 2
"""Of torch, beyond which its passes on all of them may be faster than these on one."""

_SPLIT_BY_TORCH = 2**15
"""Elements up to which torch's own passes run on one thread, whatever it has."""


def cell_of(fans: Sequence[Fan]) -> Cell | None:
    """Return the cell that fans make, one for each node but the last, None if it is not of this kind."""
    cell = Cell()
    for fan in fans:
        edge_of = {target: cell.edges + k for k, target in enumerate(fan.towards)}
        place = {
            k: (target, edge_of[target], at)
            for target, branches in fan.towards.items()
            for at, k in enumerate(branches)
        }
        cell.edges += len(fan.towards)
        cell.sources.append(source := _Source())
        for members in fan.shared.values():
            match fan.chains[members[0]].layers:
                case ():
                    source.skips += [place[k] for k in members]
                case (nn.AvgPool2d() as pool,) if is_mean_3x3(pool):
                    source.pooled += [place[k] for k in members]
                case _:
                    return None
        for lanes, members in fan.lanes:
            match lanes.layers:
                case [[nn.ReLU(), *_], [nn.Conv2d(), *_] as convolutions, [nn.BatchNorm2d(), *_] as norms]:
                    group = _Group([place[k] for k in members], convolutions, cast(Any, norms), len(cell.norms))
                case _:
                    return None
            source.groups.append(group)
            cell.norms += group.norms
        if fan.called:
            return None
    return cell if cell.norms and all(_is_plain(*pair) for pair in _pairs(cell)) else None


def _pairs(cell: Cell) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm2d]]:
    for source in cell.sources:
        for group in source.groups:
            for convolution, norm in zip(group.convolutions, group.norms, strict=True):
                yield convolution, norm, cell.norms[0]


def _is_plain(layer: nn.Conv2d, norm: nn.BatchNorm2d, first: nn.BatchNorm2d) -> bool:
    """Return whether a convolution keeps the image's size and width, and a batch-norm is as the first one."""
    width = first.num_features
    sides = zip(layer.kernel_size, cast(Any, layer.padding), layer.dilation, strict=True)
    kept = all(2 * padding == dilation * (size - 1) for size, padding, dilation in sides)
    alike = norm.affine and norm.track_running_stats and (norm.momentum, norm.eps) == (first.momentum, first.eps)
    plain = kept and layer.stride == (1, 1) and layer.groups == 1 and layer.bias is None
    return plain and alike and layer.in_channels == layer.out_channels == norm.num_features == width


class _Cell(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cell: Cell, parts: tuple[int, bool], whole: Tensor, *tensors: Tensor) -> Tensor:
        run = cast(Any, kernels(whole.dtype))
        none: list[Any] = [None] * len(cell.sources)
        of_mixing, of_convolutions, _, _, of_scales = map(any, cell.parts(ctx.needs_input_grad[3:]))
        _, convolutions, _, _, scales = cell.parts(tensors)
        passing = Passing(parts, scales)
        x = passing.enter(whole)
        moments = x.new_empty(3, len(cell.norms), x.shape[1])
        lanes = _lanes(cell, tensors, moments)
        nodes, rectified, pooled, results = [x], [F.relu(x)], list[Tensor | None](), list[list[Tensor]]()
        received: list[list[list[int]]] = [[] for _ in range(len(cell.sources) + 1)]
        mixed: list[Tensor] = []
        for number, source in enumerate(cell.sources):
            results.append([])
            for group in source.groups:
                z = F.conv2d(rectified[number], group.joined(convolutions), None, 1, *group.options)
                z = z.contiguous(memory_format=torch.channels_last)
                run.moments(z, group.norms[0].eps, moments, group.first)
                results[number].append(z)
            pooled.append(torch.empty_like(x) if source.pooled else None)
            if source.pooled:
                run.pool(pooled[-1], nodes[number])
            without = [None] * len(source.groups)
            for place, _, lane in lanes(source, results[number], without, nodes[number], pooled[-1]):
                received[place[0]].append(lane)
            nodes.append(torch.empty_like(x))
            inner = number + 1 < len(cell.sources)
            here = inner and not passing  # else the ReLU is of what has passed by too
            rectified += [torch.empty_like(x)] if here else []
            run.mix(nodes[-1], rectified[-1] if here else None, received[number + 1])
            if passing:
                mixed.append(nodes[-1])
                joined = passing.node(nodes[-1])
                nodes[-1] = passing.enter(joined) if inner else joined
                rectified += [F.relu(nodes[-1])] if inner else []
        cell.keep_statistics(moments[0], moments[2])
        ctx.cell, ctx.parts, ctx.again = cell, parts, bool(passing) and (of_mixing or of_scales)
        kept = none if ctx.again or (of_convolutions and not of_mixing) else nodes[:-1]
        kept = [*kept, *([None, *rectified[1:]] if passing else rectified)] if of_convolutions else [*kept, *none]
        kept += [*mixed[:-1], None] if ctx.again else pooled if of_mixing else none
        ctx.save_for_backward(whole, *tensors, moments, *kept, *(z for of_source in results for z in of_source))
        return nodes[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cell, wanted, (gradient,) = ctx.cell, ctx.needs_input_grad[2:], gradients
        (whole, *tensors), (moments, *kept) = ctx.saved_tensors[: len(wanted)], ctx.saved_tensors[len(wanted) :]
        if torch.is_grad_enabled() or is_batched(gradient):
            return None, None, *_differentiably(cell, ctx.parts, [whole, *tensors], wanted, gradient)
        lanes, run, n = _lanes(cell, tensors, moments), cast(Any, kernels(whole.dtype)), len(cell.sources)
        nodes, rectified, pooled, results = *(kept[k * n : (k + 1) * n] for k in range(3)), kept[3 * n :]
        weights, convolutions, _, _, scales = cell.parts(tensors)
        passing = Passing(ctx.parts, scales)
        if ctx.again:  # nodes are larger than what was mixed into them
            nodes = [passing.enter(each) for each in passing.nodes(whole, pooled[:-1])]
            pooled = [torch.empty_like(nodes[0]) if source.pooled else None for source in cell.sources]
            for mean, node in zip(pooled, nodes, strict=True):
                if mean is not None:
                    run.pool(mean, node)
        mixing_wanted, convolutions_wanted, *norms_wanted, _ = map(any, cell.parts(wanted[1:]))
        if passing and convolutions_wanted:
            seen = Passing(ctx.parts, ()).enter(whole) if nodes[0] is None else nodes[0]
            rectified = [F.relu(seen), *rectified[1:]]
        x = rectified[0] if nodes[0] is None else nodes[0]  # of its shape and memory format
        of_weights = [torch.zeros_like(w) if mixing_wanted else None for w in weights]
        at_weights = [0 if w is None else w.data_ptr() for w in of_weights]
        of_convolutions: list[Tensor | None] = [None] * len(convolutions)
        of_norms = x.new_empty(2, len(cell.norms), x.shape[1])
        size, line = x.element_size(), x.element_size() * x.shape[1]
        at_gammas, at_betas = of_norms[0].data_ptr(), of_norms[1].data_ptr()
        last = passing.gradient(n, gradient) if passing else gradient.contiguous(memory_format=torch.channels_last)
        of_nodes: list[Any] = [None] * n + [last]
        for number, source in reversed(list(enumerate(cell.sources))):
            goes_on = number > 0 or wanted[0]
            mask = rectified[number] if nodes[number] is None else nodes[number]
            of_source = [results.pop() for _ in source.groups][::-1]
            of_z = [torch.empty_like(z) if goes_on or convolutions_wanted else None for z in of_source]
            table = []
            for (target, edge, at), norm, lane in lanes(source, of_source, of_z, nodes[number], pooled[number]):
                lane[_G] = of_nodes[target].data_ptr()
                if mixing_wanted:
                    lane[_OF_WEIGHT] = at_weights[edge] + at * size
                if norm is not None and any(norms_wanted):
                    lane[_OF_GAMMA : _OF_GAMMA + 2] = at_gammas + norm * line, at_betas + norm * line
                table.append(lane)
            run.gradients(x, table)
            behind = []
            for group, of_result in zip(source.groups, of_z, strict=True):
                if of_result is None:
                    continue
                of_input, of_joined, _ = torch.ops.aten.convolution_backward(
                    of_result,
                    mask if rectified[number] is None else rectified[number],
                    group.joined(convolutions),
                    None,
                    [1, 1],
                    *group.options,
                    False,
                    [0, 0],
                    1,
                    [goes_on, convolutions_wanted, False],
                )
                if goes_on:
                    behind.append(of_input.contiguous(memory_format=torch.channels_last))
                if convolutions_wanted:
                    of_convolutions[group.first : group.first + len(group.norms)] = of_joined.split(x.shape[1])
            if goes_on:
                of_nodes[number] = torch.empty_like(x)
                terms, averages = (
                    [(of_nodes[target], weights[edge].data_ptr() + at * size) for target, edge, at in places]
                    for places in (source.skips, source.pooled)
                )
                run.input(of_nodes[number], terms, behind, mask)
                if averages:
                    total = torch.empty_like(x)
                    run.input(total, averages, [], mask)
                    run.pool(of_nodes[number], total, adjoint=True)
                if passing:
                    of_nodes[number] = passing.gradient(number, of_nodes[number])
        found = [of_nodes[0], *of_weights, *of_convolutions, *of_norms[0], *of_norms[1], *passing.of_scales]
        return None, None, *(g if needed else None for g, needed in zip(found, wanted, strict=True))


_G, _OF_WEIGHT, _OF_GAMMA = map(LANE.index, ("g", "of_weight", "of_gamma"))


def _lanes(
    cell: Cell, tensors: Sequence[Tensor], moments: Tensor
) -> Callable[..., Iterator[tuple[_Place, int | None, list[int]]]]:
    """Return what yields the place, the number of the batch-norm and the addresses (`LANE`) of what leaves a node."""
    weights, gammas, betas = ([t.data_ptr() for t in cell.parts(tensors)[k]] for k in (0, 2, 3))
    size, channels = moments.element_size(), moments.shape[2]
    line, first, deviations = size * channels, moments.data_ptr(), moments[1].data_ptr()

    def of_source(
        source: _Source,
        results: Sequence[Tensor],
        of_results: Sequence[Tensor | None],
        node: Tensor | None,
        pooled: Tensor | None,
    ) -> Iterator[tuple[_Place, int | None, list[int]]]:
        for group, z, of_z in zip(source.groups, results, of_results, strict=True):
            at_z, stride, at_of_z = z.data_ptr(), z.shape[1], 0 if of_z is None else of_z.data_ptr()
            for n, place in enumerate(group.places, group.first):
                weight = weights[place[1]] + size * place[2]
                scale = weight, gammas[n], betas[n], first + n * line, deviations + n * line
                yield place, n, [at_z, stride, 0, *scale, 0, 0, 0, at_of_z]
                at_z, at_of_z = at_z + line, at_of_z and at_of_z + line
        for term, places in ((node, source.skips), (pooled, source.pooled)):
            if term is not None:
                for place in places:
                    yield place, None, [term.data_ptr(), channels, 0, weights[place[1]] + size * place[2], *[0] * 8]

    return of_source


def _differentiably(
    cell: Cell, parts: tuple[int, bool], inputs: Sequence[Tensor], wanted: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients in the inputs, themselves with a graph if one is being built."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [t.view_as(t) if needed else t for t, needed in zip(inputs, wanted, strict=True)]  # none leads to another
        differentiated = [t for t, needed in zip(own, wanted, strict=True) if needed]
        y = cell.plainly(parts, *own)
        found = iter(torch.autograd.grad(y, differentiated, gradient, create_graph=again, allow_unused=True))
    return tuple(next(found) if needed else None for needed in wanted)
