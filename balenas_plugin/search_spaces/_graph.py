"""The cells of an architecture as graphs, as the labels of its choices tell them.

An architecture names its choices as NNI does. Two forms of labels are graphs: ``<cell>/op_<node>_<k>`` with
``<cell>/input_<node>_<k>`` (NNI's `Cell`), and ``<cell>/<source>_<target>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_OPERATION = re.compile(r"(?P<cell>.+)/op_(?P<node>\d{1,6})_(?P<k>\d{1,6})")
_EDGE = re.compile(r"(?P<cell>.+)/(?P<source>\d{1,6})_(?P<target>\d{1,6})")


JOINED = "concat"
"""Stands in the place of an operation where a cell's output joins nodes (their concatenation, or mean)."""


@dataclass(frozen=True)
class CellEdge:
    """One operation of a cell: from node `source` to node `target`; `label` is that of the choice."""

    source: int
    target: int
    operation: str
    label: str


def cells_of(architecture: Mapping[str, Any]) -> dict[str, list[CellEdge]]:
    """Return cell name -> its edges, ordered by target and source; choices that are not part of a cell are left out."""
    cells: dict[str, list[CellEdge]] = {}
    for label, chosen in architecture.items():
        found = _OPERATION.fullmatch(label)
        if found is not None:
            inputs = architecture.get(f"{found['cell']}/input_{found['node']}_{found['k']}")
            sources = inputs if isinstance(inputs, list | tuple) else [inputs]
            edges = [CellEdge(s, int(found["node"]), str(chosen), label) for s in sources if isinstance(s, int)]
            cells.setdefault(found["cell"], []).extend(edges)
            continue
        found = _EDGE.fullmatch(label)
        if found is not None and isinstance(chosen, str) and int(found["source"]) < int(found["target"]):
            edge = CellEdge(int(found["source"]), int(found["target"]), chosen, label)
            cells.setdefault(found["cell"], []).append(edge)
    return {name: sorted(edges, key=lambda e: (e.target, e.source, e.label)) for name, edges in cells.items() if edges}


def cells_with_outputs(architecture: Mapping[str, Any]) -> dict[str, list[CellEdge]]:
    """Return the cells, each with an output that joins nodes: all of them, or those that its ``<cell>/concat`` says."""
    cells = cells_of(architecture)
    for cell, edges in cells.items():
        nodes = sorted({edge.target for edge in edges})
        said = architecture.get(label := f"{cell}/concat")
        joined = [node for node in nodes if node in said] if isinstance(said, list | tuple) else nodes
        edges += [CellEdge(node, nodes[-1] + 1, JOINED, label) for node in joined or nodes]
    return cells
