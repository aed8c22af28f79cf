"""The supernet of DARTS's recurrent cell, as a model space of NNI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, cast

import torch
from nni.mutable import Categorical, CategoricalMultiple, label_scope
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from pydantic import Field
from torch import Tensor, nn

from balenas_plugin.options import NonNegative, PositiveInt

from .recurrent_genotype import CELL, LABELS, NODES, OPERATIONS, genotype_of
from .recurrent_network import ACTIVATIONS, Dropouts, LanguageModel, Recurrence, build_language_model, gated, masked

_Probability = Annotated[float, Field(ge=0, lt=1)]


class NoConnection(nn.Module):
    """A candidate that adds nothing to its node."""

    def forward(self, state: Tensor, gate: Tensor, candidate: Tensor) -> Tensor:
        """Return zeros of the shape of a state."""
        return torch.zeros_like(state)


class GatedActivation(nn.Module):
    """A candidate: an activation behind the gate of its node; all candidates of a node share the node's weights."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, state: Tensor, gate: Tensor, candidate: Tensor) -> Tensor:
        """Return ``state + gate (activation(candidate) - state)``."""
        return gated(state, gate, ACTIVATIONS[self.name](candidate))


class RecurrentSearchCell(Recurrence):
    """All recurrent cells at once: a node adds up the candidates of its edges from all states before it.

    Where every candidate of every edge is computed, and its choices say so (`weights_in_full`), those of a node are
    computed together.
    """

    def __init__(self, size: int, dropouts: Dropouts) -> None:
        super().__init__(size, NODES, dropouts)
        self.norm = nn.BatchNorm1d(size, affine=False)
        with label_scope(CELL):
            self.edges = nn.ModuleList(nn.ModuleList(map(_edge, labels)) for labels in LABELS.values())

    def steps(self, mask: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Return what maps the first state to the mean of all nodes."""
        mixed = [self._mixed(cast(Sequence[Any], edges)) for edges in self.edges]

        def step(first: Tensor) -> Tensor:
            states = self.norm(first)[None]
            for weight, mix in zip(self.node_weights, mixed, strict=True):
                gates, candidates = (masked(states, mask) @ weight).chunk(2, -1)
                node = self.norm(mix(states, gates.sigmoid(), candidates))
                states = torch.cat([states, node[None]])
            mean: Tensor = states[1:].mean(0)
            return mean

        return step

    def _mixed(self, edges: Sequence[Any]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return what adds up a node's candidates, of states, gates and candidates ``(edges, B, d)``."""
        asked = [getattr(edge, "weights_in_full", lambda: None)() for edge in edges]
        found = [weights for weights in asked if weights is not None]
        if len(found) < len(asked):
            return partial(_each, edges)
        _, *weights = torch.stack(found).T[..., None, None]  # none adds nothing
        return partial(_together, dict(zip(OPERATIONS[1:], weights, strict=True)), torch.stack(weights).sum(0))


def _edge(label: str) -> LayerChoice:
    candidates = {name: GatedActivation(name) if name in ACTIVATIONS else NoConnection() for name in OPERATIONS}
    return LayerChoice(candidates, label=label.removeprefix(f"{CELL}/"))


def _each(edges: Sequence[nn.Module], *given: Tensor) -> Tensor:
    results = [edge(*of_edge) for edge, *of_edge in zip(edges, *given, strict=True)]
    return cast(Tensor, sum(results[1:], results[0]))


def _together(weights: dict[str, Tensor], total: Tensor, states: Tensor, gates: Tensor, candidates: Tensor) -> Tensor:
    """Return the sum over edges and activations k of p_k (s + c (f_k - s)); `total` is that of the p_k."""
    made = [weight * ACTIVATIONS[name](candidates) for name, weight in weights.items()]
    activated = sum(made[1:], made[0])
    kept = total * states
    return gated(kept, gates, activated).sum(0)


class RecurrentSupernet(ModelSpace, LanguageModel):  # type: ignore[misc]  # NNI has no types
    """The supernet of DARTS's recurrent cell, with the dropouts of its search.

    Args:
        size: d, of the embedding and the hidden state.
        num_labels: number of different words.
        dropout: of what the cell returns.
        hidden_dropout: of the hidden state, and of the states inside the cell.
        input_dropout: of what enters the cell.
        embedding_dropout: of embedded words.
        word_dropout: of whole words of the vocabulary.
        slowness: weight, in the loss of the weights, of the mean square by which outputs differ from those before them.
    """

    def __init__(
        self,
        size: PositiveInt = 300,
        num_labels: PositiveInt = 10_000,
        dropout: _Probability = 0.75,
        hidden_dropout: _Probability = 0.25,
        input_dropout: _Probability = 0.75,
        embedding_dropout: _Probability = 0.2,
        word_dropout: _Probability = 0.0,
        slowness: NonNegative = 1e-3,
    ) -> None:
        dropouts = Dropouts(
            output=dropout,
            hidden=hidden_dropout,
            input=input_dropout,
            embedding=embedding_dropout,
            word=word_dropout,
        )
        super().__init__(cell=RecurrentSearchCell(size, dropouts), size=size, vocabulary=num_labels, dropouts=dropouts)
        self.slowness = slowness

    def architecture_choices(self) -> list[Any]:
        """Return what an architecture chooses, as NNI's mutables: a genotype names one edge of a node, not all."""
        with label_scope(CELL):
            operations = [Categorical(OPERATIONS[1:], label=f"op_{node}_0") for node in LABELS]
            return operations + [CategoricalMultiple(range(k), n_chosen=1, label=f"input_{k}_0") for k in LABELS]

    def check_contains(self, sample: dict[str, Any]) -> Any:
        """Return NNI's exception if a sample is no architecture of the space, or None."""
        return next(filter(None, (choice.check_contains(sample) for choice in self.architecture_choices())), None)

    def freeze(self, sample: dict[str, Any]) -> LanguageModel:
        """Return the language model of an architecture: with fresh weights, or of a trained supernet with its own."""
        edges = {label for labels in LABELS.values() for label in labels}  # NNI names all choices of layers
        trained = any(isinstance(module, BaseSuperNetModule) for module in self.modules())
        network = build_language_model(
            genotype_of({label: choice for label, choice in sample.items() if label not in edges}),
            size=self.size,
            vocabulary=self.num_labels,
            dropouts=self.dropouts,
            normalise=trained,
        )
        if trained:
            network.to(self.embedding.weight)
            own = self.state_dict()
            network.load_state_dict({name: own[name] for name in network.state_dict()})
        return network.train(self.training)
