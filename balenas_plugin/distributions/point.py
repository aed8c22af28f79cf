"""The point estimate of DARTS: no distribution at all, the weights are the softmax of the logits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from balenas_plugin.bayes.laws import GumbelLaw, Law
from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.distributions._draw import Draw


class Point(Distribution):
    """Mix with the softmax of the logits; draws and mean are the same.

    Its choice probabilities are the mixing weights themselves, from which selections may draw.

    Source: Liu et al. 2019, "DARTS: Differentiable Architecture Search".
    """

    name = "point"
    has_logits = True
    is_random = False
    source = "Liu et al. 2019"

    def draw(self, parameters: Mapping[str, Tensor]) -> Draw:
        """Return the softmax of the logits."""
        return Draw(parameters, {label: self.masked(label, a.softmax(-1)) for label, a in parameters.items()})

    def laws(self) -> dict[str, Law]:
        """Return what chooses with the mixing weights as probabilities."""
        return {label: GumbelLaw(logits) for label, logits in self.scores().items()}
