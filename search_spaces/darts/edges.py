"""Which operations stand on which edges: the DARTS space, and those that RobustDARTS and SmoothDARTS made of it.

Sources: Liu et al. 2019 (DARTS); Zela et al. 2020 (RobustDARTS, S1 to S4); Chen and Hsieh 2020 (SmoothDARTS, S5).
"""

from __future__ import annotations

from collections.abc import Mapping

NODES = (2, 3, 4, 5)
"""The nodes that are computed; 0 and 1 are what a cell gets."""

Edge = tuple[int, int]
"""(node, input)."""

CELL_EDGES: tuple[Edge, ...] = tuple((node, source) for node in NODES for source in range(node))
"""All edges of a cell, in the order of the reference's alphas."""

OPERATIONS = (
    "none",
    "noise",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""All operations; those of an edge stand in this order."""

_DARTS = tuple(name for name in OPERATIONS if name != "noise")

SHORT = {
    "noise": "noise",
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "skip": "skip_connect",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "sep7": "sep_conv_7x7",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
    "conv7": "conv_7x1_1x7",
}
"""Operations in the tables of this package."""

_S1 = {  # the two best operations of each edge, as Zela et al. found them: a line a node
    "normal": (
        "skip dil3, skip dil5",
        "skip dil5, skip sep3, skip dil3",
        "max skip, skip sep3, skip sep3, skip dil3",
        "skip sep3, max skip, skip dil3, dil3 dil5, dil3 dil5",
    ),
    "reduce": (
        "max avg, max dil3",
        "max avg, max avg, skip dil5",
        "max avg, max sep3, skip dil3, skip dil5",
        "max avg, max avg, skip dil5, skip dil5, skip dil5",
    ),
}

Edges = Mapping[str, Mapping[Edge, tuple[str, ...]]]
"""Cell -> edge -> its operations, in the order of its alphas."""


def _everywhere(*operations: str) -> Edges:
    return {cell: dict.fromkeys(CELL_EDGES, operations) for cell in ("normal", "reduce")}


def _s1() -> Edges:
    lists = {cell: ", ".join(nodes).split(", ") for cell, nodes in _S1.items()}
    return {
        cell: {edge: tuple(SHORT[word] for word in words.split()) for edge, words in zip(CELL_EDGES, own, strict=True)}
        for cell, own in lists.items()
    }


EDGES: Mapping[str, Edges] = {
    "darts-reference": _everywhere(*_DARTS),
    "darts-s1": _s1(),
    "darts-s2": _everywhere("skip_connect", "sep_conv_3x3"),
    "darts-s3": _everywhere("none", "skip_connect", "sep_conv_3x3"),
    "darts-s4": _everywhere("noise", "sep_conv_3x3"),
    "darts-s5": _everywhere(*_DARTS[1:]),
}
"""Space -> what stands on its edges."""
