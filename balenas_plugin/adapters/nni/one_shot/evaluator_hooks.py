"""The hooks of an evaluator's Lightning module and datamodule: which a search calls for it, and which it refuses."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import pytorch_lightning as pl
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from pytorch_lightning.core.hooks import CheckpointHooks, DataHooks, ModelHooks
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature

from balenas_plugin.errors import EvaluatorError

TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""Hooks on the way of a batch to the device, of the module or the datamodule."""

_OF_OPTIMISATION = (
    "backward",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "optimizer_step",
    "optimizer_zero_grad",
)

HOOKS = (
    *(
        name
        for hooks in (ModelHooks, DataHooks, CheckpointHooks)
        for name, value in vars(hooks).items()
        if inspect.isfunction(value) and not name.startswith("_") and not name.endswith("_dataloader")
    ),
    *_OF_OPTIMISATION,
)
"""What Lightning's Trainer calls on a module while it fits, but the steps, the loaders and what a search extends."""

REFUSED = {
    "log": "during a search, what the module logs goes through the search's own log",
    "training_epoch_end": "Lightning no longer calls it: use on_train_epoch_end",
    "validation_epoch_end": "Lightning no longer calls it: use on_validation_epoch_end",
}
"""Methods that a module must not define, and why."""


CALLBACKS = {
    GradientAccumulationScheduler: "give the trainer accumulate_grad_batches instead",
    StochasticWeightAveraging: "it would average the architecture's parameters and change their learning rate too",
    LearningRateFinder: "it would search while it tries learning rates; find one with the Trainer before",
    BatchSizeFinder: "it would search while it tries batch sizes; find one with the Trainer before",
}
"""Lightning's callbacks that a search cannot run, and why."""


def follow(module: BaseOneShotLightningModule) -> None:
    """Give a one-shot module every hook that the evaluator's module overrides and its own class does not.

    Lightning asks a module whether it overrides a hook, so what the evaluator leaves alone stays Lightning's own.
    """
    theirs = module.training_module
    for name in HOOKS:
        if is_overridden(name, theirs) and not is_overridden(name, module):
            hook = getattr(theirs, name)
            setattr(module, name, partial(_on_halves, module, hook) if name in TRANSFERS else hook)


def follow_datamodule(module: BaseOneShotLightningModule, datamodule: pl.LightningDataModule | None) -> None:
    """Let the datamodule's own transfer hooks see one batch at a time, as in plain Lightning."""
    for name in TRANSFERS:
        if datamodule is not None and is_overridden(name, datamodule):
            setattr(datamodule, name, partial(_on_halves, module, getattr(datamodule, name)))


def _on_halves(module: BaseOneShotLightningModule, hook: Callable[..., Any], batch: Any, *args: Any, **kw: Any) -> Any:
    """Call a transfer hook, for each half of a search's batch of its own."""
    if module.trainer.training and isinstance(batch, dict) and batch.keys() == {"train", "val"}:
        return {half: hook(part, *args, **kw) for half, part in batch.items()}
    return hook(batch, *args, **kw)


def call_step(step: Callable[..., Any], batch: Any, batch_idx: int, *more: Any) -> Any:
    """Call a training_step or validation_step, which may leave out the number of the batch."""
    return step(batch, batch_idx, *more) if _takes_number(getattr(step, "__func__", step)) else step(batch, *more)


@lru_cache(maxsize=16)
def _takes_number(step: Callable[..., Any]) -> bool:
    return is_param_in_hook_signature(step, "batch_idx", min_args=2)


def architecture_loader(loaders: Any) -> Any:
    """Return the validation loader that the architecture is learned on: of several, the first.

    Raises:
        EvaluatorError: it is a CombinedLoader, whose batches come with numbers in a way of its own.
    """
    while isinstance(loaders, list | tuple | dict) and loaders:
        loaders = next(iter(loaders.values())) if isinstance(loaders, dict) else loaders[0]
    _require_no_combined_loader(loaders)
    return loaders


def _require_no_combined_loader(loader: Any) -> None:
    if isinstance(loader, CombinedLoader):
        raise EvaluatorError("a search combines loaders itself: give a list or a dict of loaders, not a CombinedLoader")


def require_contract(evaluator: Lightning) -> None:
    """Raise unless a search can call the evaluator as Lightning would.

    Raises:
        EvaluatorError: a loader is missing, or the module or the data use something that only plain Lightning can
            serve; it is named.
    """
    if evaluator.datamodule is None:
        given = {"train_dataloaders": evaluator.train_dataloaders, "val_dataloaders": evaluator.val_dataloaders}
        missing = [name for name, loader in given.items() if loader is None]
        if missing:
            raise EvaluatorError(
                f"the evaluator has no {' and no '.join(missing)}: a search needs one loader for the weights "
                "(train_dataloaders) and one for the architecture (val_dataloaders), or a datamodule with both; the "
                "module's own train_dataloader and val_dataloader are not asked"
            )
    module = evaluator.module
    name = type(module).__name__
    if not module.automatic_optimization:
        raise EvaluatorError(
            f"{name} sets automatic_optimization to False, but a search runs the weight step itself: let training_step "
            "return the loss and leave backward and optimizers to it"
        )
    for hook, why in REFUSED.items():
        if is_overridden(hook, module) if hasattr(pl.LightningModule, hook) else hasattr(module, hook):
            raise EvaluatorError(f"{name} defines {hook}, which a search cannot call: {why}")
    for callback in evaluator.trainer.callbacks:
        for refused, why in CALLBACKS.items():
            if isinstance(callback, refused):
                raise EvaluatorError(
                    f"the trainer has the callback {refused.__name__}, which a search cannot run: {why}"
                )
    for step in (module.training_step, module.validation_step):
        if is_param_in_hook_signature(step, "dataloader_iter", explicit=True):
            raise EvaluatorError(f"{name}.{step.__name__} takes dataloader_iter; a search calls it with a batch")
    for loaders in (evaluator.train_dataloaders, evaluator.val_dataloaders):
        _require_no_combined_loader(loaders)
    several = isinstance(evaluator.val_dataloaders, list | tuple | dict) and len(evaluator.val_dataloaders) > 1
    if several and not is_param_in_hook_signature(module.validation_step, "dataloader_idx"):
        raise EvaluatorError(
            f"the evaluator has {len(evaluator.val_dataloaders)} val_dataloaders, but {name}.validation_step takes no "
            "dataloader_idx: add dataloader_idx=0 to its arguments"
        )
