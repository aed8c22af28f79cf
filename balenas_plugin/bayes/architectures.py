"""The architectures of a space under a posterior: combinations of decisions, the most probable first, one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from balenas_plugin.bayes.conditional import Conditional, ConditionalOutcomes
from balenas_plugin.bayes.decisions import Architecture, Decision, Learned, Logits
from balenas_plugin.bayes.ranking import Outcome, Outcomes, iterate_best_first


def active_decisions(decisions: Iterable[Decision], outcomes: Iterable[Outcome]) -> Iterator[tuple[Decision, Outcome]]:
    """Yield each decision that makes a difference, with its outcome."""
    for decision, outcome in zip(decisions, outcomes, strict=True):
        if isinstance(decision, Conditional):
            yield from decision.active(outcome)
        else:
            yield decision, outcome


def single_decisions(decisions: Iterable[Decision]) -> Iterator[Decision]:
    """Yield the decisions, whether they make a difference or not."""
    for decision in decisions:
        yield from decision.parts if isinstance(decision, Conditional) else (decision,)


@dataclass(frozen=True)
class DescribedArchitecture:
    """One architecture, its log-probability in nats, and that of each decision that makes a difference."""

    sample: Architecture
    log_probability: float
    decisions: dict[str, float]

    def to_dict(self, rank: int, **known: Any) -> dict[str, Any]:
        """Return plain values for architectures.json.

        Args:
            rank: from 1, which has the argmax.
            known: of the architecture besides.
        """
        return {
            "rank": rank,
            "chosen_by": "argmax of the mean" if rank == 1 else "posterior probability",
            "probability": math.exp(self.log_probability),
            "log_probability": self.log_probability if math.isfinite(self.log_probability) else None,
            "choices": self.sample,
            **known,
            "winning_probability": {label: math.exp(value) for label, value in self.decisions.items()},
        }


class Architectures:
    """All architectures of a space under a posterior.

    Args:
        decisions: the independent decisions of the space.
        posterior: over their logits.
    """

    def __init__(self, decisions: Sequence[Decision], posterior: Learned) -> None:
        self.decisions = list(decisions)
        self.posterior = posterior

    @cached_property
    def _outcomes(self) -> list[Outcomes]:
        return [decision.outcomes(self.posterior) for decision in self.decisions]

    def key(self, architecture: Architecture) -> tuple[Outcome, ...]:
        """Return what distinguishes networks: one outcome per decision."""
        return tuple(decision.from_architecture(architecture) for decision in self.decisions)

    def active(self, architecture: Architecture) -> Architecture:
        """Return the choices of an architecture that make a difference."""
        active = self._sample(self.key(architecture))
        return {label: choice for label, choice in architecture.items() if label in active}

    def discretise(self, logits: Logits) -> Architecture:
        """Return the architecture that a draw stands for."""
        return self._sample([decision.choose(logits) for decision in self.decisions])

    def describe(self, architecture: Architecture) -> DescribedArchitecture:
        """Return an architecture with its log-probability."""
        return self._record(self.key(architecture), architecture)

    def iterate(self, first: Architecture | None = None) -> Iterator[DescribedArchitecture]:
        """Yield every network once, from the most to the least probable; `first`, if given, leads the list."""
        lead = None
        if first is not None:
            lead = self.key(first)
            yield self._record(lead, self.active(first))
        for ranked in iterate_best_first(dict(enumerate(self._outcomes))):
            chosen = tuple(ranked.outcomes.values())
            if chosen != lead:
                yield self._record(chosen, self._sample(chosen))

    def _sample(self, chosen: Sequence[Outcome]) -> Architecture:
        architecture: Architecture = {}
        for decision, outcome in zip(self.decisions, chosen, strict=True):
            architecture.update(decision.to_architecture(outcome, self.posterior))
        return architecture

    def _record(self, chosen: Sequence[Outcome], architecture: Architecture) -> DescribedArchitecture:
        each: dict[str, float] = {}
        total = 0.0
        for decision, table, outcome in zip(self.decisions, self._outcomes, chosen, strict=True):
            total += table.log_probability(outcome)
            singles = [(decision, table, outcome)]
            if isinstance(decision, Conditional) and isinstance(table, ConditionalOutcomes):
                singles = list(zip(decision.parts, table.parts, outcome, strict=True))
            each |= {"+".join(d.labels): t.log_probability(o) for d, t, o in singles if o is not None}
        return DescribedArchitecture(architecture, total, each)
