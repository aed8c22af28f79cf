"""What an evaluator's training_step returns."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from balenas_plugin.errors import EvaluatorError


def loss_of(outputs: Any) -> Tensor:
    """Return the loss that a training_step returned, as it is or under "loss".

    Raises:
        EvaluatorError: it returned something else.
    """
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise EvaluatorError(f"training_step must return a scalar loss or a dict with it under 'loss', got {outputs!r}")
    return loss
