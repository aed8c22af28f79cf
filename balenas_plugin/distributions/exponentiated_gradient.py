"""GAEA: mixing weights themselves, learned by exponentiated gradient on the simplex."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.distributions._draw import Draw
from balenas_plugin.distributions.point import Point
from balenas_plugin.mixed_ops.edge_weights import EdgeWeights
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

    @classmethod
    def edges(cls, logits: Mapping[str, Tensor], options: Mapping[str, Any]) -> EdgeWeights:
        """Return what learns the weights of edges by the same update, at the same rate."""
        return EdgesOnSimplex(logits, lr=options.get("lr", 0.1))

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

    def clear_difference(self) -> float | None:
        """Return None: a step is as long as the gradient, times the rate."""
        return None

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


class EdgesOnSimplex(EdgeWeights):
    """Learns the weights of the edges to every node by exponentiated gradient, without a floor.

    Args:
        parameters: node -> logarithms of the weights up to a constant, shape (number of edges,).
        lr: of the exponent.

    Source: Li et al. 2021 (GAEA), its search in the space of PC-DARTS.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, lr: float) -> None:
        self._nodes, self.parameters = list(parameters), list(parameters.values())
        self._learned = ExponentiatedGradient(parameters, lr=lr, floor=0.0)

    def start(self) -> None:
        """Weigh the edges to a node alike."""
        self._learned.start()

    @torch.no_grad()
    def step(self, gradients: Sequence[Sequence[Tensor | None]]) -> None:
        """Follow the mean gradient of several draws; parameters without any stay.

        Args:
            gradients: of each draw, one for each of `parameters`, in these; divided by the weights, they are those in
                the weights but for a constant, which the normalisation takes away.
        """
        shares = [p.softmax(-1).clamp_min(torch.finfo(p.dtype).tiny) for p in self.parameters]
        found = [
            {node: g / weights for node, g, weights in zip(self._nodes, of_draw, shares, strict=True) if g is not None}
            for of_draw in gradients
        ]
        self._learned.step(found, {})

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: no step depends on those before it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing; earlier versions kept the state of Adam."""
