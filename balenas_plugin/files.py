"""Write files so that a crash or a full disk never leaves half a file behind."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from balenas_plugin.errors import StorageError

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def refused_writes_told(path: Path) -> Iterator[None]:
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    """Write `text` as UTF-8 to `path`, whole or not at all (see `write_atomically`)."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))
