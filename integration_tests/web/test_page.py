"""`balenas ui` in a browser: what NNI's page shows of a search and of what it found."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from .conftest import TINY, Shown
from .pages import Page
from .programs import Program, processes_of

LABELS = ["cell/0_1", "cell/0_2", "cell/1_2", "cell/0_3", "cell/1_3", "cell/2_3"]
EPOCHS = TINY["evaluator"]["epochs"]


def test_the_overview_shows_name_and_duration(page: Page) -> None:
    text = page.overview()
    assert "BaLeNAS tiny" in text
    assert "DONE" in text
    assert "Duration" in text
    assert page.wait(lambda: "s" in page._text(".circle-progress, .text.duration-global-color"))


def test_the_trials_have_succeeded_with_their_metrics(page: Page, shown: Shown) -> None:
    rows = page.trials()
    finals = [trial["final"]["default"] for trial in shown.experiment.trials()]
    assert len(rows) == 1 + TINY["strategy"]["candidate_trials"] == len(finals)
    for row, final in zip(rows, finals, strict=True):
        assert "SUCCEEDED" in row
        (metric,) = [cell for cell in row if "(FINAL)" in cell]
        assert float(metric.split()[0]) == pytest.approx(final, abs=1e-5)


def test_the_graph_of_the_search_has_one_point_an_epoch(page: Page) -> None:
    page.trials()
    (line,) = page.intermediate_points(0)
    assert len(line) == EPOCHS
    assert all(isinstance(value, int | float) for value in line)


def test_the_hyper_parameter_panel_has_the_labels_of_the_space(page: Page) -> None:
    page.trials()
    page.tab("Hyper-parameter")
    axes = page.axes()
    assert axes[: len(LABELS)] == LABELS
    assert {"default", "log_probability"} <= set(axes)


def test_the_standard_error_of_a_trial_is_a_click_away(page: Page) -> None:
    page.trials()
    assert "Traceback" not in page.error_of(0)


def test_the_trials_say_what_the_run_folder_says(shown: Shown) -> None:
    search, *candidates = shown.experiment.trials()
    records = json.loads((shown.folder / "runs/tiny/architectures.json").read_text())
    assert [trial["parameters"]["mutation_summary"] for trial in candidates] == [
        record["choices"] for record in records[: len(candidates)]
    ]
    for trial, record in zip(candidates, records, strict=False):
        assert trial["final"]["synflow"] != 0
        assert trial["final"]["log_probability"] == pytest.approx(record["log_probability"])
    history = (shown.folder / "runs/tiny/history.csv").read_text().splitlines()
    header = history[0].split(",")
    accuracies = [float(row.split(",")[header.index("val_acc")]) for row in history[1:]]
    curve = shown.experiment.curve(search["trialJobId"])
    assert [point["default"] for point in curve] == pytest.approx(accuracies)
    assert all({"entropy", "sigma", "train_loss", "val_loss"} <= set(point) for point in curve)
    assert search["final"]["default"] == pytest.approx(accuracies[-1])


def test_the_search_is_the_one_of_balenas_search(shown: Shown) -> None:
    command = [sys.executable, "-m", "balenas_plugin.cli", "search", "tiny.yml", "--output", "plain"]
    program = Program(command, folder=shown.folder)
    assert program.ended() == 0, program.errors
    for name in ("posterior.json", "architectures.json", "history.csv"):
        assert (shown.folder / "plain" / name).read_text() == (shown.folder / "runs/tiny" / name).read_text()


def test_the_address_can_be_neither_guessed_nor_read_by_others(shown: Shown) -> None:
    *_, prefix, page = shown.experiment.address.split("/")
    assert page == "oview"
    assert len(prefix) >= 16
    assert "Only this machine reaches it" in shown.program.output
    words = [word for process in processes_of(shown.experiment.identifier) for word in process.cmdline()]
    assert words
    assert not any(prefix in word for word in words)
    files = [path for path in shown.folder.rglob("*") if path.is_file() and path not in shown.program.files]
    telling = [path for path in files if prefix.encode() in path.read_bytes()]
    assert {path.name for path in telling} >= {".experiment", "trial.log"}
    assert not [path for path in telling if open_to_others(path, shown.folder)]


def open_to_others(path: Path, root: Path) -> bool:
    folders = [folder for folder in path.parents if folder.is_relative_to(root) and folder != root]
    return bool(path.stat().st_mode & stat.S_IROTH) and all(f.stat().st_mode & stat.S_IXOTH for f in folders)
