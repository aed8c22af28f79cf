"""What the exporter needs to know of a model space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from balenas_plugin.bayes.decisions import Decision, OneOf, Sample
from balenas_plugin.restoring import random_numbers_restored
from balenas_plugin.search_spaces.nasbench201 import (
    EDGES,
    OPERATIONS,
    SharedWeights,
    build_network,
    format_string,
    from_nni,
    to_nni,
)


class Space(Protocol):
    """A model space: its decisions, and the network of each architecture."""

    @property
    def decisions(self) -> Sequence[Decision]:
        """The independent decisions of an architecture."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an input."""

    def build(self, sample: Sample) -> nn.Module:
        """Return a freshly initialised network; its weights come from torch's global generator."""

    def notations(self, sample: Sample) -> dict[str, str]:
        """Return the space's own notations: name of the notation -> text."""

    def networks(self, seed: int) -> Networks:
        """Return the networks of all architectures under the initialisation `seed`."""


class Networks(Protocol):
    """The freshly initialised networks of a space: the same architecture always has the same weights."""

    def build(self, sample: Sample) -> nn.Module:
        """Return the network of an architecture; torch's global generator is left as it is."""

    def fast_rank_value(self, proxy: str, sample: Sample) -> float | None:
        """Return what `rank_value` would for `build(sample)`, if there is a quicker way to it, else None."""


def initialised_anew(network: nn.Module) -> nn.Module:
    """Draw the weights of every layer again, from torch's global generator; return the network."""
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return network


@dataclass(frozen=True)
class SeededNetworks:
    """Networks that a space builds after torch's generator was seeded: all that any space can do."""

    space: Space
    seed: int

    def build(self, sample: Sample) -> nn.Module:
        """Return the network of an architecture."""
        with random_numbers_restored(self.seed):
            return self.space.build(sample)

    def fast_rank_value(self, proxy: str, sample: Sample) -> float | None:
        """Return None: there is no quicker way for an arbitrary space."""
        return None


class NasBench201Space:
    """NAS-Bench-201, with networks built directly, without NNI.

    Args:
        channels: C of the first stage.
        cells_per_stage: N.
        num_classes: size of the output.
        image_size: side of the images in pixels.
    """

    def __init__(
        self, *, channels: int = 16, cells_per_stage: int = 5, num_classes: int = 10, image_size: int = 32
    ) -> None:
        self.channels = channels
        self.cells_per_stage = cells_per_stage
        self.num_classes = num_classes
        self.image_size = image_size
        values = [next(iter(to_nni([operation] * len(EDGES)).values())) for operation in range(len(OPERATIONS))]
        self.decisions: Sequence[Decision] = [OneOf(label, tuple(values)) for label in to_nni([0] * len(EDGES))]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(3, side, side)."""
        return (3, self.image_size, self.image_size)

    def build(self, sample: Sample) -> nn.Module:
        """Return a freshly initialised network."""
        return build_network(
            from_nni(sample),
            channels=self.channels,
            cells_per_stage=self.cells_per_stage,
            num_classes=self.num_classes,
        )

    def notations(self, sample: Sample) -> dict[str, str]:
        """Return the NAS-Bench-201 string."""
        return {"nasbench201": format_string(from_nni(sample))}

    def networks(self, seed: int) -> Networks:
        """Return networks that share the layers they have in common (`SharedWeights`)."""
        weights = SharedWeights(
            seed, channels=self.channels, cells_per_stage=self.cells_per_stage, num_classes=self.num_classes
        )
        return NasBench201Networks(weights, self.image_size)


@dataclass(frozen=True)
class NasBench201Networks:
    """Networks of NAS-Bench-201 with shared initial weights."""

    weights: SharedWeights
    image_size: int

    def build(self, sample: Sample) -> nn.Module:
        """Return the network of an architecture."""
        return self.weights.network(from_nni(sample))

    def fast_rank_value(self, proxy: str, sample: Sample) -> float | None:
        """Return SynFlow's logarithm from one forward pass."""
        if proxy != "synflow":
            return None
        return self.weights.log_synflow(from_nni(sample), image_size=self.image_size)
