"""A user's evaluator whose weights are trained in a search as in plain Lightning, whatever the architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from balenas_plugin import BaLeNAS

from .searches import QUIET, TRAIN_MARK, VAL_MARK, prepare, random_data
from .spaces import CLASSES

DRAWS, TRAIN_BATCHES = 2, 3


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
