"""Files are written whole or not at all, whatever happens, and only files are read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from balenas_plugin import files
from balenas_plugin.errors import OptionError, SearchFailedError, StorageError, input_problem, quoted
from balenas_plugin.files import expanded, open_regular, read_text, replaced_together, write_text_atomically


def number_of_a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_writes_have_left_is_removed(tmp_path: Path) -> None:
    dead = number_of_a_dead_process()
    for name in (f".a.json.{dead}.tmp", f".a.json.{os.getppid()}.tmp", f".b.json.{dead}.tmp", ".a.json.notes.tmp"):
        (tmp_path / name).write_text("half")
    write_text_atomically(tmp_path / "a.json", os.fsdecode(b"whole \xe9"))  # as a name that is not in UTF-8
    assert read_text(tmp_path / "a.json") == r"whole \udce9"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.json", f".a.json.{os.getppid()}.tmp", f".b.json.{dead}.tmp", ".a.json.notes.tmp"}


@pytest.mark.parametrize("path", [".", "..", "folder"])
def test_a_folder_is_no_file_to_write(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        write_text_atomically(Path(path), "text")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "endless", tmp_path):
        with pytest.raises(OSError):
            read_text(path)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "pipe")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(OSError, match="larger than"):
        read_text(tmp_path / "large", most=1000)


def test_the_home_of_nobody() -> None:
    with pytest.raises(OptionError, match="no such home directory"):
        expanded("~nobody-of-this-name/data")


def is_old(name: str) -> bool:
    return name.startswith("old")


def test_files_replace_earlier_ones_together(tmp_path: Path) -> None:
    for name in ("old1", "old2", "mine"):
        (tmp_path / name).write_text("before")
    (tmp_path / f".files.{number_of_a_dead_process()}.tmp").mkdir()
    with replaced_together(tmp_path, is_old) as staging:
        for name in ("old2", "new"):
            (staging / name).write_text("after")
        assert (tmp_path / "old1").exists()
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"old2": "after", "new": "after", "mine": "before"}


def test_a_failure_leaves_the_earlier_files(tmp_path: Path) -> None:
    (tmp_path / "old1").write_text("before")
    with pytest.raises(StorageError, match="cannot write") as reported, replaced_together(tmp_path, is_old) as staging:
        write_text_atomically(staging / "new", "after") or write_text_atomically(staging, "is a folder")
    assert f"cannot write {tmp_path}:" in str(reported.value)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old1": "before"}
    with pytest.raises(ZeroDivisionError), replaced_together(tmp_path / "other", is_old):
        raise ZeroDivisionError
    assert not (tmp_path / "other").exists()


def test_only_what_the_input_has_caused_is_reported_in_a_line() -> None:
    with pytest.raises(OSError) as error:
        Path("x" * 300).stat()
    assert "File name too long" in str(input_problem(error.value))
    assert "not enough memory" in str(input_problem(MemoryError()))
    assert input_problem(OSError("of a program")) is None
    assert input_problem(ValueError("a mistake")) is None
    assert len(str(input_problem(OptionError("x" * 10_000)))) < 3000
    assert (
        input_problem(OptionError("no a\nb, \x1b[2Jc"))
        == "no a\N{REPLACEMENT CHARACTER}b, \N{REPLACEMENT CHARACTER}[2Jc"
    )
    assert input_problem(SearchFailedError("one\nanother")) == "one\nanother"
    assert len(quoted({"key": ["x" * 10_000] * 10_000})) < 600


@pytest.mark.parametrize("place", ["a file", "/proc/x", "/dev/null"])
def test_what_can_be_no_folder_is_reported(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a file").write_text("mine")
    folder = replaced_together(Path(place), lambda name: True)
    with pytest.raises(StorageError, match=f"cannot write {place}.*Choose another --output"), folder:
        pytest.fail("there is no such folder")
    assert Path("a file").read_text() == "mine"


def test_the_files_of_two_exports_are_not_mixed(tmp_path: Path) -> None:
    def put() -> None:
        with replaced_together(tmp_path, lambda name: not name.startswith(".")) as folder:
            (folder / "a").write_text("new")

    other = threading.Thread(target=put)
    with files._alone_in(tmp_path):
        (tmp_path / "b").write_text("half of an export")
        other.start()
        other.join(0.3)
        assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"b"}
    other.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
