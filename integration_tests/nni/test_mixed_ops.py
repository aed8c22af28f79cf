"""Mixed operations in NNI's supernets: built narrower or merged, fused or not, and what is found is the space's own."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.hub.pytorch import NasBench201
from nni.nas.nn.pytorch import Cell, LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from torch import Tensor, nn

from balenas_plugin import BaLeNAS, DistributionStrategy
from balenas_plugin.adapters.nni import strategy_of
from balenas_plugin.adapters.nni.supernets.edges import edge_parameters
from balenas_plugin.adapters.nni.supernets.found_model import NniSpace
from balenas_plugin.adapters.nni.supernets.fused import fusion_report
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, choice_names
from balenas_plugin.adapters.nni.supernets.supernet_decisions import decisions_of, exported
from balenas_plugin.adapters.nni.supernets.trained_supernet import inherited_network
from balenas_plugin.distributions import Draw
from balenas_plugin.errors import FileFormatError, OptionError, SpaceError
from balenas_plugin.mixed_ops import Alone
from balenas_plugin.search.mixing import mixing_of
from balenas_plugin.search_spaces.darts.supernet import DartsSupernet

from . import spaces
from .searches import classification, loaders
from .spaces import CLASSES, Convolutions
from .test_presets import Kill, Killed, run

IMAGE = (3, 8, 8)


def separable(channels: int, size: int, stride: int, dilation: int = 1) -> nn.Module:
    padding = dilation * (size // 2)
    depthwise = nn.Conv2d(channels, channels, size, stride, padding, dilation, groups=channels, bias=False)
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, pointwise, nn.BatchNorm2d(channels))


def stride(node: int, op: int, chosen: int | None) -> int:
    return 2 if chosen is None or chosen < 2 else 1


class Reducing(ModelSpace):
    """A supernet cell whose edges from its inputs halve the resolution."""

    def __init__(self, nodes: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        factories = {
            "pool": lambda *place: nn.AvgPool2d(3, stride(*place), 1, count_include_pad=False),
            "separable": lambda *place: separable(8, 3, stride(*place)),
            "dilated": lambda *place: separable(8, 3, stride(*place), 2),
        }
        self.cell = Cell(factories, num_nodes=nodes, num_ops_per_node=2, num_predecessors=2, label="cell")
        self.head = nn.Linear(8 * nodes, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.cell(x, torch.tanh(x)).mean((2, 3)))


SPACES = {
    "NasBench201": lambda: NasBench201(8, 1, num_labels=CLASSES),
    "Reducing": Reducing,
    "OneNode": lambda: Reducing(1),
}
PARTIAL = {"name": "partial-channels", "k": 2}
WEIGHED = {**PARTIAL, "edge_normalization": True}
MERGED = {"name": "merged-convolutions", "keep_scale": True}


def supernet(name: str, mixed_op: object, *, fused: bool = True) -> ModelSpace:
    torch.manual_seed(0)
    model = BaLeNAS(fused=fused, mixed_op=mixed_op).mutate_model(SPACES[name]()).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.dim() == 1 else 0, 0.3)
    return model


def certain(model: ModelSpace, architecture: dict[str, object]) -> Draw:
    """Return the draw that is one-hot at an architecture."""
    weights = {label: torch.zeros_like(a) for label, a in architecture_parameters(model).items()}
    for label, w in weights.items():
        if label in architecture:
            w[list(model.simplify()[label].values).index(architecture[label])] = 1
    for k in range(2) if "cell/op_2_0" in architecture else ():
        chosen = ("pool", "separable", "dilated").index(architecture[f"cell/op_2_{k}"])
        weights[f"cell/2_{architecture[f'cell/input_2_{k}'][0]}"] = F.one_hot(torch.tensor(chosen), 4).double()
    return Draw(weights, weights)


@pytest.mark.parametrize("mixed_op", [PARTIAL, WEIGHED], ids=["partial", "weighed"])
@pytest.mark.parametrize("name", ["NasBench201", "Reducing"])
def test_fused_edges_compute_the_same(name, mixed_op):
    x, passes = torch.randn(4, *IMAGE, dtype=torch.float64), []
    for fused in (True, False):
        model = supernet(name, mixed_op, fused=fused)
        F.cross_entropy(model(x), torch.arange(4) % CLASSES).backward()
        assert ("fused" in next(iter(fusion_report(model).values()))) is fused or not fused
        passes.append([p.grad for p in model.parameters()])
    assert all(b.grad is not None for b in edge_parameters(model).values())
    assert bool(edge_parameters(model)) is (mixed_op is WEIGHED)
    for a, b in zip(*passes, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mixed_op", [PARTIAL, WEIGHED, MERGED], ids=["partial", "weighed", "merged"])
@pytest.mark.parametrize("name", ["NasBench201", "OneNode"])
def test_an_inherited_network_equals_the_supernet_at_its_architecture(name, mixed_op):
    """Where all edges are kept: of the others, channels would pass by in the supernet."""
    model = supernet(name, mixed_op)
    pristine = SPACES[name]()
    space = NniSpace(pristine, decisions_of(model), IMAGE)
    alphas = {label: torch.randn(a.shape) for label, a in architecture_parameters(model).items()}
    architecture = {}
    for decision in decisions_of(model):
        architecture |= decision.to_architecture(decision.choose(alphas), SimpleNamespace(scores=alphas))
    network = inherited_network(model, space, architecture).double().eval()
    x = torch.randn(4, *IMAGE, dtype=torch.float64)
    with mixing_of(model).using(certain(model, architecture), architecture_parameters(model)):
        torch.testing.assert_close(network(x), model.eval()(x))


@pytest.mark.parametrize("mixed_op", [WEIGHED, MERGED], ids=["weighed", "merged"])
def test_the_darts_space_gives_networks_what_its_supernet_holds(mixed_op):
    """Of fewer channels, or with parts of shared kernels; a merged supernet with `none` elsewhere computes the same."""
    torch.manual_seed(0)
    model = BaLeNAS(mixed_op=mixed_op).mutate_model(DartsSupernet(8, 3, CLASSES)).double().eval()
    decisions, names = decisions_of(model), choice_names(model)
    weights = {label: F.one_hot(torch.tensor(ops.index("none")), len(ops)).double() for label, ops in names.items()}
    alphas = {label: torch.randn(len(ops)) for label, ops in names.items()}
    architecture = {}
    for decision in decisions:
        chosen = decision.choose(alphas)
        architecture |= decision.to_architecture(chosen, SimpleNamespace(scores=alphas))
        for j, operation in chosen:
            weights[decision.labels[j]] = F.one_hot(torch.tensor(operation), len(alphas[decision.labels[j]])).double()
    network, x = inherited_network(model, None, architecture).double().eval(), torch.randn(2, *IMAGE).double()
    held = [module for module in network.modules() if isinstance(module, Alone)]
    assert len(held) == 3 * 8  # cells, operations
    assert all(module.weight < 1 for module in held) is (mixed_op is WEIGHED)
    output = network(x)
    if mixed_op is MERGED:
        with mixing_of(model).using(Draw(weights, weights), architecture_parameters(model)):
            torch.testing.assert_close(output, model(x))


@pytest.mark.parametrize(("name", "mixed_op"), [("NasBench201", WEIGHED), ("Reducing", PARTIAL), ("Reducing", MERGED)])
def test_what_is_found_is_the_spaces_own(name, mixed_op, tmp_path):
    """And the supernet's accuracy ranks what the supernet holds."""
    strategy = DistributionStrategy(
        distribution="gumbel", mixed_op=mixed_op, selection={"n": 2, "proxy": "supernet_accuracy"}
    )
    evaluator = classification(tmp_path, **loaders(shape=IMAGE))
    strategy.initialize(RawFormatModelSpace(SPACES[name](), evaluator), SequentialExecutionEngine())
    strategy.run()
    assert any(isinstance(module, Alone) for module in strategy.supernet.modules())
    first, _ = strategy.list_models(limit=2)
    network = first.executable_model()
    assert not any(isinstance(module, Alone) for module in network.modules())
    assert {m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)} <= {8, 16, 32}
    assert network(torch.randn(2, *IMAGE)).shape == (2, CLASSES)


