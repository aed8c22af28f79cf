"""Reduce the trials of one architecture, as NAS-Bench-201 stores them, to one row of the table.

An architecture is a dictionary of two schedules (``less`` and ``full``, of 12 and 200 epochs), each with

    arch_index, arch_str
    all_results    (data set, seed) -> trial
    trial          epochs; eval_acc1es, "image set@epoch" -> percent; train_times, epoch -> seconds or None;
                   params, flop in millions; latency, a list of seconds or None

Epochs count from 0. A value that a file does not have (early files lack several) becomes NaN.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from balenas_plugin.benchmarks.measures import ACCURACY_COLUMNS, COLUMNS, COSTS, NUM_ARCHITECTURES, NUM_SEEDS, SPLITS
from balenas_plugin.errors import FileFormatError, SpaceError
from balenas_plugin.search_spaces.nasbench201 import format_string, parse

Trial = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Row:
    """One architecture of a benchmark.

    Attributes:
        index: its number in NAS-Bench-201.
        architecture: its canonical string.
        num_seeds: how many times it was trained on the data set where that is most.
        values: float64, one for each of `measures.COLUMNS`, in their order; NaN is not known.
    """

    index: int
    architecture: str
    num_seeds: int
    values: npt.NDArray[np.float64]


def is_architecture(info: Mapping[Any, Any]) -> bool:
    """Return whether the dictionary `info` holds both schedules of an architecture."""
    return _is_schedule(info.get("full")) and _is_schedule(info.get("less"))


def reduce_architecture(info: Mapping[Any, Any], *, source: str) -> Row:
    """Return the row of the architecture whose schedules are in `info` (see the module's text).

    Raises:
        FileFormatError: something that every architecture of `source` has is missing, is not of the right type, or
            cannot be (an accuracy of 940 percent).
    """
    if not is_architecture(info):
        raise FileFormatError(f"{source} does not have the layout of NAS-Bench-201: no schedules in {list(info)[:5]}.")
    full, less = info["full"], info["less"]
    try:
        index = int(full["arch_index"])
        architecture = format_string(parse(full["arch_str"]))
        trials, short_trials = _by_dataset(full["all_results"]), _by_dataset(less["all_results"])
        values = dict.fromkeys(COLUMNS, math.nan)  # keeps the order of COLUMNS
        for split in SPLITS:
            accuracies = [_accuracy(trial, split.image_set) for trial in trials.get(split.dataset, ())]
            short = [_accuracy(trial, split.image_set) for trial in short_trials.get(split.dataset, ())]
            values[split.column] = mean(accuracies)
            values[f"{split.column}_e12"] = mean(short)
            values.update((f"{split.column}_s{seed}", value) for seed, value in enumerate(accuracies[:NUM_SEEDS]))
        for dataset, columns in COSTS.items():
            costs = [_costs(trial) for trial in trials.get(dataset, ())]
            for metric, column in columns.items():
                if math.isnan(values[column]):  # two data sets may share a column
                    values[column] = mean([cost[metric] for cost in costs])
        num_seeds = max(map(len, trials.values()), default=0)
        _check(index, num_seeds, values)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, SpaceError) as error:
        raise FileFormatError(
            f"{source} does not have the layout of NAS-Bench-201: architecture "
            f"{reprlib.repr(full.get('arch_index'))}: {type(error).__name__}: {error}"
        ) from error
    return Row(index, architecture, num_seeds, np.fromiter(values.values(), dtype=np.float64))


def _check(index: int, num_seeds: int, values: Mapping[str, float]) -> None:
    """Raise ValueError for numbers that no architecture has."""
    if not 0 <= index < NUM_ARCHITECTURES:
        raise ValueError(f"its number is not from 0 to {NUM_ARCHITECTURES - 1}")
    if num_seeds > NUM_SEEDS:
        raise ValueError(f"it has {num_seeds} seeds, and {NUM_SEEDS} are the most")
    for column in ACCURACY_COLUMNS:
        if not (math.isnan(values[column]) or 0 <= values[column] <= 100):
            raise ValueError(f"{column} is {values[column]:g}, not from 0 to 100 percent")


def _is_schedule(value: object) -> bool:
    return isinstance(value, Mapping) and "all_results" in value and "arch_str" in value


def _by_dataset(all_results: Mapping[tuple[str, int], Trial]) -> dict[str, list[Trial]]:
    """Return data set -> its trials in the order of their seeds."""
    trials: dict[str, list[Trial]] = {}
    for dataset, seed in sorted(all_results.keys()):  # only of a mapping: other containers may hold anything
        trials.setdefault(dataset, []).append(all_results[dataset, seed])
    return trials


def _accuracy(trial: Trial, image_set: str) -> float:
    """Return the percent accuracy after the last epoch, or NaN where it was not measured."""
    value = trial["eval_acc1es"].get(f"{image_set}@{trial['epochs'] - 1}")
    return math.nan if value is None else float(value)


def _costs(trial: Trial) -> dict[str, float]:
    times, latencies = trial["train_times"], [float(value) for value in trial["latency"] or () if value > 0]
    return {
        "train_seconds": math.fsum(map(float, times.values())) if times else math.nan,
        "params_mb": float(trial["params"]),
        "flops_m": float(trial["flop"]),
        "latency_s": mean(latencies),
    }


def mean(values: Sequence[float]) -> float:
    """Return the average of the values that are known, or NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
