"""Which architectures are worth ranking: draws from the posterior, the most probable ones, or those of DARTS-PT."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from balenas_plugin.bayes.architectures import Architectures, DescribedArchitecture
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.selection.constraints import Constraints, Found
from balenas_plugin.selection.darts_pt import perturbation_pick
from balenas_plugin.selection.proxy_selection import DARTS_PT, ProxySelection
from balenas_plugin.selection.supernet_accuracy import SupernetAccuracy

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A distinct network, and how often it was drawn (0 if it was enumerated)."""

    architecture: DescribedArchitecture
    times_drawn: int

    @property
    def sample(self) -> Architecture:
        """The architecture as a mapping."""
        return self.architecture.sample


def candidates_of(
    selection: ProxySelection,
    architectures: Architectures,
    accuracy: SupernetAccuracy | None,
    constraints: Constraints | None = None,
    *,
    progress: bool,
) -> list[Candidate]:
    """Return the candidates that a selection looks at: the first n, or the first n that keep to constraints."""

    def first(found: Iterator[Found]) -> Iterator[Found]:
        return islice(found, selection.n) if constraints is None else constraints.first(found, progress=progress)

    match selection.candidates:
        case "enumerate":
            return [Candidate(found, 0) for found in first(architectures.iterate())]
        case "sample":
            return _distinct(architectures, first(_drawn(architectures, seed=selection.seed)))
    assert accuracy is not None  # `ranking` has asked for it
    return _distinct(architectures, first(_perturbed(selection, architectures, accuracy, progress=progress)))


def drawn_candidates(architectures: Architectures, n: int, *, seed: int) -> list[Candidate]:
    """Draw alpha `n` times from q, discretise each, and drop duplicates (BaLeNAS-TF, Sec. 3.3 of the paper).

    Returns:
        Distinct architectures in the order of their first draw; their `times_drawn` add up to `n`.
    """
    return _distinct(architectures, islice(_drawn(architectures, seed=seed), n))


def _drawn(architectures: Architectures, *, seed: int) -> Iterator[Architecture]:
    noise = SeededNoise(seed)
    while True:
        yield architectures.discretise(architectures.posterior.sample(noise))


def _perturbed(
    selection: ProxySelection, architectures: Architectures, accuracy: SupernetAccuracy, *, progress: bool
) -> Iterator[Architecture]:
    for seed in count(selection.seed):
        yield perturbation_pick(
            architectures, accuracy, seed=seed, fine_tuning=selection.fine_tuning, progress=progress
        )


def _distinct(architectures: Architectures, found: Iterable[Architecture]) -> list[Candidate]:
    counts: dict[tuple[object, ...], int] = {}
    samples: dict[tuple[object, ...], Architecture] = {}
    for architecture in found:
        key = architectures.key(architecture)
        samples.setdefault(key, architecture)
        counts[key] = counts.get(key, 0) + 1
    return [Candidate(architectures.describe(architecture), counts[key]) for key, architecture in samples.items()]


def report_fewer(found: int, asked: int, selection: ProxySelection | None) -> None:
    """Say so where there are fewer distinct networks than were asked for."""
    if found >= asked:
        return
    if selection is None or selection.candidates == "enumerate":
        reason = "the space has no more"
    elif selection.candidates == DARTS_PT:
        reason = f"DARTS-PT gave no more in {selection.n} {'order' if selection.n == 1 else 'orders'}; raise n"
    else:
        reason = f"the {selection.n} draws gave no more that meet the selection; raise n"
    _logger.warning("%d distinct networks instead of the %d asked for: %s.", found, asked, reason)
