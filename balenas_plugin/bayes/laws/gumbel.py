"""Logits with Gumbel noise: the law of a softmax."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from balenas_plugin.bayes.laws._law import IMPOSSIBLE, Law, distinct, exact, log_phi


@dataclasses.dataclass(frozen=True, eq=False)
class GumbelLaw(Law):
    """Logits plus standard Gumbel noise: what is chosen first, second, ... is as drawn by softmax without replacement.

    Args:
        log_odds: of each candidate up to a constant, as logits are; -inf for what was dropped.
    """

    name = "gumbel"

    log_odds: Tensor

    @property
    def location(self) -> Tensor:
        """The log odds."""
        return self.log_odds

    def at_noise(self, z: Tensor) -> Tensor:
        """Return the log odds plus the Gumbel noise that is as probable to be exceeded as z."""
        return self.log_odds - (-log_phi(z)).log()

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log density."""
        z = x - exact(self.log_odds)[:, None]
        return -z - (-z).exp()

    def log_below(self, x: Tensor) -> Tensor:
        """Return log P(score <= x), at least -1e300: infinities could not be subtracted."""
        return -(exact(self.log_odds)[:, None] - x).exp().clamp_max(1e300)

    def log_above(self, x: Tensor) -> Tensor:
        """Return log P(score > x)."""
        return (-self.log_below(x).expm1()).log()

    def least(self) -> Tensor:
        """Return what lies log 726 below the log odds."""
        return exact(self.log_odds) - math.log(IMPOSSIBLE)

    def ends(self, lowest: Tensor | None = None) -> Tensor:
        """Return the whole numbers from 7 below to 41 above each: all share theirs."""
        a = exact(self.log_odds)[:, None]
        first = a - 7 if lowest is None else torch.maximum(a - 7, lowest.expand(len(a))[:, None])
        whole = first.floor() + torch.arange(50, dtype=torch.float64)
        return distinct(whole[whole <= a + 42])

    def log_win_probability(self) -> Tensor:
        """Return the log softmax of the log odds."""
        return exact(self.log_odds).log_softmax(-1)
