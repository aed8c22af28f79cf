"""An ONNX file computes what the network computes, for batches of any size, or nothing is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nni.nas.hub.pytorch import NasBench201
from PIL import Image
from torch import Tensor, nn

from balenas_plugin.data import DataConfig, load_search_data
from balenas_plugin.errors import MissingDependencyError, SpaceError
from balenas_plugin.export.onnx_file import write_onnx
from balenas_plugin.search_spaces.nasbench201 import parse, to_nni

onnx = pytest.importorskip("onnx", reason="writing ONNX is optional: pip install '.[onnx]'")
pytest.importorskip("onnxscript", reason="writing ONNX is optional: pip install '.[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime to run the files that are written")

ARCHITECTURE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"


class UserNetwork(nn.Module):
    """Functions beside layers, sizes read from the input, and dropout that must be off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.relu(self.norm(self.conv(x))), 3)
        return self.fc(F.dropout(x.reshape(x.shape[0], -1), 0.5, self.training))


NETWORKS = {
    "nni": lambda: NasBench201(stem_out_channels=4, num_modules_per_stack=1).freeze(to_nni(parse(ARCHITECTURE))),
    "user": UserNetwork,
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network whose batch-norms have seen data, in training mode, and a batch of five."""
    torch.manual_seed(0)
    network, images = NETWORKS[name](), torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        network.train()(images)
    return network, images


def run(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_file_follows_the_specification_and_computes_the_same_for_batches_of_any_size(name, tmp_path):
    network, images = make(name)
    path = tmp_path / "new" / "network.onnx"
    assert write_onnx(network, path, example=images[:1]) == path
    with torch.no_grad():
        logits = network.eval()(images)
    assert logits.std() > 1e-3
    for size in (1, 2, 5):
        torch.testing.assert_close(run(path, images[:size]), logits[:size], atol=1e-4, rtol=1e-4)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (images_in,), (logits_out,) = model.graph.input, model.graph.output
    shape = [dimension.dim_param or dimension.dim_value for dimension in images_in.type.tensor_type.shape.dim]
    assert (images_in.name, shape) == ("images", ["batch", 3, 16, 16])
    assert logits_out.name == "logits"
    contents = path.read_bytes()  # which say nothing about this machine
    assert not [word for word in (b".py", b"site-packages", str(Path.cwd()).encode()) if word in contents]
    assert list(path.parent.iterdir()) == [path]


def test_metadata_are_enough_to_make_the_pipelines_tensors_of_an_image_file(tmp_path):
    """With Pillow and NumPy, as somebody would who has nothing but the ONNX file."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(noise).save(tmp_path / split / name / "0.png")
    data = load_search_data(DataConfig(name="folder", root=tmp_path, image_size=16))
    network, images = make("user")
    path = write_onnx(network, tmp_path / "network.onnx", example=images, task=data.task)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    reported = session.get_modelmeta().custom_metadata_map
    assert json.loads(reported["class_names"]) == ["cat", "dog"]
    assert reported["channel_order"] == "RGB"
    assert reported["normalisation"].startswith("(pixels - 255 * mean) * (1 / (255 * std)) in float32")
    size = json.loads(reported["image_size"])
    square = Image.fromarray(noise).resize((size, size), Image.Resampling.BILINEAR, box=(15, 0, 75, 60))
    mean, std = (np.array(json.loads(reported[name]), np.float32) for name in ("mean", "std"))
    inputs = ((np.asarray(square).astype(np.float32) - 255 * mean) * (1 / (255 * std))).transpose(2, 0, 1)[None]
    assert np.array_equal(inputs[0], data.architecture_set[0][0].numpy())
    assert session.run(["logits"], {"images": inputs})[0].shape == (1, 5)


def test_same_network_gives_the_same_bytes_and_is_left_as_it_was(tmp_path):
    network, images = make("user")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    files = [write_onnx(network, tmp_path / name, example=images).read_bytes() for name in ("a.onnx", "b.onnx")]
    assert files[0] == files[1]
    assert torch.equal(torch.rand(3), expected)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_without_onnxruntime_the_evaluator_of_onnx_compares(monkeypatch, tmp_path):
    calls = []
    evaluator = onnx.reference.ReferenceEvaluator
    original = evaluator.run

    def counted(self, outputs, inputs, *args, **kwargs):
        calls.append(len(inputs["images"]))
        return original(self, outputs, inputs, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(evaluator, "run", counted)
    network, images = make("user")
    path = write_onnx(network, tmp_path / "network.onnx", example=images)
    assert calls == [1, 3]
    with torch.no_grad():
        torch.testing.assert_close(run(path, images), network.eval()(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_missing_package_is_named_with_the_line_that_installs_it(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"the package {package}, .*pip install '\.\[onnx\]'"
    with pytest.raises(MissingDependencyError, match=message):
        write_onnx(nn.Linear(4, 4), tmp_path / "network.onnx", example=torch.randn(2, 4))
    assert not any(tmp_path.iterdir())


class Conditional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class AlwaysNoisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


class TwoRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Conditional, "data-dependent"),
        (AlwaysNoisy, "its outputs are random"),
        (TwoRows, r"for a batch of 1 its output has shape \(2, 32\)"),
        (Pair, "it returns a tuple"),
        (lambda: nn.Linear(5, 5), "RuntimeError: .*mat1 and mat2 shapes cannot be multiplied"),
    ],
    ids=["condition", "noise", "batch_size", "pair", "wrong_input"],
)
def test_what_cannot_be_exported_is_refused_and_an_older_file_stays(network, reason, capfd, tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(b"older")
    with pytest.raises(SpaceError, match=f"cannot be written as ONNX: .*{reason}.* for any N") as raised:
        write_onnx(network(), path, example=torch.randn(2, 64))
    assert path.read_bytes() == b"older"
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")
