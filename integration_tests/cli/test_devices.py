"""Searches and trainings on two devices (CPU processes) from the command line: one folder, one history, one message."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from balenas_plugin.cli import main

from .commands import balenas
from .comparison import assert_same_run

TWO = ("--set", "evaluator.devices=2", "--set", "evaluator.accelerator=cpu", "--set", "data.batch_size=16")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on two devices."""
    from .conftest import write_config

    folder = tmp_path_factory.mktemp("two")
    write_config(folder)
    ended = balenas("search", "tiny.yml", *TWO, folder=folder, HOME=str(folder))
    assert ended.code == 0, ended.errors
    (folder / "output.txt").write_text(ended.output)
    return folder / "runs" / "tiny"


def test_two_devices_write_one_run(whole: Path) -> None:
    assert [path.name for path in whole.parent.iterdir()] == ["tiny"]
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["device"] == "2 processes, the first on cpu"
    assert len(manifest["sessions"]) == 1
    with (whole / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    assert len(json.loads((whole / "architectures.json").read_text())) == 3
    assert len(list((whole / "nni").iterdir())) == 1
    assert (whole.parents[1] / "output.txt").read_text().count("Everything about this run") == 1


def interrupted(folder: Path, *arguments: str, checkpoint: str) -> tuple[int, str]:
    """Return how a command ends, and what it says, when Ctrl-C is pressed after its first checkpoint."""
    command = [str(Path(sys.executable).with_name("balenas")), *arguments]
    environment = {**os.environ, "HOME": str(folder)}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while not (folder / checkpoint).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to both processes
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_control_c_and_resume_end_as_if_nothing_had_been(whole: Path, folder: Path) -> None:
    run = folder / "runs" / "tiny"
    for _ in range(5):  # a search that is faster than the signal is searched again
        code, errors = interrupted(folder, "search", "tiny.yml", *TWO, checkpoint="runs/tiny/checkpoints/last.ckpt")
        assert "Traceback" not in errors
        if code != 0:
            break
        shutil.rmtree(run)
    assert code == 130
    assert errors.count("balenas: stopped. To continue") == 1
    resumed = balenas("search", "tiny.yml", *TWO, "--resume", folder=folder, HOME=str(folder))
    assert resumed.code == 0, resumed.errors
    assert_same_run(run, whole)


def test_a_training_goes_on_as_if_it_had_not_been_interrupted(folder: Path) -> None:
    cell = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|skip_connect~2|"
    two = ("--devices", "2", "--accelerator", "cpu", "--set", "batch_size=8", "--set", "data.limit=64")
    command = ("train", cell, *two, "--epochs", "12", "--set", "network.channels=2", "--output")
    assert balenas(*command, "whole", folder=folder, HOME=str(folder)).code == 0
    for _ in range(5):  # as above
        code, errors = interrupted(folder, *command, "stopped", checkpoint="stopped/seed_0/last.ckpt")
        assert "Traceback" not in errors
        if code != 0:
            break
        shutil.rmtree(folder / "stopped")
    assert code == 130
    assert errors.count("balenas: stopped. To continue") == 1
    resumed = balenas(*command, "stopped", "--resume", folder=folder, HOME=str(folder))
    assert resumed.code == 0, resumed.errors
    assert resumed.output.count("test accuracy") == 1
    for file in ("weights.safetensors", "metrics.csv"):
        assert (folder / "stopped/seed_0" / file).read_bytes() == (folder / "whole/seed_0" / file).read_bytes()


@pytest.mark.parametrize(("rank", "says"), [("0", "balenas: stopped. To continue"), ("1", "balenas: stopped.\n")])
def test_the_first_process_of_a_training_says_how_to_continue(rank, says, monkeypatch, capsys):
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("balenas_plugin.training.train", pressed)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert main(["train", "a genotype", "--devices", "2"]) == 130
    assert capsys.readouterr().err.startswith(says)


def test_a_loss_that_is_not_finite_is_reported_once(folder: Path) -> None:
    lr = "evaluator.optimizer.lr=1e30"
    ended = balenas("search", "tiny.yml", *TWO, "--set", lr, folder=folder, HOME=str(folder))
    assert ended.code == 2
    assert ended.errors.count("balenas: ") == 1
    assert "became" in ended.errors
    assert "Traceback" not in ended.errors
