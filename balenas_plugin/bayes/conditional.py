"""Decisions of which some matter only where others let them: choices inside candidates, blocks beyond a depth.

A part is active where all conditions of one of its uses hold: a choice is used where its module stands in the network,
and a label that stands in several places is active if one of them is. An outcome holds None for what is not active, so
that equal networks have equal outcomes, and its probability is the product over its active parts: what the others
would have chosen is summed out.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from balenas_plugin.bayes.decisions import Architecture, Decision, Learned, Logits
from balenas_plugin.bayes.ranking import Outcome, Outcomes, Recalled


@dataclass(frozen=True)
class Among:
    """Holds where the outcomes of some parts together are among those allowed.

    Args:
        parts: positions of the parts.
        allowed: combinations of their outcomes.
        named: whether an architecture names what is not active because of this, which `freeze` asks for all the same.
    """

    parts: tuple[int, ...]
    allowed: frozenset[tuple[Outcome, ...]]
    named: bool = False

    def holds(self, *outcomes: Outcome) -> bool:
        """Return whether it holds."""
        return outcomes in self.allowed


@dataclass(frozen=True)
class Includes:
    """Holds where a part has chosen a member, among others: an input choice, or a node of a cell.

    Args:
        parts: position of the part.
        member: of its outcome.
        named: as above.
    """

    parts: tuple[int, ...]
    member: Outcome
    named: bool = False

    def holds(self, outcome: Outcome) -> bool:
        """Return whether it holds."""
        return self.member in outcome


Condition = Among | Includes
Use = tuple[Condition, ...]
"""Conditions from the outermost to the innermost, each on parts that those before it make active; () always holds."""

Chosen = tuple[Outcome | None, ...]
"""What each part decides, None where it is not active (or not known yet)."""


@dataclass(frozen=True)
class Conditional:
    """Decisions that depend on each other for whether they matter, as one decision.

    Args:
        parts: the decisions.
        uses: of each part.
        unused: per part, the outcome that architectures name where the part makes no difference but `freeze` asks for
            it; None for a part that is never so.
    """

    parts: tuple[Decision, ...]
    uses: tuple[tuple[Use, ...], ...]
    unused: tuple[Outcome | None, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all parts."""
        return tuple(label for part in self.parts for label in part.labels)

    def choose(self, logits: Logits) -> Chosen:
        """Return what these logits decide."""
        return self._decide(lambda part: part.choose(logits))

    def outcomes(self, posterior: Learned) -> ConditionalOutcomes:
        """Return the outcomes, each one a different network."""
        return ConditionalOutcomes(self, [part.outcomes(posterior) for part in self.parts])

    def to_architecture(self, outcome: Chosen, posterior: Learned) -> Architecture:
        """Return the choices that are active, and those that `freeze` asks for."""
        architecture: Architecture = {}
        for part, uses, chosen, unused in zip(self.parts, self.uses, outcome, self.unused, strict=True):
            named = chosen
            if chosen is None and any(self._is_unused(use, outcome) for use in uses):
                named = unused
            if named is not None:
                architecture.update(part.to_architecture(named, posterior))
        return architecture

    def from_architecture(self, architecture: Architecture) -> Chosen:
        """Return the outcome; choices that are not active need not be in the architecture, and make no difference."""
        return self._decide(lambda part: part.from_architecture(architecture))

    def active(self, outcome: Chosen) -> Iterator[tuple[Decision, Outcome]]:
        """Yield the active parts with what they decide."""
        return ((part, chosen) for part, chosen in zip(self.parts, outcome, strict=True) if chosen is not None)

    def is_active(self, part: int, chosen: Sequence[Outcome | None]) -> bool:
        """Return whether a part is active whatever the parts that are None decide."""
        return any(all(self._holds(condition, chosen) for condition in use) for use in self.uses[part])

    def _is_unused(self, use: Use, outcome: Chosen) -> bool:
        return any(condition.named and not self._holds(condition, outcome) for condition in use)

    def _holds(self, condition: Condition, chosen: Sequence[Outcome | None]) -> bool:
        known = [chosen[parent] for parent in condition.parts]
        return None not in known and condition.holds(*known)

    def _decide(self, outcome_of: Callable[[Decision], Outcome]) -> Chosen:
        chosen: list[Outcome | None] = [None] * len(self.parts)
        waiting = list(range(len(self.parts)))
        while True:
            still = []
            for part in waiting:
                if self.is_active(part, chosen):
                    chosen[part] = outcome_of(self.parts[part])
                else:
                    still.append(part)
            if len(still) == len(waiting):
                return tuple(chosen)
            waiting = still


