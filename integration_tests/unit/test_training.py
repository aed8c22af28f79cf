"""Training a network: what is written, exact resumes, the recipes' numbers, and the reference's loss curve."""

from __future__ import annotations

import csv
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from balenas_plugin.data import DataConfig, ImageSet
from balenas_plugin.data.image_task import ImageTask
from balenas_plugin.data.images import MemoryImages
from balenas_plugin.errors import BalenasError, DataError, FileFormatError, OptionError, StorageError
from balenas_plugin.search_spaces.darts import build_network, read_genotype
from balenas_plugin.training import (
    Recipe,
    TrainedNetwork,
    TrainingData,
    load_recipe,
    load_training_data,
    train,
    train_network,
)
from balenas_plugin.training.architecture import find_architecture
from balenas_plugin.training.checkpoints import read_checkpoint
from balenas_plugin.training.fitting import Devices
from balenas_plugin.training.image_training import ImageTraining
from balenas_plugin.training.seeds import _load
from balenas_plugin.training.trained_network import mean_interval, wilson_interval

NB201 = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|skip_connect~2|"
PAIRS = [*[("skip_connect", 0), ("skip_connect", 1)] * 3, ("sep_conv_3x3", 2), ("max_pool_3x3", 1)]
GENOTYPE = f"Genotype(normal={PAIRS}, normal_concat=[2, 3, 4, 5], reduce={PAIRS}, reduce_concat=[2, 3, 4, 5])"
TINY = {"epochs": 3, "batch_size": 8}


def images(count: int, size: int = 8, classes: int = 2, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    pixels[labels == 1] //= 4  # dark ones
    return ImageSet(MemoryImages(pixels), labels, mean=(0.4,) * 3, std=(0.3,) * 3, augmentation="crop")


def data(count: int = 24, size: int = 8, classes: int = 2) -> TrainingData:
    task = ImageTask(
        class_names=tuple(f"c{k}" for k in range(classes)), image_size=size, mean=(0.4,) * 3, std=(0.3,) * 3
    )
    test = images(16, size, classes, seed=1).augmented("none")
    return TrainingData(training=images(count, size, classes), test=test, task=task, description={"name": "dark"})


class Small(nn.Module):
    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
        self.classifier = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(x).mean((2, 3)))


def small() -> nn.Module:
    torch.manual_seed(3)
    return Small()


