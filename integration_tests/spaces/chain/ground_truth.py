"""The accuracies of the space's architectures, from a small table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from balenas_plugin.benchmarks import Benchmark

_TABLE = Path(__file__).with_name("table.csv")


def find_table(path: Path | None = None) -> Path:
    return path or _TABLE


def open_benchmark(path: Path | None = None) -> ChainBenchmark:
    return ChainBenchmark(find_table(path))


class ChainBenchmark(Benchmark):
    space = "chain"
    ranked_by = {"digits": "test_accuracy"}  # noqa: RUF012

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open(encoding="utf-8") as file:
            self._accuracy = {row["architecture"]: float(row["test_accuracy"]) for row in csv.DictReader(file)}

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def positions(self) -> dict[str, float]:
        return self._accuracy

    def values(self, architecture: str) -> dict[str, dict[str, float]]:
        return {"digits": {"test_accuracy": self._accuracy[architecture]}}

    def everyone(self, dataset: str, metric: str) -> np.ndarray:
        return np.array(list(self._accuracy.values()))
