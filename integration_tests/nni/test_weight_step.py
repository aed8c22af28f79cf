"""The weight step of a search against plain Lightning: learning rates, accumulated and clipped gradients, no loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace

from balenas_plugin import DARTS, SecondOrderDARTS
from balenas_plugin.errors import EvaluatorError
from balenas_plugin.search import Search

from .plain import TRAIN_BATCHES, Head, Searched, Task, in_order, plain_fit, searched, trainer
from .spaces import Layers


class Monitored(Task):
    """Logs metrics that stop falling: one in every step, one in every validation; its batches may end early."""

    def __init__(self, optimizers_of: Callable[[Any], Any] | None = None, *, ends_at: int | None = None) -> None:
        super().__init__(optimizers_of)
        self.ends_at = ends_at

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("step_metric", float(self.global_step // 2), on_step=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_metric", 10.0 + self.current_epoch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == self.ends_at else None


def plateau(monitor: str, **options: Any) -> Callable[[Any], Any]:
    def make(module: Any) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor, **options}}

    return make


def by_steps(module: Any) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0, momentum=0.5)
    schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=gamma) for gamma in (0.9, 0.5)]
    return [optimizer], [{"scheduler": schedulers[0], "interval": "step", "frequency": 2}, schedulers[1]]


@pytest.mark.parametrize(
    ("optimizers_of", "ends_at", "options"),
    [
        (plateau("val_metric"), None, {}),
        (plateau("step_metric", interval="step", frequency=2), None, {}),
        (plateau("nowhere", strict=False), None, {}),
        (by_steps, None, {}),
        (by_steps, 2, {}),
        (by_steps, None, {"accumulate_grad_batches": 2}),
        (None, None, {"accumulate_grad_batches": 4, "gradient_clip_val": 0.1}),
        (None, None, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    ],
)
def test_weights_and_learning_rates_are_those_of_plain_lightning(optimizers_of, ends_at, options, tmp_path):
    options = {"max_epochs": 3, **options}
    plain, own = (Monitored(optimizers_of, ends_at=ends_at) for _ in range(2))
    network = plain_fit(plain, trainer(tmp_path, **options), **in_order(40))
    strategy = searched(Lightning(own, trainer(tmp_path, **options), **in_order(40)))
    assert own.rates == plain.rates
    assert len(plain.rates) == 3 * (5 if ends_at is None else ends_at)
    for name, value in network.state_dict().items():
        assert torch.allclose(strategy.supernet.state_dict()[name], value, atol=1e-6), name
    assert {state["step"] for state in strategy.oneshot_module.distribution.optimizer.state.values()} == {
        len(plain.rates)
    }


def test_a_metric_that_is_never_logged_is_named(tmp_path):
    evaluator = Lightning(Task(plateau("val_los")), trainer(tmp_path), **in_order())
    with pytest.raises(EvaluatorError, match=r"monitors 'val_los', which was not logged .* train_loss, val_loss"):
        searched(evaluator)


def test_second_order_darts_shares_the_weight_step(tmp_path):
    options = {"max_epochs": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 0.1}
    plain, own = Task(by_steps), Task(by_steps)
    network = plain_fit(plain, trainer(tmp_path, **options))
    torch.manual_seed(0)
    strategy = SecondOrderDARTS()
    evaluator = Lightning(own, trainer(tmp_path, **options), **in_order())
    strategy.initialize(RawFormatModelSpace(Searched(), evaluator), SequentialExecutionEngine())
    strategy.run()
    assert torch.allclose(strategy.supernet.head.weight, network.head.weight, atol=1e-6)


class Skips(Task):
    """Returns no loss for every second batch, and a dict for the others; its steps do not take the batch's number."""

    asked = 0

    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        self.asked += 1
        return {"loss": super().training_step(batch, 0)} if self.asked % 2 else None

    def validation_step(self, batch: Any) -> Any:  # type: ignore[override]
        super().validation_step(batch, 0)


def test_a_step_without_a_loss_is_left_out(tmp_path):
    strategy = searched(Lightning(Skips(), trainer(tmp_path), **in_order()), num_mc_samples=1)
    assert strategy.oneshot_module.trainer.global_step == TRAIN_BATCHES  # as Lightning counts them
    assert {state["step"] for state in strategy.oneshot_module.distribution.optimizer.state.values()} == {TRAIN_BATCHES}
    assert torch.equal(strategy.supernet.head.weight, Head().head.weight)  # the second of each two trains the weights


@pytest.mark.parametrize("clip_with", ["weights", "architecture", "stale-architecture"])
def test_the_clipped_norm_is_that_of_the_weights_or_of_both_levels(clip_with, tmp_path, monkeypatch) -> None:
    norms: list[tuple[float, float, float]] = []
    others: list[list[torch.Tensor]] = []
    counted = Search._architecture_gradients
    monkeypatch.setattr(Search, "_architecture_gradients", lambda *given: others.append(counted(*given)) or others[-1])

    class Clipped(Task):
        def norm(self) -> float:
            weights = [p.grad for name, p in self.named_parameters() if "alpha" not in name and p.grad is not None]
            return float(torch.nn.utils.get_total_norm(weights))

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.before = self.norm()

        def on_train_batch_end(self, *args: Any) -> None:
            norms.append(
                (self.before, float(torch.nn.utils.get_total_norm(others.pop() if others else [])), self.norm())
            )

    strategy = DARTS(clip_with=clip_with, gradient_clip_val=0.01)
    evaluator = Lightning(Clipped(), trainer(tmp_path), **in_order())
    strategy.initialize(RawFormatModelSpace(Layers(), evaluator), SequentialExecutionEngine())
    strategy.run()
    assert len(norms) == TRAIN_BATCHES
    for before, architecture, clipped in norms:
        assert (architecture > 0) == (clip_with != "weights")
        assert clipped == pytest.approx(0.01 * before / math.hypot(before, architecture), rel=1e-3)
