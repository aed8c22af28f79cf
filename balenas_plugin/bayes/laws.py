r"""How scores of candidates are distributed, of which the largest wins: the laws behind every kind of posterior.

A search has learned a law for each label: of one independent random score for each of its K candidates. A choice is the
largest score, so densities and tails are all that its probability needs (see `order_statistics` and `strongest`):

* `NormalLaw`, of Gaussian logits (BaLeNAS);
* `GumbelLaw`, logits plus standard Gumbel noise, whose largest is distributed as their softmax (Gumbel 1954);
* `LogGammaLaw`, logarithms of gamma variables, which divided by their sum are a Dirichlet sample.

A candidate that was dropped has the location -inf. Densities, tails and probabilities are float64 on the CPU, in
natural logarithms.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from balenas_plugin.bayes import order_statistics

AnyLaw = TypeVar("AnyLaw", bound="Law")

_REACH, _FAR = 10, 38
"""Standard deviations to either side of a mean that segments end at, and that a tail of exp(-726) begins at."""

_WITH_ENDS_OF_THEIR_OWN = 64
"""The most Gaussians whose own segments are all kept."""

_TAIL = 726.0


@dataclasses.dataclass(frozen=True, eq=False)
class Law(ABC):
    """The law of K independent random scores. The fields of a member are its parameters, shape (K,) each."""

    name: ClassVar[str]
    """By which files call it."""

    requirement: ClassVar[str]
    """What `is_valid` asks of the parameters."""

    comparable: ClassVar[bool] = True
    """Whether scores of two labels are independent; not where a draw is normalised within its label."""

    @property
    @abstractmethod
    def location(self) -> Tensor:
        """What the candidates rank by without noise, shape (K,)."""

    @abstractmethod
    def is_valid(self) -> bool:
        """Return whether there is such a law."""

    @abstractmethod
    def at_noise(self, z: Tensor) -> Tensor:
        """Return the scores, shape (..., K), that standard normal noise of that shape stands for."""

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """Return the log density of each score at x, shape (K, Q) for x of shape (Q,)."""

    @abstractmethod
    def log_below(self, x: Tensor) -> Tensor:
        """Return log P(score <= x), shape (K, Q)."""

    @abstractmethod
    def log_above(self, x: Tensor) -> Tensor:
        """Return log P(score > x), shape (K, Q)."""

    @abstractmethod
    def least(self) -> Tensor:
        """Return below what each score lies with a probability of at most exp(-726), shape (K,)."""

    @abstractmethod
    def ends(self, lowest: Tensor | None = None) -> Tensor:
        """Return ends of segments, shape (E,), in which a polynomial describes densities and tails well.

        Args:
            lowest: shape (K,): below it, it makes no difference where a score lies.
        """

    def log_win_probability(self) -> Tensor:
        """Return log P(each is the largest), shape (K,): exact, by quadrature."""
        return order_statistics.log_win_probability(self)

    def entropy(self) -> float:
        """Return the entropy in nats: of the choice, where a member says nothing else."""
        return float(torch.special.entr(self.log_win_probability().exp()).sum())

    def spread(self) -> dict[str, Tensor]:
        """Return what a report shows besides probabilities: name -> shape (K,)."""
        return {}

    def parameters(self) -> dict[str, Tensor]:
        """Return what a file keeps: name -> shape (K,)."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __getitem__(self: AnyLaw, rows: slice | Tensor) -> AnyLaw:
        """Return the law of some of the scores."""
        return type(self)(**{name: value[rows] for name, value in self.parameters().items()})

    def to(self: AnyLaw, where: str | torch.dtype) -> AnyLaw:
        """Return a copy on another device, or of another dtype."""
        return type(self)(**{name: value.detach().to(where, copy=True) for name, value in self.parameters().items()})

    def __len__(self) -> int:
        """Return K."""
        return len(self.location)

    @property
    def kept(self) -> Tensor:
        """Which candidates were not dropped, shape (K,)."""
        return self.location != -torch.inf


def joined(laws: Sequence[AnyLaw]) -> AnyLaw:
    """Return the law of all scores together."""
    each = [law.parameters() for law in laws]
    return type(laws[0])(**{name: torch.cat([parameters[name] for parameters in each]) for name in each[0]})


def law_named(name: object) -> type[Law]:
    """Return a law by its name; those of other packages are known once they are imported.

    Raises:
        ValueError: there is none.
    """
    known: Mapping[object, type[Law]] = {law.name: law for law in Law.__subclasses__()}
    if name not in known:
        raise ValueError(f"its scores have the law {str(name)[:40]!r}; known are {', '.join(map(str, known))}")
    return known[name]


def _exact(values: Tensor) -> Tensor:
    return values.detach().double().cpu()


def _log_phi(z: Tensor) -> Tensor:
    """Return log P(a standard normal <= z)."""
    found: Tensor = torch.special.log_ndtr(z)
    return found


