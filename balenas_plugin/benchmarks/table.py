"""Read and write the compact parquet table of NAS-Bench-201: the one that ships, and what an import makes.

One row per architecture: `index` (NAS-Bench-201's own), `arch_str`, `n_seeds`, and one floating-point column for each
name of `measures.COLUMNS` (of which `REQUIRED` must be there). NaN is a number that is not known. `write_table` puts
the SHA-256 of the content into the file's metadata, and reading verifies it.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from balenas_plugin.benchmarks.measures import ACCURACY_COLUMNS, COLUMNS
from balenas_plugin.benchmarks.table_benchmark import TableBenchmark, canonical
from balenas_plugin.benchmarks.trials import Row
from balenas_plugin.errors import DataError, FileFormatError, SpaceError
from balenas_plugin.files import write_atomically

TABLE_FILE = "nb201_full.parquet"

REQUIRED = ("c10_val", "c10_test", "c100_val", "c100_test", "in16_val", "in16_test")

_CHECKSUM_KEY, _SOURCE_KEY = b"balenas.sha256", b"balenas.source"
_OPERATION = "(?:none|skip_connect|nor_conv_1x1|nor_conv_3x3|avg_pool_3x3)"
_CANONICAL = re.compile(  # recognises in 1 us what takes 10 us to parse
    r"\|{0}~0\|\+\|{0}~0\|{0}~1\|\+\|{0}~0\|{0}~1\|{0}~2\|".format(_OPERATION)  # noqa: UP032
)


def benchmark_from_rows(rows: Sequence[Row], *, name: str) -> TableBenchmark:
    """Return the benchmark of `rows`, which come from `name`, in memory.

    Raises:
        FileFormatError: an architecture or a number occurs twice, or there is none at all.
    """
    ordered = _ordered(rows, source=name)
    return TableBenchmark(
        name=name,
        architectures=[row.architecture for row in ordered],
        indices=np.array([row.index for row in ordered], dtype=np.int32),
        num_seeds=np.array([row.num_seeds for row in ordered], dtype=np.int8),
        columns=_columns(ordered),
    )


def read_table(path: Path) -> TableBenchmark:
    """Return the benchmark in a parquet table; the last few tables are cached until their files change.

    Raises:
        DataError: there is no such file.
        FileFormatError: the file is not parquet, has a wrong schema, or differs from its checksum.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read the table {path}: {error.strerror}") from error
    return _read(path.resolve(), status.st_mtime_ns, status.st_size)


def write_table(path: Path, rows: Sequence[Row], *, source: str) -> str:
    """Write `rows` in the order of their numbers to the table `path`, whole or not at all, and return its SHA-256.

    Raises:
        FileFormatError: an architecture or a number occurs twice, or there is none at all.
        StorageError: the table could not be written.
    """
    ordered = _ordered(rows, source=source)
    columns = {
        name: values for name, values in _columns(ordered).items() if name in REQUIRED or not np.isnan(values).all()
    }
    table = pa.table(
        {
            "index": np.array([row.index for row in ordered], dtype=np.int32),
            "arch_str": [row.architecture for row in ordered],
            "n_seeds": np.array([row.num_seeds for row in ordered], dtype=np.int8),
            **columns,
        }
    )
    checksum = _content_checksum(table)
    table = table.replace_schema_metadata({_CHECKSUM_KEY: checksum, _SOURCE_KEY: source})
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))
    return checksum


def _ordered(rows: Sequence[Row], *, source: str) -> list[Row]:
    if not rows:
        raise FileFormatError(f"{source} holds no architecture; it is not a NAS-Bench-201 file.")
    for attribute in ("architecture", "index"):
        twice = [value for value, count in Counter(getattr(row, attribute) for row in rows).items() if count > 1]
        if twice:
            raise FileFormatError(f"{source} holds {attribute} {twice[0]} more than once.")
    return sorted(rows, key=lambda row: row.index)


def _columns(rows: Sequence[Row]) -> dict[str, npt.NDArray[np.float64]]:
    matrix = np.stack([row.values for row in rows], axis=1)
    return dict(zip(COLUMNS, matrix, strict=True))


