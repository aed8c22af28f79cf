"""The battery of the search spaces: what each says of itself agrees with its supernet and its own networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace

from balenas_plugin import DARTS, BaLeNAS, search_spaces
from balenas_plugin.adapters.nni import strategy_of
from balenas_plugin.adapters.nni.run.build import build_space
from balenas_plugin.adapters.nni.supernets.found_model import NniSpace, exporter_space
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, choice_names
from balenas_plugin.adapters.nni.supernets.supernet_decisions import decisions_of, decisions_of_modules, exported
from balenas_plugin.adapters.nni.supernets.trained_supernet import inherited_network
from balenas_plugin.bayes.architectures import Architectures, single_decisions
from balenas_plugin.bayes.decisions import Architecture, OneOf, TopSet
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.errors import OptionError, SpaceError
from balenas_plugin.export.drawing import DrawnEdge, draw_architecture
from balenas_plugin.proxies import rank_value
from balenas_plugin.search_spaces import SPACES, SearchSpace, find_space, get_space, list_spaces, space_of

from .searches import classification, loaders, search
from .spaces import CLASSES, Layers

BATTERY: dict[str, dict[str, Any]] = {
    "nasbench201": {"stem_out_channels": 2, "num_modules_per_stack": 1},
    "chain": {"channels": 2},
    **{f"nasbench1shot1-{number}": {"channels": 2, "num_cells": cells} for number, cells in ((1, 1), (2, 3), (3, 1))},
    **{f"darts-{name}": {"width": 2, "num_cells": 3} for name in ("reference", "s1", "s2", "s3", "s4", "s5")},
    "darts-rnn": {"size": 4},
}
"""Space -> options of its supernet that make it small."""

SHAPE = (3, 16, 16)


@pytest.fixture(autouse=True)
def more_spaces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Find the toy spaces of the tests as if they were in search_spaces/."""

    def forget() -> None:
        for name in ("_built_in", "all"):
            vars(SPACES).pop(name, None)

    monkeypatch.setattr(search_spaces, "__path__", [*search_spaces.__path__, str(Path(__file__).parents[1] / "spaces")])
    forget()
    yield
    forget()


def samples(space: SearchSpace, count: int) -> list[Architecture]:
    """Return random architectures."""
    torch.manual_seed(0)
    flat = {label: torch.zeros(len(values)) for label, values in space.choices.items()}
    architectures = Architectures(space.decisions, Posterior(flat, {label: a + 1 for label, a in flat.items()}))
    return [architectures.discretise(architectures.posterior.sample()) for _ in range(count)]


def shapes(parameters: Iterable[torch.Tensor]) -> list[tuple[int, ...]]:
    return sorted(tuple(parameter.shape) for parameter in parameters)


def test_every_space_of_the_package_is_in_the_battery() -> None:
    assert set(list_spaces()) == set(BATTERY)


@pytest.mark.parametrize("name", BATTERY)
def test_a_space_says_of_its_supernet_what_is_true(name: str) -> None:
    space, model = get_space(name), build_space({"name": name, **BATTERY[name]}, num_classes=5)
    assert space_of(model) is space
    assert get_space(space.supernet) is space
    supernet = BaLeNAS().mutate_model(model)
    assert space_of(supernet) is space
    assert decisions_of(supernet) == list(space.decisions)
    if type(space).decisions is SearchSpace.decisions:  # no rule of its own
        assert decisions_of_modules(supernet) == list(space.decisions)
    names = choice_names(supernet)
    assert {label: tuple(map(str, values)) for label, values in space.choices.items()} == names
    inputs = {d.label for d in single_decisions(space.decisions) if isinstance(d, TopSet)}
    assert {name for label, values in names.items() if label not in inputs for name in values} == set(space.kinds)


@pytest.mark.parametrize("name", BATTERY)
def test_architectures_are_written_read_and_drawn(name: str, tmp_path: Path) -> None:
    space = get_space(name)
    reads = type(space).read is not SearchSpace.read
    for architecture in samples(space, 20):
        text = space.notation(architecture)
        assert space.notations(architecture)[name] == text
        assert not reads or space.read(text).sample == architecture
        assert not reads or space.read(text).read_as == ""
        edges = [edge for cell in space.cells(architecture).values() for edge in cell]
        chosen = {edge.label: edge.operation for edge in edges if edge.label in architecture}
        assert chosen.items() <= architecture.items()
        assert chosen
    assert space.cells({"of": "a damaged file", "nothing": None}) == {}
    for cell in space.cells(architecture).values():
        drawn = [DrawnEdge(edge.source, edge.target, edge.operation, 0.5) for edge in cell]
        draw_architecture(tmp_path / "cell.svg", drawn, title=text)
    with pytest.raises(SpaceError):
        space.read("no architecture at all")


