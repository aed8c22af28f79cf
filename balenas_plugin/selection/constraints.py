"""What the networks of candidates cost, and which of them keep to the limits of a selection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from balenas_plugin.bayes.architectures import Architectures, DescribedArchitecture
from balenas_plugin.bayes.decisions import Architecture, CellNode, Decision, OneOf, TopSet
from balenas_plugin.bayes.ranking import Outcome
from balenas_plugin.costs.table import CostTable, Measure, Runtime
from balenas_plugin.deployment.latency import measure_latency
from balenas_plugin.errors import SpaceError
from balenas_plugin.proxies import score
from balenas_plugin.search_spaces import SearchSpace
from balenas_plugin.selection.proxy_selection import DARTS_PT, ProxySelection

MEASURES: tuple[Measure, ...] = ("params", "flops", "latency")

_REPEATS = 10
"""Of which a network's latency is the median."""

_IN_WORDS: Mapping[Measure, str] = {
    "params": "{:,.0f} parameters",
    "flops": "{:,.0f} operations per image",
    "latency": "{:.3g} ms",
}

Found = TypeVar("Found", Architecture, DescribedArchitecture)


class CandidateCosts:
    """Costs of architectures: of a table, where there is one, else counted or measured on the network.

    Args:
        space: builds the networks.
        architectures: of the space.
        inputs: a batch of images, of which the first is run.
        tables: measure -> costs of each choice, in the order of the supernet's. Counts that are not those of
            the likeliest architecture are not used: a supernet may have other layers (batch-norms without weights).
    """

    def __init__(
        self, space: SearchSpace, architectures: Architectures, inputs: Tensor, tables: Mapping[Measure, CostTable]
    ) -> None:
        self.architectures = architectures
        self._networks, self._inputs = space.networks(0), inputs
        self._tables: dict[Measure, CostTable] = {}
        self._known: dict[tuple[tuple[Outcome, ...], Measure], float] = {}
        likeliest = architectures.discretise(architectures.posterior.scores)
        for measure, table in tables.items():
            try:
                found = _sum(table, architectures.decisions, architectures.key(likeliest))
            except SpaceError:
                break  # there are decisions whose costs do not add up, so networks are counted and measured
            if measure == "latency" or found == self(likeliest, (measure,))[measure]:
                self._tables[measure] = table

    def __call__(self, architecture: Architecture, measures: Iterable[Measure]) -> dict[Measure, float]:
        """Return parameters, floating-point operations per image, or milliseconds, as they are asked for."""
        key = self.architectures.key(architecture)
        network: nn.Module | None = None
        found: dict[Measure, float] = {}
        for measure in measures:
            if (key, measure) not in self._known:
                if measure in self._tables:
                    cost = _sum(self._tables[measure], self.architectures.decisions, key)
                else:
                    network = network or self._networks.build(architecture)
                    cost = cost_of(network, measure, self._inputs[:1])
                self._known[key, measure] = cost
            found[measure] = self._known[key, measure]
        return found

    @property
    def runtime(self) -> Runtime:
        """What latencies are measured by."""
        return self._tables["latency"].runtime if "latency" in self._tables else "torch"

    def smallest(self, measure: Measure, *, progress: bool) -> float:
        """Return the least cost there is: exactly where costs add up choice by choice, else by changing one at a time.

        What the search has dropped is not looked at.
        """
        scores = self.architectures.posterior.scores
        chosen = {label: int(values.argmax()) for label, values in scores.items()}
        best = self._cost(chosen, measure)
        for label, values in tqdm(scores.items(), desc=f"smallest {measure}", disable=not progress):
            for k in (values != -torch.inf).nonzero().flatten().tolist():
                cost = self._cost({**chosen, label: k}, measure)
                if cost < best:
                    best, chosen = cost, {**chosen, label: k}
        return best

    def _cost(self, chosen: Mapping[str, int], measure: Measure) -> float:
        scores = self.architectures.posterior.scores
        one_hot = {
            label: torch.where(values == -torch.inf, values, 0.0).index_fill(0, torch.tensor(chosen[label]), 1.0)
            for label, values in scores.items()
        }
        return self(self.architectures.discretise(one_hot), (measure,))[measure]


