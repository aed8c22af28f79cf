"""The cells of an architecture as graphs, and their width and depth.

A *sample* names an architecture as NNI does. Two notations are graphs: ``<cell>/op_<node>_<k>`` with
``<cell>/input_<node>_<k>`` (NNI's `Cell`), and ``<cell>/<source>_<target>`` (NAS-Bench-201).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_OPERATION = re.compile(r"(?P<cell>.+)/op_(?P<node>\d{1,6})_(?P<k>\d{1,6})")
_EDGE = re.compile(r"(?P<cell>.+)/(?P<source>\d{1,6})_(?P<target>\d{1,6})")

NO_CONNECTION = "none"


@dataclass(frozen=True)
class CellEdge:
    """One operation of a cell: from node `source` to node `target`; `label` is that of the choice in the sample."""

    source: int
    target: int
    operation: str
    label: str


def cells_of(sample: Mapping[str, Any]) -> dict[str, list[CellEdge]]:
    """Return cell name -> its edges, ordered by target and source; choices that are not part of a cell are left out."""
    cells: dict[str, list[CellEdge]] = {}
    for label, chosen in sample.items():
        found = _OPERATION.fullmatch(label)
        if found is not None:
            inputs = sample.get(f"{found['cell']}/input_{found['node']}_{found['k']}")
            sources = inputs if isinstance(inputs, list | tuple) else [inputs]
            edges = [CellEdge(s, int(found["node"]), str(chosen), label) for s in sources if isinstance(s, int)]
            cells.setdefault(found["cell"], []).extend(edges)
            continue
        found = _EDGE.fullmatch(label)
        if found is not None and isinstance(chosen, str) and int(found["source"]) < int(found["target"]):
            edge = CellEdge(int(found["source"]), int(found["target"]), chosen, label)
            cells.setdefault(found["cell"], []).append(edge)
    return {name: sorted(edges, key=lambda e: (e.target, e.source, e.label)) for name, edges in cells.items() if edges}


def depth(edges: Sequence[CellEdge]) -> int:
    """Return the number of operations on the longest path from an input to an output; `none` is no connection.

    Outputs are the nodes that no edge leaves: where NNI's cells join all nodes, the longest path ends in one of those.

    Source: Shu, Wang and Cai 2020, "Understanding Architectures Learnt by Cell-based Neural Architecture Search".
    """
    longest: dict[int, int] = {}
    for edge in _live(edges):  # ordered, so a source's own length is known before it is used
        longest[edge.target] = max(longest.get(edge.target, 0), longest.get(edge.source, 0) + 1)
    return max(longest.values(), default=0)


def width(edges: Sequence[CellEdge]) -> float:
    """Return the width in units of the channels C: each node counts by the share of its inputs that are the cell's own.

    A node fed by the cell's inputs alone counts 1, one fed by other nodes alone 0; what reaches no output does not.

    Source: Shu, Wang and Cai 2020, "Understanding Architectures Learnt by Cell-based Neural Architecture Search".
    """
    inputs = {edge.source for edge in edges} - {edge.target for edge in edges}
    sources: dict[int, list[int]] = {}
    for edge in _live(edges):
        sources.setdefault(edge.target, []).append(edge.source)
    return sum(sum(s in inputs for s in given) / len(given) for given in sources.values())


def _live(edges: Sequence[CellEdge]) -> list[CellEdge]:
    """Return the edges on a connected path from an input to an output, ordered by target."""
    sources, targets = {edge.source for edge in edges}, {edge.target for edge in edges}
    connected = sorted((e for e in edges if e.operation != NO_CONNECTION), key=lambda e: (e.target, e.source))
    fed, used = sources - targets, targets - sources
    for edge in connected:
        if edge.source in fed:
            fed.add(edge.target)
    for edge in sorted(connected, key=lambda e: -e.source):
        if edge.target in used:
            used.add(edge.source)
    return [edge for edge in connected if edge.source in fed and edge.target in used]