@pytest.mark.parametrize("name", BATTERY)
def test_networks_of_a_space_are_those_of_its_supernet(name: str) -> None:
    model = build_space({"name": name, **BATTERY[name]}, num_classes=5)
    view = exporter_space(model, [], SHAPE)
    networks, nni_networks = view.networks(3), NniSpace(model, [], SHAPE)
    inputs = view.inputs(2)
    for architecture in samples(get_space(name), 3):
        network = networks.build(architecture)
        assert network(inputs).shape[:2] == (2, 5)
        built = nni_networks.build(architecture)
        built(inputs).sum().backward()  # what NNI's network makes no use of has no gradient
        used = [parameter for parameter in built.parameters() if parameter.grad is not None]
        assert shapes(network.parameters()) in (shapes(built.parameters()), shapes(used))
        again = networks.build(architecture)
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
        fast = networks.fast_rank_value("synflow", architecture)
        if fast is not None:
            assert fast == pytest.approx(rank_value("synflow", network, inputs[:1]), abs=1e-4)


def test_a_network_inherits_what_its_supernet_computes() -> None:
    space, images = get_space("darts-reference"), torch.randn(2, *SHAPE)
    model = build_space({"name": space.name, "width": 2, "num_cells": 3}, num_classes=5)
    supernet = DARTS().mutate_model(model).eval()
    (architecture,) = samples(space, 1)
    cells = space.cells(architecture).items()
    chosen = {f"{cell}/{edge.target}_{edge.source}": edge.operation for cell, edges in cells for edge in edges}
    with torch.no_grad():
        for label, alpha in architecture_parameters(supernet).items():
            alpha.fill_(-1e4)[list(space.choices[label]).index(chosen.get(label, "none"))] = 1e4
        network = inherited_network(supernet, exporter_space(model, [], SHAPE), architecture)
        torch.testing.assert_close(network(images), supernet(images))


@dataclass(frozen=True)
class SmallestOf(OneOf):
    """A rule of a space of its own: the smallest logit wins."""

    def choose(self, logits: Mapping[str, torch.Tensor]) -> int:
        return int(logits[self.label].argmin())


def test_a_space_may_discretise_by_its_own_rule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    space = get_space("chain")
    rule = [SmallestOf(label, tuple(values)) for label, values in space.choices.items()]
    monkeypatch.setattr(space, "decisions", rule, raising=False)
    model = build_space({"name": "chain"}, num_classes=CLASSES)
    strategy = search(model, classification(tmp_path, **loaders(shape=SHAPE)), num_mc_samples=1)
    mean = {label: torch.tensor([0.3, -0.2, 0.1]) for label in space.choices}
    with torch.no_grad():
        for label, alpha in architecture_parameters(strategy.oneshot_module.model).items():
            alpha.copy_(mean[label])
    assert decisions_of(strategy.oneshot_module.model) == rule
    assert exported(strategy.oneshot_module) == dict.fromkeys(space.choices, "pass")


@pytest.mark.parametrize("name", ["DARTS", "PDARTS", "PCDARTS"])
def test_edges_with_operations_of_their_own_are_searched(name: str, tmp_path: Path) -> None:
    space = build_space({"name": "darts-s1", "width": 4, "num_cells": 3}, num_classes=CLASSES)
    evaluator = classification(tmp_path, max_epochs=3, **loaders(shape=(3, 8, 8), train=8, val=8))
    strategy = strategy_of(name)(arc_learning_rate=0.1)
    strategy.initialize(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    strategy.run()
    assert next(strategy.iterate_samples()).sample == exported(strategy.oneshot_module)


def test_an_unknown_space_has_the_default_answers() -> None:
    space = space_of(Layers())
    assert (space.name, space.notations({"op": "0"}), space.ground_truth, space.choices) == ("", {}, "", {})
    assert [edge.target for edge in space.cells({"cell/0_1": "conv"})["cell"]] == [1]
    with pytest.raises(OptionError, match=r"unknown space 'nasbench20'.*did you mean 'nasbench201'"):
        get_space("nasbench20")
    assert find_space("module:Class") is None
