"""What the backward pass of depthwise convolutions costs: torch's, by forward convolutions, and with compiled C.

    python integration_tests/benchmarks/depthwise_cost.py
    python integration_tests/benchmarks/depthwise_cost.py --batch-size 64 --rounds 20

CPU time on one thread, everything in turn in one process; forward and both gradients, in channels-last memory. A dash
is torch's own, which the rule by shape has chosen.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from measuring import machine
from torch import Tensor

from balenas_plugin.fused import compiled, depthwise
from balenas_plugin.fused.compiled import Geometry

SHAPES = ((16, 32), (32, 16), (64, 8))
RULE, WEIGHT_GRADIENT = depthwise.pays.__wrapped__, compiled.weight_gradient()
KINDS = [Geometry(size, stride, dilation) for stride in (1, 2) for dilation in (1, 2) for size in (3, 5)]


def passes(kind: Geometry, shape: tuple[int, int, int, int]) -> dict[str, Callable[[], object]]:
    """Return row -> a pass through one convolution and back."""
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(shape[1], 1, kind.size, kind.size, requires_grad=True)

    def run(pays: Callable[..., bool], c: compiled.WeightGradient | None) -> list[Tensor]:
        depthwise.pays, compiled.weight_gradient = pays, lambda: c  # type: ignore[assignment]
        y = depthwise.convolution(x, weight, None, kind.stride, kind.padding, kind.dilation, shape[1])
        return list(torch.autograd.grad(y, [x, weight], torch.ones_like(y)))

    rows = {"torch": lambda: run(lambda *_: False, None)}
    for name, c in (("forward", None), ("compiled", WEIGHT_GRADIENT)):
        compiled.weight_gradient = lambda c=c: c  # type: ignore[assignment]
        if RULE(kind, shape, 1) and (name == "forward" or c is not None):
            rows[name] = lambda c=c: run(lambda *_: True, c)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"batch {options.batch_size}, torch {torch.__version__}, load {machine()['load']:.1f}")
    print(f"{'CPU ms, forward and backward':40}{'torch':>8}{'forward':>9}{'ratio':>7}{'compiled':>10}{'ratio':>7}")
    for channels, side in SHAPES:
        for kind in KINDS:
            rows = passes(kind, (options.batch_size, channels, side, side))
            times: dict[str, list[float]] = {name: [] for name in rows}
            for number in range(options.rounds + 2):
                for name, run in rows.items():
                    start = time.process_time()
                    run()
                    if number >= 2:
                        times[name].append(1e3 * (time.process_time() - start))
            medians = {name: statistics.median(values) for name, values in times.items()}
            line = f"{f'{kind}, {channels}x{side}x{side}':40}{medians['torch']:8.2f}"
            for name, width in (("forward", 9), ("compiled", 10)):
                line += f"{medians[name]:{width}.2f}" if name in medians else f"{'-':>{width}}"
                line += f"{medians[name] / medians['torch']:7.2f}" if name in medians else " " * 7
            print(line, flush=True)


if __name__ == "__main__":
    main()
