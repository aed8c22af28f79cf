"""Logarithms of gamma variables: the law of Dirichlet weights."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import torch
from torch import Tensor

from balenas_plugin.bayes.laws._law import IMPOSSIBLE, Law, distinct, exact

_REACH = 10
"""Standard deviations of a logarithm, about, that segments lie to either side of its middle."""


@dataclasses.dataclass(frozen=True, eq=False)
class LogGammaLaw(Law):
    r"""Logarithms of independent :math:`\Gamma(\beta_k, 1)`; a draw is normalised: log A for A ~ Dir(beta).

    Args:
        concentration: beta, positive; 0 for what was dropped.
    """

    name = "log-gamma"
    requirement = "concentration must be finite and not negative"
    comparable = False

    concentration: Tensor

    @property
    def location(self) -> Tensor:
        """The logarithm of the mean weights."""
        return self.concentration.log().log_softmax(-1)

    @property
    def kept(self) -> Tensor:
        """Which candidates were not dropped, shape (K,); also where all of a label were."""
        return self.concentration > 0

    def is_valid(self) -> bool:
        """Return whether the concentrations are finite and not negative."""
        return bool(torch.isfinite(self.concentration).all() and (self.concentration >= 0).all())

    def at_noise(self, z: Tensor) -> Tensor:
        """Return the log weights, normalised within the label."""
        x, quantiles = self._quantiles
        kept = self.kept.cpu()
        at = exact(z)[..., kept]
        flat = at.reshape(-1, at.shape[-1]).T.contiguous().clamp(quantiles[:, :1], quantiles[:, -1:])
        right = torch.searchsorted(quantiles, flat).clamp_min(1)
        low, high = quantiles.gather(1, right - 1), quantiles.gather(1, right)
        found = x[right - 1] + (x[right] - x[right - 1]) * (flat - low) / (high - low)
        drawn = torch.full(z.shape, -torch.inf, dtype=torch.float64)
        drawn[..., kept] = found.T.reshape(at.shape)
        return drawn.log_softmax(-1).to(z)

    @cached_property
    def _quantiles(self) -> tuple[Tensor, Tensor]:
        """Points x, shape (Q,), and the normal quantile of each kept score at them, increasing, shape (kept, Q)."""
        law = self[self.kept.cpu()]
        ends = law.ends().sort().values
        parts = torch.arange(32, dtype=torch.float64) / 32
        x = (ends[:-1, None] + ends.diff()[:, None] * parts).flatten()
        below, above = law.log_below(x), law.log_above(x)
        z = torch.where(below < above, torch.special.ndtri(below.exp()), -torch.special.ndtri(above.exp()))
        return x, z.clamp(-38, 38).cummax(-1).values + 1e-12 * torch.arange(len(x), dtype=torch.float64)

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log density."""
        beta = exact(self.concentration)[:, None]
        return beta * x - x.exp() - torch.lgamma(beta)

    def log_below(self, x: Tensor) -> Tensor:
        """Return log P(score <= x), by its series where it is tiny."""
        beta, x = self._table(x)
        found: Tensor = torch.special.gammainc(beta, x.exp())
        tiny = found < 1e-30
        beta, x, found = beta[tiny], x[tiny], found.log()
        value = x.exp()
        term = series = torch.ones_like(x)
        for n in range(1, 80):
            term = term * value / (beta + n)
            series = series + term
        found[tiny] = beta * x - value - torch.lgamma(beta + 1) + series.log()
        return found

    def log_above(self, x: Tensor) -> Tensor:
        """Return log P(score > x)."""
        tail: Tensor = torch.special.gammaincc(*self._table(x.exp()))
        return tail.log()

    def _table(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return beta and x, both of shape (K, Q)."""
        beta = exact(self.concentration)[:, None]
        return beta.expand(-1, len(x)), x.expand(len(beta), -1)

    def least(self) -> Tensor:
        r"""Return where the bound :math:`e^{\beta x} / \Gamma(\beta + 1)` of the probability is exp(-726)."""
        beta = exact(self.concentration)
        return (torch.lgamma(beta + 1) - IMPOSSIBLE) / beta

    def ends(self, lowest: Tensor | None = None) -> Tensor:
        """Return shared ends around each log beta as wide as its density is, and some ever further to the left."""
        beta = exact(self.concentration)
        middle, std = beta.clamp_min(1).log()[:, None], beta.clamp_min(1).rsqrt()[:, None]
        spacing = 2 * torch.exp2(std.log2().floor())
        whole = ((middle - _REACH * std) / spacing).floor() + torch.arange(2 * _REACH + 2, dtype=torch.float64)
        near = distinct((whole * spacing)[whole * spacing <= middle + (_REACH + 2) * std])
        tail = math.ceil(math.log2(max(46 / float(beta.min()), 2)))
        return torch.cat([near, near.min() - torch.exp2(torch.arange(-1, tail + 1, dtype=torch.float64))])

    def entropy(self) -> float:
        """Return the differential entropy of the weights."""
        beta = self.concentration[self.kept]
        return float(torch.distributions.Dirichlet(beta).entropy()) if len(beta) > 1 else 0.0
