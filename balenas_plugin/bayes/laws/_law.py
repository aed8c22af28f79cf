"""What every law of scores is, and what the members share."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from balenas_plugin.bayes.laws.quadrature import normalised, quadrature

AnyLaw = TypeVar("AnyLaw", bound="Law")

IMPOSSIBLE = 726.0
"""Nats: what is as improbable as exp(-726) is taken to be impossible."""

AT_ONCE, _AT_LEAST = 2**18, 64
"""Numbers of a table (scores, nodes) that are computed together, and the fewest scores."""


@dataclasses.dataclass(frozen=True, eq=False)
class Law(ABC):
    """The law of K independent random scores. The fields of a member are its parameters, shape (K,) each."""

    name: ClassVar[str]
    """By which files call it."""

    requirement: ClassVar[str] = "its parameters must be finite"
    """What `is_valid` asks of the parameters."""

    comparable: ClassVar[bool] = True
    """Whether scores of two labels are independent; not where a draw is normalised within its label."""

    @property
    @abstractmethod
    def location(self) -> Tensor:
        """What the candidates rank by without noise, shape (K,)."""

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

    def is_valid(self) -> bool:
        """Return whether there is such a law: its locations are finite or -inf, by default."""
        return bool((self.location < torch.inf).all())

    def log_win_probability(self) -> Tensor:
        r"""Return log P(each is the largest), shape (K,), -inf for what was dropped: exact, by quadrature.

        .. math:: P(o \text{ wins}) = \int f_o(x) \prod_{j \ne o} F_j(x)\,dx

        Time grows with K, memory does not: the scores are taken in parts. Above exp(-600), a probability has a relative
        error of 1e-9 or less; below, of many scores, only its order of magnitude is right.
        """
        kept = self.kept.cpu()
        if not kept.all():
            found = torch.full(kept.shape, -torch.inf, dtype=torch.float64)
            found[kept] = self[kept].log_win_probability()
            return found
        ends = self.ends()
        x, log_weight = quadrature(ends)
        size = max(AT_ONCE // len(x), _AT_LEAST)
        parts = [self[start : start + size] for start in range(0, len(self), size)]
        below = torch.stack([part.log_below(x).sum(0) for part in parts]).sum(0)  # all of them lie below x
        each = [torch.logsumexp(part.log_density(x) + (below - part.log_below(x)) + log_weight, -1) for part in parts]
        beyond = self.log_above(ends.max()[None])[:, 0]  # all others lie below the last end
        return normalised(torch.logaddexp(torch.cat(each), beyond))

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
    found = Law.__subclasses__()
    for law in found:
        found += law.__subclasses__()
    known: Mapping[object, type[Law]] = {law.name: law for law in found}
    if name not in known:
        raise ValueError(f"its scores have the law {str(name)[:40]!r}; known are {', '.join(map(str, known))}")
    return known[name]


def exact(values: Tensor) -> Tensor:
    """Return values as float64 on the CPU."""
    return values.detach().double().cpu()


def log_phi(z: Tensor) -> Tensor:
    """Return log P(a standard normal <= z)."""
    found: Tensor = torch.special.log_ndtr(z)
    return found


def distinct(values: Tensor) -> Tensor:
    """Return values of any shape in increasing order, each once."""
    values = values.flatten().sort().values
    return values[values.diff(prepend=values[:1] - 1) > 0]
