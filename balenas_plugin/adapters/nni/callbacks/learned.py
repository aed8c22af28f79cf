"""What any one-shot search, of this package or NNI's own, has learned by now, as the diagnostics see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from nni.mutable import Categorical, CategoricalMultiple
from nni.nas.nn.pytorch import LayerChoice
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell
from nni.nas.oneshot.pytorch.supermodule.sampling import PathSamplingCell
from torch import Tensor, nn

from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule
from balenas_plugin.adapters.nni.supernets.parameters import (
    architecture_parameters,
    choice_names,
    labelled_alphas,
    supernet_modules,
)
from balenas_plugin.adapters.nni.supernets.supernet_decisions import decisions_of
from balenas_plugin.bayes.decisions import Decision, OneOf, TopSet
from balenas_plugin.bayes.laws import GumbelLaw
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.diagnostics import SearchState, kind_of
from balenas_plugin.mixed_ops import Alone
from balenas_plugin.mixed_ops.dropped import Dropped
from balenas_plugin.search_spaces import PARAMETRIC, space_of


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
        notations=space_of(space).notations,
        cells=space_of(space).cells,
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
        notations=space_of(space).notations,
        cells=space_of(space).cells,
    )


def operation_kinds(space: nn.Module) -> dict[str, list[str]]:
    """Return label -> the kind of each candidate of a supernet, of the choices among operations with weights."""
    labels = {id(alpha): label for label, alpha in architecture_parameters(space).items()}
    candidates: dict[str, list[list[tuple[str, nn.Module]]]] = {}
    for name, module in supernet_modules(space):
        for label, named in _candidates(module, name, labels).items():
            candidates.setdefault(label, []).append(named)
    found, known = {}, space_of(space).kinds
    for label, places in candidates.items():
        kinds = [known.get(places[0][k][0]) or _kind([place[k] for place in places]) for k in range(len(places[0]))]
        if PARAMETRIC in kinds:  # otherwise it chooses an activation, or the like
            found[label] = kinds
    return found


def _candidates(
    module: BaseSuperNetModule, name: str, labels: Mapping[int, str]
) -> dict[str, list[tuple[str, nn.Module]]]:
    """Return label -> (name, module) of each candidate operation, of one supernet module."""
    alphas = {local: labels.get(id(alpha), local) for local, alpha in labelled_alphas(module, name).items()}
    if isinstance(module, LayerChoice):
        label = next(iter(alphas.values()), module.label)
        return {label: [(str(key), _operation(module[key])) for key in module.names]}
    if not isinstance(module, PathSamplingCell):
        return {}
    found = {}
    for node, inputs in enumerate(module.ops):
        number = node + module.num_predecessors
        by_input = [[(str(key), _operation(operations[key])) for key in module.op_names] for operations in inputs]
        if isinstance(module, DifferentiableMixedCell):
            for j, named in enumerate(by_input):
                local = f"{module.label}/{number}_{j}"
                found[alphas.get(local, local)] = named
        else:
            for k in range(module.num_ops_per_node):
                found[f"{module.label}/op_{number}_{k}"] = by_input[0]
    return found


def _operation(candidate: nn.Module) -> nn.Module:
    return candidate.operation if isinstance(candidate, Alone) else candidate


def _kind(instances: Sequence[tuple[str, nn.Module]]) -> str:
    """Return the kind of one candidate, which may stand in several places of the network."""
    modules = [module.before if isinstance(module, Dropped) else module for _, module in instances]
    return kind_of(
        instances[0][0],
        is_identity=all(isinstance(module, nn.Identity) for module in modules),
        num_parameters=max(sum(p.numel() for p in module.parameters()) for module in modules),
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
