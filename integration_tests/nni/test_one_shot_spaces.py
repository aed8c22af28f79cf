"""NAS-Bench-1Shot1: every preset searches it, and what a loose block chooses makes no difference to what it finds."""

from __future__ import annotations

import math
import re
from itertools import islice
from pathlib import Path

import pytest
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace

from balenas_plugin.adapters.nni import strategy_of
from balenas_plugin.adapters.nni.run.build import space_class
from balenas_plugin.adapters.nni.supernets.found_model import exporter_space
from balenas_plugin.adapters.nni.supernets.supernet_decisions import exported
from balenas_plugin.bayes.decisions import TopSet
from balenas_plugin.bayes.laws import NormalLaw
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.search_spaces.nasbench1shot1 import SPACES, ModuleSpec, NasBench101Network

from .searches import classification, loaders
from .test_presets import OPTIONS

IMAGE = (3, 16, 16)


def renamed(key: str) -> str:
    """Return the name that a weight of our network has in NNI's, whose lists count from 0."""
    return re.sub(r"(operations|projections)\.(\d+)", lambda found: f"{found[1]}.{int(found[2]) - 1}", key)


WEIGHTS = {1: 1_101_402, 2: 1_101_402, 3: 1_509_594}
"""Of the supernets of 16 channels and nine cells, as the reference counts them."""


@pytest.mark.parametrize("name", ["BaLeNAS", "DARTS", "GDAS"])
def test_presets_search_it(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = space_class("nasbench1shot1-1")(channels=2, num_cells=1, num_labels=3)
    evaluator = classification(tmp_path, **loaders(shape=IMAGE, train=8, val=8))
    strategy = strategy_of(name)(arc_learning_rate=0.1, **OPTIONS.get(name, {}))
    strategy.initialize(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    strategy.run()
    found = list(islice(strategy.iterate_samples(), 40))
    assert found[0].sample == exported(strategy.oneshot_module)
    assert len({SPACES[1].notation(each.sample) for each in found}) == 40
    assert all(math.isfinite(each.log_probability) for each in found)
    view = exporter_space(space_class("nasbench1shot1-1")(channels=2, num_cells=1, num_labels=3), [], IMAGE)
    own, nnis = view.build(found[0].sample).eval(), strategy.supernet.freeze(found[0].sample).eval()
    own.load_state_dict({key: nnis.state_dict()[renamed(key)] for key in own.state_dict()})
    assert torch.allclose(own(images := torch.rand(2, *IMAGE)), nnis(images), atol=1e-6)


@pytest.mark.parametrize(("number", "weights"), WEIGHTS.items())
def test_the_supernets_are_as_large_as_the_reference(number: int, weights: int) -> None:
    with torch.device("meta"):
        model = space_class(SPACES[number].name)(channels=16, num_cells=9)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights


def test_the_probabilities_of_all_networks_add_up_to_one() -> None:
    torch.manual_seed(1)
    space = SPACES[1]
    laws = {label: NormalLaw(torch.randn(len(v)), torch.full((len(v),), 2.0)) for label, v in space.choices.items()}
    posterior = Posterior.of(laws, kind="gaussian", decisions=space.decisions)
    outcomes = space.blocks.decision.outcomes(posterior)
    ranked = list(outcomes.best_first())
    values = [value for _, value in ranked]
    assert len(ranked) == len(set(ranked)) == len(list(space.blocks.wirings())) == 3702
    assert values == sorted(values, reverse=True)
    assert sum(map(math.exp, values)) == pytest.approx(1, abs=1e-6)
    drawn = [space.blocks.decision.choose(posterior.sample()) for _ in range(1000)]
    most, value = ranked[0]
    assert drawn.count(most) / 1000 == pytest.approx(math.exp(value), abs=0.04)


def test_nodes_without_a_choice_take_all_that_is_before_them() -> None:
    first, third = SPACES[1].blocks, SPACES[3].blocks
    assert [d.label for d in first.decision.parts if isinstance(d, TopSet)] == ["input_3", "input_4", "output"]
    assert third.choosing == [2, 3, 4, 5, 6]
    sample = SPACES[1].read("conv3x3~0|maxpool3x3~0,1|conv1x1~1,2|-|output~0,3").sample
    assert sample is not None
    spec = SPACES[1].spec(sample)
    assert [spec.parents(v) for v in range(7)] == [[], [0], [0, 1], [1, 2], [], [], [0, 3]]
    assert SPACES[1].notations(sample)["nasbench101_hash"] == spec.pruned().hash()


def test_channels_are_divided_among_those_that_the_output_joins() -> None:
    spec = ModuleSpec.of([[0], [0], [1, 2], [0, 1, 2, 3]], ["conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"])
    network = NasBench101Network(spec, channels=8, cells_per_stage=1)
    assert network.stacks[0][0].widths == [8, 3, 3, 2, 8]
    assert network(torch.ones(1, 3, 15, 15)).shape == (1, 10)  # odd sizes are halved upwards, as TensorFlow does
