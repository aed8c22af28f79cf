"""What a search logs, when it validates, and what it reports to NNI."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
import torchmetrics
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, IntermediateMetricEvent, ModelEventType
from nni.nas.profiler import ExpressionProfiler
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import DARTS
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

from balenas_plugin import BaLeNAS, SecondOrderDARTS

from .searches import (
    QUIET,
    TRAIN_MARK,
    VAL_MARK,
    classification,
    is_training,
    loaders,
    prepare,
    random_data,
    search,
)
from .spaces import FactoryCell, Layers


def rows_of(folder: Path) -> list[dict[str, str]]:
    (file,) = folder.rglob("metrics.csv")
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def column(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row.get(name)]


def searched_with_csv(space: Any, folder: Path, **options: Any) -> tuple[Any, list[dict[str, str]]]:
    """Search for two epochs of two steps and return the strategy and the rows of the log."""
    evaluator = classification(folder, max_epochs=2, logger=CSVLogger(folder), log_every_n_steps=1)
    strategy = search(space, evaluator, log_prob_every_n_step=1, arc_learning_rate=0.1, **options)
    return strategy, rows_of(folder)


def test_log_has_losses_accuracies_probabilities_sigmas_and_entropy(tmp_path):
    strategy, rows = searched_with_csv(Layers(), tmp_path)
    names = {name for row in rows for name in row}
    assert {"train_loss", "train_acc", "val_loss", "val_acc", "entropy", "sigma", "sigma/op", "sigma/act"} <= names
    assert {f"prob/op/{k}" for k in range(3)} | {"prob/act/relu", "prob/act/none"} <= names
    assert {"arch_loss_step", "arch_loss_epoch", "mu_step_step", "mu_step_epoch"} <= names
    last = {name: column(rows, name)[-1] for name in names - {"epoch", "step"}}
    posterior = strategy.posterior
    assert math.isclose(last["entropy"], posterior.entropy(), rel_tol=1e-5)
    for label, sigma in posterior.std.items():
        assert math.isclose(last[f"sigma/{label}"], float(sigma.mean()), rel_tol=1e-5)
    for label, mu in posterior.mean.items():
        for choice, p in zip(posterior.choices[label], mu.softmax(-1).tolist(), strict=True):
            assert math.isclose(last[f"prob/{label}/{choice}"], p, rel_tol=1e-5)
    assert len(column(rows, "val_acc")) == 2
    assert all(value > 0 for value in column(rows, "mu_step_step"))


def test_log_of_a_cell_has_the_probability_of_every_operation_on_every_edge(tmp_path):
    _, rows = searched_with_csv(FactoryCell(), tmp_path)
    edges = ("2_0", "2_1", "3_0", "3_1", "3_2")
    expected = {f"prob/cell/{edge}/{op}" for edge in edges for op in ("linear", "identity", "scaled")}
    assert expected | {f"sigma/cell/{edge}" for edge in edges} <= {name for row in rows for name in row}


def test_probabilities_are_logged_every_so_many_steps(tmp_path):
    data = loaders(train=40, val=40)
    evaluator = classification(tmp_path, logger=CSVLogger(tmp_path), log_every_n_steps=1, **data)
    search(Layers(), evaluator, log_prob_every_n_step=2)
    rows = rows_of(tmp_path)
    assert len(set(column(rows, "entropy"))) == 3  # Lightning repeats a value until the next
    assert len(column(rows, "arch_loss_step")) == 5


def test_warm_up_logs_no_architecture_loss(tmp_path):
    evaluator = classification(
        tmp_path, max_epochs=3, max_steps=4, logger=CSVLogger(tmp_path), log_every_n_steps=1
    )  # it ends with the warm-up
    search(Layers(), evaluator, warmup_epochs=2)
    rows = rows_of(tmp_path)
    assert column(rows, "train_loss")
    assert not [name for row in rows for name in row if name.startswith(("arch_loss", "mu_step"))]


class Counting(LightningModule):
    """Logs the mark of the batch it was given (see `searches`)."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.log("trained_on", batch[0][:, 0].mean(), on_step=True, on_epoch=True)
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run_strategy(strategy: Any, evaluator: Any) -> None:
    """Search `Layers` with any strategy."""
    strategy.initialize(RawFormatModelSpace(Layers(), evaluator), SequentialExecutionEngine())
    strategy.run()


@pytest.mark.parametrize("strategy", [BaLeNAS(order="first"), BaLeNAS(order="second"), SecondOrderDARTS()], ids=str)
def test_training_metrics_come_from_the_weight_step_alone(strategy, tmp_path):
    trainer = Trainer(
        default_root_dir=tmp_path, **{**QUIET, "logger": CSVLogger(tmp_path)}, max_epochs=1, log_every_n_steps=1
    )
    run_strategy(strategy, Lightning(Counting(), trainer, **loaders()))
    rows = rows_of(tmp_path)
    assert column(rows, "trained_on_step") == [1.0, 1.0]
    assert column(rows, "trained_on_epoch") == [1.0]


