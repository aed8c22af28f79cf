"""Supernet modules that compute their candidates together, in the place of NNI's; put in by mutation hooks.

Parameters, buffers, their names and the exported choices are those of NNI's own supernet, so checkpoints and inherited
weights are interchangeable; values are equal to rounding. What cannot be fused runs as NNI's would.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from nni.nas.hub.pytorch.modules import NasBench201Cell
from nni.nas.nn.pytorch import ParametrizedModule
from nni.nas.nn.pytorch.cell import preprocess_cell_inputs
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell, DifferentiableMixedLayer
from torch import Tensor, nn

from balenas_plugin.adapters.nni.supernets.drawn import (
    DrawnCell,
    DrawnLayer,
    EdgeWeighedNasBench201Cell,
    drawn_candidates,
    kept_candidates,
)
from balenas_plugin.adapters.nni.supernets.edges import edge_weights, left_of, scaled
from balenas_plugin.adapters.nni.supernets.fusion_plan import Plan, Planned, why_not_its_own
from balenas_plugin.fused import Branch, Contribution, Fan, combine, departure, depthwise
from balenas_plugin.mixed_ops import IN_FULL, MixedOp
from balenas_plugin.mixed_ops.drawn_path import Others
from balenas_plugin.search.mixing import MixingWeights


class FusedMixedLayer(Planned, DrawnLayer):
    """A LayerChoice: zeros are not computed, an identity is not copied, results are added up without copies."""

    def _mixed(self, *args: Any, **kwargs: Any) -> Any:
        plan = self.plan_for(args) if len(args) == 1 and not kwargs else None
        if plan is None:
            return super()._mixed(*args, **kwargs)
        found = _mixed(plan.fans[0], args[0], [(self._softmax, self._arch_alpha)], self.others)
        return combine(list(found.values()), partial(plan.zeros, 1, args[0].device))

    def _made_plan(self) -> Plan:
        branches = [
            Branch(operation, 1, str(name)) for name, operation in zip(self.names, self.operations, strict=True)
        ]
        return Plan(self, DifferentiableMixedLayer, [branches], why=why_not_added_up(self.mixed_op))


class FusedNasBench201Cell(Planned, EdgeWeighedNasBench201Cell):
    """NAS-Bench-201's cell: all edges that leave a node are computed together."""

    def freeze(self, sample: dict[str, Any]) -> NasBench201Cell:
        """Return the cell of one architecture, a plain one again."""
        frozen = super().freeze(sample)
        frozen.forget_plan()
        frozen.__class__ = EdgeWeighedNasBench201Cell if hasattr(frozen, "edge_logits") else NasBench201Cell
        return cast(NasBench201Cell, frozen)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W)."""
        mixed_op: MixedOp = getattr(self._edges_from(0)[0], "mixed_op", None) or IN_FULL
        entered = [mixed_op.enter(inputs)]
        plan = self.plan_for([entered[0][0]])
        if plan is None:
            return super().forward(inputs)
        weights = [edge_weights(self, target) for target in range(1, self.num_tensors)]
        if mixed_op.parts is not None and (last := self._at_once(plan, inputs, mixed_op.parts, weights)) is not None:
            return last
        received: list[list[Contribution]] = [[] for _ in range(self.num_tensors)]
        node = inputs
        for source, fan in enumerate(plan.fans):
            edges = [(edge._softmax, edge._arch_alpha) for edge in self._edges_from(source)]
            scales = [of_target[source] for of_target in weights[source:]]
            if source:
                entered.append(mixed_op.enter(node))
            for target, made in _mixed(fan, entered[-1][0], edges, DrawnLayer.others, scales).items():
                received[target].append(made)
            mixed = combine(received[source + 1], partial(plan.zeros, source + 1, inputs.device))
            node = mixed_op.leave(mixed, left_of(entered, weights[source]))
        return node

    def _at_once(
        self, plan: Plan, inputs: Tensor, parts: tuple[int, bool], weights: Sequence[Sequence[Tensor | None]]
    ) -> Tensor | None:
        """Return the last node if the whole cell is one function of the inputs in this pass, None if not."""
        if torch.compiler.is_compiling() or plan.cell is None:
            return None
        places = [(source, target) for source in range(len(weights)) for target in range(source, len(weights))]
        layers = [cast(Any, self.layers[target])[source] for source, target in places]
        edges = [(edge._softmax, edge._arch_alpha) for edge in layers]
        if drawn_candidates(edges, DrawnLayer.others) is not None or kept_candidates(edges) is not None:
            return None
        scales = [weight for of_target in weights for weight in of_target if weight is not None]
        mixing = [
            scaled(softmax(alpha), weights[target][source])
            for (softmax, alpha), (source, target) in zip(edges, places, strict=True)
        ]
        return plan.cell(inputs, mixing, parts, scales)

    def _made_plan(self) -> Plan:
        why = None
        sources = [self._edges_from(source) for source in range(self.num_tensors - 1)]
        edges = [edge for edges in sources for edge in edges]
        for edge in edges:  # a user's hook may have made others
            mixed = next((kind for kind in _LAYERS if isinstance(edge, kind)), None)
            if mixed is None:
                return Plan(self, NasBench201Cell, [], why=f"an edge is a {type(edge).__name__}")
            why = why or why_not_its_own(edge, DifferentiableMixedLayer) or departure(edge, mixed)
        if len({getattr(edge, "mixed_op", None) for edge in edges}) > 1:
            why = why or "its edges are computed in different ways"
        why = why or why_not_added_up(getattr(edges[0], "mixed_op", None))
        branches = [
            [
                Branch(operation, source + 1 + k, str(name))
                for k, edge in enumerate(edges)
                for name, operation in zip(edge.names, _operations(edge), strict=True)
            ]
            for source, edges in enumerate(sources)
        ]
        return Plan(self, NasBench201Cell, branches, [self.layers, *self.layers, *edges], why)

    def _edges_from(self, source: int) -> list[Any]:
        """Return the edges from `source` to source + 1, source + 2, ..."""
        return [cast(Any, self.layers[target - 1])[source] for target in range(source + 1, self.num_tensors)]


def _operations(edge: Any) -> list[nn.Module]:
    return edge.operations if isinstance(edge, DrawnLayer) else [edge[name] for name in edge.names]


_LAYERS = (FusedMixedLayer, DrawnLayer, DifferentiableMixedLayer)


class FusedMixedCell(Planned, DrawnCell):
    """NNI's supernet cell (DARTS, NASNet, AmoebaNet ...): all edges that leave a node are computed together."""

    def forward(self, *inputs: Any) -> Any:
        """Take and return what NNI's cell does."""
        processed, mixed_op = preprocess_cell_inputs(self.num_predecessors, *inputs), self.mixed_op or IN_FULL
        plan = self.plan_for(processed, lambda given: [mixed_op.enter(x)[0] for x in self.preprocessor(given)])
        if plan is None:
            return super().forward(*inputs)
        nodes, first = list(self.preprocessor(processed)), self.num_predecessors
        entered = [mixed_op.enter(x) for x in nodes]
        received: list[list[Contribution]] = [[] for _ in range(first + self.num_nodes)]
        weights = {target: edge_weights(self, target) for target in range(first, len(received))}

        def node(number: int) -> Tensor:
            mixed = combine(received[number], partial(plan.zeros, number, nodes[0].device))
            return mixed_op.leave(mixed, left_of(entered, weights[number]))

        for source, fan in enumerate(plan.fans):
            if source >= first:
                nodes.append(node(source))
                entered.append(mixed_op.enter(nodes[-1]))
            scales = [weights[target][source] for target in self._targets_of(source)]
            edges = self._edges_from(source)
            for target, made in _mixed(fan, entered[source][0], edges, self.others, scales).items():
                received[target].append(made)
        nodes.append(node(len(nodes)))
        return self.postprocessor(torch.cat(nodes[first:], self.concat_dim), processed)

    def _made_plan(self) -> Plan:
        sources = range(self.num_predecessors + self.num_nodes - 1)
        branches = [
            [
                Branch(operation, target, name)
                for target in self._targets_of(source)
                for edge in [self._edge(source, target)]
                for name, operation in zip(edge, self.operations(edge), strict=True)
            ]
            for source in sources
        ]
        inner = [m for m in self.ops.modules() if isinstance(m, (nn.ModuleList, nn.ModuleDict))]
        return Plan(self, DifferentiableMixedCell, branches, inner, why_not_added_up(self.mixed_op))

    def _targets_of(self, source: int) -> range:
        return range(max(source + 1, self.num_predecessors), self.num_predecessors + self.num_nodes)

    def _edge(self, source: int, target: int) -> nn.ModuleDict:
        return cast(nn.ModuleDict, cast(Any, self.ops[target - self.num_predecessors])[source])

    def _edges_from(self, source: int) -> list[tuple[nn.Module, Tensor]]:
        """Return what mixes each edge that leaves a node, and its parameter."""
        alphas = self._arch_alpha
        return [(self._softmax, alphas[f"{self.label}/{target}_{source}"]) for target in self._targets_of(source)]


