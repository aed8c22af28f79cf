"""P-DARTS: three searches in a row, each deeper and with fewer operations than the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from balenas_plugin.diagnostics.operations import Kinds
from balenas_plugin.errors import OptionError
from balenas_plugin.options import NonNegativeInt, checked
from balenas_plugin.schedules._edits import Anew, Edit, Keep, Lower
from balenas_plugin.schedules._schedule import Seen
from balenas_plugin.schedules._staged import Counts, Staged
from balenas_plugin.search_spaces import NONE

Rates = Annotated[Sequence[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2)]

DEPTH_ARGUMENTS = ("num_cells", "num_modules_per_stack")
"""Names by which constructors of spaces take their depth, as a whole number."""

DEPTHS = (5 / 17, 11 / 17, 1.0)
"""Of the stages, as shares of the last one's."""


class PDarts(Staged):
    r"""Search in three stages, each with a new network, a new distribution, and the choices that the last one kept.

    Entries of skip connections (of stride 1) are dropped with a probability that the stage's rate r gives: with f
    frozen epochs of L it is :math:`r (L - 1 - e) / L` in epoch e < f, and from there on :math:`r \exp(-0.2 (e - f))`,
    so that it jumps up at f, as in the code. In the end "none" is dropped, edges compare by the softmax of their
    choices, and while a normal cell has more than `skip_limit` skip connections its least probable one is dropped.

    Args:
        depths: of the network in each stage, as the space's constructor counts them (cells of NNI's DARTS space, cells
            a stage of NAS-Bench-201); None: 5/17, 11/17 and the whole of the depth it was given, as 5, 11 and 17 cells
            in the paper; a space that nobody can make deeper keeps its depth.
        kept: how many operations a choice has left in each stage but the first; None: 5/8 and 3/8 of them.
        skip_dropout: the rate of each stage; their number is that of the stages.
        stage_epochs: of each stage; None divides the epochs of the search evenly.
        frozen_epochs: at the start of each stage that train the weights alone; None: 2/5 of it (10 of 25).
        skip_limit: skip connections a normal cell may have in the end; None: any number.

    Source: Chen et al. 2019, "Progressive Differentiable Architecture Search: Bridging the Depth Gap between Search and
    Evaluation".
    """

    name = "p-darts"
    source = "Chen et al. 2019"
    FROZEN, KEPT = 0.4, (5 / 8, 3 / 8)
    deepens = True

    def __init__(
        self,
        *,
        depths: Counts | None = None,
        kept: Counts | None = None,
        skip_dropout: Rates = (0.1, 0.4, 0.7),
        stage_epochs: Counts | None = None,
        frozen_epochs: NonNegativeInt | None = None,
        skip_limit: NonNegativeInt | None = 2,
    ) -> None:
        self.rates = [float(rate) for rate in checked("skip_dropout", skip_dropout, Rates)]
        self.depths: list[int] | None = None if depths is None else list(checked("depths", depths, Counts))
        super().__init__(stages=len(self.rates), stage_epochs=stage_epochs, frozen_epochs=frozen_epochs, kept=kept)
        if self.depths is not None and len(self.depths) != self.stages:
            raise OptionError(f"depths must have {self.stages} numbers, as skip_dropout has; got {self.depths}")
        self.skip_limit = skip_limit
        self.drops_skips = any(self.rates)

    def begin(self, epochs: int, kinds: Kinds, depth: int | None) -> Sequence[Edit]:
        """Begin with the first depth."""
        super().begin(epochs, kinds, depth)
        if self.depths is not None and depth is None:
            raise OptionError(
                f"depths {self.depths}: the space cannot be made deeper, as its constructor takes none of "
                f"{', '.join(DEPTH_ARGUMENTS)} as a whole number; leave depths out to search at its depth"
            )
        if self.depths is None and depth is not None:
            shares = DEPTHS if self.stages == len(DEPTHS) else [1.0] * self.stages
            self.depths = [max(self.least_depth, round(share * depth)) for share in shares]
        if self.depths is not None and min(self.depths) < self.least_depth:
            raise OptionError(f"depths {self.depths}: below {self.least_depth} the space lacks some of its choices")
        return () if self.depths is None or self.depths[0] == depth else (Anew(self.depths[0]),)

    def skip_dropout(self, epoch: int) -> float:
        """Return the probability of an epoch."""
        stage, number, length = self.place(epoch)
        frozen = self.frozen(length)
        if number < frozen:
            return self.rates[stage] * (length - number - 1) / length
        return self.rates[stage] * math.exp(-0.2 * (number - frozen))

    def epochs_of_network(self, epoch: int) -> tuple[int, int] | None:
        """Return the first epoch of the stage, and its epochs: each has a network of its own."""
        _, number, length = self.place(epoch)
        return epoch - number, length

    def end_of(self, stage: int, seen: Seen) -> Sequence[Edit]:
        """Return the next stage's network, with what it keeps."""
        return Anew(None if self.depths is None else self.depths[stage + 1]), self.pruned(stage, seen)

    def end(self, seen: Seen) -> Sequence[Edit]:
        """Return what makes the architecture: no "none", edges by their probabilities, few skip connections."""
        log_p = {label: scores.log_softmax(-1) for label, scores in seen.scores.items()}
        ranked = {label: without(NONE, p, seen.kinds[label]) for label, p in log_p.items() if label in seen.kinds}
        ranked = self.with_few_skips(seen, {**log_p, **ranked})
        level = {label: float(seen.scores[label].logsumexp(-1)) for label in seen.kinds}
        return Lower(level), Keep(
            {label: torch.isfinite(ranked[label]).nonzero().flatten().tolist() for label in level}
        )

    def with_few_skips(self, seen: Seen, ranked: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return scores by which no normal cell has more skip connections than may be, if there is another way.

        Args:
            seen: after the last epoch.
            ranked: label -> log-probabilities; dropped choices have -inf.
        """
        while self.skip_limit is not None:
            cells: Any = seen.skips(ranked).values()
            surplus = [
                (float(ranked[label][k]), label, k)
                for skips in cells
                if len(skips) > self.skip_limit
                for label, k in skips
                if torch.isfinite(ranked[label]).sum() > 1
            ]
            if not surplus:
                break
            _, label, k = min(surplus, key=lambda entry: entry[0])
            ranked = {
                **ranked,
                label: ranked[label].index_fill(-1, torch.tensor(k, device=ranked[label].device), -torch.inf),
            }
        return ranked


def without(kind: str, log_p: Tensor, kinds: Sequence[str]) -> Tensor:
    """Return log-probabilities with those of a kind at -inf, unless nothing else is left."""
    others = log_p.masked_fill(torch.tensor([k == kind for k in kinds], device=log_p.device), -torch.inf)
    return others if bool(torch.isfinite(others).any()) else log_p
