"""The ground truth of a run is an extra: a table that nobody asked for ends no search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from balenas_plugin.benchmarks.measures import COLUMNS
from balenas_plugin.benchmarks.table import TABLE_FILE, write_table
from balenas_plugin.benchmarks.trials import Row
from balenas_plugin.cli import main
from balenas_plugin.search_spaces.nasbench201 import format_string

from .commands import balenas


def partial_table(folder: Path) -> Path:
    """Write a table of one architecture, which no search finds."""
    path = folder / TABLE_FILE
    write_table(path, [Row(0, format_string((4,) * 6), 1, np.full(len(COLUMNS), 50.0))], source="made")
    return path


@pytest.mark.parametrize("kind", ["partial", "damaged"])
def test_a_table_at_hand_that_is_of_no_use_ends_no_search(kind: str, folder: Path) -> None:
    path = partial_table(folder)
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:100])
    ended = balenas("search", "tiny.yml", "--set", "evaluator.epochs=2", folder=folder, BALENAS_DATA=str(folder))
    assert ended.code == 0, ended.errors
    found = json.loads((folder / "runs" / "tiny" / "architectures.json").read_text())
    assert len(found) == 3
    assert all("ground_truth" not in record for record in found)
    assert json.loads((folder / "runs" / "tiny" / "manifest.json").read_text())["status"] == "finished"
    assert ended.errors.count(f"No ground truth: {path} is") == (kind == "damaged")


@pytest.mark.parametrize("kind", ["missing", "damaged"])
def test_a_table_that_was_asked_for_must_be_readable_before_the_work(
    kind: str, copy_of_finished: Path, folder: Path
) -> None:
    path = partial_table(folder)
    path.write_bytes(b"PAR1, and no more")
    if kind == "missing":
        path.unlink()
    ended = balenas("export", copy_of_finished, "--table", path, folder=folder)
    assert (ended.code, ended.output) == (2, "")
    assert TABLE_FILE in ended.errors
    assert "Traceback" not in ended.errors
    assert "score" not in ended.errors  # the bar of the ranking
    assert not (copy_of_finished / "export").exists()


def test_an_architecture_that_the_table_lacks_has_no_ground_truth(copy_of_finished: Path, folder: Path) -> None:
    ended = balenas("export", copy_of_finished, "--samples", 5, "--table", partial_table(folder), folder=folder)
    assert ended.code == 0, ended.errors
    records = json.loads((copy_of_finished / "export" / "architectures.json").read_text())
    assert all("ground_truth" not in record for record in records)


@pytest.mark.parametrize(
    ("given", "how"),
    [
        ((), ""),
        (("3,3,3,1,3,3",), "read as operation indices in the order of NAS-Bench-201's string. If it is NASLib's"),
        (("--notation", "naslib", "2,2,0,2,2,2"), "read as NASLib's op_indices."),
        (("9930",), "read as the number of an architecture in NAS-Bench-201."),
    ],
)
def test_query_takes_other_notations_and_says_how_it_read_them(given, how, capsys) -> None:
    string = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    assert main(["query", *(given or (string,))]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == f"{string}  (index 9930)"
    assert how in printed.err


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("9930", "Make one with `balenas benchmark import FILE`"),
        ("conv3x3~0|conv3x3~0,1|conv3x3~1,2|-|output~0,3", "github.com/google-research/nasbench"),
        ("DARTS_V2", "holds no models of NAS-Bench-301"),
    ],
)
def test_a_table_that_is_not_there_is_that_of_the_space(architecture, message, tmp_path, capsys) -> None:
    assert main(["query", architecture, "--table", str(tmp_path / "x" / "nowhere")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_query_by_a_number_that_is_none(capsys) -> None:
    assert main(["query", "99999"]) == 2
    assert "a number from 0 to 15624, got '99999'" in capsys.readouterr().err