def test_edges_are_chosen_by_products_with_their_weights():
    strategy = BaLeNAS(mixed_op=WEIGHED)
    model = strategy.mutate_model(Reducing())
    (_, second) = edge_parameters(model).values()
    decision = decisions_of(model)[1]
    alphas = {label: a.detach() for label, a in architecture_parameters(model).items()}
    for best in (0, 1, 2):
        with torch.no_grad():
            second.copy_(torch.tensor([2.0, 2.0, 2.0]).scatter(0, torch.tensor(best), -2.0))
        chosen = {j for j, _ in decisions_of(model)[1].choose(alphas)}
        assert chosen == {0, 1, 2} - {best}
        found = model.cell.export({})
        assert {found[f"cell/input_3_{k}"][0] for k in range(2)} == chosen
    assert decision.labels == ("cell/3_0", "cell/3_1", "cell/3_2")


def test_weights_of_edges_are_learned_and_resumed_bit_for_bit(tmp_path):
    whole = run("PCDARTS", tmp_path / "whole", case="cell_shared")
    with pytest.raises(Killed):
        run("PCDARTS", tmp_path / "killed", case="cell_shared", callbacks=[Kill()])
    resumed = run("PCDARTS", tmp_path / "killed", case="cell_shared", resume=True)
    expected = whole.supernet.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.supernet.state_dict().items())
    edges = edge_parameters(whole.supernet)
    assert [b.numel() for b in edges.values()] == [2, 3]  # once for both cells
    assert all(b.abs().max() > 0.005 for b in edges.values())  # 0.001 at the start, and one epoch is warm-up
    trained = whole.oneshot_module.weight_optimizers().param_groups[0]["params"]
    assert not {id(p) for p in trained} & {id(b) for b in edges.values()}
    assert next(whole.iterate_samples()).sample == exported(whole.oneshot_module)


