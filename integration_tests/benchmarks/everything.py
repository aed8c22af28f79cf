"""Run the main benchmarks behind docs/speed.md in turn, each in a process of its own.

    python integration_tests/benchmarks/everything.py > speed.txt
    python integration_tests/benchmarks/everything.py --only growth depthwise_cost

It takes hours on a busy machine. One that fails is named at the end, and the others go on.

exit codes: 0 all measured, 1 one has failed
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

AS_THE_PAPER = "--channels 16 --cells 5 --batch-size 16 --image-size 32"

COMMANDS = (
    "iteration_cost --cpu-time --rounds 3 --iterations 10",
    f"iteration_cost --cpu-time {AS_THE_PAPER} --rounds 2 --iterations 7",
    "iteration_cost --cpu-time --space DARTS --channels 16 --cells 8 --batch-size 16 --image-size 32 --rounds 2"
    " --iterations 6 --only DARTS GDAS BaLeNAS_M=1",
    f"iteration_cost --presets {AS_THE_PAPER}",
    "growth",
    "depthwise_cost",
    "space_cost",
    "curvature_cost",
    "training_throughput",
    "ranking_speed",
)
"""Names of modules with their options; a _ stands for a space inside of one."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="names of benchmarks, to leave out others")
    only, failed = parser.parse_args().only, []
    for command in COMMANDS:
        name, *options = command.split()
        if only and name not in only:
            continue
        print(f"\n$ {command}", flush=True)
        file = Path(__file__).with_name(f"{name}.py")
        finished = subprocess.run([sys.executable, str(file), *(option.replace("_", " ") for option in options)])
        failed += [name] if finished.returncode else []
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall measured")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
