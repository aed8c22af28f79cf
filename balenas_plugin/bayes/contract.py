"""What decisions, and those who enumerate and rank their outcomes, know of each other and of what was learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from balenas_plugin.bayes.laws import Law
from balenas_plugin.bayes.ranking import Outcome, Outcomes

Sample = dict[str, Any]
"""An architecture, in NNI's notation: label -> what was chosen."""

Logits = Mapping[str, Tensor]
"""label -> scores of the candidates, shape (K,): a draw from the posterior, or those that it ranks by."""


class Learned(Protocol):
    """What decisions ask a `Posterior`."""

    laws: dict[str, Law]
    scores: dict[str, Tensor]

    def sample(self, noise: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return one draw of the scores."""

    def draws(self, labels: Sequence[str], count: int) -> dict[str, Tensor]:
        """Return the scores of some labels in many draws."""


class Decision(Protocol):
    """One independent decision of the architecture."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the logits that decide."""

    def choose(self, logits: Logits) -> Outcome:
        """Return what these logits decide."""

    def outcomes(self, posterior: Learned) -> Outcomes:
        """Return the outcomes with their log-probabilities."""

    def to_sample(self, outcome: Outcome, posterior: Learned) -> Sample:
        """Return the part of NNI's sample that this outcome stands for."""

    def from_sample(self, sample: Sample) -> Outcome:
        """Return the outcome that an NNI sample stands for."""
