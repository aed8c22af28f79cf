"""Supernet modules that compute their candidates together, in the place of NNI's; put in by mutation hooks.

Parameters, buffers, their names and the exported choices are those of NNI's own supernet, so checkpoints and inherited
weights are interchangeable; values are equal to rounding. What cannot be fused runs as NNI's would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from nni.nas.hub.pytorch import nasbench201 as hub201
from nni.nas.hub.pytorch import nasnet
from nni.nas.hub.pytorch.modules import NasBench201Cell
from nni.nas.nn.pytorch import ParametrizedModule
from nni.nas.nn.pytorch.cell import preprocess_cell_inputs
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell, DifferentiableMixedLayer
from torch import Tensor, nn

from balenas_plugin.fused import Branch, Contribution, Fan, Unwrap, Zero, combine, hooks_of


def _pooling(module: nn.Module) -> nn.Module | None:
    return cast(nn.Module, module.op) if module.preprocess is None else None


UNWRAP: Mapping[type[nn.Module], Unwrap] = {
    hub201.ReLUConvBN: lambda module: cast(nn.Module, module.op),
    hub201.SepConv: lambda module: cast(nn.Module, module.op),
    hub201.Pooling: _pooling,
    hub201.Zero: lambda module: Zero(),
    nasnet.Zero: lambda module: Zero(),
}
"""How to look into the wrappers of NNI's hub."""


class Plan:
    """How a module computes its candidates: one fan per source. Made at its first pass, when all children are in place.

    Args:
        branches: the candidates that leave each source.
    """

    def __init__(self, branches: Sequence[Sequence[Branch]]) -> None:
        self.fans = [Fan(of_source, UNWRAP) for of_source in branches]
        candidates = [m for fan in self.fans for branch in fan.branches for m in branch.operation.modules()]
        self._hooks = [hooks for module in candidates for hooks in hooks_of(module)]

    @property
    def gains(self) -> bool:
        """Whether anything is saved over calling one candidate after the other."""
        return any(fan.saves for fan in self.fans)

    def is_watched(self) -> bool:
        """Return whether something listens to a candidate since the plan was made, so that it must be called."""
        return any(self._hooks)

    def __str__(self) -> str:
        total = sum(len(fan.branches) for fan in self.fans)
        called = sum(len(fan.called) for fan in self.fans)
        if not self.gains:
            return "as NNI does: nothing to gain"
        return "fused" if called == 0 else f"fused, but {called} of {total} candidates called as they are"


class FusedMixedLayer(DifferentiableMixedLayer):
    """A LayerChoice: zeros are not computed, an identity is not copied, results are added up without copies."""

    _plan: Plan | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take what the candidates take; fused if that is one tensor."""
        plan = self.plan()
        if not plan.gains or len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or plan.is_watched():
            return super().forward(*args, **kwargs)
        found = plan.fans[0](args[0], self._softmax(self._arch_alpha))
        return combine(list(found.values()))

    def plan(self) -> Plan:
        """Return how the candidates are computed."""
        if self._plan is None:
            self._plan = Plan([[Branch(self[name], 0) for name in self.names]])
        return self._plan


class FusedNasBench201Cell(NasBench201Cell):
    """NAS-Bench-201's cell: all edges that leave a node are computed together."""

    _plan: Plan | None = None

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
        frozen._plan, frozen.__class__ = None, NasBench201Cell
        return cast(NasBench201Cell, frozen)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W)."""
        plan = self.plan()
        if plan is None or plan.is_watched():
            return cast(Tensor, super().forward(inputs))
        received: list[list[Contribution]] = [[] for _ in range(self.num_tensors)]
        node = inputs
        for source, fan in enumerate(plan.fans):
            weights = torch.cat([edge._softmax(edge._arch_alpha) for edge in self._edges_from(source)])
            for target, contribution in fan(node, weights).items():
                received[target].append(contribution)
            node = combine(received[source + 1])
        return node

    def plan(self) -> Plan | None:
        """Return how the edges are computed, None if they are not mixed layers (a user's hook may have made others)."""
        if self._plan is None:
            sources = [self._edges_from(source) for source in range(self.num_tensors - 1)]
            if not all(isinstance(edge, DifferentiableMixedLayer) for edges in sources for edge in edges):
                return None
            self._plan = Plan(
                [
                    [Branch(edge[name], source + 1 + k) for k, edge in enumerate(edges) for name in edge.names]
                    for source, edges in enumerate(sources)
                ]
            )
        return self._plan

    def _edges_from(self, source: int) -> list[Any]:
        """Return the edges from `source` to source + 1, source + 2, ..."""
        return [cast(Any, self.layers[target - 1])[source] for target in range(source + 1, self.num_tensors)]


class FusedMixedCell(DifferentiableMixedCell):
    """NNI's supernet cell (DARTS, NASNet, AmoebaNet ...): all edges that leave a node are computed together."""

    _plan: Plan | None = None

    def forward(self, *inputs: Any) -> Any:
        """Take and return what NNI's cell does."""
        plan = self.plan()
        if plan.is_watched():
            return super().forward(*inputs)
        processed = preprocess_cell_inputs(self.num_predecessors, *inputs)
        nodes = list(self.preprocessor(processed))
        received: list[list[Contribution]] = [[] for _ in range(self.num_predecessors + self.num_nodes)]
        for source, fan in enumerate(plan.fans):
            if source >= self.num_predecessors:
                nodes.append(combine(received[source]))
            for target, contribution in fan(nodes[source], self._weights_from(source)).items():
                received[target].append(contribution)
        nodes.append(combine(received[-1]))
        return self.postprocessor(torch.cat(nodes[self.num_predecessors :], self.concat_dim), processed)

    def plan(self) -> Plan:
        """Return how the edges are computed."""
        if self._plan is None:
            self._plan = Plan(
                [
                    [
                        Branch(operation, target)
                        for target in self._targets_of(source)
                        for operation in self._edge(source, target).values()
                    ]
                    for source in range(self.num_predecessors + self.num_nodes - 1)
                ]
            )
        return self._plan

    def _targets_of(self, source: int) -> range:
        return range(max(source + 1, self.num_predecessors), self.num_predecessors + self.num_nodes)

    def _edge(self, source: int, target: int) -> nn.ModuleDict:
        return cast(nn.ModuleDict, cast(Any, self.ops[target - self.num_predecessors])[source])

    def _weights_from(self, source: int) -> Tensor:
        """Return the mixing weights in the order of the branches; the last of an edge, "not chosen", has no branch."""
        return torch.cat(
            [
                self._softmax(self._arch_alpha[f"{self.label}/{target}_{source}"])[: len(self._edge(source, target))]
                for target in self._targets_of(source)
            ]
        )


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
        if isinstance(module, (FusedNasBench201Cell, FusedMixedCell, FusedMixedLayer)) and module.plan() is not None:
            report[name] = str(module.plan())
            if isinstance(module, FusedNasBench201Cell):
                inside.update(module.modules())
        elif isinstance(module, (DifferentiableMixedLayer, DifferentiableMixedCell)):
            report[name] = "as NNI does: not fused"
    return report
