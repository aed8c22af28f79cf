"""What this machine has for searches: cores and memory."""

from __future__ import annotations

import os

_BYTES_OF_A_SEARCH = 2 << 30
"""Memory of a search of small networks, with torch, NNI and the images: 1.3 GB were measured."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def room_for_searches(threads: int) -> int:
    """Return how many small searches of `threads` threads each can run side by side, at least one."""
    room = cores() // threads
    if hasattr(os, "sysconf"):  # not on Windows
        room = min(room, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _BYTES_OF_A_SEARCH)
    return max(1, room)
