"""SDARTS-RS: uniform noise on the mixing weights."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from balenas_plugin.options import checked
from balenas_plugin.perturbations._perturbation import Evaluate, Perturbation, onto_simplex

Radius = Annotated[float, Field(gt=0, le=1)]

FIRST_RADIUS = 0.03
"""In the first epoch."""


class RandomPerturbation(Perturbation):
    r"""Train the network at :math:`\mathrm{clip}(A + U(-\epsilon, \epsilon))`, with fresh noise in every weight step.

    :math:`\epsilon` grows with the epochs t = 0 ... T - 1: it is :math:`0.03 + (\epsilon_{max} - 0.03) t / T`, so
    that the maximum itself is never reached, as in the reference.

    Args:
        epsilon_max: what the radius grows towards.
        seed: of the noise.

    Source: Chen and Hsieh 2020, "Stabilizing Differentiable Architecture Search via Perturbation-based Regularization".
    """

    name = "sdarts-rs"
    source = "Chen and Hsieh 2020"

    def __init__(self, *, epsilon_max: Radius = 0.3, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.epsilon_max = float(checked("epsilon_max", epsilon_max, Radius))
        self.epsilon = FIRST_RADIUS

    def new_epoch(self, epoch: int, epochs: int) -> None:
        """Set the radius of the epoch; a search without a last epoch keeps the first one's."""
        self.epsilon = FIRST_RADIUS + (self.epsilon_max - FIRST_RADIUS) * epoch / epochs if epochs > 0 else FIRST_RADIUS

    def perturb(self, weights: Tensor, kept: Tensor, evaluate: Evaluate) -> Tensor:
        """Return the weights with noise; the loss is not evaluated."""
        return onto_simplex(weights + self.noise.uniform(weights, self.epsilon), kept)
