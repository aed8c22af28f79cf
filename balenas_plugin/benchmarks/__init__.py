"""Tabular ground truth: the interface of every space's, and NAS-Bench-201's, which ships with the package."""

from __future__ import annotations

from balenas_plugin.benchmarks.benchmark import Benchmark, GroundTruth
from balenas_plugin.benchmarks.measures import DATASETS
from balenas_plugin.benchmarks.official_file import import_official
from balenas_plugin.benchmarks.opening import find_table, open_benchmark

__all__ = ["DATASETS", "Benchmark", "GroundTruth", "find_table", "import_official", "open_benchmark"]
