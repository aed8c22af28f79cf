"""Which independent decisions an NNI supernet makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.differentiable import (
    DifferentiableMixedCell,
    DifferentiableMixedInput,
    DifferentiableMixedLayer,
)
from torch import Tensor, nn

from balenas_plugin.adapters.nni.supernets.activity import conditional, uses_of
from balenas_plugin.adapters.nni.supernets.edges import edge_parameters, edge_weights
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, labelled_alphas, supernet_modules
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.decisions import (
    Architecture,
    CellNode,
    Decision,
    Learned,
    Logits,
    OneOf,
    TopSet,
    counted_outcomes,
    plain_choice,
)
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.bayes.ranking import Listed, Outcome
from balenas_plugin.restoring import restored
from balenas_plugin.search_spaces import space_of


@dataclass(frozen=True)
class Exported:
    """A user's own supernet module, whose rule of choice only its `export` knows: outcomes are counted over draws."""

    module: BaseSuperNetModule
    alphas: tuple[tuple[str, nn.Parameter], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the module's alphas."""
        return tuple(label for label, _ in self.alphas)

    @torch.no_grad()
    def choose(self, logits: Logits) -> Outcome:
        """Return what the module exports when its alphas are these logits."""
        with restored([alpha for _, alpha in self.alphas]):
            for label, alpha in self.alphas:
                alpha.copy_(logits[label])
            return self.from_architecture(self.module.export({}))

    def outcomes(self, posterior: Learned) -> Listed:
        """Return frozen architecture -> log of its share among the draws."""
        return counted_outcomes(self, posterior) if self.alphas else Listed({self.choose({}): 0.0})

    def to_architecture(self, outcome: Outcome, posterior: Learned) -> Architecture:
        """Return the architecture that was frozen."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in outcome}

    def from_architecture(self, architecture: Architecture) -> Outcome:
        """Return the module's part of the architecture as a hashable."""
        keys = self.module.simplify() if not self.alphas else self.module.export({})
        return tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in architecture.items() if k in keys))


def exported(module: BaseOneShotLightningModule) -> Architecture:
    """Return the architecture that a one-shot module has found: the choices that make a difference."""
    architecture = {label: plain_choice(value) for label, value in module.export().items()}
    scores = module.scores() if hasattr(module, "scores") else architecture_parameters(module.model)
    alphas = {label: values.detach().cpu() for label, values in scores.items()}
    if not alphas:
        return architecture  # of a strategy that samples
    posterior = Posterior(alphas, {label: torch.ones_like(alpha) for label, alpha in alphas.items()})
    architectures = Architectures(decisions_of(module.model), posterior)
    return architectures.discretise(alphas) if _of_space(module.model) else architectures.active(architecture)


def decisions_of(model: nn.Module) -> list[Decision]:
    """Return the independent decisions of a supernet: those of its space, or else those that its modules make."""
    return _of_space(model) or decisions_of_modules(model)


def _of_space(model: nn.Module) -> list[Decision]:
    """Return the decisions of a known space if the supernet has its architecture parameters, or none."""
    space = space_of(model)
    sizes = {label: alpha.numel() for label, alpha in architecture_parameters(model).items()}
    if sizes != {label: len(values) for label, values in space.choices.items()}:
        return []
    edges = edge_parameters(model)
    return [_weighed(decision, edges) for decision in space.decisions]


def _weighed(decision: Decision, edges: Mapping[str, Tensor]) -> Decision:
    """Return a decision of a space that knows the weights that its edges have learned, if they have any."""
    logits = edges.get(f"{decision.cell}/{decision.node}") if isinstance(decision, CellNode) else None
    if logits is None:
        return decision
    return replace(cast(CellNode, decision), log_edge_weights=tuple(logits.detach().log_softmax(-1).tolist()))


def decisions_of_modules(model: nn.Module) -> list[Decision]:
    """Return the decisions that the modules of a supernet make; a label that several of them share is decided once.

    Decisions that depend on each other for whether they make a difference come as one.
    """
    labels = {id(alpha): label for label, alpha in architecture_parameters(model).items()}
    found: dict[tuple[str, ...], Decision] = {}
    keys: dict[nn.Module, list[tuple[str, ...]]] = {}
    for name, module in supernet_modules(model):
        own = labelled_alphas(module, name)
        unique = {local: labels[id(alpha)] for local, alpha in own.items()}
        for decision in _decisions_of_module(module, unique) or [_exported(module, own, unique)]:
            key = decision.labels or (name,)
            found.setdefault(key, decision)
            keys.setdefault(module, []).append(key)
    return conditional(found, uses_of(model, found, keys))


def _decisions_of_module(module: BaseSuperNetModule, unique: dict[str, str]) -> list[Decision]:
    """Return the decisions of a module whose rule is known; `unique` maps the module's labels to the model's."""
    if isinstance(module, DifferentiableMixedLayer):
        return [OneOf(label, tuple(module.names)) for label in unique.values()]
    if isinstance(module, DifferentiableMixedInput):
        return [TopSet(label, int(module.n_chosen or 1)) for label in unique.values()]
    if isinstance(module, DifferentiableMixedCell):
        return [*cell_nodes(module, unique)]
    values: dict[str, Any] = {label: getattr(space, "values", None) for label, space in module.simplify().items()}
    if unique and all(values.get(label) is not None for label in unique):
        return [OneOf(unique[label], tuple(values[label])) for label in unique]
    return []


def cell_nodes(cell: DifferentiableMixedCell, unique: Mapping[str, str]) -> list[CellNode]:
    """Return the decisions of a cell; `unique` maps its labels to the model's."""
    return [
        CellNode(
            cell.label,
            node,
            tuple(unique[f"{cell.label}/{node}_{j}"] for j in range(node)),
            cell.num_ops_per_node,
            tuple(tuple(map(str, edge)) for edge in cast(Any, cell.ops[node - cell.num_predecessors])),
            tuple(float(weight.detach().log()) for weight in edge_weights(cell, node) if weight is not None),
        )
        for node in range(cell.num_predecessors, cell.num_predecessors + cell.num_nodes)
    ]


def _exported(module: BaseSuperNetModule, own: dict[str, nn.Parameter], unique: dict[str, str]) -> Exported:
    return Exported(module, tuple((unique[local], alpha) for local, alpha in own.items()))
