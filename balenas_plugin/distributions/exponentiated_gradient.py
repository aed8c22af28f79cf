"""GAEA: mixing weights themselves, learned by exponentiated gradient on the simplex."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from balenas_plugin.distributions._draw import Draw
from balenas_plugin.distributions.point import Point
from balenas_plugin.options import NonNegative, Positive, PositiveInt


class ExponentiatedGradient(Point):
    r"""Mix with :math:`\theta` on the simplex; :math:`\theta \leftarrow \theta \exp(-\mathrm{lr}\,\partial L / \partial
    \theta)`, at least `floor`, then divided by its sum.

    The parameters hold log theta up to a constant, so that they are logits to all who read them: theta is their
    softmax, and the update is a step of SGD along the gradient in the weights, without the softmax's Jacobian.

    Args:
        parameters: label -> log theta, shape (K,); `start` makes theta uniform.
        lr: of the exponent.
        floor: the least entry before the division by the sum.
        entropic_weight: factor of sum theta log(K theta), which is added to the validation loss.
        num_mc_samples: evaluations an update, all at theta.
        seed: of the noise, which there is none of.

    Source: Li et al. 2021, "Geometry-Aware Gradient Algorithms for Neural Architecture Search" (GAEA).
    """

    name = "exponentiated-gradient"
    has_logits = False  # a module that reads the parameter itself would have a gradient in logits
    source = "Li et al. 2021"

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        lr: Positive = 0.1,
        floor: NonNegative = 1e-5,
        entropic_weight: NonNegative = 0.0,
        num_mc_samples: PositiveInt = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            parameters,
            num_mc_samples=num_mc_samples,
            optimizer=lambda logs: torch.optim.SGD(logs, lr=lr),
            seed=seed,
        )
        self.floor, self.entropic_weight = floor, entropic_weight

    @torch.no_grad()
    def start(self) -> None:
        """Make theta uniform."""
        for parameter in self.parameters.values():
            parameter.zero_()

    def draw(self, parameters: Mapping[str, Tensor]) -> Draw:
        """Return theta; gradients in it are those of the parameters."""
        return Draw(parameters, parameters, values=super().draw(parameters).weights)

    @torch.no_grad()
    def step(self, gradients: Sequence[Mapping[str, Tensor]], anchors: Mapping[str, Tensor]) -> None:
        """Multiply by the exponentials, then project onto the simplex."""
        moved = {label for found in gradients for label in found}
        self._normalise(moved)
        super().step(gradients, anchors)
        for label in moved:
            self.parameters[label].clamp_(min=math.log(self.floor) if self.floor else -math.inf)
        self._normalise(moved)

    def _normalise(self, labels: set[str]) -> None:
        for label in labels:
            p, mask = self.parameters[label], self.mask[label]
            p.copy_(torch.where(mask, p.masked_fill(~mask, -torch.inf).log_softmax(-1), p))

    def regulariser(self) -> tuple[float, dict[str, Tensor]]:
        """Return the weighted sum of theta log(K theta), and label -> its gradient in theta."""
        if not self.entropic_weight:
            return super().regulariser()
        total, anchors = 0.0, {}
        for label, logs in self.scores().items():
            theta, mask = logs.softmax(-1), self.mask[label]
            log_ratio = torch.where(mask, logs.log_softmax(-1) + mask.sum().log(), 0)
            total += self.entropic_weight * float((theta * log_ratio).sum())
            anchors[label] = self.entropic_weight * torch.where(mask, log_ratio + 1, 0)
        return total, anchors
