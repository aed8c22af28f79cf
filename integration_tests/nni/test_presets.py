"""The contract of every preset inside NNI: it searches every kind of space, resumes exactly, and is asked alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from pytorch_lightning import Callback
from torch import Tensor

from balenas_plugin import BaLeNAS, Diagnostics, DistributionStrategy, Posterior
from balenas_plugin.adapters.nni import strategy_of
from balenas_plugin.adapters.nni.callbacks.checkpoint import SearchCheckpoint
from balenas_plugin.adapters.nni.one_shot.nni_host import NniHost
from balenas_plugin.adapters.nni.supernets.supernet_decisions import exported
from balenas_plugin.diagnostics import read_log
from balenas_plugin.distributions import Distribution, Draw
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.presets import list_presets

from .searches import classification, loaders
from .spaces import CASES, Layers

OPTIONS: dict[str, dict[str, Any]] = {
    "BaLeNAS": {"num_mc_samples": 2},
    "ProxylessNAS": {"warmup_epochs": 0, "architecture_every": 2, "mode": "two"},
}
"""Of single presets, besides a rate at which something is learned in a few steps."""

every_preset = pytest.mark.parametrize("name", list_presets())


class Killed(Exception):  # noqa: N818  # it stands for a signal
    """A search was stopped in the middle of an epoch."""


class Kill(Callback):
    """Stops a search in its third epoch, between two steps."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 2 and batch_idx == 1:
            raise Killed


def run(
    name: str, folder: Path, *, case: str = "layer_choice", epochs: int = 4, callbacks: Any = (), resume: bool = False
) -> DistributionStrategy:
    """Return a preset's strategy that has searched a space."""
    torch.manual_seed(3)
    evaluator = classification(
        folder,
        max_epochs=epochs,
        callbacks=[*callbacks, SearchCheckpoint(folder / "checkpoints")],
        **loaders(shape=CASES[case].shape),
    )
    strategy = strategy_of(name)(arc_learning_rate=0.1, **OPTIONS.get(name, {}))
    strategy.initialize(RawFormatModelSpace(CASES[case].space(), evaluator), SequentialExecutionEngine())
    if resume:
        strategy.load_state_dict({"ckpt_path": str(folder / "checkpoints" / "last.ckpt")})
    strategy.run()
    return strategy


@pytest.mark.parametrize("case", CASES)
@every_preset
def test_it_searches_every_kind_of_space(name, case, tmp_path):
    strategy = run(name, tmp_path, case=case, epochs=1)
    first = next(strategy.iterate_samples())
    assert first.sample == exported(strategy.oneshot_module)
    found = list(islice(strategy.iterate_samples(), 1000))
    assert len(found) == CASES[case].size
    assert math.isclose(sum(math.exp(ranked.log_probability) for ranked in found), 1, abs_tol=1e-3)
    assert all(torch.isfinite(alpha).all() for alpha in strategy.oneshot_module.arch_parameters())


@every_preset
def test_a_killed_search_resumes_bit_for_bit(name, tmp_path):
    whole = run(name, tmp_path / "whole")
    with pytest.raises(Killed):
        run(name, tmp_path / "killed", callbacks=[Kill()])
    resumed = run(name, tmp_path / "killed", resume=True)
    assert resumed.posterior.to_document() == whole.posterior.to_document()
    expected = whole.supernet.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.supernet.state_dict().items())


class Noisy(Distribution):
    """A distribution of a user's own: all that docs/extending.md asks for."""

    name = "noisy"
    source = "a test"

    def draw(self, parameters: Mapping[str, Tensor]) -> Draw:
        logits = {label: a + 0.1 * self.noise(a) for label, a in parameters.items()}
        return Draw(parameters, {label: self.masked(label, a.softmax(-1)) for label, a in logits.items()})


def test_a_distribution_of_ones_own_searches_selects_and_is_saved(tmp_path):
    torch.manual_seed(3)
    selection = {"proxy": "params", "n": 20}
    strategy = DistributionStrategy(distribution=Noisy, arc_learning_rate=0.1, selection=selection)
    evaluator = classification(tmp_path, callbacks=[Diagnostics(tmp_path / "d.jsonl")])
    strategy.initialize(RawFormatModelSpace(Layers(), evaluator), SequentialExecutionEngine())
    strategy.run()
    assert strategy.rank()[0].scores["params"] > 0
    strategy.posterior.save(tmp_path / "posterior.json")
    loaded = Posterior.load(tmp_path / "posterior.json")
    assert loaded.kind == "noisy"
    assert loaded.win_probability() == strategy.posterior.win_probability()


