"""How NASLib turns logits into an architecture, as independent decisions over the labels of its alphas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from balenas_plugin.adapters.naslib.graphs import LabelledAlpha
from balenas_plugin.bayes.decisions import NO_CONNECTION, Architecture, Decision, Logits, OneOf, SoftmaxNode
from balenas_plugin.diagnostics.operations import chosen_operations

_KEPT = 2  # edges that enter a node of a DARTS cell


def edge_decisions(alphas: Sequence[LabelledAlpha]) -> list[Decision]:
    """Return one decision per edge: its largest logit wins, no connection included (NAS-Bench-201)."""
    return [OneOf(entry.label, entry.choices) for entry in alphas]


def cell_decisions(alphas: Sequence[LabelledAlpha]) -> list[Decision]:
    """Return one decision per node of the cells: its two strongest edges (NAS-Bench-301, the DARTS space)."""
    nodes: dict[tuple[str, int], list[LabelledAlpha]] = {}
    for entry in sorted(alphas, key=lambda entry: entry.source):
        nodes.setdefault((entry.cell, entry.target), []).append(entry)
    return [
        ConnectedNode(cell, node, tuple(e.label for e in edges), _KEPT, tuple(e.choices for e in edges))
        for (cell, node), edges in sorted(nodes.items())
    ]


@dataclass(frozen=True)
class ConnectedNode(SoftmaxNode):
    """A node of a DARTS cell whose edges are compared by the softmax over their operations without `none`.

    The reference's has `none` in it: there, an edge that would rather not be is a weak one.
    """

    def _compared(self, by_label: Logits) -> list[Tensor]:
        named = zip((by_label[label] for label in self.labels), self.op_names, strict=True)
        absent = [(a, torch.tensor([n == NO_CONNECTION for n in names], device=a.device)) for a, names in named]
        return [a.masked_fill(none, -math.inf).log_softmax(-1) for a, none in absent]


def one_hot_logits(
    architecture: Architecture, alphas: Sequence[LabelledAlpha], decisions: Sequence[Decision]
) -> dict[str, Tensor]:
    """Return label -> logits from which NASLib's own discretisation makes the `architecture`."""
    logits = {entry.label: torch.zeros_like(entry.alpha.detach()) for entry in alphas}
    outcomes = [decision.from_architecture(architecture) for decision in decisions]
    for label, operation in chosen_operations(decisions, outcomes):
        logits[label][operation] = 1
    return logits
