"""How sure a search is of its choices, whatever distribution it learns: probabilities, entropy, and draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from balenas_plugin.bayes.architectures import single_decisions
from balenas_plugin.bayes.decisions import CellNode, Decision
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.bayes.ranking import Outcome


def probabilities(posterior: Posterior, decisions: Sequence[Decision]) -> dict[str, Tensor]:
    """Return label -> probability of each candidate, shape (K,), float64, adding up to 1.

    Candidates are what can be chosen: the last score that NNI's cells give to each edge is left out.
    """
    sizes = {
        label: len(names)
        for decision in single_decisions(decisions)
        if isinstance(decision, CellNode)
        for label, names in zip(decision.labels, decision.op_names, strict=True)
    }
    return {
        label: law[: sizes.get(label, len(law))].log_win_probability().exp() for label, law in posterior.laws.items()
    }


def choice_entropy(probabilities: Mapping[str, Tensor]) -> float:
    """Return the entropy of the choices as a share of its maximum: 1 is undecided, 0 decided.

    The sum over labels of -sum p log p, over the sum of log K; comparable between strategies and spaces.
    """
    most = sum(math.log(len(p)) for p in probabilities.values())
    return sum(entropy_of(p) for p in probabilities.values()) / most if most else 0.0


def entropy_of(probability: Tensor) -> float:
    """Return -sum p log p in nats of one distribution, shape (K,)."""
    return float(torch.special.entr(probability.double()).sum())


def draw_outcomes(
    posterior: Posterior, decisions: Sequence[Decision], *, count: int, seed: int
) -> list[tuple[Outcome, ...]]:
    """Return `count` drawn architectures, as one outcome per decision; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    each = [[noise(law.location) for law in posterior.laws.values()] for _ in range(count)]
    scores = {
        label: law.at_noise(torch.stack(z))
        for (label, law), z in zip(posterior.laws.items(), zip(*each, strict=True), strict=True)
    }
    rows = (dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True))
    return [tuple(decision.choose(row) for decision in decisions) for row in rows]
