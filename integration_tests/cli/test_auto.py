"""`balenas auto`: what it sees in a folder, what it plans, what it delivers, and that it is resumed after any kill."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

from balenas_plugin.adapters.nni.callbacks.search_timing import TimedSearch
from balenas_plugin.auto import offered
from balenas_plugin.auto.auto_page import verdict
from balenas_plugin.auto.auto_plan import Limits, read_budget
from balenas_plugin.auto.delivery import Delivered
from balenas_plugin.auto.delivery import Tested as _Tested
from balenas_plugin.auto.looking import look
from balenas_plugin.auto.mirroring import mirroring
from balenas_plugin.auto.offered import BASELINE, BASELINE_SIZES, SPACES, Offer
from balenas_plugin.auto.pipeline import Wanted, plan_run
from balenas_plugin.auto.planning import Known, _planned_search, fitting_baseline, fitting_networks
from balenas_plugin.auto.splitting import split
from balenas_plugin.auto.step_timing import DoesNotFitError, Timed, largest_fitting
from balenas_plugin.cli.auto import _output, _prepared
from balenas_plugin.cli.inputs import read_limit
from balenas_plugin.errors import DataError, OptionError

from .commands import Ended, Stop, balenas

SCRIPT = Path(__file__).with_name("timed_auto.py")
EACH = 24


def make_images(root: Path, classes: str = "ab", each: int = EACH, side: int = 8) -> Path:
    """Write grey images: those of class k are bright in their k-th column, so that mirrored ones are of another."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(each):
            pixels = generator.integers(0, 90, (side, side), dtype=np.uint8)
            pixels[:, label] += 160
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def auto(*arguments: object, folder: Path, **options: Any) -> Ended:
    return balenas("auto", *arguments, folder=folder, script=SCRIPT, **options)


def refusal(*arguments: object, folder: Path, **options: Any) -> str:
    """Return the one sentence by which a command is refused."""
    ended = auto(*arguments, folder=folder, **options)
    assert ended.code == 2, ended.errors
    assert "Traceback" not in ended.errors
    lines = [line for line in ended.errors.splitlines() if line.strip() and not line.startswith(("auto: ", "search: "))]
    assert len(lines) == 1, ended.errors
    assert lines[0].startswith("balenas: ")
    return lines[0]


# -- what is seen -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_listed_and_left_out(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images")
    (root / "a" / "broken.png").write_bytes(b"no image")
    (root / "a" / "notes.txt").write_text("of the photographer")
    shutil.copy(root / "a" / "0.png", root / "a" / "again.png")
    shutil.copy(root / "b" / "1.png", root / "a" / "contradicts.png")
    Image.new("RGBA", (9, 12), (1, 2, 3, 4)).save(root / "b" / "large.png")
    looked = look(root, progress=False)
    listed = {Path(line.split("\t")[0]).name: line.split("\t")[1] for line in looked.left_out()}
    assert {name: text[:14] for name, text in listed.items()} == {
        "broken.png": "cannot be deco",
        "again.png": "is a copy of /",
        "contradicts.png": "is the same im",
        "1.png": "is the same im",
        ".txt": "1 file, not re",
    }
    assert looked.count == 2 * EACH  # 24 of a, 23 of b and the large one
    summary = looked.summary()
    assert "8x8 to 9x12 pixels" in summary["images"]
    assert "1 are RGBA" in summary["images"]
    assert (
        summary["left out"] == "1 cannot be decoded, 1 are copies of others, 2 are in several classes, 1 are no images"
    )
    looked.require_usable(skip_unreadable=True)
    wanted = Wanted(images=root, budget=60.0, limits=Limits())
    with pytest.raises(
        DataError, match=r"1 of 49 images .*broken.png: it is empty, damaged.*--skip-unreadable.*left-out"
    ):
        plan_run(wanted, tmp_path / "run", started=0)
    assert len((tmp_path / "run" / "left-out.txt").read_text().splitlines()) == 5
    assert not _prepared(tmp_path / "run", resume=False, overwrite=False)  # it can be said again


def test_every_class_has_its_share_in_every_part_and_copies_are_never_in_two(tmp_path: Path) -> None:
    root = make_images(tmp_path / "images", each=20)
    parts = split(look(root, progress=False), seed=1)
    counts = {name: [sum(label == k for _, label in part) for k in (0, 1)] for name, part in parts.items()}
    assert counts == {"test": [4, 4], "val": [2, 2], "train": [14, 14]}
    assert len({path for part in parts.values() for path, _ in part}) == 40
    own = tmp_path / "own"
    shutil.copytree(root, own / "train")
    for name in "ab":
        (own / "test" / name).mkdir(parents=True)
        for number in range(3):
            shutil.copy(root / name / f"{number}.png", own / "test" / name)
    looked = look(own, progress=False)
    parts = split(looked, seed=1)
    assert len(looked.repeated) == 6
    assert all("/train/" in path for path in looked.repeated)
    assert [len(parts[name]) for name in ("train", "val", "test")] == [28, 6, 6]
    assert all("/test/" in path for path, _ in parts["test"])


