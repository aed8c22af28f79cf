"""PARSEC: a categorical distribution learned from the losses of sampled architectures, without gradients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.distributions._draw import Draw, Evaluate
from balenas_plugin.distributions.categorical import Categorical
from balenas_plugin.errors import OptionError
from balenas_plugin.options import Betas, NonNegative, Positive, PositiveInt

_logger = logging.getLogger(__name__)

_WATCHED = 20
_TOO_FEW = 1.5


class ImportanceWeighted(Categorical):
    r"""Raise the probability of sampled architectures by their likelihood: Monte-Carlo empirical Bayes.

    Of M draws :math:`A_k \sim p(A | \alpha)`, each evaluated by a forward pass alone, the importance weights are
    :math:`\omega_k = \mathrm{softmax}_k(t \sum_n \log p(y_n | x_n, A_k))`, and alpha follows
    :math:`\sum_k \omega_k (\mathrm{onehot}(A_k) - p)`. The network's weights are trained at one of the draws, drawn by
    omega: the mean of that gradient is the paper's weighted sum.

    Args:
        parameters: label -> logits alpha, shape (K,).
        num_mc_samples: M, at least 2: the weight of a single draw is always 1.
        temperature: t, a power of the likelihood of the whole batch. 1 is the paper's product over its examples, with
            which one draw takes nearly all the weight; 1 / batch size is the likelihood of an average example.
        lr, betas, weight_decay: of Adam, which learns the logits.
        optimizer: makes another optimizer of them.
        seed: of the noise.

    Raises:
        OptionError: there are less than two draws.

    Source: Casale, Gordon and Fusi 2019, "Probabilistic Neural Architecture Search" (PARSEC).
    """

    name = "importance-weighted"
    needs_gradient = False
    new_epoch = Distribution.new_epoch  # nothing is fixed
    source = "Casale et al. 2019"

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        num_mc_samples: PositiveInt = 8,
        temperature: Positive = 1.0,
        lr: Positive = 3e-4,
        betas: Betas = (0.5, 0.999),
        weight_decay: NonNegative = 0.0,
        optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
        seed: int = 0,
    ) -> None:
        if num_mc_samples < 2:
            raise OptionError(
                f"{self.name} compares draws with each other, so num_mc_samples must be at least 2, got "
                f"{num_mc_samples}: with one, the architecture follows chance alone"
            )
        super().__init__(
            parameters,
            num_mc_samples=num_mc_samples,
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            optimizer=optimizer,
            seed=seed,
        )
        self.temperature = temperature
        self.drawn: dict[str, Tensor] = {}
        """Label -> index of the candidate in each draw of the last update, shape (M,)."""
        self.importance: Tensor | None = None
        """Omega of these, shape (M,)."""
        self._sizes: list[Tensor] = []

    def update(self, evaluate: Evaluate) -> Tensor:
        """Follow the weighted scores of M draws; return the mean loss."""
        draws = list(self.draws())
        losses = torch.stack([evaluate(draw)[0].detach() for draw in draws])
        examples = torch.tensor([draw.examples for draw in draws]).to(losses)
        self.importance = (-self.temperature * examples * losses).softmax(0)
        self.drawn = {label: torch.tensor([draw.chosen[label] for draw in draws]) for label in self.parameters}
        for draw in draws:  # whose scores are added up
            draw.of_costs = {label: g / len(draws) for label, g in draw.of_costs.items()}
        scores = [
            draw.pull_back({label: -omega.expand_as(w) for label, w in draw.outputs.items()})
            for draw, omega in zip(draws, self.importance, strict=True)
        ]
        self.step([{label: torch.stack([s[label] for s in scores]).sum(0) for label in self.parameters}], {})
        self._watch()
        return losses.mean()

    def training_draw(self) -> Draw:
        """Return one of the last update's draws, drawn by their importance; a new draw before the first."""
        if self.importance is None:
            return self.sample()
        omega = self.importance
        k = int((omega / self._exponential(omega)).argmax())
        leaves = self._leaves()
        return self.one_hot(leaves, self.log_p(leaves), torch.stack([self.drawn[label][k] for label in leaves]))

    def keep(self, label: str, indices: Sequence[int]) -> None:
        """Drop all other choices of a label for good; earlier draws may have had them."""
        super().keep(label, indices)
        self.importance = None

    @property
    def effective_sample_size(self) -> float | None:
        """How many equally weighted draws the last update was worth, from 1 to M; None before the first."""
        return None if self.importance is None else 1 / float(self.importance.square().sum())

    def own_metrics(self) -> dict[str, float]:
        """Return the effective sample size."""
        size = self.effective_sample_size
        return {} if size is None else {"effective_sample_size": size}

    def _watch(self) -> None:
        """Warn if one draw takes all the weight in the first updates; a GPU is waited for once."""
        if self.importance is None or len(self._sizes) >= _WATCHED:
            return
        self._sizes.append(1 / self.importance.square().sum())
        if len(self._sizes) == _WATCHED and (mean := float(torch.stack(self._sizes).mean())) < _TOO_FEW:
            _logger.warning(
                "%d draws were worth %.2f on average in the first %d updates: one draw takes nearly all the importance "
                "weight. Lower temperature, to 1 / batch size for the likelihood of an average example.",
                self.num_mc_samples,
                mean,
                _WATCHED,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes but the parameters."""
        drawn = {"drawn": dict(self.drawn), "importance": self.importance}
        return {**super().state_dict(), **drawn, "sizes": list(self._sizes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        super().load_state_dict(state)
        device = next(iter(self.parameters.values())).device
        self.drawn = dict(state["drawn"])
        self._sizes = [size.to(device) for size in state.get("sizes", [])]  # earlier versions counted anew
        self.importance = None if state["importance"] is None else state["importance"].to(device)
