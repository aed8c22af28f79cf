"""Checkpoints from which a killed search continues exactly: what Lightning saves, every random generator, the metrics.

A checkpoint is written at the end of each epoch, after validation. Whatever happened after it is computed again with
the same random numbers, so a search killed at any step ends as if it had not been.
"""

from __future__ import annotations

import hashlib
import logging
import os
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from balenas_plugin.adapters.nni.one_shot.distributed import Ranks
from balenas_plugin.errors import BalenasError, FileFormatError, StorageError, first_line
from balenas_plugin.files import open_regular
from balenas_plugin.restoring import random_states, set_random_states

LAST = "last.ckpt"

SEAL = "balenas_seal"
"""Key in a checkpoint of the SHA-256 of all else in it, and of the run that it is of."""

_logger = logging.getLogger(__name__)


class SearchCheckpoint(Checkpoint):
    """Save `last.ckpt` in `directory` at the end of every epoch, whole or not at all; restore random states on resume.

    Args:
        directory: created when needed. The file in it is replaced after each epoch.
        run: what distinguishes the search from others, as plain values; None: the name of the directory.

    Raises:
        StorageError: a checkpoint could not be written; the previous one is whole.
        FileFormatError: the checkpoint to resume from is of another search.
    """

    def __init__(self, directory: str | Path, *, run: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.directory = Path(directory)
        self._run = run
        self._ranks = Ranks()
        self._restored: list[dict[str, Any]] = []
        self._metrics: dict[str, torch.Tensor] = {}

    @property
    def path(self) -> Path:
        """Where the checkpoint is, or will be."""
        return self.directory / LAST

    @property
    def run(self) -> Mapping[str, Any]:
        """What distinguishes the search from others."""
        return {"directory": self.directory.name} if self._run is None else self._run

    def other(self, recorded: Mapping[str, Any]) -> str:
        """Return in words how the run that a checkpoint is of differs from this one; nothing if it is this one."""
        return "" if recorded == self.run else f"it says {dict(recorded)}, this is {dict(self.run)}"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write where the first process does."""
        self._ranks = Ranks(trainer.world_size)
        self.directory = self._ranks.first(self.directory)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the random states: from here on an uninterrupted run would draw the next epoch's data order."""
        if trainer.global_rank < len(self._restored):  # all of them, unless there were fewer processes
            set_random_states(self._restored[trainer.global_rank])
        self._restored = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the metrics (not earlier: Lightning's sanity check resets them)."""
        trainer.callback_metrics.update(self._metrics)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the metrics for the final report of a search that was stopped after its last epoch."""
        for name, value in self._metrics.items():
            trainer.callback_metrics.setdefault(name, value)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say so if it is the checkpoint that does not fit.

        Raises:
            FileFormatError: Lightning failed while it restored the checkpoint.
        """
        frames = traceback.extract_tb(exception.__traceback__)
        restoring = any(frame.name in _RESTORING for frame in frames)
        if restoring and isinstance(exception, Exception) and not isinstance(exception, BalenasError):
            raise FileFormatError(
                f"the checkpoint {trainer.ckpt_path} is not of this search ({first_line(exception)}). Put "
                "the right one back, or remove it to start the search anew."
            ) from exception

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint; Lightning runs checkpoint callbacks after all others."""
        self._metrics = {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()}
        temporary = self.path.with_name(f".{LAST}.tmp")
        usual = trainer.strategy.checkpoint_io
        try:
            if trainer.is_global_zero:
                self.directory.mkdir(parents=True, exist_ok=True)
            trainer.strategy.checkpoint_io = _Sealing(self.run)
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
            temporary.unlink(missing_ok=True)
            raise StorageError(
                f"cannot write the checkpoint {self.path}: {error}. The previous one, if any, is whole: free some disk "
                "space and resume."
            ) from error
        finally:
            trainer.strategy.checkpoint_io = usual

    def state_dict(self) -> dict[str, Any]:
        """Return the random states of this moment, one for each process, and the metrics of this epoch."""
        return {"random": self._ranks.gather(random_states()), "metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts."""
        self._restored = [_as_tensors(states) for states in state_dict["random"]]
        self._metrics = state_dict["metrics"]


def _as_tensors(states: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return random states as `set_random_states` expects them; older versions kept lists of tensors and numbers."""
    if "cuda" not in states:
        return states
    version, words, gauss = states["python"]
    keys, position, has_gauss, cached = states["numpy"]
    return {
        "python": torch.tensor([version, *words.tolist()]),
        "python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), position, has_gauss]),
        "numpy_gauss": torch.tensor(cached, dtype=torch.float64),
        "torch": states["torch"],
        **{f"cuda_{i}": state for i, state in enumerate(states["cuda"])},
    }


_RESTORING = ("_restore_modules_and_callbacks", "restore_training_state", "set_random_states")
"""Functions that fail where a checkpoint does not fit."""


class _Sealing(TorchCheckpointIO):
    """Writes a checkpoint with its seal, into the file itself: Lightning's own way goes through the temporary folder.

    Args:
        run: what distinguishes the search from others.
    """

    def __init__(self, run: Mapping[str, Any]) -> None:
        self.run = dict(run)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the file."""
        seal = {"sha256": digest_of(checkpoint), "run": self.run}
        Path(path).unlink(missing_ok=True)  # a link in a folder from others would lead to any file of the user's
        with Path(path).open("xb") as file:
            torch.save({**checkpoint, SEAL: seal}, file)


def digest_of(content: object) -> str:
    """Return the SHA-256 of nested containers of tensors and plain values; of anything else only the type counts."""
    digest = hashlib.sha256()
    _feed(content, digest.update)
    return digest.hexdigest()


def _feed(value: Any, update: Callable[[Any], object]) -> None:
    if isinstance(value, torch.Tensor):
        update(f"{value.dtype} {tuple(value.shape)};".encode())
        if value.layout is torch.strided and not value.is_quantized:
            update(value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        update(f"{{{len(value)};".encode())
        for pair in value.items():
            _feed(pair, update)
    elif isinstance(value, list | tuple):
        update(f"[{len(value)};".encode())
        for entry in value:
            _feed(entry, update)
    elif isinstance(value, str | bytes | int | float | complex | NoneType):
        update(f"{type(value).__name__} {value!r};".encode("utf-8", "surrogatepass"))
    else:
        update(f"{type(value).__name__};".encode())


def require_checkpoint(path: Path, other: Callable[[Mapping[str, Any]], str] | None = None) -> dict[str, Any]:
    """Return the content of a whole checkpoint of a search; it is read without unpickling any object.

    Args:
        path: of the file.
        other: says how the run that the checkpoint is of differs from the one that is meant; None takes any run's.

    Raises:
        FileFormatError: the file is damaged, something else, or of another run.
    """
    try:
        with warnings.catch_warnings(), open_regular(path) as file:
            warnings.simplefilter("ignore")  # of odd pickles, which are refused anyway
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        found = isinstance(checkpoint, dict) and SearchCheckpoint.__qualname__ in str(list(checkpoint["callbacks"]))
        seal = checkpoint.pop(SEAL, None)
        recorded = None if seal is None else dict(seal["run"])
        if found and seal is not None and seal["sha256"] != digest_of(checkpoint):
            raise ValueError("its content differs from its SHA-256")
    except Exception as error:  # torch.load raises whatever the damaged bytes make it stumble over
        reason = f"{type(error).__name__}: {error}" if isinstance(error, ValueError | OSError) else type(error).__name__
        raise FileFormatError(
            f"the checkpoint {path} is damaged or not a checkpoint ({reason[:200]}). Remove it to start the search "
            "anew, or put a copy of it back."
        ) from error
    if not found:
        raise FileFormatError(f"{path} is not a checkpoint of a search; give the folder of a search to resume")
    if recorded is None:
        _logger.warning("%s is of an older version, which kept no SHA-256: damage to it would not be noticed.", path)
    elif other is not None and (difference := other(recorded)):
        raise FileFormatError(
            f"the checkpoint {path} is not of this search: {difference}. Put the right one back, or remove it to start "
            "the search anew."
        )
    return dict(checkpoint)
