"""`balenas export` of a finished run by what looks at its supernet."""

from __future__ import annotations

import json

import pytest

from .commands import balenas, refused


@pytest.mark.parametrize(
    "arguments",
    [
        ("--selection", "darts-pt", "--samples", 2, "--fine-tuning", 1),
        ("--selection", "one-batch", "--samples", 5),
        ("--candidates", "darts-pt", "--samples", 1, "--proxy", "probability", "--batch-statistics", "--own-images"),
    ],
)
def test_a_finished_run_is_selected_from_in_every_way_that_looks_at_its_supernet(arguments, copy_of_finished, folder):
    files = []
    for name in ("one", "two"):
        output = folder / f"{name}-{len(arguments)}{arguments[1]}"
        ended = balenas("export", copy_of_finished, *arguments, "--images", 40, "--output", output, folder=folder)
        assert ended.code == 0, ended.errors
        files.append((output / "architectures.json").read_text())
    assert files[0] == files[1]
    found = json.loads(files[0])
    assert 1 <= len(found) <= arguments[3]
    scores = [next(iter(record["scores"].values())) for record in found]
    assert scores == sorted(scores, reverse=True)


def _records(run):
    return json.loads((run / "export" / "architectures.json").read_text())


def test_limits_hold_and_the_latencies_are_kept(copy_of_finished, folder):
    limits = ("--max-params", 6000, "--max-latency", 1e5, "--pareto", "latency", "--samples", 10, "--top", 3)
    ended = balenas("export", copy_of_finished, *limits, folder=folder)
    assert ended.code == 0, ended.errors
    assert "candidates: 100%" in ended.errors
    assert all(record["params"] <= 6000 and record["latency"] > 0 for record in _records(copy_of_finished))
    assert {record["latency_by"] for record in _records(copy_of_finished)} == {"onnxruntime"}
    (table,) = copy_of_finished.glob("latency-*.json")
    latencies = json.loads(table.read_text())
    latencies["costs"] = {label: dict.fromkeys(costs, 1.0) for label, costs in latencies["costs"].items()}
    table.write_text(json.dumps({**latencies, "fixed": 1.0}))
    assert balenas("export", copy_of_finished, *limits, folder=folder).code == 0
    assert {record["latency"] for record in _records(copy_of_finished)} == {7.0}
    assert json.loads((copy_of_finished / "export" / "pareto.json").read_text())["cost"] == "latency"
    message = refused("export", copy_of_finished, "--samples", 2, "--max-latency", 6.5, folder=folder)
    assert "meets max_latency=6.5: the smallest there is has 7 ms; raise the limit" in message


UNWRITABLE = """
import sys
from balenas_plugin.cli import main
from balenas_plugin.errors import SpaceError
from balenas_plugin.export import onnx_file

def write_onnx(network, path, **_):
    if path.stem in sys.argv[-1].split(","):
        raise SpaceError(f"{path.stem} is random")
    path.write_bytes(b"onnx")
    return path

onnx_file.write_onnx = write_onnx
sys.exit(main(sys.argv[1:-1]))
"""


def test_what_cannot_be_written_as_onnx_is_left_out_alone(copy_of_finished, folder):
    script, names = folder / "export.py", [f"architecture_{k:03d}" for k in (1, 2, 3)]
    script.write_text(UNWRITABLE)
    arguments = ("export", copy_of_finished, "--samples", 9, "--top", 3, "--format", "onnx")
    ended = balenas(*arguments, names[1], folder=folder, script=script)
    assert ended.code == 0, ended.errors
    assert f"{names[1]}.onnx is left out: {names[1]} is random, or choose --format python" in ended.errors
    assert "write: 100%" in ended.errors
    written = sorted(path.stem for path in (copy_of_finished / "export").iterdir())
    assert written == [names[0], names[2]]
    ended = balenas(*arguments, ",".join(names), folder=folder, script=script)
    assert ended.code == 2
    assert f"balenas: no file is written, as none can be as ONNX: {names[0]} is random" in ended.errors
    assert sorted(path.stem for path in (copy_of_finished / "export").iterdir()) == written
