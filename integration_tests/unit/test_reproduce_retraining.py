"""Table 3: networks of equal size, a pick by validation, what is trained once, and what a reader is shown."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from balenas_plugin.data import DataConfig
from balenas_plugin.errors import DataError, OptionError, SearchFailedError
from balenas_plugin.reproduce.retraining import protocol
from balenas_plugin.reproduce.retraining.correlations import Correlation
from balenas_plugin.reproduce.retraining.stages import OpenedStage, matched_width
from balenas_plugin.reproduce.retraining.trainings import Training
from balenas_plugin.reproduce.run import experiment_of, reproduce, workloads
from balenas_plugin.reproduce.scales import SCALES, Scale, load_scale
from balenas_plugin.reproduce.units import Unit, in_words
from balenas_plugin.search_spaces import get_space
from balenas_plugin.training import load_recipe

SPACE = get_space("darts-reference")
SCALE = """
common: {threads: 1, space: {name: darts-reference, width: 2, num_cells: 3}, data: {name: digits}}
searches: {darts-cells: {strategy: DARTS}}
retraining:
  short:
    data: {name: digits, limit: 60}
    recipe: {base: small, epochs: 2, validation: 0.2, network: {channels: 2, cells: 3}}
  full:
    digits: {data: {name: digits}, recipe: {network: {cells: 3}}, parameters: 2000, seeds: [0, 1]}
    cifar100: {data: {name: cifar100, root: nowhere}}
  random: 4
"""


@pytest.fixture
def scale(tmp_path: Path) -> Scale:
    (tmp_path / "mine.yml").write_text(SCALE)
    return load_scale(str(tmp_path / "mine.yml"))


@pytest.mark.parametrize("name", SCALES)
def test_every_scale_says_how_to_retrain(name: str) -> None:
    retraining = load_scale(name).retraining
    assert retraining is not None
    for stage in (retraining.short, *retraining.full.values()):
        recipe = load_recipe(stage.recipe)
        assert {"channels", "cells"} <= set(recipe.network.given)
        assert stage.parameters


@pytest.mark.parametrize(("image_size", "parameters"), [(32, 1_300_000), (12, 60_000), (224, 5_000_000), (8, 1)])
def test_the_width_makes_networks_of_equal_size(image_size: int, parameters: int) -> None:
    sizes = {"cells": 8 if image_size == 32 else 5, "num_classes": 10, "image_size": image_size}
    sample = SPACE.read("DARTS_V2").sample
    assert sample is not None
    width = matched_width(sample, SPACE, sizes, parameters)

    def distance(channels: int) -> int:
        with torch.device("meta"):
            network = SPACE.sized(**{**sizes, "channels": channels}).build(sample)
        return abs(sum(p.numel() for p in network.parameters()) - parameters)

    step = 1 + (image_size == 224)  # the stem for large images halves the channels
    assert width % step == 0
    assert distance(width) <= min(distance(width + step), distance(max(step, width - step)))


def test_rank_correlations_of_infinite_and_constant_scores() -> None:
    found = Correlation.of("p", "a", 0, [-math.inf, -math.inf, -3.0, -1.0], [10.0, 20.0, 30.0, 40.0])
    assert found.spearman == pytest.approx(0.9487, abs=1e-4)
    assert found.kendall == pytest.approx(0.9129, abs=1e-4)
    assert Correlation.of("p", "a", None, [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).spearman is None
    assert Correlation.of("p", "a", None, [1.0, 2.0], [1.0, 2.0]).kendall is None


def test_a_training_is_a_command_and_refuses_other_settings(tmp_path: Path, scale: Scale) -> None:
    assert scale.retraining is not None
    data = DataConfig(name="digits", limit=60, root="a: b", batch_size=7, num_workers=2, on_device=False)
    stage = OpenedStage("short", replace(scale.retraining.short, data=data), load_recipe("small"))
    training = Training(stage, "DARTS seed 0", "Genotype(...)", stage.recipe, 3, tmp_path, threads=1)
    training.path.parent.mkdir(parents=True)
    words = training.command()
    assert words[:2] == ["train", "Genotype(...)"]
    assert words[-7:] == ["--num-workers", 2, "--seeds", 3, "--output", training.path, "--resume"]
    assert not [word for word in words if "batch_size" in str(word) or "on_device" in str(word)]  # of searches
    assert 'data.root="a: b"' in words
    assert load_recipe(words[words.index("--recipe") + 1]).to_dict() == stage.recipe.to_dict()
    training.require_same()
    replace(training, stage=replace(stage, stage=replace(stage.stage, data=replace(data, root="c")))).require_same()
    with pytest.raises(OptionError, match=r"other settings: recipe\.epochs was 30, is 5"):
        replace(training, recipe=stage.recipe.replace(epochs=5)).require_same()


def write_result(folder: Path, accuracy: float, **known: int) -> None:
    plain = {"seed": 0, "epochs": 2, "folder": "", "seconds": 120.0, "interval": [0, 1], "test_accuracy": accuracy}
    (folder / "train.json").write_text(json.dumps({**plain, **known}))


def trained(units: Sequence[Unit], *, jobs: int) -> None:
    """Stand in for the processes: an architecture's errors follow from its digest."""
    for unit in units:
        assert isinstance(unit, Training)
        if unit.finished:
            continue
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        recipe = yaml.safe_load(Path(unit.command()[3]).read_text())
        unit.history.parent.mkdir(parents=True)
        right = int(unit.path.parent.name, 16) % 97 + unit.seed
        unit.history.write_text(f"epoch,val_acc\n0,0.1\n1,{right / 100}\n")
        write_result(unit.history.parent, right / 100, parameters=100 * recipe["network"]["channels"], seed=unit.seed)
        (unit.path / "train.json").write_text("{}")


