"""What `SearchPlan` says before a search and during it, and that it changes nothing."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from balenas_plugin import SearchPlan
from balenas_plugin.adapters.nni.callbacks import plan, thread_choice
from balenas_plugin.adapters.nni.callbacks.thread_choice import ThreadChoice
from balenas_plugin.errors import EvaluatorError
from balenas_plugin.perturbations.adversarial import AdversarialPerturbation

from .searches import classification, loaders, search
from .spaces import Layers


def lines_of(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("search: ")]
    found = [re.fullmatch(r"search: (\w+) +(.*)", line) for line in lines]
    assert all(found), lines
    return {match[1]: match[2] for match in found if match}


def test_a_script_is_shown_the_plan_and_the_time_and_finds_the_same(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(plan, "_TIMED", 3)
    posteriors = []
    for callbacks in ([], [SearchPlan()]):
        torch.manual_seed(0)
        evaluator = classification(
            tmp_path, callbacks=callbacks, max_epochs=2, **loaders(train=80, val=64, batch_size=8)
        )
        posteriors.append(search(Layers(), evaluator, arc_learning_rate=0.1, num_mc_samples=2).posterior)
    assert posteriors[0].to_document() == posteriors[1].to_document()
    lines = lines_of(capsys)
    assert list(lines) == ["data", "supernet", "plan", "reach", "expected"]
    assert lines["data"] == "80 examples train the weights, 64 the architecture"
    assert lines["plan"] == "2 epochs of 10 iterations, 20 in all; M = 2 draws in each"
    assert lines["reach"].startswith("20 architecture steps x rate 0.1: a logit can move by 2; 1 makes a clear")
    assert re.fullmatch(r"about \d+ s to go, until \d\d:\d\d; memory so far [\d.]+ GB", lines["expected"])


def test_a_search_that_cannot_decide_is_warned_of_the_warm_up_counted(capsys, tmp_path):
    evaluator = classification(tmp_path, callbacks=[SearchPlan({"images": "many"})], max_epochs=3)
    search(Layers(), evaluator, warmup_epochs=2, initial_precision=4.0, num_mc_samples=1)
    lines = lines_of(capsys)
    assert lines["images"] == "many"
    assert lines["plan"].endswith("; epochs 1 to 2 train the weights alone")
    assert lines["reach"].startswith(
        "2 architecture steps x rate 0.0003: a logit can move by 0.0006; 0.5 makes a clear"
    )
    assert lines["warning"] == ("that decides nothing: set arc_learning_rate to 0.5 or more, or search for more epochs")


def state(
    *,
    epoch: int,
    warmup: int,
    draws: int = 3,
    batches: int = 9,
    perturbation: Any = None,
    every: int = 1,
    needs_gradient: bool = True,
) -> tuple[object, object]:
    trainer = SimpleNamespace(
        num_training_batches=10,
        max_epochs=6,
        current_epoch=epoch,
        check_val_every_n_epoch=1,
        num_val_batches=[batches],
    )
    module = plan.DistributionModule.__new__(plan.DistributionModule)
    steps = {"architecture_every": every, "architecture_steps": None}
    object.__setattr__(module, "options", SimpleNamespace(levels=2, mc_batches="full", order="first", **steps))
    learned = SimpleNamespace(num_mc_samples=draws, needs_gradient=needs_gradient, clear_difference=lambda: 1.0)
    search = SimpleNamespace(distribution=learned, perturbation=perturbation, schedule=None)
    object.__setattr__(module, "_search", search)
    object.__setattr__(module, "warmup_epochs", warmup)
    return trainer, module


def test_what_remains_counts_architecture_steps_and_validations():
    """An architecture step of three draws costs three weight steps, a validation batch a third of one."""
    assert plan._remaining(*state(epoch=0, warmup=0, batches=0), 4.0) == 6 * 10 * 4.0
    assert plan._remaining(*state(epoch=4, warmup=2), 4.0) == pytest.approx(2 * (10 * 4.0 + 9 / 3))
    assert plan._remaining(*state(epoch=0, warmup=2), 1.0) == pytest.approx(2 * 10 + 4 * 10 * 4.0 + 6 * 9 / 3)


def test_an_architecture_step_is_counted_as_often_and_as_dear_as_it_is():
    """Every fifth iteration; of three draws that are looked at without a gradient, it costs one weight step."""
    assert plan._remaining(*state(epoch=0, warmup=2, batches=0, every=5), 1.0) == pytest.approx(2 * 10 + 4 * 10 * 1.6)
    forward = state(epoch=0, warmup=2, batches=0, needs_gradient=False)
    assert plan._remaining(*forward, 1.0) == pytest.approx(2 * 10 + 4 * 10 * 2.0)
    trainer, module = state(epoch=0, warmup=1, every=5)
    object.__setattr__(module, "arc_learning_rate", 0.1)
    assert plan._reach(trainer, module)["reach"].startswith("10 architecture steps x rate 0.1")
    object.__setattr__(module, "options", SimpleNamespace(architecture_every=11, architecture_steps=None))
    assert plan._reach(trainer, module)["warning"].startswith("nothing is learned: set architecture_every to")


def test_an_attack_is_in_every_weight_step_and_in_no_architecture_step():
    attack = AdversarialPerturbation(steps=4)  # two passes forward, and four with their way back: four weight steps
    remaining = 2 * 10 * 5.0 + 4 * 10 * 6.0 + 6 * 9 / 3
    state_in_warmup = state(epoch=0, warmup=2, draws=1, perturbation=attack)
    assert plan._remaining(*state_in_warmup, 5.0) == pytest.approx(remaining)
    searching = state(epoch=2, warmup=2, draws=1, perturbation=attack)
    assert plan._remaining(*searching, 6.0) == pytest.approx(4 * 10 * 6.0 + 4 * 9 / 3)


def test_a_training_that_is_no_search_is_refused():
    with pytest.raises(EvaluatorError, match="SearchPlan is for one-shot searches, and LightningModule is not one"):
        SearchPlan().setup(pl.Trainer(logger=False), pl.LightningModule(), "fit")


@pytest.mark.parametrize(("seconds", "chosen"), [({1: 1.0, 4: 0.5}, 4), ({1: 1.0, 4: 0.97}, 1), ({1: 0.5, 4: 1.0}, 1)])
def test_the_first_iterations_choose_the_threads(seconds, chosen, monkeypatch, tmp_path):
    """All of them are timed by a clock of the number of threads."""
    taken, clock = [1], [0.0]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(thread_choice, "cores", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(thread_choice.time, "perf_counter", lambda: clock[0])
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), world_size=1)
    choice = ThreadChoice()
    for _ in range(10):
        choice.on_train_batch_start(trainer)
        clock[0] += seconds[taken[-1]]
        choice.on_train_batch_end(trainer)
    assert taken[1:] == [1, 4] * 4 + [chosen]
    resumed = ThreadChoice()
    resumed.load_state_dict(choice.state_dict())
    resumed.on_train_batch_start(trainer)
    assert taken[-2:] == [chosen, chosen]


def test_threads_that_the_user_has_set_are_left_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), world_size=1)
    ThreadChoice().on_train_batch_start(trainer)
    assert taken == []
