"""Signals that ask a command to stop, and the end of the process that started it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PARENT_VARIABLE = "BALENAS_ENDS_WITH"
"""Environment variable: "stdin" says that standard input is a pipe whose other end closes when the parent ends."""

_PATIENCE = 5.0
"""Seconds for a process to stop by itself."""


def end_with_parent() -> None:
    """Stop this process when its parent ends, however that ends, if the parent has asked for it (PARENT_VARIABLE)."""
    if os.environ.pop(PARENT_VARIABLE, None) == "stdin":
        threading.Thread(target=_end_with_pipe, args=(0,), daemon=True).start()


def _end_with_pipe(descriptor: int) -> None:
    while os.read(descriptor, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(128 + signal.SIGTERM)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM stop the block as Ctrl-C does, and Ctrl-C do so where a script's `&` has had it ignored."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
