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

from balenas_plugin.adapters.nni.supernets.drawn import DrawnCell, DrawnLayer, drawn_candidates
from balenas_plugin.adapters.nni.supernets.fusion_plan import Plan, Planned, why_not_its_own
from balenas_plugin.fused import Branch, Contribution, Fan, combine, departure
from balenas_plugin.mixed_ops.drawn_path import Others


class FusedMixedLayer(Planned, DrawnLayer):
    """A LayerChoice: zeros are not computed, an identity is not copied, results are added up without copies."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take what the candidates take; fused if that is one tensor."""
        plan = self.plan_for(args) if len(args) == 1 and not kwargs else None
        if plan is None:
            return super().forward(*args, **kwargs)
        found = _mixed(plan.fans[0], args[0], [(self._softmax, self._arch_alpha)], self.others)
        return combine(list(found.values()), partial(plan.zeros, 1, args[0].device))

    def _made_plan(self) -> Plan:
        branches = [Branch(self[name], 1, str(name)) for name in self.names]
        return Plan(self, DifferentiableMixedLayer, [branches])


class FusedNasBench201Cell(Planned, NasBench201Cell):
    """NAS-Bench-201's cell: all edges that leave a node are computed together."""

    @classmethod
    def mutate(cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> None:
        """Turn a cell of the model space into this class, in place (a mutation hook); its choices stay its children.

        Nothing else of it changes. A new module could not be returned: NNI expects it to own the choices.
        """
        if type(module) is NasBench201Cell:
            module.__class__ = cls

    def freeze(self, sample: dict[str, Any]) -> NasBench201Cell:
        """Return the cell of one architecture, a plain one again."""
        frozen = super().freeze(sample)
        frozen.forget_plan()
        frozen.__class__ = NasBench201Cell
        return cast(NasBench201Cell, frozen)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W)."""
        plan = self.plan_for([inputs])
        if plan is None:
            return cast(Tensor, super().forward(inputs))
        received: list[list[Contribution]] = [[] for _ in range(self.num_tensors)]
        node = inputs
        for source, fan in enumerate(plan.fans):
            edges = [(edge._softmax, edge._arch_alpha) for edge in self._edges_from(source)]
            for target, contribution in _mixed(fan, node, edges, DrawnLayer.others).items():
                received[target].append(contribution)
            node = combine(received[source + 1], partial(plan.zeros, source + 1, inputs.device))
        return node

    def _made_plan(self) -> Plan:
        why = None
        sources = [self._edges_from(source) for source in range(self.num_tensors - 1)]
        edges = [edge for edges in sources for edge in edges]
        for edge in edges:  # a user's hook may have made others
            mixed = next((kind for kind in _LAYERS if isinstance(edge, kind)), None)
            if mixed is None:
                return Plan(self, NasBench201Cell, [], why=f"an edge is a {type(edge).__name__}")
            why = why or why_not_its_own(edge, DifferentiableMixedLayer) or departure(edge, mixed)
        branches = [
            [Branch(edge[name], source + 1 + k, str(name)) for k, edge in enumerate(edges) for name in edge.names]
            for source, edges in enumerate(sources)
        ]
        return Plan(self, NasBench201Cell, branches, [self.layers, *self.layers, *edges], why)

    def _edges_from(self, source: int) -> list[Any]:
        """Return the edges from `source` to source + 1, source + 2, ..."""
        return [cast(Any, self.layers[target - 1])[source] for target in range(source + 1, self.num_tensors)]


_LAYERS = (FusedMixedLayer, DrawnLayer, DifferentiableMixedLayer)


class FusedMixedCell(Planned, DrawnCell):
    """NNI's supernet cell (DARTS, NASNet, AmoebaNet ...): all edges that leave a node are computed together."""

    def forward(self, *inputs: Any) -> Any:
        """Take and return what NNI's cell does."""
        processed = preprocess_cell_inputs(self.num_predecessors, *inputs)
        plan = self.plan_for(processed, self.preprocessor)
        if plan is None:
            return super().forward(*inputs)
        nodes = list(self.preprocessor(processed))
        received: list[list[Contribution]] = [[] for _ in range(self.num_predecessors + self.num_nodes)]
        for source, fan in enumerate(plan.fans):
            if source >= self.num_predecessors:
                nodes.append(combine(received[source], partial(plan.zeros, source, nodes[0].device)))
            for target, contribution in _mixed(fan, nodes[source], self._edges_from(source), self.others).items():
                received[target].append(contribution)
        nodes.append(combine(received[-1], partial(plan.zeros, len(nodes), nodes[0].device)))
        return self.postprocessor(torch.cat(nodes[self.num_predecessors :], self.concat_dim), processed)

    def _made_plan(self) -> Plan:
        sources = range(self.num_predecessors + self.num_nodes - 1)
        branches = [
            [
                Branch(operation, target, name)
                for target in self._targets_of(source)
                for name, operation in self._edge(source, target).items()
            ]
            for source in sources
        ]
        inner = [m for m in self.ops.modules() if isinstance(m, (nn.ModuleList, nn.ModuleDict))]
        return Plan(self, DifferentiableMixedCell, branches, inner)

    def _targets_of(self, source: int) -> range:
        return range(max(source + 1, self.num_predecessors), self.num_predecessors + self.num_nodes)

    def _edge(self, source: int, target: int) -> nn.ModuleDict:
        return cast(nn.ModuleDict, cast(Any, self.ops[target - self.num_predecessors])[source])

    def _edges_from(self, source: int) -> list[tuple[nn.Module, Tensor]]:
        """Return what mixes each edge that leaves a node, and its parameter."""
        alphas = self._arch_alpha
        return [(self._softmax, alphas[f"{self.label}/{target}_{source}"]) for target in self._targets_of(source)]


def _mixed(fan: Fan, x: Tensor, edges: Sequence[tuple[nn.Module, Tensor]], others: Others) -> dict[int, Contribution]:
    """Return target -> contribution of the candidates that leave x: of all of them, or of the drawn ones alone.

    Args:
        fan: the candidates.
        x: the node that they leave.
        edges: for each target in their order, what mixes its candidates, and the parameter.
        others: see `DrawnLayer`.
    """
    weights = [softmax(alpha) for softmax, alpha in edges]
    drawn = drawn_candidates(edges, others)
    return fan(x, weights) if drawn is None else fan.drawn(x, weights, drawn)


def keep_fixed(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> bool:
    """Leave a mutable layer without choices the plain layer it is (a mutation hook); NNI would make it a mixed one."""
    return isinstance(module, ParametrizedModule) and not module.simplify()


def fusing_hooks() -> list[Any]:
    """Return the mutation hooks that fuse; they go before NNI's own."""
    return [keep_fixed, FusedNasBench201Cell.mutate, FusedMixedCell.mutate, FusedMixedLayer.mutate]


def fusion_report(model: nn.Module) -> dict[str, str]:
    """Return name of a mixed module -> how it computes its candidates; layers of a fused cell belong to the cell."""
    report: dict[str, str] = {}
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
    return report