class OneChoice(ModelSpace):
    def __init__(self, *operations: nn.Module) -> None:
        super().__init__()
        self.op = LayerChoice([*operations, nn.Identity()], label="op")


@pytest.mark.parametrize(
    ("mixed_op", "space", "error", "message"),
    [
        ({"name": "partial-channels", "k": 3}, SPACES["NasBench201"], SpaceError, "layers.0.0.*8 channels.*k=3"),
        (PARTIAL, lambda: OneChoice(nn.GRU(8, 8)), SpaceError, "op.0 is a GRU, of which partial channels cannot"),
        (PARTIAL, spaces.Inputs, SpaceError, "Inputs has no choice of operations that partial-channels can mix"),
        (MERGED, spaces.Layers, SpaceError, "Layers has no choice of operations that merged-convolutions can mix"),
        ({"name": "partial-channels", "k": 0}, None, OptionError, "mixed_op.k must be a whole number of at least 1"),
        ("partial-chanels", None, OptionError, "unknown mixed operation.*did you mean 'partial-channels'"),
        (3, None, OptionError, "mixed_op must be one of merged-convolutions, partial-channels, or a mapping"),
    ],
)
def test_what_cannot_be_built_is_refused(mixed_op, space, error, message):
    with pytest.raises(error, match=message):
        BaLeNAS(mixed_op=mixed_op).mutate_model(space())


def test_edge_weights_need_gradients_and_checkpoints_their_own_parts(tmp_path):
    with pytest.raises(OptionError, match="learns from losses alone, so edge_normalization has no gradient"):
        strategy_of("PARSEC")(mixed_op=WEIGHED)
    run("PCDARTS", tmp_path, epochs=1)
    with pytest.raises(FileFormatError, match="whose mixed_op is 'partial-channels', and that of this one is none"):
        run("DARTS", tmp_path, resume=True)


def test_drawn_paths_are_computed_on_a_part_of_the_channels():
    model = supernet("NasBench201", PARTIAL)
    seen: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, Alone):
            module.operation.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    weights = {label: F.one_hot(torch.tensor(3), 5).double() for label in architecture_parameters(model)}
    draw = Draw(weights, weights, chosen=dict.fromkeys(weights, 3))
    with mixing_of(model).using(draw, architecture_parameters(model)):
        model(torch.randn(2, *IMAGE, dtype=torch.float64)).sum().backward()
    assert {x.shape[1] for x in seen} == {4, 8, 16}
    assert len(seen) == 3 * 6  # cells, edges


def test_a_copied_supernet_mixes_as_it_did():
    model = supernet("Reducing", WEIGHED).eval()
    x = torch.randn(2, *IMAGE, dtype=torch.float64)
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_merged_convolutions_are_one_and_keep_their_scale():
    """Of plain convolutions an identity is merged too; without keep_scale, their common scale makes no difference."""
    model = BaLeNAS(mixed_op="merged-convolutions").mutate_model(Convolutions()).double()
    kernels = {
        id(part.operation.shared)
        for part in model.op.children()
        if hasattr(part, "operation") and hasattr(part.operation, "shared")
    }
    assert len(kernels) == 1
    x, outputs = torch.randn(4, *spaces.IMAGE, dtype=torch.float64), {}
    for keep_scale in (False, True):
        mixed_op = {**MERGED, "keep_scale": keep_scale, "merge_skip": False}
        torch.manual_seed(0)
        model = BaLeNAS(mixed_op=mixed_op).mutate_model(Convolutions()).double()
        for scale in (1.0, 0.5):
            weights = {"op": torch.tensor([0.0, 0.0, 0.4 * scale, 0.6 * scale], dtype=torch.float64)}
            with mixing_of(model).using(Draw(weights, weights), architecture_parameters(model)):
                outputs[keep_scale, scale] = model.op(x.expand(-1, 4, -1, -1)).detach()
    torch.testing.assert_close(outputs[False, 0.5], outputs[False, 1.0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(outputs[True, 0.5], outputs[True, 1.0] / 2, rtol=1e-2, atol=1e-2)
