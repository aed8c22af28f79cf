"""Read a NASLib graph: its alphas, their labels, and what they choose from.

NASLib calls an edge by the name of its cell and the numbers of its nodes; the label of its alpha is
``cell/source_target``, for example ``normal_cell/1_3``. Copies of a cell share the alphas, and so the label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from balenas_plugin.errors import SpaceError


@dataclass(frozen=True, eq=False)
class LabelledAlpha:
    """One architecture parameter of a graph.

    Args:
        label: ``cell/source_target``, or as the rest of the package calls it.
        cell: name of the cell.
        source: node that the edge leaves.
        target: node that it enters.
        alpha: its logits, shape (K,): the mean of the posterior, outside of a step.
        choices: names of the K operations.
        parameterised: which of them have weights.
    """

    label: str
    cell: str
    source: int
    target: int
    alpha: nn.Parameter
    choices: tuple[str, ...]
    parameterised: tuple[bool, ...]


def labelled_alphas(graph: Any) -> list[LabelledAlpha]:
    """Return every alpha of a graph whose edges hold mixed operations, once, in the order of its cells and edges.

    Raises:
        SpaceError: there is none.
    """
    found: dict[int, LabelledAlpha] = {}
    for cell in _cells(graph):
        for source, target, data in _edges(cell):
            if data.has("alpha") and id(data.alpha) not in found:
                operations = data.op.get_embedded_ops()
                names = tuple(_name(operation) for operation in operations)
                flags = tuple(next(operation.parameters(), None) is not None for operation in operations)
                label = f"{cell.name}/{source}_{target}"
                found[id(data.alpha)] = LabelledAlpha(label, str(cell.name), source, target, data.alpha, names, flags)
    if not found:
        raise SpaceError(f"{type(graph).__name__} has no edge with several operations, so there is nothing to search")
    return list(found.values())


def _cells(graph: Any) -> Iterator[Any]:
    """Yield a graph and the graphs inside it, at its nodes and on its edges."""
    yield graph
    inside = [data["subgraph"] for _, data in sorted(graph.nodes(data=True)) if "subgraph" in data]
    inside += [data.op for _, _, data in _edges(graph)]
    for child in inside:
        if isinstance(child, nn.Module) and hasattr(child, "edges"):
            yield from _cells(child)


def _edges(graph: Any) -> list[tuple[int, int, Any]]:
    return sorted(graph.edges(data=True), key=lambda edge: edge[:2])


def _name(operation: Any) -> str:
    return str(getattr(operation, "get_op_name", type(operation).__name__))
