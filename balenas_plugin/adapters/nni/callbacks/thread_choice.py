"""Choose how many threads of the CPU a search takes, by the time of its first iterations."""

from __future__ import annotations

import logging
import os
import statistics
import time
from typing import Any

import pytorch_lightning as pl
import torch

from balenas_plugin.machine import cores

_ROUNDS = 4  # of one iteration with each number of threads; the first, which prepares kernels, is not counted
_GAIN = 0.95  # all cores are taken if they need less than this share of the time of one

_logger = logging.getLogger(__name__)


class ThreadChoice(pl.Callback):
    """Take one thread or one a core, whichever made the first eight iterations faster; a resumed search keeps it.

    It does nothing on another device than the CPU, with several processes, or where OMP_NUM_THREADS is set. Sums are
    rounded differently with another number of threads, so two searches with one seed may differ in the last digits.
    """

    def __init__(self) -> None:
        self.threads: int | None = None
        self._seconds: dict[int, list[float]] = {1: [], cores(): []}
        self._turn, self._begun = 1, 0.0

    def _chooses(self, trainer: pl.Trainer) -> bool:
        on_cpu = trainer.strategy.root_device.type == "cpu" and trainer.world_size == 1
        return on_cpu and self.threads is None and len(self._seconds) > 1 and "OMP_NUM_THREADS" not in os.environ

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Take the number of threads whose turn it is."""
        if self._chooses(trainer):
            self._turn = min(self._seconds, key=lambda number: len(self._seconds[number]))
            torch.set_num_threads(self._turn)
            self._begun = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note the time; after the last round choose."""
        if not self._chooses(trainer):
            return
        self._seconds[self._turn].append(time.perf_counter() - self._begun)
        if all(len(seconds) == _ROUNDS for seconds in self._seconds.values()):
            one, most = (statistics.median(seconds[1:]) for seconds in self._seconds.values())
            self._take(list(self._seconds)[most < _GAIN * one])
            _logger.info("%d threads: an iteration takes %.2f of its time with one", cores(), most / one)

    def _take(self, threads: int) -> None:
        self.threads = threads
        torch.set_num_threads(threads)

    def state_dict(self) -> dict[str, Any]:
        """Return what was chosen."""
        return {"threads": self.threads}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what was chosen before."""
        if state_dict["threads"] is not None:
            self._take(state_dict["threads"])
