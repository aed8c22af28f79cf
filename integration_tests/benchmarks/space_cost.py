"""What one search iteration costs in each space of cells, beside NNI's DARTS strategy in NNI's DARTS space.

    python integration_tests/benchmarks/space_cost.py

Prints medians of CPU time over rounds in turn in one process, and ratios to the first row and, for our strategy in
NNI's DARTS space, to the second.
"""

from __future__ import annotations

import argparse
import statistics
import time

from iteration_cost import BASELINE, CANDIDATES, prepare, search
from measuring import machine, write_json

ROWS = (
    (BASELINE, "DARTS", 8),
    ("DARTS", "DARTS", 8),
    ("DARTS", "darts-reference", 8),
    ("DARTS", "darts-s2", 8),
    ("DARTS", "nasbench1shot1-3", 9),
)
"""Strategy, space, cells."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=4, help="per round, the first ones to warm up")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", help="write the numbers to this file too")
    options = parser.parse_args()
    prepare(threads=1)
    options.device, options.precision = "cpu", "32-true"
    print(f"C {options.channels}, batch {options.batch_size}, {options.image_size}x{options.image_size}", end=", ")
    print(f"{options.rounds} rounds of {options.iterations} iterations, load {machine()['load']:.1f}", flush=True)
    seconds: dict[tuple[str, str, int], list[float]] = {row: [] for row in ROWS}
    for _ in range(options.rounds):
        for row in ROWS:
            strategy, options.space, options.cells = row
            seconds[row] += search(CANDIDATES[strategy](), options, options.iterations, time.process_time)
    medians = {row: statistics.median(found) for row, found in seconds.items()}
    first, second = (medians[row] for row in ROWS[:2])
    for row, median in medians.items():
        strategy, space, cells = row
        print(f"{strategy:12}{space:18}{cells:3}{1e3 * median:9.0f} ms{median / first:7.2f}{median / second:7.2f}")
    print(f"load {machine()['load']:.1f}")
    named = {f"{strategy} in {space}": found for (strategy, space, _), found in seconds.items()}
    write_json(options.json, {"machine": machine(), "seconds": named})


if __name__ == "__main__":
    main()
