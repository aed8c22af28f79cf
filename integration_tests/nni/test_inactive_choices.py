"""Choices that make no difference: every network is listed once, with the probability of all that stand for it."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace, MutableLinear, ParametrizedModule, Repeat
from torch import Tensor, nn

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.supernets.dataflow import Unused, without_unused
from balenas_plugin.adapters.nni.supernets.found_model import NniSpace
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, choice_names
from balenas_plugin.adapters.nni.supernets.supernet_decisions import decisions_of
from balenas_plugin.bayes import Posterior
from balenas_plugin.bayes.architectures import Architectures, single_decisions
from balenas_plugin.export.standalone import write_standalone
from balenas_plugin.selection import ProxySelection

from .searches import classification, search
from .spaces import CLASSES


def linear(bias: bool = True) -> nn.Linear:
    return nn.Linear(8, 8, bias=bias)


def choice(label: str) -> LayerChoice:
    """Return a choice of two networks that no input makes equal."""
    return LayerChoice({"one": linear(), "two": nn.Sequential(linear(), nn.Tanh())}, label=label)


class Body(ModelSpace):
    """A body of any kind, and a head."""

    def __init__(self, body: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = body()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def three_deep() -> nn.Module:
    middle = LayerChoice({"c": nn.Sequential(choice("inner"), nn.Tanh()), "d": linear()}, label="middle")
    return LayerChoice({"a": nn.Sequential(middle, nn.ReLU()), "b": linear()}, label="outer")


def repeated() -> nn.Module:
    return Repeat(lambda k: choice(f"block{k}"), (0, 3), label="depth")


def repeated_with_one_label() -> nn.Module:
    return Repeat(choice("block"), (0, 2), label="depth")


def repeated_expression() -> nn.Module:
    return Repeat(lambda k: choice(f"block{k}"), nni.choice("least", [1, 2]) + nni.choice("more", [0, 2]))


def value_inside() -> nn.Module:
    width = nni.choice("width", [2, 4])
    narrow = nn.Sequential(MutableLinear(8, width), MutableLinear(width, 8))
    return LayerChoice({"narrow": narrow, "full": linear()}, label="outer")


def label_inside_and_beside() -> nn.Module:
    return nn.Sequential(LayerChoice({"a": choice("inner"), "b": linear()}, label="outer"), choice("inner"))


def label_in_two_candidates() -> nn.Module:
    a, b = nn.Sequential(choice("inner"), nn.Tanh()), nn.Sequential(linear(), choice("inner"))
    return LayerChoice({"a": a, "b": b, "c": linear()}, label="outer")


def module_in_two_candidates() -> nn.Module:
    same = choice("inner")
    return LayerChoice({"a": same, "b": nn.Sequential(same, nn.Tanh()), "c": linear()}, label="outer")


def cell_inside() -> nn.Module:
    operations = {"x": linear(), "y": choice("inner")}
    cell = Cell(operations, num_nodes=1, num_ops_per_node=1, num_predecessors=1, label="cell")
    return LayerChoice({"a": cell, "b": linear()}, label="outer")


class Picked(nn.Module):
    """One, or two, of three modules are taken; the first is used besides if `beside`."""

    def __init__(self, n_chosen: int = 1, beside: bool = False) -> None:
        super().__init__()
        self.bodies = nn.ModuleList([choice("first"), nn.Sequential(choice("second"), nn.Tanh()), linear()])
        self.pick = InputChoice(3, n_chosen=n_chosen, label="pick")
        self.beside = beside

    def forward(self, x: Tensor) -> Tensor:
        bodies = [body(x) for body in self.bodies]
        return self.pick(bodies) + (bodies[0] if self.beside else 0)


class PickedInPlace(Picked):
    """What is not taken has changed what is."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.bodies[0](x)
        sums = torch.zeros_like(x)
        changed = sums.add_(first)
        return self.pick([changed, self.bodies[1](x), self.bodies[2](x)]) + sums


class PickedAfterAnAugmentedAssignment(Picked):
    """Likewise, under another name."""

    def forward(self, x: Tensor) -> Tensor:
        plain = self.bodies[2](x)
        changed = plain
        changed += self.bodies[0](x)
        return self.pick([changed, self.bodies[1](x), plain])


