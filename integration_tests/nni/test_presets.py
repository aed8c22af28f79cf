"""The contract of every preset inside NNI: it searches every kind of space, resumes exactly, and is asked alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from pytorch_lightning import Callback
from torch import Tensor

from balenas_plugin import Diagnostics, DistributionStrategy, Posterior
from balenas_plugin.adapters.nni import strategy_of
from balenas_plugin.adapters.nni.callbacks.checkpoint import SearchCheckpoint
from balenas_plugin.adapters.nni.one_shot.nni_host import NniHost
from balenas_plugin.adapters.nni.supernets.supernet_decisions import exported
from balenas_plugin.diagnostics import read_log
from balenas_plugin.distributions import Distribution, Draw
from balenas_plugin.distributions.uniform import Uniform
from balenas_plugin.errors import FileFormatError, OptionError, SpaceError
from balenas_plugin.presets import list_presets
from balenas_plugin.selection.proxy_selection import NAMED_SELECTIONS, named_selection

from .searches import classification, loaders
from .spaces import CASES, IMAGE, Case, Convolutions, Layers

OPTIONS: dict[str, dict[str, Any]] = {
    "BaLeNAS": {"num_mc_samples": 2},
    "ENAS": {"num_mc_samples": 2, "architecture_steps": 4},
    "ProxylessNAS": {"warmup_epochs": 0, "architecture_every": 2, "mode": "two"},
}
"""Of single presets, besides a rate at which something is learned in a few steps."""

WEIGHED, DRAWN = "DrNAS", "GDAS"
"""A preset that computes every candidate, and one that computes what it draws: the two ways through a mixed module."""

STAGED = ("DrNASProgressive", "PDARTS")
"""Presets of several stages: no search of one epoch, see test_schedules.py."""

PLAIN = [name for name in list_presets() if name not in STAGED]
IN_TURN = [(name, list(CASES)[(2 * k + j) % len(CASES)]) for k, name in enumerate(PLAIN) for j in range(2)]
PAIRS = sorted({*IN_TURN, *((name, case) for name in (WEIGHED, DRAWN) for case in CASES)})
"""Every preset with two kinds of space, every kind with both ways; test_spaces.py has BaLeNAS with each of them."""


class Killed(Exception):  # noqa: N818  # it stands for a signal
    """A search was stopped in the middle of an epoch."""


class Kill(Callback):
    """Stops a search in its third epoch, between two steps."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 2 and batch_idx == 1:
            raise Killed


MERGEABLE = Case(space=Convolutions, size=4, shape=IMAGE)
"""What a method that merges convolutions searches; no other space here has any."""


def refuses(name: str, case: str) -> bool:
    """Return whether a space has no operations that a preset can mix."""
    without_operations = case.startswith("input") or case.endswith(("values", "expression"))
    return name == "MergeNAS" or (name == "PCDARTS" and without_operations)


def run(
    name: str,
    folder: Path,
    *,
    case: str = "",
    epochs: int = 4,
    callbacks: Any = (),
    resume: bool = False,
    **options: Any,
) -> DistributionStrategy:
    """Return a preset's strategy that has searched a space."""
    torch.manual_seed(3)
    searched = CASES[case or "layer_choice"] if case or name != "MergeNAS" else MERGEABLE
    evaluator = classification(
        folder,
        max_epochs=epochs,
        callbacks=[*callbacks, SearchCheckpoint(folder / "checkpoints")],
        **loaders(shape=searched.shape),
    )
    strategy = strategy_of(name)(arc_learning_rate=0.1, **OPTIONS.get(name, {}), **options)
    strategy.initialize(RawFormatModelSpace(searched.space(), evaluator), SequentialExecutionEngine())
    if resume:
        strategy.load_state_dict({"ckpt_path": str(folder / "checkpoints" / "last.ckpt")})
    strategy.run()
    return strategy


@pytest.mark.parametrize(("name", "case"), PAIRS)
def test_it_searches_every_kind_of_space(name, case, tmp_path):
    if refuses(name, case):
        with pytest.raises(SpaceError, match="has no choice of operations that"):
            run(name, tmp_path, case=case, epochs=1)
        return
    strategy = run(name, tmp_path, case=case, epochs=1)
    found = list(islice(strategy.iterate_samples(), 1000))
    assert found[0].sample == exported(strategy.oneshot_module)
    assert len(found) == CASES[case].size
    assert math.isclose(sum(math.exp(ranked.log_probability) for ranked in found), 1, abs_tol=1e-3)
    assert all(torch.isfinite(alpha).all() for alpha in strategy.oneshot_module.arch_parameters())