def test_mirroring_is_for_images_that_it_leaves_what_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    sided = torch.randint(0, 60, (40, 16, 16, 3), dtype=torch.uint8, generator=generator)
    symmetric = sided.clone()
    for k in (0, 1):
        sided[labels == k, :, 12 * k : 12 * k + 4] += 150
        symmetric[labels == k, 12 * k : 12 * k + 4] += 150
    assert not mirroring(sided, labels, seed=0).keeps_classes
    assert mirroring(symmetric, labels, seed=0).keeps_classes


# -- what is planned --------------------------------------------------------------------------------------------------


def test_the_largest_network_that_gets_enough_epochs_is_found_among_few_timings() -> None:
    asked: list[int] = []

    def timed(size: int, enough: float) -> Timed:
        asked.append(size)
        if size > 500:
            raise DoesNotFitError
        return Timed(seconds=0.01 + size / 1000, threads=1, memory=0)

    sizes = [1, 5, 10, 20, 40, 80, 160, 320, 640, 1280]
    options = {"seconds": 100.0, "steps_per_epoch": 10}
    assert largest_fitting(sizes, timed, wanted_epochs=100, **options).size == 80  # 0.1 s a step is allowed
    assert len(asked) <= 4
    assert largest_fitting(sizes, timed, wanted_epochs=1, **options).size == 320  # more memory there is not
    few = largest_fitting(sizes, timed, wanted_epochs=10_000, **options)
    assert few.size == 1
    assert few.epochs == pytest.approx(100 / 0.11)


@pytest.mark.parametrize(("images", "iteration"), [(2000, 0.1), (100_000, 0.3), (60, 0.01)])
def test_a_search_fills_its_time_with_at_least_ten_epochs(images: int, iteration: float) -> None:
    known = Known(looked=None, parts={"train": [("", 0)] * images}, started=0, looking=0)  # type: ignore[arg-type]
    timed = TimedSearch(iteration=iteration, epoch=0.5)
    planned = _planned_search(SPACES[0], timed, 300.0, known, 64)
    assert 10 <= planned.epochs <= 50
    assert planned.images <= images
    assert planned.seconds <= 300
    assert planned.seconds > 200 or planned.epochs == 50  # there is time left where there are few images


def fitting(monkeypatch: pytest.MonkeyPatch, kind: str, *, seconds: float = 1e9, **limits: float) -> Offer:
    """Return what is trained where a step takes a microsecond for a thousand multiply-adds, and an image a nanosecond
    for each."""
    monkeypatch.setattr(Offer, "timed", timed_by_work)
    monkeypatch.setattr(offered, "time_training", lambda *_, **__: Timed(seconds=0.0, threads=1, memory=0))
    sizes = SPACES[0].trained[0] if kind != BASELINE else BASELINE_SIZES[0]
    smallest = Offer(kind=kind, sizes=sizes, image_size=8, num_classes=10, limits=Limits(**limits))
    return fitting_networks(smallest, [8], seconds, 6000, 60).size


def timed_by_work(offer: Offer, *, batch_size: int, enough: float) -> Timed:
    most, took = offer.limits.max_latency, offer.work / 1e6
    if most is not None and took > most:
        raise DoesNotFitError(f"no network takes at most {most:g} ms: the smallest takes {took:.3g} ms")
    return Timed(seconds=offer.work / 1e9, threads=1, memory=0)


def test_limits_choose_the_sizes_and_name_the_smallest_network_where_none_meets_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fitting(monkeypatch, BASELINE, max_params=2e5).sizes == {"width": 8}
    found = fitting(monkeypatch, "nasbench201", max_params=2e5)
    assert found.parameters <= 2e5
    assert found.sizes == {"channels": 10, "cells_per_stage": 1, "stages": 3}
    for limits in ({"max_flops": 2e6}, {"max_latency": 1.0}):
        assert 0.7e6 < fitting(monkeypatch, "nasbench201", **limits).work <= 1e6
    in_time = fitting(monkeypatch, "nasbench201", seconds=1.0)  # a thousand steps or more
    assert in_time.work <= 1e6
    with pytest.raises(OptionError, match=r"at most 1,000 parameters: the smallest there is has 44,622 parameters"):
        fitting(monkeypatch, BASELINE, max_params=1000)
    small = {"max_params": 3e4}
    assert fitting(monkeypatch, "nasbench201", **small).parameters <= 3e4
    plain = Offer(kind=BASELINE, sizes=BASELINE_SIZES[0], image_size=8, num_classes=10, limits=Limits(**small))
    assert fitting_baseline(plain, 1e9, 6000, 60).size == replace(plain, limits=Limits())  # a yardstick
    with pytest.raises(OptionError, match=r"no network takes at most 0\.001 ms: the smallest takes"):
        fitting(monkeypatch, "nasbench201", max_latency=1e-3)