class Constraints:
    """The limits of a selection.

    Args:
        selection: that they are of.
        costs: of the candidates.
    """

    def __init__(self, selection: ProxySelection, costs: CandidateCosts) -> None:
        self.limits, self.costs = selection.limits, costs
        self.looked_at = 0
        most = 4 * selection.n if selection.candidates == DARTS_PT else min(19 * selection.n, 5000)
        self._n, self._most = selection.n, selection.n + most

    def meets(self, architecture: Architecture) -> bool:
        """Return whether an architecture keeps to every limit."""
        costs = self.costs(architecture, self.limits)
        return all(costs[measure] <= limit for measure, limit in self.limits.items())

    def first(self, found: Iterator[Found], *, progress: bool) -> Iterator[Found]:
        """Yield the first n architectures that keep to the limits.

        It ends sooner where there are no more, or 20 n have been looked at (at most 5,000 more than n; DARTS-PT: 5 n).
        """
        kept = 0
        with tqdm(total=self._n, desc="candidates", disable=not progress) as bar:
            for candidate in islice(found, self._most):
                self.looked_at += 1
                bar.set_postfix_str(f"{self.looked_at:,} looked at")
                if self.meets(candidate.sample if isinstance(candidate, DescribedArchitecture) else candidate):
                    yield candidate
                    bar.update()
                    kept += 1
                    if kept == self._n:
                        return

    def nothing_meets(self, *, progress: bool) -> SpaceError:
        """Return what to say where no candidate keeps to the limits."""
        limits = ", ".join(f"max_{measure}={limit:g}" for measure, limit in self.limits.items())
        smallest = {measure: self.costs.smallest(measure, progress=progress) for measure in self.limits}
        least = "; ".join(_IN_WORDS[measure].format(cost) for measure, cost in smallest.items())
        cure = "raise the limit to at least that"
        if all(cost <= self.limits[measure] for measure, cost in smallest.items()):
            cure = "it is improbable by what the search has learned, so raise n or the limit, or search with a cost"
        return SpaceError(
            f"none of the {self.looked_at:,} candidates looked at meets {limits}: the smallest there is has {least}; "
            f"{cure}"
        )


def fitted(network: nn.Module, inputs: Tensor) -> tuple[nn.Module, Tensor]:
    """Bring both to the device of the inputs, and to the wider of their types where both hold real numbers."""
    network = network.to(inputs.device)
    dtypes = {
        parameter.dtype for parameter in network.parameters() if parameter.is_floating_point() or parameter.is_complex()
    }
    if not inputs.is_floating_point() or len(dtypes) != 1:
        return network, inputs
    (own,) = dtypes
    wider = torch.promote_types(own, inputs.dtype)
    return (network, inputs) if wider.is_complex else (network.to(wider), inputs.to(wider))


def cost_of(network: nn.Module, measure: Measure, image: Tensor) -> float:
    """Return the parameters of a network, its floating-point operations on an image, or its milliseconds.

    Args:
        network: of a candidate.
        measure: which of these.
        image: shape (1, C, H, W).
    """
    network, image = fitted(network, image)
    if measure == "latency":
        return measure_latency({"network": network}, image, repeats=_REPEATS).milliseconds["network"]
    return score(measure, network, image)


def _sum(table: CostTable, decisions: Iterable[Decision], outcomes: Iterable[Outcome]) -> float:
    """Return what an architecture costs by a table."""
    columns = {label: list(by_choice.values()) for label, by_choice in table.costs.items()}
    chosen = (pick for d, outcome in zip(decisions, outcomes, strict=True) for pick in _picks(d, outcome))
    return table.fixed + sum(columns[label][k] for label, k in chosen)


def _picks(decision: Decision, outcome: Outcome) -> Iterator[tuple[str, int]]:
    """Yield the label and the number of each choice of an outcome."""
    match decision:
        case OneOf():
            yield decision.label, outcome
        case TopSet():
            yield from ((decision.label, k) for k in outcome)
        case CellNode():
            yield from ((decision.labels[j], k) for j, k in outcome)
        case _:
            raise SpaceError(f"the costs of a {type(decision).__name__} do not add up choice by choice")
