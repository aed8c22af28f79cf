"""NAS-Bench-201 as the rest of the package asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.search_spaces import (
    NONE,
    PARAMETER_FREE,
    PARAMETRIC,
    SKIP,
    Networks,
    Reading,
    SearchSpace,
    SkipRule,
)

from .network import STAGES, build_network
from .notation import EDGES, OPERATIONS, format_string, from_nni, to_nni
from .reading import NUM_ARCHITECTURES, read_architecture
from .shared_weights import SharedWeights

_NAMES = tuple(next(iter(to_nni([operation] * len(EDGES)).values())) for operation in range(len(OPERATIONS)))
_KINDS = dict(zip(_NAMES, (NONE, SKIP, PARAMETRIC, PARAMETRIC, PARAMETER_FREE), strict=True))
_DRAWN_NAMES = dict(zip(_NAMES, OPERATIONS, strict=True))


class NasBench201Space(SearchSpace):
    """NAS-Bench-201, with networks built directly, without NNI.

    Args:
        channels: C of the first stage.
        cells_per_stage: N.
        stages: S; the benchmark has 3.
        num_classes: size of the output.
        image_size: side of the images in pixels.
    """

    name = "nasbench201"
    title = "NAS-Bench-201"
    source = "Dong and Yang 2020"
    aliases = ("NasBench201",)
    supernet = "nni.nas.hub.pytorch.nasbench201:NasBench201"
    ground_truth = "balenas_plugin.benchmarks"
    size = NUM_ARCHITECTURES
    choices = dict.fromkeys(to_nni([0] * len(EDGES)), _NAMES)
    kinds = _KINDS
    drawn_names = _DRAWN_NAMES
    skip_rule = SkipRule(
        3 / 6, "In NAS-Bench-201, networks with more than 3 of 6 reach 82 % on CIFAR-10 on average, all others 87 %."
    )

    def __init__(
        self,
        *,
        channels: int = 16,
        cells_per_stage: int = 5,
        stages: int = STAGES,
        num_classes: int = 10,
        image_size: int = 32,
    ) -> None:
        self._sizes = {
            "channels": channels,
            "cells_per_stage": cells_per_stage,
            "stages": stages,
            "num_classes": num_classes,
        }
        self.image_shape = (3, image_size, image_size)

    def like(self, supernet: Any, image_shape: tuple[int, ...]) -> SearchSpace | None:
        """Return the space in the sizes of NNI's; its networks take square images of three channels."""
        if image_shape[0] != 3 or image_shape[1] != image_shape[2]:
            return None
        return self.sized(
            channels=supernet.channels,
            cells_per_stage=supernet.num_modules,
            num_classes=supernet.num_labels,
            image_size=image_shape[1],
        )

    def notation(self, architecture: Architecture) -> str:
        """Return the NAS-Bench-201 string."""
        return format_string(from_nni(architecture))

    def read(self, text: str, *, notation: str | None = None) -> Reading:
        """Return the architecture that a text names (see `read_architecture`)."""
        return read_architecture(text, notation=notation)

    def build(self, architecture: Architecture) -> nn.Module:
        """Return a freshly initialised network."""
        return build_network(from_nni(architecture), **self._sizes)

    def networks(self, seed: int) -> Networks:
        """Return networks that share the layers they have in common (`SharedWeights`)."""
        return NasBench201Networks(SharedWeights(seed, **self._sizes), self.image_shape[1])


@dataclass(frozen=True)
class NasBench201Networks:
    """Networks of NAS-Bench-201 with shared initial weights."""

    weights: SharedWeights
    image_size: int

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the network of an architecture."""
        return self.weights.network(from_nni(architecture))

    def fast_rank_value(self, proxy: str, architecture: Architecture) -> float | None:
        """Return SynFlow's logarithm from one forward pass."""
        if proxy != "synflow":
            return None
        return self.weights.log_synflow(from_nni(architecture), image_size=self.image_size)
