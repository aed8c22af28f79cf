"""The networks that a plan chooses from: those of a search space in several sizes, and the baseline's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from balenas_plugin.auto.auto_plan import Limits
from balenas_plugin.auto.resnet import NarrowResNet
from balenas_plugin.auto.step_timing import Timed, multiply_adds, time_training
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.search_spaces import NONE, SearchSpace, get_space
from balenas_plugin.selection.candidates import drawn_candidates

_DRAWN = 12  # random architectures by which a size is judged
_SHARE = 0.25  # of them that must keep within the limits, or there is little to choose from

BASELINE = "resnet"
BASELINE_SIZES = tuple({"width": width} for width in (4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64))


@dataclass(frozen=True, kw_only=True)
class OfferedSpace:
    """A search space, and the sizes of its networks.

    Args:
        name: of the space.
        supernet: size -> what the supernet calls it.
        searched: sizes of supernets, from the smallest.
        trained: sizes of networks.
    """

    name: str
    supernet: Mapping[str, str]
    searched: Sequence[Mapping[str, int]]
    trained: Sequence[Mapping[str, int]]

    def config(self, sizes: Mapping[str, int]) -> dict[str, object]:
        """Return the supernet of a size as a config of a search names it."""
        return {"name": self.name, **{self.supernet[size]: value for size, value in sizes.items()}}


def _nasbench201(*sizes: tuple[int, int]) -> list[dict[str, int]]:
    return [{"channels": channels, "cells_per_stage": cells} for channels, cells in sizes]


SPACES = (
    OfferedSpace(
        name="nasbench201",
        supernet={"channels": "stem_out_channels", "cells_per_stage": "num_modules_per_stack"},
        searched=_nasbench201((8, 1), (16, 1), (16, 3), (16, 5)),
        trained=_nasbench201(
            *((4, 1), (8, 1), (12, 1), (16, 1), (16, 2), (24, 2), (24, 3), (32, 3), (32, 5), (48, 5), (64, 5))
        ),
    ),
)
"""What is searched: spaces with quick networks, which a CPU can train."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Networks of one size: of a space, or the baseline.

    Args:
        kind: name of a space, or `BASELINE`.
        sizes: of the network.
        image_size: side of its input.
        num_classes: of its output.
        limits: that it must keep within.
    """

    kind: str
    sizes: Mapping[str, int]
    image_size: int
    num_classes: int
    limits: Limits

    @property
    def space(self) -> SearchSpace:
        """The space in this size."""
        return get_space(self.kind).sized(**self.sizes, num_classes=self.num_classes, image_size=self.image_size)

    def build(self, architecture: Architecture | None) -> nn.Module:
        """Return a freshly initialised network; the baseline has no architecture."""
        if self.kind != BASELINE and architecture is not None:
            return self.space.build(architecture)
        return NarrowResNet(**self.sizes, num_classes=self.num_classes, image_size=self.image_size)

    @cached_property
    def _costs(self) -> list[tuple[int, int, Architecture | None]]:
        """Parameters, multiply-adds where they are limited (else 0) and architecture of some networks, by size."""
        examples = [None] if self.kind == BASELINE else _examples(self.space, many=bool(str(self.limits)))
        limited = self.limits.max_flops is not None
        return sorted(((*self._cost(each, work=limited), each) for each in examples), key=lambda cost: cost[0])

    def _cost(self, architecture: Architecture | None, *, work: bool) -> tuple[int, int]:
        with torch.device("meta"):  # nothing is computed
            network = self.build(architecture)
            parameters = sum(parameter.numel() for parameter in network.parameters())
            return parameters, multiply_adds(network, image_size=self.image_size) if work else 0

    @property
    def smallest(self) -> tuple[int, int]:
        """Parameters and floating-point operations of the smallest network here."""
        parameters, work = self._cost(self._costs[0][2], work=True)
        return parameters, 2 * work

    @cached_property
    def _within(self) -> list[tuple[int, int, Architecture | None]]:
        most, operations = self.limits.max_params or math.inf, self.limits.max_flops or math.inf
        return [cost for cost in self._costs if cost[0] <= most and 2 * cost[1] <= operations]

    @property
    def is_open(self) -> bool:
        """Whether enough of its networks keep within the limits."""
        return len(self._within) >= max(1, _SHARE * len(self._costs))

    @property
    def is_possible(self) -> bool:
        """Whether any of its networks does."""
        return bool(self._within)

    @property
    def work(self) -> int:
        """What orders sizes by their multiply-adds: these grow with the parameters and the pixels."""
        return self.parameters * self.image_size**2

    @property
    def parameters(self) -> int:
        """The most parameters within the limits."""
        return self._within[-1][0]

    def timed(self, *, batch_size: int, enough: float) -> Timed:
        """Time a training step of the largest network within the limits (see `time_training`)."""
        network = self.build(self._within[-1][2])
        sizes = {"image_size": self.image_size, "num_classes": self.num_classes}
        return time_training(network, batch_size=batch_size, enough=enough, **sizes)


def _examples(space: SearchSpace, *, many: bool) -> Iterator[Architecture]:
    """Yield architectures with one operation everywhere, and random ones where `many`."""
    operations = dict.fromkeys(itertools.chain.from_iterable(space.choices.values()))
    for operation in operations:
        if space.kinds.get(operation) != NONE and all(operation in values for values in space.choices.values()):
            yield dict.fromkeys(space.choices, operation)
    if many:
        zeros = {label: torch.zeros(len(values)) for label, values in space.choices.items()}
        alike = Posterior(zeros, {label: torch.ones_like(value) for label, value in zeros.items()})
        for candidate in drawn_candidates(Architectures(space.decisions, alike), _DRAWN, seed=0):
            yield candidate.sample


def offered_sizes(offer: Offer) -> list[Mapping[str, int]]:
    """Return the sizes of an offer's space from its own downwards."""
    sizes = list(next(space.trained for space in SPACES if space.name == offer.kind))
    return sizes[sizes.index(dict(offer.sizes)) :: -1]
