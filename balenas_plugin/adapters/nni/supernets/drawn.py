"""NNI's supernet modules, but where one candidate of a label is drawn they compute it alone; put in by mutation hooks.

Operations whose arguments are choices (NNI's mixed convolutions and their like) have no candidates to leave out: they
compute once, with weights mixed of slices.
"""

from __future__ import annotations

import copy
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


def drawn_candidates(
    edges: Sequence[tuple[nn.Module, Tensor]], others: Others
) -> list[tuple[int, Others | Sequence[int]]] | None:
    """Return the only candidate of each edge that a pass computes, and how the others take part; None to compute all.

    Args:
        edges: what mixes the candidates of an edge, and the parameter.
        others: see `drawn_path`, where the draw does not say it.
    """
    drawn: list[tuple[int, Others | Sequence[int]]] = []
    for softmax, alpha in edges:
        if not isinstance(softmax, MixingWeights) or (index := softmax.chosen(alpha)) is None:
            return None
        of_draw = softmax.others(alpha)
        drawn.append((index, others if of_draw is None else of_draw))
    return drawn


class DrawnLayer(DifferentiableMixedLayer):
    """A LayerChoice."""

    others: Others = "scalar"
    """How the candidates not drawn take part, unless the draw says it: NAS-Bench-201's cell is made of LayerChoices."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take what the candidates take."""
        drawn = drawn_candidates([(self._softmax, self._arch_alpha)], self.others)
        if drawn is None or why_not_its_own(self, DifferentiableMixedLayer) is not None:
            return super().forward(*args, **kwargs)
        ((chosen, others),) = drawn
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
        ((chosen, others),) = drawn
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
        sample = {label: values[label][k] for label, (k, _) in zip(weights, drawn, strict=True)}
        depths, depth = list(options), self.depth_choice.freeze(sample)
        others = drawn[0][1]
        if not isinstance(others, str):
            each = ({label: values[label][k]} for label, (_, ks) in zip(weights, drawn, strict=True) for k in ks)
            others = sorted({depths.index(self.depth_choice.freeze(sample | o)) for o in each} - {depths.index(depth)})

        def run(k: int) -> Any:
            result = x
            for block in self.blocks[: depths[k]]:
                result = block(result)
            return result

        return drawn_path(torch.stack(list(options.values())), depths.index(depth), run, others=others)


class DrawnCell(DifferentiableMixedCell):
    """A cell of edges (DARTS, NASNet, AmoebaNet ...)."""

    others: Others = "none"

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

        ((chosen, others),) = cast(Any, drawn_candidates([(self._softmax, alpha)], self.others))
        return drawn_path(self._softmax(alpha), chosen, run, others=others)


def drawing_hooks() -> list[Any]:
    """Return the mutation hooks of these modules; they go before NNI's own."""
    return [DrawnLayer.mutate, DrawnInput.mutate, DrawnRepeat.mutate, DrawnCell.mutate]
