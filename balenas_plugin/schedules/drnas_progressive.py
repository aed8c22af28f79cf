"""DrNAS's progressive search: few channels and all operations first, then more channels and fewer operations."""

from __future__ import annotations

from collections.abc import Sequence

from balenas_plugin.errors import OptionError
from balenas_plugin.mixed_ops import MixedOp
from balenas_plugin.mixed_ops.partial_channels import PartialChannels
from balenas_plugin.options import NonNegativeInt, checked
from balenas_plugin.schedules._edits import Edit, Widen
from balenas_plugin.schedules._schedule import Seen
from balenas_plugin.schedules._staged import Counts, Staged


class DrNASProgressive(Staged):
    """Search with partial channels in stages: drop operations, widen those that stay, and go on.

    Between stages the operations with the best scores stay, and get more of the channels: copies of those that they
    have, momentum and batch-norm statistics included (`mixed_ops.channels`); the learning rate of the weights goes on.

    Args:
        channels: k of each stage: operations compute 1/k of the channels. The first is that of the mixed operation,
            ``mixed_op: {name: partial-channels, k: 4}``; their number is that of the stages. Each divides the number of
            channels of every edge.
        kept: how many operations a choice has left in each stage but the first; None: 3/5 of them.
        stage_epochs: of each stage; None divides the epochs of the search evenly.
        frozen_epochs: at the start of each stage that train the weights alone; None: 1/5 of it (10 of 50).

    Source: Chen et al. 2021, "DrNAS: Dirichlet Neural Architecture Search", Section 3.3.
    """

    name = "drnas-progressive"
    source = "Chen et al. 2021"
    FROZEN, KEPT = 0.2, (3 / 5,)

    def __init__(
        self,
        *,
        channels: Counts = (4, 2),
        kept: Counts | None = None,
        stage_epochs: Counts | None = None,
        frozen_epochs: NonNegativeInt | None = None,
    ) -> None:
        self.channels: list[int] = [int(k) for k in checked("channels", channels, Counts)]
        super().__init__(stages=len(self.channels), stage_epochs=stage_epochs, frozen_epochs=frozen_epochs, kept=kept)
        if any(later >= k for k, later in zip(self.channels, self.channels[1:], strict=False)):
            raise OptionError(f"channels must fall from stage to stage; got {self.channels}")
        self.divisors = self.channels[1:]

    def goes_with(self, mixed_op: MixedOp | None) -> None:
        """Ask for partial channels, the first stage's."""
        if not isinstance(mixed_op, PartialChannels) or mixed_op.k != self.channels[0]:
            raise OptionError(
                f"{self.name} widens partial channels from k={self.channels[0]} on: say mixed_op: "
                f"{{name: partial-channels, k: {self.channels[0]}}}"
            )

    def end_of(self, stage: int, seen: Seen) -> Sequence[Edit]:
        """Return what is dropped, and the next stage's channels."""
        return self.pruned(stage, seen), Widen(self.channels[stage + 1])
