"""The three spaces of NAS-Bench-1Shot1 as the rest of the package asks for them.

An architecture is written node by node: ``conv3x3~0|maxpool3x3~0|conv1x1~1|-|maxpool3x3~1,3|output~0,5``, the operation
and the parents of each block, ``-`` for a loose one, and the parents of the output.

Sources: Zela, Siems and Hutter 2020 (NAS-Bench-1Shot1); Ying et al. 2019 (NAS-Bench-101).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache, partial
from typing import Annotated, Any

from torch import nn

from balenas_plugin.bayes.decisions import Architecture, Decision
from balenas_plugin.errors import SpaceError, UnreadableError
from balenas_plugin.options import OneOf, checked
from balenas_plugin.search_spaces import PARAMETER_FREE, PARAMETRIC, CellEdge, Reading, SearchSpace, read_literal

from .choice_blocks import BLOCKS, OPERATIONS, Blocks, Wiring
from .module_spec import CONV1X1, CONV3X3, MAXPOOL, ModuleSpec
from .nasbench101_network import NasBench101Network
from .one_shot_network import ChosenCell, OneShotNetwork

HASH_NOTATION = "nasbench101_hash"
"""Key of the hash among the notations of an architecture in files."""

NOTATIONS = {"string": "", "hash": "a hash of NAS-Bench-101", "nni": "a mapping as in NNI"}

_HASH = re.compile(r"[0-9a-f]{32}")
_ENTRY = re.compile(r"(?P<name>[a-z0-9-]+)~(?P<parents>\d(,\d)*)")
_SHORT = {MAXPOOL: "maxpool3x3", CONV3X3: "conv3x3", CONV1X1: "conv1x1"}
_LONG = {short: name for name, short in _SHORT.items()} | {name: name for name in OPERATIONS}
_LONGEST = 2000
_PROJECTION = "projection"


class NasBench1Shot1Space(SearchSpace):
    """One of the three spaces, with the networks that NAS-Bench-101 trained; `like` has those of a supernet.

    Args:
        channels: of the stem, the width of the first stack.
        cells_per_stage: modules of a stack.
        num_classes: size of the output.
        image_size: side of the images in pixels.
    """

    source = "Zela, Siems and Hutter 2020"
    kinds = {MAXPOOL: PARAMETER_FREE, CONV3X3: PARAMETRIC, CONV1X1: PARAMETRIC}  # noqa: RUF012
    drawn_names = _SHORT
    trained_as = {"CIFAR-10": {}}  # noqa: RUF012
    blocks: Blocks
    num_networks: int
    """Different networks: NAS-Bench-101's hashes. Its reference's own list has fewer (docs/spaces.md)."""

    def __init__(
        self, *, channels: int = 128, cells_per_stage: int = 3, num_classes: int = 10, image_size: int = 32
    ) -> None:
        sizes = {"channels": channels, "cells_per_stage": cells_per_stage, "num_classes": num_classes}
        self._network: Callable[[Wiring], nn.Module] = lambda wiring: NasBench101Network(wiring.spec(), **sizes)
        self.image_shape = (3, image_size, image_size)
        self.choices = self.blocks.choices

    def like(self, supernet: Any, image_shape: tuple[int, ...]) -> SearchSpace | None:
        """Return the space with networks of the supernet's own form, for images of three channels."""
        if image_shape[0] != 3:
            return None
        view, sizes = self.sized(), (supernet.channels, supernet.num_cells, supernet.num_labels)
        view._network = lambda wiring: OneShotNetwork(partial(ChosenCell, wiring), self.blocks.count, *sizes)
        view.image_shape = image_shape
        return view

    def sized(self, **sizes: int) -> NasBench1Shot1Space:
        """Return the space with other sizes of NAS-Bench-101's networks."""
        return type(self)(**sizes)

    @cached_property
    def decisions(self) -> list[Decision]:
        """One decision: what a loose block chooses makes no difference."""
        return [self.blocks.decision]

    def spec(self, architecture: Mapping[str, Any]) -> ModuleSpec:
        """Return the module of NAS-Bench-101, whose `pruned()` and `hash()` are those of its table.

        Raises:
            SpaceError: it is no architecture of this space.
        """
        return self.blocks.wiring(architecture).spec()

    def notation(self, architecture: Architecture) -> str:
        """Return the architecture node by node."""
        wiring = self.blocks.wiring(architecture)
        names = [*(_SHORT[operation] for operation in wiring.operations), "output"]
        return "|".join(
            "-" if node in wiring.loose else f"{name}~{','.join(map(str, parents))}"
            for node, (name, parents) in enumerate(zip(names, wiring.parents, strict=True), start=1)
        )

    def notations(self, architecture: Architecture) -> dict[str, str]:
        """Return the notation, and NAS-Bench-101's hash."""
        return {self.name: self.notation(architecture), HASH_NOTATION: self.spec(architecture).hash()}

    def read(self, text: str, *, notation: str | None = None) -> Reading:
        """Return the architecture that a text names: node by node, by its hash, or as a mapping as in NNI.

        Raises:
            UnreadableError: it is none of them, or of another space.
            SpaceError: it is malformed.
            OptionError: there is no such notation.
        """
        if notation is not None:
            checked("notation", notation, Annotated[str, OneOf(lambda: NOTATIONS)])
        text = text.strip().strip("\"'").strip()
        if notation == "hash" or (notation is None and _HASH.fullmatch(text)):
            if text not in self.blocks.by_hash:
                raise SpaceError(f"{self.title} has no network with the hash {text[:40]!r}")
            return self._reading("hash", self.blocks.architecture(self.blocks.by_hash[text]))
        is_mapping = notation == "nni" or (notation is None and text.startswith("{"))
        wiring = self.wiring(self._mapping(text) if is_mapping else text)
        return self._reading("nni" if is_mapping else "string", self.blocks.architecture(wiring))

    def wiring(self, architecture: str | Mapping[str, Any]) -> Wiring:
        """Return what an architecture, a sample or one written node by node, has chosen.

        Raises:
            SpaceError: it is no architecture of this space.
        """
        return self._parsed(architecture) if isinstance(architecture, str) else self.blocks.wiring(architecture)

    def cells(self, architecture: Mapping[str, Any]) -> dict[str, list[CellEdge]]:
        """Return the cell as a graph whose nodes are the sums in front of the operations.

        What leaves a block is its operation's result, what leaves the input is a projection, and the output joins what
        it gets. So a path is as deep as the operations on it.
        """
        try:
            wiring = self.blocks.wiring(architecture)
        except SpaceError:
            return {}
        edges = [
            CellEdge(parent, node, wiring.operations[parent - 1], self.blocks.operation_label(parent))
            if parent
            else CellEdge(0, node, _PROJECTION, _PROJECTION)
            for node, parents in enumerate(wiring.parents, start=1)
            if node not in wiring.loose
            for parent in parents
        ]
        return {"cell": edges}

    def build(self, architecture: Architecture) -> nn.Module:
        """Return a freshly initialised network of NAS-Bench-101; of a supernet's view, one of its own form."""
        return self._network(self.blocks.wiring(architecture))

    def _reading(self, notation: str, architecture: Architecture) -> Reading:
        return Reading(notation, sample=architecture, read_as=NOTATIONS[notation])

    def _parsed(self, text: str) -> Wiring:
        *blocks, output = [_entry(entry) for entry in text[:_LONGEST].split("|")]
        if len(blocks) != self.blocks.count or (None, None) in blocks or output[0] != "output":
            others = {other.count for other in BLOCKS.values()} - {self.blocks.count}
            is_own = "output~" in text and len(blocks) not in others
            raise (SpaceError if is_own else UnreadableError)(
                f"{text[:200]!r} is no architecture of {self.title}. Give its {self.blocks.count} blocks and its "
                f"output, e.g. {self.notation(self._example)!r}, or NAS-Bench-101's hash"
            )
        parents = [range(self.blocks.parents[k]) if p == () else p for k, (_, p) in enumerate([*blocks, output])]
        wiring = self.blocks.checked(
            parents, [OPERATIONS[0] if p == () else _LONG.get(name or "", name) for name, p in blocks]
        )
        wrong = [block for block, (_, p) in enumerate(blocks, start=1) if p == () and block not in wiring.loose]
        if wrong:
            raise SpaceError(f"{text[:200]!r}: block {wrong[0]} is used by another node, so it needs an operation")
        return wiring

    def _mapping(self, text: str) -> Mapping[str, Any]:
        try:
            found = read_literal(text[:_LONGEST])
        except ValueError as error:
            raise UnreadableError(f"{text[:200]!r} is no mapping in JSON or Python") from error
        inner = found.get("choices", found) if isinstance(found, Mapping) else None  # or of architectures.json
        others = [other.choices.keys() for other in BLOCKS.values() if other is not self.blocks]
        if not isinstance(inner, Mapping) or not inner.keys() & self.choices.keys() or inner.keys() in others:
            raise UnreadableError(
                f"{text[:200]!r} is no mapping of {self.title}, whose choices are {', '.join(self.choices)}"
            )
        return inner

    @property
    def _example(self) -> Architecture:
        parents = [range(node - number, node) for node, number in enumerate(self.blocks.parents, start=1)]
        return self.blocks.architecture(self.blocks.checked(parents, [CONV3X3] * self.blocks.count))


