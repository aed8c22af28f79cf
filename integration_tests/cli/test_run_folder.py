"""Folders of runs: never two runs in one, and nothing deleted that is not a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from balenas_plugin import run_folder
from balenas_plugin.config import SearchConfig
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.run_location import new_run_folder


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


CONFIG = SearchConfig(name="mine")


def test_runs_started_together_get_different_folders() -> None:
    folders = [new_run_folder(CONFIG, None, overwrite=False).path for _ in range(3)]
    assert folders == [Path("runs/mine"), Path("runs/mine-2"), Path("runs/mine-3")]


def test_a_folder_that_was_not_used_is_released() -> None:
    folder = new_run_folder(CONFIG, None, overwrite=False)
    folder.release()
    assert not folder.path.exists()
    folder = new_run_folder(CONFIG, None, overwrite=False)
    folder.start(CONFIG, resumed=False)
    folder.release()
    assert folder.manifest.exists()


def test_overwrite_needs_an_output() -> None:
    with pytest.raises(OptionError, match="--overwrite needs --output"):
        new_run_folder(CONFIG, None, overwrite=True)


@pytest.mark.parametrize("manifest", [None, "{}", '{"name": "a web page"}', "no JSON"])
def test_only_folders_of_runs_are_overwritten(manifest: str | None, tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.tex").write_text("years of work")
    if manifest is not None:
        (precious / "manifest.json").write_text(manifest)
    with pytest.raises(OptionError, match="not the folder of a run"):
        new_run_folder(CONFIG, precious, overwrite=True)
    assert (precious / "chapter1.tex").exists()


def test_a_run_is_overwritten_when_the_new_one_starts(tmp_path: Path) -> None:
    old = new_run_folder(CONFIG, tmp_path / "run", overwrite=False)
    old.start(CONFIG, resumed=False)
    old.history.write_text("epoch\n")
    new = new_run_folder(CONFIG, tmp_path / "run", overwrite=True)
    assert old.history.exists()
    new.start(CONFIG, resumed=False)
    assert not old.history.exists()


def test_the_manifest_says_how_a_run_ended(tmp_path: Path) -> None:
    folder = new_run_folder(CONFIG, tmp_path / "run", overwrite=False)
    folder.start(CONFIG, resumed=False)
    assert "ended" not in json.loads(folder.manifest.read_text())["sessions"][0]
    with pytest.raises(KeyboardInterrupt), folder.recorded():
        raise KeyboardInterrupt
    assert folder.read_manifest()["status"] == "interrupted"
    folder.start(CONFIG, resumed=True)
    with pytest.raises(ValueError, match="oops"), folder.recorded():
        raise ValueError("oops")
    assert folder.read_manifest()["status"] == "failed"
    assert folder.read_manifest()["error"] == "ValueError: oops"
    folder.start(CONFIG, resumed=True)
    with folder.recorded() as entries:
        entries["epochs"] = 2
    manifest = folder.read_manifest()
    assert (manifest["status"], manifest["epochs"], len(manifest["sessions"])) == ("finished", 2, 3)
    assert "error" not in manifest
    assert all(session["started"] <= session["ended"] for session in manifest["sessions"])


def test_a_folder_is_searched_in_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_LOCK_SECONDS", 0.2)
    folder = new_run_folder(CONFIG, tmp_path / "run", overwrite=False)
    with folder.claimed():
        folder.start(CONFIG, resumed=False)
        other = run_folder.RunFolder(folder.path, replaces=True)
        with pytest.raises(OptionError, match="another process is searching in"), other.claimed():
            pytest.fail("both search in it")
        assert folder.manifest.exists()
    with other.claimed():
        folder.history.write_text("epoch\n")
        other.start(CONFIG, resumed=False)
        assert not folder.history.exists()
        with pytest.raises(OptionError, match="another process"), folder.claimed():
            pytest.fail("replacing what is in the folder has let go of it")


@pytest.mark.parametrize(
    ("name", "read"),
    [("manifest.json", "read_manifest"), ("architectures.json", "read_architectures"), ("config.yml", "read_config")],
)
def test_a_file_nested_too_deeply_is_damaged(name: str, read: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("[" * 20_000)
    with pytest.raises(FileFormatError, match=f"cannot read .*{name}"):
        getattr(run_folder.RunFolder(tmp_path), read)()
