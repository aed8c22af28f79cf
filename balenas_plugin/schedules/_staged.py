"""What schedules of stages share: which epochs a stage has, and the architecture frozen at its start."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from balenas_plugin.diagnostics.operations import Kinds
from balenas_plugin.errors import OptionError
from balenas_plugin.mixed_ops import MixedOp
from balenas_plugin.options import NonNegativeInt, PositiveInt, checked
from balenas_plugin.schedules._edits import Edit, Keep
from balenas_plugin.schedules._schedule import Schedule, Seen
from balenas_plugin.search_spaces import NONE

Counts = Annotated[Sequence[PositiveInt], Field(min_length=1)]


class Staged(Schedule):
    """Search in stages; a member says what ends one (`end_of`).

    Args:
        stages: how many.
        stage_epochs: of each; None divides the epochs of the search evenly.
        frozen_epochs: at the start of each stage without architecture steps; None: `FROZEN` of the stage.
        kept: how many choices of operations every label begins each stage with, but the first; None: `KEPT`, two at
            least, between which there is something to learn.
    """

    drops = True

    FROZEN: ClassVar[float]
    """Share of a stage, where `frozen_epochs` is not given: the paper's."""

    KEPT: ClassVar[Sequence[float]]
    """Share of the choices of each stage but the first, where `kept` is not given: the paper's."""

    def __init__(
        self,
        *,
        stages: int,
        stage_epochs: Counts | None = None,
        frozen_epochs: NonNegativeInt | None = None,
        kept: Counts | None = None,
    ) -> None:
        super().__init__()
        self.stages, self.kept = stages, kept
        self.given_epochs = None if stage_epochs is None else list(checked("stage_epochs", stage_epochs, Counts))
        self.frozen_epochs = None if frozen_epochs is None else checked("frozen_epochs", frozen_epochs, NonNegativeInt)
        self.starts: list[int] = []
        """The first epoch of each stage, and behind them the number of all epochs."""
        for what, given, count in (("stage_epochs", self.given_epochs, stages), ("kept", kept, stages - 1)):
            if given is not None and len(given) != count:
                raise OptionError(f"{what} must have {count} numbers for {stages} stages, got {list(given)}")
        if kept is None and len(self.KEPT) != stages - 1:
            raise OptionError(
                f"kept must be given for {stages} stages: {self.name} knows the paper's {len(self.KEPT) + 1}"
            )
        if kept is not None and sorted(kept, reverse=True) != list(kept):
            raise OptionError(f"kept must not grow, as what was dropped stays so; got {list(kept)}")

    def goes_with(self, mixed_op: MixedOp | None) -> None:
        """Refuse what computes candidates together, so that none can be dropped."""
        if mixed_op is not None and not mixed_op.adds_up:
            raise OptionError(f"{self.name} drops candidates one by one, and {mixed_op.name} computes them together")

    def begin(self, epochs: int, kinds: Kinds, depth: int | None) -> Sequence[Edit]:
        """Divide the epochs.

        Raises:
            OptionError: they cannot be divided so, or more choices are to be kept than there are.
        """
        if epochs < 0:
            raise OptionError(f"{self.name} divides the epochs into stages, so the search must have a last one")
        given = self.given_epochs
        if given is not None and sum(given) != epochs:
            raise OptionError(f"stage_epochs {given} are {sum(given)} epochs in all, but the search has {epochs}")
        if epochs < self.stages:
            raise OptionError(f"{self.stages} stages need as many epochs at least, but the search has {epochs}")
        if given is None:
            self.starts = [round(k * epochs / self.stages) for k in range(self.stages + 1)]
        else:
            self.starts = [sum(given[:k]) for k in range(self.stages + 1)]
        shortest = min(b - a for a, b in zip(self.starts, self.starts[1:], strict=False))
        if self.frozen_epochs is not None and self.frozen_epochs >= shortest:
            raise OptionError(
                f"frozen_epochs must be less than the epochs of the shortest stage, {shortest}, or it searches "
                f"nothing; got {self.frozen_epochs}"
            )
        most = max((len(of_label) for of_label in kinds.values()), default=0)
        if not kinds:
            raise OptionError(f"{self.name} drops operations, but the space chooses among none that have weights")
        if self.kept is not None and self.kept[0] > most:
            raise OptionError(f"kept must be at most {most}, the number of operations a choice has; got {self.kept[0]}")
        return ()

    def place(self, epoch: int) -> tuple[int, int, int]:
        """Return the stage of an epoch, the number of the epoch in it, both from 0, and the epochs of the stage."""
        stage = max(k for k in range(self.stages) if self.starts[k] <= epoch)
        return stage, epoch - self.starts[stage], self.starts[stage + 1] - self.starts[stage]

    def frozen(self, length: int) -> int:
        """Return how many epochs at the start of a stage of `length` epochs have no architecture steps."""
        return int(self.FROZEN * length + 1e-9) if self.frozen_epochs is None else self.frozen_epochs

    def learns(self, epoch: int) -> bool:
        """Return whether the frozen epochs of the stage are over."""
        _, number, length = self.place(epoch)
        return number >= self.frozen(length)

    def describe(self) -> str:
        """Return the epochs of the stages."""
        lengths = [b - a for a, b in zip(self.starts, self.starts[1:], strict=False)]
        frozen = ", ".join(str(self.frozen(length)) for length in lengths)
        return f"{super().describe()}: stages of {', '.join(map(str, lengths))} epochs, frozen for the first {frozen}"

    def after(self, seen: Seen) -> Sequence[Edit]:
        """Return what ends the stage, if this was its last epoch, or the search was stopped."""
        stage, number, length = self.place(seen.epoch)
        if seen.last:
            return self.end(seen)
        return self.end_of(stage, seen) if number + 1 == length else ()

    @abstractmethod
    def end_of(self, stage: int, seen: Seen) -> Sequence[Edit]:
        """Return the edits between a stage and the next one."""

    def end(self, seen: Seen) -> Sequence[Edit]:
        """Return the edits after the last epoch."""
        return ()

    def pruned(self, stage: int, seen: Seen) -> Keep:
        """Return what the next stage keeps: the best choices of operations of every label, by their scores."""
        share = 0.0 if self.kept is not None else self.KEPT[stage]
        found = {}
        for label, kinds in seen.kinds.items():
            number = max(2, round(share * len(kinds))) if self.kept is None else self.kept[stage]
            found[label] = strongest(seen.scores[label], number, kinds)
        return Keep(found)


def strongest(scores: Tensor, number: int, kinds: Sequence[str]) -> list[int]:
    """Return the indices of the best choices that are left, in their order; never nothing but "none".

    Of equal ones the last are kept, as by P-DARTS, which drops the first.

    Args:
        scores: shape (K,); -inf where a choice was dropped.
        number: how many to keep, if there are so many.
        kinds: of each choice.
    """
    left = int(torch.isfinite(scores).sum())
    order = scores.argsort(stable=True).tolist()[len(scores) - left :]
    best = order[-min(number, left) :]
    if all(kinds[k] == NONE for k in best):
        best = [*[k for k in order if kinds[k] != NONE][-1:], *best[1:]] or best
    return sorted(best)
