"""Ground truth from NNI's own benchmark database, `nasbench201.db`, read with the standard library's sqlite3.

Two tables matter (the third holds the curves): `nb201trialconfig` (arch as JSON, num_epochs, dataset, ...) and
`nb201trialstats` (one trained network). Their accuracies are named by what NNI put there, not by what they are: for
`cifar10`, whose network is trained on the validation images too, `valid_acc` repeats the test accuracy. Here each
accuracy is read from the column that holds the image set which `measures.SPLITS` names.

Source: `nni.nas.benchmark.nasbench201` of NNI 3.0 (schema.py and db_gen.py).
"""

from __future__ import annotations

import functools
import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from balenas_plugin.benchmarks.measures import COLUMNS, COSTS, NUM_ARCHITECTURES, NUM_SEEDS, SPLITS
from balenas_plugin.benchmarks.table import TableBenchmark
from balenas_plugin.benchmarks.trials import mean
from balenas_plugin.errors import DataError, FileFormatError, SpaceError
from balenas_plugin.search_spaces.nasbench201 import format_string, from_nni

SQLITE_START = b"SQLite format 3\x00"

_FULL, _SHORT = 200, 12  # epochs of the two schedules

# The architectures in the order in which their configurations were written, which is NAS-Bench-201's own.
_TRIALS = """
    SELECT first.id, config.arch, config.num_epochs, config.dataset, trial.valid_acc, trial.test_acc,
           trial.ori_test_acc, trial.training_time, trial.parameters, trial.flops, trial.latency
    FROM nb201trialstats AS trial
    JOIN nb201trialconfig AS config ON config.id = trial.config_id
    JOIN (SELECT arch, MIN(id) AS id FROM nb201trialconfig GROUP BY arch) AS first ON first.arch = config.arch
    ORDER BY first.id, trial.seed
"""
_EPOCHS, _DATASET = 2, 3
_IMAGE_SET = {"x-valid": 4, "x-test": 5, "ori-test": 6}
_COST = {"train_seconds": 7, "params_mb": 8, "flops_m": 9, "latency_s": 10}

Trial = tuple[Any, ...]


def read_nni_database(path: Path) -> TableBenchmark:
    """Return the benchmark in NNI's database `path`, all of it in memory; cached until the file changes.

    Raises:
        DataError: there is no such file.
        FileFormatError: the file is not an sqlite database, or not with NNI's tables for NAS-Bench-201.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read the database {path}: {error.strerror}") from error
    return _read(path.resolve(), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2)
def _read(path: Path, _mtime_ns: int, _size: int) -> TableBenchmark:
    architectures, rows = [], []
    try:
        for arch, trials in _architectures(path):
            architecture = {f"cell/{edge}": operation for edge, operation in json.loads(arch).items()}
            architectures.append(format_string(from_nni(architecture)))
            rows.append(_reduce(trials))
    except (sqlite3.Error, SpaceError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{path} is not NNI's database of NAS-Bench-201: {error}") from error
    if not rows:
        raise FileFormatError(f"{path} is NNI's database of NAS-Bench-201, but holds no trained network.")
    return TableBenchmark(
        name=path.name,
        architectures=architectures,
        indices=np.arange(len(rows)) if len(rows) == NUM_ARCHITECTURES else None,
        columns=dict(zip(COLUMNS, np.array(rows).T.copy(), strict=True)),
    )


def _architectures(path: Path) -> Iterator[tuple[str, list[Trial]]]:
    """Yield each architecture's JSON and all its trials, ordered by seed; the database is opened read-only."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        for (_, arch), trials in groupby(connection.execute(_TRIALS), key=lambda trial: trial[:2]):
            yield arch, list(trials)
    finally:
        connection.close()


def _reduce(trials: Sequence[Trial]) -> list[float]:
    """Return the value of every one of `COLUMNS` for one architecture."""
    values = dict.fromkeys(COLUMNS, math.nan)
    for split in SPLITS:
        full, short = (
            [_number(trial[_IMAGE_SET[split.image_set]]) for trial in _of(trials, split.dataset, epochs)]
            for epochs in (_FULL, _SHORT)
        )
        values[split.column], values[f"{split.column}_e12"] = mean(full), mean(short)
        values.update((f"{split.column}_s{seed}", value) for seed, value in enumerate(full[:NUM_SEEDS]))
    for dataset, columns in COSTS.items():
        for metric, column in columns.items():
            if math.isnan(values[column]):  # two data sets may share a column
                values[column] = mean([_number(trial[_COST[metric]]) for trial in _of(trials, dataset, _FULL)])
    return list(values.values())


def _of(trials: Sequence[Trial], dataset: str, epochs: int) -> list[Trial]:
    return [trial for trial in trials if trial[_EPOCHS] == epochs and trial[_DATASET] == dataset.lower()]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
