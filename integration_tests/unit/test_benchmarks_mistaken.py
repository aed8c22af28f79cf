"""What a download that went wrong leaves in the place of the benchmark file is named, with the cure."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from balenas_plugin.benchmarks import import_official, open_benchmark
from balenas_plugin.cli import main
from balenas_plugin.errors import DataError, FileFormatError


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("NATS-tss-v1_0-3ffb9-simple/meta.pickle.pbz2"))
    return stream.getvalue()


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, b"content")
    return stream.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4932853792\n"

MISTAKES = {
    "empty": (b"", "but empty", "Download it again"),
    "zeros": (bytes(4096), "filled with zeros", "Download it again"),
    "page": (b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Google Drive", "a web page", "with a browser"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "a web page", "Download it again"),
    "git lfs": (POINTER, "a pointer of Git LFS", "`git lfs pull`"),
    "git annex": (b"/annex/objects/MD5-s4932853792--abc\n", "a pointer of Git Annex", "`git annex get`"),
    "tar": (tar(), "a tar archive", "tar -xf file.pth"),
    "tar.gz": (gzip.compress(tar()), "a tar archive, compressed with gzip", "tar -xf file.pth"),
    "tar.bz2": (bz2.compress(tar()), "a tar archive, compressed with bzip2", "tar -xf file.pth"),
    "tar.xz": (lzma.compress(tar()), "a tar archive, compressed with xz", "tar -xf file.pth"),
    "gzip": (gzip.compress(pickle.dumps({})), "compressed with gzip", "gunzip"),
    "zip": (archive("NAS-Bench-201-v1_1-096897.pth"), "a zip archive of 'NAS-Bench-201-v1_1-096897.pth'", "unzip"),
    "cut zip": (archive("archive/data.pkl")[:40], "a zip archive that is cut short", "Download it again"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(90), "(7z)", "Unpack it"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_the_mistake_is_named_with_its_cure(case: str, tmp_path: Path) -> None:
    content, what, cure = MISTAKES[case]
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    for read in (open_benchmark, lambda file: import_official(file, tmp_path / "table.parquet")):
        with pytest.raises(FileFormatError) as reported:
            read(path)
        assert str(path) in str(reported.value)
        assert what in str(reported.value)
        assert cure in str(reported.value)
    assert not (tmp_path / "table.parquet").exists()


@pytest.mark.parametrize(
    "command", [("query", "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "--table"), ("benchmark", "import")]
)
def test_the_commands_say_so_in_one_line(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nb201_full.parquet"
    path.write_bytes(POINTER)
    assert main([*command, str(path)]) == 2
    assert "git lfs pull" in capsys.readouterr().err.strip().splitlines()[-1]


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (open_benchmark, lambda file: import_official(file, tmp_path / "table.parquet")):
        with pytest.raises(DataError, match="no regular file"):
            read(tmp_path / "pipe")
