"""A supernet after its search: the network that an architecture inherits from it, and the data it was trained on.

A network of its own for each architecture, with NNI's `freeze`, is faster than the supernet with one-hot mixing
weights, which computes all candidates (docs/exporter.md has the times), and equal to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell
from torch import Tensor, nn

from balenas_plugin.adapters.nni.supernets.by_position import batch_size_of, batches_at, positions_of
from balenas_plugin.adapters.nni.supernets.found_model import completed
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.distributions import Draw
from balenas_plugin.errors import EvaluatorError, SpaceError
from balenas_plugin.restoring import random_numbers_restored
from balenas_plugin.search.mixing import mixing_of
from balenas_plugin.search_spaces import SearchSpace
from balenas_plugin.selection.supernet_accuracy import Batch

_WEIGHTS, _ARCHITECTURE = 0, 1  # the two halves


class TrainedSupernet:
    """The supernet of a search, with the two halves of its data; its weights stay as they are.

    Args:
        supernet: with the weights of the search.
        space: the exporter's view of the space that it was made of.
        weight_loader: of the data that trained the weights; its set is read by position.
        architecture_loader: likewise, of the data that trained the architecture.
        device: where networks and batches are put.
        prepare: does to a batch what the search has done to it, such as the evaluator's transfer hooks.

    Raises:
        EvaluatorError: a loader has no data set that can be read by position.
    """

    def __init__(
        self,
        supernet: ModelSpace,
        space: SearchSpace,
        weight_loader: Any,
        architecture_loader: Any,
        *,
        device: torch.device,
        prepare: Callable[[Any], Any] = lambda batch: batch,
    ) -> None:
        self._supernet = supernet
        self._space = space
        self._halves = weight_loader, architecture_loader
        self._positions = positions_of(weight_loader, "training"), positions_of(architecture_loader, "validation")
        self.device = device
        self._prepare = prepare

    def network(self, architecture: Architecture) -> nn.Module:
        """Return an architecture's network with its own copy of the supernet's weights."""
        return inherited_network(self._supernet, self._space, architecture).to(self.device)

    def mixture(self) -> MixedSupernet:
        """Return a copy of the supernet that mixes as it is told."""
        return MixedSupernet(copy.deepcopy(self._supernet).to(self.device))

    def weight_batches(self, count: int, *, seed: int) -> Sequence[Batch]:
        """Return `count` whole batches of the training loader's set, or all; its augmentation is seeded too."""
        size = batch_size_of(self._halves[_WEIGHTS])
        whole = len(self._positions[_WEIGHTS]) // size  # at least 1, or there had been no search
        return self._batches(_WEIGHTS, min(count, whole) * size, seed)

    def architecture_batches(self, images: int, *, seed: int) -> Sequence[Batch]:
        """Return `images` images of the validation loader's set, or all, in its batches."""
        return self._batches(_ARCHITECTURE, images, seed)

    def _batches(self, half: int, images: int, seed: int) -> list[Batch]:
        with random_numbers_restored(2 * seed + half):
            positions = self._positions[half]
            chosen = positions[torch.randperm(len(positions))[:images]]
            return [self._moved(batch) for batch in batches_at(self._halves[half], chosen)]

    def _moved(self, batch: Any) -> Batch:
        match self._prepare(batch):
            case [Tensor() as images, Tensor() as labels]:
                return images.to(self.device), labels.to(self.device)
        raise EvaluatorError(
            f"the supernet's accuracy needs batches (images, labels); a loader gives {type(batch).__name__}"
        )


class MixedSupernet:
    """A supernet that mixes its candidates as it is told; what reads the parameters itself is not reached (`Mixture`).

    Args:
        network: the supernet.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._mixing, self._parameters = mixing_of(network), architecture_parameters(network)

    def mean_weights(self) -> dict[str, Tensor]:
        """Return the mean mixing weights that the search has left: label -> shape (K,)."""
        return {label: self._mixing(alpha).detach() for label, alpha in self._parameters.items()}

    def mixing(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Let every mixed operation use these mixing weights inside the block."""
        placed = {label: w.to(self._parameters[label]) for label, w in weights.items()}
        return self._mixing.using(Draw(placed, placed), self._parameters)


def inherited_network(supernet: ModelSpace, space: SearchSpace, architecture: Mapping[str, Any]) -> nn.Module:
    """Return the frozen network with a copy of the supernet's weights.

    Raises:
        SpaceError: the space's frozen network has parameters that its supernet does not have.
    """
    try:
        return copy.deepcopy(supernet.freeze(completed(supernet, architecture)))
    except NotImplementedError:  # NNI cannot freeze supernet cells
        network = space.build(dict(architecture))
        _load_cell_weights(network, supernet, architecture)
        return network


def _load_cell_weights(network: nn.Module, supernet: nn.Module, architecture: Mapping[str, Any]) -> None:
    """Copy the weights of a supernet with cells into a frozen network: operation k of a node is (input, operation)."""
    moved = {}
    for path, cell in supernet.named_modules():
        if isinstance(cell, DifferentiableMixedCell) and f"{cell.label}/op_{cell.num_predecessors}_0" in architecture:
            for node in range(cell.num_nodes):
                number = node + cell.num_predecessors
                for k in range(cell.num_ops_per_node):
                    (source,) = architecture[f"{cell.label}/input_{number}_{k}"]
                    operation = architecture[f"{cell.label}/op_{number}_{k}"]
                    moved[f"{path}.ops.{node}.{k}."] = f"{path}.ops.{node}.{source}.{operation}."
                    if getattr(cell, "mixed_op", None) is not None:  # of fewer channels than the space's own, say
                        alone = cast(Any, cell).alone(node, source, operation)
                        setattr(network.get_submodule(f"{path}.ops.{node}"), str(k), alone)
    weights, state = supernet.state_dict(), {}
    for key, value in network.state_dict().items():
        prefix = next((prefix for prefix in moved if key.startswith(prefix)), "")
        own = moved.get(prefix, "") + key.removeprefix(prefix)
        if own not in weights or weights[own].shape != value.shape:
            raise SpaceError(
                f"{key} of the frozen network has no weights of its own in the supernet, so they cannot be inherited. "
                "The formats json, csv and svg work."
            )
        state[key] = weights[own]
    network.load_state_dict(state)
