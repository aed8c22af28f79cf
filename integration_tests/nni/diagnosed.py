"""Searches with diagnostics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import DARTS, GumbelDARTS, Proxyless, RandomOneShot
from torch import Tensor, nn

from balenas_plugin import BaLeNAS, Diagnostics, DrNAS
from balenas_plugin.diagnostics import read_log

from . import spaces
from .searches import classification

CLASSES = spaces.CLASSES


class Space(ModelSpace):
    """Two choices, with everything in between that a careless measurement would disturb: batch-norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LayerChoice(
            {"linear": nn.Linear(8, 8), "skip": nn.Identity(), "tanh": nn.Sequential(nn.Linear(8, 8), nn.Tanh())},
            label="first",
        )
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.second = LayerChoice({"linear": nn.Linear(8, 8), "skip": nn.Identity()}, label="second")
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.drop(torch.tanh(self.norm(self.first(x))))))


def run(strategy: Any, folder: Path, *, space: type[ModelSpace] = Space, epochs: int = 3, **options: Any) -> Any:
    """Search with diagnostics, if there are `options` for them; return the strategy and what was written."""
    callbacks = [Diagnostics(folder / "d.jsonl", options)] if options else []
    pl.seed_everything(3, verbose=False)
    evaluator = classification(folder, max_epochs=epochs, callbacks=callbacks)
    strategy.initialize(RawFormatModelSpace(space(), evaluator), SequentialExecutionEngine())
    strategy.run()
    return strategy, (read_log(folder / "d.jsonl") if options else None)


STRATEGIES = {
    "BaLeNAS": lambda: BaLeNAS(arc_learning_rate=0.05, num_mc_samples=2, weight_step_alpha="sample"),
    "BaLeNAS with warm-up": lambda: BaLeNAS(arc_learning_rate=0.05, warmup_epochs=1),
    "DrNAS": lambda: DrNAS(arc_learning_rate=0.05),
    "DARTS": lambda: DARTS(arc_learning_rate=0.05),
    "DARTS with warm-up": lambda: DARTS(arc_learning_rate=0.05, warmup_epochs=1),
    "GumbelDARTS": lambda: GumbelDARTS(arc_learning_rate=0.05, temperature=(2.0, 0.5)),
    "Proxyless": lambda: Proxyless(arc_learning_rate=0.05),
    "RandomOneShot": RandomOneShot,
}
