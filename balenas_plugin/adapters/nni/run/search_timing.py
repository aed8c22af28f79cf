"""Time a few iterations of a search before it is started, and end one in time."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from balenas_plugin.adapters.nni.run.config_run import run_search
from balenas_plugin.config import SearchConfig
from balenas_plugin.run_folder import RunFolder

_UNTIMED = 2
_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class TimedSearch:
    """What a search takes.

    Args:
        iteration: seconds of one with both steps.
        epoch: seconds of what comes with every epoch besides.
    """

    iteration: float
    epoch: float


class _Stopwatch(pl.Callback):
    def __init__(self) -> None:
        self.ends: list[float] = []
        self.epochs: list[tuple[float, float]] = []
        self._began = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._began:
            self.epochs.append((self._began, time.perf_counter()))
        self._began = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


def time_search(config: SearchConfig) -> TimedSearch:
    """Search for two epochs without a warm-up, in a folder that is then deleted.

    Args:
        config: whose data are few images.
    """
    strategy = {**config.strategy, "warmup_epochs": 0}
    evaluator = replace(
        config.evaluator,
        epochs=_EPOCHS,
        logger="none",
        trainer={**config.evaluator.trainer, "enable_progress_bar": False},
    )
    watch = _Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        run_search(
            replace(config, strategy=strategy, evaluator=evaluator),
            RunFolder(Path(folder) / "search"),
            resume=False,
            callbacks=[watch],
        )
    intervals = [after - before for before, after in zip(watch.ends, watch.ends[1:], strict=False)]
    iteration = statistics.median(intervals[_UNTIMED:] or intervals)
    (began, ended) = watch.epochs[0]
    inside = [end for end in watch.ends if began <= end <= ended]
    return TimedSearch(iteration=iteration, epoch=max(0.0, ended - inside[-1]))


def deadline(seconds: float) -> pl.Callback:
    """Return a callback that ends a search, or a training, after the epoch in which its time is up.

    Time that was spent before an interruption counts.
    """
    return pl.callbacks.Timer(duration=timedelta(seconds=seconds), interval="epoch", verbose=False)
