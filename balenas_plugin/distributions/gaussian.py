"""The Gaussian posterior of BaLeNAS: logits with mean and precision, learned by VAdam or Newton's form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from balenas_plugin.bayes.laws import Law, NormalLaw
from balenas_plugin.bayes.vadam import VAdam
from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.distributions._draw import Draw
from balenas_plugin.errors import EvaluatorError
from balenas_plugin.options import Betas, Positive, PositiveInt


class Gaussian(Distribution):
    r"""Mix with the softmax of logits :math:`\theta \sim \mathcal N(\mu, \mathrm{diag}\,1/(N s + \delta))`.

    Args:
        parameters: label -> mean mu, shape (K,), in logits.
        num_mc_samples: M, draws an update (Table 5).
        antithetic: draw in pairs mirrored at the mean.
        update: "vadam", or "newton" for the literal Eq. (17)-(18).
        lr: learning rate of the means, in logits a step.
        betas: moment decays of VAdam; with "newton" the first is the momentum.
        prior_precision: delta, precision of the prior, in 1/logit^2.
        initial_precision: precision before the first step; 1 means sigma = 1 logit.
        dataset_size: N. None: the number of examples that the mean validation loss is of.
        seed: of the noise.

    Source: Zhang et al. 2022, "BaLeNAS", Eq. (5), (17), (18), Algorithm 1.
    """

    name = "gaussian"
    has_logits = True
    source = "Zhang et al. 2022"

    optimizer: VAdam

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        num_mc_samples: PositiveInt = 1,
        antithetic: bool = False,
        update: Literal["vadam", "newton"] = "vadam",
        lr: Positive = 3e-4,
        betas: Betas = (0.5, 0.999),
        prior_precision: Positive = 1.0,
        initial_precision: Positive = 1.0,
        dataset_size: Positive | None = None,
        seed: int = 0,
    ) -> None:
        self._learns_size = dataset_size is None
        super().__init__(
            parameters,
            num_mc_samples=num_mc_samples,
            seed=seed,
            optimizer=lambda means: VAdam(
                means,
                lr=lr,
                betas=betas,
                prior_precision=prior_precision,
                initial_precision=initial_precision,
                dataset_size=1 if dataset_size is None else dataset_size,
                num_mc_samples=num_mc_samples,
                update=update,
                antithetic=antithetic,
                noise=self.noise,
            ),
        )

    def set_dataset_size(self, size: float | None) -> None:
        """Learn N, unless it was given.

        Raises:
            EvaluatorError: nobody knows it.
            OptionError: it has changed after the first step.
        """
        if not self._learns_size:
            return
        if size is None:
            raise EvaluatorError(
                "the validation loader has no length, so the number N of its examples is unknown: pass dataset_size"
            )
        if size != self.optimizer.dataset_size:
            self.optimizer.set_dataset_size(size)

    def clear_difference(self) -> float | None:
        """Return sigma before the first step, in logits; None with Newton's form."""
        (group,) = self.optimizer.param_groups
        return float(group["initial_precision"] ** -0.5) if group["update"] == "vadam" else None

    def draw(self, parameters: Mapping[str, Tensor]) -> Draw:
        """Return the softmax of a draw of the logits."""
        return self.at(parameters, {label: self.noise(mu) for label, mu in parameters.items()})

    def at(self, parameters: Mapping[str, Tensor], noise: Mapping[str, Tensor]) -> Draw:
        """Return the softmax of mean plus sigma times standard normal noise; gradients are those in the logits."""
        theta = {
            label: mu + noise[label] / self.precision(label).sqrt() for label, mu in parameters.items()
        }  # theta = mu + sigma eps
        weights = {label: self.masked(label, a.softmax(-1)) for label, a in theta.items()}
        return Draw(parameters, weights, logits=theta)

    def precision(self, label: str) -> Tensor:
        """Return 1/sigma^2 of a label's logits, shape (K,)."""
        return self.optimizer.precision(self.parameters[label])

    def draws(self) -> Iterable[Draw]:
        """Yield the M draws of an update, in mirrored pairs if `antithetic`."""
        noise: dict[str, Tensor] = {}
        for k in range(self.num_mc_samples):
            if self.optimizer.antithetic and k % 2:
                noise = {label: -epsilon for label, epsilon in noise.items()}
            else:
                noise = {label: self.noise(mu) for label, mu in self.parameters.items()}
            yield self.at(self._leaves(), noise)

    def step(self, gradients: Sequence[Mapping[str, Tensor]], anchors: Mapping[str, Tensor]) -> None:
        """Update mean and precision: the mean gradient drives the one, the mean squared gradient the other.

        Of choices that were dropped, mean, precision and moments stay.
        """
        sums = {}
        before = [(p, self.mask[k], p.detach().clone(), dict(self.optimizer.state[p])) for k, p in self._dropping()]
        for label, parameter in self.parameters.items():
            each = [g[label] for g in gradients if label in g]
            if each:
                sums[parameter] = (sum(each[1:], start=each[0]), sum((g * g for g in each[1:]), start=each[0] ** 2))
        self.optimizer.apply(sums, len(gradients))
        for parameter, mask, mean, state in before:
            parameter.data.copy_(torch.where(mask, parameter.detach(), mean))
            moved = self.optimizer.state[parameter]
            moved.update({k: torch.where(mask, moved[k], t) for k, t in state.items() if isinstance(t, Tensor)})

    def _dropping(self) -> Iterable[tuple[str, Tensor]]:
        return ((label, self.parameters[label]) for label in self.kept)

    def laws(self) -> dict[str, Law]:
        """Return that of the logits."""
        return {label: NormalLaw(mean, self.precision(label).detach()) for label, mean in self.scores().items()}
