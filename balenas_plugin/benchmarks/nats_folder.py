"""Ground truth from NATS-Bench's "simple" folder: one small file per architecture, read when asked for.

The topology part of NATS-Bench (`NATS-tss-v1_0-3ffb9-simple`) is NAS-Bench-201 with every architecture trained two or
three times: `meta.pickle.pbz2` lists the strings, and `000000.pickle.pbz2` ... hold the trials. They are
bzip2-compressed pickles and are read as plain data only, with or without the `nats_bench` package installed.

Source: Dong, Liu, Musial and Gabrys, NATS-Bench (2021).
"""

from __future__ import annotations

import bz2
from pathlib import Path
from typing import Any, BinaryIO, cast

from balenas_plugin.benchmarks.column_benchmark import canonical
from balenas_plugin.benchmarks.pickles.plain_pickle import PlainReader
from balenas_plugin.benchmarks.row_benchmark import RowBenchmark
from balenas_plugin.benchmarks.trials import Row, reduce_architecture
from balenas_plugin.errors import FileFormatError, SpaceError
from balenas_plugin.files import open_regular

_SUFFIX = ".pickle.pbz2"
META_FILE = f"meta{_SUFFIX}"


class NatsFolderBenchmark(RowBenchmark):
    """Ground truth from the folder `folder`; an architecture's first query takes some 40 ms, the next ones nothing.

    Raises:
        FileFormatError: the folder has no readable `meta.pickle.pbz2`, or describes another space.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        meta = _read(folder / META_FILE)
        names = meta.get("meta_archs") if isinstance(meta, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise FileFormatError(f"{folder / META_FILE} lists no architectures; download the folder again.")
        held = {path.name for path in folder.glob(f"*{_SUFFIX}")}
        try:
            positions = {canonical(text): index for index, text in enumerate(names) if _file_name(index) in held}
        except SpaceError as error:
            raise FileFormatError(
                f"{folder} is not NATS-Bench's topology space (NATS-tss-...-simple), the one that is NAS-Bench-201: "
                f"{error}"
            ) from error
        super().__init__(name=folder.name, positions=positions)

    def read_row(self, index: int) -> Row:
        """Read the file of architecture number `index`.

        Raises:
            FileFormatError: the file is damaged, or is of another architecture.
        """
        path = self._folder / _file_name(index)
        row = reduce_architecture(_read(path), source=str(path))
        if self.positions.get(row.architecture) != index:
            raise FileFormatError(f"{path} holds another architecture than {META_FILE} says: {row.architecture}.")
        return row


def _file_name(index: int) -> str:
    return f"{index:06d}{_SUFFIX}"


def _read(path: Path) -> dict[Any, Any]:
    try:
        stream = open_regular(path)
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror}. Download the folder again.") from error
    with stream, bz2.BZ2File(stream) as text:
        content = PlainReader(cast(BinaryIO, text), name=str(path)).load()
    if not isinstance(content, dict):
        raise FileFormatError(f"{path} does not hold a dictionary; it is not a file of NATS-Bench.")
    return content
