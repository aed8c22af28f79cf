"""Short searches on random data, the way a user of NNI starts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import RawFormatModelSpace
from torch.utils.data import Dataset, TensorDataset

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule

from .spaces import CLASSES, VECTOR

TRAIN_MARK, VAL_MARK = 1.0, -1.0
"""First entry of every input, which distinguishes the training data from the validation data."""

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
}


def random_data(count: int, *, mark: float, shape: tuple[int, ...] = VECTOR, seed: int = 0) -> TensorDataset:
    """Return `count` random inputs, whose first entry is `mark`, with random labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *shape, generator=generator)
    x.view(count, -1)[:, 0] = mark
    return TensorDataset(x, torch.randint(CLASSES, (count,), generator=generator))


def loaders(
    *,
    train: int | Dataset[Any] = 16,
    val: int | Dataset[Any] = 16,
    batch_size: int = 8,
    shape: tuple[int, ...] = VECTOR,
) -> dict[str, DataLoader]:
    """Return a training and a validation loader as an evaluator's keyword arguments; a number is that many examples."""
    train = random_data(train, mark=TRAIN_MARK, shape=shape, seed=0) if isinstance(train, int) else train
    val = random_data(val, mark=VAL_MARK, shape=shape, seed=1) if isinstance(val, int) else val
    return {
        "train_dataloaders": DataLoader(train, batch_size=batch_size, shuffle=True),
        "val_dataloaders": DataLoader(val, batch_size=batch_size),
    }


def classification(folder: Path, **overrides: Any) -> Classification:
    """Return NNI's classification evaluator: one epoch of two batches with SGD; `overrides` are its arguments."""
    given = {
        "num_classes": CLASSES,
        "max_epochs": 1,
        "learning_rate": 0.1,
        "optimizer": torch.optim.SGD,
        "default_root_dir": folder,
        **QUIET,
        **overrides,
    }
    if not {"datamodule", "train_dataloaders", "val_dataloaders"} & set(overrides):
        given.update(loaders())
    return Classification(**given)


def prepare(space: ModelSpace, evaluator: Any, **options: Any) -> BaLeNAS:
    """Return a strategy ready for `run`, whose search module already holds the supernet."""
    strategy = BaLeNAS(**options)
    strategy.initialize(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    strategy.oneshot_module.set_model(strategy.supernet)
    return strategy


def search(space: ModelSpace, evaluator: Any, **options: Any) -> BaLeNAS:
    """Return a strategy that has searched `space`."""
    strategy = prepare(space, evaluator, **options)
    strategy.run()
    return strategy


def set_posterior(module: DistributionModule, seed: int) -> None:
    """Give the module a posterior with very different means and sigmas, as after a long search."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for alpha in module.arch_parameters():
            alpha.copy_(torch.randn(alpha.shape, generator=generator))
            precision = torch.rand(alpha.shape, generator=generator) * 5 + 1
            module.distribution.optimizer.state[alpha]["s"].copy_(
                (precision - 1) / module.distribution.optimizer.dataset_size
            )


class Spy:
    """Wrap an evaluator module's `training_step`; call `look(batch)` before each evaluation of the loss.

    Args:
        strategy: as `prepare` returns it.
        look: called with the batch.
    """

    def __init__(self, strategy: BaLeNAS, look: Callable[[Any], None]) -> None:
        self._module = strategy.oneshot_module.training_module
        self._step = self._module.training_step
        self._look = look
        self._module.training_step = self

    def __call__(self, batch: Any, batch_idx: int) -> Any:
        self._look(batch)
        return self._step(batch, batch_idx)


def is_training(batch: Any) -> bool:
    """Return whether this is a batch of the training data."""
    return bool((batch[0].flatten(1)[:, 0] == TRAIN_MARK).all())
