"""Folders of runs: never two runs in one, and nothing deleted that is not a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from balenas_plugin.config import SearchConfig
from balenas_plugin.data import DataConfig
from balenas_plugin.errors import FileFormatError, OptionError, StorageError
from balenas_plugin.report.reading import read_run
from balenas_plugin.run_folder import folder as run_folder
from balenas_plugin.run_folder.location import new_run_folder, resumed_run_folder


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


def test_a_command_keeps_others_out_while_its_search_is_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "_LOCK_SECONDS", 0.2)
    folder, other = (new_run_folder(CONFIG, tmp_path / "run", overwrite=False) for _ in range(2))
    with folder.kept():
        with pytest.raises(OptionError, match="another process is searching in"), other.kept():
            pytest.fail("both commands work in it")
        other.release()
        assert folder.path.exists()
        with run_folder.RunFolder(folder.path).claimed():
            pass
    with other.kept():
        pass


def test_a_report_takes_what_is_added_to_the_architectures_of_a_finished_run(tmp_path: Path) -> None:
    folder = run_folder.RunFolder(tmp_path / "run")
    record = {"rank": 1, "choices": {}, "notation": {}}
    folder.start(CONFIG, resumed=False)
    with folder.recorded():
        folder.write_architectures([record])
    folder.write_architectures([{**record, "trained": {"accuracy": 0.5}}])
    assert read_run(folder.path).architectures[0]["trained"] == {"accuracy": 0.5}
    folder.architectures.write_text("[]")
    with pytest.raises(FileFormatError, match="is not what the search wrote"):
        folder.read_architectures()


@pytest.mark.parametrize(
    ("name", "read"),
    [("manifest.json", "read_manifest"), ("architectures.json", "read_architectures"), ("config.yml", "read_config")],
)
def test_a_file_nested_too_deeply_is_damaged(name: str, read: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("[" * 20_000)
    with pytest.raises(FileFormatError, match=f"cannot read .*{name}"):
        getattr(run_folder.RunFolder(tmp_path), read)()


@pytest.mark.parametrize("option", ["", "overwrite", "resume"])
def test_a_search_started_meanwhile_is_left_alone(option: str, tmp_path: Path) -> None:
    def choose() -> run_folder.RunFolder:
        if option == "resume":
            return resumed_run_folder(CONFIG, tmp_path / "run")
        return new_run_folder(CONFIG, tmp_path / "run", overwrite=option == "overwrite")

    if option:
        new_run_folder(CONFIG, tmp_path / "run", overwrite=False).start(CONFIG, resumed=False)
    first, second = choose(), choose()
    with first.claimed():
        first.start(CONFIG, resumed=option == "resume")
        with first.recorded():
            first.history.write_text("epoch\n")
    before = {path: path.read_bytes() for path in first.path.iterdir()}
    with pytest.raises(OptionError, match="another process has searched in"), second.claimed():
        pytest.fail("what the first has found would be replaced")
    assert {path: path.read_bytes() for path in first.path.iterdir()} == before


def killed_at_the_start(path: Path) -> None:
    with run_folder.RunFolder(path).claimed():
        (path / ".config.yml.1.tmp").write_text("na")


def killed_before_the_manifest(path: Path) -> None:
    run_folder.RunFolder(path).prepare(CONFIG, resumed=False)


def killed_while_it_replaced_a_run(path: Path) -> None:
    old = run_folder.RunFolder(path)
    old.start(CONFIG, resumed=False)
    old.checkpoints.mkdir()
    (old.checkpoints / "last.ckpt").write_text("of the old run")
    old.marker.write(replacing=True)
    old.config.unlink()


@pytest.mark.parametrize("option", ["", "overwrite", "resume"])
@pytest.mark.parametrize("kill", [killed_at_the_start, killed_before_the_manifest, killed_while_it_replaced_a_run])
def test_whatever_follows_a_kill_at_the_start_starts_the_search(
    kill: Callable[[Path], None], option: str, tmp_path: Path
) -> None:
    kill(tmp_path / "run")
    if option == "resume":
        folder = resumed_run_folder(CONFIG, tmp_path / "run")
    else:
        folder = new_run_folder(CONFIG, tmp_path / "run", overwrite=option == "overwrite")
    assert not folder.finished
    with folder.claimed():
        folder.start(CONFIG, resumed=False)
    assert not folder.checkpoints.exists()
    assert folder.read_manifest()["status"] == "running"
    assert folder.read_config() == CONFIG


def test_a_folder_with_a_config_of_the_user_is_not_a_run_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("name: mine\n")
    with pytest.raises(OptionError, match="exists and is not empty"):
        new_run_folder(CONFIG, tmp_path, overwrite=False)


def test_a_marker_that_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".balenas-run")
    with pytest.raises(StorageError, match="not a regular file"), run_folder.RunFolder(tmp_path).claimed():
        pytest.fail("a pipe cannot be locked")


def test_files_that_differ_from_what_was_written_are_named(tmp_path: Path) -> None:
    folder = run_folder.RunFolder(tmp_path / "run")
    folder.start(CONFIG, resumed=False)
    folder.history.write_text("epoch\n")
    folder.require_unchanged(folder.history)  # a running search still writes it
    with folder.recorded():
        pass
    folder.require_unchanged(folder.history)
    folder.history.write_text("epoch,\n")
    with pytest.raises(FileFormatError, match=r"history\.csv is not what the search wrote"):
        folder.require_unchanged(folder.history)
    folder.start(CONFIG, resumed=True)
    folder.require_unchanged(folder.history)


def test_the_run_of_a_checkpoint_is_known_by_its_config() -> None:
    recorded = run_folder.run_identity(SearchConfig(name="mine", data=DataConfig(num_workers=2, root="elsewhere")))
    assert run_folder.other_run(CONFIG, recorded) == ""
    assert run_folder.other_run(SearchConfig(name="mine", seed=1), recorded) == "seed was 0, is 1"
    space = {"name": "NasBench201", "stem_out_channels": 4}
    assert "space.stem_out_channels was None, is 4" in run_folder.other_run(
        SearchConfig(name="mine", space=space), recorded
    )
    assert run_folder.other_run(CONFIG, {"directory": "x"}) != ""
