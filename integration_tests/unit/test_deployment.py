"""What is deployed computes what the network computes, in processes that know nothing of this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from balenas_plugin.costs import timing
from balenas_plugin.data import DataConfig, load_search_data
from balenas_plugin.deployment import Deployed, deploy, measure_latency
from balenas_plugin.errors import MissingDependencyError, StorageError
from balenas_plugin.training import TrainingData, TrainResult, train

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="deploying needs it: pip install '.[onnx]'")

MODES = {"RGB": "jpg", "L": "png", "RGBA": "png", "P": "bmp"}


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Bright and dark pictures of several kinds and sizes."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 8)):
        for name, brightness in (("dark", 60), ("bright", 130)):
            (root / split / name).mkdir(parents=True)
            for number, (mode, ending) in enumerate(list(MODES.items()) * (count // 4)):
                pixels = generator.integers(0, brightness + 60, (50 + number, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / split / name / f"{number}.{ending}")
    loaded = load_search_data(DataConfig(name="folder", root=root, image_size=12))
    return TrainingData(training=loaded.weight_set, test=loaded.architecture_set, task=loaded.task)


@pytest.fixture(scope="module")
def result(data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("trained") / "new"
    overrides = ["epochs=8", "batch_size=8", "augment=none"]
    return train(network, data=data, recipe="small", overrides=overrides, output=folder, int8=True, progress=False)


@pytest.fixture(scope="module")
def trained(result: TrainResult) -> nn.Module:
    return result.network


@pytest.fixture(scope="module")
def deployed(result: TrainResult) -> Deployed:
    assert result.deployed is not None
    return result.deployed


def outputs(deployed, name: str, images: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(deployed.folder / deployed.forms[name].file)
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def test_each_form_is_tested_and_measured(deployed, trained, data):
    images, labels = data.test.batch(torch.arange(len(data.test)))
    with torch.no_grad():
        logits = trained.eval()(images)
    found = {"PyTorch": logits, **{name: outputs(deployed, name, images) for name in ("ONNX", "ONNX int8")}}
    assert {name: form.test_accuracy for name, form in deployed.forms.items()} == {
        name: float((values.argmax(1) == labels).float().mean()) for name, values in found.items()
    }
    torch.testing.assert_close(found["ONNX"], logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["ONNX int8"], logits, atol=0.3, rtol=0.1)
    assert not torch.allclose(found["ONNX int8"], logits, atol=1e-5)
    torch.testing.assert_close(outputs(deployed, "ONNX int8", images[:1]), found["ONNX int8"][:1])
    assert deployed.largest_difference == pytest.approx(float((found["ONNX"] - logits).abs().max()), abs=1e-6)
    assert all(form.size == (deployed.folder / form.file).stat().st_size for form in deployed.forms.values())
    assert all(form.latency_ms > 0 for form in deployed.forms.values())
    assert deployed.parameters == sum(p.numel() for p in trained.parameters())
    assert deployed.multiply_adds == 27 * 8 * 144 + 72 * 8 * 16 + 16
    assert (deployed.latency.threads, deployed.latency.batch_size, deployed.calibration_examples) == (1, 1, 32)
    record = json.loads((deployed.folder / "deployed.json").read_text())
    assert record["forms"]["ONNX int8"]["test_accuracy"] == deployed.forms["ONNX int8"].test_accuracy
    assert "1 thread" in deployed.table()


def test_a_training_says_what_was_deployed(result, deployed):
    record = json.loads(Path(result.folder, "train.json").read_text())
    assert record["deployed"] == json.loads(Path(result.folder, "deployed.json").read_text())
    assert record["test_accuracy"] == deployed.forms["PyTorch"].test_accuracy > 0.6


def test_weights_are_the_networks(deployed, trained):
    from safetensors.torch import load_file

    fresh = network()
    fresh.load_state_dict(load_file(deployed.folder / "weights.safetensors"))
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("model", ["network.onnx", "network-int8.onnx"])
def test_the_script_needs_neither_this_package_nor_torch(model, deployed, data, tmp_path):
    script = tmp_path / "classify.py"
    script.write_text((deployed.folder / "classify.py").read_text().replace('"network.onnx"', repr(model)))
    (tmp_path / model).write_bytes((deployed.folder / model).read_bytes())
    blocked = "import runpy, sys; sys.modules.update(balenas_plugin=None, torch=None); runpy.run_path('classify.py')"
    ended = subprocess.run(
        [sys.executable, "-I", "-c", blocked, *data.test.store.paths],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    images, _ = data.test.batch(torch.arange(len(data.test)))
    form = {"network.onnx": "ONNX", "network-int8.onnx": "ONNX int8"}[model]
    probabilities, classes = outputs(deployed, form, images).softmax(1).max(1)
    expected = [
        f"{path}: {data.task.class_names[k]} ({p:.3f})"
        for path, k, p in zip(data.test.store.paths, classes.tolist(), probabilities.tolist(), strict=True)
    ]
    assert ended.stdout.splitlines() == expected


def test_all_files_are_written_or_none(deployed, trained, data, monkeypatch, tmp_path):
    (tmp_path / "network.onnx").write_text("older")
    (tmp_path / "mine.txt").write_text("kept")
    module = sys.modules["balenas_plugin.deployment.deploy"]
    write, exported = module.write_atomically, (deployed.folder / "network.onnx").read_bytes()

    def full(path: Path, content) -> None:
        if path.name == "weights.safetensors":
            raise StorageError(f"cannot write {path}: No space left on device")
        write(path, content)

    monkeypatch.setattr(module, "write_atomically", full)
    monkeypatch.setattr(module, "onnx_contents", lambda *args, **kwargs: exported)  # which takes seconds
    with pytest.raises(StorageError, match="No space left"):
        deploy(trained, data, tmp_path, repeats=1)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"network.onnx": "older", "mine.txt": "kept"}


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_what_is_missing_is_said_with_the_line_that_installs_it(package, trained, data, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"the package {package}, .*pip install '\.\[onnx\]'"):
        deploy(trained, data, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_latency_is_a_median_after_a_warm_up_with_the_threads_that_are_stated(monkeypatch):
    seen, clock = [], iter([9.0, 9.0, 9.0, 0.0, 0.001, 0.0, 0.002, 0.0, 0.1])

    class Watching(nn.Identity):
        def forward(self, x):
            seen.append((torch.get_num_threads(), tuple(x.shape), self.training))
            return x

    monkeypatch.setattr(timing, "_now", lambda device: next(clock))
    before = torch.get_num_threads()
    found = measure_latency({"it": Watching()}, torch.ones(1, 3), threads=before + 1, repeats=3)
    assert found.milliseconds == {"it": pytest.approx(2.0)}
    assert seen == [(before + 1, (1, 3), False)] * 6
    assert (found.threads, found.repeats, torch.get_num_threads()) == (before + 1, 3, before)
