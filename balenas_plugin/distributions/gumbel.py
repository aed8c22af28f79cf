"""Gumbel-softmax: relaxed samples of a categorical distribution (SNAS), and hard ones of one operation (GDAS)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.bayes.laws import GumbelLaw, Law
from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.distributions._draw import Draw
from balenas_plugin.errors import OptionError
from balenas_plugin.mixed_ops.drawn_path import Others
from balenas_plugin.options import Positive, checked

_MOST_REDRAWS = 1000

Temperature = Positive | tuple[Positive, Positive]


class GumbelSoftmax(Distribution):
    r"""Mix with :math:`\mathrm{softmax}((\log\mathrm{softmax}(\alpha) + G) / \tau)`, G standard Gumbel noise.

    One draw per label and pass. A draw that is not finite is drawn again.

    Args:
        parameters: label -> logits alpha, shape (K,).
        temperature: tau in the first and in the last epoch, linear between them; or one for all.
        reaches_last: whether the last epoch has the last temperature; NNI's GumbelDARTS stays a step above it.
        options: of every distribution.

    Source: Xie et al. 2019, "SNAS: Stochastic Neural Architecture Search".
    """

    name = "gumbel"
    source = "Xie et al. 2019"

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        temperature: Temperature = (1.0, 0.33),
        reaches_last: bool = True,
        **options: Any,
    ) -> None:
        ends = checked("temperature", temperature, Temperature)
        first, last = ends if isinstance(ends, tuple) else (ends, ends)
        super().__init__(parameters, **options)
        self.temperatures = (float(first), float(last))
        self.temperature = self.temperatures[0]
        self._reaches_last = reaches_last

    def new_epoch(self, epoch: int, epochs: int) -> None:
        """Set the temperature of the epoch.

        Raises:
            OptionError: it changes with the epochs, and the search has no last one.
        """
        first, last = self.temperatures
        if first != last and epochs < 1:
            raise OptionError(
                f"the temperature goes from {first:g} to {last:g} over the epochs, and this search has no last one: "
                "set max_epochs, or one temperature for all of them"
            )
        self.temperature = first - (first - last) * epoch / max(epochs - self._reaches_last, 1)

    def draw(self, parameters: Mapping[str, Tensor]) -> Draw:
        """Return relaxed samples."""
        kept = {label: a.masked_fill(~self.mask[label], -torch.inf) for label, a in parameters.items()}
        for _ in range(_MOST_REDRAWS):
            gumbels = {label: self.gumbel_noise(a) for label, a in kept.items()}
            relaxed = {
                label: ((a.log_softmax(-1) + gumbels[label]) / self.temperature).softmax(-1)
                for label, a in kept.items()
            }
            if torch.cat([*gumbels.values(), *relaxed.values()]).isfinite().all():
                return self.of_relaxed(parameters, relaxed)
        raise OptionError(f"Gumbel noise at temperature {self.temperature:g} gives no finite weights: raise it")

    def of_relaxed(self, parameters: Mapping[str, Tensor], relaxed: Mapping[str, Tensor]) -> Draw:
        """Return the draw that relaxed samples stand for: themselves."""
        return Draw(parameters, relaxed)

    def gumbel_noise(self, like: Tensor) -> Tensor:
        """Return -log(Exp(1)) noise of the shape, dtype and device of `like`."""
        return -self.noise.exponential(like).log()

    def laws(self) -> dict[str, Law]:
        """Return that of the logits with noise, whose largest wins at any temperature."""
        return {label: GumbelLaw(logits) for label, logits in self.scores().items()}


class HardGumbelSoftmax(GumbelSoftmax):
    r"""Compute one drawn operation a label: weights are one-hot, gradients those of the relaxed sample.

    Args:
        parameters: label -> logits alpha, shape (K,).
        temperature: as of `GumbelSoftmax`.
        others: how the operations that are not drawn take part, see `drawn_path`: "scalar" or "none"; None: as in the
            reference's search of the space, "scalar" in a choice among layers, "none" in cells of the DARTS kind.
        options: of every distribution.

    Source: Dong and Yang 2019, "Searching for a Robust Neural Architecture in Four GPU Hours" (GDAS).
    """

    name = "hard-gumbel"
    draws_one = True
    source = "Dong and Yang 2019"

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        temperature: Temperature = (10.0, 0.1),
        others: Others | None = None,
        **options: Any,
    ) -> None:
        super().__init__(parameters, temperature=temperature, **options)
        if others is not None:
            checked("others", others, Others)
        self.others = others

    def of_relaxed(self, parameters: Mapping[str, Tensor], relaxed: Mapping[str, Tensor]) -> Draw:
        """Return the largest entry of each relaxed sample as one-hot weights."""
        largest = torch.stack([p.argmax() for p in relaxed.values()])  # a GPU is waited for once
        values = {
            label: torch.zeros_like(p).index_fill(0, k, 1.0)
            for (label, p), k in zip(relaxed.items(), largest, strict=True)
        }
        chosen = dict(zip(relaxed, largest.tolist(), strict=True))
        return Draw(parameters, relaxed, values=values, chosen=chosen, others=self.others, expected=relaxed)
