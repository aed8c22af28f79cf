"""NAS-Bench-101's trainings, from whichever file of it somebody has, of the modules that are in one of the spaces.

======================================  ===========================================================================
file                                    what it is
======================================  ===========================================================================
``nasbench_only108.tfrecord``,          the official files: google-research/nasbench; a record is JSON: hash,
``nasbench_full.tfrecord``              epochs, matrix row by row, operations, metrics (a protocol buffer, base64)
``nasbench101.db``                      NNI's: `nni.nas.benchmark.download_benchmark("nasbench101")`; SQLite
CSV or parquet                          a row a module: hash, accuracies (`valid_accuracy`, `test_accuracy`, or those
                                        of single trainings, ``..._s0`` to ``..._s2``), and, so that it is opened
                                        quickly, its upper triangle (`edges`) and operations (`ops`), as imports have it
======================================  ===========================================================================

Only trainings of 108 epochs count, as in the one-shot papers. Accuracies come out in percent.

Source: Ying et al. 2019 (NAS-Bench-101); Zela, Siems and Hutter 2020 (NAS-Bench-1Shot1, Section 4).
"""

from __future__ import annotations

import base64
import contextlib
import csv
import json
import math
import re
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from balenas_plugin.errors import DataError, FileFormatError
from balenas_plugin.files import open_regular, write_atomically

from .choice_blocks import in_any_space
from .module_spec import CONV1X1, CONV3X3, INPUT, MAXPOOL, OUTPUT, Matrix, ModuleSpec
from .tfrecord import fields, records

EPOCHS = 108
RUNS = 3

_EVALUATIONS, _PARAMETERS, _VALID, _TEST, _FINAL = 1, 2, 4, 5, 2  # numbers of fields, and the evaluation at the end
_LETTERS = {"3": CONV3X3, "1": CONV1X1, "m": MAXPOOL}
_COLUMN = re.compile(r"(?:mean_|final_)?(val|valid|validation|test)(?:_acc|_accuracy)?(?:_e?108)?(?:_s([0-2]))?")
_TRIALS = """
    SELECT c.hash, c.arch, t.valid_acc, t.test_acc, t.parameters * 1e6
    FROM nb101trialstats t JOIN nb101trialconfig c ON t.config_id = c.id WHERE c.num_epochs = ?
"""


@dataclass
class Trained:
    """What a file knows of one module.

    Args:
        spec: the module; None where the file gives its hash alone.
        valid: validation accuracies in percent, one a training.
        test: test accuracies likewise.
        parameters: of the network; None where the file does not say.
    """

    spec: ModuleSpec | None
    valid: array[float] = field(default_factory=lambda: array("d"))
    test: array[float] = field(default_factory=lambda: array("d"))
    parameters: int | None = None


