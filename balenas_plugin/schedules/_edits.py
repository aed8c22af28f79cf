"""What a schedule can ask for at the end of an epoch. Edits are in the checkpoint, so they have a plain form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Keep:
    """Drop all other choices of some labels for good; they are not computed any more."""

    labels: Mapping[str, Sequence[int]]

    def __str__(self) -> str:
        counts = sorted({len(kept) for kept in self.labels.values()})
        return f"{'-'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} choices kept"


@dataclass(frozen=True)
class Widen:
    """Let operations compute 1/`divisor` of the channels, with copies of the channels they had, momentum included."""

    divisor: int

    def __str__(self) -> str:
        return "operations widened to " + ("all channels" if self.divisor == 1 else f"1/{self.divisor} of the channels")


@dataclass(frozen=True)
class Anew:
    """Begin with a new network, weights, optimizers and distribution: of this depth, None for that of the old one."""

    depth: int | None = None

    def __str__(self) -> str:
        return "a new network" + ("" if self.depth is None else f" of depth {self.depth}")


@dataclass(frozen=True)
class Lower:
    """Lower all scores of some labels by a number each, so that labels compare by other scores than their own."""

    labels: Mapping[str, float]

    def __str__(self) -> str:
        return "labels ranked by probability"


@dataclass(frozen=True)
class Stop:
    """End the search; what it found is the distribution after `epoch`, None for the last one."""

    reason: str
    epoch: int | None = None

    def __str__(self) -> str:
        return f"stopped: {self.reason}"


Edit = Keep | Widen | Anew | Lower | Stop
_KINDS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in (Keep, Widen, Anew, Lower, Stop)}


def plain_edit(edit: Edit) -> dict[str, Any]:
    """Return an edit as containers of texts and numbers."""
    return {"edit": type(edit).__name__.lower(), **asdict(edit)}


def edit_of(plain: Mapping[str, Any]) -> Edit:
    """Return the edit of a plain form."""
    fields = dict(plain)
    found: Edit = _KINDS[fields.pop("edit")](**fields)
    return found
