"""What training the candidates gave, in the run's folder and on the terminal."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from balenas_plugin.adapters.nni.run.tasks import TASKS
from balenas_plugin.adapters.nni.web.in_trials import TrainedCandidate
from balenas_plugin.adapters.nni.web.ui import _record_trained
from balenas_plugin.cli.search import print_architectures
from balenas_plugin.run_folder import RunFolder


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


def test_without_training_nothing_is_rewritten(tmp_path: Path) -> None:
    _record_trained(RunFolder(tmp_path / "missing"), {}, TASKS[0].named)
