"""`balenas export` of a finished run by what looks at its supernet."""

from __future__ import annotations

import json

import pytest

from .commands import balenas


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
