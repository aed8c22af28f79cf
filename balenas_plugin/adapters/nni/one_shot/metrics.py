"""Keep what is no weight step out of the user's logs, torchmetrics objects and modules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.supermodule.differentiable import GumbelSoftmax
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.trainer.states import RunningStage
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torchmetrics import Metric

from balenas_plugin.adapters.nni.one_shot.evaluator_hooks import call_step
from balenas_plugin.adapters.nni.one_shot.losses import NoLossError, loss_of
from balenas_plugin.restoring import modes_restored, untouched


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


@contextmanager
def undisturbed(module: BaseOneShotLightningModule, *, seed: int) -> Iterator[None]:
    """Leave everything in a search after the block as it was before it, see `untouched`, and its logs and metrics too.

    Gumbel noise is off inside, so GumbelDARTS is looked at where DARTS is: at the softmax.

    Args:
        module: of the search.
        seed: of torch's generators inside the block.
    """
    inner, trainer = module.training_module, module._trainer
    with ExitStack() as stack:
        if trainer is not None and trainer.loggers:
            stack.callback(setattr, trainer, "loggers", trainer.loggers)
            trainer.loggers = [DummyLogger()]
        stack.enter_context(untouched(module, seed=seed, besides=(pl.Trainer,)))
        stack.enter_context(Metrics(inner).aside())
        stack.enter_context(torch.enable_grad())
        for part in module.modules():
            if isinstance(getattr(part, "_softmax", None), GumbelSoftmax):
                part._softmax = nn.Softmax(-1)
        inner.log = inner.log_dict = _ignore
        yield


def trial_steps(module: Any, batch: Any) -> list[Callable[[], object]]:
    """Return what a search does with a batch, to try it: it leaves traces.

    Args:
        module: the `DistributionModule` of the search.
        batch: ``{"train": ..., "val": ...}``.
    """

    def evaluate() -> None:
        with suppress(NoLossError):
            try:
                with torch.no_grad():  # all candidates run, which a search that draws one has no memory for
                    module.silent_loss(batch["val"], 0)
            except Exception:  # a training_step that takes gradients itself, or a failure, which then comes again
                module.silent_loss(batch["val"], 0)

    inner = module.training_module
    validates = is_overridden("validation_step", inner, parent=LightningModule)
    validated = validates and module.options.validate_every_n_epochs > 0
    return [evaluate, *([lambda: try_validation(inner, batch["val"])] if validated else [])]


def try_validation(module: LightningModule, batch: Any) -> None:
    """Run a module's validation_step as in Lightning's sanity check before a training, inside of `undisturbed`.

    Args:
        module: the evaluator's.
        batch: of the validation loader.
    """
    loaders = module.trainer.val_dataloaders
    several = [0] if isinstance(loaders, list | tuple | dict) and len(loaders) > 1 else []  # dataloader_idx
    state = module.trainer.state
    with ExitStack() as stack:
        stack.callback(setattr, state, "stage", state.stage)
        stack.enter_context(modes_restored(module))
        stack.enter_context(torch.no_grad())
        state.stage = RunningStage.SANITY_CHECKING
        module.eval()
        try:
            call_step(module.validation_step, batch, 0, *several)
        except Exception:  # it may need what is made ready for it before an epoch
            module.on_validation_epoch_start()
            call_step(module.validation_step, batch, 0, *several)


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Take the place of Lightning's `log` where nothing is to be logged."""
