"""Run the searches of a reproduction: each a process and a folder of its own, several at a time, resumable."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from balenas_plugin.config import SearchConfig
from balenas_plugin.errors import SearchFailedError
from balenas_plugin.files import write_text_atomically
from balenas_plugin.run_folder import RunFolder

_POLL_SECONDS = 1.0


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
    def log(self) -> Path:
        """What the search prints."""
        return self.folder.path.with_suffix(".log")

    @property
    def epochs_done(self) -> int:
        """Rows of its history."""
        try:
            return max(0, len(self.folder.history.read_text(encoding="utf-8").splitlines()) - 1)
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
    total = sum(search.config.evaluator.epochs for search in waiting)
    done_before = {search.name: search.epochs_done for search in waiting}
    logged_before = {search: search.log.stat().st_size if search.log.exists() else 0 for search in waiting}
    running: dict[Search, subprocess.Popen[bytes]] = {}
    failed: list[Search] = []
    with tqdm(total=total, unit="epoch", desc="searches", disable=not waiting) as bar:
        bar.update(sum(done_before.values()))
        try:
            queue = list(waiting)
            while queue or running:
                while queue and len(running) < jobs:
                    search = queue.pop(0)
                    running[search] = _start(search)
                for search, process in list(running.items()):
                    code = process.poll()
                    done = search.config.evaluator.epochs if code == 0 else search.epochs_done
                    bar.update(done - done_before[search.name])
                    done_before[search.name] = done
                    if code is not None:
                        del running[search]
                        failed += [search] if code else []
                bar.set_postfix_str(", ".join(search.name for search in running))
                if running:
                    time.sleep(_POLL_SECONDS)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    if failed:
        raise SearchFailedError("\n".join(_failure(search, logged_before[search]) for search in failed))


def _start(search: Search) -> subprocess.Popen[bytes]:
    """Start a search in a process of its own, which leaves no memory or threads behind."""
    search.folder.path.parent.mkdir(parents=True, exist_ok=True)
    config = search.folder.path.with_suffix(".yml")
    write_text_atomically(config, search.config.to_yaml())
    command: list[Any] = [sys.executable, "-m", "balenas_plugin.cli", "search", config, "--output", search.folder.path]
    if search.folder.config.exists():
        command.append("--resume")
    with search.log.open("ab") as log:
        return subprocess.Popen([str(word) for word in command], stdout=log, stderr=subprocess.STDOUT)


def _failure(search: Search, logged_before: int) -> str:
    """Return what the search said last, after the bytes that earlier attempts had logged."""
    text = search.log.read_bytes()[logged_before:].decode(errors="replace").replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("balenas: ")), lines[-1] if lines else "nothing")
    return f"search {search.name} failed and said: {said.removeprefix('balenas: ')} (all of it: {search.log})"
