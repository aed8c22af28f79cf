"""A written module needs PyTorch alone and computes what the network computes, or nothing is written."""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import importlib.util
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from balenas_plugin.data import DataConfig, load_search_data
from balenas_plugin.data.image_task import ImageTask
from balenas_plugin.data.sources.digits import MEAN, STD
from balenas_plugin.errors import OptionError, SpaceError
from balenas_plugin.export.standalone import write_standalone
from balenas_plugin.search_spaces.darts.operations import Noise

from .standalone_networks import NETWORKS, make

ALONE = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nni", "balenas_plugin", "pytorch_lightning"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import torch
for module, images, logits in zip(*(iter(sys.argv[1:]),) * 3):
    with torch.no_grad():
        torch.save(runpy.run_path(module)["load"]()(torch.load(images, weights_only=True)), logits)
"""


def write(network: nn.Module, folder: Path, example: Tensor, **options: str) -> list[Path]:
    return write_standalone(network, folder, **{"name": "exported", "title": "A network", **options}, example=example)


@dataclass(frozen=True)
class Exported:
    """A network, an input, and the files written of it."""

    network: nn.Module
    example: Tensor
    module: Path
    weights: Path


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Write the network of a name once; every caller gets a copy of the network."""

    @functools.cache
    def once(name: str) -> Exported:
        network, example = make(name)
        return Exported(network, example, *write(network, tmp_path_factory.mktemp(name) / "out", example))

    return lambda name: dataclasses.replace(once(name), network=copy.deepcopy(once(name).network))


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_computes_the_same_where_neither_nni_nor_this_package_can_be_imported(export, tmp_path):
    names, files = ("nni", "ours", "user"), []
    for name in names:
        torch.save(export(name).example, tmp_path / f"{name}.pt")
        files += [export(name).module, tmp_path / f"{name}.pt", tmp_path / f"{name}.logits"]
    subprocess.run([sys.executable, "-I", "-c", ALONE, *map(str, files)], check=True, cwd=tmp_path)
    for name in names:
        with torch.no_grad():
            logits = export(name).network.eval()(export(name).example)
        assert logits.std() > 1e-3
        found = torch.load(tmp_path / f"{name}.logits", weights_only=True)
        torch.testing.assert_close(found, logits, atol=1e-6, rtol=1e-6)


