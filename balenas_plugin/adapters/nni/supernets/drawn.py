"""NNI's supernet modules, but where one candidate of a label is drawn they compute it alone; put in by mutation hooks.

Operations whose arguments are choices (NNI's mixed convolutions and their like) have no candidates to leave out: they
compute once, with weights mixed of slices.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from nni.nas.nn.pytorch.cell import preprocess_cell_inputs
from nni.nas.oneshot.pytorch.supermodule._expression_utils import traverse_all_options
from nni.nas.oneshot.pytorch.supermodule.differentiable import (
    DifferentiableMixedCell,
    DifferentiableMixedInput,
    DifferentiableMixedLayer,
    DifferentiableMixedRepeat,
)
from torch import Tensor, nn

from balenas_plugin.adapters.nni.supernets.fusion_plan import why_not_its_own
from balenas_plugin.mixed_ops.drawn_path import Others, drawn_path
from balenas_plugin.search.mixing import MixingWeights


def drawn_candidates(edges: Sequence[tuple[nn.Module, Tensor]], others: Others) -> tuple[list[int], Others] | None:
    """Return the only candidate of each edge that a pass computes, and how the others take part; None to compute all.

    Args:
        edges: what mixes the candidates of an edge, and the parameter.
        others: see `drawn_path`, where the draw does not say it.
    """
    chosen = []
    for softmax, alpha in edges:
        if not isinstance(softmax, MixingWeights) or (index := softmax.chosen(alpha)) is None:
            return None
        chosen.append(index)
        others = softmax.others or others
    return chosen, others


class DrawnLayer(DifferentiableMixedLayer):
    """A LayerChoice."""

    others: Others = "scalar"
    """How the candidates not drawn take part, unless the draw says it: NAS-Bench-201's cell is made of LayerChoices."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take what the candidates take."""
        drawn = drawn_candidates([(self._softmax, self._arch_alpha)], self.others)
        if drawn is None or why_not_its_own(self, DifferentiableMixedLayer) is not None:
            return super().forward(*args, **kwargs)
        (chosen,), others = drawn
        weights = self._softmax(self._arch_alpha)
        return drawn_path(weights, chosen, lambda k: self[self.names[k]](*args, **kwargs), others=others)


class DrawnInput(DifferentiableMixedInput):
    """An InputChoice: what only feeds the inputs that are not drawn was computed, but has no gradient."""

    others: Others = "none"

    def forward(self, inputs: Any) -> Any:
        """Take all inputs."""
        drawn = drawn_candidates([(self._softmax, self._arch_alpha)], self.others)
        if drawn is None:
            return super().forward(inputs)
        (chosen,), others = drawn
        return drawn_path(self._softmax(self._arch_alpha), chosen, lambda k: inputs[k], others=others)


class DrawnRepeat(DifferentiableMixedRepeat):
    """A Repeat: blocks behind the drawn depth are not computed."""

    others: Others = "none"

    def forward(self, x: Any) -> Any:
        """Take what the first block takes."""
        drawn = drawn_candidates([(self._softmax, alpha) for alpha in self._arch_alpha.values()], self.others)
        if drawn is None:
            return super().forward(x)
        weights = {label: self._softmax(alpha) for label, alpha in self._arch_alpha.items()}
        options = dict(traverse_all_options(self.depth_choice, weights=weights))
        values = {label: cast(Any, spec).values for label, spec in self.depth_choice.simplify().items()}
        depth = self.depth_choice.freeze({label: values[label][k] for label, k in zip(weights, drawn[0], strict=True)})

        def run(_: int) -> Any:
            result = x
            for block in self.blocks[:depth]:
                result = block(result)
            return result

        return drawn_path(torch.stack(list(options.values())), list(options).index(depth), run, others=drawn[1])


class DrawnCell(DifferentiableMixedCell):
    """A cell of edges (DARTS, NASNet, AmoebaNet ...).

    Where its table of factories says that they are `complete`, an edge has only those candidates for which they return
    a layer, and a logit for each of these alone: NNI has the same candidates on all edges, and one logit more.
    """

    others: Others = "none"

    def __init__(self, op_factory: Any, *args: Any, **kwargs: Any) -> None:
        if not getattr(op_factory, "complete", False):
            super().__init__(op_factory, *args, **kwargs)
            return
        super(DifferentiableMixedCell, self).__init__(op_factory, *args, **kwargs)
        given = inspect.signature(DifferentiableMixedCell.__init__).bind(self, op_factory, *args, **kwargs).arguments
        memo = given["memo"]
        self._softmax = given["mutate_kwargs"].get("softmax", nn.Softmax(-1))
        self._arch_alpha = nn.ParameterDict()
        for target, edges in enumerate(cast(Any, self.ops), start=self.num_predecessors):
            for source, operations in enumerate(edges):
                for name in [name for name, operation in operations.items() if operation is None]:
                    del operations[name]
                label = f"{self.label}/{target}_{source}"
                key = f"{label}/in_cell"  # as NNI calls it
                if key not in memo:
                    memo[key] = nn.Parameter(1e-3 * torch.randn(len(operations)))
                self._arch_alpha[label] = memo[key]

    def forward(self, *inputs: Any) -> Any:
        """Take and return what NNI's cell does."""
        if drawn_candidates([(self._softmax, alpha) for alpha in self._arch_alpha.values()], self.others) is None:
            return super().forward(*inputs)
        processed = preprocess_cell_inputs(self.num_predecessors, *inputs)
        nodes = list(self.preprocessor(processed))
        for target, edges in enumerate(cast(Any, self.ops), start=self.num_predecessors):
            received = [self._edge_result(f"{self.label}/{target}_{j}", ops, nodes[j]) for j, ops in enumerate(edges)]
            nodes.append(sum(received))
        return self.postprocessor(torch.cat(nodes[self.num_predecessors :], self.concat_dim), processed)

    def _edge_result(self, label: str, operations: nn.ModuleDict, x: Tensor) -> Tensor:
        alpha, candidates = self._arch_alpha[label], list(operations.values())

        def run(k: int) -> Tensor:
            if k < len(candidates):
                return cast(Tensor, candidates[k](x))
            with torch.no_grad():  # the edge is not chosen: zeros of a shape that only a candidate knows
                return torch.zeros_like(copy.deepcopy(candidates[0]).eval()(x))

        (chosen,), others = cast(Any, drawn_candidates([(self._softmax, alpha)], self.others))
        return drawn_path(self._softmax(alpha), chosen, run, others=others)


def drawing_hooks() -> list[Any]:
    """Return the mutation hooks of these modules; they go before NNI's own."""
    return [DrawnLayer.mutate, DrawnInput.mutate, DrawnRepeat.mutate, DrawnCell.mutate]
