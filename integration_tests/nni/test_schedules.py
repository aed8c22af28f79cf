"""Schedules in NNI: stages prune and renew the network, and a search killed in any of them resumes bit for bit."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from pytorch_lightning import Callback
from torch import Tensor, nn

from balenas_plugin import Diagnostics, DistributionStrategy
from balenas_plugin.adapters.nni.callbacks.checkpoint import SearchCheckpoint, require_checkpoint
from balenas_plugin.adapters.nni.callbacks.stages import make_in, places
from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule
from balenas_plugin.adapters.nni.run.finished_run import _load_weights
from balenas_plugin.adapters.nni.supernets.edges import edge_parameters
from balenas_plugin.adapters.nni.supernets.parameters import parameterised_candidates
from balenas_plugin.adapters.nni.supernets.supernet_decisions import exported
from balenas_plugin.diagnostics import read_log
from balenas_plugin.distributions import list_distributions
from balenas_plugin.errors import FileFormatError, OptionError, SpaceError
from balenas_plugin.mixed_ops.dropped import Dropped, SkipDropout
from balenas_plugin.schedules import Anew, Keep

from .searches import classification, loaders
from .spaces import CASES, CLASSES, Layers
from .test_presets import Killed

SHAPE = (3, 6, 6)
EPOCHS = 6

CELL = {"space": CASES["cell_shared"].space, "shape": CASES["cell_shared"].shape}

SCHEDULES: dict[str, Any] = {
    "p-darts": {"skip_dropout": (0.3, 0.3, 0.3)},
    "darts-es": {"every": 1, "window": 1, "delta": 1, "start": 0, "factor": 1.0001},
    "darts-plus": {"criterion": "ranking", "window": 1},
    "drnas-progressive": {"channels": (4, 2)},
}
"""name -> options with which something happens in a few epochs."""


def operations() -> dict[str, nn.Module]:
    return {
        "skip": nn.Identity(),
        "wide": nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)),
        "thin": nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)),
        "pool": nn.AvgPool2d(3, 1, 1),
        "sigmoid": nn.Sigmoid(),
    }


class Deep(ModelSpace):
    """Cells in a row, each of two edges; one architecture for all of them."""

    def __init__(self, num_cells: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.cells = nn.ModuleList(
            nn.ModuleList(LayerChoice(operations(), label=f"edge{k}") for k in range(2)) for _ in range(num_cells)
        )
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for first, second in self.cells:
            x = first(x) + second(x)
        return self.head(x.mean((2, 3)))


class Kill(Callback):
    """Stops a search in an epoch, between two steps."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            raise Killed


def run(
    folder: Path,
    schedule: Any = "p-darts",
    *,
    distribution: str = "point",
    space: Any = Deep,
    epochs: int = EPOCHS,
    shape: tuple[int, ...] = SHAPE,
    callbacks: Any = (),
    resume: bool = False,
    evaluator: Any = None,
    **options: Any,
) -> DistributionStrategy:
    """Return a strategy that has searched with a schedule."""
    torch.manual_seed(3)
    if isinstance(schedule, str):
        schedule = {"name": schedule, **SCHEDULES.get(schedule, {})}
    evaluator = (evaluator or classification)(
        folder,
        max_epochs=epochs,
        optimizer=torch.optim.Adam,
        callbacks=[*callbacks, SearchCheckpoint(folder / "checkpoints")],
        **loaders(shape=shape),
    )
    draws = {"num_mc_samples": 2} if distribution == "importance-weighted" else {}
    strategy = DistributionStrategy(
        distribution=distribution, schedule=schedule, **{"arc_learning_rate": 0.3, **draws, **options}
    )
    strategy.initialize(RawFormatModelSpace(space(), evaluator), SequentialExecutionEngine())
    if resume:
        strategy.load_state_dict({"ckpt_path": str(folder / "checkpoints" / "last.ckpt")})
    strategy.run()
    return strategy


def assert_equal(resumed: DistributionStrategy, whole: DistributionStrategy) -> None:
    """Check what was found, every weight, and what is left."""
    assert resumed.schedule.state_dict() == whole.schedule.state_dict()
    assert resumed.posterior.to_document() == whole.posterior.to_document()
    expected, found = whole.supernet.state_dict(), resumed.supernet.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


def test_a_search_killed_in_any_stage_resumes_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole")
    assert sum(isinstance(edit, Anew) for _, edit in whole.schedule.log) == 3
    for epoch in (1, 2, 5):
        with pytest.raises(Killed):
            run(tmp_path / str(epoch), callbacks=[Kill(epoch)])
        assert_equal(run(tmp_path / str(epoch), resume=True), whole)