class PickedAndKept(Picked):
    """What is not taken is kept for a loss, perhaps."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = [body(x) for body in self.bodies]
        return self.pick(self.kept)


class PickedInTraining(Picked):
    """What is not taken is used in training."""

    def forward(self, x: Tensor) -> Tensor:
        bodies = [body(x) for body in self.bodies]
        return self.pick(bodies) + (0.1 * bodies[0] if self.training else 0)


class MadeAnew(ParametrizedModule):
    """A module that NNI makes anew to freeze it, so that it asks for the choices of all candidates."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        a, b = nn.Sequential(choice("inner"), nn.Linear(8, width)), nn.Linear(8, width)
        self.layers = LayerChoice({"a": a, "b": b}, label="outer")
        self.last = nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))


BODIES = {
    "three deep": (three_deep, 4),
    "repeated": (repeated, 1 + 2 + 4 + 8),
    "repeated with one label": (repeated_with_one_label, 1 + 2 + 2),
    "repeated by an expression": (repeated_expression, 2 + 4 + 8 + 16),
    "value inside": (value_inside, 3),
    "label inside and beside": (label_inside_and_beside, 4),
    "label in two candidates": (label_in_two_candidates, 5),
    "module in two candidates": (module_in_two_candidates, 5),
    "cell inside": (cell_inside, 4),
    "picked": (Picked, 5),
    "two picked": (lambda: Picked(2), 4 + 2 + 2),
    "picked and used besides": (lambda: Picked(beside=True), 2 + 4 + 2),
}


@dataclass(frozen=True)
class Searched:
    """A supernet with a posterior."""

    supernet: ModelSpace
    architectures: Architectures

    @classmethod
    def of(cls, body: Callable[[], nn.Module]) -> Searched:
        torch.manual_seed(0)
        supernet = BaLeNAS().mutate_model(Body(body)).eval()
        alphas = architecture_parameters(supernet)
        mean = {label: torch.randn(alpha.shape) for label, alpha in alphas.items()}
        precision = {label: torch.rand(alpha.shape) * 5 + 1 for label, alpha in alphas.items()}
        posterior = Posterior(mean, precision, choice_names(supernet), decisions_of(supernet))
        return cls(supernet, Architectures(posterior.decisions, posterior))

    @torch.no_grad()
    def network(self, architecture: dict[str, Any]) -> tuple[float, ...]:
        """Return what distinguishes networks: some of their outputs, with the supernet's weights."""
        x = torch.linspace(-1, 1, 16).reshape(2, 8)
        return tuple(self.supernet.freeze(architecture).eval()(x).flatten().double().mul(1e5).round().tolist())


@pytest.mark.parametrize("name", BODIES)
def test_every_network_is_listed_once_with_the_probability_of_all_that_stand_for_it(name: str) -> None:
    body, size = BODIES[name]
    searched = Searched.of(body)
    posterior, decisions = searched.architectures.posterior, list(single_decisions(searched.architectures.decisions))
    tables = [list(decision.outcomes(posterior).best_first()) for decision in decisions]
    expected: dict[tuple[float, ...], float] = defaultdict(float)
    for combination in itertools.product(*tables):
        architecture: dict[str, Any] = {}
        for decision, (outcome, _) in zip(decisions, combination, strict=True):
            architecture |= decision.to_architecture(outcome, posterior)
        expected[searched.network(architecture)] += math.exp(sum(value for _, value in combination))
        again = searched.architectures.describe(architecture)
        assert again == searched.architectures.describe(again.sample)
    found = list(searched.architectures.iterate())
    assert len(found) == len(expected) == size
    values = [each.log_probability for each in found]
    assert values == sorted(values, reverse=True)
    for each in found:
        assert math.exp(each.log_probability) == pytest.approx(expected[searched.network(each.sample)], rel=1e-12)
        assert sum(each.decisions.values()) == pytest.approx(each.log_probability, abs=1e-12)


