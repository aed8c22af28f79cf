"""Composite Gauss-Legendre quadrature in log space, in which tiny probabilities keep their relative accuracy.

All functions take and return float64 tensors on the CPU; integrals and weights are natural logarithms.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

_NODES_PER_SEGMENT = 12


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature on [-1, 1] (Golub and Welsch 1969)."""
    n = torch.arange(1, _NODES_PER_SEGMENT, dtype=torch.float64)
    off_diagonal = n / (4 * n * n - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return nodes, 2 * vectors[0] ** 2


def quadrature(ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes x and log weights for integrals of what a polynomial describes well between these ends.

    Args:
        ends: of segments, shape (E,), in any order.

    Returns:
        Two tensors of shape (Q,), the nodes in increasing order.
    """
    edges = ends.sort().values
    nodes, weights = _gauss_legendre()
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    x = middle[:, None] + half[:, None] * nodes
    return x.flatten(), (half[:, None] * weights).log().flatten()


def log_tail_integral(log_f: Tensor, log_weight: Tensor) -> Tensor:
    r"""Return log :math:`\int_x^\infty f` at every node x (shape of `log_f`): whole segments above, and its own part.

    Inside the node's own segment the integral of the interpolating polynomial is used, so the order is that of the
    quadrature itself.
    """
    shape = (*log_f.shape[:-1], -1, _NODES_PER_SEGMENT)
    segments = (log_f + log_weight).reshape(shape)
    totals = torch.logsumexp(segments, -1)
    from_here = torch.logcumsumexp(totals.flip(-1), -1).flip(-1)
    above = torch.cat([from_here[..., 1:], torch.full_like(from_here[..., :1], -math.inf)], -1)
    peak = segments.amax(-1, keepdim=True).clamp_min(-1e300)
    own = (segments - peak).exp() @ _partial_weights().T  # integral from node q to the end of its segment
    own_log = own.clamp_min(0).log() + peak
    return torch.logaddexp(own_log, above[..., None]).reshape(log_f.shape)


@lru_cache(maxsize=1)
def _partial_weights() -> Tensor:
    """Matrix W with W[q, r] w_r = integral from node q to 1 of the r-th Lagrange polynomial."""
    nodes, weights = _gauss_legendre()
    half = (1 - nodes) / 2
    inner = nodes[:, None] + half[:, None] * (nodes[None, :] + 1)  # Gauss-Legendre nodes on [node q, 1]
    rows = []
    for r in range(len(nodes)):
        others = torch.cat([nodes[:r], nodes[r + 1 :]])
        lagrange = ((inner[..., None] - others) / (nodes[r] - others)).prod(-1)
        rows.append((lagrange * weights).sum(-1) * half / weights[r])
    return torch.stack(rows, 1)


def normalised(log_probability: Tensor) -> Tensor:
    """Remove the quadrature's last rounding: the outcomes are exhaustive, so their probabilities add up to one."""
    return log_probability - torch.logsumexp(log_probability, -1, keepdim=True)
