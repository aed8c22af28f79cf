r"""SynFlow of a NAS-Bench-201 network in one forward pass, for ranking many of them.

Without batch-norm and with absolute weights the network is multilinear in its weights and linear in a positive input,
so :math:`\sum_w |w\, dR/dw| = dR/dt` where every weight is scaled by :math:`1 + t`, at t = 0. That derivative travels
forward with the activations: a layer maps :math:`(y, \dot y)` to :math:`(W y, W (\dot y + y))`, so both go through each
convolution as a batch of two, without a backward pass. Values are rescaled by powers of two on the way, which float32
then never leaves; the logarithm of the result is exact to about 1e-6.

Source: Tanaka et al. 2020 (SynFlow). The test compares it with `balenas_plugin.proxies.synflow`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.search_spaces.nasbench201.network import Cell, NasBench201Network
from balenas_plugin.search_spaces.nasbench201.notation import EDGES, NODES


@torch.no_grad()
def log_synflow(network: NasBench201Network, *, image_size: int = 32) -> float:
    """Return the natural logarithm of the network's SynFlow score, ``-inf`` if nothing reaches the output.

    Args:
        network: unchanged; its parameters' values count, its mode and buffers do not.
        image_size: side of the input of ones, in pixels.
    """
    parameter = network.classifier.weight
    ones = torch.ones(1, 3, image_size, image_size, dtype=parameter.dtype, device=parameter.device)
    pair = torch.cat([ones, torch.zeros_like(ones)])  # y and its derivative in t
    pair, exponent = _rescaled(_layer(pair, network.stem[0]), 0)
    for block in network.cells:
        pair = _cell(pair, block) if isinstance(block, Cell) else _residual(pair, block)
        pair, exponent = _rescaled(pair, exponent)
    pair = _advanced(pair.mean((2, 3)))
    derivative = float((pair[1] @ parameter.abs().T).double().sum())
    return math.log(derivative) + exponent * math.log(2) if derivative > 0 else -math.inf


def _advanced(pair: Tensor) -> Tensor:
    """Add y to its derivative: what the next layer's weight is multiplied with."""
    return torch.stack([pair[0], pair[1] + pair[0]])


def _layer(pair: Tensor, convolution: nn.Module) -> Tensor:
    assert isinstance(convolution, nn.Conv2d)
    return F.conv2d(_advanced(pair), convolution.weight.abs(), None, convolution.stride, convolution.padding)


def _operation(pair: Tensor, operation: nn.Module) -> Tensor:
    """Apply one edge: a convolution block without its ReLU and batch-norm, or a layer that is linear already."""
    return _layer(pair, operation[1]) if isinstance(operation, nn.Sequential) else operation(pair)


def _cell(pair: Tensor, cell: Cell) -> Tensor:
    nodes: list[Tensor | None] = [pair]
    used = _nodes_that_reach_the_output(cell)
    for node in NODES:
        total: Tensor | None = None
        for edge in EDGES:
            source = nodes[edge.source] if edge.target == node and node in used else None
            if source is not None and str(edge) in cell.operations:
                term = _operation(source, cell.operations[str(edge)])
                total = term if total is None else total + term
        nodes.append(total)
    return torch.zeros_like(pair) if nodes[-1] is None else nodes[-1]


def _nodes_that_reach_the_output(cell: Cell) -> set[int]:
    used = {NODES[-1]}
    for edge in reversed(EDGES):
        if edge.target in used and str(edge) in cell.operations:
            used.add(edge.source)
    return used


def _residual(pair: Tensor, block: nn.Module) -> Tensor:
    pool, convolution = block.downsample
    direct = _layer(_layer(pair, block.conv_a[1]), block.conv_b[1])
    return _layer(pool(pair), convolution) + direct


def _rescaled(pair: Tensor, exponent: int) -> tuple[Tensor, int]:
    """Bring the largest value near 1 by a power of two."""
    peak = float(pair.max())
    if peak == 0:
        return pair, exponent
    power = math.frexp(peak)[1]
    return torch.ldexp(pair, torch.tensor(-power, device=pair.device)), exponent + power
