"""What a user gets out of an `NasExperiment`, and a user's own supernet modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableModule
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.space import RawFormatModelSpace, model_context
from nni.tools.nnictl.config_utils import Experiments
from torch import Tensor, nn

from balenas_plugin import BaLeNAS, Posterior
from balenas_plugin.adapters.nni import strategy_of
from balenas_plugin.adapters.nni.supernets.supernet_decisions import exported
from balenas_plugin.errors import SpaceError

from .searches import classification, loaders, search
from .spaces import CASES, Case, Depth, Layers


@pytest.fixture
def experiment_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for NNI's experiments in the place of the user's home."""
    monkeypatch.setattr(Experiments.__init__, "__defaults__", (str(tmp_path / "manifest"),))
    return tmp_path / "experiments"


def run_experiment(case: Case, strategy: BaLeNAS, folder: Path) -> NasExperiment:
    space = case.space()
    evaluator = classification(folder, **loaders(shape=case.shape))
    config = NasExperimentConfig.default(space, evaluator, strategy)
    config.experiment_working_directory = folder
    experiment = NasExperiment(space, evaluator, strategy, config)
    assert experiment.run()
    return experiment


@pytest.mark.parametrize("name", ["layer_choice", "input_choice", "repeat", "cell_plain", "convolution_values"])
def test_experiment_exports_distinct_models_as_dict_and_as_instance(name, experiment_folder):
    case = CASES[name]
    strategy = BaLeNAS(num_mc_samples=2, arc_learning_rate=0.1)
    experiment = run_experiment(case, strategy, experiment_folder)
    (best,) = experiment.export_top_models()
    samples = experiment.export_top_models(3, formatter="dict")
    assert best.sample == samples[0] == exported(strategy.oneshot_module)
    assert len(samples) == len({str(architecture) for architecture in samples}) == 3
    x = torch.randn(2, *case.shape)
    for architecture, instance in zip(samples, experiment.export_top_models(3, formatter="instance"), strict=True):
        with model_context(architecture):
            anew = case.space()
        anew.load_state_dict(instance.state_dict())  # the instance is the architecture of the sample
        assert torch.equal(anew.eval()(x), instance.eval()(x))


def test_experiment_of_a_cell_exports_samples(experiment_folder):
    """NNI cannot freeze its supernet cells, so their architectures are built anew from the sample."""
    experiment = run_experiment(CASES["cell_factory"], BaLeNAS(num_mc_samples=1), experiment_folder)
    for architecture in experiment.export_top_models(3, formatter="dict"):
        with model_context(architecture):
            assert CASES["cell_factory"].space()(torch.randn(2, 8)).shape == (2, 3)


def test_top_models_of_a_space_with_fewer_are_all_of_them(experiment_folder):
    experiment = run_experiment(CASES["nested_layer_choice"], BaLeNAS(num_mc_samples=1), experiment_folder)
    assert len(experiment.export_top_models(100, formatter="dict")) == 3


def test_listing_again_gives_the_same(tmp_path):
    strategy = search(Depth(), classification(tmp_path))
    once = [model.sample for model in strategy.list_models(limit=4)]
    assert [model.sample for model in strategy.list_models(limit=4)] == once


def test_exported_instances_own_their_weights(tmp_path):
    strategy = search(Layers(), classification(tmp_path))
    instances = [model.executable_model() for model in strategy.list_models(limit=None)]
    owners: dict[int, int] = {id(p): -1 for p in strategy.supernet.parameters()}
    for number, instance in enumerate(instances):
        for parameter in instance.parameters():
            assert owners.setdefault(id(parameter), number) == number


def test_posterior_can_be_saved_after_a_search(tmp_path):
    posterior = search(Layers(), classification(tmp_path)).posterior
    posterior.save(tmp_path / "posterior.json")
    read = Posterior.load(tmp_path / "posterior.json")
    assert read.choices == posterior.choices
    assert all(torch.equal(read.mean[label], posterior.mean[label]) for label in posterior.labels)


def test_posterior_is_a_copy(tmp_path):
    strategy = search(Layers(), classification(tmp_path))
    strategy.posterior.mean["op"].zero_()
    assert strategy.posterior.mean["op"].abs().max() > 0


