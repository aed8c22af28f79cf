"""Ctrl-C, and the polite kill of batch systems: a message how to go on, no traceback, nothing lost."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path

import pytest

from .commands import Ended, Stop, balenas, real_balenas
from .comparison import assert_same_run


def resume_command(ended: Ended) -> list[str]:
    """Return the arguments of the command that the message gives."""
    (message,) = [line for line in ended.errors.splitlines() if line.startswith("balenas: ")]
    assert message.startswith("balenas: stopped.")
    command = shlex.split(message.partition("was: ")[2])
    assert command[:2] == ["balenas", "search"]
    assert command[-1] == "--resume"
    return command[1:]


def test_control_c_in_the_installed_command(folder: Path) -> None:
    space = "space={name: 'faulty_spaces:Stopping', stem_out_channels: 2, num_modules_per_stack: 1}"
    assert balenas("search", "tiny.yml", "--set", space, "--output", "whole", folder=folder).code == 0
    environment = {"STOP_AT": "9", "STOP_WITH": str(int(signal.SIGINT))}
    ended = real_balenas("search", "tiny.yml", "--set", space, folder=folder, **environment)
    assert ended.code == 130
    assert ended.output == ""
    assert "Traceback" not in ended.errors
    run = folder / "runs" / "tiny"
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
    resumed = balenas(*resume_command(ended), folder=folder)
    assert resumed.code == 0, resumed.errors
    assert_same_run(run, folder / "whole")


@pytest.mark.parametrize(
    ("point", "number"),
    [
        ("batch end", signal.SIGINT),
        ("validation end", signal.SIGINT),
        ("checkpoint in place", signal.SIGINT),
        ("batch end", signal.SIGTERM),
    ],
)
def test_interrupted_anywhere(point: str, number: signal.Signals, finished: Path, folder: Path) -> None:
    ended = balenas("search", "tiny.yml", folder=folder, stop=Stop(point, count=2, signal=number))
    assert ended.code == 130
    assert ended.output == ""
    assert "Traceback" not in ended.errors
    resumed = balenas(*resume_command(ended), folder=folder)
    assert resumed.code == 0, resumed.errors
    assert_same_run(folder / "runs" / "tiny", finished)
