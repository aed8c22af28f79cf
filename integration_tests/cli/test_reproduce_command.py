"""`balenas reproduce`: searches in folders of their own, tables and figures from them, and going on after a stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .commands import balenas, real_balenas

SCALE = """
common:
  threads: 1
  space: {name: NasBench201, stem_out_channels: 2, num_modules_per_stack: 1}
  data: {name: digits, limit: 128, batch_size: 32}
  evaluator: {epochs: 1}
  diagnostics: {curvature_every_n_epochs: 1}
searches:
  darts: {strategy: {name: DARTS, arc_learning_rate: 0.01}}
  balenas: {strategy: {name: BaLeNAS, num_mc_samples: 1, arc_learning_rate: 0.01}}
  darts-2nd: {strategy: {name: NoStrategy}}
  gumbel-darts: {strategy: {name: NoStrategy}}
proxy_networks: {channels: 2, cells_per_stage: 1, image_size: 8, batch_size: 8}
"""
COMMAND = ("reproduce", "table1", "--scale", "scale.yml", "--seeds", "3", "--output", "found", "--table")


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The folder of a finished reproduction; not to be changed."""
    folder = tmp_path_factory.mktemp("reproduced")
    (folder / "scale.yml").write_text(SCALE)
    methods = ("--methods", "darts", "balenas", "zero-cost")
    ended = real_balenas(*COMMAND, str(data_dir), *methods, "--jobs", "2", folder=folder)
    assert ended.code == 0, ended.errors
    (folder / "output.txt").write_text(ended.output)
    return folder


def test_the_table_is_printed_and_written(reproduced: Path) -> None:
    text = (reproduced / "found" / "table1.md").read_text()
    assert text in (reproduced / "output.txt").read_text()
    document = json.loads((reproduced / "found" / "table1.json").read_text())
    rows = {row["title"]: row["seeds"] for row in document["rows"]}
    assert set(rows["DARTS 1st"]) == {"3"}
    assert all(30 < value < 95 for value in rows["BaLeNAS-TF (100)"]["3"].values() if value)
    assert rows["Zero-cost NAS (1,000)"]["3"]["cifar10"] > 85  # of 1,000 random networks, SynFlow takes a large one


def test_an_argmax_row_is_what_the_search_found(reproduced: Path) -> None:
    run = reproduced / "found" / "searches" / "balenas" / "seed-3"
    first = json.loads((run / "architectures.json").read_text())[0]
    document = json.loads((reproduced / "found" / "table1.json").read_text())
    row = next(row for row in document["rows"] if row["title"] == "BaLeNAS 1st")
    known = first.get("ground_truth")
    if known is not None:  # the search's own process had the table too
        assert row["seeds"]["3"]["cifar10"] == pytest.approx(known["values"]["cifar10"]["test_accuracy"])
    assert json.loads((run / "manifest.json").read_text())["seed"] == 3


def test_it_goes_on_only_when_asked_and_searches_nothing_twice(reproduced: Path, data_dir: Path) -> None:
    refused = balenas(*COMMAND, str(data_dir), folder=reproduced)
    assert refused.code == 2
    assert "add --resume" in refused.errors
    manifest = reproduced / "found" / "searches" / "darts" / "seed-3" / "manifest.json"
    before, table = manifest.read_bytes(), (reproduced / "found" / "table1.csv").read_text()
    again = balenas(*COMMAND, str(data_dir), "--methods", "darts", "--resume", "--name", "again", folder=reproduced)
    assert again.code == 0, again.errors
    assert manifest.read_bytes() == before
    assert (reproduced / "found" / "table1.csv").read_text() == table
    assert set((reproduced / "found" / "again.csv").read_text().splitlines()) < set(table.splitlines())


@pytest.mark.parametrize("name", ["", "elsewhere/table1", ".."])
def test_a_name_of_files_that_is_none_is_refused(reproduced: Path, data_dir: Path, name: str) -> None:
    ended = balenas(*COMMAND, str(data_dir), "--resume", "--name", name, folder=reproduced)
    assert ended.code == 2
    assert f"--name expects a name for the files, e.g. table1-again, got {name!r}" in ended.errors


def test_a_failed_search_is_named_and_the_rest_is_reported(reproduced: Path, data_dir: Path) -> None:
    ended = balenas(*COMMAND, str(data_dir), "--methods", "darts", "darts-2nd", "--resume", folder=reproduced)
    assert ended.code == 2
    assert "search darts-2nd seed 3 failed and said: strategy 'NoStrategy' is unknown" in ended.errors
    assert "Traceback" not in ended.errors
    document = json.loads((reproduced / "found" / "table1.json").read_text())
    rows = {row["title"]: row["seeds"] for row in document["rows"]}
    assert rows["DARTS 2nd"] == {}
    assert set(rows["DARTS 1st"]) == {"3"}


def manifests(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "found" / "searches").rglob("manifest.json")}