def folder_of_images(root: Path, counts: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for k in range(count):
            mode = ("RGB", "L", "RGBA")[k % 3]
            image = Image.effect_noise((12, 10), 20 + 60 * number).convert(mode)
            image.save(root / name / f"{k}.png")
    return root


def test_what_is_written_is_what_is_returned(tmp_path: Path) -> None:
    network = small()
    recipe = Recipe(**TINY, optimizer={"name": "SGD", "lr": 0.5})
    found = train_network(network, data(), recipe, folder=tmp_path / "a", progress=False)
    assert found.test_accuracy > 0.9
    assert found.interval[0] < found.test_accuracy <= found.interval[1]
    assert [sum(row) for row in found.confusion] == [8, 8]
    assert (found.parameters, found.epochs, found.top5_accuracy) == (130, 3, None)
    assert found.multiply_adds == 3 * 4 * 9 * 36 + 4 * 2
    assert TrainedNetwork.load(tmp_path / "a") == found
    assert json.loads((tmp_path / "a/train.json").read_text())["test_accuracy"] == found.test_accuracy
    rows = (tmp_path / "a/metrics.csv").read_text().splitlines()
    assert rows[0] == "epoch,lr,train_acc,train_loss"
    assert len(rows) == 4
    fresh = Small()
    fresh.load_state_dict(safetensors.torch.load_file(found.weights))
    test = data().test
    pixels, labels = test.batch(torch.arange(16))
    assert float((fresh.eval()(pixels).argmax(1) == labels).float().mean()) == found.test_accuracy


CASES: dict[str, Callable[[], tuple[nn.Module, TrainingData, Recipe]]] = {
    "moving average, cutout": lambda: (small(), data(), Recipe(**TINY, ema=0.8, cutout=3, schedule={"every": "step"})),
    "early stopping": lambda: (small(), data(), Recipe(**TINY, validation=0.3, early_stopping=1, augment="crop_flip")),
    "transforms": lambda: (
        small(),
        data(),
        Recipe(**TINY, transforms=["RandomErasing", {"name": "RandomRotation", "degrees": 9}]),
    ),
    "auxiliary, paths": lambda: (
        build_network(read_darts(), channels=2, cells=3, num_classes=2, auxiliary=True, drop_path=0.5),
        data(16, 32),
        Recipe(epochs=2, batch_size=8, auxiliary=0.4, drop_path=0.5),
    ),
}


def read_darts() -> Any:
    from balenas_plugin.search_spaces.darts import from_nni

    torch.manual_seed(1)
    sample = read_genotype(GENOTYPE).sample
    assert sample is not None
    return from_nni(sample)


@pytest.mark.parametrize("name", CASES)
def test_a_killed_training_ends_as_if_it_had_not_been(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of an epoch, after its end, and when only the result was missing."""

    def run(folder: str, *, resume: bool = False) -> TrainedNetwork:
        network, images, recipe = CASES[name]()
        return train_network(network, images, recipe, folder=tmp_path / folder, progress=False, resume=resume)

    whole = run("whole")
    step = ImageTraining.training_step
    steps = iter(range(1000))

    def killed(self: ImageTraining, batch: Any, number: int) -> Any:
        if next(steps) == 3:
            raise RuntimeError("killed")
        return step(self, batch, number)

    monkeypatch.setattr(ImageTraining, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run("killed")
    again = run("killed", resume=True)
    for file in ("train.json", "weights.safetensors"):
        (tmp_path / "killed" / file).unlink()
    late = run("killed", resume=True)
    for other in (again, late):
        assert other.test_accuracy == whole.test_accuracy
        assert other.epochs == whole.epochs
    for file in ("weights.safetensors", "metrics.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()
    assert run("killed", resume=True) == late, "finished: read"


def test_other_settings_are_not_resumed(tmp_path: Path) -> None:
    def run(recipe: Recipe, **options: Any) -> None:
        train_network(small(), data(), recipe, folder=tmp_path, progress=False, **options)

    run(Recipe(epochs=1))
    with pytest.raises(OptionError, match=r"is not empty: --resume"):
        run(Recipe(epochs=1))
    with pytest.raises(OptionError, match=r"other settings: recipe.epochs was 1, is 2"):
        run(Recipe(epochs=2), resume=True)
    with pytest.raises(OptionError, match="seed was 0, is 1"):
        run(Recipe(epochs=1), seed=1, resume=True)
    (tmp_path / "train.json").unlink()
    (tmp_path / "last.ckpt").write_bytes(b"PK")
    with pytest.raises(FileFormatError, match="damaged or not a checkpoint"):
        run(Recipe(epochs=1), resume=True)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, saved = torch.save, iter(range(9))

    def full(content: Any, file: Any) -> None:
        if next(saved) == 1:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StorageError, match=r"last\.ckpt.*No space left"):
        train_network(small(), data(), Recipe(**TINY), folder=tmp_path, progress=False)
    assert read_checkpoint(tmp_path / "last.ckpt")["epoch"] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "metrics.csv", "train.yml"}
    monkeypatch.undo()
    assert train_network(small(), data(), Recipe(**TINY), folder=tmp_path, progress=False, resume=True).epochs == 3


def test_a_reference_training_has_the_same_loss_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of DARTS's `train.py` by hand, on a tiny network with everything that darts-cifar has but cutout."""
    recipe = load_recipe("darts-cifar", ["epochs=3", "batch_size=8", "cutout=0", "augment=none", "drop_path=0"])
    sizes: dict[str, Any] = {"channels": 2, "cells": 3, "num_classes": 2, "auxiliary": True}
    network = build_network(read_darts(), **sizes)
    reference = build_network(read_darts(), **sizes)
    reference.load_state_dict(network.state_dict())
    batches: list[tuple[torch.Tensor, torch.Tensor]] = []
    losses: list[float] = []
    step = ImageTraining.training_step

    def recorded(self: ImageTraining, batch: Any, number: int) -> Any:
        batches.append((batch[0].clone(), batch[1].clone()))
        loss = step(self, batch, number)
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(ImageTraining, "training_step", recorded)
    train_network(network, data(24, 32), recipe, folder=tmp_path, progress=False)

    optimizer = torch.optim.SGD(reference.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3.0)
    expected = []
    reference.train()
    for number, (inputs, labels) in enumerate(batches):
        if number and number % 3 == 0:
            scheduler.step()
        optimizer.zero_grad()
        logits, auxiliary = reference(inputs)
        loss = F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(auxiliary, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 5)
        optimizer.step()
        expected.append(float(loss.detach()))
    assert len(losses) == 9
    assert losses == pytest.approx(expected, abs=1e-5)


def test_mixed_precision_on_the_cpu_is_nearly_the_same_training(tmp_path: Path) -> None:
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        folder = tmp_path / precision
        train_network(
            small(), data(), Recipe(**TINY), folder=folder, progress=False, devices=Devices(precision=precision)
        )
        rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
        losses[precision] = [float(row["train_loss"]) for row in rows]
    assert losses["bf16-mixed"] != losses["32-true"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], abs=0.02)


def test_train_a_notation_with_several_seeds(tmp_path: Path) -> None:
    tiny = ["epochs=1", "network.channels=2"]
    result = train(NB201, data=data(), seeds=(0, 1), output=tmp_path / "a", overrides=tiny, progress=False)
    accuracies = [network.test_accuracy for network in result.networks]
    assert result.test_accuracy == pytest.approx(sum(accuracies) / 2)
    assert result.interval == mean_interval(accuracies)
    written = json.loads((tmp_path / "a/train.json").read_text())
    assert (written["seeds"], written["test_accuracy"]) == ([0, 1], result.test_accuracy)
    namespace: dict[str, Any] = {"__file__": str(tmp_path / "a/network.py"), "__name__": "network"}
    exec((tmp_path / "a/network.py").read_text(), namespace)  # written by us
    pixels, _ = data().test.batch(torch.arange(4))
    assert torch.allclose(namespace["load"]().eval()(pixels), result.network(pixels), atol=1e-5)
    assert find_architecture(tmp_path / "a/architectures.json").title == result.architecture
    records = [{"rank": 2, "choices": read_genotype(GENOTYPE).sample, "notation": {"darts-reference": GENOTYPE}}]
    (tmp_path / "architectures.json").write_text(json.dumps(records))
    options: dict[str, Any] = {"rank": 2, "data": data(), "output": tmp_path / "b", "precision": "bf16-true"}
    options |= {"progress": False}
    again = train(tmp_path / "architectures.json", overrides=[*tiny, "network.cells=3", "drop_path=0.2"], **options)
    assert again.architecture == str(read_darts())
    assert (tmp_path / "b/network.py").exists(), "as float32"


class Tabular(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        features = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
        self.rows = TensorDataset(features, (features[:, 0] > 0).long())

    def training_step(self, batch: Any, number: int) -> Any:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def test_step(self, batch: Any, number: int) -> None:
        self.log("test_acc", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, 16, shuffle=True)

    def test_dataloader(self) -> Any:
        return DataLoader(self.rows, 64)


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    result = train(lambda: nn.Linear(5, 2), module=Tabular, output=tmp_path, overrides=["epochs=20"], progress=False)
    assert result.test_accuracy > 0.9
    assert result.interval == wilson_interval(round(result.test_accuracy * 64), 64)
    assert (result.parameters, result.first.metrics.keys()) == (12, {"test_acc"})


def test_a_folder_without_test_images_holds_some_out(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "photos", {"a": 6, "b": 5})
    config = DataConfig(name="folder", root=root, image_size=8)
    loaded = load_training_data(config, Recipe())
    assert (len(loaded.training), len(loaded.test)) == (9, 2)
    assert not set(loaded.training.store.paths) & set(loaded.test.store.paths)
    assert loaded.description["modes"] == {"RGB": 4, "L": 4, "RGBA": 3}
    found = train_network(small(), loaded, Recipe(epochs=1, batch_size=4), folder=tmp_path / "out", progress=False)
    assert sum(map(sum, found.confusion)) == 2
    cropped = loaded.for_recipe(Recipe(transforms=[{"name": "RandomResizedCrop", "size": 8}]), seed=0)
    assert cropped.training[0][0].shape == (3, 8, 8)
    (root / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 image of 11 cannot be decoded.*0\.png"):
        load_training_data(config, Recipe())


def bad(*overrides: str, of: Any = small, **options: Any) -> Callable[[Path], Any]:
    """Return a training that is refused."""
    return lambda path: train(of, data=data(), output=path / "o", overrides=overrides, progress=False, **options)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one class": (
        lambda path: load_training_data(
            DataConfig(name="folder", root=folder_of_images(path / "i", {"a": 3})), Recipe()
        ),
        "holds the single class 'a'",
    ),
    "two images": (
        lambda path: load_training_data(
            DataConfig(name="folder", root=folder_of_images(path / "i", {"a": 1, "b": 1})), Recipe()
        ),
        "the class 'a' has a single image, and needs at least two",
    ),
    "no space for an auxiliary head": (
        bad("cutout=0", of=GENOTYPE, recipe="darts-cifar"),
        "8x8 leave no space for an auxiliary head",
    ),
    "cutout": (bad("cutout=8"), "cuts 8 pixels out of images that have 8"),
    "no auxiliary head in the space": (bad("auxiliary=0.4", of=NB201), "recipe's auxiliary is more than 0"),
    "no architecture": (bad(of="|what~0|"), "|what~0|"),
    "unknown recipe": (bad(recipe="x"), "there is no recipe 'x'"),
    "classes": (bad(of=lambda: Small(3)), "3 outputs, and the data have 2 classes"),
    "nothing to start from": (bad(of=NB201, warm_start=True), "no weights to start from"),
    "sizes besides weights": (bad("network.channels=2", of=NB201, warm_start=True), "network.channels: a network that"),
    "sizes of a network of one's own": (bad("network.channels=2"), "network.channels: the sizes of small are its own"),
    "options of a search": (bad("data.num_workers=2"), "data.num_workers is for searches: of a training, say --num-w"),
    "a loss that is no number": (bad("optimizer.lr=1e30", "gradient_clip_val=0"), "loss became"),
    "half precision on the CPU": (
        bad(accelerator="cpu", precision="16-mixed"),
        "precision 16-mixed is for GPUs, and this is a training on the CPU: take bf16-mixed",
    ),
    "unknown transform": (bad("transforms=[RandomCrp]"), "did you mean 'RandomCrop'"),
    "transform of other inputs": (
        bad("transforms=[{name: Normalize, mean: [0, 0, 0], std: [1, 1, 1]}]"),
        "the recipe's transforms cannot change an image",
    ),
    "transform to floats": (bad("transforms=[ConvertImageDtype]"), "make images of torch.float32, and must leave them"),
    "early stopping without validation": (bad("early_stopping=2"), "watches val_acc, and no images validate"),
    "early stopping by what is not logged": (
        bad("early_stopping=2", "validation=0.3", "monitor=val_loss"),
        "watches val_loss, which is not logged; logged are lr, train_acc, train_loss, val_acc",
    ),
    "early stopping of a module": (
        lambda path: train(
            lambda: nn.Linear(5, 2), module=Tabular, output=path / "o", overrides=["early_stopping=1"], progress=False
        ),
        "watches val_acc, which is not logged; logged are none",
    ),
}


def test_of_a_data_set_and_a_folder_of_one_name_the_former_is_taken_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="limit"):
        _load("digits", ["limit=1"], Recipe(), texts=False, progress=False)
    assert "the folder here is ./digits" in caplog.text


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name: str, tmp_path: Path) -> None:
    attempt, message = BAD[name]
    with pytest.raises(BalenasError) as raised:
        attempt(tmp_path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
