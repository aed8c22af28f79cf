"""What this machine has for searches: processor, cores and memory."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # Windows has none

_BYTES_OF_A_SEARCH = 2 << 30
"""Memory of a search of small networks, with torch, NNI and the images: 1.3 GB were measured."""


def let_threads_sleep() -> None:
    """Let OpenMP's threads sleep while they wait, in this process and those that it starts; call it before torch loads.

    By default they spin, and then two threads take 5 to 9 times as long as one when anything else runs (measured on two
    cores). A user's own OMP_WAIT_POLICY stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return what the system calls the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def room_for_searches(threads: int) -> int:
    """Return how many small searches of `threads` threads each can run side by side, at least one."""
    room = cores() // threads
    if hasattr(os, "sysconf"):  # not on Windows
        room = min(room, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _BYTES_OF_A_SEARCH)
    return max(1, room)


def peak_memory() -> int:
    """Return the most bytes of memory that this process has held so far; 0 where the system does not say."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def free_memory() -> int:
    """Return the bytes of memory that processes may still take; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable"):
                return 1024 * int(line.split()[1])
    return 0


def spent() -> dict[str, float]:
    """Return what this process has used so far: seconds of all its threads, and bytes of memory at the most."""
    return {"cpu_seconds": round(time.process_time(), 1), "peak_bytes": peak_memory()}
