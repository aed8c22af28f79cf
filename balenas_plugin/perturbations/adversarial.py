"""SDARTS-ADV: the mixing weights nearby at which the training loss is largest."""

from __future__ import annotations

import torch
from torch import Tensor

from balenas_plugin.options import PositiveInt, checked
from balenas_plugin.perturbations._perturbation import Evaluate, onto_simplex
from balenas_plugin.perturbations.random import Radius, RandomPerturbation


class AdversarialPerturbation(RandomPerturbation):
    r"""Train the network where projected gradient ascent on the training loss leads, within :math:`\epsilon`.

    The loss is that of the weight step's own batch, with the network in evaluation mode. Of `steps` steps each has the
    length :math:`2 \epsilon / steps` in every entry; then the weights are put back into the box around the clean ones,
    and onto the simplex, which may leave the box again. If the loss has not grown in the end, or is not finite, the
    weights stay clean.

    Args:
        epsilon_max: what the radius grows towards, see `RandomPerturbation`.
        steps: of the ascent.
        random_start: begin at the random perturbation, not at the clean weights.
        seed: of the noise.

    Source: Chen and Hsieh 2020, "Stabilizing Differentiable Architecture Search via Perturbation-based Regularization".
    """

    name = "sdarts-adv"

    def __init__(
        self, *, epsilon_max: Radius = 0.3, steps: PositiveInt = 7, random_start: bool = True, seed: int = 0
    ) -> None:
        super().__init__(epsilon_max=epsilon_max, seed=seed)
        self.steps, self.random_start = int(checked("steps", steps, PositiveInt)), random_start

    @property
    def cost(self) -> float:
        """Roughly what an attack takes, in weight steps: a third a pass, five sixths with its way back."""
        return 2 / 3 + self.steps * 5 / 6

    def perturb(self, weights: Tensor, kept: Tensor, evaluate: Evaluate) -> Tensor:
        """Return the attacked weights."""
        before, _ = evaluate(weights, False)
        attacked = super().perturb(weights, kept, evaluate) if self.random_start else weights
        for _ in range(self.steps):
            _, gradient = evaluate(attacked, True)
            attacked = attacked + 2 * self.epsilon / self.steps * gradient.sign()
            attacked = onto_simplex(weights + (attacked - weights).clamp(-self.epsilon, self.epsilon), kept)
        after, _ = evaluate(attacked, False)
        return torch.where((after >= before) & after.isfinite(), attacked, weights)
