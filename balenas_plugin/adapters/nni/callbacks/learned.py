"""What any one-shot search, of this package or NNI's own, has learned by now, as the diagnostics see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from nni.mutable import Categorical, CategoricalMultiple
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from torch import Tensor

from balenas_plugin.adapters.nni.candidates.operations import operation_kinds
from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, choice_names
from balenas_plugin.adapters.nni.supernets.supernet_decisions import decisions_of
from balenas_plugin.bayes.decisions import Decision, OneOf, TopSet
from balenas_plugin.bayes.laws import GumbelLaw
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.diagnostics import SearchState
from balenas_plugin.search_spaces import space_of


def search_state(module: BaseOneShotLightningModule) -> SearchState | None:
    """Return what the search has learned, or None if it says nothing (ENAS before its first sample).

    A search that learns a distribution says it, NNI's own differentiable strategies have logits, ENAS its controller's
    probabilities (as if its choices were independent), random sampling equal ones.
    """
    space = module.model
    alphas = architecture_parameters(space)
    if not alphas:
        return _sampling_state(module, space)
    return SearchState(
        posterior=module.distribution.posterior() if isinstance(module, DistributionModule) else _softmax(alphas),
        decisions=decisions_of(space),
        choices=choice_names(space),
        kinds=operation_kinds(space),
        space=space_of(space),
    )


def _softmax(logits: Mapping[str, Tensor]) -> Posterior:
    """Return what chooses with the softmax of logits as probabilities."""
    return Posterior.of({label: GumbelLaw(a.detach().cpu().clone()) for label, a in logits.items()}, kind="softmax")


def _sampling_state(module: BaseOneShotLightningModule, space: Any) -> SearchState | None:
    """Return the state of a strategy that keeps no logits in the network."""
    decisions: list[Decision] = []
    choices: dict[str, tuple[str, ...]] = {}
    for label, domain in sorted(space.simplify().items()):
        if isinstance(domain, CategoricalMultiple):
            decisions.append(TopSet(label, int(domain.n_chosen or 1)))
        elif isinstance(domain, Categorical):
            decisions.append(OneOf(label, tuple(domain.values)))
        else:
            continue
        choices[label] = tuple(str(value) for value in domain.values)
    logits: dict[str, Tensor] = {label: torch.zeros(len(names)) for label, names in choices.items()}
    controller = getattr(module, "_generator", None)  # ENAS
    if controller is not None:
        if controller.sample_logits is None:
            return None
        for label, probabilities in controller.sample_logits.items():
            if label in logits and len(probabilities) == len(logits[label]):
                logits[label] = torch.as_tensor(probabilities, dtype=torch.float64).clamp_min(1e-12).log()
    if not decisions:
        return None
    return SearchState(
        posterior=_softmax(logits),
        decisions=decisions,
        choices=choices,
        kinds=operation_kinds(space),
        has_argmax=controller is not None,
        space=space_of(space),
    )


def header_of(state: SearchState, module: Any) -> dict[str, Any]:
    """Return what the diagnostics' first line says of the search."""
    name = type(module).__name__.removesuffix("LightningModule")
    return {
        "strategy": module.method if isinstance(module, DistributionModule) else name,
        "distribution": state.posterior.kind,
        "choices": {label: list(names) for label, names in state.choices.items()},
        "kinds": {label: list(kinds) for label, kinds in state.kinds.items()},
    }
