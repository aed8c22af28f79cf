"""The diagnostics of real searches, with BaLeNAS and with NNI's own strategies: right, and without a trace."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from nni.nas.evaluator.pytorch import DataLoader
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.hub.pytorch import NasBench201
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import DARTS, GumbelDARTS, RandomOneShot
from torch import Tensor

from balenas_plugin import BaLeNAS, Diagnostics, DistributionStrategy
from balenas_plugin.adapters.nni.callbacks.learned import search_state
from balenas_plugin.adapters.nni.one_shot.metrics import undisturbed
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.diagnostics import probabilities, read_log
from balenas_plugin.restoring import random_states

from . import spaces
from .diagnosed import CLASSES, STRATEGIES, Space, run
from .searches import VAL_MARK, classification, loaders, random_data


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_is_the_same_with_diagnostics_and_without_and_they_are_of_it(name, tmp_path, monkeypatch):
    import nni.mutable.mutable

    from balenas_plugin.adapters.nni.strategies.nni_strategies import _order_by_label, _seeded_random_state

    monkeypatch.setattr(nni.mutable.mutable, "RandomState", _seeded_random_state)
    ends = []
    for options in ({}, {"curvature_every_n_epochs": 1, "draws": 9}):
        strategy = STRATEGIES[name]()
        if not isinstance(strategy, DistributionStrategy):
            _order_by_label(strategy)
        strategy, log = run(strategy, tmp_path / str(len(ends)), **options)
        random = random_states()
        ends.append({**strategy.supernet.state_dict(), "torch": random["torch"], "numpy": random["numpy"][0]})
    assert ends[0].keys() == ends[1].keys()
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key
    assert [record["epoch"] for record in log.records] == [0, 1, 2]
    assert log.header["choices"] == {"first": ["linear", "skip", "tanh"], "second": ["linear", "skip"]}
    assert log.header["kinds"]["first"] == ["parametric", "skip", "parametric"]
    for record in log.records:
        assert 0 <= record["val_acc"] <= 1
        assert record["draws"]["count"] == 9
        assert all(sum(p) == pytest.approx(1, abs=1e-5) for p in record["probabilities"].values())
        assert ("eigenvalue" in record) == (name.split()[0] in ("BaLeNAS", "DARTS", "DrNAS", "GumbelDARTS"))
        assert ("sigma" in record) == name.startswith("BaLeNAS")
        assert ("architecture" in record) == (name != "RandomOneShot")
    if name.startswith(("BaLeNAS", "DrNAS")):
        posterior, last = strategy.posterior, log.records[-1]
        assert last["entropy"] == pytest.approx(posterior.entropy(), rel=1e-6)
        assert last["architecture"] == next(strategy.iterate_samples()).sample
        for label, law in posterior.laws.items():
            assert last["logits"][label] == pytest.approx(posterior.scores[label].tolist(), rel=1e-6)
            what = "precision" if name.startswith("BaLeNAS") else "concentration"
            assert last[what][label] == pytest.approx(law.parameters()[what].tolist(), rel=1e-6)
        assert log.header["strategy"] == name.split()[0]
    elif name.startswith("DARTS"):
        assert log.records[-1]["architecture"] == strategy.oneshot_module.export()


def test_the_eigenvalue_against_finite_differences_on_the_finished_search(tmp_path):
    """Another way: gradients of the loss by plain `backward`, differences between them, and NumPy-style eigenvalues."""
    strategy, log = run(DARTS(arc_learning_rate=0.1), tmp_path, epochs=2, curvature_every_n_epochs=1)
    supernet = strategy.supernet.double()
    validation = random_data(16, mark=VAL_MARK, seed=1)
    x, y = (torch.stack(column) for column in zip(*(validation[i] for i in range(8)), strict=True))
    alphas = list(architecture_parameters(supernet).values())
    start = torch.cat([alpha.detach().clone() for alpha in alphas])

    def gradient(flat: Tensor) -> Tensor:
        with torch.no_grad():
            for alpha, value in zip(alphas, flat.split([len(a) for a in alphas]), strict=True):
                alpha.copy_(value)
        supernet.zero_grad()
        torch.manual_seed(0)  # the measurement's dropout
        supernet.train()
        F.cross_entropy(supernet(x.double()), y).backward()
        return torch.cat([alpha.grad.clone() for alpha in alphas])

    step = 1e-5
    columns = [(gradient(start + step * e) - gradient(start - step * e)) / (2 * step) for e in torch.eye(5).double()]
    numeric = torch.stack(columns, 1)
    measured = log.records[-1]
    assert measured["curvature"] == {"method": "exact", "products": 5}
    assert measured["eigenvalue"] == pytest.approx(float(torch.linalg.eigvals(numeric).real.max()), rel=1e-3, abs=1e-6)
    assert measured["trace"] == pytest.approx(float(numeric.trace()), rel=1e-3, abs=1e-6)


def test_lanczos_and_exact_agree_on_the_same_search(tmp_path):
    found = {}
    for method in ("exact", "lanczos"):
        _, log = run(STRATEGIES["BaLeNAS"](), tmp_path / method, curvature=method, curvature_every_n_epochs=1)
        found[method] = [record["eigenvalue"] for record in log.records]
    assert found["lanczos"] == pytest.approx(found["exact"], rel=1e-3, abs=1e-7)


def test_fused_supernets_have_the_same_curvature(tmp_path):
    """The fused modules write their own backward passes, which must be differentiable again, and rightly so."""
    found = {}
    for fused in (True, False):
        pl.seed_everything(3, verbose=False)
        images = {"shape": (3, 8, 8), "train": 8, "val": 8, "batch_size": 4}
        evaluator = classification(
            tmp_path,
            learning_rate=0.01,
            callbacks=[Diagnostics("d.jsonl", {"curvature_every_n_epochs": 1, "draws": 0})],
            **loaders(**images),
        )
        space = NasBench201(4, 1, num_labels=CLASSES)
        strategy = BaLeNAS(fused=fused)
        strategy.initialize(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
        strategy.run()
        (found[fused],) = read_log(Path("d.jsonl")).records
    assert found[True]["curvature"] == found[False]["curvature"] == {"method": "exact", "products": 30}
    for name in ("eigenvalue", "trace"):
        assert found[True][name] == pytest.approx(found[False][name], rel=2e-3, abs=1e-6)


def test_the_accuracy_of_darts_is_the_validation_accuracy_at_its_softmax(tmp_path):
    strategy, log = run(DARTS(arc_learning_rate=0.1), tmp_path, curvature="off")
    supernet = strategy.supernet.eval()
    x, y = random_data(16, mark=VAL_MARK, seed=1).tensors
    with torch.no_grad():
        expected = float((supernet(x).argmax(1) == y).float().mean())
    assert log.records[-1]["val_acc"] == pytest.approx(expected)


def test_validate_off_leaves_the_accuracy_out(tmp_path):
    _, log = run(DARTS(), tmp_path, validate=False)
    assert all("val_acc" not in record for record in log.records)


def test_draws_follow_the_posterior(tmp_path):
    strategy, log = run(STRATEGIES["BaLeNAS"](), tmp_path, draws=4000, curvature="off")
    posterior, noise = strategy.posterior, SeededNoise(1)
    skips = torch.tensor(
        [[float(posterior.sample(noise)[k].argmax() == 1) for k in ("first", "second")] for _ in range(4000)]
    )
    error = math.sqrt(2 * 0.5 * 0.5 / 2 / 4000)
    assert log.records[-1]["draws"]["skip_ratio"] == pytest.approx(float(skips.mean()), abs=5 * error)


def test_the_controller_of_enas_says_its_probabilities(tmp_path):
    """Without tianshou, which NNI's ENAS needs: its module keeps what its controller last said in `_generator`."""
    strategy, _ = run(RandomOneShot(), tmp_path, epochs=1)
    module = strategy.oneshot_module
    module.set_model(strategy.supernet)
    module._generator = SimpleNamespace(sample_logits=None)
    assert search_state(module) is None
    module._generator.sample_logits = {"first": [0.7, 0.2, 0.1], "second": [0.4, 0.6]}
    state = search_state(module)
    assert probabilities(state.posterior, state.decisions)["first"].tolist() == pytest.approx([0.7, 0.2, 0.1])
    assert state.sample(state.outcomes()) == {"first": "linear", "second": "skip"}


