"""Start `balenas` as a user does, and stop it at a chosen point.

Importing torch and NNI takes most of a short search's time, so all but a few commands run in processes forked from a
server that has imported them already: real processes, that can really be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROCESS = Path(__file__).with_name("process.py")
_IMPORTED = [
    "balenas_plugin.cli",
    "balenas_plugin.auto.pipeline",
    "balenas_plugin.adapters.nni.run.config_run",
    "sklearn.datasets",
    "torchvision",
    "tqdm",
    "pytest",
]
_PATIENCE = 240  # seconds, for a machine that does other things as well

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(_IMPORTED)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: the signal that killed it), and what it printed."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True)
class Stop:
    """Where a process gets a signal, by default SIGKILL.

    Args:
        at: a point named in process.py.
        count: at its how-manieth passing.
        signal: its number.
    """

    at: str
    count: int = 1
    signal: int = signal.SIGKILL


def balenas(
    *arguments: object,
    folder: Path,
    stop: Stop | None = None,
    file_size: int | None = None,
    script: Path | None = None,
    **environment: str,
) -> Ended:
    """Run `balenas` (or `script`) with these arguments in `folder`, in a process forked from the server."""
    output, errors = folder / ".stdout", folder / ".stderr"
    request: dict[str, Any] = {
        "arguments": [str(argument) for argument in arguments],
        "script": None if script is None else str(script),
        "folder": str(folder),
        "output": str(output),
        "errors": str(errors),
        "environment": environment,
        "stop": None if stop is None else {"at": stop.at, "count": stop.count, "signal": int(stop.signal)},
        "file_size": file_size,
    }
    process = _server.Process(
        target=runpy.run_path, args=(str(_PROCESS),), kwargs={"init_globals": {"REQUEST": request}}
    )
    process.start()
    process.join(_PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"balenas {' '.join(request['arguments'])} has not ended: {errors.read_text()}")
    return Ended(process.exitcode, output.read_text(), errors.read_text())


def real_balenas(*arguments: object, folder: Path, **environment: str) -> Ended:
    """Run the installed `balenas` command with these arguments in `folder`, which is also its home directory."""
    command = [Path(sys.executable).with_name("balenas"), *map(str, arguments)]
    environment = {**os.environ, "HOME": str(folder), **environment}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_PATIENCE)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def refused(*arguments: object, folder: Path) -> str:
    """Run a command that must be refused; return its one message."""
    ended = balenas(*arguments, folder=folder, BALENAS_DATA="")
    assert ended.code == 2
    assert "Traceback" not in ended.errors
    message = ended.errors.strip().splitlines()[-1]
    assert message.startswith("balenas: ")
    return message
