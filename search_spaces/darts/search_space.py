"""The DARTS space and its relatives as the rest of the package asks for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import nn

from balenas_plugin.bayes.decisions import NO_CONNECTION, Architecture, Decision, SoftmaxNode
from balenas_plugin.errors import SpaceError
from balenas_plugin.search_spaces import CellEdge, Reading, SearchSpace, SkipRule, cells_with_outputs

from .edges import CELL_EDGES, EDGES, NODES
from .genotype import CELLS, from_nni, read_genotype
from .network import build_network
from .operations import KINDS
from .published import PUBLISHED

_Sizes = Mapping[str, Mapping[str, int]]
_CIFAR: _Sizes = {"CIFAR-10": {}, "CIFAR-100": {"num_classes": 100}}
_SMALL: _Sizes = {f"{name}, small": {**sizes, "channels": 16, "cells": 8} for name, sizes in _CIFAR.items()}
_IMAGENET: _Sizes = {"ImageNet": {"channels": 48, "cells": 14, "num_classes": 1000, "image_size": 224}}
_LARGE_IMAGES = 128
_AUXILIARY_IMAGES = 9  # of which 3x3 are left behind the second reduction


class DartsSpace(SearchSpace):
    """The DARTS space by the convention of its own code, with networks built directly, without NNI.

    Args:
        channels: C of the first cells.
        cells: L.
        num_classes: size of the output.
        image_size: side of the images in pixels; from 128 on, networks have the stem for ImageNet.
    """

    name = "darts-reference"
    title = "DARTS"
    source = "Liu et al. 2019"
    supernet = "balenas_plugin.search_spaces.darts.supernet:DartsSupernet"
    ground_truth = "balenas_plugin.search_spaces.darts.ground_truth"
    trained_as: Mapping[str, Mapping[str, int]] = {**_CIFAR, **_IMAGENET}
    published = PUBLISHED
    skip_rule = SkipRule(3 / 8, "Networks with more than 3 in the 8 of a cell are usually poor (Zhang et al. 2022).")

    def __init__(self, *, channels: int = 36, cells: int = 20, num_classes: int = 10, image_size: int = 32) -> None:
        self._sizes = channels, cells, num_classes
        self.image_shape = (3, image_size, image_size)
        self._edges = EDGES[self.name]
        self.choices = {f"{cell}/{node}_{j}": self._edges[cell][node, j] for cell in CELLS for node, j in CELL_EDGES}
        self.kinds = {name: KINDS[name] for names in self.choices.values() for name in names}
        self.size: int = math.prod(self._ways(cell, node) for cell in CELLS for node in NODES)

    @cached_property
    def decisions(self) -> Sequence[Decision]:
        """The nodes of the cells: each takes its two strongest edges, by the softmax of each."""
        return [
            SoftmaxNode(cell, node, labels, 2, tuple(tuple(self.choices[label]) for label in labels))
            for cell in CELLS
            for node in NODES
            for labels in [tuple(f"{cell}/{node}_{j}" for j in range(node))]
        ]

    def like(self, supernet: Any, image_shape: tuple[int, ...]) -> SearchSpace | None:
        """Return the space in the sizes of its supernet; its networks take square images of three channels."""
        if image_shape[0] != 3 or image_shape[1] != image_shape[2] or image_shape[1] >= _LARGE_IMAGES:
            return None
        return self.sized(
            channels=supernet.width,
            cells=supernet.num_cells,
            num_classes=supernet.num_labels,
            image_size=image_shape[1],
        )

    def notation(self, architecture: Architecture) -> str:
        """Return the genotype in the reference's form."""
        return str(from_nni(architecture))

    def read(self, text: str, *, notation: str | None = None) -> Reading:
        """Return the architecture that a text names (see `read_genotype`)."""
        return read_genotype(text, notation=notation)

    def cells(self, architecture: Mapping[str, Any]) -> dict[str, list[CellEdge]]:
        """Return the two cells, each with an output that joins nodes: all of them, or those that a genotype says."""
        return cells_with_outputs(architecture)

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the freshly initialised network that the architecture is evaluated by, without auxiliary head."""
        return self.training_network(architecture)

    def training_network(
        self,
        architecture: Architecture,
        *,
        auxiliary: bool = False,
        auxiliary_last_norm: bool | None = None,
        drop_path: float = 0.0,
    ) -> nn.Module:
        """Return the freshly initialised network that the architecture is evaluated by.

        Raises:
            SpaceError: the images are too small for an auxiliary head.
        """
        channels, cells, num_classes = self._sizes
        size = self.image_shape[1]
        if auxiliary and size < _AUXILIARY_IMAGES:
            raise SpaceError(
                f"images of {size}x{size} leave no space for an auxiliary head, which needs {_AUXILIARY_IMAGES}x"
                f"{_AUXILIARY_IMAGES}: set auxiliary to 0, or data.image_size to {_AUXILIARY_IMAGES}"
            )
        return build_network(
            from_nni(architecture),
            channels=channels,
            cells=cells,
            num_classes=num_classes,
            stem="imagenet" if size >= _LARGE_IMAGES else "cifar",
            auxiliary=auxiliary,
            auxiliary_last_norm=auxiliary_last_norm,
            drop_path=drop_path,
        )

    def _ways(self, cell: str, node: int) -> int:
        """Return in how many ways a node can keep two edges, each with an operation."""
        counts = [len({*self._edges[cell][node, j]} - {NO_CONNECTION}) for j in range(node)]
        return sum(a * b for k, a in enumerate(counts) for b in counts[:k])


class S1Space(DartsSpace):
    """RobustDARTS's S1."""

    name = "darts-s1"
    title = "RobustDARTS S1"
    source = "Zela et al. 2020"
    supernet = "balenas_plugin.search_spaces.darts.supernet:S1Supernet"
    ground_truth = ""
    published = ()
    trained_as: Mapping[str, Mapping[str, int]] = {**_CIFAR, **_SMALL}

    def read(self, text: str, *, notation: str | None = None) -> Reading:
        """Return the architecture that a text names, which has the operations of this space on its edges.

        Raises:
            SpaceError: it is none, or has others.
        """
        reading = super().read(text, notation=notation)
        for cell, (pairs, _) in from_nni(reading.sample or {}).cells.items():
            if len(pairs) != 2 * len(NODES):
                raise SpaceError(f"{cell} cell: {self.title} has {len(NODES)} nodes, not {len(pairs) // 2}")
            for node, (operation, state) in zip(sorted([*NODES, *NODES]), pairs, strict=True):
                allowed = [name for name in self.choices[f"{cell}/{node}_{state}"] if name != NO_CONNECTION]
                if operation not in allowed:
                    raise SpaceError(
                        f"{cell} cell, node {node}: {self.title} has no {operation} on state {state}; allowed: "
                        f"{', '.join(allowed)}"
                    )
        return reading


class S2Space(S1Space):
    """RobustDARTS's S2."""

    name = "darts-s2"
    title = "RobustDARTS S2"
    supernet = "balenas_plugin.search_spaces.darts.supernet:S2Supernet"


class S3Space(S1Space):
    """RobustDARTS's S3."""

    name = "darts-s3"
    title = "RobustDARTS S3"
    supernet = "balenas_plugin.search_spaces.darts.supernet:S3Supernet"


class S4Space(S1Space):
    """RobustDARTS's S4."""

    name = "darts-s4"
    title = "RobustDARTS S4"
    supernet = "balenas_plugin.search_spaces.darts.supernet:S4Supernet"


class S5Space(S1Space):
    """SmoothDARTS's DARTS space, without `none`."""

    name = "darts-s5"
    title = "SmoothDARTS S5"
    source = "Chen and Hsieh 2020"
    supernet = "balenas_plugin.search_spaces.darts.supernet:S5Supernet"
