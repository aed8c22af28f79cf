"""What a run of `balenas auto` has spent and found so far: kept in its folder, for a resume."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from balenas_plugin.auto.planning import in_words
from balenas_plugin.errors import FileFormatError, StorageError
from balenas_plugin.files import read_text, write_text_atomically

STATE = "state.json"

_BEAT = 5.0  # seconds between two notes of the time: so much is lost by a kill


class Session:
    """Stages of a run: which are done, what they found, and the seconds that each has taken.

    Args:
        output: folder of the run.
        budget: seconds in all.
        spent: seconds before it.

    Raises:
        FileFormatError: what an earlier session has written is damaged.
    """

    def __init__(self, output: Path, *, budget: float, spent: float = 0.0) -> None:
        self._path = output / STATE
        self._budget = budget
        self._lock = threading.Lock()
        self._stage: str | None = None
        self._state: dict[str, Any] = {"seconds": {"preparing": spent}, "results": {}}
        if self._path.exists():
            try:
                self._state = json.loads(read_text(self._path))
                sum(self._state["seconds"].values()) + len(self._state["results"])
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise FileFormatError(
                    f"cannot read {self._path}: {error!r}. Start again with --overwrite, or put it back."
                ) from error
        self._noted = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds of all sessions so far."""
        self._note()
        return float(sum(self._state["seconds"].values()))

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._budget - self.spent

    def seconds(self, *stages: str) -> float:
        """Return what stages have taken together."""
        self._note()
        return float(sum(self._state["seconds"].get(stage, 0.0) for stage in stages))

    def result(self, stage: str) -> Mapping[str, Any] | None:
        """Return what a stage has found, or None if it is not done."""
        found: Mapping[str, Any] | None = self._state["results"].get(stage)
        return found

    def save(self, stage: str, **result: Any) -> Mapping[str, Any]:
        """Note what a stage has found; return it."""
        self._note()
        with self._lock:
            self._state["results"][stage] = result
        self._write()
        return result

    @contextlib.contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Count the time of a block to a stage, and say that it begins."""
        tqdm.write(f"auto: {name:<10} {what}; {in_words(max(self.left, 0))} of the budget left", file=sys.stderr)
        self._note()
        self._stage = name
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(ended,), daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            self._note()
            self._stage = None
        self._write()

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(_BEAT):
            self._note()
            with contextlib.suppress(StorageError):  # what the stage itself cannot write is reported there
                self._write()

    def _note(self) -> None:
        with self._lock:
            now = time.monotonic()
            seconds, stage = self._state["seconds"], self._stage or "preparing"
            seconds[stage] = seconds.get(stage, 0.0) + now - self._noted
            self._noted = now

    def _write(self) -> None:
        with self._lock:  # the beat writes too, by the same temporary file
            write_text_atomically(self._path, json.dumps(self._state, indent=1) + "\n")
