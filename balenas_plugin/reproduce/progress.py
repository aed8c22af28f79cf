"""How far the searches of a reproduction are: a bar on a terminal, one line a finished search in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from tqdm import tqdm


class Progress:
    """Reports what is done and what is left.

    Time is estimated from the epochs that this session has seen, each kind of search by its own: one of second order
    takes several times as long as one of first. A kind that has not been seen yet is taken for the mean of the others.

    Args:
        epochs: (kind of search, seed) -> how many epochs it takes; of the searches that are not finished.
        done: the same -> how many are done already.
        jobs: searches at a time.
        stream: to report it on.
        clock: gives seconds.
    """

    def __init__(
        self,
        epochs: Mapping[tuple[str, int], int],
        done: Mapping[tuple[str, int], int],
        *,
        jobs: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._epochs, self._done, self._before = dict(epochs), dict(done), dict(done)
        self._jobs = jobs
        self._clock = clock
        self._stream = stream or sys.stderr
        self._started: dict[tuple[str, int], float] = {}
        self._took: dict[tuple[str, int], float] = {}
        self._ended = 0
        self._bar = tqdm(
            total=sum(epochs.values()),
            initial=sum(done.values()),
            desc="searches",
            file=self._stream,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs [{elapsed}{postfix}]",
            disable=not epochs or not self._stream.isatty(),
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def started(self, search: tuple[str, int]) -> None:
        """Note that a search has started."""
        self._started[search] = self._clock()

    def reached(self, search: tuple[str, int], epochs: int) -> None:
        """Note how many epochs of a running search are done."""
        if epochs > self._done[search]:
            self._bar.update(epochs - self._done[search])
            self._done[search] = epochs
            self._took[search] = self._clock() - self._started[search]
        self._bar.set_postfix_str(", ".join([*self._left(), *(_name(search) for search in self._started)]))

    def ended(self, search: tuple[str, int], *, well: bool) -> None:
        """Note that a search has ended, and say so in a line of its own."""
        if well:
            self.reached(search, self._epochs[search])
        self._ended += 1
        del self._started[search]
        self._epochs[search] = self._done[search]  # nothing of it is left, however it ended
        parts = [f"{_name(search)} {'finished' if well else 'failed'}", f"{self._ended} of {len(self._epochs)}"]
        self._bar.write("searches: " + ", ".join([*parts, *self._left()]), file=self._stream)

    def seconds_left(self) -> float | None:
        """Return the estimate for all searches together; None before the first epoch."""
        seen = {search: self._done[search] - self._before[search] for search in self._took}
        if not seen:
            return None

        def per_epoch(searches: Sequence[tuple[str, int]]) -> float:
            return sum(self._took[search] for search in searches) / sum(seen[search] for search in searches)

        left = []
        for search, epochs in self._epochs.items():
            alike = [other for other in seen if other[0] == search[0]]
            left.append((epochs - self._done[search]) * per_epoch(alike or list(seen)))
        return max(sum(left) / self._jobs, *left, 0.0)

    def _left(self) -> list[str]:
        seconds = self.seconds_left()
        if not seconds:
            return []
        hours, minutes = divmod(round(seconds / 60), 60)
        return [f"about {f'{hours} h {minutes} min' if hours else f'{minutes or 1} min'} left"]


def _name(search: tuple[str, int]) -> str:
    return f"{search[0]} seed {search[1]}"
