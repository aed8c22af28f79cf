"""What kind of operation a candidate is, and how much of an architecture is skip connections (Fig. 2 of the paper)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from balenas_plugin.bayes.architectures import active_decisions
from balenas_plugin.bayes.decisions import CellNode, Decision, OneOf
from balenas_plugin.bayes.ranking import Outcome
from balenas_plugin.search_spaces import NONE, PARAMETER_FREE, PARAMETRIC, SKIP

Kinds = Mapping[str, Sequence[str]]
"""label -> the kind of each of its candidates; labels that choose no operation (inputs, depths, widths) are absent."""

_SKIP_WORDS = ("skip", "identity")
_NONE_WORDS = ("none", "zero")


def kind_of(name: str, *, is_identity: bool, num_parameters: int) -> str:
    """Return the kind of a candidate operation.

    Args:
        name: as the space calls it; "none" and "zero" are no connection, "skip..." and "identity" are skips.
        is_identity: whether it returns its input.
        num_parameters: trainable ones. A skip that reduces (with a convolution) is still a skip.
    """
    word = name.lower()
    if word in _NONE_WORDS:
        return NONE
    if is_identity or any(part in word for part in _SKIP_WORDS):
        return SKIP
    return PARAMETRIC if num_parameters else PARAMETER_FREE


def chosen_operations(decisions: Iterable[Decision], outcomes: Iterable[Outcome]) -> list[tuple[str, int]]:
    """Return (label, index) of every candidate that an architecture has: `outcomes` are what `decisions` decided."""
    found: list[tuple[str, int]] = []
    for decision, outcome in active_decisions(decisions, outcomes):
        if isinstance(decision, OneOf):
            found.append((decision.label, outcome))
        elif isinstance(decision, CellNode):
            found += [(decision.labels[source], operation) for source, operation in outcome]
    return found


def chosen_kinds(decisions: Iterable[Decision], outcomes: Iterable[Outcome], kinds: Kinds) -> list[str]:
    """Return the kinds of the operations of one architecture: `outcomes` are what `decisions` decided."""
    return [kinds[label][index] for label, index in chosen_operations(decisions, outcomes) if label in kinds]


def skip_ratio(kinds: Sequence[str]) -> float | None:
    """Return the share of skip connections among operations, from 0 to 1; None without operations (Fig. 2)."""
    return _share(kinds, (SKIP,))


def parameter_free_share(kinds: Sequence[str]) -> float | None:
    """Return the share of operations without weights (none, skips, pooling), from 0 to 1; None without operations."""
    return _share(kinds, (NONE, SKIP, PARAMETER_FREE))


def _share(kinds: Sequence[str], wanted: tuple[str, ...]) -> float | None:
    return sum(kind in wanted for kind in kinds) / len(kinds) if kinds else None
