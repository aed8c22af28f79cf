"""Ctrl-C, and the polite kill of batch systems: a message how to go on, no traceback, nothing lost."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path

from .commands import Ended, Stop, balenas, real_balenas
from .comparison import assert_same_run
from .conftest import STOPPING


def resume_command(ended: Ended) -> list[str]:
    """Return the arguments of the command that the message gives."""
    (message,) = [line for line in ended.errors.splitlines() if line.startswith("balenas: ")]
    assert message.startswith("balenas: stopped.")
    command = shlex.split(message.partition("was: ")[2])
    assert command[:2] == ["balenas", "search"]
    assert command[-1] == "--resume"
    return command[1:]


def test_control_c_in_the_installed_command(whole_of_stopping: Path, folder: Path) -> None:
    environment = {"STOP_AT": "9", "STOP_WITH": str(int(signal.SIGINT))}
    ended = real_balenas("search", "tiny.yml", "--set", STOPPING, folder=folder, **environment)
    assert ended.code == 130
    assert ended.output == ""
    assert "Traceback" not in ended.errors
    run = folder / "runs" / "tiny"
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
    resumed = balenas(*resume_command(ended), folder=folder)
    assert resumed.code == 0, resumed.errors
    assert_same_run(run, whole_of_stopping)


def test_interrupted_anywhere(finished: Path, folder: Path) -> None:
    command = ["search", "tiny.yml"]
    for point, number in (
        ("batch end", signal.SIGINT),
        ("validation end", signal.SIGINT),
        ("checkpoint in place", signal.SIGTERM),
    ):
        ended = balenas(*command, folder=folder, stop=Stop(point, signal=number))
        assert ended.code == 130
        assert ended.output == ""
        assert "Traceback" not in ended.errors
        command = resume_command(ended)
    resumed = balenas(*command, folder=folder)
    assert resumed.code == 0, resumed.errors
    assert_same_run(folder / "runs" / "tiny", finished)
