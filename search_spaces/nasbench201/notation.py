"""Translate between the three ways of writing one cell of NAS-Bench-201.

==========  ==========================================================================================
form        example
==========  ==========================================================================================
string      ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|``
indices     ``(3, 0, 1, 0, 0, 4)``: one operation index per edge of `EDGES`
NNI sample  ``{"cell/0_1": "conv_3x3", "cell/0_2": "none", ...}``: labels are ``cell/source_target``
==========  ==========================================================================================

The indices are the form that the rest of the package computes with: `parse` and `from_nni` lead to them,
`format_string` and `to_nni` away from them. Node 0 is the cell's input, node 3 its output.

Source: Dong and Yang 2020 (NAS-Bench-201, Section 2.1); the labels and names of NNI 3.0's `NasBench201` space.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from balenas_plugin.errors import SpaceError, nearest


class Edge(NamedTuple):
    """An edge of the cell: node `target` receives what its operation makes of node `source`."""

    target: int
    source: int

    def __str__(self) -> str:
        return f"{self.target}<-{self.source}"


OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""The operations in the benchmark's index order."""

EDGES = (Edge(1, 0), Edge(2, 0), Edge(2, 1), Edge(3, 0), Edge(3, 1), Edge(3, 2))
"""The edges in the order in which the string names them."""

NODES = (1, 2, 3)
"""The nodes that are computed (node 0 is given)."""

Indices = tuple[int, ...]
"""One index into `OPERATIONS` for each edge of `EDGES`."""

_EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
_NNI_NAMES = tuple(name.removeprefix("nor_") for name in OPERATIONS)
_NNI_LABELS = tuple(f"cell/{edge.source}_{edge.target}" for edge in EDGES)


def parse(arch_str: str) -> Indices:
    """Return the operation indices, in the order of `EDGES`, of a NAS-Bench-201 architecture string.

    Raises:
        SpaceError: the string is malformed. The message says at which node, edge and character (counted from 0), what
            is allowed there, and the operation name nearest to a misspelled one.
    """
    if not isinstance(arch_str, str):
        raise SpaceError(f"an architecture string must be a str, not {type(arch_str).__name__}; example: {_EXAMPLE!r}")
    nodes = arch_str.split("+")
    indices: list[int] = []
    position = 0
    for node, text in zip(NODES, nodes, strict=False):
        indices.extend(_parse_node(arch_str, node, text, position))
        position += len(text) + 1
    if len(nodes) != len(NODES):
        where = min(max(position - 1, 0), len(arch_str))
        raise _malformed(
            arch_str, where, f"{len(nodes)} node(s) given, separated by '+'; the cell has exactly {len(NODES)}"
        )
    return tuple(indices)


def format_string(indices: Sequence[int]) -> str:
    """Return the NAS-Bench-201 string of operation `indices`.

    Raises:
        SpaceError: `indices` are not six integers from 0 to 4.
    """
    checked = check_indices(indices)
    nodes = []
    for node in NODES:
        edges = zip(EDGES, checked, strict=True)
        nodes.append("|".join(f"{OPERATIONS[index]}~{edge.source}" for edge, index in edges if edge.target == node))
    return "+".join(f"|{node}|" for node in nodes)


def to_nni(indices: Sequence[int]) -> dict[str, str]:
    """Return the architecture of NNI's `NasBench201` space (label -> operation name) of operation `indices`.

    Raises:
        SpaceError: `indices` are not six integers from 0 to 4.
    """
    return {label: _NNI_NAMES[index] for label, index in zip(_NNI_LABELS, check_indices(indices), strict=True)}


