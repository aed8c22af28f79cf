"""Where a search in a script writes: where its trainer was set to, or among NNI's experiments; not where it stands."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from nni.tools.nnictl.constants import NNI_HOME_DIR
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger


def output_folder(trainer: pl.Trainer) -> Path:
    """Return a new folder for the files of a search: in `default_root_dir` if that was given, else in NNI's own."""
    home = Path(NNI_HOME_DIR if _without_folder(trainer) else trainer.default_root_dir)
    return home / "balenas_checkpoints" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"


@contextmanager
def out_of_working_directory(trainer: Any, folder: Path) -> Iterator[None]:
    """Let Lightning write to `folder` in the block what it would write to the working directory.

    Lightning's own default is the working directory: its checkpoints, and `lightning_logs` of its default logger. What
    the user gave, `default_root_dir` or a logger, stays.

    Args:
        trainer: a `pl.Trainer`, of which a private attribute is set.
        folder: where to write.
    """
    if not _without_folder(trainer):
        yield
        return
    before = trainer._default_root_dir, trainer.loggers
    trainer._default_root_dir = str(folder)
    if getattr(trainer, "trace_kwargs", {}).get("logger") in (None, True):
        trainer.loggers = [
            type(logger)(folder) if isinstance(logger, CSVLogger | TensorBoardLogger) else logger
            for logger in before[1]
        ]
    try:
        yield
    finally:
        trainer._default_root_dir, trainer.loggers = before


def _without_folder(trainer: pl.Trainer) -> bool:
    """Return whether nobody has said where the trainer should write."""
    given = getattr(trainer, "trace_kwargs", {}).get("default_root_dir")
    return given is None and Path(trainer.default_root_dir) == Path.cwd()
