"""What a search space answers, and what is answered for a space of which nothing is known but its supernet."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from balenas_plugin.bayes.decisions import Architecture, Decision, OneOf
from balenas_plugin.errors import SpaceError
from balenas_plugin.restoring import random_numbers_restored
from balenas_plugin.search_spaces._graph import CellEdge, cells_of

NONE, SKIP, PARAMETER_FREE, PARAMETRIC = "none", "skip", "parameter-free", "parametric"
"""Kinds of operations."""

IMAGE_CLASSIFICATION, LANGUAGE_MODELLING = "image classification", "language modelling"
"""Tasks."""


@dataclass(frozen=True)
class SkipRule:
    """From how many skip connections on an architecture is suspicious.

    Args:
        most: the largest share of them among its operations that is not.
        reason: what is known of networks with more.
    """

    most: float
    reason: str


@dataclass(frozen=True)
class Reading:
    """An architecture, and how the text that names it was understood.

    Args:
        notation: that the text is in, by its name for `SearchSpace.read`.
        sample: the architecture; None if it was given by its number.
        index: its number in the space's benchmark, if it was given by that.
        read_as: the notation in words; an empty text if it is the space's own.
        name: that the architecture was published by; an empty text if it was not given by that.
        remark: what else the text could have meant, and how that is said; an empty text if nothing.
    """

    notation: str
    sample: Architecture | None = None
    index: int | None = None
    read_as: str = ""
    name: str = ""
    remark: str = ""


class SearchSpace:
    """A search space, or one size of its networks. A space overrides what it knows better than these answers.

    Its constructor takes the sizes of its networks, keyword-only, with defaults: those that its benchmark trained.

    Attributes:
        name: in configs and on the command line, and the key of its notation in files; empty for an unknown space.
        title: as its paper writes it.
        source: author, year, where it is defined.
        aliases: other names in configs.
        supernet: "module:Class", NNI's model space; nothing else of a space needs NNI, so it has a module of its own.
        ground_truth: name of a module with `find_table` and `open_benchmark`, like `balenas_plugin.benchmarks`, or
            "module:name" of an object with them; empty if there is no benchmark.
        size: number of its architectures, as they are usually counted; None if that is not known.
        task: what its networks are for, which says what data they need: `IMAGE_CLASSIFICATION` or `LANGUAGE_MODELLING`.
        image_shape: (channels, height, width) of an input; of a text, (words,).
        trained_as: name -> sizes of the constructor: the networks that its papers train, which `balenas query` counts
            the parameters of; empty where a benchmark that ships knows them.
        published: names of architectures that `read` knows.
        choices: label -> what can be chosen there, in the order of the supernet's architecture parameters.
        kinds: operation -> `NONE`, `SKIP`, `PARAMETER_FREE` or `PARAMETRIC`; those left out follow from their modules.
        skip_rule: when diagnostics warn of skip connections; of a space of which nothing is known, when most operations
            are.
        drawn_names: operation -> its name in the notation and in exported drawings, where that is another.
    """

    name: str = ""
    title: str = ""
    source: str = ""
    aliases: tuple[str, ...] = ()
    supernet: str = ""
    ground_truth: str = ""
    size: int | None = None
    task: str = IMAGE_CLASSIFICATION
    image_shape: tuple[int, ...] = (3, 32, 32)
    trained_as: Mapping[str, Mapping[str, int]] = {}
    published: tuple[str, ...] = ()
    choices: Mapping[str, Sequence[Any]] = {}
    kinds: Mapping[str, str] = {}
    skip_rule: SkipRule = SkipRule(1 / 2, "Where a search collapses, they win everywhere.")
    drawn_names: Mapping[str, str] = {}

    @cached_property
    def decisions(self) -> Sequence[Decision]:
        """The independent decisions of an architecture: how a draw is discretised."""
        return [OneOf(label, tuple(values)) for label, values in self.choices.items()]

    def sized(self, **sizes: Any) -> SearchSpace:
        """Return the space with other sizes of its networks, those of its constructor."""
        return type(self)(**sizes)

    def like(self, supernet: Any, image_shape: tuple[int, ...]) -> SearchSpace | None:
        """Return the space in the sizes of its supernet; None if `build` cannot make such networks, and NNI must."""
        return None

    def inputs(self, count: int, *, device: torch.device | str | None = None) -> Tensor:
        """Return inputs that say nothing, to count or score networks by: images of ones, shape (count, C, H, W)."""
        return torch.ones(count, *self.image_shape, device=device)

    def notation(self, architecture: Architecture) -> str | None:
        """Return an architecture in the space's notation; None if it has none."""
        return None

    def notations(self, architecture: Architecture) -> dict[str, str]:
        """Return {name of the space: notation}, as files have it; empty without a notation."""
        text = self.notation(architecture)
        return {} if text is None else {self.name: text}

    def read(self, text: str, *, notation: str | None = None) -> Reading:
        """Return the architecture that a text names, in the space's notation or another that it knows.

        Args:
            text: of whatever somebody has typed.
            notation: name of the notation; None finds out.

        Raises:
            SpaceError: it is none of them, or malformed.
            OptionError: there is no such notation.
        """
        raise SpaceError(f"the space {self.name} has no notation to read {text[:40]!r} in")

    def cells(self, architecture: Mapping[str, Any]) -> Mapping[str, Sequence[CellEdge]]:
        """Return cell name -> its edges, ordered by target; choices that are no part of a cell are left out.

        The sample may be of a damaged file, so it may hold anything.
        """
        return cells_of(architecture)

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the freshly initialised network of an architecture; its weights come from torch's global generator."""
        raise SpaceError(f"the space {self.name} builds no networks of its own")

    def standalone_source(self, network: nn.Module, title: str) -> str | None:
        """Return Python source of a network of the space that needs PyTorch alone; None: an export traces the network.

        Args:
            network: made by `build`, or by the supernet's `freeze`.
            title: what it is, for the head of the text, which defines ``build()`` and ``load(path=None)``.
        """
        return None

    def training_network(
        self,
        architecture: Architecture,
        *,
        auxiliary: bool = False,
        auxiliary_last_norm: bool | None = None,
        drop_path: float = 0.0,
    ) -> nn.Module:
        """Return a freshly initialised network to train, with what helps training where the space has it.

        Args:
            architecture: of the network.
            auxiliary: whether it has a second head, whose logits it returns beside its own in training mode.
            auxiliary_last_norm: whether that ends with a batch-norm; None: where its paper says so.
            drop_path: probability of dropping an operation for an image when a training ends; `new_epoch` sets it.
        """
        return self.build(architecture)

    def sizes(self) -> list[str]:
        """Return the names of what `sized` takes."""
        return list(inspect.signature(type(self)).parameters)

    def networks(self, seed: int) -> Networks:
        """Return the networks of all architectures under the initialisation `seed`."""
        return SeededNetworks(self, seed)


class Networks(Protocol):
    """The freshly initialised networks of a space: the same architecture always has the same weights."""

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the network of an architecture; torch's global generator is left as it is."""

    def fast_rank_value(self, proxy: str, architecture: Architecture) -> float | None:
        """Return what `rank_value` would for `build(sample)`, if there is a quicker way to it, else None."""


@dataclass(frozen=True)
class SeededNetworks:
    """Networks that a space builds after torch's generator was seeded: all that any space can do."""

    space: SearchSpace
    seed: int

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the network of an architecture."""
        with random_numbers_restored(self.seed):
            return self.space.build(architecture)

    def fast_rank_value(self, proxy: str, architecture: Architecture) -> float | None:
        """Return None: there is no quicker way for an arbitrary space."""
        return None


def initialised_anew(network: nn.Module) -> nn.Module:
    """Draw the weights of every layer again, from torch's global generator; return the network."""
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return network
