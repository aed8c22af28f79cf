"""NAS-Bench-201: its notation, and the network of an architecture (Dong and Yang 2020)."""

from __future__ import annotations

from .network import NasBench201Network, build_network
from .notation import (
    EDGES,
    NODES,
    OPERATIONS,
    Edge,
    Indices,
    check_indices,
    format_string,
    from_nni,
    parse,
    to_nni,
)
from .reading import from_naslib, read_architecture
from .search_space import NasBench201Space
from .shared_weights import SharedWeights

__all__ = [
    "EDGES",
    "NODES",
    "OPERATIONS",
    "SPACE",
    "Edge",
    "Indices",
    "NasBench201Network",
    "NasBench201Space",
    "SharedWeights",
    "build_network",
    "check_indices",
    "format_string",
    "from_naslib",
    "from_nni",
    "parse",
    "read_architecture",
    "to_nni",
]

SPACE = NasBench201Space()
