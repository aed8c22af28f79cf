"""The evaluators a search accepts: NNI's own, a user's Lightning module, and data in loaders or a datamodule."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Regression, Trainer
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from .searches import (
    QUIET,
    TRAIN_MARK,
    VAL_MARK,
    Spy,
    classification,
    is_training,
    loaders,
    prepare,
    random_data,
    search,
)
from .spaces import Layers, SharedLabel


class Data(pl.LightningDataModule):
    """Twice as many validation as training examples, of which a part is used."""

    def setup(self, stage: str) -> None:
        self.train = random_data(16, mark=TRAIN_MARK)
        self.val = Subset(random_data(64, mark=VAL_MARK), range(32))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=8)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=8)


class Schedule(LightningModule):
    """A user's own module: SGD with momentum on a schedule by epochs, and a metric of its own."""

    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        self.as_dict = as_dict
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        self.log_dict({"train_loss": loss})
        return {"loss": loss, "more": 1} if self.as_dict else loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_agreement", (self.model(batch[0]).argmax(-1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": schedule} if self.as_dict else ([optimizer], [schedule])

    def on_train_epoch_start(self) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])


def trainer(folder: Any, **overrides: Any) -> Trainer:
    return Trainer(default_root_dir=folder, **{**QUIET, "max_epochs": 1, **overrides})


@pytest.mark.parametrize("order", ["first", "second"])
def test_classification(order, tmp_path):
    strategy = search(Layers(), classification(tmp_path), order=order)
    assert {"train_loss", "train_acc", "val_loss", "val_acc"} <= set(strategy.oneshot_module.trainer.callback_metrics)


@pytest.mark.parametrize("order", ["first", "second"])
def test_regression(order, tmp_path):
    def data(seed: int) -> TensorDataset:
        generator = torch.Generator().manual_seed(seed)
        return TensorDataset(torch.randn(16, 8, generator=generator), torch.randn(16, 3, generator=generator))

    evaluator = Regression(
        train_dataloaders=DataLoader(data(0), batch_size=8),
        val_dataloaders=DataLoader(data(1), batch_size=8),
        max_epochs=1,
        default_root_dir=tmp_path,
        **QUIET,
    )
    strategy = search(Layers(), evaluator, order=order)
    assert {"train_loss", "train_mse", "val_loss", "val_mse"} <= set(strategy.oneshot_module.trainer.callback_metrics)
    assert {state["step"] for state in strategy.oneshot_module.distribution.optimizer.state.values()} == {2}


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("as_dict", [True, False])
def test_own_module_with_a_schedule(as_dict, order, tmp_path):
    own = Schedule(as_dict)
    evaluator = Lightning(own, trainer(tmp_path, max_epochs=3), **loaders())
    strategy = search(Layers(), evaluator, order=order)
    assert own.rates == pytest.approx([0.1, 0.01, 0.001])
    assert "val_agreement" in strategy.oneshot_module.trainer.callback_metrics
    assert (
        strategy.oneshot_module.distribution.optimizer.param_groups[0]["lr"] == 3e-4
    )  # the schedule is the weights' alone


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("order", ["first", "second"])
def test_other_weight_optimizers(order, optimizer, tmp_path):
    strategy = search(Layers(), classification(tmp_path, optimizer=optimizer, learning_rate=0.01), order=order)
    assert {state["step"] for state in strategy.oneshot_module.distribution.optimizer.state.values()} == {2}


def test_datamodule(tmp_path):
    """The shorter training data starts again, and N is counted where the datamodule makes its loaders."""
    strategy = prepare(SharedLabel(), classification(tmp_path, datamodule=Data()), num_mc_samples=1)
    seen: list[bool] = []
    Spy(strategy, lambda batch: seen.append(is_training(batch)))
    strategy.run()
    assert seen == [False, True] * 4
    assert strategy.oneshot_module.distribution.optimizer.dataset_size == 32
    assert "val_acc" in strategy.oneshot_module.trainer.callback_metrics


def test_longer_training_data_walks_the_validation_data_again(tmp_path):
    strategy = prepare(Layers(), classification(tmp_path, **loaders(train=40, val=16)), num_mc_samples=1)
    seen: list[bool] = []
    Spy(strategy, lambda batch: seen.append(is_training(batch)))
    strategy.run()
    assert seen == [False, True] * 5
    assert strategy.oneshot_module.distribution.optimizer.dataset_size == 16


def test_gradient_clipping_bounds_the_weight_step(tmp_path):
    before = prepare(
        Layers(), classification(tmp_path, learning_rate=1.0, limit_train_batches=1), gradient_clip_val=1e-3
    )
    start = {n: p.detach().clone() for n, p in before.supernet.named_parameters()}
    before.run()
    alphas = {id(a) for a in before.oneshot_module.arch_parameters()}
    moved = [p - start[n] for n, p in before.supernet.named_parameters() if id(p) not in alphas]
    assert 0 < torch.cat([m.flatten() for m in moved]).norm() < 1.01e-3


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precisions(precision, tmp_path):
    posterior = search(Layers(), classification(tmp_path, precision=precision)).posterior
    assert all(torch.isfinite(mu).all() for mu in posterior.mean.values())


def inferred(module: nn.Module, x: Tensor) -> Tensor:
    return module.eval()(x)


def test_search_module_runs_the_supernet(tmp_path):
    strategy = search(Layers(), classification(tmp_path))
    x = torch.randn(4, 8)
    module = strategy.oneshot_module
    assert torch.equal(inferred(module, x), inferred(strategy.supernet, x))
