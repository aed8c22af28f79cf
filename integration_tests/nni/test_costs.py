"""Costs that join the loss of the architecture: counted or measured by choice, and reaching what is learned."""

from __future__ import annotations

import copy
import json
import math
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.hub.pytorch import NasBench201
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import RawFormatModelSpace

from balenas_plugin import BaLeNAS, DistributionStrategy
from balenas_plugin.adapters.nni import strategy_of
from balenas_plugin.adapters.nni.candidates.latency import measured
from balenas_plugin.adapters.nni.candidates.operations import zeros_of
from balenas_plugin.adapters.nni.candidates.sizes import counted
from balenas_plugin.adapters.nni.run.latency_run import cost_tables
from balenas_plugin.adapters.nni.supernets.found_model import exporter_space
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.adapters.nni.supernets.supernet_decisions import decisions_of
from balenas_plugin.bayes import Posterior, SeededNoise
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.costs import CostOptions, CostTable, timing
from balenas_plugin.errors import FileFormatError, OptionError, SpaceError
from balenas_plugin.presets import get_preset, list_presets
from balenas_plugin.proxies import get_proxy
from balenas_plugin.search_spaces.darts.supernet import DartsSupernet
from balenas_plugin.search_spaces.nasbench1shot1.supernet import OneShotSupernet1
from balenas_plugin.selection.constraints import CandidateCosts

from . import spaces
from .searches import classification, loaders
from .spaces import Layers
from .test_presets import OPTIONS

OF_EACH_DISTRIBUTION = {get_preset(name).distribution: name for name in list_presets()}
UNREACHED = {"controller": "from accuracies", "uniform": "nothing"}


def supernet_of(space: ModelSpace) -> ModelSpace:
    return BaLeNAS().mutate_model(copy.deepcopy(space)).eval()


@pytest.mark.parametrize("measure", ["flops", "params"])
@pytest.mark.parametrize("name", ["NasBench201", "Layers", "SharedLabel", "DepthExpression"])
def test_counts_add_up_to_those_of_the_network(name: str, measure: str) -> None:
    space = NasBench201(4, 1, num_labels=3) if name == "NasBench201" else getattr(spaces, name)()
    x = torch.randn(2, 3, 8, 8) if name == "NasBench201" else torch.randn(2, *spaces.VECTOR)
    supernet = supernet_of(space)
    table = counted(supernet, measure, lambda: supernet(x))
    domains = space.simplify()
    for seed in range(3):
        torch.manual_seed(seed)
        sample = {k: d.values[int(torch.randint(len(d.values), ()))] for k, d in domains.items()}
        found = table.fixed + sum(table.costs[label][str(value)] for label, value in sample.items())
        assert found == get_proxy(measure)(copy.deepcopy(space.freeze(sample)), x)


@pytest.mark.parametrize("space", ["NasBench201", "nni", "reference", "Layers", "1Shot1"])
def test_tables_of_candidates_are_what_their_networks_cost(space: str, tmp_path: Path) -> None:
    made: dict[str, ModelSpace] = {"NasBench201": NasBench201(4, 1, num_labels=3), "Layers": Layers()}
    made["1Shot1"] = OneShotSupernet1(channels=2, num_cells=3)  # what a loose block chooses costs nothing
    searched = made.get(space) or DartsSupernet(4, 3, form=space)
    images = torch.randn(2, *(spaces.VECTOR if space == "Layers" else (3, 8, 8)))
    supernet = supernet_of(searched)
    exporter = exporter_space(searched, decisions_of(supernet), tuple(images.shape[1:]))
    scores = {k: torch.randn(len(a)) for k, a in architecture_parameters(supernet).items()}
    posterior = Posterior(scores, {k: torch.ones_like(a) for k, a in scores.items()})
    architectures = Architectures(exporter.decisions, posterior)
    tables = cost_tables(searched, images, ("params", "flops"), folder=tmp_path)
    by_table, by_network = (CandidateCosts(exporter, architectures, images, given) for given in (tables, {}))
    for seed in range(2):
        found = architectures.discretise(posterior.sample(SeededNoise(seed)))
        assert by_table(found, ("params", "flops")) == by_network(found, ("params", "flops"))
    exact = {"reference": {"flops"}, "1Shot1": set()}
    assert set(by_table._tables) == exact.get(space, {"params", "flops"})
    assert cost_tables(spaces.NestedLayers(), images, ("params",), folder=tmp_path) == {}


