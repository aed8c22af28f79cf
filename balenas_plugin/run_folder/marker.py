"""The file that says that a folder is a run's: written before all others, and locked while a process searches there."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from balenas_plugin.errors import OptionError, StorageError
from balenas_plugin.files import read_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # Windows has none

MARKER = ".balenas-run"

_REPLACING = "replacing\n"
"""What the marker says while the run in the folder is deleted for another one."""


@dataclass(frozen=True)
class RunMarker:
    """The marker of one folder.

    Args:
        folder: of the run; it need not be there yet.
    """

    folder: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / MARKER

    @property
    def present(self) -> bool:
        """Whether a search has said that the folder is its own."""
        return self.path.is_file()

    @property
    def replacing(self) -> bool:
        """Whether a run is being deleted for another one, or was when its process was killed."""
        try:
            return read_text(self.path, most=len(_REPLACING)) == _REPLACING
        except (OSError, ValueError):
            return False

    def write(self, *, replacing: bool) -> None:
        """Write the file, in place: it may be locked.

        Raises:
            OSError: it cannot be written.
        """
        self.path.write_text(_REPLACING if replacing else "", encoding="utf-8")

    @contextlib.contextmanager
    def locked(self, patience: float, *, folder: bool = False) -> Iterator[None]:
        """Hold a lock during the block; the system lets go of it when the process ends, however it does.

        Args:
            patience: seconds to try for: processes that a killed search had forked hold its lock until they notice.
            folder: lock the folder itself, which says whose command it is. Where that is the command of a page, the
                search is a process of its own, which locks the file.

        Raises:
            OptionError: another process holds it.
            StorageError: the folder or the file cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = self._open_folder() if folder else self._open()
        except (OSError, RecursionError) as error:  # the latter of a folder inside a thousand others
            raise StorageError(f"cannot create the folder of the run: {error}. Choose another --output.") from error
        try:
            if descriptor is not None:
                self._lock(descriptor, patience)
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _open_folder(self) -> int | None:
        return None if fcntl is None else os.open(self.folder, os.O_RDONLY)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(self.path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(f"{self.path} is not a regular file")
        return descriptor

    def _lock(self, descriptor: int, patience: float) -> None:
        if fcntl is None:  # a system without such locks
            return None
        deadline = time.monotonic() + patience
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise OptionError(
                        f"another process is searching in {self.folder}: wait until it ends, stop it, or choose "
                        "another --output"
                    ) from error
                time.sleep(0.1)
            except OSError:  # a file system without such locks
                return None
