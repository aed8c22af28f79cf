"""A categorical distribution over one-hot weights, learned by its score function: DSNAS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from balenas_plugin.bayes.laws import GumbelLaw, Law
from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.distributions._draw import Draw
from balenas_plugin.options import checked

Margin = Annotated[float, Field(ge=0, le=1)]


class Categorical(Distribution):
    r"""Compute one candidate a label, drawn with :math:`p = \mathrm{softmax}(\alpha)`; the others take no part.

    With the loss's gradient R in the weight 1 of the drawn candidate, the gradient in alpha is
    :math:`R\,(\mathrm{onehot} - p)`: the score of the draw times its linearised loss.

    Args:
        parameters: label -> logits alpha, shape (K,).
        fix_margin: early fixing: a label whose two largest probabilities differ by so much at the start of an epoch
            draws the larger one ever after, and its logits, and so what it says of the choices, stay. None: never.
        options: of every distribution.

    Source: Hu et al. 2020, "DSNAS: Direct Neural Architecture Search without Parameter Retraining".
    """

    name = "categorical"
    draws_one = True
    source = "Hu et al. 2020"
    counts_epochs = False

    def __init__(self, parameters: Mapping[str, Tensor], *, fix_margin: Margin | None = None, **options: Any) -> None:
        super().__init__(parameters, **options)
        self.fix_margin = None if fix_margin is None else checked("fix_margin", fix_margin, Margin)
        self.fixed: set[str] = set()

    def draw(self, parameters: Mapping[str, Tensor]) -> Draw:
        """Return one-hot weights."""
        log_p = self.log_p(parameters)
        races = {label: lp.detach().exp() / self._exponential(lp) for label, lp in log_p.items()}  # of Poisson clocks
        races |= {label: log_p[label] for label in self.fixed & log_p.keys()}
        largest = torch.stack([race.argmax(-1) for race in races.values()])  # a GPU is waited for once
        return self.one_hot(parameters, log_p, largest)

    def log_p(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return label -> log-probabilities, shape (K,)."""
        return {label: a.masked_fill(~self.mask[label], -torch.inf).log_softmax(-1) for label, a in parameters.items()}

    def one_hot(self, parameters: Mapping[str, Tensor], log_p: Mapping[str, Tensor], chosen: Tensor) -> Draw:
        """Return the draw of given candidates, an index a label."""
        values = {
            label: F.one_hot(k, lp.shape[-1]).to(lp) for (label, lp), k in zip(log_p.items(), chosen, strict=True)
        }
        outputs = {label: torch.where(values[label] > 0, lp, 0) for label, lp in log_p.items()}
        indices = dict(zip(log_p, chosen.tolist(), strict=True))
        p = {label: lp.exp() for label, lp in log_p.items()}
        return Draw(parameters, outputs, values=values, chosen=indices, others="none", expected=p)

    def _exponential(self, like: Tensor) -> Tensor:
        return self.noise.exponential(like).clamp_min(torch.finfo(like.dtype).tiny)

    def new_epoch(self, epoch: int, epochs: int) -> None:
        """Fix what is decided."""
        if self.fix_margin is None:
            return
        for label, scores in self.scores().items():
            first, second = F.pad(scores.softmax(-1), (0, 1)).topk(2).values
            if first - second >= self.fix_margin:
                self.fixed.add(label)

    def step(self, gradients: Sequence[Mapping[str, Tensor]], anchors: Mapping[str, Tensor]) -> None:
        """Follow the gradients of what is not fixed: momentum and decay would move even logits without a gradient."""
        super().step([{k: g for k, g in found.items() if k not in self.fixed} for found in gradients], anchors)

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes but the parameters."""
        return {**super().state_dict(), "fixed": sorted(self.fixed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        super().load_state_dict(state)
        self.fixed = set(state["fixed"])

    def laws(self) -> dict[str, Law]:
        """Return that of the logits with Gumbel noise, whose largest is drawn."""
        return {label: GumbelLaw(logits) for label, logits in self.scores().items()}
