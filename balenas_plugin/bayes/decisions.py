"""The independent decisions of an architecture: what each chooses from a draw, and how probable each outcome is.

A layer choice takes its largest score, an input choice its n largest, a node of a cell its n strongest edges, each with
its best operation. Each decision gives its outcomes with their exact log-probabilities; `architectures`
has their combinations. An *architecture* is a mapping, in the notation of NNI (label ->
what was chosen).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, Protocol

import torch
from torch import Tensor

from balenas_plugin.bayes.laws import Law
from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.bayes.ranking import Listed, Outcome, Outcomes, Translated
from balenas_plugin.bayes.strongest import StrongestEdges, counted_edges

_DRAWS = 20_000

NO_CONNECTION = "none"
"""What an operation is called that is no connection."""

Architecture = dict[str, Any]
"""An architecture, in NNI's notation: label -> what was chosen."""

Logits = Mapping[str, Tensor]
"""label -> scores of the candidates, shape (K,): a draw from the posterior, or those that it ranks by."""


class Learned(Protocol):
    """What a search has learned, as far as decisions ask for it (`Posterior`)."""

    laws: dict[str, Law]
    scores: dict[str, Tensor]

    def sample(self, noise: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return one draw of the scores per label, shape (K,) each."""

    def draws(self, labels: Sequence[str], count: int) -> dict[str, Tensor]:
        """Return the scores of some labels in many draws, shape (count, K) each."""


class Decision(Protocol):
    """One independent decision of the architecture."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the logits that decide."""

    def choose(self, logits: Logits) -> Outcome:
        """Return what these logits decide."""

    def outcomes(self, posterior: Learned) -> Outcomes:
        """Return the outcomes with their log-probabilities."""

    def to_architecture(self, outcome: Outcome, posterior: Learned) -> Architecture:
        """Return the part of the architecture that this outcome stands for."""

    def from_architecture(self, architecture: Architecture) -> Outcome:
        """Return the outcome that an architecture stands for."""


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

    def to_architecture(self, outcome: Outcome, posterior: Learned) -> Architecture:
        """Return {label: value}."""
        return {self.label: plain_choice(self.values[outcome])}

    def from_architecture(self, architecture: Architecture) -> Outcome:
        """Return the index of the value."""
        return self.values.index(architecture[self.label])


@dataclass(frozen=True)
class TopSet:
    """An InputChoice: the `n_chosen` largest logits win; all that are left where more have been dropped."""

    label: str
    n_chosen: int

    @property
    def labels(self) -> tuple[str, ...]:
        """The one label."""
        return (self.label,)

    def choose(self, logits: Logits) -> Outcome:
        """Return the sorted tuple of the inputs with the largest logits."""
        scores = logits[self.label]
        left = int((scores != -torch.inf).sum())
        return tuple(sorted(scores.topk(min(self.n_chosen, left)).indices.tolist()))

    def outcomes(self, posterior: Learned) -> Outcomes:
        """Return the sorted tuples of inputs with their log-probabilities."""
        return _top_sets(posterior.laws[self.label], self.n_chosen)

    def to_architecture(self, outcome: Outcome, posterior: Learned) -> Architecture:
        """Return {label: list of inputs}."""
        return {self.label: list(outcome)}

    def from_architecture(self, architecture: Architecture) -> Outcome:
        """Return the sorted tuple of inputs."""
        return tuple(sorted(architecture[self.label]))


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

    Where edges have weights of their own (PC-DARTS), an edge's operations count by the product of the softmax of their
    logits and its weight; `log_edge_weights` has the logarithms of these, and is empty elsewhere.
    """

    cell: str
    node: int
    labels: tuple[str, ...]
    num_ops: int
    op_names: tuple[tuple[str, ...], ...]
    """Of each edge."""
    log_edge_weights: tuple[float, ...] = ()

    def choose(self, logits: Logits) -> Outcome:
        """Return the strongest edges' (input, operation index), in input order."""
        entries = [
            (value, j, operation)
            for j, edge in enumerate(self._logits(logits))
            for operation, value in enumerate(edge.tolist())
            if value != -math.inf
        ]
        entries.sort(reverse=True)
        firsts = {j: (value, j, operation) for value, j, operation in reversed(entries)}  # the strongest of each input
        ordered = sorted(firsts.values(), reverse=True) + [e for e in entries if e != firsts[e[1]]]
        return tuple(sorted(ordered[k % len(ordered)][1:] for k in range(self.num_ops)))

    def outcomes(self, posterior: Learned) -> Outcomes:
        """Return the tuples of (input, operation index) with their log-probabilities."""
        laws = [posterior.laws[k][: len(names)] for k, names in zip(self.labels, self.op_names, strict=True)]
        compared = laws[0].comparable and not self.log_edge_weights
        if self.num_ops < len(laws) and not compared:
            return counted_edges(self._logits(posterior.draws(self.labels, _DRAWS)), self.num_ops)
        if self.num_ops <= sum(bool(law.kept.any()) for law in laws):  # if all edges are kept, none are compared
            return StrongestEdges(laws, self.num_ops)
        if len(laws) == 1 and self.num_ops <= int(laws[0].kept.sum()):
            sets = _top_sets(laws[0], self.num_ops)
            return Translated(
                sets, lambda members: tuple((0, k) for k in members), lambda entries: tuple(k for _, k in entries)
            )
        return counted_outcomes(self, posterior)

    def to_architecture(self, outcome: Outcome, posterior: Learned) -> Architecture:
        """Return NNI's op_<node>_<k> and input_<node>_<k>, the strongest first, as NNI exports them."""
        scores = [edge.tolist() for edge in self._logits(posterior.scores)]
        ordered = sorted(outcome, key=lambda entry: -scores[entry[0]][entry[1]])
        architecture: Architecture = {}
        for k, (j, operation) in enumerate(ordered):
            architecture[f"{self.cell}/op_{self.node}_{k}"] = self.op_names[j][operation]
            architecture[f"{self.cell}/input_{self.node}_{k}"] = [j]
        return architecture

    def from_architecture(self, architecture: Architecture) -> Outcome:
        """Return the tuple of (input, operation index)."""
        prefix = f"{self.cell}/{{}}_{self.node}_{{}}"
        inputs = [architecture[prefix.format("input", k)][0] for k in range(self.num_ops)]
        operations = [self.op_names[j].index(architecture[prefix.format("op", k)]) for k, j in enumerate(inputs)]
        return tuple(sorted(zip(inputs, operations, strict=True)))

    def _logits(self, by_label: Logits) -> list[Tensor]:
        # NNI's cells have one more logit, "edge not chosen", which its export (and so this) never takes
        named = zip(self._compared(by_label), self.op_names, strict=True)
        return [edge[..., : len(names)] for edge, names in named]

    def _compared(self, by_label: Logits) -> list[Tensor]:
        """Return by what each edge and operation is compared, of all of its logits."""
        edges = [by_label[label] for label in self.labels]
        if self.log_edge_weights:
            edges = [a.log_softmax(-1) + b for a, b in zip(edges, self.log_edge_weights, strict=True)]
        return edges


@dataclass(frozen=True)
class SoftmaxNode(CellNode):
    """A node whose edges are compared by their largest softmax weight, `none` apart, as DARTS does.

    The softmax is over all candidates of an edge, `none` among them, so an edge is strong where one operation has most
    of the weight; `CellNode` compares logits. `none` is never chosen. Of equal ones the first is taken.

    Source: Liu et al. 2019 (DARTS), Sec. 2.4.
    """

    def choose(self, logits: Logits) -> Outcome:
        """Return the strongest edges' (input, operation index), in input order."""
        return tuple(sorted(strongest_edges(self._logits(logits), self.num_ops)))

    def outcomes(self, posterior: Learned) -> Outcomes:
        """Return the tuples of (input, operation index): exact where all edges are kept, else of counted strengths."""
        if self.num_ops < len(self.labels):
            return StrongestEdges.of_draws(self._logits(posterior.draws(self.labels, _DRAWS)), self.num_ops)
        allowed = [[k for k, name in enumerate(names) if name != NO_CONNECTION] for names in self.op_names]
        laws = [posterior.laws[k][torch.tensor(kept)] for k, kept in zip(self.labels, allowed, strict=True)]
        return Translated(
            StrongestEdges(laws, self.num_ops),
            lambda entries: tuple((j, allowed[j][k]) for j, k in entries),
            lambda entries: tuple((j, allowed[j].index(k)) for j, k in entries),
        )

    def _logits(self, by_label: Logits) -> list[Tensor]:
        weights = super()._logits(by_label)
        return [w.masked_fill(none.to(w.device), -math.inf) for w, none in zip(weights, self._absent, strict=True)]

    @cached_property
    def _absent(self) -> list[Tensor]:
        """Return where `none` is among the operations of each edge."""
        return [torch.tensor([name == NO_CONNECTION for name in names]) for names in self.op_names]

    def _compared(self, by_label: Logits) -> list[Tensor]:
        weights = [by_label[label].log_softmax(-1) for label in self.labels]
        return [w + b for w, b in zip(weights, self.log_edge_weights or repeat(0.0), strict=False)]


def strongest_edges(edges: Sequence[Tensor], number: int) -> list[tuple[int, int]]:
    """Return a node's strongest inputs, the strongest first, each with its best operation: (input, operation).

    Args:
        edges: mixing weights of each input, shape (K,), or their logarithms; the best one is an input's strength.
        number: of inputs.

    Source: Liu et al. 2019 (DARTS).
    """
    best = []
    for source, weights in enumerate(edges):
        strength, operation = min((-weight, operation) for operation, weight in enumerate(weights.tolist()))
        best.append((strength, source, operation))
    return [(source, operation) for _, source, operation in sorted(best)[:number]]


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
