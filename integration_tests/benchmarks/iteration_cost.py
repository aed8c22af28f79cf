"""What a search iteration costs beside NNI's own strategies: time and peak memory, everything in turn in one process.

    python integration_tests/benchmarks/iteration_cost.py
    python integration_tests/benchmarks/iteration_cost.py --channels 16 --cells 5 --batch-size 16 --image-size 32
    python integration_tests/benchmarks/iteration_cost.py --device cuda --channels 16 --cells 5 --batch-size 64
    python integration_tests/benchmarks/iteration_cost.py --presets --only GDAS PCDARTS --image-size 32 --batch-size 16
    python integration_tests/benchmarks/iteration_cost.py --against ../other-checkout --only DARTS "BaLeNAS M=1"

Prints medians over all rounds, ratios to NNI's DARTS, and the floor: the floating-point operations of an iteration over
the rate at which this machine computes the network's own 3x3 convolutions. With `--against`, prints the ratio to the
package of another checkout instead, in CPU time: a process of each runs a round in turn. With `--presets`, prints the
CPU time and peak memory of every preset of the package beside those of its DARTS, each when it is measured, and which
goals are missed.
"""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import nni.nas.strategy  # noqa: E402  (first, see balenas_plugin.adapters.nni)
import torch  # noqa: E402
from measuring import PeakMemory, Stopwatch, in_a_process, machine, machine_rates, write_json  # noqa: E402
from nni.nas.evaluator.pytorch import Classification, DataLoader  # noqa: E402
from nni.nas.execution import SequentialExecutionEngine  # noqa: E402
from nni.nas.hub.pytorch import DARTS, NasBench201  # noqa: E402
from nni.nas.space import RawFormatModelSpace  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from tqdm import tqdm  # noqa: E402

BASELINE = "NNI DARTS"
WARM_UP = 3

GOALS: dict[str, tuple[float | None, float | None]] = {
    "SDARTS_RS": (1.05, None),
    "SDARTS_ADV": (4.5, None),
    "PCDARTS": (0.6, 0.45),
    **dict.fromkeys(("PARSEC", "ProxylessNAS", "GDAS", "DSNAS", "RSPS"), (None, 0.35)),
}
"""Preset -> the most CPU time and peak memory that it should take of DARTS's, at the sizes of the example above."""


def preset(name: str, **options: Any) -> Callable[[], Any]:
    """Return what makes a strategy of the package, which is imported only then: `--against` chooses whose."""

    def make() -> Any:
        import balenas_plugin

        return getattr(balenas_plugin, name)(**{"validate_every_n_epochs": 0, **options})

    return make


def balenas(**options: Any) -> Callable[[], Any]:
    return preset("BaLeNAS", **{"num_mc_samples": 1, **options})


EVERY = {"warmup_epochs": 0, "architecture_every": 1}
"""An architecture step in each iteration, as the other rows have."""

AS_NNI_COMPUTES = {"fused": False, "channels_last": False}

CANDIDATES: dict[str, Callable[[], Any]] = {
    BASELINE: nni.nas.strategy.DARTS,
    "NNI GumbelDARTS": nni.nas.strategy.GumbelDARTS,
    "DARTS": preset("DARTS"),
    **{name: preset(name) for name in ("SDARTS_RS", "SDARTS_ADV")},
    "  partial channels, k 4": preset("DARTS", mixed_op={"name": "partial-channels", "k": 4}),
    **{name: preset(name) for name in ("PCDARTS", "MergeNAS")},
    **{name: preset(name) for name in ("DrNAS", "GumbelDARTS", "GDAS")},
    "  GDAS not fused": preset("GDAS", fused=False),
    **{name: preset(name, selection=None) for name in ("RSPS", "SETN", "ENAS")},
    "ProxylessNAS": preset("ProxylessNAS", **EVERY),
    "  two paths": preset("ProxylessNAS", mode="two", **EVERY),
    "  an architecture step in five": preset("ProxylessNAS", warmup_epochs=0),
    "DSNAS": preset("DSNAS"),
    "PARSEC": preset("PARSEC"),
    "BaLeNAS M=1": balenas(),
    "  not fused": balenas(fused=False),
    "  not channels-last": balenas(channels_last=False),
    "  neither": balenas(**AS_NNI_COMPUTES),
    "  weights at a draw": balenas(weight_step_alpha="sample"),
    "BaLeNAS M=3": balenas(num_mc_samples=3),
    "  split batch": balenas(num_mc_samples=3, mc_batches="split"),
    "BaLeNAS M=1 second order": balenas(order="second"),
    "  one-sided difference": balenas(order="second", finite_difference="one-sided"),
    "BaLeNAS M=3 second order": balenas(num_mc_samples=3, order="second"),
    "  split, one-sided": balenas(num_mc_samples=3, mc_batches="split", order="second", finite_difference="one-sided"),
}


