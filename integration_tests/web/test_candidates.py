"""What training the candidates gave, in the run's folder and on the terminal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from balenas_plugin.adapters.nni.run.build import build_space
from balenas_plugin.adapters.nni.run.tasks import TASKS
from balenas_plugin.adapters.nni.supernets.found_model import completed
from balenas_plugin.adapters.nni.web.in_trials import TrainedCandidate
from balenas_plugin.adapters.nni.web.manager import SearchExperiment
from balenas_plugin.adapters.nni.web.recipes import ConfiguredSearch
from balenas_plugin.adapters.nni.web.trials import SHOWN, CandidateTrial
from balenas_plugin.adapters.nni.web.ui import _record_trained
from balenas_plugin.cli.search import print_architectures
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import get_space


def trained(folder: RunFolder, rank: int, metric: float) -> TrainedCandidate:
    checkpoint = folder.path.resolve() / "candidates" / f"architecture_{rank:03d}.pt"
    return TrainedCandidate(choices={}, epochs=5, metric=metric, checkpoint=checkpoint)


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