class Gate(MutableModule):
    """A user's own mutable, which NNI knows nothing of: multiply by one of three numbers."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.factor = nni.choice(label, [1, 2, 3])
        self.add_mutable(self.factor)

    def forward(self, x: Tensor) -> Tensor:
        return x


class MixedGate(BaseSuperNetModule):
    """Its supernet module."""

    def __init__(self, factor: Any, alpha: nn.Parameter) -> None:
        super().__init__()
        self.factor = factor
        self.add_mutable(factor)
        self._my_alpha = alpha

    def arch_parameters(self) -> Any:
        yield self._my_alpha

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        return {}

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        best = self.factor.values[int(self._my_alpha.argmax())]
        return {} if self.factor.label in memo else {self.factor.label: best}

    def export_probs(self, memo: dict[str, Any]) -> dict[str, Any]:
        return {self.factor.label: dict(zip(self.factor.values, self._my_alpha.softmax(-1).tolist(), strict=True))}

    def forward(self, x: Tensor) -> Tensor:
        return x * (self._my_alpha.softmax(-1) @ torch.tensor([1.0, 2.0, 3.0]))

    @classmethod
    def mutate(cls, module: nn.Module, name: str, memo: dict[str, Any], kwargs: dict[str, Any]) -> Any:
        return cls(module.factor, memo[module.factor.label]) if type(module) is Gate else None


class Gated(ModelSpace):
    """Two such modules under one label, and a LayerChoice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Gate("gate"), Gate("gate")
        self.op = LayerChoice([nn.Linear(8, 3), nn.Linear(8, 3, bias=False)], label="op")

    def forward(self, x: Tensor) -> Tensor:
        return self.op(self.second(self.first(x)))


def test_users_own_supernet_modules_are_searched_and_listed(tmp_path):
    strategy = search(Gated(), classification(tmp_path), mutation_hooks=[MixedGate.mutate], arc_learning_rate=0.1)
    assert len(strategy.posterior.labels) == 2
    samples = [ranked.sample for ranked in strategy.iterate_samples()]
    assert samples[0] == strategy.oneshot_module.export()
    assert len(samples) == len({str(sorted(architecture.items())) for architecture in samples}) == 3 * 2


class AskingGate(MixedGate):
    """The same, which asks for its mixing weights as NNI's modules do."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (self._softmax(self._my_alpha) @ torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype))

    @classmethod
    def mutate(cls, module: nn.Module, name: str, memo: dict[str, Any], kwargs: dict[str, Any]) -> Any:
        gate = super().mutate(module, name, memo, kwargs)
        if gate is not None:
            gate._softmax = kwargs["softmax"]
        return gate


class ReadingGate(MixedGate):
    def forward(self, x: Tensor) -> Tensor:
        return x * (self._my_alpha.softmax(-1) @ torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype))


@pytest.mark.parametrize("options", [{"weight_step_alpha": "sample"}, {"order": "second"}], ids=["first", "second"])
def test_a_module_that_reads_its_logits_itself_is_searched_as_one_that_asks(options, tmp_path):
    posteriors = []
    for hook in (ReadingGate.mutate, AskingGate.mutate):
        torch.manual_seed(0)
        evaluator = classification(tmp_path, precision="64-true")
        strategy = search(Gated(), evaluator, mutation_hooks=[hook], arc_learning_rate=0.1, **options)
        assert list(strategy.oneshot_module.read_directly) == (["first._my_alpha"] if not posteriors else [])
        posteriors.append(strategy.posterior)
    for label, mean in posteriors[0].mean.items():
        torch.testing.assert_close(mean, posteriors[1].mean[label], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            posteriors[0].precision[label], posteriors[1].precision[label], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize(
    ("preset", "options", "message"),
    [
        ("DrNAS", {}, "no draw of a dirichlet distribution reaches them"),
        ("SDARTS_RS", {}, "no perturbation reaches them"),
        ("DARTS", {"levels": 1}, "no gradient of theirs is taken with levels: 1"),
    ],
)
def test_a_module_that_reads_its_logits_itself_is_refused_where_that_loses_something(
    preset, options, message, tmp_path
):
    strategy = strategy_of(preset)(mutation_hooks=[ReadingGate.mutate], **options)
    strategy.initialize(RawFormatModelSpace(Gated(), classification(tmp_path)), SequentialExecutionEngine())
    with pytest.raises(SpaceError, match=message):
        strategy.run()