class NasBench1Shot1Space1(NasBench1Shot1Space):
    """Space 1."""

    name = "nasbench1shot1-1"
    title = "NAS-Bench-1Shot1, space 1"
    supernet = "balenas_plugin.search_spaces.nasbench1shot1.supernet:OneShotSupernet1"
    ground_truth = "balenas_plugin.search_spaces.nasbench1shot1.ground_truth:space_1"
    size = 6240
    blocks = BLOCKS[1]
    num_networks = 2685


class NasBench1Shot1Space2(NasBench1Shot1Space):
    """Space 2."""

    name = "nasbench1shot1-2"
    title = "NAS-Bench-1Shot1, space 2"
    supernet = "balenas_plugin.search_spaces.nasbench1shot1.supernet:OneShotSupernet2"
    ground_truth = "balenas_plugin.search_spaces.nasbench1shot1.ground_truth:space_2"
    size = 29160
    blocks = BLOCKS[2]
    num_networks = 7773


class NasBench1Shot1Space3(NasBench1Shot1Space):
    """Space 3."""

    name = "nasbench1shot1-3"
    title = "NAS-Bench-1Shot1, space 3"
    supernet = "balenas_plugin.search_spaces.nasbench1shot1.supernet:OneShotSupernet3"
    ground_truth = "balenas_plugin.search_spaces.nasbench1shot1.ground_truth:space_3"
    size = 363648
    blocks = BLOCKS[3]
    num_networks = 55854


@lru_cache(maxsize=4096)
def _entry(text: str) -> tuple[str, tuple[int, ...]] | tuple[None, None]:
    """Return the name and the parents of a node, ("-", ()) for a loose block, (None, None) for anything else."""
    match = _ENTRY.fullmatch(text.strip())
    if match is not None:
        return match["name"], tuple(map(int, match["parents"].split(",")))
    return ("-", ()) if text.strip() == "-" else (None, None)
