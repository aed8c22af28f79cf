"""Alarms, early stopping and loggers in real searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import DARTS, RandomOneShot
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from balenas_plugin import BaLeNAS, Diagnostics
from balenas_plugin.diagnostics import read_log
from balenas_plugin.errors import EvaluatorError
from balenas_plugin.training.epochs import TrainingBar

from .diagnosed import CLASSES, STRATEGIES, Space, run
from .searches import classification, random_data


def test_early_stopping_by_entropy_ends_the_search(tmp_path, capsys):
    strategy, log = run(
        STRATEGIES["BaLeNAS"](), tmp_path, epochs=6, curvature="off", stop_by="entropy", entropy_threshold=2.0
    )
    assert len(log.records) == 1
    assert "decided" in log.records[0]["stopped"]
    assert "stopped early" in capsys.readouterr().err
    assert len(list(strategy.list_models(limit=2))) == 2  # what was found can be had


def test_early_stopping_by_eigenvalue_ends_the_search(tmp_path):
    options = {"curvature_every_n_epochs": 1, "stop_by": "eigenvalue", "window": 1, "factor": 1e-9}
    _, log = run(DARTS(arc_learning_rate=0.1), tmp_path, epochs=6, **options)
    stopped = [record for record in log.records if "stopped" in record]
    assert stopped == log.records[-1:]
    assert len(log.records) < 6


def test_a_warning_is_reported_once(tmp_path, capsys):
    _, log = run(BaLeNAS(arc_learning_rate=1e-6), tmp_path, epochs=5, curvature="off", window=2)
    raised = [[warning["kind"] for warning in record.get("alarms", [])] for record in log.records]
    assert raised[0] == []
    assert all("standstill" in kinds for kinds in raised[2:])
    assert capsys.readouterr().err.count("hardly move") == 1


def test_random_sampling_has_no_logits_that_could_stand_still(tmp_path):
    _, log = run(RandomOneShot(), tmp_path, epochs=4, curvature="off", window=2)
    assert [record.get("alarms", []) for record in log.records] == [[]] * 4


def test_a_broken_search_is_reported(tmp_path, capsys):
    """NNI's DARTS goes on with NaN weights."""
    torch.manual_seed(0)
    evaluator = classification(tmp_path, max_epochs=2, learning_rate=1e30, callbacks=[Diagnostics("d.jsonl")])
    strategy = DARTS()
    strategy.initialize(RawFormatModelSpace(Space(), evaluator), SequentialExecutionEngine())
    strategy.run()
    last = read_log(Path("d.jsonl")).records[-1]
    assert "weights" in last["not_finite"]
    assert "nan" in [warning["kind"] for warning in last["alarms"]]
    assert "NaN or infinite" in capsys.readouterr().err


class Remembering(Logger):
    """A logger that keeps what it is given."""

    name, version = "remembering", 0

    def __init__(self) -> None:
        self.metrics: dict[str, list[tuple[int, float]]] = {}

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        for name, value in metrics.items():
            self.metrics.setdefault(name, []).append((step, value))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing."""


def test_loggers_get_the_numbers(tmp_path):
    logger = Remembering()
    evaluator = classification(
        tmp_path, max_epochs=2, logger=logger, callbacks=[Diagnostics("d.jsonl", {"curvature_every_n_epochs": 1})]
    )
    strategy = BaLeNAS()
    strategy.initialize(RawFormatModelSpace(Space(), evaluator), SequentialExecutionEngine())
    strategy.run()
    records = read_log(Path("d.jsonl")).records
    for name in ("entropy", "eigenvalue", "skip_ratio"):
        assert [value for _, value in logger.metrics[f"diagnostics/{name}"]] == [r[name] for r in records]
    assert "diagnostics/probability/first/skip" in logger.metrics
    assert [step for step, _ in logger.metrics["diagnostics/entropy"]] == [1, 3]  # the last of each epoch
    assert not any("diagnostics" in name for name in evaluator.trainer.callback_metrics)


class Endless(IterableDataset):
    """Examples without a number."""

    def __iter__(self) -> Any:
        return iter(random_data(24, mark=0.0))


def test_loaders_without_a_length(tmp_path, capsys):
    logger = Remembering()
    data = {name: DataLoader(Endless(), batch_size=8) for name in ("train_dataloaders", "val_dataloaders")}
    watching = [Diagnostics("d.jsonl", {"curvature": "off"}), TrainingBar("search")]
    evaluator = classification(tmp_path, max_epochs=2, logger=logger, callbacks=watching, **data)
    strategy = BaLeNAS(dataset_size=24)
    strategy.initialize(RawFormatModelSpace(Space(), evaluator), SequentialExecutionEngine())
    strategy.run()
    assert [record["epoch"] for record in read_log(Path("d.jsonl")).records] == [0, 1]
    assert [step for step, _ in logger.metrics["diagnostics/entropy"]] == [2, 5]
    assert "search: 6it" in capsys.readouterr().err


def test_it_is_refused_outside_of_a_one_shot_search(tmp_path):
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    evaluator = classification(tmp_path, callbacks=[Diagnostics("d.jsonl")])
    evaluator.module.set_model(nn.Linear(8, CLASSES))
    with pytest.raises(EvaluatorError, match="Diagnostics is for one-shot searches"):
        evaluator.trainer.fit(evaluator.module, evaluator.train_dataloaders, evaluator.val_dataloaders)
