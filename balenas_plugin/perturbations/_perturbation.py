"""What every perturbation of mixing weights is: weights of a weight step in, weights to train at out.

It is applied after the softmax, or whatever else gives weights, once a weight step: modules that share a label see the
same perturbed weights, and the distribution, its mean and its draws stay as they are. What the distribution is to learn
through as well is done around the steps of both levels.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.distributions import Distribution

Evaluate = Callable[[Tensor, bool], tuple[Tensor, Tensor]]
"""Returns the training loss at weights, shape (E, K), of the network in evaluation mode, and its gradient in them.

The second argument says whether the gradient is wanted, else it is 0. Both are means over the processes of a search.
"""

_ByLabel = Mapping[str, Tensor]

Level = Literal["architecture", "weights"]


class Trained(Protocol):
    """The network in a step: what a `balenas_plugin.search.Host` says of the optimizer of its weights."""

    @property
    def weight_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""

    def clip_gradients(self) -> None:
        """Clip the gradients of the weights as the weight step does."""


class Perturbation(ABC):
    """Perturbs the mixing weights that the network's weights are trained at.

    Args:
        seed: of the noise.

    A member defines `perturb`, or `around`.
    """

    name: ClassVar[str]
    """By which options and files call it."""

    source: ClassVar[str]
    """Author, year."""

    def __init__(self, *, seed: int = 0) -> None:
        self.noise = SeededNoise(seed)

    @property
    def perturbs(self) -> bool:
        """Whether it defines `perturb`, which acts in weight steps alone."""
        return type(self).perturb is not Perturbation.perturb

    def perturb(self, weights: Tensor, kept: Tensor, evaluate: Evaluate) -> Tensor:
        """Return the weights to train at; each row on the simplex, and 0 where `kept` is False.

        Args:
            weights: a row a label, shape (E, K); rows of labels with less than K choices are filled up with 0.
            kept: shape (E, K), False for choices that were dropped and for what fills rows up.
            evaluate: the loss that the weight step is about to lower, as a function of the weights.
        """
        return weights

    def around(
        self, distribution: Distribution, network: Trained, levels: Collection[Level]
    ) -> AbstractContextManager[None]:
        """Surround a step: what changes in the distribution for as long is what draws, mean and update see.

        Args:
            distribution: that is learned.
            network: whose weights are trained.
            levels: which of the two the step updates.
        """
        return nullcontext()

    def set_parameterised(self, parameterised: Mapping[str, Sequence[bool]]) -> None:  # noqa: B027  # few ask
        """Say which candidates have weights: label -> one entry a candidate; labels of other choices are missing."""

    def new_epoch(self, epoch: int, epochs: int) -> None:  # noqa: B027  # not all change with the epochs
        """Say which epoch of how many begins, from 0."""

    @property
    def cost(self) -> float:
        """Roughly what `perturb` takes, in weight steps."""
        return 0.0

    def __call__(
        self, weights: _ByLabel, mask: _ByLabel, evaluate: Callable[[_ByLabel, bool], tuple[Tensor, _ByLabel]]
    ) -> dict[str, Tensor]:
        """Return label -> perturbed weights, shape (K,).

        Args:
            weights: label -> weights, shape (K,).
            mask: label -> which choices are kept, shape (K,).
            evaluate: as of `perturb`, by label.
        """

        def by_label(rows: Tensor) -> dict[str, Tensor]:
            return {label: row[: len(weights[label])] for label, row in zip(weights, rows, strict=True)}

        def as_rows(values: _ByLabel) -> Tensor:
            return pad_sequence([values[label] for label in weights], batch_first=True)

        def evaluate_rows(rows: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
            loss, found = evaluate(by_label(rows), gradient)
            return loss, as_rows(found)

        with torch.no_grad():
            clean = as_rows({label: w.detach() for label, w in weights.items()})
            return by_label(self.perturb(clean, as_rows(mask), evaluate_rows))

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes, with the name."""
        return {"name": self.name, "noise": self.noise.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        self.noise.load_state_dict(state["noise"])


def onto_simplex(weights: Tensor, kept: Tensor) -> Tensor:
    """Return weights clamped to [0, 1] and divided by the sum of their row, as SDARTS's reference does.

    This is not the Euclidean projection. A row without a positive weight becomes one-hot at its largest.

    Args:
        weights: a row a label, shape (E, K).
        kept: shape (E, K); others become 0.
    """
    allowed = weights.masked_fill(~kept, -torch.inf)
    clamped = allowed.clamp(0, 1)
    largest = torch.zeros_like(weights).scatter_(-1, allowed.argmax(-1, keepdim=True), 1)
    clamped = torch.where(clamped.sum(-1, keepdim=True) > 0, clamped, largest)
    return clamped / clamped.sum(-1, keepdim=True)
