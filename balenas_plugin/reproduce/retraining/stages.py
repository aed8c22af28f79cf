"""The trainings of a scale: the short one that picks, and those whose accuracies a table shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.data import DataConfig
from balenas_plugin.data.sources import read_source
from balenas_plugin.errors import OptionError
from balenas_plugin.options import NonNegativeInt, PositiveInt, Seed, declared_options
from balenas_plugin.search_spaces import SearchSpace
from balenas_plugin.training.recipe import NetworkSizes, Recipe, load_recipe


@declared_options(called="a training of table3")
@dataclass(frozen=True, kw_only=True)
class Stage:
    """How and on what networks are trained.

    Args:
        data: images to train and to test on.
        recipe: name of a recipe, or options of one, which may have a `base`.
        parameters: that every network has, as nearly as a whole number of channels allows; None: the recipe's channels.
        seeds: each trains a network of its own.
    """

    data: DataConfig
    recipe: str | Mapping[str, Any] = "small"
    parameters: PositiveInt | None = None
    seeds: Sequence[Seed] = (0,)


@declared_options("retraining")
@dataclass(frozen=True, kw_only=True)
class Retraining:
    """How a scale trains what its searches of the DARTS space have found.

    Args:
        short: the training that picks one of the architectures that a method finds with several seeds, by the accuracy
            on the part of the training images that the recipe leaves out for `validation`. It has one seed.
        full: data set -> the training of the picks; the first is that of the searches, the cells are transferred to the
            others. One that is not there is left out.
        random: architectures that are drawn besides, for the rank correlations.

    Raises:
        OptionError: the short training has no validation or several seeds, or there is no other training.
    """

    short: Stage
    full: Mapping[str, Stage]
    random: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if not self.full or not all(stage.seeds for stage in (self.short, *self.full.values())):
            raise OptionError("retraining.full needs a data set at least, and every training a seed")
        if SHORT in self.full:
            raise OptionError(f"retraining.full names data sets, and {SHORT} is the training that picks: rename it")
        if len(self.short.seeds) != 1 or not load_recipe(self.short.recipe).validation:
            raise OptionError(
                "retraining.short picks by validation images, with one seed: set its recipe's validation to their "
                "share, e.g. 0.2, and seeds to a single one"
            )


SHORT = "short"
"""Name of the training that picks."""


@dataclass(frozen=True)
class OpenedStage:
    """A training whose images were found, and whose recipe was read.

    Args:
        name: "short", or that of a data set.
        stage: as the scale has it.
        recipe: of its networks, in which the width is not matched yet.
        sizes: of the space's networks: those of the recipe, `num_classes` and `image_size`.
    """

    name: str
    stage: Stage
    recipe: Recipe
    sizes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, stage: Stage, space: SearchSpace) -> OpenedStage:
        """Look for the images, and read the recipe.

        Raises:
            OptionError: the recipe or an option of the data is refused.
            DataError: the data set is missing or unreadable.
            MissingDependencyError: the package that it comes from is not installed.
        """
        recipe = load_recipe(stage.recipe)
        data = replace(stage.data, image_size=stage.data.image_size or recipe.image_size)
        source = read_source(data.name, vars(data), train=True)
        if not torch.numel(source.labels):
            raise OptionError(f"{data.name} has no training images")
        _, size, _ = source.read(torch.arange(1)).image_shape
        own = {key: value for key, value in recipe.network.given.items() if key in space.sizes()}
        return cls(name, stage, recipe, {**own, "num_classes": len(source.class_names), "image_size": size})

    def recipe_for(self, architecture: Architecture, space: SearchSpace) -> Recipe:
        """Return the recipe with the number of channels whose network has nearly as many parameters as are wanted.

        Raises:
            OptionError: no width makes a network that runs.
        """
        wanted = self.stage.parameters
        if wanted is None:
            return self.recipe
        channels = matched_width(architecture, space, self.sizes, wanted)
        return self.recipe.replace(network=NetworkSizes(**{**self.recipe.network.given, "channels": channels}))


def matched_width(architecture: Architecture, space: SearchSpace, sizes: Mapping[str, int], parameters: int) -> int:
    """Return the number of channels whose network comes nearest to so many parameters; of equal ones the smaller.

    The number of parameters is a C^2 + b C + c, which three widths determine. Nothing is computed by the networks: they
    are built without numbers (on torch's device "meta").

    Source: Zhang et al. 2022, Sec. 4.2 and the appendix: the number of filters is adjusted to similar model sizes.
    """

    def network(channels: int) -> torch.nn.Module:
        with torch.device("meta"):
            return space.sized(**{**sizes, "channels": channels}).build(architecture).eval()

    n2, n4, n6 = (sum(parameter.numel() for parameter in network(channels).parameters()) for channels in (2, 4, 6))
    a = (n6 - 2 * n4 + n2) / 8
    b = (n4 - n2) / 2 - 6 * a
    c = n2 - 4 * a - 2 * b
    root = round((math.sqrt(max(0.0, b * b - 4 * a * (c - parameters))) - b) / (2 * a))
    around = range(max(1, root - 3), max(1, root) + 4)
    images: Tensor = torch.zeros(2, *space.sized(**sizes).image_shape, device="meta")
    for channels in sorted(around, key=lambda width: abs(a * width**2 + b * width + c - parameters)):
        try:
            network(channels)(images)
        except (RuntimeError, ValueError):  # half of an odd number of channels, say
            continue
        return channels
    raise OptionError(f"no network of {architecture} with about {parameters:,} parameters runs on {images.shape[1:]}")
