"""How long things take on this machine: medians, all in turn, so that a busy moment hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

_WARM_UP = 3

Name = TypeVar("Name", bound=Hashable)


def median_seconds(
    runs: Mapping[Name, Callable[[], object]], *, repeats: int, device: torch.device | None = None
) -> dict[Name, float]:
    """Return the median seconds of each run, after a warm-up.

    Args:
        runs: name -> what is timed.
        repeats: of every run.
        device: that computes; None: the CPU.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    for number in range(_WARM_UP + repeats):
        for name, run in runs.items():
            start = _now(device)
            run()
            if number >= _WARM_UP:
                seconds[name].append(_now(device) - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _now(device: torch.device | None) -> float:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
