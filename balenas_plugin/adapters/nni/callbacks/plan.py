"""The Lightning callback that says before a search what is searched and how, and soon after how long it will take."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from torch.nn.parameter import is_lazy
from tqdm import tqdm

from balenas_plugin.adapters.nni.callbacks.search_callback import SearchCallback
from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule
from balenas_plugin.adapters.nni.one_shot.loaders import number_of_examples
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.machine import peak_memory

_TOO_LITTLE = 0.5
"""Sigmas that the logits can move by, below which a search is bound to end undecided."""

_UNTIMED = 2  # intervals between iterations at the start: layouts are tried, kernels planned
_TIMED_SECONDS, _TIMED = 1.0, 20  # so long is measured, or so many intervals
_SECOND_ORDER = 4  # gradients of an architecture step of second order, for one of first order
_FORWARD = 1 / 3  # cost of a pass without a gradient, for one with it


class SearchPlan(SearchCallback):
    """Print the plan of a one-shot search before its first iteration, and what it will take after some of them.

    Give it to the evaluator: ``Classification(..., callbacks=[SearchPlan()])``. The lines go to standard error. It
    draws no random numbers and computes nothing with the network, so the search is the same with it or without.

    Args:
        data: title -> text, said first: what is searched on. None: how many examples the loaders have.
    """

    def __init__(self, data: Mapping[str, str] | None = None) -> None:
        self._data = data
        self._begin()

    def _begin(self) -> None:
        self._intervals: list[float] = []
        self._last: float | None = None
        self._reported: set[bool] = set()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew: a search before this one may have taken other times."""
        super().setup(trainer, pl_module, stage)
        self._begin()

    # -- the plan -----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Print the plan; the first of several processes does."""
        if self.searching and trainer.is_global_zero:
            data = _loaders(trainer) if self._data is None else self._data
            plan = {"supernet": _supernet(pl_module), "plan": _plan(trainer, pl_module), **_reach(trainer, pl_module)}
            for title, text in {**data, **plan}.items():
                _report(title, text)

    # -- what it takes ------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time only what lies within an epoch, and the warm-up apart from what follows."""
        self._last = None
        if trainer.current_epoch == _warmup(pl_module):
            self._intervals = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Time the iteration; say what all will take when enough are timed, in the warm-up as a guess."""
        warm = trainer.current_epoch >= _warmup(pl_module)
        if not self.searching or warm in self._reported or not trainer.is_global_zero:
            return
        now = time.perf_counter()
        if self._last is not None:
            self._intervals.append(now - self._last)
        self._last = now
        timed = self._intervals[_UNTIMED:]
        if len(timed) >= _TIMED or sum(timed) >= _TIMED_SECONDS:
            self._reported.add(warm)
            seconds = _remaining(trainer, pl_module, sum(timed) / len(timed))
            if seconds is not None:
                _report("expected", _expected(seconds, trainer.strategy.root_device, guessed=not warm))


def _report(title: str, text: str) -> None:
    tqdm.write(f"search: {title:<9} {text}", file=sys.stderr)


def _loaders(trainer: pl.Trainer) -> dict[str, str]:
    """Return how many examples the two loaders of the search have, where there are two."""
    loaders = trainer.train_dataloader
    if not isinstance(loaders, Mapping) or not {"train", "val"} <= set(loaders):
        return {}
    counts = (number_of_examples(loaders[name]) for name in ("train", "val"))
    weights, architecture = ("an unknown number of" if count is None else f"{count:,}" for count in counts)
    return {"data": f"{weights} examples train the weights, {architecture} the architecture"}


def _supernet(module: BaseOneShotLightningModule) -> str:
    alphas = architecture_parameters(module)
    held = {id(alpha) for alpha in alphas.values()}
    weights = sum(p.numel() for p in module.parameters() if id(p) not in held and not is_lazy(p))
    text = f"{type(module.training_module.model).__name__}: {weights:,} weights"
    if alphas:
        text += f" and {sum(alpha.numel() for alpha in alphas.values()):,} logits in {len(alphas):,} choices"
    return text


def _warmup(module: pl.LightningModule) -> int:
    return int(getattr(module, "warmup_epochs", 0))


def _epochs(trainer: pl.Trainer) -> int:
    return trainer.max_epochs or -1


def _iterations(trainer: pl.Trainer) -> int | None:
    """Return the iterations of an epoch, or None where a loader has no length or the epochs have no end."""
    batches = trainer.num_training_batches
    return int(batches) if math.isfinite(batches) and _epochs(trainer) > 0 else None


def _plan(trainer: pl.Trainer, module: BaseOneShotLightningModule) -> str:
    per_epoch, warmup, done = _iterations(trainer), _warmup(module), trainer.current_epoch
    if per_epoch is None:
        text = "until it is stopped"
    else:
        epochs = f"{trainer.max_epochs} epoch{'' if trainer.max_epochs == 1 else 's'}"
        text = f"{epochs} of {per_epoch:,} iterations, {_epochs(trainer) * per_epoch:,} in all"
    if isinstance(module, DistributionModule):
        draws = module.distribution.num_mc_samples
        text += f"; M = {draws} {'draw' if draws == 1 else 'draws'} in each"
    if warmup:
        text += f"; {'epoch 1 trains' if warmup == 1 else f'epochs 1 to {warmup} train'} the weights alone"
    schedule = module.search.schedule if isinstance(module, DistributionModule) else None
    if schedule is not None:
        text += f"; {schedule.describe()}"
    return f"{text}; epochs done: {done}" if done else text


def _reach(trainer: pl.Trainer, module: BaseOneShotLightningModule) -> dict[str, str]:
    """Return how far a logit can move: Adam's steps, and VAdam's, are hardly longer than the rate."""
    per_epoch, rate = _iterations(trainer), getattr(module, "arc_learning_rate", None)
    unit = module.distribution.clear_difference() if isinstance(module, DistributionModule) else 1.0
    if per_epoch is None or rate is None or unit is None:
        return {}
    steps = _learning_epochs(trainer, module) * round(per_epoch * _steps(module, per_epoch))
    measure = f"{unit:g} makes a clear difference"
    distance = f"{steps:,} architecture steps x rate {rate:g}: a logit can move by {steps * rate:.2g}"
    lines = {"reach": f"{distance}; {measure}"}
    if steps == 0:
        lines["warning"] = "nothing is learned: set architecture_every to the iterations of an epoch or less"
    elif steps * rate < _TOO_LITTLE * unit:
        lines["warning"] = (
            f"that decides nothing: set arc_learning_rate to {2 * unit / steps:.1g} or more, or search for more epochs"
        )
    return lines


def _learning_epochs(trainer: pl.Trainer, module: BaseOneShotLightningModule) -> int:
    """Return how many epochs learn the architecture that is found: of several networks, those of the last."""
    epochs = _epochs(trainer)
    if not isinstance(module, DistributionModule) or module.search.schedule is None:
        return epochs - _warmup(module)
    first, count = module.search.schedule.epochs_of_network(epochs - 1) or (0, epochs)
    return sum(module.search.learns(epoch) for epoch in range(first, first + count))


def _remaining(trainer: pl.Trainer, module: pl.LightningModule, seconds: float) -> float | None:
    """Return the seconds that the rest of the search will take.

    Args:
        trainer: in the epoch that is now.
        module: that searches.
        seconds: of an iteration, as they are now: in the warm-up they have no architecture step, which is then guessed
            to cost as much as a weight step for each gradient, without what perturbs that.
    """
    per_epoch = _iterations(trainer)
    if per_epoch is None:
        return None
    warmup, epoch = _warmup(module), trainer.current_epoch
    weight_step = 1 + _perturbing(module)
    whole = weight_step + _gradients(module) * _steps(module, per_epoch)
    gradient = seconds / (weight_step if epoch < warmup else whole)
    warmup_left = max(0, warmup - epoch) * per_epoch
    search_left = (_epochs(trainer) - max(epoch, warmup)) * per_epoch
    validations = (_epochs(trainer) - epoch) / (trainer.check_val_every_n_epoch or 1)
    batches = sum(count for count in trainer.num_val_batches if math.isfinite(count))
    return gradient * (weight_step * warmup_left + _FORWARD * validations * batches + whole * search_left)


def _perturbing(module: pl.LightningModule) -> float:
    """Return what perturbing a weight step costs, in weight steps without it."""
    perturbation = module.search.perturbation if isinstance(module, DistributionModule) else None
    return 0.0 if perturbation is None else perturbation.cost


def _steps(module: pl.LightningModule, per_epoch: int) -> float:
    """Return how many architecture steps an iteration has on average, of so many an epoch."""
    if not isinstance(module, DistributionModule):
        return 1.0
    wanted = module.options.architecture_steps
    return (per_epoch // module.options.architecture_every if wanted is None else wanted) / per_epoch


def _gradients(module: pl.LightningModule) -> float:
    """Return how many gradients an architecture step takes, each about as dear as a weight step."""
    if not isinstance(module, DistributionModule):
        return 1
    if module.options.levels == 1:
        return 0
    draws = 1 if module.options.mc_batches == "split" else module.distribution.num_mc_samples
    if not module.distribution.needs_gradient:
        return draws * _FORWARD
    return draws * (_SECOND_ORDER if module.options.order == "second" else 1)


def _expected(seconds: float, device: torch.device, *, guessed: bool) -> str:
    minutes = seconds / 60
    span = f"{seconds:.0f} s" if seconds < 100 else f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
    end = datetime.now().astimezone() + timedelta(seconds=seconds)
    text = f"about {span} to go, until {end:{'%H:%M' if minutes < 600 else '%d %b %H:%M'}}"
    cuda = device.type == "cuda"
    memory = torch.cuda.max_memory_reserved(device) if cuda else peak_memory()
    if memory:
        text += f"; memory so far {memory / 1e9:.1f} GB{' of the GPU' if cuda else ''}"
    return f"{text} (a guess, reported again after the warm-up)" if guessed else text
