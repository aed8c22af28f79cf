"""Signals that ask a command to stop, and the end of the process that started it."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PARENT_VARIABLE = "BALENAS_ENDS_WITH"
"""Environment variable: "stdin" says that standard input is a pipe whose other end closes when the parent ends."""

_PATIENCE = 15.0
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


STOPPING = tuple(number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGHUP"))
"""Ctrl-C, the polite kill, and a closed terminal where there is such a signal."""

_AGAIN = 0.01
"""Seconds after which a lost signal is sent again: the finalizer that lost it has ended by then, or loses it again."""


@contextmanager
def kept_interrupts() -> Iterator[None]:
    """Send Ctrl-C again as often as Python loses its KeyboardInterrupt in the block.

    What is raised in a finalizer, in a callback of a weak reference or of the garbage collector cannot be passed on:
    Python reports it to `sys.unraisablehook` and carries on.
    """
    report = sys.unraisablehook
    coming: list[Any] = []

    def repeat(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            coming.append(lost.exc_type)
            _thread.start_new_thread(send, ())  # `threading` would wait here for its start
        else:
            report(lost)

    def send() -> None:
        time.sleep(_AGAIN)
        main: Any = threading.main_thread().ident
        signal.pthread_kill(main, signal.SIGINT)  # ends a sleep and a request too; `_thread.interrupt_main` does not
        coming.pop()

    sys.unraisablehook = repeat
    try:
        yield
        while coming:
            time.sleep(_AGAIN)
    finally:
        sys.unraisablehook = report


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal stop the block as Ctrl-C does, wherever in it they come.

    Ctrl-C does so also where a script's `&` has had it ignored; a closed terminal does not under `nohup`.
    """

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        with kept_interrupts():
            for number, handler in before.items():
                if number.name != "SIGHUP" or handler is not signal.SIG_IGN:
                    signal.signal(number, interrupt)
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
