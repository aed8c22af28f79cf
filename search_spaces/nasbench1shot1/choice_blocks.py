"""What can be chosen in the three spaces of NAS-Bench-1Shot1, and which network that is.

Node 0 is the cell's input, nodes 1 to n are choice blocks, node n + 1 is the output. A block chooses an operation, and
every node as many parents among the nodes before it as its space says. A block from which no path leads to the output
is loose: it is no part of the network, and what it chooses makes no difference.

Source: Zela, Siems and Hutter 2020 (NAS-Bench-1Shot1, Section 3 and Table 1).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from balenas_plugin.bayes.conditional import Conditional, Includes, Use
from balenas_plugin.bayes.decisions import Architecture, OneOf, TopSet
from balenas_plugin.errors import SpaceError, nearest

from .module_spec import CONV1X1, CONV3X3, INPUT, MAXPOOL, OUTPUT, Key, Matrix, ModuleSpec, canonical_orders

OPERATIONS = (MAXPOOL, CONV3X3, CONV1X1)
"""In the order of the alphas."""

PARENTS = {1: (1, 2, 2, 2, 2), 2: (1, 1, 2, 2, 3), 3: (1, 1, 1, 2, 2, 2)}
"""Number of a space -> how many parents its nodes 1, 2, ..., output have: nine edges, NAS-Bench-101's limit."""

Parents = tuple[tuple[int, ...], ...]

_VERTICES = 7  # of the modules that the reference looks up, whether the space has so many blocks or not


@dataclass(frozen=True)
class Wiring:
    """What a cell has chosen.

    Args:
        parents: of nodes 1, 2, ..., output; ascending.
        operations: of the blocks.
    """

    parents: Parents
    operations: tuple[str, ...]

    @cached_property
    def loose(self) -> frozenset[int]:
        """The blocks from which no path leads to the output."""
        used = {len(self.parents)}
        for node in reversed(range(1, len(self.parents) + 1)):
            used |= set(self.parents[node - 1]) if node in used else set()
        return frozenset(range(1, len(self.parents))) - used

    def spec(self) -> ModuleSpec:
        """Return the module of NAS-Bench-101: seven vertices, loose blocks and those that the space lacks unconnected.

        What a space lacks is labelled a 1x1 convolution, as in the reference.
        """
        missing = _VERTICES - 1 - len(self.parents)
        kept = [
            [] if node in self.loose else [parent for parent in parents if parent not in self.loose]
            for node, parents in enumerate(self.parents, start=1)
        ]
        operations = (*self.operations, *[CONV1X1] * missing)
        return ModuleSpec.of([*kept[:-1], *[[]] * missing, kept[-1]], operations)


