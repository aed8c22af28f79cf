"""What the speed benchmarks share: a stopwatch on iterations, peak memory, and how fast the machine computes."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F


class Stopwatch(pl.Callback):
    """Seconds of whole iterations, from the start of one batch to the start of the next, without the first ones.

    Args:
        warm_up: how many are left out.
        clock: returns seconds.
    """

    def __init__(self, warm_up: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.starts: list[float] = []
        self.warm_up, self.clock = warm_up, clock

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self.starts.append(self.clock())

    def seconds(self) -> list[float]:
        return [b - a for a, b in zip(self.starts[self.warm_up :], self.starts[self.warm_up + 1 :], strict=False)]


class PeakMemory:
    """Largest memory in use above what there was before, in MiB; `mebibytes` is None where it cannot be known."""

    def __init__(self) -> None:
        self.mebibytes: float | None = None

    @contextmanager
    def watched(self, device: str) -> Iterator[None]:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            yield
            self.mebibytes = torch.cuda.max_memory_allocated() / 2**20
            return
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: freed tensors go back to the system and are not counted
            libc.malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        except OSError:
            yield
            return
        before = _kibibytes("VmRSS")
        yield
        self.mebibytes = (_kibibytes("VmHWM") - before) / 1024


def in_a_process(work: Callable[[], Any]) -> Any:
    """Return what `work` returns in a copy of this process, which then ends."""
    fork = multiprocessing.get_context("fork")
    found: Any = fork.SimpleQueue()
    process = fork.Process(target=lambda: found.put(work()))
    process.start()
    result = found.get()
    process.join()
    return result


def _kibibytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def gigaflops(work: Callable[[], object], flops: float, *, device: str = "cpu", repeats: int = 30) -> float:
    """Return the median rate of `work`, in 10^9 floating-point operations a second."""
    rates = []
    for k in range(repeats + 3):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if k >= 3:
            rates.append(flops / (time.perf_counter() - start) / 1e9)
    return statistics.median(rates)


def machine_rates(*, channels: int, batch_size: int, image_size: int, device: str = "cpu") -> dict[str, float]:
    """Return the rates of a large matrix product, and of the 3x3 convolutions of the three stages of a network."""
    a = torch.randn(1024, 1024, device=device)
    rates = {"matmul 1024": gigaflops(lambda: a @ a, 2 * 1024**3, device=device)}
    for stage in range(3):
        width, size = channels * 2**stage, image_size // 2**stage
        x = torch.randn(batch_size, width, size, size, device=device).to(memory_format=torch.channels_last)
        w = torch.randn(width, width, 3, 3, device=device).to(memory_format=torch.channels_last)
        flops = 2 * batch_size * size * size * width * width * 9
        rates[f"conv 3x3, {width} channels"] = gigaflops(
            lambda x=x, w=w: F.conv2d(x, w, padding=1), flops, device=device
        )
    return rates


def machine() -> dict[str, Any]:
    """Return what a number without is worth little."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_json(path: str | None, record: dict[str, Any]) -> None:
    """Write a record where the user asked for it."""
    if path is not None:
        Path(path).write_text(json.dumps(record, indent=2) + "\n")
        print(f"written to {path}")
