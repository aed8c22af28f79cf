"""NNI's model spaces as the exporter sees them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import RawFormatModelSpace
from torch import nn

from balenas_plugin.adapters.nni.supernets.dataflow import without_unused
from balenas_plugin.bayes.decisions import Architecture, Decision
from balenas_plugin.errors import SpaceError
from balenas_plugin.search_spaces import SearchSpace, initialised_anew, space_of


def completed(model_space: ModelSpace, architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return an architecture that names all choices: modules that NNI makes anew ask for those without effect too.

    Those get the default of NNI, the first value.
    """
    given = {label: mutable.default() for label, mutable in model_space.simplify().items() if label not in architecture}
    return {**given, **architecture}


class FoundModel(RawFormatModelSpace):
    """A frozen model with its own copy of the weights: NNI's share them, so training one would change the rest.

    Its sample names only the choices that make a difference.
    """

    def executable_model(self) -> Any:
        """Return the network."""
        return copy.deepcopy(self.model_space.freeze(completed(self.model_space, self.sample)))


class NniSpace(SearchSpace):
    """Any NNI model space: networks come from the space's own `freeze`, with fresh weights.

    Args:
        model_space: as the user wrote it, before it was turned into a supernet.
        decisions: of its supernet.
        image_shape: (channels, height, width) of an input.
    """

    def __init__(self, model_space: ModelSpace, decisions: Sequence[Decision], image_shape: tuple[int, ...]) -> None:
        self.model_space = model_space
        self.decisions = decisions
        self.image_shape = image_shape

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the frozen network, every layer of it initialised anew, without modules that it makes no use of.

        Raises:
            SpaceError: the space cannot freeze this architecture.
        """
        try:
            network = copy.deepcopy(self.model_space.freeze(completed(self.model_space, architecture)))
        except (NotImplementedError, RuntimeError, ValueError, KeyError) as error:
            raise SpaceError(
                f"{type(self.model_space).__name__} cannot be frozen to {architecture}: {error}"
            ) from error
        return without_unused(initialised_anew(network), torch.ones(2, *self.image_shape))

    def notations(self, architecture: Architecture) -> dict[str, str]:
        """Return the notations of a known space, whose networks only NNI can build, or none."""
        return space_of(self.model_space).notations(architecture)


def exporter_space(model_space: ModelSpace, decisions: Sequence[Decision], image_shape: tuple[int, ...]) -> SearchSpace:
    """Return the space of a model space that has not been mutated; its networks are built without NNI if they can be.

    A subclass of a known model space may have other networks, so NNI builds those.
    """
    space, own = space_of(model_space), type(model_space)
    known = space.supernet == f"{own.__module__}:{own.__qualname__}"
    sized = space.like(model_space, image_shape) if known else None
    return sized or NniSpace(model_space, decisions, image_shape)
