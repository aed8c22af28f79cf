"""Gaussian logits, as BaLeNAS learns them."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from balenas_plugin.bayes.laws._law import Law, distinct, exact, log_phi

_REACH, _FAR = 10, 38
"""Standard deviations to either side of a mean that segments end at, and that a tail of exp(-726) begins at."""

_WITH_ENDS_OF_THEIR_OWN = 64
"""The most Gaussians whose own segments are all kept."""


@dataclasses.dataclass(frozen=True, eq=False)
class NormalLaw(Law):
    """Gaussian scores.

    Args:
        mean: mu, in logits; -inf for what was dropped.
        precision: 1/sigma^2, positive, in 1/logit^2.
    """

    name = "normal"
    requirement = "mean and precision must be finite, and the precision positive"

    mean: Tensor
    precision: Tensor

    @property
    def location(self) -> Tensor:
        """The mean."""
        return self.mean

    @property
    def std(self) -> Tensor:
        """Sigma, in logits."""
        return self.precision.rsqrt()

    def is_valid(self) -> bool:
        """Return whether the means are finite or -inf, and the precisions finite and positive."""
        finite = (self.mean < torch.inf).all() and torch.isfinite(self.precision).all()
        return bool(finite and (self.precision > 0).all())

    def at_noise(self, z: Tensor) -> Tensor:
        """Return mu + sigma z."""
        return self.mean + z / self.precision.sqrt()

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log density."""
        std = exact(self.std)[:, None]
        z = (x - exact(self.mean)[:, None]) / std
        return -0.5 * z * z - std.log() - 0.5 * math.log(2 * math.pi)

    def log_below(self, x: Tensor) -> Tensor:
        """Return log P(score <= x)."""
        return log_phi((x - exact(self.mean)[:, None]) / exact(self.std)[:, None])

    def log_above(self, x: Tensor) -> Tensor:
        """Return log P(score > x)."""
        return log_phi((exact(self.mean)[:, None] - x) / exact(self.std)[:, None])

    def least(self) -> Tensor:
        """Return what lies 38 sigma below the mean."""
        return exact(self.mean) - _FAR * exact(self.std)

    def ends(self, lowest: Tensor | None = None) -> Tensor:
        """Return mean + c sigma for c in -10..10 of every Gaussian, so that narrow and wide ones are resolved alike.

        More than 64 Gaussians share such ends, so that their number stops growing with K.
        """
        mean, std = exact(self.mean), exact(self.std)
        steps = torch.linspace(-_REACH, _REACH, 2 * _REACH + 1, dtype=torch.float64)
        edges = (mean[:, None] + std[:, None] * steps).flatten()
        between = torch.linspace(float(edges.min()), float(edges.max()), 65, dtype=torch.float64)
        if lowest is not None or len(mean) > _WITH_ENDS_OF_THEIR_OWN:
            edges = _shared_ends(mean, std, self.least().max() if lowest is None else lowest)
        return torch.cat([edges, between])

    def entropy(self) -> float:
        """Return the differential entropy: the sum of log(2 pi e sigma^2) / 2."""
        p = self.precision[self.kept]
        return float((0.5 * (math.log(2 * math.pi * math.e) - p.double().log())).sum())

    def spread(self) -> dict[str, Tensor]:
        """Return sigma, in logits."""
        return {"sigma": self.std}


def _shared_ends(mean: Tensor, std: Tensor, lowest: Tensor) -> Tensor:
    """Return ends of segments, shape (E,): Gaussians of std in [s, 2 s), s a power of two, share the multiples of s.

    Further than 10 std from their mean, where their density is below exp(-50), they share those of 2 s.
    """
    spacing = torch.exp2(std.log2().floor())[:, None]
    first = (torch.maximum(mean - _FAR * std, lowest)[:, None] / spacing).floor()
    multiple = first + torch.arange(4 * _FAR + 3, dtype=torch.float64)
    ends = multiple * spacing
    distance = (ends - mean[:, None]) / std[:, None]
    return distinct(ends[(distance <= _FAR) & ((distance.abs() <= _REACH) | (multiple % 2 == 0))])
