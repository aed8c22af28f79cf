"""Every hook of a module and a datamodule in a search, counted against plain Lightning."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.one_shot.evaluator_hooks import follow

from .plain import DRAWS, TRAIN_BATCHES, Task, in_order, plain_fit, searched, trainer

EPOCHS = 2


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return in_order()["train_dataloaders"]

    def val_dataloader(self) -> DataLoader:
        return in_order()["val_dataloaders"]


SAME = "as often as in plain Lightning, and in the same order"
HALVES = "once more a training iteration, for the half of the architecture"
STEPS = "also for every draw of an architecture step"
TWICE = "also for the search's own checkpoint, or the loader of the architecture"
NEVER = "not while fitting: not called by plain Lightning either"
ALONE = "followed, but Lightning takes it only without configure_model"
REFUSED = "refused, by its name, before the search"
NO_HOOK = "not called by Lightning"


def table(rows: dict[str, str]) -> dict[str, str]:
    """Return hook -> row, of rows with the names of their hooks."""
    return {name: row for row, names in rows.items() for name in names.split()}


TRANSFERS = "on_before_batch_transfer transfer_batch_to_device on_after_batch_transfer"
MODULE = table(
    {
        SAME: """
            on_fit_start on_fit_end on_train_start on_train_end on_validation_start on_validation_end
            on_train_batch_start on_train_batch_end on_validation_batch_start on_validation_batch_end
            on_validation_model_zero_grad on_validation_model_eval on_validation_model_train on_train_epoch_start
            on_train_epoch_end on_validation_epoch_start on_validation_epoch_end on_before_zero_grad
            on_before_backward on_after_backward on_before_optimizer_step configure_model prepare_data setup teardown
            on_load_checkpoint validation_step configure_callbacks configure_optimizers backward
            configure_gradient_clipping lr_scheduler_step optimizer_step optimizer_zero_grad
        """,
        HALVES: TRANSFERS,
        STEPS: "training_step",
        TWICE: "on_save_checkpoint",
        NEVER: """
            on_test_start on_test_end on_predict_start on_predict_end on_test_batch_start on_test_batch_end
            on_predict_batch_start on_predict_batch_end on_test_model_eval on_test_model_train on_predict_model_eval
            on_test_epoch_start on_test_epoch_end on_predict_epoch_start on_predict_epoch_end test_step predict_step
            train_dataloader val_dataloader test_dataloader predict_dataloader
        """,
        ALONE: "configure_sharded_model",
        REFUSED: "log",
        NO_HOOK: """
            all_gather clip_gradients forward freeze load_from_checkpoint log_dict lr_schedulers manual_backward
            optimizers print remove_ignored_hparams save_hyperparameters to_onnx to_tensorrt to_torchscript
            toggle_optimizer toggled_optimizer unfreeze untoggle_optimizer
        """,
    }
)
DATAMODULE = table(
    {
        SAME: "prepare_data setup teardown train_dataloader load_state_dict",
        HALVES: TRANSFERS,
        TWICE: "val_dataloader state_dict",
        NEVER: "test_dataloader predict_dataloader on_exception",
        NO_HOOK: "from_datasets load_from_checkpoint remove_ignored_hparams save_hyperparameters",
    }
)


def methods_of(cls: type) -> Iterator[str]:
    """Yield every public method that Lightning gives a class."""
    for base in cls.__mro__:
        if base.__module__.startswith("pytorch_lightning"):
            for name, value in vars(base).items():
                if not name.startswith("_") and (callable(value) or hasattr(value, "__func__")):
                    yield name


@pytest.mark.parametrize(("cls", "rows"), [(pl.LightningModule, MODULE), (pl.LightningDataModule, DATAMODULE)])
def test_every_method_of_lightning_has_a_row(cls, rows):
    """A new hook of Lightning has to be followed or refused, and said here which."""
    assert {name for name in methods_of(cls) if not inspect.isclass(getattr(cls, name))} - set(rows) == set()


def counting(base: type, rows: dict[str, str], calls: list[str]) -> type:
    """Return a subclass that overrides every hook of the table and notes its calls."""

    def noted(name: str) -> Callable[..., Any]:
        original = getattr(base, name)

        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            result = original(self, *args, **kwargs)
            return {"seen": torch.tensor(1)} if name == "state_dict" else result

        return hook

    hooks = [name for name, row in rows.items() if row not in (ALONE, REFUSED, NO_HOOK)]
    return type("Counting", (base,), {name: noted(name) for name in hooks})


def scheduled(module: Any) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]


def runs(which: str, rows: dict[str, str], folder: Path) -> tuple[list[str], list[str]]:
    """Return the calls in two fits of plain Lightning, and of a search, of which the second resumes the first."""
    plain: list[str] = []
    search: list[str] = []
    paths: list[str | None] = [None, None]
    for epochs in (1, EPOCHS):
        for number, calls in enumerate((plain, search)):
            module = (counting(Task, rows, calls) if which == "module" else Task)(scheduled)
            data = in_order() if which == "module" else {"datamodule": counting(Data, rows, calls)()}
            fitting = trainer(folder / str(number), max_epochs=epochs)
            if calls is plain:
                plain_fit(module, fitting, paths[number], **data)
                paths[number] = fitting.checkpoint_callback.best_model_path
            else:
                strategy = searched(Lightning(module, fitting, **data), paths[number])
                paths[number] = strategy.state_dict()["ckpt_path"]
    return plain, search


def expected(row: str, plain: int) -> int:
    """Return how often a search calls a hook."""
    iterations = EPOCHS * TRAIN_BATCHES
    return plain + {HALVES: iterations, STEPS: iterations * DRAWS, TWICE: EPOCHS}.get(row, 0)


@pytest.mark.parametrize(("which", "rows"), [("module", MODULE), ("datamodule", DATAMODULE)])
def test_hooks_are_called_as_often_as_in_plain_lightning(which, rows, tmp_path):
    plain, search = runs(which, rows, tmp_path)
    counted, found = Counter(plain), Counter(search)
    assert {name: found[name] for name in rows} == {name: expected(row, counted[name]) for name, row in rows.items()}
    called = {name for name, row in rows.items() if row in (SAME, HALVES, STEPS, TWICE)}
    assert {name for name in rows if counted[name]} == called
    same = {name for name, row in rows.items() if row == SAME}
    assert [name for name in search if name in same] == [name for name in plain if name in same]


def test_a_hook_that_lightning_takes_alone_is_followed():
    class Sharded(Task):
        def configure_sharded_model(self) -> None: ...

    task = Sharded()
    module = BaLeNAS().configure_oneshot_module(task)
    assert module.configure_sharded_model == task.configure_sharded_model
    follow(module)  # once is enough
    assert module.configure_sharded_model == task.configure_sharded_model
