"""Image classification as an NNI evaluator module: NNI's own has neither momentum nor a schedule."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import nni
import torch
import torch.nn.functional as F
from nni.nas.evaluator.pytorch import LightningModule
from torch import Tensor

from balenas_plugin.errors import OptionError, SpaceError


class SupernetModule(LightningModule):
    """What trains a supernet, whatever for: its optimizer and schedule, and what NNI is told of it.

    Args:
        make_optimizer: parameters -> optimizer of the weights.
        schedule: {"name": "cosine", "min_lr": ...} over the trainer's epochs, or {"name": "constant"}.
        num_classes: checked against the network's output.
    """

    reported: Mapping[str, float] = {}
    """Names of metrics, of which the first that is there is NNI's result, times this sign: more is better for NNI."""

    def __init__(
        self, *, make_optimizer: Callable[[Any], torch.optim.Optimizer], schedule: dict[str, Any], num_classes: int
    ) -> None:
        super().__init__()
        self.make_optimizer = make_optimizer
        self.schedule = schedule
        self.num_classes = num_classes

    def configure_optimizers(self) -> Any:
        """Return the weight optimizer and, for "cosine", its schedule (one step an epoch)."""
        optimizer = self.make_optimizer(self.parameters())
        if self.schedule["name"] == "constant":
            return optimizer
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=self.trainer.max_epochs, eta_min=self.schedule.get("min_lr", 0.0)
        )
        return [optimizer], [cosine]

    def on_validation_epoch_end(self) -> None:
        """Report the epoch to NNI as an intermediate result."""
        if nni.get_current_parameter() is not None and not self.trainer.sanity_checking:
            self._report(nni.report_intermediate_result)

    def on_fit_end(self) -> None:
        """Report the last epoch to NNI as the final result."""
        if nni.get_current_parameter() is not None:
            self._report(nni.report_final_result)

    def _report(self, report: Callable[[float], None]) -> None:
        metrics = self.trainer.callback_metrics
        for name, sign in self.reported.items():
            if name in metrics:  # none is if training ended before its first epoch
                return report(sign * float(metrics[name]))
        return None


class ClassificationModule(SupernetModule):
    """Cross-entropy and accuracy, averaged over each epoch."""

    reported = {"val_acc": 1, "train_acc": 1}  # noqa: RUF012

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (batch, classes).

        Raises:
            SpaceError: the network cannot take these images.
        """
        try:
            return self.model(images)
        except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise SpaceError(
                f"the network of {type(self.model).__name__} fails on images of shape {tuple(images.shape)}: {error} "
                f"({place.filename}, line {place.lineno}). Check the options of the space, and data.image_size."
            ) from error

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of the batch."""
        return self._evaluate(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the mean cross-entropy and the accuracy of the batch."""
        self._evaluate(batch, "val")

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        images, labels = batch
        logits = self(images)
        if logits.shape[1] < self.num_classes:
            raise OptionError(
                f"the network has {logits.shape[1]} outputs but the data has {self.num_classes} classes: set the "
                "space's number of classes (num_labels in NNI's hub) to it"
            )
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        reward = stage == "val" and self.trainer.training  # NNI's ENAS validates inside its training step
        self.log(f"{stage}_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        self.log(f"{stage}_acc", accuracy, on_step=reward, on_epoch=True, batch_size=len(labels))
        return loss
