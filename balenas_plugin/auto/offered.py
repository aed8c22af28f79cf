"""The networks that a plan chooses from: those of a search space in several sizes, and the baseline's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from balenas_plugin.auto.auto_plan import Limits
from balenas_plugin.auto.resnet import NarrowResNet
from balenas_plugin.auto.step_timing import DoesNotFitError, Timed, multiply_adds, time_training
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.deployment import measure_latency
from balenas_plugin.export.onnx_file import onnx_to_time
from balenas_plugin.search_spaces import NONE, SearchSpace, get_space

_WIDTHS = (4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)

BASELINE = "resnet"
BASELINE_SIZES = tuple({"width": width} for width in _WIDTHS)


@dataclass(frozen=True, kw_only=True)
class OfferedSpace:
    """A search space, and the sizes of its networks.

    Args:
        name: of the space.
        supernet: size -> what the supernet calls it.
        searched: sizes of supernets, from the smallest.
        trained: sizes of networks, from the smallest.
    """

    name: str
    supernet: Mapping[str, str]
    searched: Sequence[Mapping[str, int]]
    trained: Sequence[Mapping[str, int]]

    def config(self, sizes: Mapping[str, int]) -> dict[str, object]:
        """Return the supernet of a size as a config of a search names it."""
        return {"name": self.name, **{self.supernet[size]: value for size, value in sizes.items()}}


def _searched(*sizes: tuple[int, int]) -> list[dict[str, int]]:
    return [{"channels": channels, "cells_per_stage": cells} for channels, cells in sizes]


SPACES = (
    OfferedSpace(
        name="nasbench201",
        supernet={"channels": "stem_out_channels", "cells_per_stage": "num_modules_per_stack"},
        searched=_searched((8, 1), (16, 1), (16, 3), (16, 5)),
        trained=[
            {**sizes, "stages": stages}
            for sizes in _searched(*((width, 1) for width in _WIDTHS), (24, 2), (32, 2), (32, 3), (48, 3), (64, 5))
            for stages in (3, 4)  # the benchmark's, and a ResNet's: four times the parameters for little more work
        ],
    ),
)
"""What is searched: spaces with quick networks, which a CPU can train."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A network of one size: of an architecture, or the baseline.

    Args:
        kind: name of a space, or `BASELINE`.
        sizes: of the network.
        image_size: side of its input.
        num_classes: of its output.
        limits: that it must keep within.
        architecture: of the space; the baseline has none.
    """

    kind: str
    sizes: Mapping[str, int]
    image_size: int
    num_classes: int
    limits: Limits
    architecture: Architecture | None = None

    @property
    def space(self) -> SearchSpace:
        """The space in this size."""
        return get_space(self.kind).sized(**self.sizes, num_classes=self.num_classes, image_size=self.image_size)

    def build(self) -> nn.Module:
        """Return a freshly initialised network."""
        if self.architecture is not None:
            return self.space.build(self.architecture)
        return NarrowResNet(**self.sizes, num_classes=self.num_classes, image_size=self.image_size)

    @property
    def _stages(self) -> int:
        return self.sizes.get("stages", 4)  # as the baseline has

    @property
    def takes_images(self) -> bool:
        """Whether each stage can halve the side of its images, and leaves at least 2 pixels; the baseline rounds it."""
        halved = 2 ** (self._stages - 1)
        return self.kind == BASELINE or (self.image_size % halved == 0 and self.image_size >= 2 * halved)

    @cached_property
    def parameters(self) -> int:
        """Of the network."""
        with torch.device("meta"):  # nothing is computed
            return sum(parameter.numel() for parameter in self.build().parameters())

    @property
    def work(self) -> float:
        """About the multiply-adds of an image, if each stage has four times the parameters of the one before."""
        return float(self.parameters * self.image_size**2 * 3 * self._stages / (4**self._stages - 1))

    @cached_property
    def multiply_adds(self) -> int:
        """Of an image, exactly."""
        with torch.device("meta"):
            return multiply_adds(self.build(), image_size=self.image_size)

    @property
    def keeps_within(self) -> bool:
        """Whether it has no more parameters and operations than it may have; latency is measured by `timed`."""
        most, operations = self.limits.max_params, self.limits.max_flops
        return (most is None or self.parameters <= most) and (
            operations is None or 2 * self.multiply_adds <= operations
        )

    def latency(self) -> float:
        """Measure milliseconds for an image, by onnxruntime with one thread of this machine's CPU."""
        example = torch.zeros(1, 3, self.image_size, self.image_size)
        network = onnx_to_time(self.build(), example=example)
        return measure_latency({"network": network}, example).milliseconds["network"]

    def timed(self, *, batch_size: int, enough: float) -> Timed:
        """Time a training step (see `time_training`).

        Raises:
            DoesNotFitError: there is too little memory, or the latency is above its limit.
        """
        sizes = {"image_size": self.image_size, "num_classes": self.num_classes}
        found = time_training(self.build(), batch_size=batch_size, enough=enough, **sizes)
        most = self.limits.max_latency
        if most is not None and found.seconds <= enough and (took := self.latency()) > most:
            raise DoesNotFitError(
                f"even the smallest network takes {took:.3g} ms for an image on this machine, by onnxruntime with one "
                f"thread, and at most {most:g} ms are allowed"
            )
        return found


def uniform_architectures(offer: Offer) -> list[Architecture]:
    """Return the architectures with one operation everywhere: the one with the most parameters first."""
    space = offer.space
    operations = dict.fromkeys(operation for values in space.choices.values() for operation in values)
    found: list[Architecture] = [
        dict.fromkeys(space.choices, operation)
        for operation in operations
        if space.kinds.get(operation) != NONE and all(operation in values for values in space.choices.values())
    ]
    return sorted(found, key=lambda each: -replace(offer, architecture=each).parameters)
