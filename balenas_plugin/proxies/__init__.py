"""Zero-cost proxies: guess how good a network will be from one batch, without training it.

`score` gives a proxy's value by name, `rank_value` a number to sort networks by. Each public module is one proxy; to
add one, write such a module here, or offer a `Proxy` from another package as an entry point of the group
``balenas_plugin.proxies``. Write it with `borrowed`, which lends the network and leaves it as it was.
"""

from __future__ import annotations

from balenas_plugin.proxies._evaluation.dependence import depends_on_input
from balenas_plugin.proxies._evaluation.network import Network, borrowed, gradients, total
from balenas_plugin.proxies._evaluation.scoring import rank_value, score
from balenas_plugin.proxies._registry import ENTRY_POINT_GROUP, Proxy, get_proxy, list_proxies

__all__ = [
    "ENTRY_POINT_GROUP",
    "Network",
    "Proxy",
    "borrowed",
    "depends_on_input",
    "get_proxy",
    "gradients",
    "list_proxies",
    "rank_value",
    "score",
    "total",
]