def why_not_added_up(mixed_op: MixedOp | None) -> str | None:
    """Return why results of candidates may not be added up in any other way than a mixed operation does."""
    return None if mixed_op is None or mixed_op.adds_up else f"{mixed_op.name} mixes them"


def _mixed(
    fan: Fan,
    x: Tensor,
    edges: Sequence[tuple[nn.Module, Tensor]],
    others: Others,
    scales: Sequence[Tensor | None] | None = None,
) -> dict[int, Contribution]:
    """Return target -> contribution of the candidates that leave x: of all of them, or of those that the pass has.

    Args:
        fan: the candidates.
        x: the node that they leave.
        edges: for each target in their order, what mixes its candidates, and the parameter.
        others: see `DrawnLayer`.
        scales: weight of each edge itself; None is 1.
    """
    weights = [softmax(alpha) for softmax, alpha in edges]
    if scales is not None:
        weights = [scaled(w, scale) for w, scale in zip(weights, scales, strict=True)]
    if (drawn := drawn_candidates(edges, others)) is not None:
        again = cast(MixingWeights, edges[0][0]).recompute
        return fan.drawn(x, weights, [([k], of_others) for k, of_others in drawn], again=again)
    kept = kept_candidates(edges)
    return fan(x, weights) if kept is None else fan.drawn(x, weights, [(k, "none") for k in kept])


