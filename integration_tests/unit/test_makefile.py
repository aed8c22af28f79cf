"""`make` takes the newest Python that runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("running", "broken", "chosen"),
    [
        (("python3.13", "python3.12", "python3.11", "python3"), (), "python3.13"),
        (("python3.12", "python3.11"), ("python3.13",), "python3.12"),  # as a shim of pyenv whose version is off
        (("python3",), ("python3.13", "python3.12", "python3.11"), "python3"),
        ((), ("python3.13", "python3.12", "python3.11", "python3"), ""),
    ],
)
def test_the_newest_python_that_runs(running, broken, chosen, tmp_path: Path) -> None:
    for name in (*running, *broken):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {int(name in broken)}\n")
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    command = ["make", "--no-print-directory", "--eval", "show: ; @echo '$(PYTHON)'", "show"]
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert ended.stdout.strip() == chosen, ended.stderr
