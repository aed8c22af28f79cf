"""How sure a search is of its choices, for every strategy: probabilities, entropy, and draws.

BaLeNAS has Gaussian logits, whose winning probabilities are exact integrals. NNI's own strategies have logits alone:
there a choice's probability is its softmax, which GumbelDARTS and Proxyless sample from and DARTS mixes with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from balenas_plugin.bayes.decisions import CellNode, Decision, single_decisions
from balenas_plugin.bayes.order_statistics import log_win_probability
from balenas_plugin.bayes.posterior import gaussian_entropy
from balenas_plugin.bayes.ranking import Outcome


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What a search believes of every choice.

    Args:
        logits: label -> shape (K,): the posterior mean, or the logits of a strategy that has no posterior.
        precision: label -> 1/sigma^2, shape (K,), in 1/logit^2; None without a posterior.
    """

    logits: dict[str, Tensor]
    precision: dict[str, Tensor] | None = None

    def of_candidates(self, decisions: Sequence[Decision]) -> Belief:
        """Return the belief over what can be chosen: without the last logit that NNI's cells give to each edge."""
        sizes = {
            label: len(decision.op_names)
            for decision in single_decisions(decisions)
            if isinstance(decision, CellNode)
            for label in decision.labels
        }
        return Belief(
            logits={label: logits[: sizes.get(label)] for label, logits in self.logits.items()},
            precision=self.precision and {label: p[: sizes.get(label)] for label, p in self.precision.items()},
        )

    def probabilities(self) -> dict[str, Tensor]:
        """Return label -> probability of each candidate, shape (K,), float64, adding up to 1."""
        if self.precision is None:
            return {label: logits.double().softmax(-1) for label, logits in self.logits.items()}
        return {
            label: log_win_probability(mean, self.precision[label].rsqrt()).exp() for label, mean in self.logits.items()
        }

    def entropy(self) -> float | None:
        """Return the differential entropy of the posterior in nats, None without one."""
        return None if self.precision is None else gaussian_entropy(self.precision.values())

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return one draw of the logits, shape (K,) each.

        Without a posterior, Gumbel noise is added: the largest is then distributed as the softmax (Gumbel 1954).
        """
        drawn = {}
        for label, logits in self.logits.items():
            if self.precision is None:
                uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
                noise = -(-uniform.clamp_min(1e-300).log()).log()
            else:
                noise = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
                noise = noise * self.precision[label].double().rsqrt()
            drawn[label] = logits.double() + noise
        return drawn


def choice_entropy(probabilities: Mapping[str, Tensor]) -> float:
    """Return the entropy of the choices as a share of its maximum: 1 is undecided, 0 decided.

    The sum over labels of -sum p log p, over the sum of log K; comparable between strategies and spaces.
    """
    most = sum(math.log(len(p)) for p in probabilities.values())
    return sum(entropy_of(p) for p in probabilities.values()) / most if most else 0.0


def entropy_of(probability: Tensor) -> float:
    """Return -sum p log p in nats of one distribution, shape (K,)."""
    return float(torch.special.entr(probability.double()).sum())


def draw_outcomes(belief: Belief, decisions: Sequence[Decision], *, count: int, seed: int) -> list[tuple[Outcome, ...]]:
    """Return `count` architectures drawn from a belief, as one outcome per decision; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        logits = belief.draw(generator)
        found.append(tuple(decision.choose(logits) for decision in decisions))
    return found
