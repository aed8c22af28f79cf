"""End all processes of a search together: none is left waiting for one that failed, was stopped or is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy, ParallelStrategy

from balenas_plugin.errors import BalenasError, EvaluatorError

_GRACE = 3.0  # seconds in which the first process may fail of the same cause, and then reports it alone


def require_supported(trainer: pl.Trainer) -> None:
    """Raise unless the trainer's way of using several devices keeps one posterior.

    Raises:
        EvaluatorError: several devices without DDP, or DDP with processes that cannot hand back what they learned.
    """
    strategy = trainer.strategy
    if isinstance(strategy, ParallelStrategy) and not isinstance(strategy, DDPStrategy):
        raise EvaluatorError(
            f'a search runs on several devices with strategy="ddp", got {type(strategy).__name__}: the posterior and '
            "the weights are whole in every process"
        )
    start = getattr(strategy, "_start_method", "popen")
    if isinstance(strategy, DDPStrategy) and start != "popen":
        raise EvaluatorError(
            f'a search runs on several devices with strategy="ddp", got the variant that starts processes by {start}: '
            "those end with the training, and the posterior with them"
        )


class ProcessGuard(pl.Callback):
    """Watch over the processes of a search on several devices.

    The first process stops those it started when it fails or is stopped itself. The others wait a moment before they
    fail, so that an error that all of them meet is reported once, and end when the process that started them is gone: a
    collective operation on GPUs would wait for minutes. It has to be the first of the callbacks.
    """

    def __init__(self) -> None:
        self.failed: list[tuple[int, int]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let a process that another one started watch that one."""
        if trainer.local_rank:
            threading.Thread(target=_end_without, args=(os.getppid(),), daemon=True, name="balenas-watch").start()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Answer SIGTERM at the next batch, in all processes at once.

        Departure from Lightning, which sends a message from inside the signal handler: it may meet any other message,
        and then all processes wait forever (test_sigterm_stops_every_process).
        """
        if threading.current_thread() is not threading.main_thread():
            return

        def remember(signum: int, frame: FrameType | None) -> None:
            trainer._signal_connector.received_sigterm = trainer.is_global_zero  # the others are stopped by the first

        signal.signal(signal.SIGTERM, remember)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Average the epoch's metrics: Lightning does where they are first read, which may be in one process only."""
        _ = trainer.callback_metrics

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Average the validation's metrics, for the same reason."""
        _ = trainer.callback_metrics

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop the processes that this one started, or wait to be stopped by the first."""
        if trainer.local_rank:
            time.sleep(_GRACE)
            return
        started: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        if isinstance(exception, RuntimeError) and not isinstance(exception, BalenasError):
            _wait_for_one(started, seconds=1.0)  # the connection breaks a moment before the process is gone
        codes = [process.poll() for process in started]
        self.failed = [(rank, code) for rank, code in enumerate(codes, start=1) if code]
        for process in started:
            process.kill()
            process.wait()
        started.clear()  # Lightning kills this process too when it finds one that ended with an error

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say which other process failed where that is what ended this one.

        Raises:
            EvaluatorError: another process failed.
        """
        try:
            yield
        except BalenasError:
            raise
        except RuntimeError as error:
            if not self.failed:
                raise
            rank, code = self.failed[0]
            how = f"was stopped by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise EvaluatorError(
                f"process {rank} of the search {how}; what it said is above. The last checkpoint, if any, is whole."
            ) from error


def _wait_for_one(processes: list[subprocess.Popen[bytes]], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while processes and time.monotonic() < deadline and all(process.poll() is None for process in processes):
        time.sleep(0.05)


def _end_without(parent: int) -> None:
    """End this process when its parent has gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
