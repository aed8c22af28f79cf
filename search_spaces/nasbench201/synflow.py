r"""SynFlow of NAS-Bench-201 architectures in one forward pass, for ranking many of them.

Without batch-norm and with absolute weights the network is multilinear in its weights and linear in a positive input,
so :math:`\sum_w |w\, dR/dw| = dR/dt` where every weight is scaled by :math:`1 + t`, at t = 0. That derivative travels
forward with the activations: a layer maps :math:`(y, \dot y)` to :math:`(W y, W (\dot y + y))`, so both go through each
convolution as a batch of two, without a backward pass. Values are rescaled by powers of two on the way, which float32
then never leaves; the logarithm of the result is exact to about 1e-6.

Source: Tanaka et al. 2020 (SynFlow). The test compares it with `balenas_plugin.proxies.synflow`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import Cell, NasBench201Network
from .notation import EDGES, NODES, Edge

Layer = Tensor | nn.Module
"""Absolute weights of a convolution, or a layer without any."""

CellLayers = Mapping[Edge, Layer]
"""The layer on each live edge of a cell."""


@dataclass(frozen=True)
class ResidualLayers:
    """The layers of a residual block: two convolutions, the first with stride 2, beside a pooled one."""

    first: Tensor
    second: Tensor
    pool: nn.Module
    shortcut: Tensor


@dataclass(frozen=True)
class MultilinearLayers:
    """What is left of a network without batch-norm and ReLU, with absolute weights."""

    stem: Tensor
    blocks: Sequence[CellLayers | ResidualLayers]
    classifier: Tensor


@torch.no_grad()
def log_synflow(network: NasBench201Network, *, image_size: int = 32) -> float:
    """Return the natural logarithm of the network's SynFlow score, ``-inf`` if nothing reaches the output.

    Args:
        network: unchanged; its parameters' values count, its mode and buffers do not.
        image_size: side of the input of ones, in pixels.
    """
    return log_synflow_of_layers(multilinear_layers(network), image_size=image_size)


def multilinear_layers(network: NasBench201Network) -> MultilinearLayers:
    """Return what `log_synflow` computes with."""
    return MultilinearLayers(
        absolute(network.stem[0]),
        [cell_layers(block) if isinstance(block, Cell) else _residual_layers(block) for block in network.cells],
        network.classifier.weight.detach().abs(),
    )


def cell_layers(cell: Cell) -> dict[Edge, Layer]:
    """Return the layer on each live edge of a cell."""
    return {edge: _operation(cell.operations[str(edge)]) for edge in EDGES if str(edge) in cell.operations}


def _operation(operation: nn.Module) -> Layer:
    """Return a convolution block without its ReLU and batch-norm, or a layer that is linear already."""
    return absolute(operation[1]) if isinstance(operation, nn.Sequential) else operation


def _residual_layers(block: nn.Module) -> ResidualLayers:
    pool, convolution = cast(nn.Sequential, block.downsample)
    first, second = (cast(nn.Sequential, part)[1] for part in (block.conv_a, block.conv_b))
    return ResidualLayers(absolute(first), absolute(second), pool, absolute(convolution))


def absolute(convolution: nn.Module) -> Tensor:
    """Return the absolute weights of a convolution."""
    return cast(Tensor, convolution.weight).detach().abs().contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def log_synflow_of_layers(layers: MultilinearLayers, *, image_size: int = 32) -> float:
    """Return the natural logarithm of the SynFlow score, ``-inf`` if nothing reaches the output."""
    ones = torch.ones(1, 3, image_size, image_size, dtype=layers.stem.dtype, device=layers.stem.device)
    pair = torch.cat([ones, torch.zeros_like(ones)])  # y and its derivative in t
    pair, exponent = _rescaled(_convolve(pair, layers.stem), 0)
    for block in layers.blocks:
        pair = _residual(pair, block) if isinstance(block, ResidualLayers) else _cell(pair, block)
        pair, exponent = _rescaled(pair, exponent)
    pair = _advanced(pair.mean((2, 3)))
    derivative = float((pair[1] @ layers.classifier.T).double().sum())
    return math.log(derivative) + exponent * math.log(2) if derivative > 0 else -math.inf


def live_edges(edges: set[Edge]) -> set[Edge]:
    """Return those of a cell's edges that lie on a path from its input to its output."""
    reached, used = {0}, {NODES[-1]}
    for edge in EDGES:
        if edge in edges and edge.source in reached:
            reached.add(edge.target)
    for edge in reversed(EDGES):
        if edge in edges and edge.target in used:
            used.add(edge.source)
    return {edge for edge in edges if edge.source in reached and edge.target in used}


def _advanced(pair: Tensor) -> Tensor:
    """Add y to its derivative: what the next layer's weight is multiplied with."""
    return torch.cat([pair[:1], pair[1:] + pair[:1]])


def _convolve(pair: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    return F.conv2d(_advanced(pair), weight, None, stride, weight.shape[-1] // 2)


def _cell(pair: Tensor, layers: CellLayers) -> Tensor:
    nodes: dict[int, Tensor] = {0: pair}
    live = live_edges(set(layers))
    for edge in EDGES:
        if edge in live:
            layer, source = layers[edge], nodes[edge.source]
            term = _convolve(source, layer) if isinstance(layer, Tensor) else layer(source)
            nodes[edge.target] = nodes[edge.target] + term if edge.target in nodes else term
    return nodes.get(NODES[-1], torch.zeros_like(pair))


def _residual(pair: Tensor, layers: ResidualLayers) -> Tensor:
    direct = _convolve(_convolve(pair, layers.first, stride=2), layers.second)
    return _convolve(layers.pool(pair), layers.shortcut) + direct


def _rescaled(pair: Tensor, exponent: int) -> tuple[Tensor, int]:
    """Bring the largest value near 1 by a power of two."""
    peak = float(pair.max())
    if peak == 0:
        return pair, exponent
    power = math.frexp(peak)[1]
    return torch.ldexp(pair, torch.tensor(-power, device=pair.device)), exponent + power