class CountingMetric(Counting):
    """Logs the same with a metric object, which keeps a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mark = torchmetrics.MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.mark(batch[0][:, 0].mean())
        self.log("trained_on", self.mark, on_step=False, on_epoch=True)
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])


@pytest.mark.parametrize("strategy", [BaLeNAS(), SecondOrderDARTS()], ids=["BaLeNAS", "SecondOrderDARTS"])
def test_training_metric_objects_see_the_weight_step_alone(strategy, tmp_path):
    trainer = Trainer(default_root_dir=tmp_path, **QUIET, max_epochs=1)
    run_strategy(strategy, Lightning(CountingMetric(), trainer, **loaders()))
    assert float(strategy.oneshot_module.trainer.callback_metrics["trained_on"]) == 1.0


class Cost(ExpressionProfiler):
    """Ten units for every step along the candidates of `op`."""

    def __init__(self) -> None:
        self.expression = nni.choice("op", [0, 1, 2]) * 10.0


@pytest.mark.parametrize("strategy", [DARTS, SecondOrderDARTS])
def test_darts_of_either_order_logs_probabilities_and_takes_a_penalty(strategy, tmp_path):
    penalty = {"profiler": Cost(), "baseline": 5.0, "scale": 3.0}
    evaluator = classification(tmp_path, logger=CSVLogger(tmp_path), log_every_n_steps=1, **loaders(train=40, val=40))
    run_strategy(strategy(penalty=penalty, log_prob_every_n_step=2), evaluator)
    rows = rows_of(tmp_path)
    assert len(set(column(rows, "prob/op/2"))) == 3  # of five steps; Lightning repeats a value until the next
    assert column(rows, "penalty/normalized_penalty") == pytest.approx([10 / 5 - 1] * 5, abs=0.05)


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (0, [])])
def test_validates_every_so_many_epochs_at_the_mean(every, epochs, tmp_path):
    evaluator = classification(tmp_path, max_epochs=4, num_sanity_val_steps=0)
    strategy = prepare(
        Layers(), evaluator, validate_every_n_epochs=every, weight_step_alpha="sample", arc_learning_rate=0.1
    )
    module, validated, means = strategy.oneshot_module, [], []
    own_step = module.training_module.validation_step

    def validation_step(batch: Any, batch_idx: int) -> None:
        assert not is_training(batch)
        validated.append((module.trainer.current_epoch, [a.detach().clone() for a in module.arch_parameters()]))
        own_step(batch, batch_idx)

    module.training_module.validation_step = validation_step
    module.on_train_batch_end = lambda *args: means.append([a.detach().clone() for a in module.arch_parameters()])
    strategy.run()
    assert sorted({epoch for epoch, _ in validated}) == epochs
    for epoch, alphas in validated:
        assert all(torch.equal(a, mu) for a, mu in zip(alphas, means[2 * epoch + 1], strict=True))
    assert ("val_acc" in module.trainer.callback_metrics) == bool(epochs)
    assert ("val_loss" in module.trainer.callback_metrics) == bool(epochs)


def test_validation_leaves_the_weights_and_the_posterior(tmp_path):
    in_order = {  # shuffling would use the random numbers that a validation loader's iterator takes one of
        "train_dataloaders": DataLoader(random_data(16, mark=TRAIN_MARK), batch_size=8),
        "val_dataloaders": DataLoader(random_data(16, mark=VAL_MARK), batch_size=8),
    }

    def run(every: int, folder: Path) -> Any:
        torch.manual_seed(0)
        return search(Layers(), classification(folder, max_epochs=2, **in_order), validate_every_n_epochs=every)

    with_it, without = run(1, tmp_path / "with"), run(0, tmp_path / "without")
    for label, mu in with_it.posterior.mean.items():
        assert torch.equal(mu, without.posterior.mean[label])
    for one, other in zip(with_it.supernet.parameters(), without.supernet.parameters(), strict=True):
        assert torch.equal(one, other)


def reports_of(strategy: Any) -> tuple[list[float], list[float]]:
    """Run the strategy and return the intermediate and the final results that NNI was given."""
    intermediate: list[IntermediateMetricEvent] = []
    final: list[FinalMetricEvent] = []
    strategy.engine.register_model_event_callback(ModelEventType.IntermediateMetric, intermediate.append)
    strategy.engine.register_model_event_callback(ModelEventType.FinalMetric, final.append)
    strategy.run()
    return [event.metric for event in intermediate], [event.metric for event in final]


def test_validation_accuracy_is_reported_to_nni(tmp_path):
    strategy = prepare(Layers(), classification(tmp_path, max_epochs=3))
    intermediate, final = reports_of(strategy)
    assert len(intermediate) == 3
    assert final == [intermediate[-1]]
    assert final[0] == pytest.approx(float(strategy.oneshot_module.trainer.callback_metrics["val_acc"]))


def test_without_validation_the_final_result_is_the_training_accuracy(tmp_path):
    strategy = prepare(Layers(), classification(tmp_path, max_epochs=2), validate_every_n_epochs=0)
    intermediate, final = reports_of(strategy)
    assert intermediate == []
    assert final == [pytest.approx(float(strategy.oneshot_module.trainer.callback_metrics["train_acc"]))]


def test_a_search_shorter_than_the_validation_interval_ends_well(tmp_path):
    strategy = prepare(Layers(), classification(tmp_path, max_epochs=2), validate_every_n_epochs=5)
    _, final = reports_of(strategy)
    assert len(final) == 1


def test_module_without_a_validation_step_is_searched_without_validation(tmp_path, caplog):
    trainer = Trainer(default_root_dir=tmp_path, **QUIET, max_epochs=2)
    with caplog.at_level(logging.WARNING):
        strategy = search(Layers(), Lightning(Counting(), trainer, **loaders()))
    assert strategy.oneshot_module.trainer.state.finished