def keep_fixed(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> bool:
    """Leave a mutable layer without choices the plain layer it is (a mutation hook); NNI would make it a mixed one."""
    return isinstance(module, ParametrizedModule) and not module.simplify()


def fusing_hooks() -> list[Any]:
    """Return the mutation hooks that fuse; they go before NNI's own."""
    return [keep_fixed, FusedNasBench201Cell.mutate, FusedMixedCell.mutate, FusedMixedLayer.mutate]


def fusion_report(model: nn.Module) -> dict[str, str]:
    """Return name of a mixed module -> how it computes its candidates; layers of a fused cell belong to the cell.

    So it does for other layers whose backward pass is not torch's.
    """
    report: dict[str, str] = {}
    elsewhere = set(depthwise_elsewhere(model))
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        if isinstance(module, Planned):
            report[name] = module.description()
            if isinstance(module, FusedNasBench201Cell) and module.plan().refusal is None:
                inside.update(module.modules())
        elif isinstance(module, (DifferentiableMixedLayer, DifferentiableMixedCell)):
            report[name] = "as NNI does: not fused"
        elif module in elsewhere and (kind := depthwise.used_for(module)):
            report[name] = f"backward pass of depthwise {kind} by a forward one"
    return report


def depthwise_elsewhere(model: nn.Module) -> list[nn.Module]:
    """Return the depthwise convolutions, of kinds whose backward pass may be made faster, that are not fused."""
    fused = {layer for m in model.modules() if isinstance(m, Planned) for layer in m.plan().layers()}
    return [
        m
        for m in model.modules()
        if isinstance(m, nn.Conv2d)
        and m.groups != 1
        and (max(m.kernel_size) > 3 or max(m.dilation) > 1)
        and m not in fused
    ]
