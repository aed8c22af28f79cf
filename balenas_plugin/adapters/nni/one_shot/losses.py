"""What an evaluator's training_step returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from balenas_plugin.errors import EvaluatorError
from balenas_plugin.search import SkippedStep


class NoLossError(SkippedStep):
    """A training_step returned None: such a step is left out, as in Lightning."""


def loss_of(outputs: Any) -> Tensor:
    """Return the loss that a training_step returned, as it is or under "loss".

    Raises:
        NoLossError: it returned None.
        EvaluatorError: it returned something else.
    """
    if outputs is None:
        raise NoLossError
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise EvaluatorError(f"training_step must return a scalar loss or a dict with it under 'loss', got {outputs!r}")
    return loss
