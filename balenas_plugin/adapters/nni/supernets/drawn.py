"""NNI's supernet modules, but of what is drawn or dropped they compute what is left alone; put in by mutation hooks.

Where a search has a `MixedOp`, it builds their candidates and says how these are mixed.

Operations whose arguments are choices (NNI's mixed convolutions and their like) have no candidates to leave out: they
compute once, with weights mixed of slices.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from nni.nas.hub.pytorch.modules import NasBench201Cell
from nni.nas.nn.pytorch.cell import preprocess_cell_inputs
from nni.nas.oneshot.pytorch.supermodule._expression_utils import traverse_all_options
from nni.nas.oneshot.pytorch.supermodule.differentiable import (
    DifferentiableMixedCell,
    DifferentiableMixedInput,
    DifferentiableMixedLayer,
    DifferentiableMixedRepeat,
)
from torch import Tensor, nn

from balenas_plugin.adapters.nni.supernets.edges import (
    IN_A_CANDIDATE,
    built,
    edge_weights,
    give_edge_weights,
    left_of,
    scaled,
)
from balenas_plugin.adapters.nni.supernets.fusion_plan import why_not_its_own
from balenas_plugin.adapters.nni.supernets.supernet_decisions import cell_nodes
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.laws import GumbelLaw
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.errors import SpaceError
from balenas_plugin.mixed_ops import IN_FULL, MixedOp
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


def kept_candidates(edges: Sequence[tuple[nn.Module, Tensor]]) -> list[Sequence[int]] | None:
    """Return the candidates of each edge that a pass computes; None if those are all."""
    kept = [softmax.kept(alpha) if isinstance(softmax, MixingWeights) else None for softmax, alpha in edges]
    if all(indices is None for indices in kept):
        return None
    return [range(len(alpha)) if k is None else k for k, (_, alpha) in zip(kept, edges, strict=True)]


class DrawnLayer(DifferentiableMixedLayer):
    """A LayerChoice; its candidates may be built and mixed by a `MixedOp`."""

    mixed_op: MixedOp | None

    others: Others = "scalar"
    """How the candidates not drawn take part, unless the draw says it: NAS-Bench-201's cell is made of LayerChoices."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixed_op = None

    @classmethod
    def mutate(cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> Any:
        """Turn a LayerChoice of the model space into this class (a mutation hook)."""
        made = super().mutate(module, name, memo, mutate_kwargs)
        if isinstance(made, DrawnLayer) and not hasattr(module, IN_A_CANDIDATE):
            made._build(name)
        return made

    def _build(self, called: str) -> None:
        mixed_op = getattr(self._softmax, "mixed_op", None)
        edge = mixed_op and built(mixed_op, {str(name): self[name] for name in self.names}, called=called)
        if edge:
            self.mixed_op = mixed_op
            self._modules.update(edge)

    def weights_in_full(self) -> Tensor | None:
        """Return the weights by which all candidates are added up, for a network that does so itself, shape (K,).

        None where that is not all that this layer does: a drawn path, dropped candidates, a `MixedOp`.
        """
        edge = [(self._softmax, self._arch_alpha)]
        apart = self.mixed_op is not None or why_not_its_own(self, DifferentiableMixedLayer) is not None
        if apart or drawn_candidates(edge, self.others) is not None or kept_candidates(edge) is not None:
            return None
        return cast(Tensor, self._softmax(self._arch_alpha))

    @property
    def operations(self) -> list[nn.Module]:
        """The candidates as they are mixed."""
        return [self[name] if self.mixed_op is None else self[name].operation for name in self.names]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take what the candidates take."""
        if self.mixed_op is None:
            return self._mixed(*args, **kwargs)
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
            raise SpaceError(
                f"{self.mixed_op.name} mixes operations of one tensor, and those of {self.label} take more"
            )
        (x,) = args
        seen, left = self.mixed_op.enter(x)
        return self.mixed_op.leave(self._mixed(seen), [(left, None)])

    def _mixed(self, *args: Any, **kwargs: Any) -> Any:
        edge = [(self._softmax, self._arch_alpha)]
        drawn, kept = drawn_candidates(edge, self.others), kept_candidates(edge)
        weights, operations = self._softmax(self._arch_alpha), self.operations
        if drawn is None and self.mixed_op is not None:
            (computed,) = kept or [range(len(operations))]
            return self.mixed_op.mix(args[0], [operations[k] for k in computed], weights[list(computed)])
        if not (drawn or kept) or why_not_its_own(self, DifferentiableMixedLayer) is not None:
            return super().forward(*args, **kwargs)
        if kept and drawn is None:
            return self._reduction([operations[k](*args, **kwargs) for k in kept[0]], weights[list(kept[0])])
        ((chosen, others),) = cast(Any, drawn)
        return drawn_path(weights, chosen, lambda k: operations[k](*args, **kwargs), others=others)


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


class EdgeWeighedNasBench201Cell(NasBench201Cell):
    """NAS-Bench-201's cell, whose edges may have weights of their own."""

    @classmethod
    def mutate(cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> None:
        """Turn a cell of the model space into this class, in place (a mutation hook); its choices stay its children.

        Nothing else of it changes. A new module could not be returned: NNI expects it to own the choices.
        """
        if type(module) is NasBench201Cell:
            mixed_op = getattr(mutate_kwargs["softmax"], "mixed_op", None)
            if mixed_op is not None and mixed_op.edge_normalization:
                give_edge_weights(module, range(1, cast(Any, module).num_tensors), memo)
            if cls is not EdgeWeighedNasBench201Cell or hasattr(module, "edge_logits"):
                module.__class__ = cls

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W)."""
        if not hasattr(self, "edge_logits"):
            return cast(Tensor, super().forward(inputs))
        nodes = [inputs]
        for target, edges in enumerate(self.layers, start=1):
            scales = edge_weights(self, target)
            received = [scaled(edge(x), b) for edge, x, b in zip(cast(Any, edges), nodes, scales, strict=True)]
            nodes.append(sum(received[1:], start=received[0]))
        return nodes[-1]


class DrawnCell(DifferentiableMixedCell):
    """A cell of edges (DARTS, NASNet, AmoebaNet ...); a `MixedOp` may build and mix its candidates.

    Where its table of factories says that they are `complete`, an edge has only those candidates for which they return
    a layer, and a logit for each of these alone: NNI has the same candidates on all edges, and one logit more.
    """

    mixed_op: MixedOp | None

    others: Others = "none"

    def __init__(self, op_factory: Any, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(DifferentiableMixedCell.__init__).bind(self, op_factory, *args, **kwargs).arguments
        if getattr(op_factory, "complete", False):
            super(DifferentiableMixedCell, self).__init__(op_factory, *args, **kwargs)
            self._softmax = given["mutate_kwargs"].get("softmax", nn.Softmax(-1))
            self._give_logits(given["memo"])
        else:
            super().__init__(op_factory, *args, **kwargs)
        mixed_op = getattr(self._softmax, "mixed_op", None)
        places = [(node, j) for node in range(self.num_nodes) for j in range(node + self.num_predecessors)]
        edges = [
            mixed_op and built(mixed_op, self.ops[node][j], called=f"{self.label}/{node + self.num_predecessors}_{j}")
            for node, j in places
        ]
        self.mixed_op = mixed_op if all(edges) else None
        if self.mixed_op is not None:
            for (node, j), edge in zip(places, edges, strict=True):
                self.ops[node][j].update(edge)
            if self.mixed_op.edge_normalization:
                nodes = range(self.num_predecessors, self.num_predecessors + self.num_nodes)
                give_edge_weights(self, nodes, given["memo"])

    def _give_logits(self, memo: dict[str, Any]) -> None:
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
        learned = [(self._softmax, alpha) for alpha in self._arch_alpha.values()]
        whole = drawn_candidates(learned, self.others) is None and kept_candidates(learned) is None
        if whole and self.mixed_op is None:
            return super().forward(*inputs)
        processed = preprocess_cell_inputs(self.num_predecessors, *inputs)
        nodes, mixed_op = list(self.preprocessor(processed)), self.mixed_op or IN_FULL
        entered = [mixed_op.enter(x) for x in nodes]
        for target, edges in enumerate(cast(Any, self.ops), start=self.num_predecessors):
            weights = edge_weights(self, target)
            received = [
                scaled(self._edge_result(f"{self.label}/{target}_{j}", edges[j], seen), weight)
                for j, ((seen, _), weight) in enumerate(zip(entered, weights, strict=True))
            ]
            mixed = sum(received[1:], start=received[0])
            nodes.append(mixed_op.leave(mixed, left_of(entered, weights)))
            entered.append(mixed_op.enter(nodes[-1]))
        return self.postprocessor(torch.cat(nodes[self.num_predecessors :], self.concat_dim), processed)

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return NNI's choice among the candidates of each edge; with weights of edges, each node's best products."""
        if not hasattr(self, "edge_logits") and all(len(a) > len(self.op_names) for a in self._arch_alpha.values()):
            return cast(dict[str, Any], super().export(memo))
        alphas = {label: alpha.detach().cpu() for label, alpha in self._arch_alpha.items()}
        posterior = Posterior.of({label: GumbelLaw(alpha) for label, alpha in alphas.items()}, kind="scores")
        return Architectures(cell_nodes(self, {label: label for label in alphas}), posterior).discretise(alphas)

    def alone(self, node: int, source: int, name: str) -> nn.Module:
        """Return a copy of a candidate as a network of one architecture has it, times the weight of its edge.

        Args:
            node: the node that its edge leads to, counted without the cell's inputs.
            source: the input of that node.
            name: of the candidate, which a `MixedOp` has built.
        """
        candidate: Any = copy.deepcopy(cast(Any, self.ops)[node][source][name])
        weight = edge_weights(self, node + self.num_predecessors)[source]
        candidate.weight = 1.0 if weight is None else weight.item()
        return cast(nn.Module, candidate)

    def operations(self, edge: nn.ModuleDict) -> list[nn.Module]:
        """Return the candidates of an edge as they are mixed."""
        return [each if self.mixed_op is None else cast(Any, each).operation for each in edge.values()]

    def _edge_result(self, label: str, operations: nn.ModuleDict, x: Tensor) -> Tensor:
        alpha, candidates = self._arch_alpha[label], self.operations(operations)
        weights, edge, mixed_op = self._softmax(alpha), [(self._softmax, alpha)], self.mixed_op or IN_FULL

        def run(k: int) -> Tensor:
            if k < len(candidates):
                return cast(Tensor, candidates[k](x))
            with torch.no_grad():  # the edge is not chosen: zeros of a shape that only a candidate knows
                return torch.zeros_like(copy.deepcopy(candidates[0]).eval()(x))

        if (drawn := drawn_candidates(edge, self.others)) is not None:
            ((chosen, others),) = drawn
            return drawn_path(weights, chosen, run, others=others)
        (kept,) = kept_candidates(edge) or [range(len(alpha))]
        computed = [k for k in kept if k < len(candidates)]
        if not computed:
            return weights[-1] * run(len(candidates))
        return mixed_op.mix(x, [candidates[k] for k in computed], weights[computed])


def drawing_hooks() -> list[Any]:
    """Return the mutation hooks of these modules; they go before NNI's own."""
    return [
        EdgeWeighedNasBench201Cell.mutate,
        DrawnLayer.mutate,
        DrawnInput.mutate,
        DrawnRepeat.mutate,
        DrawnCell.mutate,
    ]
