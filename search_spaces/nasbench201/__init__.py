"""NAS-Bench-201: its notation, and the network of an architecture (Dong and Yang 2020)."""

from __future__ import annotations

from balenas_plugin.search_spaces.nasbench201.network import NasBench201Network, build_network
from balenas_plugin.search_spaces.nasbench201.notation import (
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
from balenas_plugin.search_spaces.nasbench201.reading import Reading, from_naslib, read_architecture
from balenas_plugin.search_spaces.nasbench201.shared_weights import SharedWeights

__all__ = [
    "EDGES",
    "NODES",
    "OPERATIONS",
    "Edge",
    "Indices",
    "NasBench201Network",
    "Reading",
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
