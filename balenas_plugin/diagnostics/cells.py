"""Width and depth of an architecture's cells, which `SearchSpace.cells` gives."""

from __future__ import annotations

from collections.abc import Sequence

from balenas_plugin.bayes.decisions import NO_CONNECTION
from balenas_plugin.search_spaces import JOINED, CellEdge


def depth(edges: Sequence[CellEdge]) -> int:
    """Return the number of operations on the longest path from an input to an output; `none` is no connection.

    Outputs are the nodes that no edge leaves: where NNI's cells join all nodes, the longest path ends in one of those.
    Joining nodes is no operation.

    Source: Shu, Wang and Cai 2020, "Understanding Architectures Learnt by Cell-based Neural Architecture Search".
    """
    longest: dict[int, int] = {}
    for edge in _live(edges):  # ordered, so a source's own length is known before it is used
        length = longest.get(edge.source, 0) + (edge.operation != JOINED)
        longest[edge.target] = max(longest.get(edge.target, 0), length)
    return max(longest.values(), default=0)


def width(edges: Sequence[CellEdge]) -> float:
    """Return the width in units of the channels C: each node counts by the share of its inputs that are the cell's own.

    A node fed by the cell's inputs alone counts 1, one fed by other nodes alone 0; what reaches no output does not, and
    neither does an output that joins nodes.

    Source: Shu, Wang and Cai 2020, "Understanding Architectures Learnt by Cell-based Neural Architecture Search".
    """
    inputs = {edge.source for edge in edges} - {edge.target for edge in edges}
    sources: dict[int, list[int]] = {}
    for edge in (edge for edge in _live(edges) if edge.operation != JOINED):
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
