"""Start `balenas ui`, `nnictl` and scripts as a user does, and see what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import requests

PATIENCE = 240
"""Seconds, for a machine that does other things as well."""


def until(look: Callable[[], Any], *, what: str, patience: float = PATIENCE) -> Any:
    """Return the first true answer."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        answer = look()
        if answer:
            return answer
        time.sleep(0.2)
    raise TimeoutError(f"{what} has not happened in {patience} seconds")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def environment(home: Path) -> dict[str, str]:
    """Return this process's environment with another home, where NNI keeps its list of experiments."""
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "HOME": str(home), "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


class Program:
    """A program that runs, in a folder that is also its home.

    Args:
        command: its words.
        folder: to work in; what it prints goes to files there.
    """

    started: ClassVar[list[Program]] = []
    """All of them, for the clean-up after a test that failed."""

    def __init__(self, command: list[str], *, folder: Path) -> None:
        self.started.append(self)
        self.files = [folder / f".{name}.{time.monotonic_ns()}" for name in ("out", "err")]
        self.out, self.err = (path.open("w") for path in self.files)
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=self.out, stderr=self.err, start_new_session=True
        )

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.files[0].read_text()

    @property
    def errors(self) -> str:
        """What it has written to standard error."""
        return self.files[1].read_text()

    def ended(self) -> int:
        """Wait for its end; return its exit code (negative: the signal that killed it)."""
        return self.process.wait(PATIENCE)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal, as Ctrl-C does, and wait for the end."""
        self.process.send_signal(number)
        return self.ended()


def balenas_ui(*arguments: object, folder: Path) -> Program:
    """Start `balenas ui`."""
    return Program([sys.executable, "-m", "balenas_plugin.cli", "ui", *map(str, arguments)], folder=folder)


class Experiment:
    """An experiment, through its manager's own interface.

    Args:
        address: of its page.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.api = f"{address.removesuffix('/oview')}/api/v1/nni"

    @classmethod
    def of(cls, program: Program) -> Experiment:
        """Wait until `balenas ui` prints the address."""

        def look() -> str | None:
            words = [word for word in program.output.split() if word.startswith("http://")]
            assert words or program.process.poll() is None, program.errors
            return words[0] if words else None

        return cls(until(look, what="the address"))

    def ask(self, what: str) -> Any:
        """Return the manager's answer."""
        return requests.get(f"{self.api}/{what}", timeout=60).json()

    def trials(self) -> list[dict[str, Any]]:
        """Return the trials in their order, with `parameters` and, where it has one, `final` as plain values."""
        jobs = sorted(self.ask("trial-jobs"), key=lambda job: job["sequenceId"])
        for job in jobs:
            job["parameters"] = json.loads(job["hyperParameters"][0])["parameters"]
            if job.get("finalMetricData"):
                job["final"] = json.loads(json.loads(job["finalMetricData"][-1]["data"]))
        return jobs

    def curve(self, trial: str) -> list[dict[str, Any]]:
        """Return a trial's intermediate results in order of their numbers; a later one replaces an earlier."""
        reported = [m for m in self.ask(f"metric-data/{trial}") if m["type"] == "PERIODICAL"]
        points = {
            m["sequence"]: json.loads(json.loads(m["data"])) for m in sorted(reported, key=lambda m: m["timestamp"])
        }
        return [points[number] for number in sorted(points)]

    @property
    def identifier(self) -> str:
        """NNI's name of it."""
        return str(self.ask("experiment")["id"])


def processes_of(identifier: str) -> Iterator[psutil.Process]:
    """Yield the running processes of an experiment: its manager and its trials."""
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if identifier in process.cmdline() or process.environ().get("NNI_EXP_ID") == identifier:
                yield process
        except psutil.Error:
            continue


def manager_of(identifier: str) -> psutil.Process:
    """Return the manager of an experiment."""
    return next(p for p in processes_of(identifier) if "--experiment-id" in p.cmdline())
