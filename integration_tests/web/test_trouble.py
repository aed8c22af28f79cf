"""What keeps a page from being served is one clear message, exit code 2, and nothing left behind."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from functools import partial
from pathlib import Path

import psutil
import pytest

from balenas_plugin.adapters.nni.web import manager
from balenas_plugin.adapters.nni.web.processes import end_experiment
from balenas_plugin.doctor.checks import Surroundings
from balenas_plugin.errors import MissingDependencyError, OptionError, StorageError

from .programs import balenas_ui, free_port


def test_a_port_in_use(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        program = balenas_ui("tiny.yml", "--port", port, folder=folder)
        assert program.ended() == 2
    assert program.errors.startswith(f"balenas: port {port} cannot be used: Address already in use.")
    assert "is free now" in program.errors
    assert "Traceback" not in program.errors
    assert not (folder / "runs/tiny").exists()


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_cannot_be(port: int) -> None:
    with pytest.raises(OptionError, match="between 1 and 65535"):
        manager.free_port(port)


def test_any_free_port() -> None:
    assert manager.free_port(0) > 0
    port = free_port()
    assert manager.free_port(port) == port


def test_a_missing_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "Surroundings", partial(Surroundings, node_folder=tmp_path))
    with pytest.raises(MissingDependencyError, match=r"node is missing\. To mend it: pip install .*nni") as raised:
        manager.require_manager()
    assert str(tmp_path / "node") in str(raised.value)


def test_the_node_that_is_here() -> None:
    manager.require_manager()


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(manager, "NNI_HOME_DIR", str(tmp_path / "home"))
    manager.require_room(tmp_path / "run" / "nni")
    assert list((tmp_path / "run" / "nni").iterdir()) == []
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*--output DIR"):
        manager.require_room(tmp_path / "other" / "nni")
    assert not (tmp_path / "other" / "nni").exists()


def test_an_unknown_experiment_or_strategy(folder: Path) -> None:
    program = balenas_ui("--view", "nosuchid", folder=folder)
    other = balenas_ui("tiny.yml", "--set", "strategy=DARTS", folder=folder)
    assert program.ended() == other.ended() == 2
    assert program.errors.startswith("balenas: NNI knows no experiment 'nosuchid'")
    assert other.errors.startswith("balenas: balenas ui searches with BaLeNAS, got strategy DARTS")


def test_a_trial_that_outlived_its_manager_is_ended() -> None:
    environment = {**os.environ, "NNI_EXP_ID": "gone", "NNI_TRIAL_JOB_ID": "first"}
    orphan = subprocess.Popen(["sleep", "60"], env=environment)
    end_experiment("gone")
    assert not psutil.pid_exists(orphan.pid)
