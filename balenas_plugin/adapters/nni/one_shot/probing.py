"""Look at a supernet in the middle of a search without leaving a trace: curvature, and accuracy at the mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from nni.nas.oneshot.pytorch.supermodule.differentiable import GumbelSoftmax
from nni.nas.oneshot.pytorch.supermodule.proxyless import (
    ProxylessMixedInput,
    ProxylessMixedLayer,
    ProxylessMixedRepeat,
)
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.trainer.states import RunningStage
from torch import Tensor, nn

from balenas_plugin.adapters.nni.callbacks.checkpoint import random_states, set_random_states
from balenas_plugin.adapters.nni.one_shot.evaluator_hooks import call_step
from balenas_plugin.adapters.nni.one_shot.kept_state import attributes_kept
from balenas_plugin.adapters.nni.one_shot.losses import Metrics
from balenas_plugin.adapters.nni.supernets.by_position import batches_at, positions_of
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.bayes.decisions import Sample
from balenas_plugin.diagnostics import Curvature, measure_curvature
from balenas_plugin.diagnostics.curvature import EXACT_UP_TO
from balenas_plugin.errors import EvaluatorError

_PATHS = (ProxylessMixedInput, ProxylessMixedLayer, ProxylessMixedRepeat)
_EXACT_UP_TO = {"auto": EXACT_UP_TO, "exact": 10**9, "lanczos": 0}


@contextmanager
def undisturbed(module: BaseOneShotLightningModule, *, seed: int) -> Iterator[None]:
    """Leave everything in the search after the block as it was before it.

    Kept: random generators (inside, they begin with `seed`), buffers (batch-norm statistics), training or evaluation
    mode, which parameters have gradients, metrics, the log, what loggers are given, and what the user's modules keep in
    attributes. Gradients are not touched: the block must not call `backward`. Gumbel noise is off inside, so
    GumbelDARTS is looked at where DARTS is: at the softmax.
    """
    inner, trainer = module.training_module, module._trainer
    states = random_states()
    learned = {parameter: parameter.requires_grad for parameter in module.parameters()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    loggers = [] if trainer is None else trainer.loggers
    try:
        torch.manual_seed(seed)
        with attributes_kept(module), Metrics(inner).aside(), torch.enable_grad():
            for part in module.modules():
                if isinstance(getattr(part, "_softmax", None), GumbelSoftmax):
                    part._softmax = nn.Softmax(-1)
            inner.log = inner.log_dict = _ignore
            if loggers:
                trainer.loggers = [DummyLogger()]
            yield
    finally:
        if loggers:
            trainer.loggers = loggers
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for parameter, requires_grad in learned.items():
            parameter.requires_grad_(requires_grad)
        set_random_states(states)


def try_validation(module: LightningModule, batch: Any) -> None:
    """Run a module's validation_step as in Lightning's sanity check before a training, inside of `undisturbed`.

    Args:
        module: the evaluator's.
        batch: of the validation loader.
    """
    loaders = module.trainer.val_dataloaders
    several = [0] if isinstance(loaders, list | tuple | dict) and len(loaders) > 1 else []  # dataloader_idx
    state = module.trainer.state
    stage, modes = state.stage, {part: part.training for part in module.modules()}
    state.stage = RunningStage.SANITY_CHECKING
    module.eval()
    try:
        with torch.no_grad():
            try:
                call_step(module.validation_step, batch, 0, *several)
            except Exception:  # it may need what is made ready for it before an epoch
                module.on_validation_epoch_start()
                call_step(module.validation_step, batch, 0, *several)
    finally:
        state.stage = stage
        for part, training in modes.items():
            part.training = training


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
    if not isinstance(module, DartsLightningModule) or not alphas or paths:
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
    module: BaseOneShotLightningModule, trainer: pl.Trainer, sample: Sample | None, *, seed: int
) -> float | None:
    """Return the accuracy, from 0 to 1, on the whole validation set, in evaluation mode; None if it is no classifier.

    Args:
        module: of a differentiable strategy.
        trainer: of the search.
        sample: the path that strategies which sample paths (Proxyless) are evaluated on; others are at the mean.
        seed: of whatever is random in the data.
    """
    right = count = 0
    with undisturbed(module, seed=seed), torch.no_grad():
        module.eval()
        _set_path(list(module.supernet_modules()), sample)
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


def _set_path(parts: Sequence[Any], sample: Sample | None) -> None:
    memo = dict(sample or {})
    for part in parts:
        if isinstance(part, _PATHS) and sample is not None:
            part.resample(memo=memo)  # takes what memo says, and draws nothing


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Take the place of Lightning's `log` where nothing is to be logged."""