@pytest.mark.parametrize(
    ("distribution", "schedule", "options"),
    [
        *((name, "p-darts", {"epochs": 3}) for name in list_distributions() if name not in ("point", "uniform")),
        ("point", "p-darts", {"epochs": 3, "perturbation": "sdarts-adv", "order": "second"}),
        ("gaussian", "p-darts", {"epochs": 3, "fused": False, "weight_step_alpha": "sample"}),
        ("categorical", "p-darts", {"epochs": 3, "fix_margin": 0.01, "levels": 1, "weight_step_alpha": "sample"}),
        ("dirichlet", "drnas-progressive", {"epochs": 4, "mixed_op": {"name": "partial-channels", "k": 4}}),
        ("gaussian", "p-darts", {"epochs": 3, "mixed_op": {"name": "partial-channels", "edge_normalization": True}}),
        ("point", "darts-es", {"epochs": 4}),
        ("point", "darts-plus", {"epochs": 4}),
    ],
)
def test_any_schedule_and_distribution_resume_bit_for_bit(distribution, schedule, options, tmp_path):
    def searched(name, **more):
        return run(tmp_path / name, schedule, distribution=distribution, **options, **more)

    whole = searched("whole")
    assert whole.schedule.log
    assert next(whole.iterate_samples()).sample == exported(whole.oneshot_module)
    kill = 2 if schedule == "drnas-progressive" else 1
    with pytest.raises(Killed):
        searched("killed", callbacks=[Kill(kill)])
    assert_equal(searched("killed", resume=True), whole)


class Watch(Callback):
    """Notes what a network is made of in each epoch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx:
            return
        (weights, _), model = trainer.optimizers, module.model
        trained = {p for group in weights.param_groups for p in group["params"]}
        self.seen.append(
            {
                "cells": len(model.cells),
                "dropped": sum(isinstance(place[key], Dropped) for _, _, place, key in places(model)),
                "dropout": max((m.p for m in model.modules() if isinstance(m, SkipDropout)), default=0.0),
                "all_trained": trained == {*module.training_module.parameters()} - {*module.arch_parameters()},
                "computed": self._computed(module, batch),
            }
        )

    @staticmethod
    def _computed(module: Any, batch: Any) -> int:
        calls: list[object] = []
        handles = [
            m.register_forward_hook(lambda m, i, o: calls.append(m)) for m in module.modules() if type(m) is nn.Sigmoid
        ]
        with torch.random.fork_rng(), torch.no_grad():
            module.training_module.model(batch["val"][0])
        for handle in handles:
            handle.remove()
        return len(calls)


@pytest.mark.parametrize("fused", [True, False])
def test_each_stage_has_a_deeper_network_of_fewer_operations(fused, tmp_path):
    watch = Watch()
    strategy = run(tmp_path, callbacks=[watch], fused=fused)
    assert [seen["cells"] for seen in watch.seen] == [1, 1, 2, 2, 3, 3]
    assert [seen["dropped"] for seen in watch.seen] == [0, 0, 2 * 2 * 2, 2 * 2 * 2, 3 * 2 * 3, 3 * 2 * 3]
    assert [seen["dropout"] for seen in watch.seen[:2]] == pytest.approx([0.3, 0.3 * math.exp(-0.2)])
    assert all(seen["all_trained"] for seen in watch.seen)
    kept = [edit.labels for _, edit in strategy.schedule.log if type(edit).__name__ == "Keep"]
    for seen, labels in zip(watch.seen[::2], [None, *kept[:2]], strict=True):
        left = 2 if labels is None else sum(4 in indices for indices in labels.values())
        assert seen["computed"] == left * seen["cells"]
    model = next(strategy.list_models()).executable_model()
    assert len(model.cells) == 3
    assert all(m.p == 0 for m in model.modules() if isinstance(m, SkipDropout))


class Cosine:
    """Makes evaluators with a cosine over the trainer's epochs; notes its rates."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def __call__(self, folder: Path, **given: Any) -> Any:
        evaluator = classification(folder, **given)
        module = evaluator.module

        def configure_optimizers() -> Any:
            optimizer = torch.optim.SGD(module.parameters(), 1.0)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, module.trainer.max_epochs)]

        module.configure_optimizers = configure_optimizers
        given["callbacks"][-1].on_train_epoch_start = lambda trainer, _: self.rates.append(
            trainer.optimizers[0].param_groups[0]["lr"]
        )
        return evaluator


def test_each_network_has_a_learning_rate_schedule_of_its_own(tmp_path):
    cosine, again = Cosine(), Cosine()
    run(tmp_path / "whole", evaluator=cosine)
    assert cosine.rates == pytest.approx([1, 0.5] * 3)
    with pytest.raises(Killed):
        run(tmp_path / "killed", evaluator=again, callbacks=[Kill(3)])
    run(tmp_path / "killed", evaluator=again, resume=True)
    assert again.rates[-3:] == pytest.approx([0.5, 1, 0.5])


