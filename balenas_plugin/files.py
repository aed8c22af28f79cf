"""Write files so that a crash or a full disk never leaves half a file behind; read only files, and only so much."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from balenas_plugin.errors import OptionError, StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # Windows has none

_PACKAGE = Path(__file__).resolve().parent
_TREE = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
CONFIGS, SEARCH_SPACES = _TREE / "configs", _TREE / "search_spaces"
"""This project's own folders: beside the package in a checkout, inside an installed one."""

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

MAX_TEXT = 64 * 2**20
"""Bytes of the largest text file that is read."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path that somebody gave, with ~ and ~user replaced.

    Raises:
        OptionError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise OptionError(f"the path {os.fspath(path)!r} starts with ~, but there is no such home directory") from error


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file to read it: a pipe would be waited for, and a device may never end.

    Raises:
        OSError: there is no such file, it may not be read, or it is something else.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return file


def read_text(path: Path, *, most: int = MAX_TEXT) -> str:
    """Return the text of a regular file in UTF-8.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than `most` bytes.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than the {most} bytes that such a file may have", os.fspath(path))
    return content.decode("utf-8")


@contextlib.contextmanager
def refused_writes_reported(path: Path) -> Iterator[None]:
    """Turn a disk's refusals in the block, from whatever library, into an error of ours.

    Args:
        path: the file or folder that the block writes to.

    Raises:
        StorageError: the disk is full or does not let us write.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError) or error.errno not in _REFUSED:
            raise
        raise StorageError(
            f"cannot write {path}: {error}. Free some disk space or check the permissions of the folder, then resume."
        ) from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` on a temporary file beside `path`, flush it to disk, then put it in the place of `path`.

    Raises:
        StorageError: the file could not be written (disk full, no permission). A previous `path` is still whole.
    """
    if not path.name or path.name == "..":
        raise StorageError(f"cannot write {path}: it is a folder. Give the name of a file.")
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        raise StorageError(
            f"cannot write {path}: {error}. The previous file, if there was one, is untouched. "
            "Free some disk space or check the permissions of the folder, then resume."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all (see `write_atomically`).

    What UTF-8 cannot hold, as the name of a file in another encoding, is written with backslashes.
    """
    write_atomically(path, lambda file: file.write(text.encode("utf-8", errors="backslashreplace")))


def append_text(path: Path, text: str) -> None:
    """Append lines to a file and flush them to disk; a kill may cut them short, so readers leave out what has no end.

    Raises:
        StorageError: the file could not be written.
    """
    with refused_writes_reported(path), path.open("ab") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replaced_together(folder: Path, is_earlier: Callable[[str], bool]) -> Iterator[Path]:
    """Yield an empty folder, whose files are put into `folder` when the block ends well; else nothing there changes.

    Args:
        folder: made if it is not there; other files in it stay.
        is_earlier: whether a file of this name in `folder` is of an earlier time, and goes when the new ones come.

    Raises:
        StorageError: the disk is full or does not let us write.
    """
    staging, made = _temporary(folder / "files"), not folder.exists()
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder / "files")
            staging.mkdir()
        except OSError as error:
            raise StorageError(f"cannot write {folder}: {error}. Choose another --output.") from error
        yield staging
        with refused_writes_reported(folder), _alone_in(folder):
            new = sorted(staging.iterdir())
            for path in new:
                path.replace(folder / path.name)
            for path in folder.iterdir():
                if is_earlier(path.name) and path.name not in {file.name for file in new}:
                    path.unlink()
    except StorageError as error:
        raise StorageError(str(error).replace(str(staging), str(folder))) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # where nothing has been written


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process changes the folder in such a block; the system ends it with the process."""
    descriptor = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if descriptor is not None:
            with contextlib.suppress(OSError):  # a file system without such locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def temporary_of(name: str) -> bool:
    """Return whether a file of this name is a temporary one of `write_atomically`, which a kill may leave."""
    return name.startswith(".") and name.endswith(".tmp")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files beside `path` of processes that were killed while they wrote it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        process = left.name.split(".")[-2]
        if process.isdecimal() and not _runs(int(process)):
            with contextlib.suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _runs(process: int) -> bool:
    """Return whether a process of this number runs; on a system that cannot say, it may."""
    if process == os.getpid() or os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True
