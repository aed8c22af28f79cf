"""What every schedule is: it looks at the search after each epoch, and asks for edits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from balenas_plugin.bayes.decisions import Decision
from balenas_plugin.diagnostics.operations import Kinds, chosen_operations
from balenas_plugin.mixed_ops import MixedOp
from balenas_plugin.schedules._edits import Anew, Edit, Stop, edit_of, plain_edit
from balenas_plugin.search_spaces import SKIP


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A search after an epoch.

    Args:
        epoch: from 0.
        last: whether no epoch follows.
        learned_since: the first epoch with architecture steps; one that is still to come in a warm-up.
        scores: label -> what discretisation ranks the choices by, shape (K,); dropped ones have -inf.
        decisions: that make an architecture of scores.
        kinds: label -> the kind of each choice, shape (K,), of labels that choose operations.
        eigenvalue: the largest of the Hessian of the validation loss, where the schedule asks for it.
    """

    epoch: int
    last: bool = False
    learned_since: int = 0
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    decisions: Sequence[Decision] = ()
    kinds: Kinds = field(default_factory=dict)
    eigenvalue: float | None = None

    def skips(self, scores: Mapping[str, Tensor] | None = None) -> dict[str, list[tuple[str, int]]]:
        """Return cell -> its skip connections, as (label, index); of normal cells, not those that reduce.

        The cell is what stands before the last "/" of a label; choices without one belong to none.

        Args:
            scores: by which the architecture is chosen, in the place of the search's own.
        """
        scores = self.scores if scores is None else scores
        outcomes = [decision.choose(scores) for decision in self.decisions]
        found: dict[str, list[tuple[str, int]]] = {}
        for label, index in chosen_operations(self.decisions, outcomes):
            cell = label.rpartition("/")[0]
            if cell and "reduc" not in cell.lower() and label in self.kinds and self.kinds[label][index] == SKIP:
                found.setdefault(cell, []).append((label, index))
        return found


class Schedule(ABC):
    """What happens to a search between its epochs.

    A member defines `after`, and overrides what else it changes. What it changes between epochs of itself is in
    `memory`, a dict of plain values, which checkpoints keep; the adapter keeps the `log` of the edits, and makes a
    network like the edited one before it loads a checkpoint's weights.
    """

    name: ClassVar[str]
    """By which options and files call it."""

    source: ClassVar[str]
    """Author, year."""

    eigenvalue_every: int = 0
    """Every how many epochs, and after the last, it looks at the largest eigenvalue; 0: never."""

    looks_back: int = 0
    """How many epochs back a `Stop` may reach."""

    drops: ClassVar[bool] = False
    """Whether it ever asks for a `Keep`."""

    drops_skips: bool = False
    """Whether `skip_dropout` is ever above 0."""

    deepens: ClassVar[bool] = False
    """Whether it asks for networks of other depths."""

    divisors: Sequence[int] = ()
    """By which it divides the channels of operations later on (`Widen`)."""

    least_depth: int = 1
    """At which the space has all of its choices; of one that `deepens` it is set before `begin`."""

    def __init__(self) -> None:
        self.log: list[tuple[int, Edit]] = []
        """(epoch after which it was made, the edit); -1 before the first epoch."""
        self.memory: dict[str, Any] = {}

    def begin(self, epochs: int, kinds: Kinds, depth: int | None) -> Sequence[Edit]:
        """Return the edits to make before the first epoch: an `Anew` at most.

        Args:
            epochs: of the whole search; -1 if it has no end.
            kinds: of a `Seen`.
            depth: of the network; None if nobody knows how to make it deeper.

        Raises:
            OptionError: it does not fit the search or the space.
        """
        return ()

    def goes_with(self, mixed_op: MixedOp | None) -> None:  # noqa: B027  # most go with all
        """Raise OptionError if it cannot edit a search whose edges compute so; None: in full."""

    @abstractmethod
    def after(self, seen: Seen) -> Sequence[Edit]:
        """Return the edits to make after an epoch."""

    def learns(self, epoch: int) -> bool:
        """Return whether the architecture is learned in an epoch."""
        return True

    def skip_dropout(self, epoch: int) -> float:
        """Return the probability by which an entry of a skip connection is dropped in an epoch."""
        return 0.0

    def epochs_of_network(self, epoch: int) -> tuple[int, int] | None:
        """Return the first epoch of the network that is trained in an epoch, and for how many; None for all."""
        return None

    def looks_at_eigenvalue(self, epoch: int, last: bool) -> bool:
        """Return whether `after` needs it after this epoch."""
        return self.eigenvalue_every > 0 and (epoch % self.eigenvalue_every == 0 or last)

    def made(self, epoch: int, edits: Sequence[Edit]) -> None:
        """Note edits as made."""
        self.log += [(epoch, edit) for edit in edits]

    @property
    def stopped(self) -> str | None:
        """Why it has ended the search, if it has."""
        return next((edit.reason for _, edit in self.log if isinstance(edit, Stop)), None)

    def network_edits(self, epoch: int) -> list[Edit]:
        """Return the edits of the log that make the network of an epoch: those before it, from the last `Anew` on."""
        edits = [edit for after, edit in self.log if after < epoch]
        last = max((k for k, edit in enumerate(edits) if isinstance(edit, Anew)), default=0)
        return edits[last:]

    def describe(self) -> str:
        """Return in words what a user should know before a search; after `begin`."""
        return f"schedule {self.name}"

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes, with the name."""
        log = [{"after": epoch, **plain_edit(edit)} for epoch, edit in self.log]
        return {"name": self.name, "log": log, "memory": self.memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        entries = [dict(entry) for entry in state["log"]]
        self.log = [(entry.pop("after"), edit_of(entry)) for entry in entries]
        self.memory = dict(state["memory"])
