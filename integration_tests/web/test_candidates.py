"""Candidates that are trained with a recipe; what training gave, in the run's folder and on the terminal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import nni
import pytest
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

from balenas_plugin.adapters.nni import BaLeNAS
from balenas_plugin.adapters.nni.run.build import build_space
from balenas_plugin.adapters.nni.run.tasks import TASKS
from balenas_plugin.adapters.nni.supernets.found_model import completed
from balenas_plugin.adapters.nni.web.in_trials import TrainedCandidate
from balenas_plugin.adapters.nni.web.manager import SearchExperiment
from balenas_plugin.adapters.nni.web.recipes import ConfiguredSearch, ScriptedSearch, SearchRecipe
from balenas_plugin.adapters.nni.web.trials import SHOWN, CandidateTrial
from balenas_plugin.adapters.nni.web.ui import _record_trained
from balenas_plugin.cli.search import print_architectures
from balenas_plugin.config import SearchConfig
from balenas_plugin.errors import OptionError
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import get_space
from balenas_plugin.training import Recipe, load_recipe

from .conftest import TINY

RECIPE = Recipe(name="brief", epochs=2, batch_size=256, network={"channels": 2, "cells_per_stage": 1})


def cell(operation: str) -> dict[str, str]:
    return {f"cell/{edge}": operation for edge in ("0_1", "0_2", "1_2", "0_3", "1_3", "2_3")}


class Reported:
    """In the place of the line to NNI's manager."""

    def __init__(self) -> None:
        self.curve: dict[int, float] = {}

    def intermediate(self, metric: Any, *, sequence: int) -> None:
        self.curve[sequence] = metric["default"]


def of_a_config(folder: Path) -> SearchRecipe:
    return ConfiguredSearch(config=SearchConfig.from_dict({"name": "tiny", **TINY}).to_dict(), folder=str(folder))


def of_a_script(folder: Path) -> SearchRecipe:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(16, 3, 8, 8, generator=generator), torch.randint(10, (16,), generator=generator))
    loaders = {"train_dataloaders": DataLoader(data, batch_size=8), "val_dataloaders": DataLoader(data, batch_size=8)}
    evaluator = Classification(num_classes=10, max_epochs=9, accelerator="cpu", **loaders)
    space = build_space(TINY["space"], num_classes=10)
    return ScriptedSearch.of(space, evaluator, "BaLeNAS", {}, folder=folder)


@pytest.mark.parametrize("described", [of_a_config, of_a_script])
def test_a_candidate_trains_with_a_recipe(tmp_path: Path, described: Any) -> None:
    record = {"rank": 2, "choices": cell("skip_connect"), "scores": {"synflow": 1.0}}
    trial = nni.load(nni.dump(CandidateTrial(record, described(tmp_path), 2, RECIPE)))
    report = Reported()
    final = trial.evaluate(report)
    assert list(report.curve) == [0, 1]
    assert final == {"default": pytest.approx(report.curve[1]), "synflow": 1.0}
    written = tmp_path / "candidates/architecture_002"
    assert len((written / "metrics.csv").read_text().splitlines()) == 3
    assert load_file(written / "weights.safetensors")
    again = Reported()
    assert trial.evaluate(again) == final  # killed before it could report, and resumed
    assert not again.curve


def test_the_images_of_the_test_stay_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def train_network(network: Any, data: Any, recipe: Recipe, **options: Any) -> Any:
        seen.update(data=data, recipe=recipe)
        return type("Trained", (), {"test_accuracy": 0.5})

    monkeypatch.setattr("balenas_plugin.adapters.nni.web.candidate_training.train_network", train_network)
    record = {"rank": 1, "choices": cell("none"), "scores": {"synflow": 1.0}}
    assert CandidateTrial(record, of_a_config(tmp_path), 2, RECIPE).evaluate(Reported())["default"] == 0.5
    data = seen["data"]
    assert data.test is data.validation
    assert len(data.training) + len(data.test) == data.description["training_images"]  # `limit` was the search's
    assert seen["recipe"].validation == 0.1


