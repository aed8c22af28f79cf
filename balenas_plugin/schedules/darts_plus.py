"""DARTS+: stop at the second skip connection of a cell, or when operations keep their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from balenas_plugin.options import PositiveInt, checked
from balenas_plugin.schedules._edits import Edit, Stop
from balenas_plugin.schedules._schedule import Schedule, Seen
from balenas_plugin.search_spaces import PARAMETRIC

Criterion = Literal["skips", "ranking"]


class DartsPlus(Schedule):
    """Stop by one of DARTS+'s two criteria; the distribution stays as it is then.

    Args:
        criterion: "skips": a normal cell of the architecture found has `skips` skip connections or more; "ranking": on
            every edge the operations with weights have kept their order, by their scores, for `window` epochs.
        skips: as above.
        window: as above.

    Source: Liang et al. 2019, "DARTS+: Improved Differentiable Architecture Search with Early Stopping", criteria 1
    and 1*. No code of the authors is public.
    """

    name = "darts-plus"
    source = "Liang et al. 2019"

    def __init__(self, *, criterion: Criterion = "skips", skips: PositiveInt = 2, window: PositiveInt = 10) -> None:
        super().__init__()
        self.criterion: Any = checked("criterion", criterion, Criterion)
        self.limit, self.window = int(checked("skips", skips, PositiveInt)), int(checked("window", window, PositiveInt))
        self.memory = {"ranking": None, "unchanged": 0}

    def after(self, seen: Seen) -> Sequence[Edit]:
        """Look at what the criterion is about, once the architecture is learned."""
        if seen.epoch < seen.learned_since:
            return ()
        if self.criterion == "skips":
            return self.at_skips(max(map(len, seen.skips().values()), default=0))
        return self.at_ranking(
            [
                [k for k in scores.argsort(descending=True, stable=True).tolist() if seen.kinds[label][k] == PARAMETRIC]
                for label, scores in seen.scores.items()
                if label in seen.kinds
            ]
        )

    def at_skips(self, count: int) -> Sequence[Edit]:
        """Stop if the cell with the most skip connections has so many."""
        return (Stop(f"a cell has {count} skip connections"),) if count >= self.limit else ()

    def at_ranking(self, ranking: Any) -> Sequence[Edit]:
        """Count how often in a row the ranking was that of the epoch before; stop if that is often enough."""
        self.memory["unchanged"] = self.memory["unchanged"] + 1 if ranking == self.memory["ranking"] else 0
        self.memory["ranking"] = ranking
        if self.memory["unchanged"] < self.window:
            return ()
        return (Stop(f"the operations have kept their ranks for {self.window} epochs"),)