def test_darts_es_returns_the_architecture_of_an_earlier_epoch(tmp_path):
    """With the weights of edges that it had."""
    edges, watch = [], Callback()
    watch.on_train_epoch_end = lambda trainer, module: edges.append(copy.deepcopy(edge_parameters(module.model)))
    weighed = {"name": "partial-channels", "edge_normalization": True}
    callbacks = [Diagnostics(tmp_path / "d.jsonl", {"draws": 0}), watch]
    strategy = run(tmp_path, "darts-es", callbacks=callbacks, mixed_op=weighed, **CELL)
    ((epoch, stop),) = strategy.schedule.log
    records = read_log(tmp_path / "d.jsonl").records
    assert len(records) == epoch + 1 < EPOCHS
    assert stop.epoch < epoch
    past = {label: torch.tensor(values) for label, values in records[stop.epoch]["logits"].items()}
    for label, scores in strategy.posterior.scores.items():
        torch.testing.assert_close(scores.double(), past[label].double(), rtol=1e-6, atol=1e-6)
    assert records[-1]["events"] == [f"stopped: {stop.reason}"]
    found = edge_parameters(strategy.supernet)
    assert found
    assert all(torch.equal(logits, edges[stop.epoch][node]) for node, logits in found.items())
    assert not any(torch.equal(logits, edges[epoch][node]) for node, logits in found.items())


@pytest.mark.parametrize(
    ("schedule", "options"), [("p-darts", {}), ("drnas-progressive", {"mixed_op": {"name": "partial-channels"}})]
)
def test_a_finished_search_is_read_again(schedule, options, tmp_path):
    """Export and `balenas train` read it so: the network is made like that of the last epoch."""
    whole = run(tmp_path, schedule, epochs=3, **options)
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = require_checkpoint(path)
    again = DistributionStrategy(distribution="point", schedule=schedule, **options)
    space, supernet = again.as_edited(Deep(), checkpoint[DistributionModule.STATE], checkpoint["epoch"])
    _load_weights(supernet, checkpoint, path)
    expected = whole.supernet.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in supernet.state_dict().items())
    assert len(space.cells) == 3
    assert {type(place[key]) for *_, place, key in places(supernet)} > {Dropped}


@pytest.mark.parametrize("case", ["layer_choice", "nested_layer_choice", "shared_label", "cell_plain", "cell_factory"])
def test_spaces_that_nobody_can_deepen_are_pruned(case, tmp_path):
    pruned = {"name": "p-darts", "kept": [2, 1]}  # some of them have two candidates, which the default keeps
    strategy = run(tmp_path, pruned, space=CASES[case].space, shape=CASES[case].shape, epochs=3)
    assert any(isinstance(place[key], Dropped) for _, _, place, key in places(strategy.supernet))
    assert next(strategy.iterate_samples()).sample == exported(strategy.oneshot_module)


@pytest.mark.parametrize(
    ("given", "space", "epochs", "error", "message"),
    [
        ({"name": "p-darts", "depths": [1, 2, 3]}, Layers, 6, OptionError, "cannot be made deeper"),
        ({"name": "p-darts", "kept": [6, 2]}, Deep, 6, OptionError, "kept must be at most 5"),
        ({"name": "p-darts", "stage_epochs": [9, 9, 9]}, Deep, 6, OptionError, "27 epochs in all, .* has 6"),
        ("p-darts", CASES["linear_values"].space, 6, OptionError, "chooses among none that have weights"),
        ({"name": "drnas-progressive", "channels": (4, 3)}, Deep, 6, SpaceError, "4 channels cannot be widened .* k=3"),
    ],
)
def test_what_does_not_fit_the_space_is_refused_before_the_first_step(given, space, epochs, error, message, tmp_path):
    steps: list[int] = []
    watch = Callback()
    watch.on_train_batch_start = lambda *_: steps.append(1)
    shape = SHAPE if space is Deep else (8,)
    partial = {"mixed_op": "partial-channels"} if "drnas" in str(given) else {}
    with pytest.raises(error, match=message):
        run(tmp_path, given, space=space, epochs=epochs, shape=shape, callbacks=[watch], **partial)
    assert not steps


def test_operations_that_were_dropped_are_grouped_as_before():
    """So operation dropout draws the same in a search that is resumed."""
    model = DistributionStrategy(distribution="point").mutate_model(CELL["space"]())
    before = parameterised_candidates(model)
    kept = {label: [k % 2] for k, label in enumerate(before)}
    make_in(model, Keep(kept), int)
    assert any(isinstance(module, Dropped) for module in model.modules())
    assert parameterised_candidates(model) == before
    assert any(map(any, before.values()))


def test_a_checkpoint_of_another_schedule_is_refused(tmp_path):
    run(tmp_path, "darts-plus", epochs=1)
    with pytest.raises(FileFormatError, match="whose schedule is 'darts-plus', and that of this one is 'p-darts'"):
        run(tmp_path, "p-darts", resume=True)
    with pytest.raises(FileFormatError, match="whose schedule is 'darts-plus', and that of this one is none"):
        run(tmp_path, None, resume=True)


def test_zeros_of_a_dropped_candidate_have_its_shape():
    operation = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6))
    x = torch.randn(2, 4, 9, 9)
    dropped = Dropped(operation)
    assert torch.equal(dropped(x), torch.zeros_like(operation(x)))
    assert not list(dropped.parameters())
    assert not dropped.state_dict()
    identity = Dropped(nn.Identity())
    identity(x.requires_grad_() * 2)
    assert torch.equal(copy.deepcopy(identity)(x), torch.zeros_like(x))  # what it remembers of x has no graph
    with pytest.raises(SpaceError, match="Conv2d was dropped, and its shape cannot be told"):
        Dropped(nn.Conv2d(9, 9, 1))(x)
