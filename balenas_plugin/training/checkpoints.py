"""Checkpoints from which a killed training goes on exactly: whole files, and every random generator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from balenas_plugin.errors import FileFormatError, OptionError, first_line
from balenas_plugin.files import open_regular, write_atomically
from balenas_plugin.restoring import random_states, set_random_states

LAST, BEST = "last.ckpt", "best.ckpt"

_APART = 1_000_003  # seeds of neighbouring processes are not those of neighbouring trainings


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces: Lightning's own way goes through the temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the file, whole or not at all; a module's hyper-parameters may be objects, and nothing needs them."""
        kept = {
            key: value for key, value in checkpoint.items() if "hyper_parameters" not in key and "hparams" not in key
        }
        write_atomically(Path(path), lambda file: torch.save(kept, file))


class RandomStates(pl.Callback):
    """Keep the random states of all processes in the checkpoint, and begin the next epoch with them."""

    def __init__(self) -> None:
        self._restored: list[dict[str, Tensor]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the states; in a new training, give each process random numbers of its own."""
        rank = trainer.global_rank
        if rank < len(self._restored):
            set_random_states(self._restored[rank])
        elif rank:
            torch.manual_seed(torch.initial_seed() + _APART * rank)
        self._restored = []
        # An optimizer's schedule may have asked how many steps there are, which makes the loader's iterator and draws
        # random numbers before this: it is made anew.
        trainer.fit_loop._combined_loader = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of this moment, one for each process."""
        own = random_states()
        if not (dist.is_available() and dist.is_initialized()):
            return {"random": [own]}
        held: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(held, own)
        return {"random": held}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts."""
        self._restored = list(state_dict["random"])


class StopEarly(EarlyStopping):
    """Lightning's early stopping, which a training that is resumed after its last epoch remembers."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop if that was decided before the training was interrupted."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the epoch.

        Raises:
            OptionError: the module does not log what is compared.
        """
        if self.monitor not in trainer.callback_metrics:
            raise OptionError(unlogged(self.monitor, trainer.callback_metrics))
        super().on_train_epoch_end(trainer, pl_module)


def unlogged(monitor: str, logged: Iterable[str]) -> str:
    """Return that early stopping watches something that is not logged, and what is."""
    return (
        f"early_stopping watches {monitor}, which is not logged; logged are {', '.join(sorted(logged)) or 'none'}: set "
        "monitor to one of them, or early_stopping to null"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint; no object in it is unpickled.

    Raises:
        FileFormatError: the file is damaged or something else.
    """
    try:
        with open_regular(path) as file:
            return dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load raises whatever the damaged bytes make it stumble over
        raise FileFormatError(
            f"the checkpoint {path} is damaged or not a checkpoint ({first_line(error)[:200]}). Put a copy of it back, "
            "or remove it to begin the training anew."
        ) from error
