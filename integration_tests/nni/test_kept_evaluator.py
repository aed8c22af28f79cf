"""After a search the evaluator is as it was: the same script trains with it what was found."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning
from pytorch_lightning.callbacks import EarlyStopping

from balenas_plugin import Diagnostics, SearchPlan
from balenas_plugin.diagnostics import read_log
from balenas_plugin.errors import NonFiniteLossError

from .plain import TRAIN_BATCHES, Searched, Task, in_order, searched, trainer
from .searches import prepare


class Data(pl.LightningDataModule):
    """Notes whether it was called for a failure; centres its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[BaseException] = []

    def train_dataloader(self) -> DataLoader:
        return in_order()["train_dataloaders"]

    def val_dataloader(self) -> DataLoader:
        return in_order()["val_dataloaders"]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return x, y

    def on_exception(self, exception: BaseException) -> None:
        self.failures.append(exception)


class Monitoring(pl.Callback):
    """A callback that the module itself brings."""


class Brings(Task):
    """Brings a callback, has a loss that can turn NaN, and logs it."""

    factor = 1.0

    def configure_callbacks(self) -> list[pl.Callback]:
        return [Monitoring()]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * self.factor


def state_of(evaluator: Lightning) -> dict[str, Any]:
    """Return what a search might change in an evaluator, to be compared."""
    trainer = evaluator.trainer
    return {
        "evaluator": {name: value for name, value in vars(evaluator).items() if name != "_trace_kwargs"},
        "fit_kwargs": dict(evaluator.fit_kwargs),
        "callbacks": list(trainer.callbacks),
        "interval": trainer.check_val_every_n_epoch,
        "accumulation": (trainer.accumulate_grad_batches, trainer.gradient_clip_val),
        "module": {"log", "optimizers", "training_step", "validation_step"} & set(vars(evaluator.module)),
        "data": {name for name, value in vars(evaluator.datamodule).items() if callable(value)},
    }


@pytest.mark.parametrize("factor", [1.0, float("nan")], ids=["ends", "raises"])
def test_nothing_of_the_search_is_left(factor, tmp_path):
    task, data = Brings(), Data()
    given = trainer(tmp_path, accumulate_grad_batches=2, gradient_clip_val=0.5, check_val_every_n_epoch=1)
    evaluator = Lightning(task, given, datamodule=data, fit_kwargs={"weights_only": True})
    before = state_of(evaluator)
    strategy = prepare(Searched(), evaluator, validate_every_n_epochs=3)
    strategy._mutated_model_space.evaluator.fit_kwargs["ckpt_path"] = None  # as a resume sets it
    task.factor = factor
    if factor == 1:
        strategy.run()
    else:
        with pytest.raises(NonFiniteLossError):
            strategy.run()
    assert state_of(evaluator) == before
    assert [type(error) for error in data.failures] == ([] if factor == 1 else [NonFiniteLossError])
    task.factor = 1.0
    trained(evaluator, strategy)


def trained(evaluator: Lightning, strategy: Any) -> None:
    """Train a network with the evaluator, and see that it is trained for as many epochs as the trainer says."""
    winner = Searched().freeze({"other": 1})
    start = winner.head.weight.detach().clone()
    evaluator.evaluate(winner)
    assert evaluator.module.model is winner
    assert not torch.equal(winner.head.weight, start)
    assert evaluator.trainer.current_epoch == evaluator.trainer.max_epochs
    assert not any("balenas" in type(callback).__module__ for callback in evaluator.trainer.callbacks)
    assert strategy.oneshot_module.named_arch_parameters()  # the search's own, not of the network trained since
    next(iter(strategy.list_models()))
    assert evaluator.module.model is winner


def test_a_trainer_that_searched_trains_as_a_new_one(tmp_path):
    """What it counts and remembers is the search's until it fits again."""
    stopping = EarlyStopping("val_loss", patience=1)  # of a metric that does not fall
    evaluator = Lightning(Task(), trainer(tmp_path, max_epochs=4, callbacks=[stopping]), **in_order())
    for _ in range(2):
        strategy = searched(evaluator)
        assert evaluator.trainer.current_epoch == 2
        assert stopping.stopped_epoch == 1
        assert {state["step"] for state in strategy.oneshot_module.distribution.optimizer.state.values()} == {
            2 * TRAIN_BATCHES
        }
    model = next(iter(strategy.list_models()))
    evaluator.trainer.fit_loop.max_epochs = 5
    model.evaluator.evaluate(model.executable_model())
    assert evaluator.trainer.max_epochs == 5
    assert evaluator.trainer.current_epoch == 2  # not stopped in its first epoch by what the searches have seen


def test_callbacks_of_a_search_leave_alone_what_is_trained_after_it(tmp_path, capsys):
    """The training is not stopped because the search was; the next search begins the record anew."""
    log = tmp_path / "d.jsonl"
    diagnostics = Diagnostics(log, {"curvature": "off"})
    given = trainer(tmp_path, max_epochs=2, callbacks=[diagnostics, SearchPlan()])
    evaluator = Lightning(Task(), given, **in_order())
    searched(evaluator)
    diagnostics.records[-1]["stopped"] = "as a warning does"
    written = log.read_bytes()
    assert "search: supernet" in capsys.readouterr().err
    evaluator.evaluate(Searched().freeze({"other": 1}))
    assert given.current_epoch == 2
    assert log.read_bytes() == written
    assert "search: " not in capsys.readouterr().err
    searched(evaluator)
    assert [record["epoch"] for record in read_log(log).records] == [0, 1]
    assert "search: supernet" in capsys.readouterr().err


def test_a_search_with_a_trainer_that_has_trained_before(tmp_path):
    """In plain Lightning, a second fit of a trainer ends at once."""
    evaluator = Lightning(Task(), trainer(tmp_path), **in_order())
    evaluator.evaluate(Searched().freeze({"other": 0}))
    strategy = searched(evaluator)
    assert {state["step"] for state in strategy.oneshot_module.distribution.optimizer.state.values()} == {TRAIN_BATCHES}


@pytest.mark.parametrize(
    ("options", "own", "validated"),
    [
        ({"check_val_every_n_epoch": 2}, {}, [1, 3]),
        ({}, {"validate_every_n_epochs": 4}, [3]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 5}, {}, [1, 3]),
        ({"val_check_interval": 0.34, "limit_val_batches": 1}, {"validate_every_n_epochs": 4}, [3, 3, 3]),
    ],
)
def test_the_trainer_says_when_to_validate(options, own, validated, tmp_path):
    epochs: list[int] = []

    class Noting(Task):
        def on_validation_epoch_start(self) -> None:
            epochs.append(self.current_epoch)

    evaluator = Lightning(Noting(), trainer(tmp_path, max_epochs=4, num_sanity_val_steps=0, **options), **in_order())
    searched(evaluator, **own)
    assert epochs == validated
