"""What people have in the place of a benchmark file after a download that went wrong, and what to do about each."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balenas_plugin.errors import DataError, FileFormatError

_TAR_MARK, _TAR_PLACE = b"ustar", 257
_START = 512
"""Bytes at the start of a file that show what it is: a tar's first block."""

_COMPRESSED: dict[bytes, tuple[str, Callable[..., Any], str]] = {
    b"\x1f\x8b": ("gzip", gzip.open, "gunzip"),
    b"BZh": ("bzip2", bz2.open, "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", lzma.open, "unxz"),
}
_ARCHIVES = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "rar", b"\x28\xb5\x2f\xfd": "Zstandard"}
_POINTERS = (b"version https://git-lfs", b"/annex/", b"../.git/annex/", b".git/annex/")
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<script")


def require_benchmark_kind(path: Path) -> None:
    """Raise if `path` is something that a benchmark file is often mistaken for; the message names it and the cure.

    Raises:
        DataError: it cannot be read, or is no regular file.
        FileFormatError: it is empty, a web page, a pointer of Git LFS, an archive, or another such thing.
    """
    if not path.is_file():
        raise DataError(f"cannot read {path}: {'it is no regular file' if path.exists() else 'there is no such file'}.")
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    found = _mistake(path, start)
    if found is not None:
        what, cure = found
        raise FileFormatError(f"{path} is not a benchmark file, but {what}. {cure}")


def _mistake(path: Path, start: bytes) -> tuple[str, str] | None:
    """Return what a file that begins with `start` is, and the cure; None for what a reader may try."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    again = "Download it again"
    if not start:
        return "empty", f"{again}: the download has failed, or the disk was full."
    if not start.strip(b"\0"):
        return "filled with zeros", f"{again}: the download was broken off."
    if text.startswith(_PAGES):
        return "a web page (HTML or XML)", (
            f"{again} with a browser: the address is that of a page, as Google Drive's are, or asks to log in."
        )
    if text.startswith(_POINTERS):
        tool = "git lfs" if text.startswith(_POINTERS[0]) else "git annex"
        verb = "pull" if tool == "git lfs" else "get"
        return f"a pointer of {tool.title().replace('Lfs', 'LFS')} to the file", (
            f"Fetch the file itself: in its repository, `{tool} {verb}`."
        )
    if _is_tar(start):
        return "a tar archive", _unpack(f"tar -xf {path.name}")
    if start.startswith(b"PK"):
        return _mistaken_zip(path)
    for mark, (kind, opened, command) in _COMPRESSED.items():
        if start.startswith(mark):
            content = b""
            with contextlib.suppress(OSError, EOFError, lzma.LZMAError, ValueError), opened(path) as file:
                content = file.read(_START)
            if _is_tar(content):
                return f"a tar archive, compressed with {kind}", _unpack(f"tar -xf {path.name}")
            if kind != "bzip2":  # which NATS-Bench's own files are
                return f"compressed with {kind}", _unpack(f"{command} {path.name}")
    for mark, kind in _ARCHIVES.items():
        if start.startswith(mark):
            return f"an archive, or compressed ({kind})", "Unpack it, and give the file or folder that was in it."
    return None


def _unpack(command: str) -> str:
    return f"Unpack it, `{command}`, and give the file or folder that was in it."


def _is_tar(start: bytes) -> bool:
    return start[_TAR_PLACE:].startswith(_TAR_MARK)


def _mistaken_zip(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError):
        return "a zip archive that is cut short or damaged", "Download it again."
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return None  # PyTorch's own
    held = repr(names[0][:80]) if names else "nothing"
    return f"a zip archive of {held}, not one that PyTorch wrote", _unpack(f"unzip {path.name}")
