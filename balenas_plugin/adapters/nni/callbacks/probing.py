"""Look at a supernet in the middle of a search without leaving a trace: curvature, and accuracy at the mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from nni.nas.oneshot.pytorch.supermodule.proxyless import (
    ProxylessMixedInput,
    ProxylessMixedLayer,
    ProxylessMixedRepeat,
)
from torch import Tensor

from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule
from balenas_plugin.adapters.nni.one_shot.evaluator_hooks import call_step
from balenas_plugin.adapters.nni.one_shot.metrics import undisturbed
from balenas_plugin.adapters.nni.supernets.by_position import batches_at, positions_of
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.diagnostics import Curvature, measure_curvature
from balenas_plugin.diagnostics.curvature import EXACT_UP_TO
from balenas_plugin.errors import EvaluatorError

_PATHS = (ProxylessMixedInput, ProxylessMixedLayer, ProxylessMixedRepeat)
_EXACT_UP_TO = {"auto": EXACT_UP_TO, "exact": 10**9, "lanczos": 0}


def validation_loader(trainer: pl.Trainer) -> Any:
    """Return the loader of the architecture half, however the strategy has packed it; None if there is none."""
    given = trainer.train_dataloader
    if isinstance(given, Mapping) and "val" in given:
        return given["val"]
    others = trainer.val_dataloaders
    return others[0] if isinstance(others, list | tuple) and others else others


def fixed_batches(loader: Any, trainer: pl.Trainer) -> Iterator[Any]:
    """Yield the loader's data in the order of its set, the same every time, on the search's device.

    Raises:
        EvaluatorError: the loader shows no data set that can be read by position.
    """
    for batch in batches_at(loader, positions_of(loader, "validation")):
        yield as_searched(batch, trainer)


def as_searched(batch: Any, trainer: pl.Trainer) -> Any:
    """Return a batch as the steps of a search see it: on the device, and past the evaluator's transfer hooks."""
    batch = trainer.precision_plugin.convert_input(batch)
    return trainer.strategy.batch_to_device(trainer.lightning_module._on_before_batch_transfer(batch))


def curvature_of(
    module: BaseOneShotLightningModule, trainer: pl.Trainer, *, method: str, num_batches: int, seed: int
) -> Curvature:
    """Return the curvature of the validation loss at the mean, in training mode, as the architecture step sees it.

    Raises:
        EvaluatorError: the search has no logits that a loss depends on smoothly, or no fixed data.
        RuntimeError: the network cannot be evaluated here, e.g. for lack of memory.
    """
    alphas = list(architecture_parameters(module.model).values())
    paths = any(isinstance(part, _PATHS) for part in module.modules())
    learns = not isinstance(module, DistributionModule) or module.distribution.learns
    if not isinstance(module, DartsLightningModule) or not alphas or paths or not learns:
        raise EvaluatorError("the strategy samples paths, so its loss has no second derivative in the logits")
    with undisturbed(module, seed=seed):
        batches = list(islice(fixed_batches(validation_loader(trainer), trainer), num_batches))
        module.train()
        module.requires_grad_(False)
        for alpha in alphas:
            alpha.requires_grad_(True)
        losses = [_loss(module, batch, seed) for batch in batches]
        return measure_curvature(losses, alphas, exact_up_to=_EXACT_UP_TO[method], seed=seed)


def _loss(module: BaseOneShotLightningModule, batch: Any, seed: int) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        torch.manual_seed(seed)  # the same dropout whenever it is asked
        outputs = call_step(module.training_module.training_step, batch, 0)
        value = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise EvaluatorError("training_step returns no scalar loss")
        return value

    return loss


def accuracy_at(
    module: BaseOneShotLightningModule, trainer: pl.Trainer, architecture: Architecture | None, *, seed: int
) -> float | None:
    """Return the accuracy, from 0 to 1, on the whole validation set, in evaluation mode; None if it is no classifier.

    Args:
        module: of a differentiable strategy.
        trainer: of the search.
        architecture: the path that strategies which sample paths (Proxyless) are evaluated on; others are at the mean.
        seed: of whatever is random in the data.
    """
    right = count = 0
    with undisturbed(module, seed=seed), torch.no_grad():
        module.eval()
        _set_path(list(module.supernet_modules()), architecture)
        for batch in fixed_batches(validation_loader(trainer), trainer):
            if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(b, Tensor) for b in batch)):
                return None
            images, labels = batch
            scores = module.training_module(images)
            classes = isinstance(scores, Tensor) and scores.ndim == 2 and labels.shape == scores.shape[:1]
            if not classes or labels.is_floating_point():
                return None
            right += int((scores.argmax(1) == labels).sum())
            count += len(labels)
    return right / count if count else None


def _set_path(parts: Sequence[Any], architecture: Architecture | None) -> None:
    memo = dict(architecture or {})
    for part in parts:
        if isinstance(part, _PATHS) and architecture is not None:
            part.resample(memo=memo)  # takes what memo says, and draws nothing
