"""The independent decisions of an architecture: what each chooses from a draw, and how probable each outcome is.

A layer choice takes its largest score, an input choice its n largest, a node of a cell its n strongest edges, each with
its best operation. Each decision gives its outcomes with their exact log-probabilities; combinations are enumerated
best-first, and no further than one reads. A *sample* is the architecture as a mapping, in the notation of NNI (label ->
what was chosen).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.bayes.conditional import Conditional, ConditionalOutcomes
from balenas_plugin.bayes.contract import Decision, Learned, Logits, Sample
from balenas_plugin.bayes.laws import Law
from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.bayes.ranking import Listed, Outcome, Outcomes, Translated, iterate_best_first
from balenas_plugin.bayes.strongest import StrongestEdges, counted_edges

__all__ = [
    "Architectures",
    "CellNode",
    "Decision",
    "Learned",
    "Logits",
    "OneOf",
    "RankedSample",
    "Sample",
    "TopSet",
    "active_decisions",
    "counted_outcomes",
    "plain_choice",
    "single_decisions",
]

_DRAWS = 20_000


def plain_choice(value: Any) -> Any:
    """Return a NumPy number as Python's, which JSON can hold, and anything else as it is."""
    return value.item() if hasattr(value, "item") else value


@dataclass(frozen=True)
class OneOf:
    """A LayerChoice, or a value choice of a native operation or a Repeat: the largest logit wins."""

    label: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The one label."""
        return (self.label,)

    def choose(self, logits: Logits) -> Outcome:
        """Return the index of the largest logit."""
        return int(logits[self.label].argmax())

    def outcomes(self, posterior: Learned) -> Listed:
        """Return index of the value -> log-probability."""
        log_win = posterior.laws[self.label].log_win_probability()
        return Listed((k, value) for k, value in enumerate(log_win.tolist()) if value > -math.inf)

    def to_sample(self, outcome: Outcome, posterior: Learned) -> Sample:
        """Return {label: value}."""
        return {self.label: plain_choice(self.values[outcome])}

    def from_sample(self, sample: Sample) -> Outcome:
        """Return the index of the value."""
        return self.values.index(sample[self.label])


@dataclass(frozen=True)
class TopSet:
    """An InputChoice: the `n_chosen` largest logits win."""

    label: str
    n_chosen: int

    @property
    def labels(self) -> tuple[str, ...]:
        """The one label."""
        return (self.label,)

    def choose(self, logits: Logits) -> Outcome:
        """Return the sorted tuple of the inputs with the largest logits."""
        return tuple(sorted(logits[self.label].topk(self.n_chosen).indices.tolist()))

    def outcomes(self, posterior: Learned) -> Outcomes:
        """Return the sorted tuples of inputs with their log-probabilities."""
        return _top_sets(posterior.laws[self.label], self.n_chosen)

    def to_sample(self, outcome: Outcome, posterior: Learned) -> Sample:
        """Return {label: list of inputs}."""
        return {self.label: list(outcome)}

    def from_sample(self, sample: Sample) -> Outcome:
        """Return the sorted tuple of inputs."""
        return tuple(sorted(sample[self.label]))


def _top_sets(law: Law, n: int) -> Translated:
    """Return the sets of the `n` largest, as sorted tuples: edges with one operation each."""
    return Translated(
        StrongestEdges([law[k : k + 1] for k in range(len(law))], n),
        lambda entries: tuple(j for j, _ in entries),
        lambda members: tuple((j, 0) for j in members),
    )


@dataclass(frozen=True)
class CellNode:
    """A node of a supernet cell: its strongest incoming edges, each with its best operation.

    Outcomes are tuples of (input, operation index) in input order: a node adds its inputs up, so which of them is the
    stronger makes no difference to the network. A node that keeps more operations than it has inputs takes the
    strongest operation of every input first, then the strongest of those that are left, as NNI does.
    """

    cell: str
    node: int
    labels: tuple[str, ...]
    num_ops: int
    op_names: tuple[str, ...]

    def choose(self, logits: Logits) -> Outcome:
        """Return the strongest edges' (input, operation index), in input order."""
        entries = [
            (value, j, operation)
            for j, edge in enumerate(self._logits(logits))
            for operation, value in enumerate(edge.tolist())
        ]
        entries.sort(reverse=True)
        firsts = {j: (value, j, operation) for value, j, operation in reversed(entries)}  # the strongest of each input
        ordered = sorted(firsts.values(), reverse=True) + [e for e in entries if e != firsts[e[1]]]
        return tuple(sorted(ordered[k % len(ordered)][1:] for k in range(self.num_ops)))

    def outcomes(self, posterior: Learned) -> Outcomes:
        """Return the tuples of (input, operation index) with their log-probabilities."""
        laws = [posterior.laws[label][: len(self.op_names)] for label in self.labels]
        if self.num_ops < len(laws) and not laws[0].comparable:
            return counted_edges(self._logits(posterior.draws(self.labels, _DRAWS)), self.num_ops)
        if self.num_ops <= len(laws):  # if all edges are kept, none are compared
            return StrongestEdges(laws, self.num_ops)
        if len(laws) == 1 and self.num_ops <= len(self.op_names):
            sets = _top_sets(laws[0], self.num_ops)
            return Translated(
                sets, lambda members: tuple((0, k) for k in members), lambda entries: tuple(k for _, k in entries)
            )
        return counted_outcomes(self, posterior)

    def to_sample(self, outcome: Outcome, posterior: Learned) -> Sample:
        """Return NNI's op_<node>_<k> and input_<node>_<k>, the strongest first, as NNI exports them."""
        scores = self._logits(posterior.scores)
        ordered = sorted(outcome, key=lambda entry: -float(scores[entry[0]][entry[1]]))
        sample: Sample = {}
        for k, (j, operation) in enumerate(ordered):
            sample[f"{self.cell}/op_{self.node}_{k}"] = self.op_names[operation]
            sample[f"{self.cell}/input_{self.node}_{k}"] = [j]
        return sample

    def from_sample(self, sample: Sample) -> Outcome:
        """Return the tuple of (input, operation index)."""
        prefix = f"{self.cell}/{{}}_{self.node}_{{}}"
        inputs = [sample[prefix.format("input", k)][0] for k in range(self.num_ops)]
        operations = [self.op_names.index(sample[prefix.format("op", k)]) for k in range(self.num_ops)]
        return tuple(sorted(zip(inputs, operations, strict=True)))

    def _logits(self, by_label: Logits) -> list[Tensor]:
        # NNI's cells have one more logit, "edge not chosen", which its export (and so this) never takes
        return [by_label[label][..., : len(self.op_names)] for label in self.labels]


def counted_outcomes(decision: Decision, posterior: Learned) -> Listed:
    """Return outcome -> log of its share among 20,000 seeded draws: for rules without a closed probability."""
    noise, laws = SeededNoise(0), {label: posterior.laws[label] for label in decision.labels}
    z = [[noise(law.location) for law in laws.values()] for _ in range(_DRAWS)]
    drawn = {
        k: law.at_noise(torch.stack(each)) for (k, law), each in zip(laws.items(), zip(*z, strict=True), strict=True)
    }
    rows = zip(*drawn.values(), strict=True)
    counts = Counter(decision.choose(dict(zip(drawn, row, strict=True))) for row in rows)
    return Listed({outcome: math.log(n / _DRAWS) for outcome, n in counts.items()})


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
