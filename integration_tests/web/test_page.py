"""`balenas ui` in a browser: what NNI's page shows of a search and of what it found."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from pathlib import Path

import pytest

from balenas_plugin.report import write_report

from .conftest import TINY, Shown
from .pages import Page
from .programs import Program, processes_of

LABELS = ["cell/0_1", "cell/0_2", "cell/1_2", "cell/0_3", "cell/1_3", "cell/2_3"]
EPOCHS = TINY["evaluator"]["epochs"]
PHONE = 360
"""Pixels of CSS."""

TOO_WIDE = f"""
    document.querySelectorAll("details").forEach(part => part.open = true);
    const beyond = part => part.getBoundingClientRect().right > {PHONE} || part.scrollWidth > {PHONE};
    const parts = [...document.querySelectorAll("main, main *:not(thead, thead *)")];
    return parts.filter(beyond).map(part => part.outerHTML.slice(0, 80));
"""
"""Which parts of a page reach beyond a phone."""


def test_the_overview_shows_name_and_duration(page: Page) -> None:
    text = page.overview()
    assert "BaLeNAS tiny" in text
    assert "DONE" in text
    assert "Duration" in text
    assert page.wait(lambda: "s" in page._text(".circle-progress, .text.duration-global-color"))


def test_the_trials_have_succeeded_with_their_metrics(page: Page, shown: Shown) -> None:
    rows = page.trials()
    search, *candidates = shown.experiment.trials()
    assert len(rows) == 1 + TINY["strategy"]["candidate_trials"] == 1 + len(candidates)
    assert all("SUCCEEDED" in row for row in rows)
    for row, trial in zip(rows[1:], candidates, strict=True):
        (metric,) = [cell for cell in row if "(FINAL)" in cell]
        assert float(metric.split()[0]) == pytest.approx(trial["final"]["default"], abs=1e-5)
    assert "final" not in search  # the supernet's accuracy is not comparable with what an architecture has
    assert not any("(FINAL)" in cell for cell in rows[0])


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


def test_the_search_is_the_one_of_balenas_search(shown: Shown) -> None:
    command = [sys.executable, "-m", "balenas_plugin.cli", "search", "tiny.yml", "--output", "plain"]
    program = Program(command, folder=shown.folder)
    assert program.ended() == 0, program.errors
    for name in ("posterior.json", "architectures.json", "history.csv"):
        assert (shown.folder / "plain" / name).read_text() == (shown.folder / "runs/tiny" / name).read_text()


def test_a_report_fits_a_phone(page: Page, shown: Shown, tmp_path: Path) -> None:
    other = Path(shutil.copytree(shown.folder / "runs" / "tiny", tmp_path / "tiny"))
    write_report([shown.folder / "runs" / "tiny", other], tmp_path / "report.html")
    metrics = {"width": PHONE, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.driver.get((tmp_path / "report.html").as_uri())
    assert page.driver.execute_script(TOO_WIDE) == []
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_address_can_be_neither_guessed_nor_read_by_others(shown: Shown) -> None:
    *_, prefix, page = shown.experiment.address.split("/")
    assert page == "oview"
    assert len(prefix) >= 16
    assert "Only this machine reaches it" in shown.program.output
    words = [word for process in processes_of(shown.experiment.identifier) for word in process.cmdline()]
    assert words
    assert not any(prefix in word for word in words)
    files = [path for path in shown.folder.rglob("*") if path.is_file() and path not in shown.program.files]
    revealing = [path for path in files if prefix.encode() in path.read_bytes()]
    assert {path.name for path in revealing} >= {".experiment", "trial.log"}
    assert not [path for path in revealing if open_to_others(path, shown.folder)]


def open_to_others(path: Path, root: Path) -> bool:
    folders = [folder for folder in path.parents if folder.is_relative_to(root) and folder != root]
    return bool(path.stat().st_mode & stat.S_IROTH) and all(f.stat().st_mode & stat.S_IXOTH for f in folders)