@functools.lru_cache(maxsize=4)
def _read(path: Path, _mtime_ns: int, _size: int) -> TableBenchmark:
    try:
        with pq.ParquetFile(path) as file:  # `pq.read_table` imports pyarrow.dataset, which takes a second
            table = file.read()
        table.validate(full=True)  # text that is not UTF-8, for one
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(f"{path} is not a readable parquet file: {error}") from error
    _check_schema(table, path)
    metadata = table.schema.metadata or {}
    checksum = "no checksum"
    if _CHECKSUM_KEY in metadata:
        if metadata[_CHECKSUM_KEY] != _content_checksum(table).encode():
            raise FileFormatError(f"{path} differs from its checksum: it is damaged or was edited. Import it again.")
        checksum = "verified"
    indices = _numbers(table["index"])
    order = np.argsort(indices)  # the first of equals is the same whatever the order of the file
    columns = {name: _numbers(table[name])[order] for name in COLUMNS if name in table.column_names}
    _check_values(columns, path)
    architectures = _architectures(table["arch_str"].to_pylist(), path)
    return TableBenchmark(
        name=path.name,
        architectures=[architectures[place] for place in order],
        indices=indices[order],
        num_seeds=_numbers(table["n_seeds"])[order] if "n_seeds" in table.column_names else None,
        columns=columns,
        checksum=checksum,
    )


def _content_checksum(table: pa.Table) -> str:
    """Return the SHA-256 of names, types and values, whatever the compression and the order of the columns.

    A column of another kind than `write_table` writes counts by its name alone: it is not of the table.
    """
    digest = hashlib.sha256()
    for name in sorted(table.column_names):
        column = table[name]
        text, values = _is_text(column.type) and not column.null_count, b""
        if text:
            values = "\n".join(column.to_pylist()).encode()
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            values = _numbers(column).tobytes()
        digest.update(f"{name} {'text' if text else column.type} {len(values)}\n".encode())
        digest.update(values)
    return digest.hexdigest()


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return a column of numbers, with NaN in its gaps; `to_numpy` and `fill_null` would import pandas (0.7 s)."""
    array = column.combine_chunks()
    return np.array(array.to_pylist(), dtype=np.float64) if array.null_count else np.from_dlpack(array)


def _check_schema(table: pa.Table, path: Path) -> None:
    missing = [name for name in ("index", "arch_str", *REQUIRED) if name not in table.column_names]
    if missing:
        raise FileFormatError(
            f"{path} is not a table of NAS-Bench-201: it has no column {', '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}. Make one with `balenas benchmark import`."
        )
    if table.num_rows == 0:
        raise FileFormatError(f"{path} has no rows.")
    for field in table.schema:
        kind = field.type
        right = True
        if field.name in ("index", "n_seeds"):
            right = pa.types.is_integer(kind) and table[field.name].null_count == 0
        elif field.name == "arch_str":
            right = _is_text(kind) and table["arch_str"].null_count == 0
        elif field.name in COLUMNS:
            right = pa.types.is_floating(kind)
        if not right:
            raise FileFormatError(f"{path} is not a table of NAS-Bench-201: column {field.name} holds {kind} or gaps.")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_values(columns: Mapping[str, npt.NDArray[np.floating[Any]]], path: Path) -> None:
    for name in ACCURACY_COLUMNS:
        values = columns.get(name)
        if values is not None and not (np.isnan(values) | ((values >= 0) & (values <= 100))).all():
            raise FileFormatError(f"{path}: column {name} has values outside 0 to 100 percent.")


def _architectures(strings: list[str], path: Path) -> list[str]:
    try:
        architectures = [text if _CANONICAL.fullmatch(text) else canonical(text) for text in strings]
    except SpaceError as error:
        raise FileFormatError(f"{path}: {error}") from error
    if len(set(architectures)) < len(architectures):
        raise FileFormatError(f"{path} lists an architecture twice.")
    return architectures
