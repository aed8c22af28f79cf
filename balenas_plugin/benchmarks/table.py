"""Read and write the compact parquet table of NAS-Bench-201, the backend that everything else is turned into.

One row per architecture: `index` (NAS-Bench-201's own), `arch_str`, `n_seeds`, and one floating-point column for each
name of `measures.COLUMNS` (of which `REQUIRED` must be there). NaN is a number that is not known. `write_table` puts
the SHA-256 of the content into the file's metadata, and reading verifies it.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from balenas_plugin.benchmarks.benchmark import Benchmark, canonical
from balenas_plugin.benchmarks.measures import ACCURACY_COLUMNS, COLUMNS
from balenas_plugin.benchmarks.trials import Row
from balenas_plugin.errors import FileFormatError, SpaceError
from balenas_plugin.files import write_atomically

TABLE_FILE = "nb201_full.parquet"

REQUIRED = (
    *("c10_val", "c10_val_s0", "c10_val_s1", "c10_val_s2", "c10_test"),
    *("c100_val", "c100_test", "c100_valtest_s0", "c100_valtest_s1", "c100_valtest_s2"),
    *("in16_val", "in16_test", "in16_valtest_s0", "in16_valtest_s1", "in16_valtest_s2"),
    *("c10_val_e12", "c10_test_e12", "c100_val_e12", "c100_test_e12", "in16_val_e12", "in16_test_e12"),
    *("c10valid_train_time_s", "c100_train_time_s", "in16_train_time_s", "params_mb"),
)

_CHECKSUM_KEY, _SOURCE_KEY = b"balenas.sha256", b"balenas.source"
_OPERATION = "(?:none|skip_connect|nor_conv_[13]x\\1|avg_pool_3x3)".replace("[13]x\\1", "(?:1x1|3x3)")
_CANONICAL = re.compile(r"\|{0}~0\|\+\|{0}~0\|{0}~1\|\+\|{0}~0\|{0}~1\|{0}~2\|".format(_OPERATION))


class TableBenchmark(Benchmark):
    """Ground truth held in memory as columns; a query takes about a microsecond.

    Args:
        name: what the numbers come from.
        architectures: canonical strings, all different.
        indices: NAS-Bench-201's number of each, or None where it is not known.
        columns: column name -> one value per architecture.
        checksum: "verified", or "no checksum" for a table that another program wrote.
    """

    def __init__(
        self,
        *,
        name: str,
        architectures: Iterable[str],
        indices: npt.NDArray[np.integer[Any]] | None,
        columns: Mapping[str, npt.NDArray[np.floating[Any]]],
        checksum: str = "no checksum",
    ) -> None:
        self.checksum = checksum
        self._name = name
        self._positions = {architecture: position for position, architecture in enumerate(architectures)}
        self._indices = indices
        self._columns = {column: values for column, values in columns.items() if not np.isnan(values).all()}
        for values in self._columns.values():
            values.setflags(write=False)

    @property
    def name(self) -> str:
        """Return the name that was given."""
        return self._name

    @property
    def columns(self) -> Mapping[str, npt.NDArray[np.floating[Any]]]:
        """Return the columns that are not empty."""
        return self._columns

    @property
    def positions(self) -> Mapping[str, int]:
        """Return the row of every architecture."""
        return self._positions

    def value(self, architecture: str, column: str) -> float:
        """Return one number (see `Benchmark.value`)."""
        return float(self._columns[column][self._positions[architecture]])

    def index(self, architecture: str) -> int | None:
        """Return the `index` column (see `Benchmark.index`)."""
        return None if self._indices is None else int(self._indices[self._positions[architecture]])

    def all_values(self, column: str) -> npt.NDArray[np.floating[Any]]:
        """Return a column, read-only."""
        return self._columns[column]


def read_table(path: Path) -> TableBenchmark:
    """Return the benchmark in a parquet table; the last few tables are cached until their files change.

    Raises:
        FileFormatError: the file is not parquet, has a wrong schema, or differs from its checksum.
    """
    status = path.stat()
    return _read(path.resolve(), status.st_mtime_ns, status.st_size)


def write_table(path: Path, rows: Iterable[Row], *, source: str) -> str:
    """Write `rows` in the order of their numbers to the table `path`, whole or not at all, and return its SHA-256.

    Raises:
        FileFormatError: an architecture or a number occurs twice, or there is none at all.
        StorageError: the table could not be written.
    """
    ordered = sorted(rows, key=lambda row: row.index)
    architectures, indices = [row.architecture for row in ordered], [row.index for row in ordered]
    if not ordered or len(set(architectures)) < len(ordered) or len(set(indices)) < len(ordered):
        problem = "an architecture twice" if ordered else "no architecture"
        raise FileFormatError(f"{source} holds {problem}; it is not a complete NAS-Bench-201 file.")
    columns = {name: np.array([row.values[name] for row in ordered]) for name in COLUMNS}
    kept = {name: values for name, values in columns.items() if name in REQUIRED or not np.isnan(values).all()}
    table = pa.table(
        {
            "index": np.array(indices, dtype=np.int32),
            "arch_str": architectures,
            "n_seeds": np.array([row.num_seeds for row in ordered], dtype=np.int8),
            **kept,
        }
    )
    checksum = _content_checksum(table)
    table = table.replace_schema_metadata({_CHECKSUM_KEY: checksum, _SOURCE_KEY: source})
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))
    return checksum


@functools.lru_cache(maxsize=4)
def _read(path: Path, _mtime_ns: int, _size: int) -> TableBenchmark:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(f"{path} is not a readable parquet file: {error}") from error
    _check_schema(table, path)
    metadata = table.schema.metadata or {}
    checksum = "no checksum"
    if _CHECKSUM_KEY in metadata:
        if metadata[_CHECKSUM_KEY].decode() != _content_checksum(table):
            raise FileFormatError(f"{path} differs from its checksum: it is damaged or was edited. Import it again.")
        checksum = "verified"
    columns = {name: table[name].to_numpy() for name in COLUMNS if name in table.column_names}
    _check_values(columns, path)
    return TableBenchmark(
        name=path.name,
        architectures=_architectures(table["arch_str"].to_pylist(), path),
        indices=table["index"].to_numpy(),
        columns=columns,
        checksum=checksum,
    )


def _content_checksum(table: pa.Table) -> str:
    """Return the SHA-256 of names, types and values, whatever the compression and the order of the columns."""
    digest = hashlib.sha256()
    for name in sorted(table.column_names):
        column = table[name]
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        values = "\n".join(column.to_pylist()).encode() if text else column.to_numpy().tobytes()
        digest.update(f"{name} {'text' if text else column.type} {len(values)}\n".encode())
        digest.update(values)
    return digest.hexdigest()


def _check_schema(table: pa.Table, path: Path) -> None:
    missing = [name for name in ("index", "arch_str", *REQUIRED) if name not in table.column_names]
    if missing:
        raise FileFormatError(
            f"{path} is not a table of NAS-Bench-201: it has no column {', '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}. Make one with `balenas benchmark import`."
        )
    if table.num_rows == 0:
        raise FileFormatError(f"{path} has no rows.")
    is_type = {"index": pa.types.is_integer, "arch_str": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind)}
    for field in table.schema:
        expected = is_type.get(field.name, pa.types.is_floating if field.name in COLUMNS else None)
        if expected is not None and not expected(field.type):
            raise FileFormatError(f"{path}: column {field.name} holds {field.type}, which it must not.")
        if expected is not None and expected is not pa.types.is_floating and table[field.name].null_count:
            raise FileFormatError(f"{path}: column {field.name} has empty cells.")


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
