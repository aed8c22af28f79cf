"""The architectures of a space under a posterior: combinations of decisions, the most probable first, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from balenas_plugin.bayes.conditional import Conditional, ConditionalOutcomes
from balenas_plugin.bayes.decisions import Decision, Learned, Logits, Sample
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
class RankedSample:
    """One architecture: its sample, its log-probability in nats, and that of each decision that makes a difference."""

    sample: Sample
    log_probability: float
    decisions: dict[str, float]


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

    def key(self, sample: Sample) -> tuple[Outcome, ...]:
        """Return what tells networks apart: one outcome per decision."""
        return tuple(decision.from_sample(sample) for decision in self.decisions)

    def active(self, sample: Sample) -> Sample:
        """Return the choices of a sample that make a difference."""
        active = self._sample(self.key(sample))
        return {label: choice for label, choice in sample.items() if label in active}

    def discretise(self, logits: Logits) -> Sample:
        """Return the architecture that a draw stands for."""
        return self._sample([decision.choose(logits) for decision in self.decisions])

    def describe(self, sample: Sample) -> RankedSample:
        """Return an architecture with its log-probability."""
        return self._record(self.key(sample), sample)

    def iterate(self, first: Sample | None = None) -> Iterator[RankedSample]:
        """Yield every network once, from the most to the least probable; `first`, if given, leads the list."""
        lead = None
        if first is not None:
            lead = self.key(first)
            yield self._record(lead, self.active(first))
        for ranked in iterate_best_first(dict(enumerate(self._outcomes))):
            chosen = tuple(ranked.outcomes.values())
            if chosen != lead:
                yield self._record(chosen, self._sample(chosen))

    def _sample(self, chosen: Sequence[Outcome]) -> Sample:
        sample: Sample = {}
        for decision, outcome in zip(self.decisions, chosen, strict=True):
            sample.update(decision.to_sample(outcome, self.posterior))
        return sample

    def _record(self, chosen: Sequence[Outcome], sample: Sample) -> RankedSample:
        each: dict[str, float] = {}
        total = 0.0
        for decision, table, outcome in zip(self.decisions, self._outcomes, chosen, strict=True):
            total += table.log_probability(outcome)
            singles = [(decision, table, outcome)]
            if isinstance(decision, Conditional) and isinstance(table, ConditionalOutcomes):
                singles = list(zip(decision.parts, table.parts, outcome, strict=True))
            each |= {"+".join(d.labels): t.log_probability(o) for d, t, o in singles if o is not None}
        return RankedSample(sample, total, each)
