"""The independent decisions of an architecture: what each chooses from a draw, and how probable each outcome is.

A layer choice takes its largest logit, an input choice its n largest, a node of a cell its n strongest edges, each with
its best operation. Each decision lists its outcomes with their exact log-probabilities; combinations are enumerated
best-first. A *sample* is the architecture as a mapping, in the notation of NNI (label -> what was chosen).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.bayes.order_statistics import (
    log_node_probability,
    log_top_set_probability,
    log_win_probability,
)
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.bayes.ranking import iterate_best_first

Sample = dict[str, Any]
"""An architecture, in NNI's notation: label -> what was chosen."""

Logits = Mapping[str, Tensor]
"""label -> alpha, shape (K,): a draw from the posterior, or its mean."""

Outcome = Any
"""A hashable description of what was decided; every decision has its own kind."""


class Decision(Protocol):
    """One independent decision of the architecture."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the logits that decide."""

    def choose(self, logits: Logits) -> Outcome:
        """Return what these logits decide."""

    def outcomes(self, posterior: Posterior) -> dict[Outcome, float]:
        """Return outcome -> log-probability in nats."""

    def to_sample(self, outcome: Outcome, posterior: Posterior) -> Sample:
        """Return the part of NNI's sample that this outcome stands for."""

    def from_sample(self, sample: Sample) -> Outcome:
        """Return the outcome that an NNI sample stands for."""


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

    def outcomes(self, posterior: Posterior) -> dict[Outcome, float]:
        """Return index of the value -> log-probability."""
        log_win = log_win_probability(posterior.mean[self.label], posterior.std[self.label])
        return dict(enumerate(log_win.tolist()))

    def to_sample(self, outcome: Outcome, posterior: Posterior) -> Sample:
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

    def outcomes(self, posterior: Posterior) -> dict[Outcome, float]:
        """Return sorted tuple of inputs -> log-probability."""
        return dict(
            log_top_set_probability(posterior.mean[self.label], posterior.std[self.label], self.n_chosen).items()
        )

    def to_sample(self, outcome: Outcome, posterior: Posterior) -> Sample:
        """Return {label: list of inputs}."""
        return {self.label: list(outcome)}

    def from_sample(self, sample: Sample) -> Outcome:
        """Return the sorted tuple of inputs."""
        return tuple(sorted(sample[self.label]))


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
            (float(value), j, operation)
            for j, edge in enumerate(self._logits(logits))
            for operation, value in enumerate(edge)
        ]
        entries.sort(reverse=True)
        firsts = {j: (value, j, operation) for value, j, operation in reversed(entries)}  # the strongest of each input
        ordered = sorted(firsts.values(), reverse=True) + [e for e in entries if e != firsts[e[1]]]
        return tuple(sorted(ordered[k % len(ordered)][1:] for k in range(self.num_ops)))

    def outcomes(self, posterior: Posterior) -> dict[Outcome, float]:
        """Return tuple of (input, operation index) -> log-probability."""
        means, stds = self._logits(posterior.mean), self._logits(posterior.std)
        if self.num_ops <= len(means):
            return dict(log_node_probability(means, stds, self.num_ops).items())
        if len(means) == 1 and self.num_ops <= len(self.op_names):
            sets = log_top_set_probability(means[0], stds[0], self.num_ops)
            return {tuple((0, operation) for operation in members): value for members, value in sets.items()}
        return counted_outcomes(self, posterior)

    def to_sample(self, outcome: Outcome, posterior: Posterior) -> Sample:
        """Return NNI's op_<node>_<k> and input_<node>_<k>, the strongest mean logit first, as NNI exports them."""
        means = self._logits(posterior.mean)
        ordered = sorted(outcome, key=lambda entry: -float(means[entry[0]][entry[1]]))
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
        return [by_label[label][: len(self.op_names)] for label in self.labels]


def counted_outcomes(decision: Decision, posterior: Posterior) -> dict[Outcome, float]:
    """Return outcome -> log of its share among 20,000 seeded draws: for rules without a closed probability."""
    noise, draws = SeededNoise(0), 20_000
    mean = {label: posterior.mean[label] for label in decision.labels}
    std = {label: posterior.std[label] for label in decision.labels}
    counts = Counter(
        decision.choose({label: mu + noise(mu) * std[label] for label, mu in mean.items()}) for _ in range(draws)
    )
    return {outcome: math.log(n / draws) for outcome, n in counts.items()}


@dataclass(frozen=True)
class RankedSample:
    """One architecture: its sample, its log-probability in nats, and that of each of its decisions."""

    sample: Sample
    log_probability: float
    decisions: dict[str, float]


class Architectures:
    """All architectures of a space under a posterior.

    Args:
        decisions: the independent decisions of the space.
        posterior: over their logits.
    """

    def __init__(self, decisions: Sequence[Decision], posterior: Posterior) -> None:
        self.decisions = list(decisions)
        self.posterior = posterior
        self._outcomes = [decision.outcomes(posterior) for decision in self.decisions]

    def key(self, sample: Sample) -> tuple[Outcome, ...]:
        """Return what tells architectures apart: one outcome per decision."""
        return tuple(decision.from_sample(sample) for decision in self.decisions)

    def discretise(self, logits: Logits) -> Sample:
        """Return the architecture that a draw stands for."""
        return self._sample([decision.choose(logits) for decision in self.decisions])

    def describe(self, sample: Sample) -> RankedSample:
        """Return an architecture with its log-probability."""
        return self._record(self.key(sample), sample)

    def iterate(self, first: Sample | None = None) -> Iterator[RankedSample]:
        """Yield every architecture once, from the most to the least probable; `first`, if given, leads the list."""
        lead = None
        if first is not None:
            lead = self.key(first)
            yield self._record(lead, first)
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
        each = {
            "+".join(decision.labels): table.get(outcome, float("-inf"))
            for decision, table, outcome in zip(self.decisions, self._outcomes, chosen, strict=True)
        }
        return RankedSample(sample, sum(each.values()), each)
