"""Search spaces: one package each, with the translations between their notations and their networks."""

from __future__ import annotations

from balenas_plugin.search_spaces import nasbench201
from balenas_plugin.search_spaces.nasbench201 import (
    EDGES,
    OPERATIONS,
    build_network,
    format_string,
    from_nni,
    parse,
    to_nni,
)

__all__ = ["EDGES", "OPERATIONS", "build_network", "format_string", "from_nni", "nasbench201", "parse", "to_nni"]
