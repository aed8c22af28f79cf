"""Lightning callbacks that time the first epochs of a search, and end one in time."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl

_UNTIMED = 2


@dataclass(frozen=True, kw_only=True)
class TimedSearch:
    """What a search takes.

    Args:
        iteration: seconds of one with both steps.
        epoch: seconds of what comes with every epoch besides.
    """

    iteration: float
    epoch: float


class Stopwatch(pl.Callback):
    """Times the iterations of a search of two epochs, and what lies between the epochs."""

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._epochs: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note when the epoch begins."""
        self._epochs.append(time.perf_counter())

    def on_train_batch_end(self, *_: Any) -> None:
        """Note when the iteration ends."""
        self._ends.append(time.perf_counter())

    @property
    def timed(self) -> TimedSearch:
        """What was measured."""
        _, second = self._epochs
        first = [end for end in self._ends if end < second]
        intervals = [after - before for before, after in zip(self._ends, self._ends[1:], strict=False)]
        del intervals[len(first) - 1]  # from one epoch to the next
        return TimedSearch(iteration=statistics.median(intervals[_UNTIMED:] or intervals), epoch=second - first[-1])


def deadline(seconds: float) -> pl.Callback:
    """Return a callback that ends a search after the epoch in which its time is up.

    Time that was spent before an interruption counts.
    """
    return pl.callbacks.Timer(duration=timedelta(seconds=seconds), interval="epoch", verbose=False)
