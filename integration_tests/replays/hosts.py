"""A toy network and its data as a `Host` of Algorithm 1: what the reference searches share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.bayes.architect import VirtualStep
from balenas_plugin.distributions import Draw, Weights


class Recorded:
    """Random numbers of a reference run, in the place of a distribution's own."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        self.values = iter(values)

    def __call__(self, *_: Any) -> Tensor:
        return next(self.values)

    exponential = dirichlet = uniform = __call__


class ToyHost:
    """A network given as a loss of (mixing weights, batch), trained by SGD.

    Args:
        loss: of the weights of a draw, the draw's chosen candidates, inputs and targets.
        network_weights: what SGD trains.
        clip: largest norm of the weights' gradients.
        sgd: options of SGD.
    """

    def __init__(
        self, loss: Callable[..., Tensor], network_weights: list[nn.Parameter], *, clip: float, **sgd: Any
    ) -> None:
        self.loss, self.network_weights, self.clip = loss, network_weights, clip
        self.sgd = torch.optim.SGD(network_weights, **sgd)
        self.draw = Draw({}, {})
        self.draws: dict[str, Draw] = {}
        """Of the last step of each level: "training", "validation"."""
        self.validated_at: list[Tensor] = []
        """The network's weights then: w' in a search of second order."""
        self.train: Any = None
        self.val: Any = None
        self.norm = 0.0

    def begin(self) -> None:
        pass

    @contextmanager
    def mixing(self, draw: Draw) -> Iterator[None]:
        self.draw = draw
        yield

    def validation_loss(self, k: int) -> Tensor:
        self.draws["validation"] = self.draw
        self.validated_at = [w.detach().clone() for w in self.network_weights]
        return self.loss(self.draw, *self.val)

    def training_loss(self, k: int | None) -> Tensor:
        return self.loss(self.draw, *self.train)

    def examples(self) -> int:
        return len(self.val[1])

    def step_weights(self, clipped_with: Callable[[], list[Tensor]]) -> Tensor:
        self.sgd.zero_grad()
        self.draws["training"] = self.draw
        loss = self.loss(self.draw, *self.train)
        loss.backward()
        self.norm = clip([w.grad for w in self.network_weights if w.grad is not None], clipped_with(), self.clip)
        self.sgd.step()
        return loss.detach()

    def virtual_step(self) -> VirtualStep:
        group = self.sgd.param_groups[0]
        return VirtualStep(
            lr=group["lr"],
            momentum=group["momentum"],
            weight_decay=group["weight_decay"],
            momentum_buffers=[self.sgd.state[w].get("momentum_buffer") for w in self.network_weights],
        )

    def average(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        return list(tensors)


def clip(gradients: list[Tensor], others: list[Tensor], largest: float) -> float:
    """Scale gradients in place so that their norm, together with the others', is at most `largest`; return the norm."""
    norm = torch.nn.utils.get_total_norm([*gradients, *others])
    for gradient in gradients:
        gradient.mul_((largest / (norm + 1e-6)).clamp(max=1.0))
    return float(norm)


def by_row(rows: Any) -> dict[str, nn.Parameter]:
    """Return rows of architecture parameters as label -> parameter, in row order."""
    return {f"{k:03d}": nn.Parameter(torch.as_tensor(row, dtype=torch.float64).clone()) for k, row in enumerate(rows)}


def rows(weights: Weights) -> Tensor:
    """Return label -> vector as one tensor, a row a label."""
    return torch.stack([weights[label].detach() for label in sorted(weights)])