def test_one_option_says_how_and_the_other_how_long() -> None:
    assert BaLeNAS().options.candidate_training is None
    assert BaLeNAS(candidate_epochs=3).options.training_epochs == 3
    small = BaLeNAS(candidate_recipe="small").options
    assert small.candidate_training == load_recipe("small")
    assert small.training_epochs == load_recipe("small").epochs
    assert BaLeNAS(candidate_recipe="small", candidate_epochs=3).options.candidate_training.epochs == 3
    with pytest.raises(OptionError, match="there is no recipe 'smal'; did you mean 'small'"):
        BaLeNAS(candidate_recipe="smal")


def trained(folder: RunFolder, rank: int, metric: float) -> TrainedCandidate:
    checkpoint = folder.path.resolve() / "candidates" / f"architecture_{rank:03d}.pt"
    recipe = "small" if rank == 3 else None
    return TrainedCandidate(choices={}, epochs=5, recipe=recipe, metric=metric, checkpoint=checkpoint)


def test_trained_candidates_reach_the_folder_and_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    records = [{"rank": rank, "choices": {"a": rank}, "notation": {}, "probability": 0.1} for rank in (1, 2, 3)]
    folder.architectures.write_text(json.dumps(records))
    _record_trained(folder, {1: trained(folder, 1, 0.875), 3: trained(folder, 3, math.nan)}, TASKS[0].named)
    found = [record.get("trained") for record in folder.read_architectures()]
    assert found[0] == {"epochs": 5, "accuracy": 0.875, "checkpoint": "candidates/architecture_001.pt"}
    assert found[1] is None
    assert found[2]["accuracy"] is None
    assert found[2]["recipe"] == "small"
    print_architectures(folder)
    head, first, second, _, *rest = capsys.readouterr().out.strip().splitlines()
    assert head.split() == ["rank", "probability", "trained", "architecture"]
    assert "87.50%" in first
    assert "%" not in second
    assert "not the supernet's" in " ".join(rest)
    assert "epochs: 5" in " ".join(rest)
    _record_trained(folder, {1: trained(folder, 1, -math.log(87.5)), 2: trained(folder, 2, -800.0)}, TASKS[1].named)
    found = [record["trained"].get("perplexity") for record in folder.read_architectures()]
    assert found == [pytest.approx(87.5), None, None]
    print_architectures(folder)
    printed = capsys.readouterr().out
    assert "    87.50  " in printed
    assert "validation perplexity of the architecture alone" in printed


@pytest.mark.parametrize(
    ("name", "sizes", "text"),
    [
        ("darts-rnn", {"size": 3}, "Genotype(recurrent=" + str([("tanh", 0)] * 8) + ", concat=range(1, 9))"),
        ("darts-s1", {"width": 2, "num_cells": 1}, ""),
        (
            "nasbench1shot1-1",
            {"channels": 2, "num_cells": 1},
            "conv3x3~0|conv3x3~0,1|conv3x3~1,2|conv3x3~2,3|output~3,4",
        ),
    ],
)
def test_the_page_can_show_the_candidates_of_a_space(name: str, sizes: dict[str, int], text: str) -> None:
    """Its panel of hyper-parameters has an axis a choice, on which each candidate has one of the axis's values."""
    space = build_space({"name": name, **sizes}, num_classes=7)
    axes: dict[str, Any] = {}
    SearchExperiment._send_space_to_nni_manager(Mock(model_space=space, update_search_space=axes.update))
    architecture = get_space(name).read(text).sample if text else completed(space, {})
    candidate = CandidateTrial({"rank": 1, "choices": architecture}, ConfiguredSearch(config={}), 0)
    points = candidate._dump()[SHOWN]
    several = {label for label, choice in points.items() if isinstance(choice, list)}
    assert set(axes) == set(points) - several
    assert bool(several) == name.startswith("nas"), "a node takes two inputs there"
    for label, axis in axes.items():
        assert points[label] in axis["_value"]


def test_without_training_nothing_is_rewritten(tmp_path: Path) -> None:
    _record_trained(RunFolder(tmp_path / "missing"), {}, TASKS[0].named)
