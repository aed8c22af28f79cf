"""How far the units of a reproduction are: a bar on a terminal, one line a finished unit in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from tqdm import tqdm

Key = tuple[str, str]
"""Kind of a unit, and which it is of that kind."""


class Progress:
    """Reports what is done and what is left.

    Time is estimated from the epochs that this session has seen, each kind of unit by its own: a search of second order
    takes several times as long as one of first. A kind that has not been seen yet is taken for the mean of the others.

    Args:
        epochs: unit -> how many epochs it takes; of those that are not finished.
        done: the same -> how many are done already.
        jobs: units at a time.
        called: what they are, in the plural.
        stream: to report it on.
        clock: gives seconds.
    """

    def __init__(
        self,
        epochs: Mapping[Key, int],
        done: Mapping[Key, int],
        *,
        jobs: int,
        called: str = "searches",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._epochs, self._done, self._before = dict(epochs), dict(done), dict(done)
        self._jobs, self._called = jobs, called
        self._clock = clock
        self._stream = stream or sys.stderr
        self._started: dict[Key, float] = {}
        self._took: dict[Key, float] = {}
        self._ended = 0
        self._bar = tqdm(
            total=sum(epochs.values()),
            initial=sum(done.values()),
            desc=called,
            file=self._stream,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs [{elapsed}{postfix}]",
            disable=not epochs or not self._stream.isatty(),
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def started(self, unit: Key) -> None:
        """Note that a unit has started."""
        self._started[unit] = self._clock()

    def reached(self, unit: Key, epochs: int) -> None:
        """Note how many epochs of a running unit are done."""
        if epochs > self._done[unit]:
            self._bar.update(epochs - self._done[unit])
            self._done[unit] = epochs
            self._took[unit] = self._clock() - self._started[unit]
        self._bar.set_postfix_str(", ".join([*self._left(), *(" ".join(unit) for unit in self._started)]))

    def ended(self, unit: Key, *, well: bool) -> None:
        """Note that a unit has ended, and say so in a line of its own."""
        if well:
            self.reached(unit, self._epochs[unit])
        self._ended += 1
        del self._started[unit]
        self._epochs[unit] = self._done[unit]  # nothing of it is left, however it ended
        parts = [f"{' '.join(unit)} {'finished' if well else 'failed'}", f"{self._ended} of {len(self._epochs)}"]
        self._bar.write(f"{self._called}: " + ", ".join([*parts, *self._left()]), file=self._stream)

    def seconds_left(self) -> float | None:
        """Return the estimate for all units together; None before the first epoch."""
        seen = {unit: self._done[unit] - self._before[unit] for unit in self._took}
        if not seen:
            return None

        def per_epoch(units: Sequence[Key]) -> float:
            return sum(self._took[unit] for unit in units) / sum(seen[unit] for unit in units)

        left = []
        for unit, epochs in self._epochs.items():
            alike = [other for other in seen if other[0] == unit[0]]
            left.append((epochs - self._done[unit]) * per_epoch(alike or list(seen)))
        return max(sum(left) / self._jobs, *left, 0.0)

    def _left(self) -> list[str]:
        seconds = self.seconds_left()
        if not seconds:
            return []
        return [f"about {in_hours(seconds)} left"]


def in_hours(seconds: float) -> str:
    """Return a time for people, at least a minute."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes or 1} min"