@dataclass(frozen=True)
class Blocks:
    """The choices of a cell.

    Args:
        parents: how many each node has, from node 1 to the output.
    """

    parents: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of choice blocks."""
        return len(self.parents) - 1

    @property
    def choosing(self) -> list[int]:
        """Nodes that choose parents: those with more nodes before them than parents."""
        return [node for node, number in enumerate(self.parents, start=1) if number < node]

    def operation_label(self, block: int) -> str:
        """Return the label of a block's operation."""
        return f"op_{block}"

    def input_label(self, node: int) -> str:
        """Return the label of a node's parents."""
        return "output" if node > self.count else f"input_{node}"

    @cached_property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Label -> what is chosen from, in the order of the labels."""
        operations = {self.operation_label(block): OPERATIONS for block in range(1, self.count + 1)}
        inputs = {self.input_label(node): tuple(range(node)) for node in self.choosing}
        return dict(sorted({**operations, **inputs}.items()))

    @cached_property
    def decision(self) -> Conditional:
        """All choices as one decision, in which those of a loose block make no difference."""
        operations = [OneOf(self.operation_label(block), OPERATIONS) for block in range(1, self.count + 1)]
        inputs = [TopSet(self.input_label(node), self.parents[node - 1]) for node in self.choosing]
        places = {node: self.count + place for place, node in enumerate(self.choosing)}
        uses: dict[int, list[Use]] = {self.count + 1: [()]}
        for block in reversed(range(1, self.count + 1)):
            uses[block] = [
                (*use, Includes((places[node],), block, named=True)) if node in places else use
                for node in range(block + 1, self.count + 2)
                for use in uses[node]
            ]
        sorted_uses = [tuple(sorted(uses[node], key=repr)) for node in (*range(1, self.count + 1), *self.choosing)]
        unused = [0] * self.count + [tuple(range(decision.n_chosen)) for decision in inputs]
        return Conditional((*operations, *inputs), tuple(sorted_uses), tuple(unused))

    def wiring(self, architecture: Mapping[str, Any]) -> Wiring:
        """Return what an architecture has chosen.

        Raises:
            SpaceError: a choice is missing, unknown, or none that the space has.
        """
        if architecture.keys() != self.choices.keys():
            unknown = [label for label in architecture if label not in self.choices]
            missing = [label for label in self.choices if label not in architecture]
            what = f"unknown choice {unknown[0]!r}" if unknown else f"no choice for {', '.join(missing)}"
            raise SpaceError(f"{what}; allowed: {', '.join(self.choices)}")
        operation_labels, input_labels = self._labels
        parents = [given if label is None else architecture[label] for label, given in input_labels]
        return self.checked(parents, [architecture[label] for label in operation_labels])

    @cached_property
    def _labels(self) -> tuple[list[str], list[tuple[str | None, range]]]:
        """Labels of the blocks' operations; of each node that of its parents, or None and the parents that it has."""
        nodes = range(1, self.count + 2)
        inputs = [(self.input_label(node) if node in self.choosing else None, range(node)) for node in nodes]
        return [self.operation_label(block) for block in range(1, self.count + 1)], inputs

    def checked(self, parents: Sequence[Any], operations: Sequence[Any]) -> Wiring:
        """Return a wiring of this space.

        Raises:
            SpaceError: it is none.
        """
        for block, operation in enumerate(operations, start=1):
            if operation not in OPERATIONS:
                name = str(operation)[:40]
                allowed = f"{', '.join(OPERATIONS)}{nearest(name, OPERATIONS)}"
                raise SpaceError(f"block {block} has the operation {name!r}; allowed: {allowed}")
        ordered = []
        for node, (given, number) in enumerate(zip(parents, self.parents, strict=True), start=1):
            try:
                different = set(given)
                whole = len(given) == len(different) == number and different.issubset(range(node))
                whole = whole and set(map(type, different)) == {int}  # neither 1.0 nor True
            except TypeError:  # no list, or not of numbers
                whole = False
            if not whole:
                name = "the output" if node > self.count else f"block {node}"
                raise SpaceError(f"{name} has the parents {given!r}; it needs {number} different ones below {node}")
            ordered.append(tuple(sorted(different)))
        return Wiring(tuple(ordered), tuple(operations))

    def architecture(self, wiring: Wiring) -> Architecture:
        """Return the architecture; of loose blocks it names what decides nothing (see `decision`)."""
        architecture: Architecture = {
            self.operation_label(block): OPERATIONS[0] if block in wiring.loose else operation
            for block, operation in enumerate(wiring.operations, start=1)
        }
        for node in self.choosing:
            parents = wiring.parents[node - 1]
            architecture[self.input_label(node)] = list(range(len(parents)) if node in wiring.loose else parents)
        return architecture

    def wiring_of(self, spec: ModuleSpec) -> Wiring:
        """Return a wiring that is isomorphic to a module which the space `includes`."""
        spec = spec.pruned()
        vertices = range(1, len(spec.operations) - 1)
        free: dict[int, list[int]] = {}
        for node, number in enumerate(self.parents[:-1], start=1):
            free.setdefault(number, []).append(node)
        nodes = {0: 0, len(vertices) + 1: self.count + 1}
        for vertex in sorted(vertices, key=lambda v: len(spec.parents(v))):
            nodes[vertex] = free[len(spec.parents(vertex))].pop(0)
        parents = [tuple(range(number)) for number in self.parents]  # of loose blocks, too
        operations = [OPERATIONS[0]] * self.count
        for vertex in (*vertices, len(vertices) + 1):
            parents[nodes[vertex] - 1] = tuple(sorted(nodes[u] for u in spec.parents(vertex)))
        for vertex in vertices:
            operations[nodes[vertex] - 1] = spec.operations[vertex]
        return Wiring(tuple(parents), tuple(operations))

    def wirings(self) -> Iterator[Wiring]:
        """Yield every wiring whose loose blocks choose what decides nothing."""
        for parents, (used, *_) in self._arrangements.items():
            loose = [block for block in range(1, self.count + 1) if block not in used]
            if all(parents[block - 1] == tuple(range(self.parents[block - 1])) for block in loose):
                options = [OPERATIONS if block in used else OPERATIONS[:1] for block in range(1, self.count + 1)]
                yield from (Wiring(parents, operations) for operations in itertools.product(*options))

    def key(self, wiring: Wiring) -> Key:
        """Return the key of the module (`ModuleSpec.key`)."""
        used, matrix, orders = self._arrangements[wiring.parents]
        operations = (INPUT, *(wiring.operations[block - 1] for block in used), OUTPUT)
        return matrix, min(tuple(operations[v] for v in order) for order in orders)

    def includes(self, spec: ModuleSpec) -> bool:
        """Return whether a wiring of the space is isomorphic to a module.

        The nodes of a space have ever more parents, so they are in order where no vertex feeds one that has fewer.

        Args:
            spec: a pruned module.
        """
        output = len(spec.operations) - 1
        degrees = [sum(column) for column in zip(*spec.matrix, strict=True)]
        inner = range(1, output)
        ordered = all(degrees[u] <= degrees[v] for v in inner for u in inner if spec.matrix[u][v])
        enough = all(degrees[1:output].count(d) <= self.parents[:-1].count(d) for d in set(degrees[1:output]))
        return output > 1 and degrees[output] == self.parents[-1] and ordered and enough

    @cached_property
    def by_hash(self) -> dict[str, Wiring]:
        """NAS-Bench-101's hash -> a wiring that has it, of every different network; takes seconds."""
        different = {self.key(wiring): wiring for wiring in self.wirings()}
        return {wiring.spec().hash(): wiring for wiring in different.values()}

    @cached_property
    def _arrangements(self) -> dict[Parents, tuple[tuple[int, ...], Matrix, list[tuple[int, ...]]]]:
        """Parents of all nodes -> the blocks in use, and `canonical_orders` of the module that they make."""
        per_node = [itertools.combinations(range(node), number) for node, number in enumerate(self.parents, start=1)]
        found = {}
        for parents in itertools.product(*per_node):
            wiring = Wiring(parents, (MAXPOOL,) * self.count)
            used = tuple(block for block in range(1, self.count + 1) if block not in wiring.loose)
            found[parents] = (used, *canonical_orders(wiring.spec().pruned().matrix))
        return found


def in_any_space(spec: ModuleSpec) -> bool:
    """Return whether a module, pruned or not, is one of the three spaces'."""
    pruned = spec.pruned()
    return any(blocks.includes(pruned) for blocks in BLOCKS.values())


BLOCKS = {number: Blocks(parents) for number, parents in PARENTS.items()}
"""Number of a space -> its choices."""
