"""Read the official benchmark file as a stream, and turn it into the compact table.

`NAS-Bench-201-v1_1-096897.pth` has 4.7 GB and needs 28 GB once it is loaded. It is one pickle of one architecture after
another; each is reduced to its row as soon as it is complete and then forgotten (see `plain_pickle`), so memory stays
at what a few architectures need. Three wrappings of that pickle are known by their first bytes:

    PyTorch's zip archive (since 1.6)          the pickle is the member `data.pkl`
    PyTorch's older format (the official one)  three small pickles precede it: magic number, version, machine
    nothing                                    a plain pickle
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from balenas_plugin.benchmarks.pickles.plain_pickle import PlainReader
from balenas_plugin.benchmarks.table import write_table
from balenas_plugin.benchmarks.trials import Row, is_architecture, reduce_architecture
from balenas_plugin.errors import DataError, FileFormatError
from balenas_plugin.files import expanded, open_regular

LEGACY_TORCH_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
ZIP_START = b"PK\x03\x04"

Progress = Callable[[int], object]


@dataclass(frozen=True)
class ImportReport:
    """What an import wrote: the table, how many architectures it holds, and the SHA-256 of its content."""

    table: Path
    num_architectures: int
    sha256: str


def import_official(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, progress: Progress | None = None
) -> ImportReport:
    """Turn the official file `path` into the compact table `out`; takes minutes, and memory for a few architectures.

    Args:
        path: `NAS-Bench-201-v1_?-*.pth`.
        out: the parquet file to write; a previous one is replaced only by a whole one.
        progress: called with the number of architectures that are done, after each.

    Raises:
        DataError: there is no such file.
        FileFormatError: the file is damaged, has another layout, or holds more than plain data.
        StorageError: the table could not be written.
    """
    source, table = expanded(path), expanded(out)
    rows = read_official(source, progress=progress)
    checksum = write_table(table, rows, source=source.name)
    return ImportReport(table=table, num_architectures=len(rows), sha256=checksum)


def read_official(path: Path, *, progress: Progress | None = None) -> list[Row]:
    """Return the row of every architecture in the official file `path` (see `import_official`)."""
    keep: frozenset[int] = frozenset()
    while True:
        rows, missing = _read_once(path, keep, progress)
        if not missing:
            break
        if missing & keep:
            raise FileFormatError(f"{path} is damaged: it refers to objects that it does not hold. Download it again.")
        keep |= missing  # never seen so far: a name that is referred to again after many architectures
    if not rows:
        raise FileFormatError(
            f"{path} holds no architectures in the layout of NAS-Bench-201. Expected NAS-Bench-201-v1_?-*.pth."
        )
    return rows


def _read_once(path: Path, keep: frozenset[int], progress: Progress | None) -> tuple[list[Row], set[int]]:
    rows: list[Row] = []

    def consume(dictionary: dict[Any, Any]) -> bool:
        if not is_architecture(dictionary):
            return False
        if not reader.missing:  # else the values may be wrong: this reading only finds out what else is missing
            rows.append(reduce_architecture(dictionary, source=str(path)))
            if progress is not None:
                progress(len(rows))
        return True

    with _open_pickle(path) as (stream, num_leading_pickles):
        reader = PlainReader(stream, name=str(path), consume=consume, keep=keep)
        for _ in range(num_leading_pickles + 1):
            reader.load()
    return rows, reader.missing


@contextlib.contextmanager
def _open_pickle(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open the stream that holds the benchmark's pickle, and say how many small pickles precede it there."""
    with contextlib.ExitStack() as stack:
        try:
            file: BinaryIO = stack.enter_context(open_regular(path))
            start = file.read(len(LEGACY_TORCH_START))
            file.seek(0)
            if start.startswith(ZIP_START):
                file = _open_member(path, stack.enter_context(zipfile.ZipFile(file)))
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        except (zipfile.BadZipFile, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: encrypted, for one
            raise FileFormatError(f"{path} is damaged: {error}. Download it again.") from error
        yield stack.enter_context(file), 3 if start == LEGACY_TORCH_START else 0


def _open_member(path: Path, archive: zipfile.ZipFile) -> BinaryIO:
    members = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
    if len(members) != 1:
        raise FileFormatError(f"{path} is a zip archive, but not one that PyTorch wrote.")
    return cast(BinaryIO, archive.open(members[0]))
