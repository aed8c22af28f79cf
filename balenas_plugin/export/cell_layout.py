"""Lay out a cell: its nodes in a row, its edges on lanes above and below, no label over another.

Every edge between neighbours runs straight; every other leaves its node, runs along a lane and comes down (or up) to
its target. Edges that overlap get different lanes, the longer ones further out, and a label stands on its edge's lane
in the gap between two nodes, where no edge changes lanes: so labels never meet each other or a node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from balenas_plugin.errors import SpaceError

Name = int | str

NODE_HEIGHT = 0.4
LANE = 0.6
"""Distance between lanes, in inches: a line of text above the edge and one below fit in."""

_FIRST_LANE = 0.62
_PORT = 0.17
_PADDING = 0.4


@dataclass(frozen=True)
class DrawnEdge:
    """An edge of a cell.

    Args:
        source: node that it comes from.
        target: node that it leads to.
        operation: what it does; ``none`` is no connection. Empty: nothing, only a wire.
        probability: that this operation wins under the posterior; None where the search decides nothing, as of the
            concatenation at the end of a cell.
    """

    source: Name
    target: Name
    operation: str
    probability: float | None


@dataclass(frozen=True)
class Box:
    """A node: its left edge and width in inches; all are centred on height 0."""

    name: Name
    left: float
    width: float
    is_end: bool

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width


@dataclass(frozen=True)
class Route:
    """The corners of one edge, and where its label stands (None: it has none), in inches."""

    edge: DrawnEdge
    points: tuple[tuple[float, float], ...]
    label: tuple[float, float] | None


@dataclass(frozen=True)
class CellLayout:
    """Where everything in a cell lies, in inches; height 0 is the row of nodes."""

    boxes: tuple[Box, ...]
    routes: tuple[Route, ...]
    top: float
    bottom: float


def order_nodes(edges: Sequence[DrawnEdge]) -> list[Name]:
    """Return the nodes of `edges` so that every edge leads onwards: inputs first, then numbers in order.

    Raises:
        SpaceError: there is no edge, or a path leads back to its start.
    """
    if not edges:
        raise SpaceError("a cell without an edge was given; there is nothing to draw")
    names = list(dict.fromkeys(name for edge in edges for name in (edge.source, edge.target)))
    waiting = {name: {edge.source for edge in edges if edge.target == name} for name in names}
    ordered = [name for name in names if not waiting[name]]
    while len(ordered) < len(names):
        ready = [name for name in names if name not in ordered and waiting[name] <= set(ordered)]
        if not ready:
            stuck = ", ".join(str(name) for name in names if name not in ordered)
            raise SpaceError(f"the edges of a cell must not form a circle; these nodes are on or behind one: {stuck}")
        numbers = [name for name in ready if isinstance(name, int)]
        ordered.append(min(numbers) if numbers else ready[0])
    return ordered


def lay_out_cell(edges: Sequence[DrawnEdge], *, text_width: Callable[[str], float]) -> CellLayout:
    """Return the layout of a cell.

    Args:
        edges: in any order; several may join the same two nodes.
        text_width: width in inches of a text as it will be drawn.

    Raises:
        SpaceError: there is no edge, or a path leads back to its start.
    """
    place = {name: index for index, name in enumerate(order_nodes(edges))}
    bundles = _assign_lanes(edges, place)
    ports = {name: _ports(name, bundles, place) for name in place}
    gap = max(text_width("0.00"), *(text_width(edge.operation) for edge in edges)) + _PADDING
    boxes: list[Box] = []
    for name in place:
        left = boxes[-1].right + gap if boxes else 0.0
        width = max(text_width(str(name)) + 0.25, _PORT * (max(map(len, ports[name].values())) + 1), 0.5)
        is_end = all(edge.target != name for edge in edges) or all(edge.source != name for edge in edges)
        boxes.append(Box(name, left, width, is_end))
    routes = [_route(edge, bundle, boxes, place, ports) for bundle in bundles for edge in bundle.edges]
    heights = [height for route in routes for _, height in route.points]
    return CellLayout(boxes=tuple(boxes), routes=tuple(routes), top=max(heights), bottom=min(heights))


@dataclass(frozen=True, eq=False)
class _Bundle:
    """Edges on one lane: a single one, or all wires of one kind into one node.

    `lane` is 0 for a straight edge, 1, 2, ... above the nodes and -1, -2, ... below them.
    """

    edges: tuple[DrawnEdge, ...]
    start: int
    end: int
    lane: int


def _assign_lanes(edges: Sequence[DrawnEdge], place: dict[Name, int]) -> list[_Bundle]:
    """Return the edges with their lanes, the shortest first, so that longer ones come to lie further out."""
    wires: dict[tuple[Name, str], list[DrawnEdge]] = defaultdict(list)
    groups: list[list[DrawnEdge]] = []
    for edge in edges:
        if edge.probability is not None:
            groups.append([edge])
        else:
            wires[edge.target, edge.operation].append(edge)
    bundles: list[_Bundle] = []
    for group in sorted(groups, key=lambda group: _span(group, place)) + list(wires.values()):
        start, end = _span(group, place)[1:]
        taken = {bundle.lane for bundle in bundles if bundle.start < end and start < bundle.end}
        if end - start == 1 and 0 not in taken:
            lane = 0
        else:
            sides = (-1,) if group[0].probability is None else (1, -1)
            free = {side: next(side * n for n in count(1) if side * n not in taken) for side in sides}
            crowd = {side: sum(bundle.lane * side > 0 for bundle in bundles) for side in sides}
            lane = min(free.values(), key=lambda lane: (abs(lane), crowd[1 if lane > 0 else -1]))
        bundles.append(_Bundle(tuple(group), start, end, lane))
    return bundles


def _span(group: Sequence[DrawnEdge], place: dict[Name, int]) -> tuple[int, int, int]:
    """Return the length of a group of edges, where it starts and where it ends."""
    start, end = min(place[edge.source] for edge in group), place[group[0].target]
    return end - start, start, end


def _ports(name: Name, bundles: Sequence[_Bundle], place: dict[Name, int]) -> dict[int, list[_Bundle]]:
    """Return, for the side above (1) and below (-1) a node, the bundles that meet it there, from left to right.

    Those that arrive stand left of those that leave, and the outer lanes between the inner ones: so none cross here.
    """
    ports = {}
    for side in (1, -1):
        there = sorted((bundle for bundle in bundles if bundle.lane * side > 0), key=lambda each: abs(each.lane))
        arriving = [bundle for bundle in there if bundle.end == place[name]]
        leaving = [bundle for bundle in there if any(edge.source == name for edge in bundle.edges)]
        ports[side] = arriving + leaving[::-1]
    return ports


def _route(
    edge: DrawnEdge,
    bundle: _Bundle,
    boxes: Sequence[Box],
    place: dict[Name, int],
    ports: dict[Name, dict[int, list[_Bundle]]],
) -> Route:
    start, end = place[edge.source], place[edge.target]
    side = 1 if bundle.lane > 0 else -1
    height = side * (_FIRST_LANE + LANE * (abs(bundle.lane) - 1)) if bundle.lane else 0.0
    points: tuple[tuple[float, float], ...]
    if bundle.lane:
        surface = side * NODE_HEIGHT / 2
        left, right = (_port(boxes[index], bundle, ports[boxes[index].name][side]) for index in (start, end))
        points = ((left, surface), (left, height), (right, height), (right, surface))
    else:
        points = ((boxes[start].right, 0.0), (boxes[end].left, 0.0))
    nearest = max(bundle.edges, key=lambda each: place[each.source])
    if not edge.operation or edge is not nearest:
        return Route(edge, points, None)
    before = end - 1 if len(bundle.edges) > 1 else (start + end - 1) // 2
    return Route(edge, points, ((boxes[before].right + boxes[before + 1].left) / 2, height))


def _port(box: Box, bundle: _Bundle, there: Sequence[_Bundle]) -> float:
    return box.left + box.width * (there.index(bundle) + 1) / (len(there) + 1)