def test_a_checkpoint_of_other_parts_is_refused(tmp_path):
    run("DARTS", tmp_path, epochs=1)
    with pytest.raises(FileFormatError, match="perturbation is none, and that of this one is 'sdarts-rs'"):
        run("SDARTS_RS", tmp_path, resume=True)
    with pytest.raises(FileFormatError, match=r"learns the distribution 'point'.* learns 'dirichlet'"):
        run("DrNAS", tmp_path, resume=True)


def test_an_attack_leaves_statistics_and_modes_alone(tmp_path, monkeypatch):
    """Of BaLeNAS at draws: any distribution takes any perturbation."""
    seen, evaluating = [], NniHost.evaluating

    @contextmanager
    def watched(host):
        module = host.module.training_module
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        with evaluating(host):
            assert not any(part.training for part in module.modules())
            yield
        assert all(part.training for part in module.modules())
        assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
        seen.append(len(before))

    monkeypatch.setattr(NniHost, "evaluating", watched)
    strategy = BaLeNAS(num_mc_samples=1, weight_step_alpha="sample", perturbation={"name": "sdarts-adv", "steps": 2})
    evaluator = classification(tmp_path, **loaders(shape=CASES["convolution_values"].shape))
    strategy.initialize(
        RawFormatModelSpace(CASES["convolution_values"].space(), evaluator), SequentialExecutionEngine()
    )
    strategy.run()
    assert seen
    assert min(seen) > 0


@every_preset
def test_diagnostics_measure_it(name, tmp_path):
    run(
        name,
        tmp_path,
        epochs=1,
        callbacks=[Diagnostics(tmp_path / "d.jsonl", {"curvature_every_n_epochs": 1, "draws": 9})],
    )
    (record,) = read_log(tmp_path / "d.jsonl").records
    assert math.isfinite(record["eigenvalue"])
    for probabilities in record["probabilities"].values():
        assert sum(probabilities) == pytest.approx(1)


@every_preset
def test_selection_ranks_what_it_has_learned(name, tmp_path):
    torch.manual_seed(3)
    selection = {"proxy": "params", "candidates": "enumerate", "n": 3}
    strategy = strategy_of(name)(selection=selection, **OPTIONS.get(name, {}))
    evaluator = classification(tmp_path)
    strategy.initialize(RawFormatModelSpace(Layers(), evaluator), SequentialExecutionEngine())
    strategy.run()
    scores = [ranked.scores["params"] for ranked in strategy.rank()]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: strategy_of("GDAS")(order="second"), "computes one candidate a draw, so it has no second order"),
        (lambda: strategy_of("SNAS")(num_mc_samples=2), "num_mc_samples must be 1"),
        (lambda: strategy_of("PARSEC")(num_mc_samples=1), "compares draws .* at least 2, got 1"),
        (lambda: strategy_of("PARSEC")(levels=1), "compares the losses of several draws, so levels must be 2"),
        (lambda: strategy_of("PARSEC")(mc_batches="split"), 'same examples: mc_batches must be "full"'),
        (lambda: strategy_of("SNAS")(order="second"), "levels: 1 has one step for both"),
        (lambda: strategy_of("DrNAS")(distribution="point"), "DrNAS learns the distribution 'dirichlet', got 'point'"),
        (lambda: DistributionStrategy(), "needs a distribution: one of categorical, dirichlet"),
        (lambda: DistributionStrategy(distribution="dirichlett"), "did you mean 'dirichlet'"),
        (lambda: strategy_of("DrNAS")(prior_precision=1.0), "no option 'prior_precision'"),
        (lambda: strategy_of("GDAS")(perturbation="sdarts-rs"), "one candidate a draw, so sdarts-rs cannot perturb it"),
        (
            lambda: strategy_of("SNAS")(perturbation="sdarts-adv"),
            "no weight step of its own, which sdarts-adv perturbs",
        ),
        (lambda: strategy_of("DARTS")(perturbation="sdarts-ad"), "unknown perturbation.*did you mean 'sdarts-adv'"),
        (
            lambda: strategy_of("DARTS")(perturbation=3),
            "perturbation must be one of sdarts-adv, sdarts-rs, or a mapping",
        ),
        (
            lambda: strategy_of("DARTS")(perturbation={"name": "sdarts-rs", "steps": 3}),
            "the perturbation sdarts-rs has no option 'steps'. Options: epsilon_max",
        ),
        (
            lambda: strategy_of("SDARTS_ADV")(perturbation={"name": "sdarts-adv", "steps": 0}),
            "perturbation.steps must be a whole number of at least 1, got 0",
        ),
        (lambda: strategy_of("DARTZ"), "unknown preset 'DARTZ'"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()
