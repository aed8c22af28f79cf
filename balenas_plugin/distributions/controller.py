"""ENAS: a recurrent network that draws an architecture choice by choice, trained by REINFORCE on accuracies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.bayes.laws import GumbelLaw, Law
from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.distributions._draw import Draw, Evaluate
from balenas_plugin.distributions.uniform import path
from balenas_plugin.options import NonNegative, Positive, PositiveInt

_TANH_CONSTANT, _BASELINE_RATE, _CLIP = 2.5, 0.01, 5.0
_COUNTED = 1_024


class Controller(Distribution):
    r"""Draw the choices one after the other, each depending on those before it: a policy over whole architectures.

    Of M draws :math:`A_k`, the policy follows the gradient of
    :math:`-\frac1M\sum_k \log p(A_k)\,(R_k - b_k)`, where the reward R is the accuracy on the validation batch plus the
    weighted entropy of the policy. The baseline is :math:`b_k = b + 0.01\,(R_k - b)`; b is what it was at the end of
    the last epoch, and in the first epoch b_k is the accuracy itself.

    The parameters hold the logarithms of how probable each choice is by itself, whatever the others: the mean of its
    conditional probabilities over 1,024 draws, always the same ones. Files and rankings know no more of the policy.

    Args:
        parameters: label -> shape (K,).
        num_mc_samples: M.
        hidden_size: of the LSTM.
        temperature: which logits are divided by, before a tanh keeps them between -2.5 and 2.5.
        entropy_weight: of the entropy in the reward.
        lr: of Adam, which trains the policy.
        seed: of the policy's weights and of the draws.

    Source: Pham et al. 2018, "Efficient Neural Architecture Search via Parameter Sharing"; the form of the reward and
    of the baseline: Dong and Yang 2020, "NAS-Bench-201".
    """

    name = "controller"
    draws_one = True
    needs_gradient = False
    needs_accuracy = True
    source = "Pham et al. 2018"
    counts_epochs = False

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        num_mc_samples: PositiveInt = 20,
        hidden_size: PositiveInt = 64,
        temperature: Positive = 5.0,
        entropy_weight: NonNegative = 1e-4,
        lr: Positive = 1e-3,
        seed: int = 0,
    ) -> None:
        like = next(iter(parameters.values()))
        self.policy = _Policy(max(map(len, parameters.values())), hidden_size, temperature, seed=seed).to(like)
        super().__init__(
            parameters,
            num_mc_samples=num_mc_samples,
            optimizer=lambda _: torch.optim.Adam(self.policy.parameters(), lr=lr, betas=(0.0, 0.999), eps=1e-3),
            seed=seed,
        )
        self.entropy_weight = entropy_weight
        self.baseline: float | None = None
        """Of the epoch; None in the first."""
        self._latest: float | None = None

    def start(self) -> None:
        """Let the parameters say what an untrained policy draws."""
        self._count()

    def draw(self, parameters: Mapping[str, Tensor]) -> Draw:
        """Return an architecture that the policy draws, or many."""
        shape = next(iter(parameters.values())).shape[:-1]
        with torch.no_grad():
            chosen = [k for k, _ in self._rollout(shape.numel(), self.noise)]
        return path(parameters, torch.stack(chosen).reshape(-1, *shape))

    def _rollout(self, count: int, noise: SeededNoise) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each label the candidates of `count` draws, (count,), and all log-probabilities, (count, K)."""
        return self.policy.rollout(list(self.mask.values()), count, noise)

    def update(self, evaluate: Evaluate) -> Tensor:
        """Train the policy on the accuracies of M draws; return the mean error rate."""
        rolled = list(self._rollout(self.num_mc_samples, self.noise))
        chosen = torch.stack([k for k, _ in rolled])
        draws = [path(self.parameters, each) for each in chosen.unbind(1)]
        accuracy = torch.stack([evaluate(draw)[0].detach() for draw in draws]).to(rolled[0][1])
        log_p = torch.stack([each.gather(-1, k[:, None])[:, 0] for k, each in rolled]).sum(0)
        reward = accuracy + self.entropy_weight * torch.stack([_entropy(each) for _, each in rolled]).sum(0)
        baseline = accuracy if self.baseline is None else self.baseline + _BASELINE_RATE * (reward - self.baseline)
        self.optimizer.zero_grad()
        (-log_p * (reward - baseline)).mean().backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), _CLIP)
        self.optimizer.step()
        self._latest = float(baseline[-1].detach())
        self._count()
        return 1 - accuracy.mean()

    def new_epoch(self, epoch: int, epochs: int) -> None:
        """Take the latest baseline for the epoch's."""
        self.baseline = self._latest

    @torch.no_grad()
    def _count(self) -> None:
        for parameter, (_, log_p) in zip(
            self.parameters.values(), self._rollout(_COUNTED, SeededNoise(0)), strict=True
        ):
            parameter.copy_(log_p.exp().mean(0).clamp_min(torch.finfo(log_p.dtype).tiny).log())

    def keep(self, label: str, indices: Sequence[int]) -> None:
        """Drop all other choices of a label for good."""
        super().keep(label, indices)
        self._count()

    def clear_difference(self) -> float | None:
        """Return None: a step of the policy has no length in logits."""
        return None

    def laws(self) -> dict[str, Law]:
        """Return what chooses each label by itself."""
        return {label: GumbelLaw(logits) for label, logits in self.scores().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes but the parameters."""
        baselines = {"baseline": self.baseline, "latest": self._latest}
        return {**super().state_dict(), "policy": self.policy.state_dict(), **baselines}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state_dict`, where the parameters are."""
        self.policy.load_state_dict(state["policy"])
        self.policy.to(next(iter(self.parameters.values())).device)
        super().load_state_dict(state)
        self.baseline, self._latest = state["baseline"], state["latest"]


class _Policy(nn.Module):
    """An LSTM that is shown each choice it has made, as an embedding, before it makes the next."""

    def __init__(self, choices: int, hidden_size: int, temperature: float, *, seed: int) -> None:
        super().__init__()
        self.temperature = temperature
        self.first = nn.Parameter(torch.empty(1, hidden_size))
        self.embedding = nn.Parameter(torch.empty(choices, hidden_size))
        self.cell = nn.utils.skip_init(nn.LSTMCell, hidden_size, hidden_size)
        self.head = nn.utils.skip_init(nn.Linear, hidden_size, choices)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.1, 0.1, generator=generator)

    def rollout(self, masks: Sequence[Tensor], count: int, noise: SeededNoise) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each choice the candidates drawn, shape (count,), and all log-probabilities, shape (count, K)."""
        inputs, state = self.first.expand(count, -1), None
        for mask in masks:
            state = self.cell(inputs, state)
            logits = _TANH_CONSTANT * (self.head(state[0])[:, : len(mask)] / self.temperature).tanh()
            log_p = logits.masked_fill(~mask, -torch.inf).log_softmax(-1)
            clocks = noise.exponential(log_p).clamp_min(torch.finfo(log_p.dtype).tiny)
            chosen = (log_p.detach().exp() / clocks).argmax(-1)
            yield chosen, log_p
            inputs = self.embedding[chosen]


def _entropy(log_p: Tensor) -> Tensor:
    """Return the entropy in nats of log-probabilities, shape (count, K)."""
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(-1)
