"""Files of NAS-Bench-101 in the layouts of its authors and of NNI, with invented numbers."""

from __future__ import annotations

import base64
import json
import sqlite3
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from balenas_plugin.search_spaces.nasbench1shot1 import ModuleSpec
from balenas_plugin.search_spaces.nasbench1shot1.tfrecord import masked_crc32c


class Trial(NamedTuple):
    """One training: accuracies as fractions."""

    spec: ModuleSpec
    epochs: int
    valid: float
    test: float
    parameters: int = 2_694_282


def varint(value: int) -> bytes:
    """Return a whole number as protocol buffers write it."""
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def metrics(trial: Trial) -> bytes:
    """Return the three evaluations of a training: at the start, halfway and at the end."""
    message = b""
    for share in (0.0, 0.5, 1.0):
        values = (share * trial.epochs, 7.0 * share, 1.0, share * trial.valid, share * trial.test)
        inner = b"".join(bytes([number << 3 | 1]) + struct.pack("<d", v) for number, v in enumerate(values, start=1))
        inner += b"\x32" + varint(200) + b"/" * 200  # the path of a checkpoint
        message += b"\x0a" + varint(len(inner)) + inner
    return message + b"\x10" + varint(trial.parameters) + b"\x19" + struct.pack("<d", 9.0)


def record(trial: Trial) -> bytes:
    """Return a record of the official files."""
    matrix = "".join(str(entry) for row in trial.spec.matrix for entry in row)
    encoded = base64.encodebytes(metrics(trial)).decode()  # with line breaks
    fields = [trial.spec.hash(), trial.epochs, matrix, ",".join(trial.spec.operations), encoded]
    data = json.dumps(fields).encode()
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def write_tfrecord(path: Path, trials: Iterable[Trial]) -> None:
    """Write an official file."""
    with path.open("wb") as file:
        file.writelines(map(record, trials))


def write_database(path: Path, trials: Iterable[Trial]) -> None:
    """Write NNI's database, as peewee makes its tables."""
    with sqlite3.connect(path) as database:
        database.executescript(
            "CREATE TABLE nb101trialconfig (id INTEGER PRIMARY KEY, arch JSON, num_vertices INTEGER, hash VARCHAR(64),"
            " num_epochs INTEGER);"
            "CREATE TABLE nb101trialstats (id INTEGER PRIMARY KEY, config_id INTEGER, train_acc REAL, valid_acc REAL,"
            " test_acc REAL, parameters REAL, training_time REAL);"
        )
        configs: dict[tuple[str, int], int] = {}
        for trial in trials:
            spec, key = trial.spec, (trial.spec.hash(), trial.epochs)
            if key not in configs:
                last = len(spec.operations) - 1
                arch = {f"op{v}": spec.operations[v] for v in range(1, last)}
                inputs = {f"input{v}": spec.parents(v) for v in range(1, last + 1)}
                configs[key] = len(configs) + 1
                row = (configs[key], json.dumps(arch | inputs), last + 1, *key)
                database.execute("INSERT INTO nb101trialconfig VALUES (?, ?, ?, ?, ?)", row)
            row = (configs[key], 100.0, 100 * trial.valid, 100 * trial.test, trial.parameters / 1e6, 7.0)
            database.execute(
                "INSERT INTO nb101trialstats (config_id, train_acc, valid_acc, test_acc, parameters, training_time)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
    database.close()