_ROUNDING = 1e-12  # nats by which a bound is raised, so that rounding does not make it too low


class ConditionalOutcomes:
    """The outcomes of a `Conditional`.

    Args:
        decision: which one.
        parts: the outcomes of its parts.
    """

    def __init__(self, decision: Conditional, parts: Sequence[Outcomes]) -> None:
        self._decision = decision
        self.parts = parts

    def log_probability(self, outcome: Chosen) -> float:
        """Return log P(outcome): the sum over the active parts."""
        return sum(
            part.log_probability(chosen) for part, chosen in zip(self.parts, outcome, strict=True) if chosen is not None
        )

    def best_first(self) -> Iterator[tuple[Chosen, float]]:
        """Yield every network once, exactly in order.

        A* search: the parts that are surely active are decided one after the other; those decided count with their
        log-probabilities, those surely active with the best that they can reach, all others with 0, the most there is.
        """
        count = itertools.count()
        heap: list[tuple[float, int, Chosen, tuple[int, int, float] | None]] = []

        def push(chosen: Chosen, part: int, position: int, rest: float) -> None:
            item = self._by_worth[part].at(position)
            if item is not None:
                heapq.heappush(heap, (-(rest + item[0]) - _ROUNDING, next(count), chosen, (part, position, rest)))

        def go_on(chosen: Chosen) -> None:
            known = self.log_probability(chosen)
            open_parts = [
                part
                for part, outcome in enumerate(chosen)
                if outcome is None and self._decision.is_active(part, chosen)
            ]
            if open_parts:
                push(chosen, open_parts[0], 0, known + sum(self._most(part) for part in open_parts[1:]))
            else:
                heapq.heappush(heap, (-known, next(count), chosen, None))

        go_on((None,) * len(self.parts))
        while heap:
            cost, _, chosen, undecided = heapq.heappop(heap)
            if undecided is None:
                yield chosen, -cost
                continue
            part, position, rest = undecided
            push(chosen, part, position + 1, rest)
            item = self._by_worth[part].at(position)
            assert item is not None
            go_on((*chosen[:part], item[1], *chosen[part + 1 :]))

    @cached_property
    def _by_worth(self) -> list[Recalled[tuple[float, Outcome]]]:
        return [Recalled(self._worth(part)) for part in range(len(self.parts))]

    def _most(self, part: int) -> float:
        """Return the most that a part can add to the log-probability, with what it makes active."""
        best = self._by_worth[part].at(0)
        return -float("inf") if best is None else best[0]

    def _worth(self, part: int) -> Iterator[tuple[float, Outcome]]:
        """Yield the outcomes of a part with their log-probability and the most that their own parts add, best first."""
        waiting: list[tuple[float, int, Outcome]] = []
        for position, (outcome, value) in enumerate(self.parts[part].best_first()):
            while waiting and -waiting[0][0] >= value:  # what comes later is worth no more than its own log-probability
                worth, _, earlier = heapq.heappop(waiting)
                yield -worth, earlier
            inside = sum(self._most(inner) for inner, last in self._inner[part] if last.holds(outcome))
            heapq.heappush(waiting, (-(value + inside), position, outcome))
        while waiting:
            worth, _, outcome = heapq.heappop(waiting)
            yield -worth, outcome

    @cached_property
    def _inner(self) -> list[list[tuple[int, Condition]]]:
        """For each part, those that are active just where it is and has a certain outcome, with that condition."""
        inner: list[list[tuple[int, Condition]]] = [[] for _ in self.parts]
        uses = self._decision.uses
        for part, (use, *others) in enumerate(uses):
            if not others and use and len(use[-1].parts) == 1 and uses[use[-1].parts[0]] == (use[:-1],):
                inner[use[-1].parts[0]].append((part, use[-1]))
        return inner
