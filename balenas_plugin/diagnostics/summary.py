"""The figures of one epoch that follow from what was learned alone: no data, no weights, no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from balenas_plugin.bayes.decisions import Architecture, Decision
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.bayes.ranking import Outcome
from balenas_plugin.diagnostics.cells import depth, width
from balenas_plugin.diagnostics.log_file import law_columns, plain
from balenas_plugin.diagnostics.operations import Kinds, chosen_kinds, parameter_free_share, skip_ratio
from balenas_plugin.diagnostics.uncertainty import choice_entropy, draw_outcomes, probabilities
from balenas_plugin.search_spaces import SearchSpace

Truths = Callable[[Sequence[Architecture]], Mapping[str, Any] | None]
"""Samples -> {"unseen_by_search", "table", "accuracy": data set -> one percent a sample}, or None without a table."""


@dataclass(frozen=True, kw_only=True)
class SearchState:
    """What a search has learned by now.

    Args:
        posterior: what was learned of the choices.
        decisions: that make up an architecture, over the labels of `posterior`.
        choices: label -> names of the candidates.
        kinds: of the candidates that are operations.
        has_argmax: whether the largest scores are the architecture found; random sampling has none.
        space: that is searched.
    """

    posterior: Posterior
    decisions: Sequence[Decision]
    choices: Mapping[str, Sequence[str]]
    kinds: Kinds = field(default_factory=dict)
    has_argmax: bool = True
    space: SearchSpace = field(default_factory=SearchSpace)

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return what the largest scores decide."""
        return tuple(decision.choose(self.posterior.scores) for decision in self.decisions)

    def sample(self, outcomes: Sequence[Outcome]) -> Architecture:
        """Return an architecture as a mapping."""
        architecture: Architecture = {}
        for decision, outcome in zip(self.decisions, outcomes, strict=True):
            architecture.update(decision.to_architecture(outcome, self.posterior))
        return architecture


def summarise(state: SearchState, *, draws: int, seed: int, truths: Truths = lambda samples: None) -> dict[str, Any]:
    """Return the record of one epoch, but for what needs data: accuracy and curvature.

    Args:
        state: of the search.
        draws: how many architectures to draw.
        seed: of the draws.
        truths: looks architectures up in a table; whatever it knows, the search does not see it.
    """
    posterior = state.posterior
    scores = posterior.scores
    broken = [f"logits of {label}" for label, values in scores.items() if not (values < torch.inf).all()]
    record: dict[str, Any] = {"logits": _lists(scores)} if state.has_argmax else {}
    record |= {name: _lists(values) for name, values in law_columns(posterior).items()}
    if broken:
        return {**record, "not_finite": broken}
    wins = probabilities(posterior, state.decisions)
    record["probabilities"] = plain({label: p.tolist() for label, p in wins.items()}, digits=6)
    record["entropy"] = plain(posterior.entropy())
    spreads = [law.to(torch.float64).spread() for law in posterior.laws.values()]
    for name in spreads[0]:
        values = torch.cat([spread[name] for spread in spreads])
        record[name] = plain({"mean": float(values.mean()), "least": float(values.min()), "most": float(values.max())})
    record["choice_entropy"] = plain(choice_entropy(wins))
    if state.has_argmax:
        record.update(_architecture(state, truths))
    if draws:
        record["draws"] = _draws(state, draws, seed, truths)
    return record


def _architecture(state: SearchState, truths: Truths) -> dict[str, Any]:
    outcomes = state.outcomes()
    architecture = state.sample(outcomes)
    entry = {
        "architecture": architecture,
        "notation": state.space.notations(architecture),
        **_shape(state, outcomes, architecture),
    }
    cells = state.space.cells(architecture)
    if cells:
        entry["cells"] = plain({name: {"depth": depth(cell), "width": width(cell)} for name, cell in cells.items()})
    truth = truths([architecture])
    if truth is not None:
        accuracy = {name: values[0] for name, values in truth["accuracy"].items()}
        entry["ground_truth"] = {**truth, "accuracy": plain(accuracy, digits=6)}
    return {key: value for key, value in entry.items() if value is not None and key not in ("depth", "width")}


def _draws(state: SearchState, count: int, seed: int, truths: Truths) -> dict[str, Any]:
    drawn = draw_outcomes(state.posterior, state.decisions, count=count, seed=seed)
    distinct = {outcomes: state.sample(outcomes) for outcomes in dict.fromkeys(drawn)}
    shapes = {outcomes: _shape(state, outcomes, architecture) for outcomes, architecture in distinct.items()}
    entry: dict[str, Any] = {"count": count, "distinct": len(distinct)}
    for name in ("skip_ratio", "parameter_free_share", "depth", "width"):
        values = [value for outcomes in drawn if (value := shapes[outcomes][name]) is not None]
        if values:
            entry[name] = plain(sum(values) / len(values))
    truth = truths(list(distinct.values()))
    if truth is not None:
        place = {outcomes: position for position, outcomes in enumerate(distinct)}
        accuracy = {name: [values[place[o]] for o in drawn] for name, values in truth["accuracy"].items()}
        entry["ground_truth"] = {**truth, "accuracy": plain(accuracy, digits=6)}
    return entry


def _shape(state: SearchState, outcomes: Sequence[Outcome], architecture: Architecture) -> dict[str, float | None]:
    """Return the shares of kinds, and depth and width averaged over cells, of one architecture."""
    kinds = chosen_kinds(state.decisions, outcomes, state.kinds)
    cells = list(state.space.cells(architecture).values())
    return {
        "skip_ratio": plain(skip_ratio(kinds)),
        "parameter_free_share": plain(parameter_free_share(kinds)),
        "depth": sum(map(depth, cells)) / len(cells) if cells else None,
        "width": sum(map(width, cells)) / len(cells) if cells else None,
    }


def _lists(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = plain({label: tensor.double().tolist() for label, tensor in tensors.items()})
    return found
