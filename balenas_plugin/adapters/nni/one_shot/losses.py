"""The loss of an evaluator's training_step, as it is or without a trace in the user's logs and torchmetrics objects."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nni.nas.evaluator.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from balenas_plugin.adapters.nni.one_shot.evaluator_hooks import call_step
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


class Metrics:
    """The metric objects in a module, and a spare of each.

    Args:
        module: the evaluator's module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places = [
            (parent, name, copy.deepcopy(metric))
            for parent in module.modules()
            for name, metric in parent.named_children()
            if isinstance(metric, Metric)
        ]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Put the spares in the metrics' places inside the block."""
        before = [parent._modules[name] for parent, name, _ in self._places]  # spares of others, in a block of theirs
        for parent, name, spare in self._places:
            parent._modules[name] = spare
        try:
            yield
        finally:
            for (parent, name, _), metric in zip(self._places, before, strict=True):
                parent._modules[name] = metric


def silent_loss(module: LightningModule, metrics: Metrics, batch: Any, batch_idx: int) -> Tensor:
    """Return the loss of the user's training_step without its logging and metrics, which belong to the weight step.

    Args:
        module: the evaluator's.
        metrics: of the module.
        batch: a batch of the data.
        batch_idx: its number.

    Raises:
        NoLossError: it returned None.
    """
    log, module.log = module.log, _ignore
    try:
        with metrics.aside():
            return loss_of(call_step(module.training_step, batch, batch_idx))
    finally:
        module.log = log


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Take the place of Lightning's `log` where nothing is to be logged."""