@pytest.mark.parametrize(
    ("space", "strategy"),
    [
        (spaces.FactoryCell, DARTS),
        (spaces.LooseEndCell, BaLeNAS),
        (spaces.PlainCell, RandomOneShot),
        (spaces.FactoryCell, RandomOneShot),
    ],
)
def test_cells(space, strategy, tmp_path):
    _, log = run(strategy(), tmp_path, space=space, epochs=1, curvature_every_n_epochs=1)
    (record,) = log.records
    assert record["draws"]["depth"] >= 1
    assert 0 <= record["draws"]["skip_ratio"] <= 1
    if strategy is not RandomOneShot:
        assert record["cells"]["cell"]["depth"] >= 1
        assert math.isfinite(record["eigenvalue"])


@pytest.mark.parametrize("space", [spaces.Inputs, spaces.Depth, spaces.SharedLabel, spaces.NestedLayers])
def test_other_spaces(space, tmp_path):
    _, log = run(BaLeNAS(), tmp_path, space=space, epochs=1, curvature_every_n_epochs=1)
    (record,) = log.records
    assert record["draws"]["distinct"] > 1
    assert math.isfinite(record["eigenvalue"])
    assert ("skip_ratio" in record) == (space is not spaces.Inputs)


def test_the_loader_is_not_asked(tmp_path):
    """A loader whose shuffling has a generator of its own would draw another order after being looked into."""
    ends = []
    for options in ({}, {"curvature_every_n_epochs": 1}):
        torch.manual_seed(3)
        generator = torch.Generator().manual_seed(11)
        folder = tmp_path / str(len(ends))
        callbacks = [Diagnostics(folder / "d.jsonl", options)] if options else []
        evaluator = classification(
            folder,
            max_epochs=3,
            callbacks=callbacks,
            train_dataloaders=DataLoader(random_data(16, mark=1.0), batch_size=8),
            val_dataloaders=DataLoader(
                random_data(16, mark=VAL_MARK, seed=1), batch_size=8, shuffle=True, generator=generator
            ),
        )
        strategy = DARTS(arc_learning_rate=0.05)
        strategy.initialize(RawFormatModelSpace(Space(), evaluator), SequentialExecutionEngine())
        strategy.run()
        ends.append(generator.get_state())
    assert torch.equal(*ends)


