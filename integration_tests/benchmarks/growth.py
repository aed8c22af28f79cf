"""How the cost of an iteration grows, one size at a time: C, N, batch, M, threads, choices, and candidates of a choice.

    python integration_tests/benchmarks/growth.py
    python integration_tests/benchmarks/growth.py --only choices candidates --json growth.json

Prints medians of BaLeNAS and of NNI's DARTS in turn: CPU time, but of several threads the time that passes. Choices and
candidates are those of a chain of LayerChoices, the rest is NAS-Bench-201's space.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: as the package's own processes have it

from iteration_cost import BASELINE, CANDIDATES, balenas, prepare, search
from measuring import machine, write_json
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

BASE = {"cells": 1, "channels": 8, "batch_size": 32, "image_size": 16, "num_mc_samples": 1, "threads": 1}

VARIED: dict[str, tuple[int, ...]] = {
    "cells": (1, 2, 4),
    "channels": (8, 16, 32),
    "batch_size": (16, 32, 64, 128),
    "num_mc_samples": (1, 2, 3, 4),
    "threads": (1, 2, 4),
    "choices": (10, 30, 100, 300),
    "candidates": (2, 4, 8, 16),
}

WIDTH = 4


class Chain(ModelSpace):
    """LayerChoices one behind the other, of 1x1 convolutions.

    Args:
        choices: how many.
        candidates: of each.
    """

    def __init__(self, choices: int = 10, candidates: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.layers = nn.Sequential(
            *(
                LayerChoice([self._candidate() for _ in range(candidates)], label=f"choice{k:03}")
                for k in range(choices)
            )
        )
        self.head = nn.Linear(WIDTH, 10)

    @staticmethod
    def _candidate() -> nn.Module:
        return nn.Sequential(nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)).mean((2, 3)))


def grow(size: str, value: int, options: argparse.Namespace) -> dict[str, float]:
    """Return the median milliseconds of an iteration of each."""
    sizes: dict[str, Any] = {**BASE, "space": "NasBench201", size: value}
    if size in ("choices", "candidates"):
        sizes |= {"space": lambda: Chain(**{size: value}), "image_size": 8}
    prepare(sizes["threads"])
    trial = argparse.Namespace(**sizes, device="cpu", precision="32-true")
    clock = time.perf_counter if sizes["threads"] > 1 else time.process_time
    makes: dict[str, Callable[[], Any]] = {
        "BaLeNAS": balenas(num_mc_samples=sizes["num_mc_samples"]),
        "split": balenas(num_mc_samples=sizes["num_mc_samples"], mc_batches="split"),
        BASELINE: CANDIDATES[BASELINE],
    }
    seconds: dict[str, list[float]] = {name: [] for name in makes}
    for _ in range(options.rounds):
        for name, make in makes.items():
            if name != "split" or sizes["num_mc_samples"] > 1:
                seconds[name] += search(make(), trial, options.iterations, clock)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items() if values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=8, help="per round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(VARIED), choices=list(VARIED), metavar="SIZE")
    parser.add_argument("--json", help="write the numbers to this file too")
    options = parser.parse_args()
    records = []
    print(f"around {', '.join(f'{name} {value}' for name, value in BASE.items())}; load {machine()['load']:.1f}")
    print(f"{'':>16}{'':>6}{'BaLeNAS ms':>12}{'ratio':>7}{'split ms':>10}{'NNI DARTS ms':>14}")
    for size in options.only:
        for value in VARIED[size]:
            found = grow(size, value, options)
            split = f"{found['split']:10.1f}" if "split" in found else f"{'':10}"
            ratio = found["BaLeNAS"] / found[BASELINE]
            print(f"{size:>16}{value:6}{found['BaLeNAS']:12.1f}{ratio:7.2f}{split}{found[BASELINE]:14.1f}", flush=True)
            records.append({"size": size, "value": value, "milliseconds": found})
    write_json(options.json, {"base": BASE, "machine": machine(), "growth": records})


if __name__ == "__main__":
    main()
