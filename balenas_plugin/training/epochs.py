"""Lightning callbacks that record every epoch in a file and show how far a search or a training is."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from tqdm import tqdm

from balenas_plugin.errors import NonFiniteLossError
from balenas_plugin.files import append_text, write_text_atomically


def averaged_metrics(logged: Mapping[str, Any]) -> dict[str, float]:
    """Return what was logged in an epoch by plain name, in order of the names: averages, not single steps or labels."""
    metrics = {name: float(value) for name, value in logged.items()}
    averaged = {name.removesuffix("_epoch") for name in metrics if name.endswith("_epoch")}
    return {
        name.removesuffix("_epoch"): metrics[name]
        for name in sorted(metrics)
        if "/" not in name and not name.endswith("_step") and name not in averaged
    }


def require_finite(loss: Tensor, epoch: int) -> None:
    """Refuse to go on with weights that an epoch has broken.

    Args:
        loss: of all of its batches, or what follows from that.
        epoch: its number.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    if not torch.isfinite(loss):
        raise NonFiniteLossError(
            f"the loss became NaN or infinite in epoch {epoch}: lower optimizer.lr, or set gradient_clip_val"
        )


class History(pl.Callback):
    """Keep a CSV file: one row an epoch, the same however often the search was interrupted.

    Each epoch appends its row. The checkpoint holds all rows (with the diagnostics some 3 kB an epoch, where the
    weights have megabytes), so a lost or damaged file is written again on resume, wherever the checkpoint was moved to.

    Args:
        path: of the file.
        describe: returns further columns of the row, e.g. the current architecture.
    """

    def __init__(self, path: Path, describe: Callable[[], dict[str, Any]] = dict) -> None:
        self.path = path
        self.describe = describe
        self.rows: list[dict[str, Any]] = []
        self._ever_validated = False
        self._validated = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop rows on disk of epochs that will be computed again; write the others again, whatever is there.

        Not when training starts: there is none where only the end of a search is missing.
        """
        if trainer.is_global_zero:
            self._write()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Expect a validation."""
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that this epoch has been validated."""
        self._validated = self._ever_validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the row of this epoch; of several processes, the first does."""
        if not trainer.is_global_zero:
            return
        row: dict[str, Any] = {"epoch": trainer.current_epoch}
        for name, value in averaged_metrics(trainer.callback_metrics).items():
            stale = name.startswith("val_") and self._ever_validated and not self._validated  # of an earlier epoch
            if not stale:
                row[name] = value
        self._add({**row, **self.describe()})

    def _add(self, row: dict[str, Any]) -> None:
        """Append a row to the file; write all of it again where the row has new columns, or the file is gone."""
        columns = self._columns()
        self.rows.append(row)
        if row.keys() <= set(columns) and self.path.exists():
            append_text(self.path, _csv(columns, [row]))
        else:
            self._write()

    def _write(self) -> None:
        columns = self._columns()
        write_text_atomically(self.path, _csv(columns, [dict(zip(columns, columns, strict=True)), *self.rows]))

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row)) or ["epoch"]

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far."""
        return {"rows": self.rows, "ever_validated": self._ever_validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the rows of a checkpoint."""
        self.rows = list(state_dict["rows"])
        self._ever_validated = bool(state_dict["ever_validated"])


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()


class TrainingBar(pl.Callback):
    """One bar over all iterations, with the time that is left, the last epoch's accuracies and a search's entropy.

    Args:
        called: what stands before it.
    """

    def __init__(self, called: str) -> None:
        self._called = called
        self._bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the search stands, in the first process only."""
        if not trainer.is_global_zero:
            return
        batches = trainer.num_training_batches * (trainer.max_epochs or 0)
        self._bar = tqdm(
            total=int(batches) if math.isfinite(batches) else None,  # loaders may have no length
            initial=trainer.fit_loop.total_batch_idx + 1,
            desc=self._called,
            unit="it",
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 10,
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch's results."""
        if self._bar is None:
            return
        shown = {"epoch": f"{trainer.current_epoch + 1}/{trainer.max_epochs}"}
        for name in ("train_acc", "val_acc", "train_perplexity", "val_perplexity", "entropy"):
            if name in trainer.callback_metrics:
                shown[name] = f"{float(trainer.callback_metrics[name]):.3f}"
        self._bar.set_postfix(shown, refresh=False)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the message comes on a line of its own."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