def test_latencies_are_measured_once_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(timing, "_now", lambda device: 1e-3 * next(ticks))
    image = torch.randn(1, *spaces.VECTOR)
    found = cost_tables(Layers(), image, ("latency",), folder=tmp_path)["latency"]
    assert (found.threads, found.batch_size, found.unit, found.costs["op"]["0"]) == (1, 1, "ms", pytest.approx(1.0))
    assert found.runtime == "onnxruntime"
    (path,) = tmp_path.iterdir()
    assert platform.node() in path.name
    monkeypatch.setattr(timing, "_now", None)
    assert cost_tables(Layers(), image, ("latency",), folder=tmp_path) == {"latency": found}
    edit(path, processor="another")
    with pytest.raises(TypeError):  # measured again
        cost_tables(Layers(), image, ("latency",), folder=tmp_path)


@pytest.mark.parametrize(("name", "why"), [("NestedLayers", "choices inside"), ("LinearValues", "no candidates")])
def test_what_does_not_add_up_is_refused(name: str, why: str) -> None:
    supernet = supernet_of(getattr(spaces, name)())
    with pytest.raises(SpaceError, match=f"costs of .* do not add up choice by choice.*{why}.*use `penalty`"):
        counted(supernet, "params", lambda: None)


def test_zeros_are_what_returns_zeros() -> None:
    found = zeros_of(supernet_of(NasBench201(4, 1)))
    assert list(found.values()) == [[0]] * 6
    assert zeros_of(supernet_of(Layers())) == {"op": [], "act": []}  # where "none" is an identity


def search(
    folder: Path,
    cost: dict[str, Any],
    name: str = "DARTS",
    space: Any = Layers,
    shape: tuple[int, ...] = spaces.VECTOR,
    **options: Any,
) -> Any:
    torch.manual_seed(1)
    strategy = strategy_of(name)(cost=cost, **{**OPTIONS.get(name, {}), "validate_every_n_epochs": 0, **options})
    evaluator = classification(folder, max_epochs=3, **loaders(train=48, val=48, shape=shape))
    strategy.initialize(RawFormatModelSpace(space(), evaluator), SequentialExecutionEngine())
    strategy.run()
    return strategy


@pytest.mark.parametrize(("distribution", "learns"), UNREACHED.items())
def test_a_cost_that_nothing_is_learned_of_is_refused(distribution: str, learns: str) -> None:
    with pytest.raises(OptionError, match=f"{distribution} learns {learns}"):
        strategy_of(OF_EACH_DISTRIBUTION[distribution])(cost={"name": "params", "reference": 50.0})


@pytest.mark.parametrize("name", [name for of, name in OF_EACH_DISTRIBUTION.items() if of not in UNREACHED])
def test_a_heavy_cost_makes_the_smallest_candidate_the_most_probable(name: str, tmp_path: Path) -> None:
    cost = {"name": "params", "reference": 50.0, "weight": 100.0}
    strategy = search(tmp_path, cost, name, arc_learning_rate=0.3)
    log_p = strategy.posterior.log_win_probability()["op"]
    assert int(log_p.argmax()) == 2
    assert float(log_p.exp()[2]) > 0.5
    metrics = strategy.oneshot_module.trainer.callback_metrics
    assert float(metrics["cost/expected"]) < 27 + (72 + 64) / 3  # of a blind guess


