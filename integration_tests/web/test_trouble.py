"""What keeps a page from being served is one clear message, exit code 2, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from nni.tools.nnictl.config_utils import Experiments

from balenas_plugin.adapters.nni.run.processes import end_experiment
from balenas_plugin.adapters.nni.web import manager, ui
from balenas_plugin.cli import main
from balenas_plugin.config import SearchConfig
from balenas_plugin.doctor.checks import Surroundings
from balenas_plugin.errors import FileFormatError, MissingDependencyError, OptionError, StorageError
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.run_folder import folder as run_folder
from balenas_plugin.run_folder.location import new_run_folder

from .programs import free_port


@pytest.fixture
def refused(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs `balenas ui` in this process, where it must be refused; it returns the message."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Experiments.__init__, "__defaults__", (str(folder / "experiments"),))

    def run(*arguments: object) -> str:
        assert main(["ui", *map(str, arguments)]) == 2
        assert not (folder / "runs/tiny").exists()
        return capsys.readouterr().err

    return run


def test_a_port_in_use(refused: Callable[..., str]) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        errors = refused("tiny.yml", "--port", port)
    assert errors.startswith(f"balenas: port {port} cannot be used: Address already in use.")
    assert "is free now" in errors


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


def test_an_unknown_experiment_or_strategy(refused: Callable[..., str]) -> None:
    assert refused("--view", "nosuchid").startswith("balenas: NNI knows no experiment 'nosuchid'")
    assert refused("tiny.yml", "--set", "strategy=nni.DARTS").startswith(
        "balenas: balenas ui searches with strategies of this package, and nni.DARTS is one of NNI's"
    )


class Page:
    """In the place of an experiment with NNI's manager: notes what it is asked for, and what is there by then."""

    def __init__(self, folder: Path, identifier: str | None) -> None:
        self.folder, self.id, self.strategy = folder, identifier or "new", SimpleNamespace(trained={})
        self.asked: list[str] = []

    def run(self, port: int) -> None:
        self.asked.append("run")
        self.private = (self.folder / "nni").stat().st_mode & 0o777 == 0o700
        self.noted = json.loads((self.folder / ui.NOTE).read_text())
        self.left = sorted(path.name for path in self.folder.iterdir())

    def resume(self, port: int) -> None:
        self.run(port)
        self.asked.append("resume")

    def stop(self) -> None:
        self.asked.append("stop")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Page]:
    """The pages that are opened, in the place of real ones."""
    pages: list[Page] = []

    def page(config: SearchConfig, folder: RunFolder, service: Any, concurrency: int, identifier: str | None) -> Page:
        pages.append(Page(folder.path, identifier))
        return pages[-1]

    monkeypatch.setattr(ui, "_experiment", page)
    return pages


CONFIG = SearchConfig(name="tiny")


def open_page(folder: RunFolder, *, resume: bool = False) -> None:
    options: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "url_prefix": None, "concurrency": 1, "machines": None}
    ui.search_in_ui(CONFIG, folder, resume=resume, show=lambda: None, close=True, **options)


def test_the_page_of_a_run_that_replaces_another_is_as_private_as_any(tmp_path: Path, opened: list[Page]) -> None:
    for overwrite in (False, True):
        open_page(new_run_folder(CONFIG, tmp_path / "run", overwrite=overwrite))
        (tmp_path / "run" / "history.csv").write_text("epoch\n")
    for page in opened:
        assert page.asked == ["run", "stop"]
        assert page.private
        assert page.noted == {"experiment": "new", "machines": None}
        assert page.left == [".balenas-run", "config.yml", "experiment.json", "nni"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_whose_page_is_open_is_left_alone(
    overwrite: bool, tmp_path: Path, opened: list[Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "_LOCK_SECONDS", 0.2)
    folder = new_run_folder(CONFIG, tmp_path / "run", overwrite=False)
    with folder.kept():
        folder.start(CONFIG, resumed=False)
        second = RunFolder(folder.path, replaces=overwrite)
        with pytest.raises(OptionError, match="another process is searching in"):
            open_page(second, resume=not overwrite)
        assert folder.manifest.exists()
    assert opened == []


def profile_of(database: Path, identifier: str) -> None:
    database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table ExperimentProfile (id text)")
        connection.execute("insert into ExperimentProfile values (?)", (identifier,))


@pytest.mark.parametrize("known", ["", "elsewhere", "no database", "damaged", "no profile", "here"])
def test_what_nni_cannot_go_on_with_goes_on_in_a_new_experiment(
    known: str, tmp_path: Path, opened: list[Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.start(CONFIG, resumed=False)
    (folder.path / ui.NOTE).write_text('{"experiment": "abc"}')
    database = folder.path / "nni" / "abc" / "db" / "nni.sqlite"
    if known != "no database":
        profile_of(database, "other" if known == "no profile" else "abc")
    if known == "damaged":
        database.write_bytes(b"x" + database.read_bytes()[1:])
    place = tmp_path if known == "elsewhere" else folder.path
    list_of_nni = {"abc": {"logDir": str(place / "nni")}} if known else {}
    monkeypatch.setattr(ui, "Experiments", lambda: SimpleNamespace(get_all_experiments=lambda: list_of_nni))
    open_page(RunFolder(folder.path), resume=True)
    assert opened[0].asked == (["run", "resume", "stop"] if known == "here" else ["run", "stop"])
    assert opened[0].noted["experiment"] == ("abc" if known == "here" else "new")
    assert folder.read_manifest()["status"] == "running"


@pytest.mark.parametrize("note", ["", "[" * 20_000, "{}", "null"])
def test_a_damaged_note_of_the_experiment_is_reported(note: str, tmp_path: Path) -> None:
    (tmp_path / ui.NOTE).write_text(note)
    with pytest.raises(FileFormatError, match=r"cannot read .*experiment\.json.*remove that file"):
        open_page(RunFolder(tmp_path), resume=True)


def test_a_trial_that_outlived_its_manager_is_ended() -> None:
    environment = {**os.environ, "NNI_EXP_ID": "gone", "NNI_TRIAL_JOB_ID": "first"}
    orphan = subprocess.Popen(["sleep", "60"], env=environment)
    end_experiment("gone")
    assert not psutil.pid_exists(orphan.pid)