@pytest.mark.parametrize("name", list_presets())
def test_it_is_measured_selects_and_resumes_bit_for_bit(name, tmp_path):
    def diagnostics(of: str) -> Diagnostics:
        return Diagnostics(tmp_path / f"{of}.jsonl", {"curvature_every_n_epochs": 2, "draws": 9})

    selection = {"proxy": "params", "candidates": "enumerate", "n": 3}
    whole = run(name, tmp_path / "whole", callbacks=[diagnostics("whole")], selection=selection)
    *_, record = records = read_log(tmp_path / "whole.jsonl").records
    assert math.isfinite(record["eigenvalue"]) if whole.distribution.learns else "eigenvalue" not in record
    assert record.get("own", {}).keys() == whole.oneshot_module.distribution.own_metrics().keys()
    for probabilities in record["probabilities"].values():
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)  # six digits are written
    for chosen in (whole.selection, *(replace(named_selection(selected), n=3) for selected in NAMED_SELECTIONS)):
        ranked = whole.rank(chosen)
        assert 1 <= len(ranked) <= 3
        if len(chosen.proxies) == 1:
            scores = [found.scores[chosen.proxies[0]] for found in ranked]
            assert scores == sorted(scores, reverse=True)
    with pytest.raises(Killed):
        run(name, tmp_path / "killed", callbacks=[diagnostics("killed"), Kill()])
    resumed = run(name, tmp_path / "killed", callbacks=[diagnostics("killed")], resume=True)
    assert read_log(tmp_path / "killed.jsonl").records == records
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
    options = {"weight_step_alpha": "sample", "perturbation": {"name": "sdarts-adv", "steps": 2}}
    run("BaLeNAS", tmp_path, case="convolution_values", epochs=1, **options)
    assert seen
    assert min(seen) > 0


class Shadowing(Uniform):
    """Has an option that a search would take for its own."""

    name = "shadowing"

    def __init__(self, parameters, *, penalty: float = 1.0, seed: int = 0) -> None:
        super().__init__(parameters, seed=seed)


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
        (lambda: DistributionStrategy(), "needs a distribution: one of binary-gates, categorical"),
        (lambda: DistributionStrategy(distribution="dirichlett"), "did you mean 'dirichlet'"),
        (lambda: strategy_of("DrNAS")(prior_precision=1.0), "no option 'prior_precision'"),
        (lambda: strategy_of("GDAS")(perturbation="sdarts-rs"), "one candidate a draw, so sdarts-rs cannot perturb it"),
        (lambda: strategy_of("SETN")(perturbation="sdarts-rs"), "a uniform weight step computes one candidate a draw"),
        (lambda: strategy_of("ENAS")(levels=1), "levels: 1 has one step for both"),
        (lambda: strategy_of("SNAS")(clip_with="architecture"), "which clip_with: architecture is for"),
        (lambda: strategy_of("DARTS")(finite_difference="one-sided"), 'finite_difference is of order "second"'),
        (lambda: DistributionStrategy(distribution=Shadowing), "has an option penalty, as every search has"),
        (lambda: strategy_of("RSPS")(num_mc_samples=2), "no option 'num_mc_samples'"),
        (
            lambda: strategy_of("SNAS")(perturbation="sdarts-adv"),
            "no weight step of its own, which sdarts-adv perturbs",
        ),
        (lambda: strategy_of("GDAS")(perturbation="operation-dropout"), "operation-dropout cannot perturb it"),
        (
            lambda: strategy_of("DropNAS")(perturbation={"name": "operation-dropout", "rate": 1}),
            "perturbation.rate must be",
        ),
        (lambda: strategy_of("DARTS")(perturbation="sdarts-ad"), "unknown perturbation.*did you mean 'sdarts-adv'"),
        (
            lambda: strategy_of("DARTS")(perturbation=3),
            "perturbation must be one of operation-dropout, sdarts-adv, sdarts-rs, or a mapping",
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
