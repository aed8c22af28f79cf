"""Run the searches of a reproduction: each a process and a folder of its own, several at a time, resumable."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balenas_plugin.config import SearchConfig
from balenas_plugin.errors import SearchFailedError
from balenas_plugin.files import write_text_atomically
from balenas_plugin.reproduce.progress import Progress
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.signals import PARENT_VARIABLE

_POLL_SECONDS = 1.0

_UNTELLING = re.compile(r"balenas: epoch \d+: |search: ")
"""Alarms and the progress of a search, which are not why it failed."""


@dataclass(frozen=True, eq=False)
class Search:
    """One search with one seed.

    Args:
        config: of the search.
        folder: of its run; its log lies beside it.
    """

    config: SearchConfig
    folder: RunFolder

    @property
    def name(self) -> str:
        """Search and seed, for messages."""
        return f"{self.config.name} seed {self.config.seed}"

    @property
    def key(self) -> tuple[str, int]:
        """Its kind and seed."""
        return self.config.name, self.config.seed

    @property
    def log(self) -> Path:
        """What the search prints."""
        return self.folder.path.with_suffix(".log")

    def costs(self) -> dict[str, float]:
        """Return what it took, by the names of `COSTS`; nothing where an older version, or a kill, left no record."""
        sessions = self.folder.read_manifest()["sessions"]
        if not all({"cpu_seconds", "peak_bytes"} <= session.keys() for session in sessions):
            return {}
        seconds = sum(session["cpu_seconds"] for session in sessions)
        return {"cpu_seconds": seconds, "peak_megabytes": max(session["peak_bytes"] for session in sessions) / 1e6}

    @property
    def epochs_done(self) -> int:
        """Rows of its history."""
        try:
            return max(0, self.folder.history.read_text(encoding="utf-8").count("\n") - 1)
        except OSError:
            return 0


def searches_of(output: Path, configs: Sequence[SearchConfig]) -> list[Search]:
    """Return the searches with their folders, `output`/searches/<name>/seed-<k>."""
    return [Search(config, RunFolder(output / "searches" / config.name / f"seed-{config.seed}")) for config in configs]


def run_searches(searches: Sequence[Search], *, jobs: int) -> None:
    """Run what is not finished yet, `jobs` at a time; an interrupted search goes on where it was.

    Raises:
        SearchFailedError: one or more failed; the others have ended.
        OptionError: a folder was started with another config.
        KeyboardInterrupt: the user stopped; the searches have stopped too and can be resumed.
    """
    waiting = []
    for search in searches:
        if search.folder.config.exists():
            search.folder.require_same_config(search.config)
        if not search.folder.finished:
            waiting.append(search)
    epochs = {search.key: search.config.evaluator.epochs for search in waiting}
    logged_before = {search: search.log.stat().st_size if search.log.exists() else 0 for search in waiting}
    running: dict[Search, subprocess.Popen[bytes]] = {}
    failed: dict[Search, int] = {}
    with Progress(epochs, {search.key: search.epochs_done for search in waiting}, jobs=jobs) as progress:
        try:
            queue = list(waiting)
            while queue or running:
                while queue and len(running) < jobs:
                    search = queue.pop(0)
                    running[search] = _start(search)
                    progress.started(search.key)
                for search, process in list(running.items()):
                    code = process.poll()
                    progress.reached(search.key, search.epochs_done)
                    if code is not None:
                        del running[search]
                        progress.ended(search.key, well=code == 0)
                        failed |= {search: code} if code else {}
                if running:
                    time.sleep(_POLL_SECONDS)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    if failed:
        raise SearchFailedError("\n".join(_failure(s, logged_before[s], code) for s, code in failed.items()))


def _start(search: Search) -> subprocess.Popen[bytes]:
    """Start a search in a process of its own, which leaves no memory or threads behind."""
    search.folder.path.parent.mkdir(parents=True, exist_ok=True)
    config = search.folder.path.with_suffix(".yml")
    write_text_atomically(config, search.config.to_yaml())
    command: list[Any] = [sys.executable, "-m", "balenas_plugin.cli", "search", config, "--output", search.folder.path]
    if search.folder.config.exists():
        command.append("--resume")
    with search.log.open("ab") as log:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,  # whose other end closes with this process, however that ends
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, PARENT_VARIABLE: "stdin"},
        )


def _failure(search: Search, logged_before: int, code: int = 1) -> str:
    """Return why a search has failed, by what it said after the bytes that earlier attempts had logged.

    Args:
        search: which.
        logged_before: bytes of its log that are of earlier attempts.
        code: how its process ended; negative: by a signal.
    """
    text = search.log.read_bytes()[logged_before:].decode(errors="replace").replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not _UNTELLING.match(line)]
    said = ([*_errors(lines)] or lines or ["nothing"])[-1].strip().removeprefix("balenas: ")
    return f"search {search.name} failed and said: {said} ({_ended_by_signal(code)}all of it: {search.log})"


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