def _distinct(values: Tensor) -> Tensor:
    """Return values of any shape in increasing order, each once."""
    values = values.flatten().sort().values
    return values[values.diff(prepend=values[:1] - 1) > 0]


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
        std = _exact(self.std)[:, None]
        z = (x - _exact(self.mean)[:, None]) / std
        return -0.5 * z * z - std.log() - 0.5 * math.log(2 * math.pi)

    def log_below(self, x: Tensor) -> Tensor:
        """Return log P(score <= x)."""
        return _log_phi((x - _exact(self.mean)[:, None]) / _exact(self.std)[:, None])

    def log_above(self, x: Tensor) -> Tensor:
        """Return log P(score > x)."""
        return _log_phi((_exact(self.mean)[:, None] - x) / _exact(self.std)[:, None])

    def least(self) -> Tensor:
        """Return what lies 38 sigma below the mean."""
        return _exact(self.mean) - _FAR * _exact(self.std)

    def ends(self, lowest: Tensor | None = None) -> Tensor:
        """Return mean + c sigma for c in -10..10 of every Gaussian, so that narrow and wide ones are resolved alike.

        More than 64 Gaussians share such ends, so that their number stops growing with K.
        """
        mean, std = _exact(self.mean), _exact(self.std)
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
    return _distinct(ends[(distance <= _FAR) & ((distance.abs() <= _REACH) | (multiple % 2 == 0))])


@dataclasses.dataclass(frozen=True, eq=False)
class GumbelLaw(Law):
    """Logits plus standard Gumbel noise: what is chosen first, second, ... is as drawn by softmax without replacement.

    Args:
        log_odds: of each candidate up to a constant, as logits are; -inf for what was dropped.
    """

    name = "gumbel"
    requirement = "log_odds must be finite"

    log_odds: Tensor

    @property
    def location(self) -> Tensor:
        """The log odds."""
        return self.log_odds

    def is_valid(self) -> bool:
        """Return whether the log odds are finite or -inf."""
        return bool((self.log_odds < torch.inf).all())

    def at_noise(self, z: Tensor) -> Tensor:
        """Return the log odds plus the Gumbel noise that is as probable to be exceeded as z."""
        return self.log_odds - (-_log_phi(z)).log()

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log density."""
        z = x - _exact(self.log_odds)[:, None]
        return -z - (-z).exp()

    def log_below(self, x: Tensor) -> Tensor:
        """Return log P(score <= x), at least -1e300: infinities could not be subtracted."""
        return -(_exact(self.log_odds)[:, None] - x).exp().clamp_max(1e300)

    def log_above(self, x: Tensor) -> Tensor:
        """Return log P(score > x)."""
        return (-self.log_below(x).expm1()).log()

    def least(self) -> Tensor:
        """Return what lies log 726 below the log odds."""
        return _exact(self.log_odds) - math.log(_TAIL)

    def ends(self, lowest: Tensor | None = None) -> Tensor:
        """Return the whole numbers from 7 below to 41 above each: all share theirs."""
        a = _exact(self.log_odds)[:, None]
        first = a - 7 if lowest is None else torch.maximum(a - 7, lowest.expand(len(a))[:, None])
        whole = first.floor() + torch.arange(50, dtype=torch.float64)
        return _distinct(whole[whole <= a + 42])

    def log_win_probability(self) -> Tensor:
        """Return the log softmax of the log odds."""
        return _exact(self.log_odds).log_softmax(-1)


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

    def is_valid(self) -> bool:
        """Return whether the concentrations are finite and not negative."""
        return bool(torch.isfinite(self.concentration).all() and (self.concentration >= 0).all())

    def at_noise(self, z: Tensor) -> Tensor:
        """Return the log weights, normalised within the label."""
        x, quantiles = self._quantiles
        drawn = torch.full_like(z, -torch.inf, dtype=torch.float64, device="cpu")
        for row, k in enumerate(self.kept.nonzero().flatten().tolist()):
            at = _exact(z[..., k]).clamp(float(quantiles[row, 0]), float(quantiles[row, -1]))
            right = torch.searchsorted(quantiles[row], at.contiguous()).clamp_min(1)
            low, high = quantiles[row, right - 1], quantiles[row, right]
            drawn[..., k] = x[right - 1] + (x[right] - x[right - 1]) * (at - low) / (high - low)
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
        beta = _exact(self.concentration)[:, None]
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
        beta = _exact(self.concentration)[:, None]
        return beta.expand(-1, len(x)), x.expand(len(beta), -1)

    def least(self) -> Tensor:
        r"""Return where the bound :math:`e^{\beta x} / \Gamma(\beta + 1)` of the probability is exp(-726)."""
        beta = _exact(self.concentration)
        return (torch.lgamma(beta + 1) - _TAIL) / beta

    def ends(self, lowest: Tensor | None = None) -> Tensor:
        """Return shared ends around each log beta as wide as its density is, and some ever further to the left."""
        beta = _exact(self.concentration)
        middle, std = beta.clamp_min(1).log()[:, None], beta.clamp_min(1).rsqrt()[:, None]
        spacing = 2 * torch.exp2(std.log2().floor())
        whole = ((middle - _REACH * std) / spacing).floor() + torch.arange(2 * _REACH + 2, dtype=torch.float64)
        near = _distinct((whole * spacing)[whole * spacing <= middle + (_REACH + 2) * std])
        tail = math.ceil(math.log2(max(46 / float(beta.min()), 2)))
        return torch.cat([near, near.min() - torch.exp2(torch.arange(-1, tail + 1, dtype=torch.float64))])

    def entropy(self) -> float:
        """Return the differential entropy of the weights."""
        beta = self.concentration[self.kept]
        return float(torch.distributions.Dirichlet(beta).entropy()) if len(beta) > 1 else 0.0  # type: ignore[no-untyped-call]
