"""Tabular ground truth: NAS-Bench-201, from the compact table, the official file, NATS-Bench or NNI's database."""

from __future__ import annotations

from balenas_plugin.benchmarks.benchmark import Benchmark, GroundTruth
from balenas_plugin.benchmarks.column_benchmark import ArchitectureLike, ColumnBenchmark, canonical
from balenas_plugin.benchmarks.measures import DATASETS, METRICS, RANKED_BY
from balenas_plugin.benchmarks.official_api import OfficialApiBenchmark
from balenas_plugin.benchmarks.official_file import ImportReport, import_official
from balenas_plugin.benchmarks.opening import BACKENDS, find_table, open_benchmark

__all__ = [
    "BACKENDS",
    "DATASETS",
    "METRICS",
    "RANKED_BY",
    "ArchitectureLike",
    "Benchmark",
    "ColumnBenchmark",
    "GroundTruth",
    "ImportReport",
    "OfficialApiBenchmark",
    "canonical",
    "find_table",
    "import_official",
    "open_benchmark",
]
