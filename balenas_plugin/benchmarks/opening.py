"""Find a benchmark file and open it with the backend that it needs."""

from __future__ import annotations

import os
from pathlib import Path

from balenas_plugin.benchmarks.column_benchmark import ColumnBenchmark
from balenas_plugin.benchmarks.mistaken_files import require_benchmark_kind
from balenas_plugin.benchmarks.nats_folder import META_FILE, NatsFolderBenchmark
from balenas_plugin.benchmarks.nni_database import SQLITE_START, read_nni_database
from balenas_plugin.benchmarks.official_file import BZIP2_START, PICKLE_START, ZIP_START, read_official
from balenas_plugin.benchmarks.table import TABLE_FILE, benchmark_from_rows, read_table
from balenas_plugin.errors import DataError, FileFormatError, OptionError, nearest
from balenas_plugin.files import expanded, open_regular

DATA_VARIABLE = "BALENAS_DATA"

_PARQUET_START = b"PAR1"


def _stream_official(path: Path) -> ColumnBenchmark:
    return benchmark_from_rows(read_official(path), name=path.name)


BACKENDS = {
    "table": read_table,
    "official": _stream_official,
    "nats": NatsFolderBenchmark,
    "nni": read_nni_database,
}


def find_table(path: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the compact table at `path` (the file or its folder), or else in the folder that BALENAS_DATA names.

    Returns:
        The file, or None if no `path` is given and BALENAS_DATA is not set or its folder has no table.

    Raises:
        DataError: `path` is given and there is no table.
    """
    given = path if path is not None else os.environ.get(DATA_VARIABLE)
    if not given:
        return None
    place = expanded(given)
    table = place / TABLE_FILE if place.is_dir() else place
    if table.is_file() and (path is not None or place.is_dir()):
        return table
    if path is not None:
        raise DataError(f"there is no table {table}. Make one with `balenas benchmark import FILE`.")
    return None


def open_benchmark(path: str | os.PathLike[str] | None = None, *, backend: str | None = None) -> ColumnBenchmark:
    """Return NAS-Bench-201's ground truth from whatever is at `path`.

    Args:
        path: the compact table or the folder that holds it; the official `.pth` (streamed, which takes minutes: import
            it once instead); NATS-Bench's folder `NATS-tss-*-simple`; or NNI's `nasbench201.db`. None looks for the
            table in the folder that BALENAS_DATA names.
        backend: one of `BACKENDS`; None recognises it by the first bytes.

    Raises:
        DataError: nothing is there.
        OptionError: there is no such backend.
        FileFormatError: the file is damaged or of no known kind.
    """
    if backend is not None and backend not in BACKENDS:
        raise OptionError(
            f"there is no benchmark backend {backend!r}; choose one of {', '.join(BACKENDS)}"
            + nearest(backend, BACKENDS)
        )
    place = expanded(path) if path is not None else find_table()
    if place is None:
        raise DataError(
            f"no NAS-Bench-201 data found. Give a path, or set {DATA_VARIABLE} to the folder that holds {TABLE_FILE}. "
            "`balenas benchmark import FILE` makes that table from NAS-Bench-201-v1_1-096897.pth."
        )
    if not place.is_dir() and not place.is_file():
        raise DataError(f"{place} is no regular file." if place.exists() else f"there is no file or folder {place}.")
    if place.is_dir() and not (place / META_FILE).exists() and backend in (None, "table"):
        place = find_table(place) or place
    if not place.is_dir():
        require_benchmark_kind(place)
    return BACKENDS[backend or _guess(place)](place)


def _guess(place: Path) -> str:
    """Return the backend for `place`, by what it is and not by what it is called."""
    if place.is_dir():
        return "nats"
    try:
        with open_regular(place) as file:
            start = file.read(len(SQLITE_START))
    except OSError as error:
        raise DataError(f"cannot read {place}: {error.strerror}") from error
    if start.startswith(_PARQUET_START):
        return "table"
    if start == SQLITE_START:
        return "nni"
    if start.startswith((ZIP_START, BZIP2_START, PICKLE_START)):
        return "official"
    raise FileFormatError(
        f"{place} is no NAS-Bench-201 data of a known kind: neither the parquet table, nor the official .pth, nor a "
        "folder of NATS-Bench, nor NNI's sqlite database."
    )
