"""One iteration of a search in NNI, as Algorithm 1 sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.adapters.nni.one_shot.loaders import number_in_batch, split_batch
from balenas_plugin.adapters.nni.one_shot.losses import NoLossError, loss_of
from balenas_plugin.bayes.architect import VirtualStep
from balenas_plugin.distributions import Draw
from balenas_plugin.errors import EvaluatorError, OptionError
from balenas_plugin.restoring import modes_restored, restored
from balenas_plugin.selection.supernet_accuracy import number_right


class NniHost:
    """The supernet and the batches of one iteration (a `Host`).

    Args:
        module: the `DistributionModule` of the search.
        batch: ``{"train": ..., "val": ...}``.
        batch_idx: its number in the epoch.
    """

    def __init__(self, module: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self.module, self.batch, self.batch_idx = module, batch, batch_idx
        self.outputs: Any = None
        """What the evaluator's training_step returned in the weight step."""
        self._parts: dict[str, list[Any]] = {}

    @property
    def network_weights(self) -> Sequence[Tensor]:
        """The network's weights that are trained."""
        return self.module.network_weights

    @property
    def iterations(self) -> int | None:
        """How many the epoch has; None if a loader has no length."""
        batches = self.module.trainer.num_training_batches
        return int(batches) if math.isfinite(batches) else None

    def begin(self) -> None:
        """Resample modules that need it."""
        self.module.resample()

    @contextmanager
    def mixing(self, draw: Draw) -> Iterator[None]:
        """Let every mixed module use the weights of a draw; a parameter that one reads itself holds the logits."""
        read = self.module.read_directly
        learned = self.module.distribution
        with self.module.mixing.using(draw, learned.parameters, learned.kept), restored(list(read.values())):
            with torch.no_grad():
                for label in read.keys() & draw.logits.keys():
                    read[label].copy_(draw.logits[label])
            yield

    def of_draw(self, level: str, k: int) -> Any:
        """Return what the k-th of M draws sees of a batch."""
        if level not in self._parts:
            draws, batch = self.module.distribution.num_mc_samples, self.batch[level]
            split = self.module.options.mc_batches == "split"
            self._parts[level] = split_batch(batch, draws, self._examples(level)) if split else [batch] * draws
        return self._parts[level][k]

    def _examples(self, level: str) -> int | None:
        """Return how many examples the batch has, None if that is not known: an epoch's first is a whole one."""
        alone = self.batch_idx == 0 and not self.module.ranks.several
        return getattr(self.module.trainer.train_dataloader[level], "batch_size", None) if alone else None

    def validation_loss(self, k: int) -> Tensor:
        """Return the loss of the architecture batch."""
        with self._skippable():
            return self.module.validation_loss(self.of_draw("val", k), self.batch_idx)

    def validation_accuracy(self, k: int) -> Tensor:
        """Return the share of the architecture batch that is classified rightly.

        Raises:
            EvaluatorError: it is not (images, numbers of classes).
        """
        match self.of_draw("val", k):
            case [Tensor() as images, Tensor() as labels] if labels.ndim == 1 and not labels.is_floating_point():
                return number_right(self.module.model(images), labels) / len(labels)
        raise EvaluatorError(
            f"{self.module.method} learns from accuracies, so it needs validation batches (images, numbers of classes)"
        )

    def training_loss(self, k: int | None) -> Tensor:
        """Return the loss of the weight batch, without a step."""
        batch = self.batch["train"] if k is None else self.of_draw("train", k)
        with self._skippable():
            return self.module.silent_loss(batch, 2 * self.batch_idx + 1)

    @contextmanager
    def _skippable(self) -> Iterator[None]:
        try:
            yield
        except NoLossError as error:
            self.module.require_skippable(error)
            raise

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the evaluator's module, and with it the supernet, into evaluation mode inside the block."""
        with modes_restored(self.module.training_module):
            self.module.training_module.eval()
            yield

    def examples(self) -> int:
        """Return the size of the validation batch, over all processes.

        Raises:
            EvaluatorError: its tensors do not agree on it.
        """
        found = number_in_batch(self.batch["val"])
        if found is None:
            raise EvaluatorError(
                f"{self.module.method} multiplies the likelihoods of a batch's examples, so it needs batches whose "
                "tensors all have the examples as first dimension"
            )
        return found * int(self.module.trainer.world_size)

    def step_weights(self, clipped_with: Callable[[], list[Tensor]]) -> Tensor | None:
        """Train the weights as Lightning does."""
        self.outputs = self.module.weight_step(
            self.batch["train"],
            self.batch_idx,
            lambda loss: self.module.require_finite(loss, "weight"),
            clipped_with,
        )
        return None if self.outputs is None else loss_of(self.outputs).detach()

    @property
    def weight_optimizer(self) -> torch.optim.Optimizer:
        """The evaluator's optimizer itself, not Lightning's around it.

        Raises:
            OptionError: it makes no step a batch.
        """
        if self.module.trainer.accumulate_grad_batches != 1:
            raise OptionError("partial_decay belongs to the step of a batch, so accumulate_grad_batches must be 1")
        optimizer: torch.optim.Optimizer = self.module.weight_optimizers().optimizer
        return optimizer

    def clip_gradients(self) -> None:
        """Clip as the weight step does, without the evaluator's hooks."""
        self.module.clip_weights(self.weight_optimizer)

    def virtual_step(self) -> VirtualStep:
        """Return the next step of the evaluator's optimizer."""
        own = [o for o in self.module.trainer.optimizers if o is not self.module.distribution.optimizer]
        return virtual_step(own, self.network_weights)

    def average(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Return means over the processes."""
        return self.module.ranks.present_averages(tensors, like)


def virtual_step(optimizers: Sequence[torch.optim.Optimizer], weights: Sequence[Tensor]) -> VirtualStep:
    """Return the weight optimizer's next step as one of SGD; its momentum counts if it has one.

    Args:
        optimizers: of the weights; there must be one.
        weights: in the order in which the step is wanted.

    Raises:
        EvaluatorError: there are several optimizers, or one with several learning rates.
    """
    if len(optimizers) != 1:
        raise EvaluatorError(
            f'order="second" unrolls one step of the weight optimizer, but the evaluator has {len(optimizers)}. '
            'Use one, or order="first".'
        )
    (optimizer,) = optimizers
    groups = optimizer.param_groups
    for name in ("lr", "momentum", "weight_decay"):
        if len({group.get(name, 0.0) for group in groups}) > 1:
            raise EvaluatorError(
                f'order="second" unrolls one weight step with one {name}, but the parameter groups of the '
                f'evaluator\'s optimizer have several. Use one, or order="first".'
            )
    return VirtualStep(
        lr=groups[0]["lr"],
        momentum=groups[0].get("momentum", 0.0),
        weight_decay=groups[0].get("weight_decay", 0.0),
        momentum_buffers=[optimizer.state[w].get("momentum_buffer") for w in weights],
    )
