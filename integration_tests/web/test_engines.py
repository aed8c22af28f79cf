"""`BaLeNAS` under NNI's training-service engine, through the manager that `NasExperiment` itself starts."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from .programs import Program, free_port, processes_of

SCRIPT = Path(__file__).with_name("engines.py")


def test_both_engines_find_the_same_with_the_same_seed(tmp_path: Path) -> None:
    shutil.copy(SCRIPT, tmp_path / "script.py")
    program = Program([sys.executable, "script.py", "raw", str(free_port())], folder=tmp_path)
    assert program.ended() == 0, program.errors
    sequential, trials = json.loads(program.output.splitlines()[-1])
    for name in ("architectures", "weights", "posterior"):
        assert trials[name] == sequential[name]
    search, candidate = trials["trials"]
    assert search["status"] == candidate["status"] == "SUCCEEDED"
    (final,) = candidate["finals"]
    assert 0 <= final["default"] <= 1  # the accuracy after its two epochs
    assert trials["trained"] == {"1": {"epochs": 2, "metric": final["default"]}}
    assert search["finals"] == []  # the supernet's accuracy is not on the axis of the trained architecture's
    assert trials["last"]["log_probability"] == final["log_probability"]
    assert "synflow" in final
    assert set(trials["search_space"]) == {"layer", "width"}
    (identifier,) = (
        path.name for path in (tmp_path / "experiments").iterdir() if path.name != "_latest" and (path / "db").exists()
    )
    assert not list(processes_of(identifier))
