"""Run the units of a reproduction, searches and trainings: each a process and a folder of its own, resumable."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from balenas_plugin.errors import SearchFailedError
from balenas_plugin.reproduce.progress import Key, Progress, in_hours
from balenas_plugin.signals import PARENT_VARIABLE

_POLL_SECONDS = 1.0

_UNTELLING = re.compile(r"balenas: epoch \d+: |(search|train): ")
"""Alarms and progress, which are not why a unit failed."""


class Unit(ABC):
    """A piece of work that `balenas` does in a process of its own.

    Attributes:
        called: "search" or "training", for messages.
        plural: of that.
    """

    called: ClassVar[str]
    plural: ClassVar[str]

    @property
    @abstractmethod
    def path(self) -> Path:
        """Of its folder; its log and its settings lie beside it."""

    @property
    @abstractmethod
    def key(self) -> Key:
        """Its kind, of which all take about as long an epoch, and which it is of them."""

    @property
    @abstractmethod
    def epochs(self) -> int:
        """How many it takes."""

    @property
    @abstractmethod
    def history(self) -> Path:
        """File with a row for each epoch that is done."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether it has ended well."""

    @abstractmethod
    def require_same(self) -> None:
        """Raise if the folder was started with other settings.

        Raises:
            OptionError: it was.
        """

    @abstractmethod
    def command(self) -> list[Any]:
        """Write what the process needs; return the words after `balenas` by which it begins, or goes on."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Of its process, where that differs from that of this one."""
        return {}

    @property
    def name(self) -> str:
        """Kind and which, for messages."""
        return " ".join(self.key)

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.path.with_suffix(".log")

    @property
    def epochs_done(self) -> int:
        """Rows of its history."""
        try:
            return max(0, self.history.read_text(encoding="utf-8").count("\n") - 1)
        except OSError:
            return 0


@dataclass(frozen=True)
class Workload:
    """Units of one kind that an experiment needs.

    Args:
        called: the kind.
        count: of units, at the most.
        took: seconds of those that are finished.
    """

    called: str
    count: int
    took: Sequence[float]

    @property
    def seconds_left(self) -> float | None:
        """One after the other, by the mean of the finished ones; None where there is none yet."""
        left = max(0, self.count - len(self.took))
        return left * sum(self.took) / len(self.took) if self.took else None if left else 0.0


def in_words(workloads: Sequence[Workload], *, jobs: int) -> str:
    """Return how much there is to do, a line for each kind, and how long what is known of it takes."""
    lines, known = [], [each.seconds_left for each in workloads]
    for each, seconds in zip(workloads, known, strict=True):
        took = "time not known before one has finished" if seconds is None else f"{in_hours(seconds)} of one core left"
        done = "nothing left" if seconds == 0 else took
        lines.append(f"{each.called}: {each.count} at most, {min(len(each.took), each.count)} finished, {done}")
    total = sum(seconds for seconds in known if seconds)
    together = [f"about {in_hours(total / jobs)}"] if total else []
    together += ["what is not known yet"] if None in known else []
    return "\n".join([*lines, f"together, {jobs} at a time: {' and '.join(together) or 'nothing left'}"])


def run_units(units: Sequence[Unit], *, jobs: int) -> None:
    """Run what is not finished yet, `jobs` at a time; an interrupted unit goes on where it was.

    Raises:
        SearchFailedError: one or more failed; the others have ended.
        OptionError: a folder was started with other settings.
        KeyboardInterrupt: the user stopped; the units have stopped too and can be resumed.
    """
    for unit in units:
        unit.require_same()
    waiting = [unit for unit in units if not unit.finished]
    epochs = {unit.key: unit.epochs for unit in waiting}
    logged_before = {unit: unit.log.stat().st_size if unit.log.exists() else 0 for unit in waiting}
    running: dict[Unit, subprocess.Popen[bytes]] = {}
    failed: dict[Unit, int] = {}
    done = {unit.key: unit.epochs_done for unit in waiting}
    with Progress(epochs, done, jobs=jobs, called=units[0].plural if units else "") as progress:
        try:
            queue = list(waiting)
            while queue or running:
                while queue and len(running) < jobs:
                    unit = queue.pop(0)
                    running[unit] = _start(unit)
                    progress.started(unit.key)
                for unit, process in list(running.items()):
                    code = process.poll()
                    progress.reached(unit.key, unit.epochs_done)
                    if code is not None:
                        del running[unit]
                        progress.ended(unit.key, well=code == 0)
                        failed |= {unit: code} if code else {}
                if running:
                    time.sleep(_POLL_SECONDS)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    if failed:
        raise SearchFailedError("\n".join(_failure(u, logged_before[u], code) for u, code in failed.items()))


def _start(unit: Unit) -> subprocess.Popen[bytes]:
    """Start a unit in a process of its own, which leaves no memory or threads behind."""
    unit.path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "balenas_plugin.cli", *unit.command()]
    with unit.log.open("ab") as log:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,  # whose other end closes with this process, however that ends
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **unit.environment, PARENT_VARIABLE: "stdin"},
        )


def _failure(unit: Unit, logged_before: int, code: int = 1) -> str:
    """Return why a unit has failed, by what it said after the bytes that earlier attempts had logged.

    Args:
        unit: which.
        logged_before: bytes of its log that are of earlier attempts.
        code: how its process ended; negative: by a signal.
    """
    text = unit.log.read_bytes()[logged_before:].decode(errors="replace").replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not _UNTELLING.match(line)]
    said = ([*_errors(lines)] or lines or ["nothing"])[-1].strip().removeprefix("balenas: ")
    return f"{unit.called} {unit.name} failed and said: {said} ({_ended_by_signal(code)}all of it: {unit.log})"


def _errors(lines: Sequence[str]) -> Iterator[str]:
    """Yield the messages of the command, and the last lines of tracebacks."""
    in_traceback = False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            in_traceback = True
        elif line.startswith(("balenas: ", "Fatal Python error")) or (in_traceback and not line[0].isspace()):
            in_traceback = False
            yield line


def _ended_by_signal(code: int) -> str:
    number = -code if code < 0 else code - 128  # the latter in a shell
    try:
        name = signal.Signals(number).name
    except ValueError:  # an exit code of its own
        return ""
    hint = ", as a system does that is out of memory: try fewer --jobs" if name == "SIGKILL" else ""
    return f"it was ended by {name}{hint}; "
