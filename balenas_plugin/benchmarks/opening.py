"""Find NAS-Bench-201's table, the one that ships with the space where there is no other, and open it."""

from __future__ import annotations

import os
from pathlib import Path

from balenas_plugin.benchmarks.official_file import read_official
from balenas_plugin.benchmarks.table import TABLE_FILE, benchmark_from_rows, read_table
from balenas_plugin.benchmarks.table_benchmark import TableBenchmark
from balenas_plugin.errors import DataError
from balenas_plugin.files import SEARCH_SPACES, expanded, open_regular

DATA_VARIABLE = "BALENAS_DATA"

SHIPPED = SEARCH_SPACES / "nasbench201" / "nasbench201.parquet"
"""Averages over seeds; `nasbench201.md` beside it says where they come from."""

_PARQUET_START = b"PAR1"


def find_table(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the file at `path` (or in that folder), else that in the folder that BALENAS_DATA names, else `SHIPPED`.

    Raises:
        DataError: `path` is given and there is no table.
    """
    given = path if path is not None else os.environ.get(DATA_VARIABLE)
    if not given:
        return SHIPPED
    place = expanded(given)
    table = place / TABLE_FILE if place.is_dir() else place
    if table.is_file() and (path is not None or place.is_dir()):
        return table
    if path is not None:
        raise DataError(f"there is no table {table}. Make one with `balenas benchmark import FILE`.")
    return SHIPPED


def open_benchmark(path: str | os.PathLike[str] | None = None) -> TableBenchmark:
    """Return NAS-Bench-201's ground truth.

    Args:
        path: the compact table or the folder that holds it, or the official `.pth` (streamed, which takes minutes:
            import it once instead). None is what `find_table` finds, without any file the table that ships.

    Raises:
        DataError: nothing is there.
        FileFormatError: the file is damaged or of another kind.
    """
    place = find_table(path)
    try:
        with open_regular(place) as file:
            parquet = file.read(len(_PARQUET_START)) == _PARQUET_START
    except OSError as error:
        raise DataError(f"cannot read {place}: {error.strerror}") from error
    return read_table(place) if parquet else benchmark_from_rows(read_official(place), name=place.name)
