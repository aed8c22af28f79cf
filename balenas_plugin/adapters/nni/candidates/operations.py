"""The candidate operations of a supernet by label, and what kind each is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nni.nas.nn.pytorch import LayerChoice
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell
from nni.nas.oneshot.pytorch.supermodule.sampling import PathSamplingCell
from torch import nn

from balenas_plugin.adapters.nni.supernets.parameters import (
    NOT_CHOSEN,
    architecture_parameters,
    choice_names,
    labelled_alphas,
    supernet_modules,
)
from balenas_plugin.diagnostics import kind_of
from balenas_plugin.mixed_ops import Alone
from balenas_plugin.mixed_ops.dropped import Dropped
from balenas_plugin.search_spaces import NONE, PARAMETRIC, space_of

Named = list[tuple[str, nn.Module]]
"""(name, module) of each candidate of a choice, in order."""


def operation_kinds(space: nn.Module) -> dict[str, list[str]]:
    """Return label -> the kind of each candidate of a supernet.

    Where the space does not say what its operations are, choices among those without weights are none (activations).
    """
    found = {label: _kinds(space, places) for label, places in candidates(space).items()}
    return {label: kinds for label, kinds in found.items() if PARAMETRIC in kinds or space_of(space).kinds}


def zeros_of(space: nn.Module) -> dict[str, list[int]]:
    """Return label -> which choices are no operation, of a supernet with alphas; an identity is one, however called."""
    zeros = {
        label: [k for k, name in enumerate(names) if name == NOT_CHOSEN] for label, names in choice_names(space).items()
    }
    for label, places in candidates(space).items():
        kinds = _kinds(space, places)
        identities = [any(isinstance(place[k][1], nn.Identity) for place in places) for k in range(len(kinds))]
        zeros[label] += [k for k, kind in enumerate(kinds) if kind == NONE and not identities[k]]
    return zeros


def candidates(space: nn.Module) -> dict[str, list[Named]]:
    """Return label -> the candidate operations in each place where a supernet has it."""
    labels = {id(alpha): label for label, alpha in architecture_parameters(space).items()}
    found: dict[str, list[Named]] = {}
    for name, module in supernet_modules(space):
        for label, named in _candidates(module, name, labels).items():
            found.setdefault(label, []).append(named)
    return found


def _candidates(module: BaseSuperNetModule, name: str, labels: Mapping[int, str]) -> dict[str, Named]:
    """Return label -> the candidate operations of one supernet module."""
    alphas = {local: labels.get(id(alpha), local) for local, alpha in labelled_alphas(module, name).items()}
    if isinstance(module, LayerChoice):
        label = next(iter(alphas.values()), module.label)
        return {label: [(str(key), _operation(module[key])) for key in module.names]}
    if not isinstance(module, PathSamplingCell):
        return {}
    found = {}
    for node, inputs in enumerate(module.ops):
        number = node + module.num_predecessors
        by_input = [[(str(k), _operation(each)) for k, each in operations.items()] for operations in inputs]
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


def _kinds(space: nn.Module, places: Sequence[Named]) -> list[str]:
    known = space_of(space).kinds
    return [known.get(places[0][k][0]) or _kind([place[k] for place in places]) for k in range(len(places[0]))]


def _kind(instances: Sequence[tuple[str, nn.Module]]) -> str:
    """Return the kind of one candidate, which may stand in several places of the network."""
    modules = [module.before if isinstance(module, Dropped) else module for _, module in instances]
    return kind_of(
        instances[0][0],
        is_identity=all(isinstance(module, nn.Identity) for module in modules),
        num_parameters=max(sum(p.numel() for p in module.parameters()) for module in modules),
    )