def test_samples_name_what_makes_a_difference() -> None:
    named = [set(each.sample) for each in Searched.of(three_deep).architectures.iterate()]
    assert sorted(named, key=len) == [{"outer"}, {"outer", "middle"}, *[{"outer", "middle", "inner"}] * 2]
    for each in Searched.of(repeated).architectures.iterate():
        assert set(each.sample) == {"depth", *(f"block{k}" for k in range(each.sample["depth"]))}
    for each in Searched.of(Picked).architectures.iterate():  # `freeze` asks for what feeds the others
        unused = {"first": "one", "second": "one"}
        assert all(each.sample[label] == unused[label] for label in {"first", "second"} - set(each.decisions))


@pytest.mark.parametrize("body", [PickedInPlace, PickedAfterAnAugmentedAssignment, PickedAndKept, PickedInTraining])
def test_what_may_be_used_in_another_way_is_taken_to_make_a_difference(body: type[nn.Module]) -> None:
    searched = Searched.of(body)
    first_always = 2 + 4 + 2
    assert len(list(searched.architectures.iterate())) == (3 * 4 if body is PickedAndKept else first_always)
    assert not hasattr(searched.supernet.body, "kept")


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.ReLU(inplace=True)])
def test_exported_network_holds_nothing_that_it_makes_no_use_of(layer: nn.Module, tmp_path: Path) -> None:
    """The inputs that were not picked, with a layer behind them and in the module list that they stand in."""

    def body() -> nn.Module:
        picked = Picked()
        picked.bodies[2] = nn.Sequential(linear(), nn.BatchNorm1d(8), layer, nn.Dropout(0.5))
        return picked

    space = Body(body)
    network = NniSpace(space, [], (8,)).build({"pick": [0], "first": "two"})
    assert sum(p.numel() for p in network.parameters()) == 8 * 8 + 8 + 8 * CLASSES + CLASSES
    example = torch.randn(3, 8)
    source, weights = write_standalone(network, tmp_path, name="found", example=example, title="found")
    assert "BatchNorm" not in source.read_text()
    assert set(torch.load(weights)) == {
        "body.bodies.0.0.weight",
        "body.bodies.0.0.bias",
        "head.weight",
        "head.bias",
    }
    whole = space.freeze({"pick": [0], "first": "two", "second": "one"}).eval()
    whole.load_state_dict(network.state_dict(), strict=False)
    torch.testing.assert_close(network.eval()(example), whole(example))


def test_what_training_makes_use_of_stays() -> None:
    frozen = Body(PickedInTraining).freeze({"pick": [1], "first": "one", "second": "one"})
    bodies = without_unused(frozen, torch.ones(2, 8)).body.bodies
    assert [isinstance(body, Unused) for body in bodies] == [False, False, True]


def test_fewer_networks_than_asked_for_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    strategy = search(Body(three_deep), classification(tmp_path))
    assert [len(list(strategy.list_models(limit=limit))) for limit in (3, 4, 6, None)] == [3, 4, 4, 4]
    assert caplog.messages == ["4 distinct networks instead of the 6 asked for: the space has no more."]


def test_draws_and_stability_count_networks(tmp_path: Path) -> None:
    strategy = search(Body(three_deep), classification(tmp_path), selection=ProxySelection(n=60, proxy="params"))
    ranked = strategy.rank()
    assert len(ranked) == len({tuple(sorted(found.choices.items())) for found in ranked}) == 4
    assert sum(found.times_drawn for found in ranked) == 60
    assert sum(found.probability for found in ranked) == pytest.approx(1)
    assert sum(found.stability for found in ranked) == pytest.approx(1)
    shares = {len(found.choices): found.times_drawn / 60 for found in ranked}
    assert 0.3 < shares[1] < 0.7  # one choice alone makes the network of candidate b


@pytest.mark.parametrize(("body", "count"), [(three_deep, 4), (Picked, 5), (MadeAnew, 3)])
def test_found_models_and_the_posteriors_architectures_can_be_frozen(
    body: Callable[[], nn.Module], count: int, tmp_path: Path
) -> None:
    strategy = search(Body(body), classification(tmp_path))
    models, probable = list(strategy.list_models(limit=count)), strategy.posterior.most_probable(count + 1)
    assert len(models) == len(probable) == count
    for model, architecture in zip(models, probable, strict=True):
        assert model.executable_model()(torch.randn(2, 8)).shape == (2, CLASSES)
        frozen = Body(body).freeze(architecture)
        frozen.load_state_dict(Body(body).freeze(json.loads(json.dumps(architecture))).state_dict())