def search(
    strategy: Any, options: argparse.Namespace, iterations: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Search for some iterations; return the seconds of each but the first ones."""
    torch.manual_seed(0)
    images = torch.randn(options.batch_size * iterations, 3, options.image_size, options.image_size)
    loader = DataLoader(TensorDataset(images, torch.randint(0, 10, (len(images),))), batch_size=options.batch_size)
    stopwatch = Stopwatch(min(WARM_UP, iterations - 2), clock)
    evaluator = Classification(
        train_dataloaders=loader,
        val_dataloaders=loader,
        num_classes=10,
        optimizer=torch.optim.SGD,
        learning_rate=0.01,
        max_epochs=1,
        callbacks=[stopwatch],
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        precision=options.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    if callable(options.space):
        space = options.space()
    elif options.space == "NasBench201":
        space = NasBench201(stem_out_channels=options.channels, num_modules_per_stack=options.cells)
    elif options.space == "DARTS":
        space = DARTS(width=options.channels, num_cells=options.cells, dataset="cifar")
    else:
        width = {"width" if options.space.startswith("darts") else "channels": options.channels}
        from balenas_plugin.adapters.nni.run.build import build_space

        space = build_space({"name": options.space, "num_cells": options.cells, **width}, num_classes=10)
    strategy(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    return stopwatch.seconds()


Run = Callable[[argparse.Namespace, int], list[float]]
"""Searches for some iterations and returns their seconds."""


def searched(
    make: Callable[[], Any], options: argparse.Namespace, iterations: int, clock: Callable[[], float]
) -> list[float]:
    """Return what `search` does, of a new strategy."""
    return search(make(), options, iterations, clock)


def naslib_darts(options: argparse.Namespace, iterations: int) -> list[float]:
    """Return the seconds of each step but the first of NASLib's DARTS on its own supernet, which is C 16, N 5."""
    from naslib import optimizers, search_spaces

    torch.manual_seed(0)
    optimizer = optimizers.DARTSOptimizer()
    optimizer.adapt_search_space(search_spaces.NasBench201SearchSpace(), "cifar10")
    optimizer.before_training()
    images = torch.randn(options.batch_size, 3, options.image_size, options.image_size, device=options.device)
    data = images, torch.randint(0, 10, (options.batch_size,), device=options.device)
    seconds = []
    for _ in range(max(2, iterations // 4)):  # each takes as long as many of the others'
        start = time.perf_counter()
        optimizer.step(data, data)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def naslib_is_comparable(options: argparse.Namespace) -> bool:
    """Return whether NASLib is importable and its supernet has the sizes asked for."""
    if (options.space, options.channels, options.cells) != ("NasBench201", 16, 5):
        return False
    from balenas_plugin.errors import MissingDependencyError

    try:
        from balenas_plugin.naslib import BaLeNASOptimizer  # noqa: F401  (makes NASLib importable)
    except MissingDependencyError:
        print("NASLib is not importable (BALENAS_NASLIB_PATH), so its DARTS is left out")
        return False
    logging.getLogger("naslib").setLevel(logging.ERROR)
    return True


def backward_flops(gradient: Any, x: Any, weight: Any, *options: Any, out_shape: Any) -> int:
    """Return the operations of a convolution's backward pass; torch's own count forgets the groups."""
    *_, wanted = options
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * sum(wanted[:2])


def flops_of_an_iteration(options: argparse.Namespace) -> float:
    """Return the floating-point operations of the convolutions and products of one iteration of BaLeNAS, M = 1."""
    counts = []
    for iterations in (2, 3):
        mapping = {torch.ops.aten.convolution_backward: backward_flops}
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            search(CANDIDATES["BaLeNAS M=1"](), options, iterations)
        counts.append(counter.get_total_flops())
    return counts[1] - counts[0]


def rows(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return the rows that are asked for."""
    return {name: make for name, make in CANDIDATES.items() if not options.only or name.strip() in options.only}


def start(root: Path, threads: int) -> None:
    """Make this process, which is a worker, use the package in a checkout."""
    sys.path.insert(0, str(root))
    import balenas_plugin

    found = Path(balenas_plugin.__file__).parents[1]
    if found != root:
        raise SystemExit(f"balenas_plugin was imported from {found}, not from {root}")
    prepare(threads)


def cpu_seconds(name: str, options: argparse.Namespace) -> list[float]:
    """Return the CPU seconds of iterations of one row, in a worker; none if its package does not have it."""
    try:
        strategy = CANDIDATES[name]()
    except AttributeError:
        return []
    return search(strategy, options, options.iterations, time.process_time)


def against(options: argparse.Namespace) -> dict[str, Any]:
    """Compare with another checkout: rounds in turn, each in the process of its checkout."""
    roots = [Path(__file__).resolve().parents[2], options.against.resolve()]
    spawn = multiprocessing.get_context("spawn")
    workers = [
        ProcessPoolExecutor(1, mp_context=spawn, initializer=start, initargs=(root, options.threads)) for root in roots
    ]
    records = {}
    print(f"{'CPU ms/iteration':34}{'this':>9}{'other':>9}{'ratio':>8}   of single rounds")
    for name in rows(options):
        seconds: list[list[list[float]]] = [[], []]
        for number in range(options.rounds):
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                seconds[side].append(workers[side].submit(cpu_seconds, name, options).result())
        if not all(seconds[0] + seconds[1]):
            print(f"{name:34}not in both")
            continue
        ours, theirs = (statistics.median(chain.from_iterable(of_side)) for of_side in seconds)
        single = sorted(statistics.median(a) / statistics.median(b) for a, b in zip(*seconds, strict=True))
        print(
            f"{name:34}{1e3 * ours:9.1f}{1e3 * theirs:9.1f}{ours / theirs:8.3f}   {single[0]:.3f} to {single[-1]:.3f}"
        )
        records[name] = {"this": seconds[0], "other": seconds[1], "ratio": ours / theirs}
    for worker in workers:
        worker.shutdown()
    return {"against": records}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    chosen = {BASELINE: CANDIDATES[BASELINE], **rows(options)}
    clock = time.process_time if options.cpu_time else time.perf_counter
    runs: dict[str, Run] = {name: partial(searched, make, clock=clock) for name, make in chosen.items()}
    if naslib_is_comparable(options):
        runs["NASLib DARTS"] = naslib_darts
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            seconds[name] += run(options, options.iterations)
    memory = {name: peak_memory(run, options, 3) for name, run in runs.items()}

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'':34}{'ms/iteration':>13}{'iter./s':>9}{'ratio':>7}{'peak MiB':>10}{'ratio':>7}")
    for name, median in medians.items():
        line = f"{name:34}{1000 * median:13.1f}{1 / median:9.2f}{median / medians[BASELINE]:7.2f}"
        if isinstance(memory[name], float):
            line += f"{memory[name]:10.0f}{memory[name] / memory[BASELINE]:7.2f}"
        print(line)
    flops = flops_of_an_iteration(options)
    rates = machine_rates(
        channels=options.channels, batch_size=options.batch_size, image_size=options.image_size, device=options.device
    )
    rate = statistics.mean(value for name, value in rates.items() if name.startswith("conv"))
    print(f"floor of BaLeNAS M=1: {flops / 1e9:.1f} GFLOP at {rate:.0f} GFLOP/s = {1e3 * flops / rate / 1e9:.0f} ms")
    print("rates in GFLOP/s: " + ", ".join(f"{name} {value:.0f}" for name, value in rates.items()))
    return {"seconds": seconds, "medians": medians, "peak_mebibytes": memory, "flops": flops, "gigaflops": rates}


def peak_memory(run: Run, options: argparse.Namespace, iterations: int) -> float | str | None:
    """Return the peak of a search in MiB, on a CPU that of a process of its own; or why there is none."""
    from balenas_plugin.errors import BalenasError

    small = argparse.Namespace(**{**vars(options), "channels": 4, "cells": 1, "batch_size": 2, "image_size": 8})

    def measured() -> float | str | None:
        peak = PeakMemory()
        try:
            if options.device == "cpu":
                run(small, 3)  # what is loaded at the first use is no search's own
            with peak.watched(options.device):
                run(options, iterations)
        except BalenasError as error:
            return str(error)
        return peak.mebibytes

    return in_a_process(measured) if options.device == "cpu" else measured()


def every_preset(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the presets with DARTS, each printed when it is measured: memory in a process, then rounds in turn."""
    from balenas_plugin.errors import BalenasError
    from balenas_plugin.presets import list_presets

    def run(name: str) -> Run:
        return partial(searched, preset(name, warmup_epochs=0, selection=None), clock=time.process_time)

    memory, seconds = dict[str, Any](), dict[str, list[float]]()
    names = ["DARTS", *(name for name in list_presets() if name != "DARTS" and name in (options.only or [name]))]
    goals = GOALS if options.space == "NasBench201" else {**GOALS, "MergeNAS": (0.6, None)}
    print(f"{'CPU ms/iteration':>37}{'ratio':>7}{'goal':>6}{'of rounds':>12}{'peak MiB':>10}{'ratio':>7}{'goal':>6}")
    for name in tqdm(names, unit="preset", disable=not sys.stderr.isatty()):
        with suppress(BalenasError):  # said by the process
            preset(name)()  # imported here, so that no process counts it
        peak = peak_memory(run(name), options, options.iterations)
        if isinstance(peak, str):
            tqdm.write(f"{name:20}not measured: {peak}")
            continue
        memory[name], seconds[name] = peak, []
        rounds = []
        for _ in range(options.rounds):
            beside = run("DARTS")(options, options.iterations)
            seconds[name] += run(name)(options, options.iterations)
            rounds.append(statistics.median(seconds[name][-len(beside) :]) / statistics.median(beside))
        median, wanted = statistics.median(seconds[name] or [math.nan]), goals.get(name, (None, None))
        ratios = statistics.median(rounds or [math.nan]), None if peak is None else peak / memory["DARTS"]
        ends = "-".join(f"{end:.2f}" for end in (min(rounds), max(rounds))) if rounds else ""
        line = f"{name:20}{1e3 * median:17.1f}{ratios[0]:7.2f}{wanted[0] or '':>6}{ends:>12}"
        if ratios[1] is not None:
            line += f"{peak:10.0f}{ratios[1]:7.2f}{wanted[1] or '':>6}"
        missed = any(goal and ratio and ratio > goal for ratio, goal in zip(ratios, wanted, strict=True))
        tqdm.write(f"{line}{'  missed' if missed else ''}")
    return {"seconds": seconds, "peak_mebibytes": memory}


def prepare(threads: int) -> None:
    """Be quiet, and compute on so many threads."""
    torch.set_num_threads(threads)
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "nni"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=("NasBench201", "DARTS", "nasbench1shot1-3"), default="NasBench201")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int, default=1, help="cells per stage (NasBench201) or in all")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--iterations", type=int, help="per round (12, with --presets 6)")
    parser.add_argument("--rounds", type=int, help="(3, with --presets 1; there 0 measures memory alone)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", default="32-true", help="of Lightning's trainer, e.g. bf16-mixed")
    parser.add_argument("--only", nargs="*", default=[], help="names of the table's rows, to leave out others")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, on a busy machine")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, to compare the rows with")
    parser.add_argument("--presets", action="store_true", help="compare every preset of the package with its DARTS")
    parser.add_argument("--json", help="write the numbers to this file too")
    options = parser.parse_args()
    options.iterations = options.iterations or (6 if options.presets else 12)
    options.rounds = (1 if options.presets else 3) if options.rounds is None else options.rounds
    prepare(options.threads)
    size = f"{options.image_size}x{options.image_size}"
    print(f"{options.space}, C {options.channels}, N {options.cells}, batch {options.batch_size}, {size}", end=", ")
    print(f"{options.device}, {options.threads} thread(s), torch {torch.__version__}, load {machine()['load']:.1f}")
    how = every_preset if options.presets else against if options.against else compare
    result = how(options)
    write_json(options.json, {"options": {k: str(v) for k, v in vars(options).items()}, "machine": machine(), **result})


if __name__ == "__main__":
    main()
