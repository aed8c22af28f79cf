"""One initialisation of every layer that any architecture could use, and networks that take theirs from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from balenas_plugin.restoring import random_numbers_restored

from .network import STAGES, Cell, NasBench201Network, build_network
from .notation import EDGES, OPERATIONS, Edge, Indices, check_indices
from .operations import build_operation
from .synflow import (
    CellLayers,
    Layer,
    MultilinearLayers,
    absolute,
    live_edges,
    log_synflow_of_layers,
    multilinear_layers,
)

_WIDEST = "nor_conv_3x3"
_WEIGHTED = ("nor_conv_1x1", _WIDEST)


class SharedWeights:
    """The weights of all architectures under one initialisation: a layer starts the same in each that has it.

    Drawing the weights of a network costs as much as SynFlow itself, so many architectures are ranked twice as fast;
    and their scores differ by the architecture alone, not by the luck of the initialisation.

    Args:
        seed: of torch's generator, whose state is put back afterwards.
        channels: C of the first stage.
        cells_per_stage: N.
        stages: S.
        num_classes: size of the output.
    """

    def __init__(
        self,
        seed: int,
        *,
        channels: int = 16,
        cells_per_stage: int = 5,
        stages: int = STAGES,
        num_classes: int = 10,
    ) -> None:
        self._sizes = {
            "channels": channels,
            "cells_per_stage": cells_per_stage,
            "stages": stages,
            "num_classes": num_classes,
        }
        with random_numbers_restored(seed):
            self._network = build_network((OPERATIONS.index(_WIDEST),) * len(EDGES), **self._sizes)
            self._candidates = [
                _candidates(block) if isinstance(block, Cell) else None for block in self._network.cells
            ]
        self._absolute: MultilinearLayers | None = None
        self._layers: dict[tuple[int, Edge, str], Layer] = {}
        self._known: dict[tuple[Indices, int], float] = {}

    def network(self, architecture: Sequence[int]) -> NasBench201Network:
        """Return the network of the operation indices `architecture`, with its own copy of its weights."""
        indices = check_indices(architecture)
        with torch.device("meta"):
            network = build_network(indices, **self._sizes)
        state = {k: v.clone() for k, v in self._network.state_dict().items() if ".operations." not in k}
        for position, candidates in enumerate(self._candidates):
            for edge, name in _operations(indices).items() if candidates is not None else ():
                if candidates is not None and name in _WEIGHTED:
                    for key, value in candidates[edge, name].state_dict().items():
                        state[f"cells.{position}.operations.{edge}.{key}"] = value.clone()
        network.load_state_dict(state, assign=True)
        return network

    def log_synflow(self, architecture: Sequence[int], *, image_size: int = 32) -> float:
        """Return what `log_synflow` does for `network(architecture)`, without making it.

        Architectures that differ only in edges which lead nowhere are one network, and computed once.
        """
        operations = _operations(check_indices(architecture))
        live = live_edges({edge for edge, name in operations.items() if name != "none"})
        key = tuple(OPERATIONS.index(operations[edge]) if edge in live else 0 for edge in EDGES), image_size
        if key not in self._known:
            layers = self._layers_of({edge: operations[edge] for edge in EDGES if edge in live})
            self._known[key] = log_synflow_of_layers(layers, image_size=image_size)
        return self._known[key]

    def _layers_of(self, operations: Mapping[Edge, str]) -> MultilinearLayers:
        """Return the layers of the cells with these operations, and those that all architectures share."""
        if self._absolute is None:
            self._absolute = multilinear_layers(self._network)
        blocks = [
            block if candidates is None else self._cell(position, operations)
            for position, (block, candidates) in enumerate(zip(self._absolute.blocks, self._candidates, strict=True))
        ]
        return MultilinearLayers(self._absolute.stem, blocks, self._absolute.classifier)

    def _cell(self, position: int, operations: Mapping[Edge, str]) -> CellLayers:
        candidates = self._candidates[position]
        assert candidates is not None
        cell: dict[Edge, Layer] = {}
        for edge, name in operations.items():
            key = (position, edge, name)
            if key not in self._layers:
                layer = candidates[edge, name]
                self._layers[key] = absolute(layer[1]) if isinstance(layer, nn.Sequential) else layer
            cell[edge] = self._layers[key]
        return cell


def _candidates(cell: Cell) -> dict[tuple[Edge, str], nn.Module]:
    """Return every layer on every edge; the widest is the cell's own."""
    return {
        (edge, name): cell.operations[str(edge)] if name == _WIDEST else build_operation(name, cell.channels)
        for edge in EDGES
        for name in OPERATIONS
        if name != "none"
    }


def _operations(indices: Indices) -> dict[Edge, str]:
    return {edge: OPERATIONS[index] for edge, index in zip(EDGES, indices, strict=True)}