def read_modules(path: Path, progress: Callable[[int], object] = lambda done: None) -> dict[str, Trained]:
    """Return hash -> what a file knows, of the modules of the three spaces; of a file of hashes alone, of all of them.

    Args:
        path: of a file as above.
        progress: is told how many trainings have been read.

    Raises:
        FileFormatError: it is none of these files, or damaged.
        DataError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            start = file.read(16)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    try:
        if start.startswith(b"PAR1"):
            found = _of_table(_parquet(path), path)
        elif start.startswith(b"SQLite format 3"):
            found = _of_trainings(_database(path), progress)
        elif path.suffix.lower() == ".csv":
            found = _of_table(_csv(path), path)
        else:
            found = _of_trainings(_tfrecord(path), progress)
    except (ValueError, TypeError, LookupError, sqlite3.Error, pa.ArrowException) as error:
        raise FileFormatError(f"{path} is no file of NAS-Bench-101, or is damaged: {error}") from error
    if not found:
        raise FileFormatError(f"{path} has no accuracy, after {EPOCHS} epochs, of a network of NAS-Bench-1Shot1")
    return found


def write_modules(path: Path, found: Mapping[str, Trained]) -> None:
    """Write what was read as a table that is opened quickly, whole or not at all.

    Raises:
        StorageError: it could not be written.
    """
    hashes = sorted(found)
    columns: dict[str, Any] = {
        "hash": hashes,
        "edges": [_edges(found[h].spec) for h in hashes],
        "ops": [_ops(found[h].spec) for h in hashes],
        "trainable_parameters": pa.array([found[h].parameters for h in hashes], pa.int32()),
    }
    for name, of in (("valid", [found[h].valid for h in hashes]), ("test", [found[h].test for h in hashes])):
        for run in range(RUNS):
            values = [each[run] if run < len(each) else None for each in of]
            columns[f"{name}_accuracy_s{run}"] = pa.array(values, pa.float64())
    write_atomically(path, lambda file: pq.write_table(pa.table(columns), file, compression="zstd"))


Training = tuple[str, ModuleSpec, float, float, int | None]
"""Hash, module, validation and test accuracy in percent, parameters."""


def _of_trainings(trainings: Iterable[Training], progress: Callable[[int], object]) -> dict[str, Trained]:
    found: dict[str, Trained] = {}
    for number, (name, spec, valid, test, parameters) in enumerate(trainings, start=1):
        if name in found or in_any_space(spec):
            known = found.setdefault(name, Trained(spec, parameters=parameters))
            known.valid.append(valid)
            known.test.append(test)
        if not number % 10_000:
            progress(number)
    return found


def _tfrecord(path: Path) -> Iterator[Training]:
    with open_regular(path) as file:
        for record in records(file, path.name):
            name, epochs, matrix, operations, metrics = json.loads(record)
            if epochs == EPOCHS and _is_wanted(matrix):  # five sixths are of no space
                spec = _spec(matrix, operations.split(","))
                evaluations, parameters = [], None
                for number, value in fields(base64.b64decode("".join(metrics.split()), validate=True)):
                    if number == _EVALUATIONS and isinstance(value, bytes):
                        evaluations.append(dict(fields(value)))
                    elif number == _PARAMETERS:
                        parameters = int(value)
                final = evaluations[_FINAL]
                yield name, spec, 100 * float(final[_VALID]), 100 * float(final[_TEST]), parameters


def _database(path: Path) -> Iterator[Training]:
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        for name, text, valid, test, parameters in database.execute(_TRIALS, (EPOCHS,)):
            arch = json.loads(text)
            inner = sum(key.startswith("op") for key in arch)
            parents = [arch[f"input{v}"] for v in range(1, inner + 2)]
            spec = ModuleSpec.of(parents, [arch[f"op{v}"] for v in range(1, inner + 1)])
            yield name, spec, float(valid), float(test), round(parameters)


def _parquet(path: Path) -> Mapping[str, Sequence[Any]]:
    with pq.ParquetFile(path) as file:
        table = file.read()
    return {name: table[name].to_pylist() for name in table.column_names}


def _csv(path: Path) -> Mapping[str, Sequence[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        names, *rows = list(csv.reader(file)) or [[]]
    if any(len(row) != len(names) for row in rows):
        raise ValueError("its rows are of different lengths")
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {name: [] for name in names}


def _of_table(columns: Mapping[str, Sequence[Any]], path: Path) -> dict[str, Trained]:
    hashes = columns.get("hash", columns.get("module_hash"))
    accuracies = {name: match for name in columns if (match := _COLUMN.fullmatch(name))}
    if hashes is None or not accuracies:
        raise FileFormatError(
            f"{path} is no table of NAS-Bench-101: it needs a column `hash`, and accuracies such as `valid_accuracy` "
            f"and `test_accuracy`; it has {', '.join(columns) or 'none'}"
        )
    values = {name: [_number(v) for v in columns[name]] for name in accuracies}
    percent = 1 if any(v is not None and v > 1 for of in values.values() for v in of) else 100
    single = {match[1] == "test" for match in accuracies.values() if match[2]}  # means are left out beside these
    structured = "edges" in columns and "ops" in columns
    found: dict[str, Trained] = {}
    for row, name in enumerate(hashes):
        if all(of[row] is None for of in values.values()):
            continue
        spec = _from_text(columns["edges"][row], columns["ops"][row]) if structured else None
        if spec is not None and not in_any_space(spec):
            continue
        known = found.setdefault(str(name), Trained(spec))
        if columns.get("trainable_parameters"):
            known.parameters = round(_number(columns["trainable_parameters"][row]) or 0) or None
        for column, match in accuracies.items():
            value, is_test = values[column][row], match[1] == "test"
            if value is not None and (match[2] or is_test not in single):
                (known.test if is_test else known.valid).append(percent * value)
    return found


def _number(given: Any) -> float | None:
    """Return a number; None where a table has nothing, or nothing finite."""
    number = math.nan if given in (None, "") else float(given)
    return number if math.isfinite(number) else None


def _spec(digits: str | Sequence[int], operations: Sequence[str]) -> ModuleSpec:
    """Return a module of its whole matrix, row by row."""
    size = len(operations)
    if len(digits) != size * size:
        raise ValueError(f"a matrix of {len(digits)} entries for {size} vertices")
    return ModuleSpec(_rows([int(digit) for digit in digits], size), tuple(operations))


@lru_cache(maxsize=1 << 15)
def _is_wanted(matrix: str) -> bool:
    """Return whether modules of a matrix, given row by row, are in a space, whatever their operations."""
    return in_any_space(_spec(matrix, [MAXPOOL] * math.isqrt(len(matrix))))


def _from_text(edges: str, ops: str) -> ModuleSpec:
    """Return a module of its upper triangle, row by row, and one letter an inner vertex."""
    size = len(ops) + 2
    if not set(ops) <= _LETTERS.keys() or not set(edges) <= {*"01"} or len(edges) != size * (size - 1) // 2:
        raise ValueError(
            f"{edges[:40]!r} and {ops[:40]!r} are no module: `edges` needs a 0 or 1 for each pair of its vertices, and "
            f"`ops` one of {', '.join(_LETTERS)} for each but the first and the last"
        )
    digits = iter(edges)
    entries = [int(next(digits)) if v > u else 0 for u in range(size) for v in range(size)]
    return ModuleSpec(_rows(entries, size), (INPUT, *(_LETTERS[letter] for letter in ops), OUTPUT))


def _rows(entries: Sequence[int], size: int) -> Matrix:
    return tuple(tuple(entries[u * size : (u + 1) * size]) for u in range(size))


def _edges(spec: ModuleSpec | None) -> str | None:
    if spec is None:
        return None
    return "".join(str(edge) for u, row in enumerate(spec.matrix) for edge in row[u + 1 :])


def _ops(spec: ModuleSpec | None) -> str | None:
    letters = {name: letter for letter, name in _LETTERS.items()}
    return None if spec is None else "".join(letters[name] for name in spec.operations[1:-1])
