"""How NASLib turns logits into an architecture, as independent decisions over the labels of its alphas.

An architecture is label -> name of the operation; an edge that is cut has no entry.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from balenas_plugin.adapters.naslib.graphs import LabelledAlpha
from balenas_plugin.bayes.decisions import Architecture, Decision, Learned, Logits, OneOf
from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.bayes.ranking import Listed, Outcome

ZERO = "Zero"
"""What NASLib calls the operation that cuts an edge."""

_KEPT = 2  # edges that enter a node of a DARTS cell
_DRAWS = 20_000


def edge_decisions(alphas: Sequence[LabelledAlpha]) -> list[Decision]:
    """Return one decision per edge: its largest logit wins, `Zero` included (NAS-Bench-201)."""
    return [OneOf(entry.label, entry.choices) for entry in alphas]


def cell_decisions(alphas: Sequence[LabelledAlpha]) -> list[Decision]:
    """Return one decision per node of the cells: its two strongest edges (NAS-Bench-301, the DARTS space)."""
    nodes: dict[tuple[str, int], list[LabelledAlpha]] = {}
    for entry in alphas:
        nodes.setdefault((entry.cell, entry.target), []).append(entry)
    return [
        StrongestEdges(tuple(entry.label for entry in edges), edges[0].choices)
        for edges in (sorted(entries, key=lambda entry: entry.source) for entries in nodes.values())
    ]


@dataclass(frozen=True)
class StrongestEdges:
    r"""A node of a DARTS cell: the two edges with the largest softmax weight, each with its best operation.

    The weights are those of the softmax over an edge's operations without `Zero`, so edges are compared by how sure
    each is of its best operation, not by logits as NNI does. Outcomes are tuples of (edge, operation) in edge order.

    Args:
        labels: of the edges that enter the node, by source.
        choices: names of the operations of every edge.

    Source: Liu et al. 2019 (DARTS), Sec. 2.4.
    """

    labels: tuple[str, ...]
    choices: tuple[str, ...]

    def choose(self, logits: Logits) -> Outcome:
        """Return the two strongest edges, as (edge, operation)."""
        return self._choose(torch.stack([logits[label].detach() for label in self.labels])[None])[0]

    def outcomes(self, posterior: Learned) -> Listed:
        """Return outcome -> log of its share among 20,000 seeded draws: the rule has no closed probability."""
        laws = [posterior.laws[label] for label in self.labels]
        noise = SeededNoise(0)(laws[0].location.new_empty(_DRAWS, len(laws), len(self.choices)))
        drawn = [law.at_noise(z) for law, z in zip(laws, noise.unbind(1), strict=True)]
        counts = Counter(self._choose(torch.stack(drawn, 1)))
        return Listed({outcome: math.log(n / _DRAWS) for outcome, n in counts.items()})

    def to_architecture(self, outcome: Outcome, posterior: Learned) -> Architecture:
        """Return label -> operation for the edges that are kept."""
        return {self.labels[edge]: self.choices[operation] for edge, operation in outcome}

    def from_architecture(self, architecture: Architecture) -> Outcome:
        """Return the kept edges as (edge, operation)."""
        return tuple(
            (edge, self.choices.index(architecture[label]))
            for edge, label in enumerate(self.labels)
            if label in architecture
        )

    def _choose(self, draws: Tensor) -> list[tuple[tuple[int, int], ...]]:
        """Return the outcome of each draw; `draws` has shape (draws, edges, operations)."""
        candidates = [i for i, name in enumerate(self.choices) if name != ZERO]
        weight, operation = draws[..., candidates].log_softmax(-1).max(-1)
        kept = weight.topk(min(_KEPT, len(self.labels)), dim=-1).indices.sort(-1).values
        chosen = operation.gather(-1, kept)
        return [
            tuple((edge, candidates[best]) for edge, best in zip(edges, operations, strict=True))
            for edges, operations in zip(kept.tolist(), chosen.tolist(), strict=True)
        ]


def one_hot_logits(architecture: Architecture, alphas: Sequence[LabelledAlpha]) -> dict[str, Tensor]:
    """Return label -> logits from which NASLib's own discretisation makes the `architecture`."""
    logits = {}
    for entry in alphas:
        logits[entry.label] = torch.zeros_like(entry.alpha.detach())
        if entry.label in architecture:
            logits[entry.label][entry.choices.index(architecture[entry.label])] = 1
    return logits
