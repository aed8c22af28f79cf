"""Uniform paths: every candidate is drawn as often as any other, and nothing is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from balenas_plugin.bayes.laws import GumbelLaw, Law
from balenas_plugin.distributions._distribution import Distribution, Draw


def uniform_path(distribution: Distribution, parameters: Mapping[str, Tensor] | None = None) -> Draw:
    """Return a draw that computes one candidate a label, each that was not dropped with the same probability.

    Args:
        distribution: whose noise draws, and whose dropped choices count.
        parameters: label -> shape (..., K), the distribution's by default; gradients in them are 0.
    """
    if parameters is None:
        parameters = {label: p.detach().clone().requires_grad_() for label, p in distribution.parameters.items()}
    races = {
        label: distribution.noise.uniform(p, 1.0).masked_fill(~distribution.mask[label], -torch.inf)
        for label, p in parameters.items()
    }
    return path(parameters, torch.stack([race.argmax(-1) for race in races.values()]))


def path(parameters: Mapping[str, Tensor], chosen: Tensor) -> Draw:
    """Return the draw that computes one candidate a label, without a gradient in the parameters.

    Args:
        parameters: label -> shape (..., K).
        chosen: the candidates, shape (labels, ...).
    """
    values = {label: F.one_hot(k, p.shape[-1]).to(p) for (label, p), k in zip(parameters.items(), chosen, strict=True)}
    outputs = {label: values[label] + 0 * p for label, p in parameters.items()}
    indices = dict(zip(parameters, chosen.tolist(), strict=True))  # a GPU is waited for once
    return Draw(parameters, outputs, values=values, chosen=indices, others="none")


class Uniform(Distribution):
    """Draw one candidate a label and pass, each with the same probability, for ever: random search of shared weights.

    The parameters stay as they were; they only break ties where one architecture is asked for.

    Args:
        parameters: label -> shape (K,).
        seed: of the draws.

    Source: Li and Talwalkar 2020, "Random Search and Reproducibility for Neural Architecture Search".
    """

    name = "uniform"
    draws_one = True
    learns = False
    source = "Li and Talwalkar 2020"

    def __init__(self, parameters: Mapping[str, Tensor], *, seed: int = 0) -> None:
        super().__init__(parameters, seed=seed)

    def draw(self, parameters: Mapping[str, Tensor]) -> Draw:
        """Return a uniform path."""
        return uniform_path(self, parameters)

    @staticmethod
    def mean_weights(parameter: Tensor) -> Tensor:
        """Return equal weights."""
        return 0 * parameter.softmax(-1) + 1 / parameter.shape[-1]

    def step(self, gradients: Sequence[Mapping[str, Tensor]], anchors: Mapping[str, Tensor]) -> None:
        """Learn nothing."""

    def clear_difference(self) -> float | None:
        """Return None: no step moves anything."""
        return None

    def laws(self) -> dict[str, Law]:
        """Return those of equal odds."""
        even = {label: torch.zeros_like(p, requires_grad=False) for label, p in self.parameters.items()}
        return {label: GumbelLaw(odds.masked_fill(~self.mask[label], -torch.inf)) for label, odds in even.items()}
