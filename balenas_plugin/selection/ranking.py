"""BaLeNAS-TF: rank candidates from the posterior with zero-cost proxies, and say how stable the winner is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.costs.table import CostTable, Measure
from balenas_plugin.errors import SpaceError
from balenas_plugin.search_spaces import SearchSpace
from balenas_plugin.selection.candidates import Candidate, candidates_of
from balenas_plugin.selection.constraints import CandidateCosts, Constraints
from balenas_plugin.selection.proxy_selection import ProxySelection
from balenas_plugin.selection.scoring import score_candidates, supernet_accuracy
from balenas_plugin.selection.supernet_accuracy import Supernet

_BOOTSTRAPS = 1000


@dataclass(frozen=True, kw_only=True)
class RankedArchitecture:
    """One architecture of a ranking.

    Args:
        rank: 1 is the best.
        choices: the architecture, label -> what was chosen.
        notation: the space's own notations of it.
        probability: P(architecture) under the posterior, exact.
        log_probability: the same, in nats.
        times_drawn: how many of the n draws gave it; 0 if it was enumerated.
        scores: proxy -> the number it was ranked by, higher is better (SynFlow, the probability: its logarithm; the
            supernet's accuracy: from 0 to 1), mean over seeds.
        winning_probability: decision -> probability of what was chosen.
        stability: share of bootstrap repetitions in which it comes first, over draws (if sampled) and seeds.
        params: parameters, where a limit or the caller asked for them.
        flops: floating-point operations per image, likewise.
        latency: milliseconds for an image on this machine, likewise.
        latency_by: "onnxruntime" or "torch", by which that was measured.
        ground_truth: what a benchmark knows of it.
        epoch: of the search, after which the posterior was that; None for the last.
    """

    rank: int
    choices: Architecture
    notation: dict[str, str]
    probability: float
    log_probability: float
    times_drawn: int
    scores: dict[str, float]
    winning_probability: dict[str, float]
    stability: float
    params: float | None = None
    flops: float | None = None
    latency: float | None = None
    latency_by: str | None = None
    ground_truth: dict[str, Any] | None = field(default=None)
    epoch: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; infinities become None."""
        return {key: _finite(value) for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RankedArchitecture:
        """Return the record that `to_dict` gave.

        Raises:
            TypeError: a value is missing, or there is one too many.
        """
        impossible = {"log_probability": -math.inf} if values.get("log_probability") is None else {}
        scores = {proxy: -math.inf if score is None else score for proxy, score in values["scores"].items()}
        return cls(**{**values, **impossible, "scores": scores})


def rank(
    posterior: Posterior,
    space: SearchSpace,
    selection: ProxySelection | None = None,
    *,
    inputs: Tensor | None = None,
    targets: Tensor | None = None,
    supernet: Supernet | None = None,
    costs: Sequence[Measure] = (),
    tables: Mapping[Measure, CostTable] | None = None,
    progress: bool = False,
) -> list[RankedArchitecture]:
    """Rank architectures from a posterior with zero-cost proxies or the supernet's accuracy; the best comes first.

    Args:
        posterior: of a search in `space`.
        space: builds the networks.
        selection: which candidates, scored how; the paper's BaLeNAS-TF by default.
        inputs: a batch of images, shape (B, C, H, W), for the proxies that look at data; ones if none is given.
        targets: its labels, shape (B,), for the proxies that need them.
        supernet: of the search, for a selection by its accuracy.
        costs: what to find out of every candidate, besides what is limited.
        tables: measure -> costs of each choice that add up, in the place of counting and measuring networks.
        progress: show a progress bar.

    Raises:
        SpaceError: the posterior is of another space, or no candidate keeps to the limits; the message names the
            smallest cost there is.
        OptionError: a proxy needs labels that were not given, or the supernet's accuracy a supernet.

    Source: Zhang et al. 2022, Sec. 3.3 and Table 4.
    """
    selection = selection or ProxySelection()
    _require_same_space(posterior, space)
    accuracy = supernet_accuracy(selection, supernet)
    if inputs is None:
        inputs = space.inputs(1)
    architectures = Architectures(space.decisions, posterior)
    cost_of = CandidateCosts(space, architectures, inputs, tables or {})
    constraints = Constraints(selection, cost_of) if selection.limits else None
    candidates = candidates_of(selection, architectures, accuracy, constraints, progress=progress)
    if not candidates and constraints is not None:
        raise constraints.nothing_meets(progress=progress)
    values = score_candidates(
        candidates, space, selection, inputs=inputs, targets=targets, accuracy=accuracy, progress=progress
    )
    order, first_share = _order_and_stability(candidates, values, selection)
    measures = tuple(dict.fromkeys([*costs, *selection.limits]))
    bar = tqdm(candidates, desc="costs", disable=not (progress and measures))
    found = [cost_of(candidate.sample, measures) for candidate in bar]
    return [
        RankedArchitecture(
            rank=position,
            choices=candidates[i].sample,
            notation=space.notations(candidates[i].sample),
            probability=math.exp(candidates[i].architecture.log_probability),
            log_probability=candidates[i].architecture.log_probability,
            times_drawn=candidates[i].times_drawn,
            scores=dict(zip(selection.proxies, values[i].mean(-1).tolist(), strict=True)),
            winning_probability={k: math.exp(v) for k, v in candidates[i].architecture.decisions.items()},
            stability=float(first_share[i]),
            params=found[i].get("params"),
            flops=found[i].get("flops"),
            latency=found[i].get("latency"),
            latency_by=cost_of.runtime if "latency" in measures else None,
        )
        for position, i in enumerate(order, start=1)
    ]


def _require_same_space(posterior: Posterior, space: SearchSpace) -> None:
    wanted = {label for decision in space.decisions for label in decision.labels}
    if wanted != set(posterior.labels):
        missing, extra = sorted(wanted - set(posterior.labels)), sorted(set(posterior.labels) - wanted)
        raise SpaceError(
            f"the posterior is of another space: it lacks the labels {missing[:5]} and has {extra[:5]} besides. "
            "Give the space that was searched."
        )


def _order_and_stability(
    candidates: Sequence[Candidate], values: Tensor, selection: ProxySelection
) -> tuple[list[int], Tensor]:
    """Return the order of the candidates, and how often each comes first when draws and seeds are resampled.

    Args:
        values: shape (candidates, proxies, seeds), higher is better.
    """
    log_probability = torch.tensor([c.architecture.log_probability for c in candidates], dtype=torch.float64)
    order = best_to_worst(values, log_probability, selection)
    generator = torch.Generator().manual_seed(selection.seed)
    drawn = torch.tensor([float(max(c.times_drawn, 1)) for c in candidates])
    present = torch.ones(_BOOTSTRAPS, len(candidates), dtype=torch.bool)
    if selection.candidates == "sample":
        draws = int(drawn.sum())
        again = torch.multinomial(drawn, _BOOTSTRAPS * draws, replacement=True, generator=generator)
        present = torch.zeros_like(present).scatter_(1, again.reshape(_BOOTSTRAPS, draws), value=True)
    seeds = values.shape[-1]
    places = _places(order).expand(_BOOTSTRAPS, -1)
    if seeds > 1:
        picked = [torch.randint(seeds, (seeds,), generator=generator) for _ in range(_BOOTSTRAPS)]
        places = torch.stack([_places(best_to_worst(values[..., p], log_probability, selection)) for p in picked])
    winners = torch.where(present, places, len(candidates)).argmin(1)
    return order, torch.bincount(winners, minlength=len(candidates)) / _BOOTSTRAPS


def best_to_worst(values: Tensor, log_probability: Tensor, selection: ProxySelection) -> list[int]:
    """Return the candidates from the best to the worst; ties are broken by the first proxy.

    Args:
        values: shape (candidates, proxies, seeds), higher is better.
        log_probability: in nats, shape (candidates,).
        selection: says whether the probability counts.
    """
    points = _mean_rank(_criteria(values.mean(-1), log_probability, selection)).tolist()
    first_proxy = values[:, 0].mean(-1).tolist()
    return sorted(range(len(points)), key=lambda i: (points[i], -first_proxy[i], i))


def _places(order: list[int]) -> Tensor:
    """Return each candidate's place in an order, shape (candidates,)."""
    return torch.tensor(order).argsort()


def _criteria(values: Tensor, log_probability: Tensor, selection: ProxySelection) -> Tensor:
    """Return shape (candidates, criteria), higher is better."""
    return torch.cat([values, log_probability[:, None]], 1) if selection.include_probability else values


def _mean_rank(criteria: Tensor) -> Tensor:
    """Return each candidate's rank averaged over the criteria (ties share the better rank), shape (candidates,)."""
    columns = criteria.T.contiguous()
    not_better = torch.searchsorted(columns.sort(-1).values, columns, right=True)  # how many are at most as good
    return (len(criteria) - not_better).double().mean(0)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