def test_a_figure_takes_the_searches_of_the_table(reproduced: Path, data_dir: Path) -> None:
    before = manifests(reproduced)
    words = ["fig3" if word == "table1" else word for word in COMMAND]
    ended = balenas(*words, str(data_dir), "--resume", folder=reproduced)
    assert ended.code == 0, ended.errors
    assert manifests(reproduced) == before
    files = {kind: reproduced / "found" / f"fig3.{kind}" for kind in ("md", "csv", "json", "svg", "png")}
    assert files["md"].read_text() in ended.output
    assert all(str(path.relative_to(reproduced)) in ended.output for path in files.values())
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in files["svg"].read_bytes()
    record = json.loads((reproduced / "found/searches/darts/seed-3/diagnostics.jsonl").read_text().splitlines()[1])
    row, seed, epoch, value = files["csv"].read_text().splitlines()[1].split(",")
    assert (row, seed, epoch) == ("DARTS 1st", "3", "0")
    assert float(value) == pytest.approx(record["eigenvalue"], rel=1e-5)
    about = json.loads(files["json"].read_text())["about"]
    assert about["command"].endswith("--resume")
    assert (about["scale"], about["seeds"]) == ("scale", "3")


def test_a_figure_shows_what_was_not_run(reproduced: Path, data_dir: Path) -> None:
    words = ["fig1-nb201" if word == "table1" else word for word in COMMAND]
    ended = balenas(*words, str(data_dir), "--resume", folder=reproduced)
    assert ended.code == 2
    assert "search gumbel-darts seed 3 failed and said: strategy 'NoStrategy' is unknown" in ended.errors
    assert "Traceback" not in ended.errors
    text = (reproduced / "found" / "fig1-nb201.md").read_text()
    assert "| GumbelDARTS | 0 | not run |" in text
    document = json.loads((reproduced / "found" / "fig1-nb201.json").read_text())
    errors = {row["title"]: row["mean"]["values"] for row in document["rows"]}
    table = json.loads((reproduced / "found" / "table1.json").read_text())
    accuracies = next(row["seeds"]["3"] for row in table["rows"] if row["title"] == "DARTS 1st")
    assert errors["DARTS 1st"] == [pytest.approx(100 - accuracies["cifar10"])]  # its only epoch is its last
    assert (reproduced / "found" / "fig1-nb201.png").exists()


def test_a_figure_that_cannot_be_drawn_is_refused_first(reproduced: Path) -> None:
    (reproduced / "flat.yml").write_text(SCALE.replace("curvature_every_n_epochs: 1", "curvature: off"))
    ended = balenas("reproduce", "fig3", "--scale", "flat.yml", "--output", "flat", folder=reproduced)
    assert ended.code == 2
    assert "set diagnostics.curvature to auto" in ended.errors
    assert not (reproduced / "flat").exists()
    ended = balenas("reproduce", "fig2", "--scale", "scale.yml", "--output", "flat", folder=reproduced)
    assert ended.code == 2
    assert "has no search 'darts-long'; did you mean 'darts" in ended.errors


def test_another_config_is_refused(reproduced: Path, data_dir: Path) -> None:
    other = reproduced / "other.yml"
    other.write_text(SCALE.replace("epochs: 1", "epochs: 2"))
    words = [word if word != "scale.yml" else "other.yml" for word in COMMAND]
    ended = balenas(*words, str(data_dir), "--methods", "balenas", "--resume", folder=reproduced)
    assert ended.code == 2
    assert "evaluator.epochs was 1, is 2" in ended.errors


def test_no_table_no_search(tmp_path: Path) -> None:
    (tmp_path / "scale.yml").write_text(SCALE)
    ended = balenas(*COMMAND, str(tmp_path), folder=tmp_path)
    assert ended.code == 2
    assert "nb201_full.parquet" in ended.errors
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_kill_stops_the_searches_too(folder: Path, data_dir: Path, number: signal.Signals) -> None:
    (folder / "scale.yml").write_text(SCALE.replace("epochs: 1}", "epochs: 500}"))
    command = [Path(sys.executable).with_name("balenas"), *COMMAND, data_dir, "--methods", "balenas"]
    with (folder / "printed.txt").open("wb") as printed:
        process = subprocess.Popen(list(map(str, command)), cwd=folder, stdout=printed, stderr=printed)
    run = folder / "found" / "searches" / "balenas" / "seed-3"
    try:
        wait_for(lambda: (run / "history.csv").exists())
        (search,) = children_of(process.pid)
        process.send_signal(number)
        assert process.wait(60) == (130 if number == signal.SIGTERM else -number)
    finally:
        process.kill()
    if number == signal.SIGKILL:
        wait_for(lambda: not is_running(search))
    else:
        assert not is_running(search)
        assert "with --resume goes on where it was" in (folder / "printed.txt").read_text()
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
