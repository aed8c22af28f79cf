"""DARTS-ES: stop when the validation loss has become sharp in the architecture, and go back to before it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from balenas_plugin.options import NonNegativeInt, PositiveInt, checked
from balenas_plugin.schedules._edits import Edit, Stop
from balenas_plugin.schedules._schedule import Schedule, Seen

Factor = Annotated[float, Field(gt=1)]


class DartsES(Schedule):
    """Stop when the largest eigenvalue of the validation loss's Hessian in the architecture has grown.

    It is measured every `every` epochs and averaged over the last `window` measurements, in the middle of which the
    average stands. If it has grown by more than `factor` over `delta` measurements, the search stops, and what it found
    is the distribution at the beginning of that growth: with the defaults that of 12 epochs ago. The defaults are those
    of the code; its docstring has others.

    Args:
        every: epochs between measurements, each on the first validation batch; where the diagnostics measure in the
            same epoch, theirs is taken.
        window: measurements in an average; of the first ones fewer are averaged.
        factor: the growth that stops it.
        start: the first epoch to which the search may go back; never to one of the warm-up.
        delta: measurements over which growth is taken.

    Source: Zela et al. 2020, "Understanding and Robustifying Differentiable Architecture Search", Section 4.3.
    """

    name = "darts-es"
    source = "Zela et al. 2020"

    def __init__(
        self,
        *,
        every: PositiveInt = 2,
        window: PositiveInt = 5,
        factor: Factor = 1.3,
        start: NonNegativeInt = 10,
        delta: PositiveInt = 4,
    ) -> None:
        super().__init__()
        self.eigenvalue_every = int(checked("every", every, PositiveInt))
        self.window, self.delta = int(checked("window", window, PositiveInt)), int(checked("delta", delta, PositiveInt))
        self.factor, self.start = float(checked("factor", factor, Factor)), checked("start", start, NonNegativeInt)
        self._behind = self.eigenvalue_every * (self.window // 2)
        self.looks_back = self._behind + self.eigenvalue_every * self.delta
        self.memory = {"eigenvalues": [], "averages": []}

    def after(self, seen: Seen) -> Sequence[Edit]:
        """Average, and stop if that has grown; what could not be measured is left out."""
        if not self.looks_at_eigenvalue(seen.epoch, seen.last) or seen.eigenvalue is None:
            return ()
        if seen.epoch < seen.learned_since:
            return ()
        measured, averages = self.memory["eigenvalues"], self.memory["averages"]
        measured.append(seen.eigenvalue)
        half = (self.window + 1) // 2
        if len(measured) < half:
            return ()
        for left_out in range(half if seen.last else 1):  # the last epochs have none in the middle of a whole window
            recent = measured[-self.window + left_out :]
            averages.append(sum(recent) / len(recent))
        back = seen.epoch - self.looks_back
        if (
            seen.last
            or back < max(self.start, seen.learned_since)
            or len(averages) <= self.delta
            or averages[-1 - self.delta] <= 0
        ):
            return ()
        growth = averages[-1] / averages[-1 - self.delta]
        if growth <= self.factor:
            return ()
        return (Stop(f"the largest eigenvalue has grown by a factor of {growth:.2f}, so epoch {back} is taken", back),)
