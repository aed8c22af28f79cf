"""The Dirichlet distribution of DrNAS: weights themselves are drawn, and gradients go through the draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from balenas_plugin.bayes.laws import Law, LogGammaLaw
from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.distributions._draw import Draw
from balenas_plugin.options import Betas, NonNegative, Positive, PositiveInt, checked

Anchor = Literal["l2", "kl", "none"]


class Dirichlet(Distribution):
    r"""Mix with :math:`A \sim \mathrm{Dir}(\beta)`, :math:`\beta = \mathrm{elu}(\eta) + 1`.

    What `keep` dropped is drawn, set to 0, and the rest divided by its sum: in law the Dirichlet of what is kept.

    Args:
        parameters: label -> eta, shape (K,); beta is 1 at 0.
        anchor: what holds beta near 1: "l2", weight decay of eta (the reference's default); "kl", the divergence from
            Dir(1) a label, added to the loss; or "none".
        anchor_scale: its factor.

    Source: Chen et al. 2021, "DrNAS: Dirichlet Neural Architecture Search".
    """

    name = "dirichlet"
    source = "Chen et al. 2021"

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        anchor: Anchor = "l2",
        anchor_scale: NonNegative = 1e-3,
        num_mc_samples: PositiveInt = 1,
        lr: Positive = 3e-4,
        betas: Betas = (0.5, 0.999),
        seed: int = 0,
    ) -> None:
        checked("anchor", anchor, Anchor)
        super().__init__(
            parameters,
            num_mc_samples=num_mc_samples,
            lr=lr,
            betas=betas,
            weight_decay=anchor_scale if anchor == "l2" else 0.0,
            seed=seed,
        )
        self._levels: dict[str, float] = {}
        """Label -> what its scores are below eta, where that is fixed."""
        self.divergence_scale = anchor_scale if anchor == "kl" else 0.0

    def draw(self, parameters: Mapping[str, Tensor]) -> Draw:
        """Return a draw of the weights."""
        outputs = {}
        for label, eta in parameters.items():
            beta = concentration(eta)
            outputs[label] = self.masked(label, _PathwiseDirichlet.apply(beta, self.noise.dirichlet(beta)))
        return Draw(parameters, outputs)

    @staticmethod
    def mean_weights(parameter: Tensor) -> Tensor:
        """Return beta / sum(beta)."""
        beta = concentration(parameter)
        return beta / beta.sum()

    @staticmethod
    def scaled(parameter: Tensor, factor: Tensor) -> Tensor:
        """Return the eta of `factor` times the concentrations."""
        beta = concentration(parameter) * factor
        return torch.where(beta > 1, beta - 1, beta.log())  # the inverse of elu + 1

    def regulariser(self) -> tuple[float, dict[str, Tensor]]:
        """Return the scaled divergence from Dir(1), and label -> its gradient in eta, where that is the anchor."""
        if not self.divergence_scale:
            return super().regulariser()
        etas = {label: eta.detach().requires_grad_() for label, eta in self.parameters.items()}
        each = [divergence_from_uniform(concentration(eta[self.mask[label]])) for label, eta in etas.items()]
        total = self.divergence_scale * torch.stack(each).sum()
        return total.item(), dict(zip(etas, torch.autograd.grad(total, list(etas.values())), strict=True))

    @torch.no_grad()
    def keep(self, label: str, indices: Sequence[int]) -> None:
        """Drop all other choices of a label for good; their eta becomes 0, so that it says nothing."""
        super().keep(label, indices)
        self.parameters[label].masked_fill_(~self.mask[label], 0.0)

    def lower(self, label: str, amount: float) -> None:
        """Lower all scores of a label; what `keep` drops later on does not raise the others any more."""
        level = self._levels.get(label)
        level = float(self._ranked()[label].logsumexp(-1)) if level is None else level
        self._levels[label] = level + amount

    def scores(self) -> dict[str, Tensor]:
        """Return the log softmax of eta, by which the reference ranks the edges of a node as well.

        Where edges have learned weights, the logarithm of the mean weights: these are what the network multiplies.
        """
        ranked, levels = self._ranked(), self._levels
        return {k: each - levels[k] if k in levels else each.log_softmax(-1) for k, each in ranked.items()}

    def _ranked(self) -> dict[str, Tensor]:
        """Return the scores up to a number of each label."""
        etas = super().scores()
        return {k: concentration(eta).log() for k, eta in etas.items()} if self.weighs_edges else etas

    def laws(self) -> dict[str, Law]:
        """Return that of the log weights."""
        betas = {label: concentration(eta.detach()) for label, eta in self.parameters.items()}
        return {label: LogGammaLaw(beta.masked_fill(~self.mask[label], 0)) for label, beta in betas.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes but the parameters."""
        return {**super().state_dict(), "levels": dict(self._levels)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state_dict`; earlier versions had no levels."""
        super().load_state_dict(state)
        self._levels = dict(state.get("levels", {}))


def concentration(eta: Tensor) -> Tensor:
    """Return beta = elu(eta) + 1, positive."""
    return F.elu(eta) + 1


def divergence_from_uniform(beta: Tensor) -> Tensor:
    """Return KL(Dir(beta) || Dir(1)) in nats, a scalar."""
    total = beta.sum()
    return (
        torch.lgamma(total)
        - torch.lgamma(beta).sum()
        - math.lgamma(len(beta))
        + ((beta - 1) * (torch.digamma(beta) - torch.digamma(total))).sum()
    )


class _PathwiseDirichlet(torch.autograd.Function):
    """A sample of Dir(beta) as a function of beta: torch's pathwise derivative, at a sample of our own generator."""

    @staticmethod
    def forward(ctx: Any, beta: Tensor, sample: Tensor) -> Tensor:
        ctx.save_for_backward(beta, sample)
        return sample.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        beta, sample = ctx.saved_tensors
        slope = torch._dirichlet_grad(sample, beta, beta.sum().expand_as(beta))
        return slope * (gradient - (sample * gradient).sum()), None