@pytest.mark.parametrize(
    ("mixed_op", "more"),
    [
        ("merged-convolutions", {}),
        ({"name": "partial-channels", "k": 2}, {"schedule": {"name": "drnas-progressive", "channels": [2, 1]}}),
    ],
)
def test_costs_are_those_of_the_space_as_given(mixed_op: Any, more: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Whatever its operations are searched as; so a table that was measured of it is taken."""
    space = spaces.Convolutions
    cost = {"name": "flops", "reference": 1e4}
    found = search(tmp_path, cost, space=space, shape=spaces.IMAGE, mixed_op=mixed_op, **more)
    supernet = supernet_of(space())
    expected = counted(supernet, "flops", lambda: supernet(torch.randn(2, *spaces.IMAGE)))
    assert found.oneshot_module._cost._table == expected
    ticks = iter(range(10**6))
    monkeypatch.setattr(timing, "_now", lambda device: 1e-3 * next(ticks))
    measured(supernet_of(space()), torch.randn(2, *spaces.IMAGE), repeats=3).save(tmp_path / "latency.json")
    latency = {"name": "latency", "reference": 1.0, "table": str(tmp_path / "latency.json")}
    search(tmp_path, latency, space=space, shape=spaces.IMAGE, mixed_op=mixed_op, **more)


def test_what_is_logged_is_the_expected_cost(tmp_path: Path) -> None:
    found = search(tmp_path, {"name": "params", "reference": 50.0, "form": "mul#log"}, arc_learning_rate=1e-6)
    metrics = found.oneshot_module.trainer.callback_metrics
    assert float(metrics["cost/expected"]) == pytest.approx(27 + (72 + 64) / 3, rel=1e-2)
    factor = 0.2 * (math.log(72.3) / math.log(50.0)) ** 0.3
    assert float(metrics["arch_loss_step"]) == pytest.approx(factor * float(metrics["cost/loss"]), rel=1e-2)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of latencies; a clock that ticks once a reading makes every candidate take 1 ms."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(timing, "_now", lambda device: 1e-3 * next(ticks))
    supernet = BaLeNAS(fused=False).mutate_model(Layers())
    measured(supernet, torch.randn(4, *spaces.VECTOR), repeats=3).save(tmp_path / "latency.json")
    return tmp_path / "latency.json"


def test_a_measured_table_says_what_was_measured_where(table: Path, tmp_path: Path) -> None:
    found = CostTable.load(table)
    assert found.costs["op"] == pytest.approx({"0": 1.0, "1": 1.0, "2": 1.0})
    assert (found.space, found.batch_size, found.image_shape, found.repeats) == ("Layers", 4, spaces.VECTOR, 3)
    assert found.threads == torch.get_num_threads()
    strategy = search(tmp_path, {"name": "latency", "reference": 1.0, "table": str(table)})
    assert strategy.options.cost == CostOptions(name="latency", reference=1.0, table=str(table))
    assert DistributionStrategy(distribution="point").options.cost is None


def test_a_table_of_another_machine_or_space_is_refused(table: Path, tmp_path: Path) -> None:
    cost = {"name": "latency", "reference": 2.0, "table": str(table)}
    for space, problem in ((spaces.SharedLabel, "space Layers, and SharedLabel is searched"), (Wider, "parameters")):
        with pytest.raises(OptionError, match=problem):
            search(tmp_path, cost, space=space)
    edit(table, fixed=0.0, costs={label: dict.fromkeys(c, 0.0) for label, c in CostTable.load(table).costs.items()})
    with pytest.raises(OptionError, match=r"mul#log takes the logarithm .* can fall to 0 ms"):
        search(tmp_path, {**cost, "form": "mul#log"})
    edit(table, machine="elsewhere")
    with pytest.raises(OptionError, match=r"measured on elsewhere \(.*other_machine: true"):
        search(tmp_path, cost)
    search(tmp_path, {**cost, "other_machine": True})
    edit(table, costs={"op": {"0": -1.0}})
    with pytest.raises(FileFormatError, match=r"is damaged: .*at least 0, got -1"):
        search(tmp_path, cost)
    table.write_text("{}")
    with pytest.raises(FileFormatError, match="not a table of costs"):
        search(tmp_path, cost)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "latency"}, "latency needs the table that `balenas latency CONFIG` measures"),
        ({"name": "flops", "table": "x.json"}, "flops is counted, so it takes no table"),
        (
            {"name": "flops", "form": "mul#log", "reference": 1.0},
            "reference must be more than 1 for the form mul#log",
        ),
        ({"name": "flops", "form": "mul"}, "cost.form must be one of add#linear, mul#log"),
        ({"name": "flop"}, "cost.name must be one of latency, flops, params, got 'flop'; did you mean 'flops'"),
        ({"name": "latency", "table": "nowhere.json"}, "cannot read the table of costs nowhere.json: .*No such file"),
    ],
)
def test_a_cost_that_says_too_little_or_too_much_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((OptionError, FileFormatError), match=message):
        CostTable.load(BaLeNAS(cost={"reference": 5.0, **options}).options.cost.table)
    with pytest.raises(OptionError, match="give one of them"):
        BaLeNAS(cost={"name": "params", "reference": 5.0}, penalty={"profiler": None, "baseline": 1.0})


class Wider(Layers):
    """The same choices in a larger network."""

    def __init__(self) -> None:
        super().__init__()
        self.more = torch.nn.Linear(8, 8)


Wider.__name__ = "Layers"


def edit(table: Path, **entries: Any) -> None:
    table.write_text(json.dumps({**json.loads(table.read_text()), **entries}))