def test_the_size_of_a_network_follows_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with few operations is wider: the same limits and time give it more channels."""
    monkeypatch.setattr(Offer, "timed", timed_by_work)
    smallest = Offer(
        kind="nasbench201", sizes=SPACES[0].trained[0], image_size=8, num_classes=10, limits=Limits(max_params=2e5)
    )
    dense, *_, light = offered.uniform_architectures(smallest)
    sizes = [fitting_networks(replace(smallest, architecture=each), [8], 1e9, 6000, 60).size for each in (dense, light)]
    assert [size.parameters <= 2e5 for size in sizes] == [True, True]
    assert sizes[1].sizes["channels"] > sizes[0].sizes["channels"]


def test_times_and_numbers_are_read_as_people_write_them() -> None:
    assert [read_budget(text) for text in ("2h", "90m", "1h30m", "45s", "1.5 min")] == [7200, 5400, 5400, 45, 90]
    counts = {"300k": 3e5, "1M": 1e6, "250,000": 2.5e5, "1.5G": 1.5e9, "1e6": 1e6, "5.": 5}
    assert {text: read_limit("max_params", text) for text in counts} == counts
    assert [read_limit("max_latency", text) for text in ("5ms", "0.5 ms", "2e1", None)] == [5, 0.5, 20, None]
    for name, text in (("max_params", "5ms"), ("max_flops", "0"), ("max_latency", "5k"), ("max_params", "1e999")):
        with pytest.raises(OptionError, match=rf"^--{name.replace('_', '-')} must be a number above 0 such as"):
            read_limit(name, text)
    for text in ("", "10", "0s", "soon", "400h 400h", "1000h"):
        with pytest.raises(OptionError, match="such as 2h, 90m"):
            read_budget(text)


# -- all of it --------------------------------------------------------------------------------------------------------


def test_killed_in_four_stages_it_ends_as_planned_and_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    run = tmp_path / "run"
    limits = ["--max-params", "60k", "--max-latency", "1000"]
    command = ["--images", "images", "--budget", "1h", "--seed", "3", *limits, "--output", "run"]
    dry = auto(*command, "--dry-run", folder=tmp_path)
    assert dry.code == 0
    assert not run.exists()
    assert "in all, of a budget of 60 min" in dry.errors
    assert "nothing sees them before the end" in dry.errors

    assert auto(*command, folder=tmp_path, KILLED_BEFORE="pack 2").code == -9
    plan = (run / "plan.yml").read_text()
    planned = yaml.safe_load(plan)
    assert planned["network"]["parameters"] <= 60_000
    assert planned["baseline"]["parameters"] <= 60_000
    assert "there is a run in run" in refusal(*command, folder=tmp_path)
    other = refusal(*command, "--max-flops", "1M", "--resume", folder=tmp_path)
    assert "limits.max_flops was None, is 1000000.0" in other
    again = [*command, "--resume"]
    assert auto(*again, folder=tmp_path, stop=Stop("checkpoint in place", 2)).code == -9  # in the search
    assert auto(*again, folder=tmp_path, KILLED_BEFORE="epoch 2").code == -9  # in the training
    assert not (run / "network" / "train.json").exists()
    assert auto(*again, folder=tmp_path, KILLED_BEFORE="deliver 1").code == -9
    ended = auto(*again, folder=tmp_path)
    assert ended.code == 0, ended.errors
    assert (run / "plan.yml").read_text() == plan
    found = json.loads((run / "auto.json").read_text())
    tested, winner = found["tested"], found["winner"]
    assert all(network["parameters"] <= 60_000 for network in tested.values())
    assert tested[winner]["validation_accuracy"] == max(each["validation_accuracy"] for each in tested.values())
    assert f"{tested[winner]['test_accuracy']:.2%} of the images that nothing had seen" in ended.output
    _assert_delivered(run, tested[winner]["test_accuracy"])

    whole = tmp_path / "whole"
    shutil.copytree(run, whole)
    for name in ("network", "baseline"):
        shutil.rmtree(whole / name)
    assert auto(*again[:-2], "whole", "--resume", folder=tmp_path, KILLED_BEFORE="deliver 1").code == -9
    for name in ("network", "baseline"):
        weights = [folder / name / "weights.safetensors" for folder in (run, whole)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def _assert_delivered(run: Path, accuracy: float) -> None:
    """Count the accuracy of the ONNX file on the images held out; look at the page."""
    pixels = np.load(run / "held-out" / "test.npy")
    known = json.loads((run / "held-out" / "images.json").read_text())
    training = json.loads((run / "images" / "images.json").read_text())
    assert known["mean"] == training["mean"]  # not of the images held out
    mean, std = (np.array(known[name], np.float32)[:, None, None] for name in ("mean", "std"))
    session = onnxruntime.InferenceSession(run / "delivered" / "network.onnx")
    inputs = ((pixels - 255 * mean) / (255 * std)).astype(np.float32)
    (logits,) = session.run(None, {"images": inputs})
    assert float(np.mean(logits.argmax(1) == known["labels"]["test"])) == pytest.approx(accuracy)
    page = (run / "report.html").read_text()
    assert "A network for images" in page
    assert f"{accuracy:.2%}" in page
    assert "delivered/network.onnx" in page


@pytest.mark.parametrize(
    ("winner", "ours", "plain", "said"),
    [
        ("network", 0.9, 0.8, "The found network is delivered: 50.00% .*It beats the plain ResNet"),
        ("network", 0.8, 0.9, "found .* No size of the plain ResNet keeps the limits, so that it is a yardstick alone"),
        ("baseline", 0.8, 0.9, "The ResNet-18 is delivered: 50.00% .*The plain ResNet beats what the search has found"),
        ("network", 0.9, 0.9, "The ResNet-18 is right as often on the validation images .* less sure of the classes"),
    ],
)
def test_the_verdict_says_what_is_delivered_and_why(winner: str, ours: float, plain: float, said: str) -> None:
    costs: dict[str, Any] = {"parameters": 1, "multiply_adds": 1, "epochs": 1, "planned_epochs": 1, "seconds": 1.0}
    costs["validation_loss"] = 0.5
    tested = {
        name: _Tested(
            validation_accuracy=value,
            test_accuracy=0.5,
            interval=(0.4, 0.6),
            keeps_limits=name == "network" or "yardstick" not in said,
            **costs,
        )
        for name, value in {"network": ours, "baseline": plain}.items()
    }
    unused: dict[str, Any] = dict.fromkeys(("notation", "sizes", "confusion", "class_names", "deployed"))
    delivered = Delivered(winner=winner, tested=tested, seconds={}, output=Path(), **unused)
    assert re.search(said, verdict(delivered))


# -- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_done_is_refused_in_one_sentence_before_anything_is_written(tmp_path: Path) -> None:
    make_images(tmp_path / "single", classes="a")
    make_images(tmp_path / "two", each=1)
    make_images(tmp_path / "images")
    sentences = {
        ("single",): "holds the single class 'a'",
        ("two",): "the class 'a' has 1 usable image, and needs at least 5",
        ("nowhere",): "there is no folder nowhere",
        ("images", "--budget", "1s"): "a budget of 1 s is too small for 32 training images on this machine",
        ("images", "--max-params", "1k"): "at most 1,000 parameters: the smallest there is has 4,",
        ("images", "--max-flops", "1k"): "needs .* floating-point operations an image",
        ("images", "--max-latency", "0.0001"): "even the smallest network takes .* and at most 0.0001 ms are allowed",
    }
    for (images, *options), sentence in sentences.items():
        budget = [] if "--budget" in options else ["--budget", "1h"]
        assert re.search(sentence, refusal("--images", images, *budget, *options, folder=tmp_path))
    assert not (tmp_path / "runs").exists()


def test_nothing_is_written_into_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    assert _output(None, photos) == Path("runs/auto-photos")
    monkeypatch.chdir(photos)
    assert _output(None, Path()) == tmp_path / "runs/auto-photos"
    with pytest.raises(OptionError, match="--output out lies inside the images"):
        _output(Path("out"), Path())
    (photos / "1.png").touch()
    for resume in (False, True):
        with pytest.raises(OptionError, match="holds something else than a run of `balenas auto`"):
            _prepared(photos, resume=resume, overwrite=False)


def test_a_full_disk_is_reported_and_what_was_done_is_kept(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    command = ["--images", "images", "--budget", "1h", "--output", "run"]
    message = refusal(*command, folder=tmp_path, stop=Stop("start"), file_size=2400)
    assert "disk space" in message
    assert (tmp_path / "run" / "plan.yml").exists()
    assert (tmp_path / "run" / "images" / "images.json").exists()
