"""What a `MixedOp` makes of the edges of a supernet: candidates built anew, and learned weights of the edges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from nni.nas.nn.pytorch import Cell, LayerChoice, ParametrizedModule
from torch import Tensor, nn

from balenas_plugin.distributions import ChosenDistribution
from balenas_plugin.errors import SpaceError
from balenas_plugin.mixed_ops import Alone, MixedOp
from balenas_plugin.mixed_ops._mixed_op import Source
from balenas_plugin.mixed_ops.edge_weights import EdgeWeights

IN_A_CANDIDATE = "in_a_candidate"
"""Attribute of choices inside a candidate: these are built with it, and mixed in full."""


def built(mixed_op: MixedOp, candidates: Mapping[str, nn.Module], *, called: str) -> dict[str, nn.Module] | None:
    """Return the candidates of an edge as a mixed operation builds them; None if it leaves the edge as it is.

    Raises:
        SpaceError: a candidate cannot be built so.
    """
    for name, candidate in candidates.items():
        for module in candidate.modules():
            if isinstance(module, Cell) or (isinstance(module, ParametrizedModule) and module.simplify()):
                raise SpaceError(
                    f"{called}.{name} holds a {type(module).__name__} with choices of its own, of which "
                    f"{mixed_op.name} cannot be built"
                )
    found = mixed_op.build(candidates, called=called)
    for module in (module for candidate in (found or {}).values() for module in candidate.modules()):
        if isinstance(module, LayerChoice):
            setattr(module, IN_A_CANDIDATE, True)
        elif isinstance(module, ParametrizedModule):  # NNI would make it anew, as wide as the space says
            plain: Any = next(kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn"))
            module.__class__ = plain
    return None if found is None else {name: Alone(mixed_op, each) for name, each in found.items()}


def give_edge_weights(cell: Any, nodes: Iterable[int], memo: dict[str, Any]) -> None:
    """Let a cell learn the weights of the edges to its nodes; cells of one label share them.

    Args:
        cell: with a label.
        nodes: which have as many edges as their numbers say.
        memo: of NNI's mutation.
    """
    logits = nn.ParameterDict()
    for node in nodes:
        key = f"{cell.label}/{node}/edges"
        memo.setdefault(key, nn.Parameter(1e-3 * torch.randn(node)))
        logits[str(node)] = memo[key]
    cell.edge_logits = logits


def edge_weights(cell: Any, node: int) -> Sequence[Tensor | None]:
    """Return the weight of each edge to a node, a number; None where edges have none."""
    return cell.edge_logits[str(node)].softmax(-1).unbind() if hasattr(cell, "edge_logits") else [None] * node


def left_of(entered: Sequence[tuple[Tensor, Tensor]], weights: Sequence[Tensor | None]) -> list[Source]:
    """Return what the inputs of the edges to a node leave for it.

    Args:
        entered: of each input, what `MixedOp.enter` returned.
        weights: of the edges.
    """
    return [(left, weight) for (_, left), weight in zip(entered, weights, strict=True)]


def scaled(made: Tensor, weight: Tensor | None) -> Tensor:
    """Return what an edge has made times its weight."""
    return made if weight is None else weight * made


def edge_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return node -> logits of the weights of its edges, shape (number of edges,); cells of one label share them."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for module in model.modules():
        weights = getattr(module, "edge_logits", None)
        for node, logits in weights.items() if isinstance(weights, nn.ParameterDict) else ():
            found.setdefault(id(logits), (f"{module.label}/{node}", logits))
    return dict(found.values())


def learned_edge_weights(model: nn.Module, chosen: ChosenDistribution) -> EdgeWeights | None:
    """Return what learns the weights of a supernet's edges beside a distribution; None if they have none."""
    parameters = edge_parameters(model)
    return chosen.kind.edges(parameters, chosen.options) if parameters else None