def test_running_the_file_prints_the_shape_of_an_output(export):
    command = [sys.executable, "-I", str(export("ours").module)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "(2, 10)\n"


@pytest.mark.parametrize("name", list(NETWORKS))
def test_computes_the_same_in_both_modes(name, export):
    exported = export(name)
    network, example, written = exported.network, exported.example, imported(exported.module).load()
    with torch.no_grad():
        torch.testing.assert_close(written(example), network.eval()(example), atol=1e-6, rtol=1e-6)
    outputs = []
    for each in (network.train(), written.train()):
        torch.manual_seed(7)
        output = each(example)
        output = output[0] if isinstance(output, tuple) else output
        output.square().sum().backward()
        outputs.append(output.detach())
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-6, rtol=1e-6)
    originals = dict(network.named_parameters(remove_duplicate=False))
    for key, parameter in written.named_parameters():
        if originals[key].requires_grad:
            torch.testing.assert_close(parameter.grad, originals[key].grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_builds_anew_with_as_many_parameters_and_other_weights(name, export):
    exported = export(name)
    module = imported(exported.module)
    fresh, loaded = module.build(), module.load()
    parameters = dict(exported.network.named_parameters())
    used = sum(parameter.numel() for key, parameter in parameters.items() if not key.startswith("unused"))
    assert used == sum(parameter.numel() for parameter in fresh.parameters())
    assert used == sum(parameter.numel() for parameter in loaded.parameters())
    assert fresh.training
    assert not loaded.training
    pairs = zip(fresh.parameters(), loaded.parameters(), strict=True)
    drawn = [torch.equal(a, b) for a, b in pairs if b.numel() > 1 and b.std() > 0]
    assert drawn == [False] * len(drawn) != []


@pytest.mark.parametrize("name", ["nni", "ours", "darts"])
def test_keys_of_the_weights_are_those_of_the_network(name, export):
    exported = export(name)
    weights, state = torch.load(exported.weights, weights_only=True), exported.network.state_dict()
    assert list(weights) == list(state)
    assert all(torch.equal(weights[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ["nni", "user"])
def test_same_network_gives_the_same_bytes(name, export, tmp_path):
    exported = export(name)
    torch.manual_seed(99)
    again = write(exported.network, tmp_path, exported.example)
    assert [path.name for path in again] == ["exported.py", "exported.pt"]
    assert [path.read_bytes() for path in again] == [exported.module.read_bytes(), exported.weights.read_bytes()]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_imports_only_pytorch_and_the_standard_library(name, export):
    nodes = list(ast.walk(ast.parse(export(name).module.read_text())))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in modules} <= {"torch", *sys.stdlib_module_names}


def test_cells_that_differ_in_width_alone_are_one_class(export):
    source = export("nni").module.read_text()
    names = [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    assert names == ["ReLUConvBN", "Zero", "Pooling", "NasBench201Cell", "ResNetBasicblock", "NasBench201"]
    assert [f"NasBench201Cell({width})" in source for width in (4, 8, 16)] == [True] * 3
    assert "nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)" in source


def test_layers_of_nni_are_written_as_those_of_pytorch(export):
    source = export("nni_sizes").module.read_text()
    assert "self.conv = nn.Conv2d(3, 6, 3)" in source
    assert "self.norm = nn.BatchNorm2d(6)" in source


def test_what_shares_weights_shares_them_in_the_written_network(export):
    module = imported(export("shared").module)
    for network in (module.build(), module.load()):
        assert network.head.weight is network.embed.weight
        assert network.first.layer.weight is network.second.layer.weight
        assert network.row[0].layer.bias is network.row[2].layer.bias


def test_tensors_that_are_not_trained_are_there_without_the_weights_too(export):
    exported = export("user")
    fresh = imported(exported.module).build()
    assert torch.equal(fresh.mean, exported.network.mean)
    assert torch.equal(fresh.table, exported.network.table)
    assert torch.equal(fresh.scale, torch.ones(4, 1, 1))


def test_a_parameter_that_is_not_trained_is_not_trained_in_the_written_network_either(export):
    exported = export("parameters")
    module = imported(exported.module)
    for network in (module.build(), module.load()):
        assert not network.fixed.requires_grad
        assert network.factors.get_parameter("0").requires_grad
        assert torch.equal(network.fixed, torch.full((4,), 2.0))
        for layer, trained in zip(network.layers, (False, True, True), strict=True):
            assert [parameter.requires_grad for parameter in layer.parameters()] == [trained, trained]
    assert "nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])" in exported.module.read_text()


def test_network_and_random_numbers_are_left_as_they_were(tmp_path):
    network, example = make("noisy")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    write(network.train(), tmp_path, example)
    assert torch.equal(torch.rand(3), expected)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


class Conditional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class PythonRandom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * random.random() if self.training else x


class AlwaysNoisy(nn.Module):
    """As a cell of RobustDARTS's S4."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList([nn.Conv2d(3, 3, 1, stride=2), Noise(2)])

    def forward(self, x: Tensor) -> Tensor:
        return self.edges[0](x) + self.edges[1](x)


class Averaging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.average = 0.9 * self.average + 0.1 * x.mean()
        return x - self.average


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Foreign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _foreign(x)


def _foreign(x: Tensor) -> Tensor:
    return x + 1


torch.fx.wrap("_foreign")


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4))
    network[0].register_forward_hook(lambda module, inputs, output: output * 2)
    return network


REFUSED = {
    "condition": (Conditional, "cannot be traced: TraceError"),
    "python_random": (PythonRandom, "in training its outputs differ"),
    "hook": (hooked, "in evaluation its outputs differ"),
    "pair": (Pair, "returns a tuple, and one tensor is needed"),
    "assigned": (
        lambda: nn.Sequential(Averaging()),
        r"its forward assigns a new tensor to 0\.average; change that one in place",
    ),
    "foreign": (Foreign, "calls _foreign of .*test_export_standalone"),
    "double": (lambda: nn.Linear(4, 4).double().requires_grad_(False), "weight is torch.float64"),
    "lazy": (lambda: nn.LazyLinear(4), "weight has no shape yet"),
    "wrong_input": (lambda: nn.Linear(5, 5), r"cannot compute an input of shape \(2, 4\): RuntimeError"),
    "reparametrised": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
        "0: the arguments that its ParametrizedLinear was constructed with cannot be recovered",
    ),
    "composite": (
        lambda: nn.TransformerEncoderLayer(4, 2, batch_first=True),
        "argument 'd_model' of its TransformerEncoderLayer cannot be recovered",
    ),
}


def test_outputs_that_are_random_in_evaluation_too_are_written(tmp_path):
    network, example = AlwaysNoisy(), torch.randn(2, 3, 4, 4)
    module, _ = write(network, tmp_path / "out", example)
    outputs = []
    for each in (network.eval(), imported(module).load().eval()):
        torch.manual_seed(3)
        outputs.append(each(example))
    assert outputs[0].shape == (2, 3, 2, 2)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_written_is_refused_with_a_way_out_and_no_file(name, tmp_path):
    factory, reason = REFUSED[name]
    with pytest.raises(SpaceError, match=f"cannot be written as a stand-alone module: .*{reason}.*--format onnx"):
        write(factory(), tmp_path / "out", torch.randn(2, 4))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["rank-1", "1st", "a/b", "../up", "class", "torch", "random", ""])
def test_name_that_cannot_be_imported_is_refused(name, tmp_path):
    with pytest.raises(OptionError, match="must be a Python identifier"):
        write(nn.Linear(4, 4), tmp_path, torch.randn(2, 4), name=name)


@pytest.mark.parametrize(
    "title", ['two\nimport os\r"""x"""', "form\x0cfeed\x85next\u2028line", "tab\tand null\x00", ""]
)
def test_title_is_a_comment_whatever_it_holds(title, tmp_path):
    network, example = make("sequential")
    plain = ast.dump(ast.parse(write(network, tmp_path / "plain", example)[0].read_bytes()))
    titled = write(network, tmp_path / "titled", example, title=title)[0].read_bytes()
    assert ast.dump(ast.parse(titled)) == plain


def test_a_module_with_its_task_prepares_images_and_names_its_outputs(tmp_path):
    task = ImageTask(class_names=("3",) + ('a "quoted" name',) * 30, image_size=8, mean=MEAN, std=STD)
    network, example = nn.Conv2d(3, 31, 8), torch.randn(1, 3, 8, 8)
    (path, _) = write_standalone(network, tmp_path, name="exported", title="", example=example, task=task)
    module = imported(path)
    data = load_search_data(DataConfig())
    Image.fromarray(data.weight_set.store.pixels[5].permute(1, 2, 0).numpy()).save(tmp_path / "five.png")
    images = module.preprocess(tmp_path / "five.png")
    data.weight_set.augmentation = "none"
    assert torch.equal(images[0], data.weight_set[5][0])
    assert module.load()(images).shape == (1, 31, 1, 1)
    assert task.class_names == module.CLASS_NAMES
    assert max(len(line) for line in path.read_text().splitlines()) <= 120


def test_one_image_is_example_enough(export, tmp_path):
    network, example = export("ours").network, export("ours").example
    written = imported(write(network, tmp_path, example[:1])[0]).load()
    with torch.no_grad():
        torch.testing.assert_close(written(example), network.eval()(example), atol=1e-6, rtol=1e-6)