def test_undisturbed_restores_everything_even_after_a_failure(tmp_path):
    strategy, _ = run(GumbelDARTS(), tmp_path, epochs=1)
    module = strategy.oneshot_module
    module.set_model(strategy.supernet)
    module.training_module.norm_seen = strategy.supernet.norm
    before = {key: value.clone() for key, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    flags = [p.requires_grad for p in module.parameters()]
    softmax = strategy.supernet.first._softmax
    random, log = random_states()["torch"], vars(module.training_module).get("log")

    def disturb() -> None:
        with undisturbed(module, seed=9):
            assert strategy.supernet.first._softmax is not softmax
            module.train()
            module.requires_grad_(False)
            module.training_module(torch.randn(8, 8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        disturb()
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes
    assert [p.requires_grad for p in module.parameters()] == flags
    assert strategy.supernet.first._softmax is softmax
    assert torch.equal(random_states()["torch"], random)
    assert vars(module.training_module).get("log") is log
    assert "log_dict" not in vars(module.training_module)


class Once(torch.autograd.Function):
    """Doubles, and can be differentiated once: autograd leaves its part out of a Hessian without a word."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * 2


class OnlyOnce(Space):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(super().forward(x))


class AsOften(Space):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_a_loss_without_second_derivative_is_measured_by_differences(method, tmp_path):
    found = {}
    for space in (OnlyOnce, AsOften):
        options = {"curvature": method, "curvature_every_n_epochs": 1}
        _, log = run(DARTS(arc_learning_rate=0.1), tmp_path / space.__name__, space=space, epochs=2, **options)
        found[space] = log.records
    assert [r["curvature"]["method"] for r in found[OnlyOnce]] == [f"{method} by differences"] * 2
    assert [r["curvature"]["method"] for r in found[AsOften]] == [method] * 2
    for once, often in zip(found[OnlyOnce], found[AsOften], strict=True):
        assert once["eigenvalue"] == pytest.approx(often["eigenvalue"], rel=0.02)
        assert once["trace"] == pytest.approx(often["trace"], rel=0.05, abs=0.01)
