"""A training of an image classifier as a Lightning module, and the loaders that it is given."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, Sampler
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from balenas_plugin.data import DeviceLoader, ImageSet, collate
from balenas_plugin.data.device_loader import unfit_for_device
from balenas_plugin.errors import OptionError
from balenas_plugin.training.checkpoints import unlogged
from balenas_plugin.training.epochs import require_finite
from balenas_plugin.training.optimizers import optimizer_factory, scheduled
from balenas_plugin.training.recipe import Recipe
from balenas_plugin.training.training_data import TrainingData

TOP = 5

_LOGGED, _VALIDATED = ("train_loss", "train_acc", "lr"), "val_acc"
"""What is logged of each epoch, and what besides where images validate."""


class ImageTraining(pl.LightningModule):
    """Train a network by a recipe: cross-entropy, that of the auxiliary head where there is one, the learning rate.

    A network may return (logits, auxiliary logits) in training mode, and have `new_epoch(epoch, epochs)`.

    Args:
        network: maps images ``(N, 3, H, W)`` to logits ``(N, num_classes)``.
        recipe: how.
        num_classes: of the labels.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, *, num_classes: int) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe
        self._make_optimizer = optimizer_factory(recipe.optimizer, "optimizer")
        self._sums = torch.zeros(3)  # loss, right answers and images of an epoch: on the device, read once
        # Each process tests all images, so that none counts twice: nothing is to be joined.
        alone: dict[str, Any] = {"num_classes": num_classes, "sync_on_compute": False}
        self.accuracy = MulticlassAccuracy(average="micro", **alone)
        self.top5 = MulticlassAccuracy(average="micro", top_k=min(TOP, num_classes), **alone)
        self.confusion = MulticlassConfusionMatrix(**alone)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.network(images)
        return logits

    def on_train_epoch_start(self) -> None:
        """Tell the network which epoch begins: paths are dropped more and more often."""
        new_epoch = getattr(self.network, "new_epoch", None)
        if callable(new_epoch):
            new_epoch(self.current_epoch, self.recipe.epochs)
        self._sums = torch.zeros(3, device=self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        outputs = self.network(images)
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        smoothing = self.recipe.label_smoothing
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        with torch.no_grad():
            right = (logits.argmax(1) == labels).sum()
            self._sums += torch.stack([loss.detach() * len(labels), right, right.new_tensor(len(labels))])
            if self.trainer.is_last_batch:
                self._log_epoch()
        for other in auxiliary:
            loss = loss + self.recipe.auxiliary * F.cross_entropy(other, labels, label_smoothing=smoothing)
        return loss

    def _log_epoch(self) -> None:
        """Log the mean loss, the accuracy and the last learning rate of the epoch, once: each call takes its time."""
        total, right, images = self._sums
        require_finite(total, self.current_epoch)
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        found = (total / images, right / images, optimizer.param_groups[0]["lr"])
        self.log_dict(
            dict(zip(_LOGGED, found, strict=True)), on_step=False, on_epoch=True, sync_dist=True, batch_size=1
        )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count what the network knows of a batch."""
        images, labels = batch
        self.accuracy.update(self(images), labels)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy."""
        self.log(_VALIDATED, self.accuracy.compute())
        self.accuracy.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count what the network knows of a batch, and what it takes for what."""
        images, labels = batch
        logits = self(images).float()
        for metric in (self.accuracy, self.top5, self.confusion):
            metric.update(logits, labels)

    def configure_optimizers(self) -> Any:
        """Return the optimizer, with the recipe's learning rate for every step."""
        return scheduled(self, self._make_optimizer, self.recipe)


def require_logged(monitor: str, *, validates: bool) -> None:
    """Refuse to stop early by what no epoch logs.

    Raises:
        OptionError: it is not logged.
    """
    if monitor == _VALIDATED and not validates:
        raise OptionError(
            f"early_stopping watches {monitor}, and no images validate: set validation to their share, such as 0.1, or "
            "early_stopping to null"
        )
    logged = (*_LOGGED, _VALIDATED) if validates else _LOGGED
    if monitor not in logged:
        raise OptionError(unlogged(monitor, logged))


class TrainingLoaders(pl.LightningDataModule):
    """The loaders of a training: on the device where the images fit there, else with worker processes.

    Args:
        data: as the recipe has them.
        batch_size: images per batch and process.
        seed: of orders and augmentation, where the images are on the device; else torch's global generator is used.
        num_workers: processes that load images; with none, images in memory are kept on the device.
    """

    def __init__(self, data: TrainingData, *, batch_size: int, seed: int, num_workers: int = 0) -> None:
        super().__init__()
        self.data, self.batch_size, self.seed, self.num_workers = data, batch_size, seed, num_workers

    def train_dataloader(self) -> Any:
        """Return that of the training images, shuffled; several processes share them."""
        return self._loader(self.data.training, training=True)

    def val_dataloader(self) -> Any:
        """Return that of the validation images."""
        return [] if self.data.validation is None else self._loader(self.data.validation, training=False)

    def test_dataloader(self) -> Any:
        """Return that of the test images."""
        return self._loader(self.data.test, training=False)

    def _loader(self, images: ImageSet, *, training: bool) -> Any:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        if not self.num_workers and unfit_for_device(images, device) is None:
            options: dict[str, Any] = {"batch_size": self.batch_size, "seed": self.seed, "device": device}
            return DeviceLoader(images, shuffle=training, shared=training, **options)
        sampler: Sampler[int] | None = RandomSampler(images) if training else None
        if training and self.trainer.world_size > 1:
            sampler = DistributedSampler(images, seed=self.seed)
        return DataLoader(
            images,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
        )