def from_nni(architecture: Mapping[str, str]) -> Indices:
    """Return the operation indices of an architecture of NNI's `NasBench201` space; the order of its keys is free.

    Raises:
        SpaceError: a label is missing or unknown, or a value is not one of NNI's five operation names.
    """
    for label in architecture:
        if label not in _NNI_LABELS:
            raise SpaceError(
                f"NNI sample: unknown label {label!r}; allowed: {', '.join(_NNI_LABELS)} (cell/source_target)"
                + nearest(str(label), _NNI_LABELS)
            )
    missing = [label for label in _NNI_LABELS if label not in architecture]
    if missing:
        raise SpaceError(f"NNI sample: no choice given for {', '.join(missing)}; every label must have one")
    for label, edge in zip(_NNI_LABELS, EDGES, strict=True):
        if architecture[label] not in _NNI_NAMES:
            raise SpaceError(
                f"NNI sample: {label!r} (edge {edge}) is {architecture[label]!r}; allowed: {', '.join(_NNI_NAMES)}"
                + nearest(str(architecture[label]), _NNI_NAMES)
            )
    return tuple(_NNI_NAMES.index(architecture[label]) for label in _NNI_LABELS)


def check_indices(indices: Sequence[int]) -> Indices:
    """Return `indices` as a tuple of six Python integers from 0 to 4.

    Raises:
        SpaceError: they are not; the message names the edge.
    """
    given = tuple(indices)
    if len(given) != len(EDGES):
        raise SpaceError(
            f"{len(given)} operation indices given: {given!r}; a cell has {len(EDGES)} edges, in the order "
            + ", ".join(map(str, EDGES))
        )
    checked: list[int] = []
    for edge, value in zip(EDGES, given, strict=True):
        try:
            index = operator.index(value)
        except TypeError:
            index = -1
        if isinstance(value, bool) or not 0 <= index < len(OPERATIONS):
            allowed = ", ".join(f"{number} {name}" for number, name in enumerate(OPERATIONS))
            raise SpaceError(f"operation index of edge {edge} is {value!r}; allowed: {allowed}")
        checked.append(index)
    return tuple(checked)


def _parse_node(arch_str: str, node: int, text: str, start: int) -> list[int]:
    """Return the indices of one ``|op~0|op~1|`` group, which begins at character `start` of `arch_str`."""
    if not text.startswith("|"):
        raise _malformed(arch_str, start, f"node {node} must begin with '|'")
    if len(text) < 2 or not text.endswith("|"):
        raise _malformed(arch_str, start + len(text), f"node {node} must end with '|'")
    entries = text[1:-1].split("|")
    edges = [edge for edge in EDGES if edge.target == node]
    if len(entries) != len(edges):
        wanted = ", ".join(map(str, edges))
        raise _malformed(arch_str, start, f"node {node} has {len(entries)} edge(s), it needs {len(edges)}: {wanted}")
    indices = []
    position = start + 1
    for edge, entry in zip(edges, entries, strict=True):
        indices.append(_parse_edge(arch_str, edge, entry, position))
        position += len(entry) + 1
    return indices


def _parse_edge(arch_str: str, edge: Edge, entry: str, start: int) -> int:
    """Return the index of one ``op~source`` entry, which begins at character `start` of `arch_str`."""
    where = f"node {edge.target}, edge {edge}"
    name, tilde, source = entry.partition("~")
    if name not in OPERATIONS:
        allowed = ", ".join(OPERATIONS)
        raise _malformed(
            arch_str, start, f"{where}: unknown operation {name!r}; allowed: {allowed}{nearest(name, OPERATIONS)}"
        )
    if not tilde:
        raise _malformed(arch_str, start + len(name), f"{where}: expected '~{edge.source}' after {name!r}")
    if source != str(edge.source):
        raise _malformed(
            arch_str, start + len(name) + 1, f"{where}: source node is {source!r}, it must be '{edge.source}'"
        )
    return OPERATIONS.index(name)


def _malformed(arch_str: str, position: int, problem: str) -> SpaceError:
    return SpaceError(f"architecture string {arch_str!r}, character {position}: {problem}; example: {_EXAMPLE!r}")
