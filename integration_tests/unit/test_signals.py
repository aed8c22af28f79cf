"""A signal that asks to stop does so wherever it comes, even where Python ignores what its handler raises."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable

import pytest

from balenas_plugin import cli
from balenas_plugin.signals import PARENT_VARIABLE, STOPPING, kept_interrupts, stopped_by_signals

PATIENCE = 5.0
"""Seconds that a signal which has been lost is waited for."""


class Node:
    """An object with a finalizer."""

    def __init__(self, last: Callable[[], None] = lambda: None) -> None:
        self.last = last

    def __del__(self) -> None:
        self.last()


def in_a_finalizer(number: int) -> None:
    Node(lambda: signal.raise_signal(number))


def in_a_weak_reference(number: int) -> None:
    node = Node()
    reference = weakref.ref(node, lambda _: signal.raise_signal(number))
    del node
    assert reference() is None


def in_a_collection(number: int) -> None:
    def callback(phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            signal.raise_signal(number)

    gc.callbacks.append(callback)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(callback)


def stopped(block: Callable[[], None]) -> bool:
    """Return whether a signal ends the block or the one long wait after it."""
    try:
        with stopped_by_signals():
            block()
            time.sleep(PATIENCE)
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("lose", [in_a_finalizer, in_a_weak_reference, in_a_collection])
def test_a_lost_signal_comes_again(lose: Callable[[int], None], number: int) -> None:
    assert stopped(lambda: lose(number))


def test_one_that_is_lost_at_the_very_end_comes_too() -> None:
    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        in_a_finalizer(signal.SIGTERM)


def test_it_comes_again_until_it_arrives() -> None:
    survived = []

    def long_finalizer() -> None:
        in_a_finalizer(signal.SIGINT)  # sent again, it meets this finalizer
        time.sleep(PATIENCE / 20)

    def block() -> None:
        Node(long_finalizer)
        survived.append(True)

    assert stopped(block)
    assert survived


def test_a_second_signal_stops_what_the_first_has_begun() -> None:
    begun = []

    def block() -> None:
        try:
            in_a_finalizer(signal.SIGINT)
            time.sleep(PATIENCE)
        except KeyboardInterrupt:
            begun.append(True)
            in_a_finalizer(signal.SIGTERM)

    assert stopped(block)
    assert begun


def test_the_handlers_are_there_in_the_block_only_and_nohup_is_respected() -> None:
    before, report = {number: signal.getsignal(number) for number in STOPPING}, sys.unraisablehook
    with stopped_by_signals():
        assert len({signal.getsignal(number) for number in STOPPING}) == 1
    assert {number: signal.getsignal(number) for number in STOPPING} == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert sys.unraisablehook is report


def test_other_errors_are_reported_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: reported.append(lost.exc_type))
    with kept_interrupts():
        Node(lambda: 1 / 0)
    assert reported == [ZeroDivisionError]


def test_every_command_stops(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def long(_: object) -> int:
        in_a_finalizer(signal.SIGINT)
        time.sleep(PATIENCE)
        return 0

    monkeypatch.setattr(cli, "_doctor", long)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "balenas: stopped.\n"


def test_a_process_ends_when_its_parent_has_ended() -> None:
    script = "from balenas_plugin.signals import end_with_parent; import time; end_with_parent(); print(flush=True)"
    command = [sys.executable, "-c", f"{script}; time.sleep(60)"]
    environment = {**os.environ, PARENT_VARIABLE: "stdin"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert process.poll() is None
        process.stdin.close()  # as the system does when the parent is killed
        assert process.wait(30) == -signal.SIGTERM