def no_supernet(_: object) -> Any:
    raise AssertionError("no search, no supernet")


def run(scale: Scale, output: Path) -> Path:
    experiment = experiment_of("table3", ["random"])
    reproduce(experiment, scale, [0, 1], output, table=None, jobs=1, supernet_of=no_supernet)
    return output / "table3.csv"


def planned(scale: Scale, output: Path, seeds: Sequence[int]) -> list[str]:
    found = workloads(experiment_of("table3", ["random"]), scale, seeds, output, supernet_of=no_supernet)
    return in_words(found, jobs=2).splitlines()


def test_the_pick_validates_best_and_is_retrained(
    scale: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(protocol, "run_units", trained)
    rows = list(csv.DictReader(run(scale, tmp_path / "out").read_text().splitlines()))
    assert "cifar100 is left out: data set 'cifar100' cannot be read from nowhere" in capsys.readouterr().err
    short = {row["search_seed"]: row for row in rows if (row["row"], row["stage"]) == ("Random", "short")}
    full = [row for row in rows if row["stage"] == "digits"]
    best = min(short.values(), key=lambda row: float(row["validation_error"]))
    assert {row["architecture"] for row in full} == {best["architecture"]}
    assert [row["seed"] for row in full] == ["0", "1"]
    document = json.loads((tmp_path / "out" / "table3.json").read_text())
    assert document["picks"] == {"Random": int(best["search_seed"])}
    drawn = {row["architecture"] for row in rows if row["stage"] == "short"}
    found = {each["score"]: each for each in document["correlations"]}
    assert found["SynFlow"]["architectures"] == len(drawn) == 5  # the first of the four besides is that of seed 0
    assert found["SynFlow"]["spearman"] is not None
    text = (tmp_path / "out" / "table3.md").read_text()
    mean = sum(float(row["test_error"]) for row in full) / 2
    assert f"| Random | {best['search_seed']} | {mean:.2f}\N{NO-BREAK SPACE}±" in text
    assert "left out: cifar100" in text

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "trainings").rglob("train.json")}
    assert planned(scale, tmp_path / "out", [0, 1])[1] == "trainings digits: 2 at most, 2 finished, nothing left"
    run(scale, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_plan_counts_units_and_times_them_by_those_that_are_finished(scale: Scale, tmp_path: Path) -> None:
    assert planned(scale, tmp_path, [0, 1]) == [
        "trainings short: 6 at most, 0 finished, time not known before one has finished",
        "trainings digits: 2 at most, 0 finished, time not known before one has finished",
        "together, 2 at a time: what is not known yet",
    ]
    for digest in "ab":
        folder = tmp_path / "trainings" / "short" / digest / "seed-0" / "seed_0"
        folder.mkdir(parents=True)
        write_result(folder, 0.5)
    lines = planned(scale, tmp_path, [0, 1])
    assert lines[0] == "trainings short: 6 at most, 2 finished, 8 min of one core left"
    assert lines[2] == "together, 2 at a time: about 4 min and what is not known yet"


def test_a_row_with_a_failed_training_is_not_picked(
    scale: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(units: Sequence[Unit], *, jobs: int) -> None:
        trained([unit for unit in units if "Random seed 1" not in unit.name], jobs=jobs)
        if any("Random seed 1" in unit.name for unit in units):
            raise SearchFailedError("training short Random seed 1 failed and said: disk full")

    monkeypatch.setattr(protocol, "run_units", failing)
    with pytest.raises(SearchFailedError, match="disk full"):
        run(scale, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "table3.csv").read_text().splitlines()))
    assert {row["stage"] for row in rows} == {"short"}
    assert "| Random | none | not run |" in (tmp_path / "out" / "table3.md").read_text()


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("validation: 0.2, ", "", OptionError, "set its recipe's validation to their share"),
        ("seeds: [0, 1]", "seeds: []", OptionError, "every training a seed"),
        ("  full:", "  ful:", OptionError, "did you mean 'full'"),
        (
            "name: digits}, recipe: {network",
            "name: cifar100, root: absent}, recipe: {network",
            DataError,
            "from absent",
        ),
        (
            "darts-reference, width: 2, num_cells: 3",
            "nasbench1shot1-3",
            OptionError,
            "set its space to darts-reference",
        ),
        ("base: small", "base: smal", OptionError, "did you mean 'small'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    tmp_path: Path, old: str, new: str, error: type[Exception], message: str
) -> None:
    assert old in SCALE
    (tmp_path / "mine.yml").write_text(SCALE.replace(old, new))
    with pytest.raises(error, match=message):
        run(load_scale(str(tmp_path / "mine.yml")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
