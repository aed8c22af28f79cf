"""An evaluator in a search against the same one in plain Lightning: every hook of its module and its datamodule."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from torch import Tensor, nn

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.evaluator_hooks import follow
from balenas_plugin.adapters.nni.second_order_darts import SecondOrderDARTS, SecondOrderDartsModule
from balenas_plugin.errors import EvaluatorError, OptionError

from .searches import QUIET, TRAIN_MARK, VAL_MARK, prepare, random_data
from .spaces import CLASSES

DRAWS, TRAIN_BATCHES, VAL_BATCHES, EPOCHS = 2, 3, 2, 2


class Head(nn.Module):
    """A linear layer, and something that it does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, CLASSES)
        nn.init.constant_(self.head.weight, 0.1)
        nn.init.zeros_(self.head.bias)
        self.other: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) + 0 * self.other(x).sum()


class Searched(Head, ModelSpace):
    """The same with a choice: its weights are trained as in plain Lightning, whatever the architecture."""

    def __init__(self) -> None:
        super().__init__()
        self.other = LayerChoice([nn.Identity(), nn.Tanh()], label="other")


class Task(LightningModule):
    """A user's module; `optimizers_of` makes what configure_optimizers returns."""

    def __init__(self, optimizers_of: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.optimizers_of = optimizers_of or (lambda module: torch.optim.SGD(module.parameters(), lr=0.1))
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = nn.functional.cross_entropy(self.model(x), y)
        if bool((x[:, 0] == TRAIN_MARK).all()):
            self.rates.append(self.optimizers().param_groups[0]["lr"])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", torch.tensor(1.0))

    def configure_optimizers(self) -> Any:
        return self.optimizers_of(self)


def in_order(train: int = 20, val: int = 16) -> dict[str, DataLoader]:
    """Return loaders that do not shuffle."""
    return {
        "train_dataloaders": DataLoader(random_data(train, mark=TRAIN_MARK), batch_size=8),
        "val_dataloaders": DataLoader(random_data(val, mark=VAL_MARK, seed=1), batch_size=8),
    }


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return in_order()["train_dataloaders"]

    def val_dataloader(self) -> DataLoader:
        return in_order()["val_dataloaders"]


def trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(**{**QUIET, "default_root_dir": folder, "max_epochs": 1, **options})


def plain_fit(task: LightningModule, trainer: Trainer, ckpt_path: str | None = None, **data: Any) -> nn.Module:
    """Train `Head` with plain Lightning and return it."""
    torch.manual_seed(0)
    task.set_model(Head())
    trainer.fit(task, **(data or in_order()), ckpt_path=ckpt_path)
    return task.model


def searched(evaluator: Lightning, ckpt_path: str | None = None, **options: Any) -> BaLeNAS:
    """Search `Searched` and return the strategy."""
    torch.manual_seed(0)
    strategy = prepare(Searched(), evaluator, **{"num_mc_samples": DRAWS, **options})
    if ckpt_path:
        strategy.load_state_dict({"ckpt_path": ckpt_path})
    strategy.run()
    return strategy


# -- every hook, counted ----------------------------------------------------------------------------------------------

SAME = "as often as in plain Lightning, and in the same order"
HALVES = "once more a training iteration, for the half of the architecture"
STEPS = "also for every draw of an architecture step"
TWICE = "also for the search's own checkpoint, or the loader of the architecture"
NEVER = "not while fitting: not called by plain Lightning either"
ALONE = "followed, but Lightning takes it only without configure_model"
REFUSED = "refused, by its name, before the search"
NO_HOOK = "not called by Lightning"

MODULE = {
    **dict.fromkeys(
        """on_fit_start on_fit_end on_train_start on_train_end on_validation_start on_validation_end on_train_batch_start
        on_train_batch_end on_validation_batch_start on_validation_batch_end on_validation_model_zero_grad
        on_validation_model_eval on_validation_model_train on_train_epoch_start on_train_epoch_end
        on_validation_epoch_start on_validation_epoch_end on_before_zero_grad on_before_backward on_after_backward
        on_before_optimizer_step configure_model prepare_data setup teardown on_load_checkpoint validation_step
        configure_callbacks configure_optimizers backward configure_gradient_clipping lr_scheduler_step optimizer_step
        optimizer_zero_grad""".split(),
        SAME,
    ),
    **dict.fromkeys(("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"), HALVES),
    "training_step": STEPS,
    "on_save_checkpoint": TWICE,
    **dict.fromkeys(
        """on_test_start on_test_end on_predict_start on_predict_end on_test_batch_start on_test_batch_end
        on_predict_batch_start on_predict_batch_end on_test_model_eval on_test_model_train on_predict_model_eval
        on_test_epoch_start on_test_epoch_end on_predict_epoch_start on_predict_epoch_end test_step predict_step
        train_dataloader val_dataloader test_dataloader predict_dataloader""".split(),
        NEVER,
    ),
    "configure_sharded_model": ALONE,
    "log": REFUSED,
    **dict.fromkeys(
        """all_gather clip_gradients forward freeze log_dict lr_schedulers manual_backward optimizers print
        remove_ignored_hparams save_hyperparameters to_onnx to_tensorrt to_torchscript toggle_optimizer toggled_optimizer unfreeze
        untoggle_optimizer load_from_checkpoint""".split(),
        NO_HOOK,
    ),
}
DATAMODULE = {
    **dict.fromkeys("prepare_data setup teardown train_dataloader load_state_dict".split(), SAME),
    **dict.fromkeys(("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"), HALVES),
    "val_dataloader": TWICE,
    "state_dict": TWICE,
    **dict.fromkeys("test_dataloader predict_dataloader on_exception".split(), NEVER),
    **dict.fromkeys("from_datasets load_from_checkpoint remove_ignored_hparams save_hyperparameters".split(), NO_HOOK),
}


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
    path = None
    for epochs in (1, EPOCHS):
        for calls in (plain, search):
            module = (counting(Task, rows, calls) if which == "module" else Task)(scheduled)
            data = in_order() if which == "module" else {"datamodule": counting(Data, rows, calls)()}
            fitting = trainer(folder / "plain" if calls is plain else folder, max_epochs=epochs)
            if calls is plain:
                plain_fit(module, fitting, path and fitting_path, **data)
                fitting_path = fitting.checkpoint_callback.best_model_path
            else:
                path = searched(Lightning(module, fitting, **data), path).state_dict()["ckpt_path"]
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
    module = SecondOrderDartsModule(task)
    assert module.configure_sharded_model == task.configure_sharded_model
    follow(module)  # once is enough
    assert module.configure_sharded_model == task.configure_sharded_model
