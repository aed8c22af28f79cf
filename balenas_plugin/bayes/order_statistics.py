r"""Which of several independent Gaussians is the largest: exact probabilities.

Architecture choices are argmaxes (or top-n sets, see `strongest`) of independent Gaussian logits, so their
probabilities are one-dimensional integrals over the value x of the decisive logit, e.g.

.. math:: P(o \text{ wins}) = \int \varphi_o(x) \prod_{j \ne o} \Phi_j(x)\,dx .

They are computed by composite Gauss-Legendre quadrature in log space, so tiny probabilities keep their relative
accuracy. All functions take and return float64 tensors on the CPU; probabilities are natural logarithms.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

_NODES_PER_SEGMENT = 12
_REACH, _FAR = 10, 38
"""Standard deviations to either side of a mean that segments end at, and that a tail of exp(-726) begins at."""

_WITH_ENDS_OF_THEIR_OWN = 64
"""The most Gaussians whose own segments are all kept."""

AT_ONCE = 2**18
"""Numbers of a table (Gaussians, nodes) that are computed together."""


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature on [-1, 1] (Golub and Welsch 1969)."""
    n = torch.arange(1, _NODES_PER_SEGMENT, dtype=torch.float64)
    off_diagonal = n / (4 * n * n - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return nodes, 2 * vectors[0] ** 2


def quadrature(mean: Tensor, std: Tensor, lowest: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return nodes x and log weights for integrals over products of these Gaussians' densities and tails.

    Segments end at mean + c std for c in -10..10 of every Gaussian, so that narrow and wide ones are resolved alike.
    More than 64 Gaussians share such ends, so that the number of nodes stops growing with K.

    Args:
        mean: shape (K,).
        std: shape (K,), positive.
        lowest: shape (K,): below it, it makes no difference where a Gaussian lies, so that all can share their ends.

    Returns:
        Two tensors of shape (Q,), the nodes in increasing order.
    """
    mean, std = mean.flatten(), std.flatten()
    steps = torch.linspace(-_REACH, _REACH, 2 * _REACH + 1, dtype=torch.float64)
    edges = (mean[:, None] + std[:, None] * steps).flatten()
    between = torch.linspace(float(edges.min()), float(edges.max()), 65, dtype=torch.float64)
    if lowest is not None or len(mean) > _WITH_ENDS_OF_THEIR_OWN:
        edges = _shared_ends(mean, std, certain_least(mean, std).max() if lowest is None else lowest)
    edges = torch.cat([edges, between]).sort().values
    nodes, weights = _gauss_legendre()
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    x = middle[:, None] + half[:, None] * nodes
    return x.flatten(), (half[:, None] * weights).log().flatten()


def certain_least(mean: Tensor, std: Tensor) -> Tensor:
    """Return the value below which a Gaussian lies with probability exp(-726): shape of `mean`."""
    return mean - _FAR * std


def _shared_ends(mean: Tensor, std: Tensor, lowest: Tensor) -> Tensor:
    """Return ends of segments, shape (E,): Gaussians of std in [s, 2 s), s a power of two, share the multiples of s.

    Further than 10 std from their mean, where their density is below exp(-50), they share those of 2 s.
    """
    spacing = torch.exp2(std.log2().floor())[:, None]
    first = (torch.maximum(certain_least(mean, std), lowest)[:, None] / spacing).floor()
    multiple = first + torch.arange(4 * _FAR + 3, dtype=torch.float64)
    ends = multiple * spacing
    distance = (ends - mean[:, None]) / std[:, None]
    ends = ends[(distance <= _FAR) & ((distance.abs() <= _REACH) | (multiple % 2 == 0))].sort().values
    return ends[ends.diff(prepend=ends[:1] - 1) > 0]


def log_pdf_cdf(x: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Log density and log P(X <= x); shapes (..., Q) for x of shape (Q,) and mean of shape (...)."""
    z = (x - mean[..., None]) / std[..., None]
    return -0.5 * z * z - std[..., None].log() - 0.5 * math.log(2 * math.pi), torch.special.log_ndtr(z)


def log_win_probability(mean: Tensor, std: Tensor) -> Tensor:
    """Return log P(X_k is the largest), shape (K,), for independent X_k ~ N(mean_k, std_k^2).

    Time grows with K, memory does not: the Gaussians are taken in parts. Above exp(-600), a probability has a relative
    error of 1e-9 or less; below, of many Gaussians, only its order of magnitude is right.
    """
    mean, std = mean.detach().double().cpu(), std.detach().double().cpu()
    x, log_weight = quadrature(mean, std)
    size = max(AT_ONCE // len(x), _WITH_ENDS_OF_THEIR_OWN)
    parts = list(zip(torch.split(mean, size), torch.split(std, size), strict=True))
    below = torch.stack([log_pdf_cdf(x, *part)[1].sum(0) for part in parts]).sum(0)  # all of them lie below x
    found = []
    for part in parts:
        log_pdf, log_cdf = log_pdf_cdf(x, *part)
        others = below - log_cdf
        found.append(torch.logsumexp(log_pdf + others + log_weight, -1))
    return _normalised(torch.cat(found))


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


def _normalised(log_probability: Tensor) -> Tensor:
    """Remove the quadrature's last rounding: the outcomes are exhaustive, so their probabilities add up to one."""
    return log_probability - torch.logsumexp(log_probability, -1, keepdim=True)
