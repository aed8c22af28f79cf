r"""Which of several independent Gaussians is the largest, and which are the n largest: exact probabilities.

Architecture choices are argmaxes (or top-n sets) of independent Gaussian logits, so their probabilities are
one-dimensional integrals over the value x of the decisive logit, e.g.

.. math:: P(o \text{ wins}) = \int \varphi_o(x) \prod_{j \ne o} \Phi_j(x)\,dx .

They are computed by composite Gauss-Legendre quadrature in log space, so tiny probabilities keep their relative
accuracy. All functions take and return float64 tensors on the CPU; probabilities are natural logarithms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

Entry = tuple[int, int]
"""(edge, operation): one operation on one incoming edge of a node."""

_NODES_PER_SEGMENT = 12


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature on [-1, 1] (Golub and Welsch 1969)."""
    n = torch.arange(1, _NODES_PER_SEGMENT, dtype=torch.float64)
    off_diagonal = n / (4 * n * n - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return nodes, 2 * vectors[0] ** 2


def quadrature(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes x and log weights for integrals over products of these Gaussians' densities and tails.

    Segments end at mean + c std for c in -10..10 of every Gaussian, so that narrow and wide ones are resolved alike.

    Args:
        mean: shape (K,).
        std: shape (K,), positive.

    Returns:
        Two tensors of shape (Q,), the nodes in increasing order.
    """
    steps = torch.linspace(-10, 10, 21, dtype=torch.float64)
    edges = (mean.flatten()[:, None] + std.flatten()[:, None] * steps).flatten()
    between = torch.linspace(float(edges.min()), float(edges.max()), 65, dtype=torch.float64)
    edges = torch.cat([edges, between]).sort().values
    nodes, weights = _gauss_legendre()
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    x = middle[:, None] + half[:, None] * nodes
    return x.flatten(), (half[:, None] * weights).log().flatten()


def _log_pdf_cdf_sf(x: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log density, log P(X <= x) and log P(X > x); shapes (..., Q) for x of shape (Q,) and mean of shape (...)."""
    z = (x - mean[..., None]) / std[..., None]
    log_pdf = -0.5 * z * z - std[..., None].log() - 0.5 * math.log(2 * math.pi)
    return log_pdf, torch.special.log_ndtr(z), torch.special.log_ndtr(-z)


def log_win_probability(mean: Tensor, std: Tensor) -> Tensor:
    """Return log P(X_k is the largest), shape (K,), for independent X_k ~ N(mean_k, std_k^2)."""
    mean, std = mean.detach().double().cpu(), std.detach().double().cpu()
    x, log_weight = quadrature(mean, std)
    log_pdf, log_cdf, _ = _log_pdf_cdf_sf(x, mean, std)
    others = log_cdf.sum(0) - log_cdf
    return _normalised(torch.logsumexp(log_pdf + others + log_weight, -1))


def log_top_set_probability(mean: Tensor, std: Tensor, n: int) -> dict[tuple[int, ...], float]:
    """Return log P(the n largest are the set S) for every set S of n indices (each in increasing order)."""
    mean, std = mean.detach().double().cpu(), std.detach().double().cpu()
    x, log_weight = quadrature(mean, std)
    log_pdf, log_cdf, log_sf = _log_pdf_cdf_sf(x, mean, std)
    sets = list(itertools.combinations(range(len(mean)), n))
    values = []
    for members in sets:
        inside = list(members)
        outside = [k for k in range(len(mean)) if k not in members]
        # the smallest member i lies at x, the other members above, everything else below
        above = log_sf[inside].sum(0) - log_sf[inside]
        integrand = log_pdf[inside] + above + log_cdf[outside].sum(0) + log_weight
        values.append(torch.logsumexp(integrand.flatten(), 0))
    return dict(zip(sets, _normalised(torch.stack(values)).tolist(), strict=True))


def log_node_probability(means: Sequence[Tensor], stds: Sequence[Tensor], n: int) -> dict[tuple[Entry, ...], float]:
    """Return the log-probability of every way a DARTS node can choose `n` of its incoming edges and their operations.

    A node ranks its edges by their best operation's logit and keeps the n best edges, each with its best operation
    (Liu et al. 2019). Which edge is stronger does not matter: outcomes are tuples of (edge, operation) in edge order.

    Args:
        means: one tensor of shape (K,) per edge: the logits of the operations that may be chosen.
        stds: the same for the standard deviations.
        n: number of edges kept; at most the number of edges.
    """
    means = [m.detach().double().cpu() for m in means]
    stds = [s.detach().double().cpu() for s in stds]
    x, log_weight = quadrature(torch.cat(means), torch.cat(stds))
    log_best_at, log_best_above, log_all_below = [], [], []
    for mean, std in zip(means, stds, strict=True):
        log_pdf, log_cdf, _ = _log_pdf_cdf_sf(x, mean, std)
        at = log_pdf + (log_cdf.sum(0) - log_cdf)  # operation o is the best of its edge, at x
        log_best_at.append(at)
        log_best_above.append(_log_tail_integral(at, log_weight))  # o is the best of its edge, above x
        log_all_below.append(log_cdf.sum(0))
    outcomes: list[tuple[Entry, ...]] = []
    values = []
    for edges in itertools.combinations(range(len(means)), n):
        below = sum((log_all_below[k] for k in range(len(means)) if k not in edges), start=log_weight)
        outcomes += [
            tuple(zip(edges, operations, strict=True))
            for operations in itertools.product(*(range(len(means[e])) for e in edges))
        ]
        at_x, above_x = [log_best_at[e] for e in edges], [log_best_above[e] for e in edges]
        values.append(_log_chosen_together(at_x, above_x, below))
    return dict(zip(outcomes, _normalised(torch.cat(values)).tolist(), strict=True))


def _log_chosen_together(at: Sequence[Tensor], above: Sequence[Tensor], below: Tensor) -> Tensor:
    """Return log P(these edges are kept, with these operations), shape (K_1 ... K_n,) for n edges.

    The weakest of the kept edges lies at x, the others above x, all other edges below x.
    """
    total: Tensor | None = None
    for weakest in range(len(at)):
        factors = [at[e] if e == weakest else above[e] for e in range(len(at))]
        joint = factors[0] + below  # (K_1, Q)
        for factor in factors[1:-1]:
            joint = (joint[:, None, :] + factor).flatten(0, 1)
        term = _log_products(joint, factors[-1]) if len(factors) > 1 else torch.logsumexp(joint, -1)
        total = term.flatten() if total is None else torch.logaddexp(total, term.flatten())
    assert total is not None
    return total


def _log_products(a: Tensor, b: Tensor) -> Tensor:
    """Return log sum_q exp(a[i, q] + b[j, q]), shape (I, J), as one matrix product."""
    peak_a, peak_b = a.amax(-1, keepdim=True), b.amax(-1, keepdim=True)
    return ((a - peak_a).exp() @ (b - peak_b).exp().T).log() + peak_a + peak_b.T


def _log_tail_integral(log_f: Tensor, log_weight: Tensor) -> Tensor:
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
