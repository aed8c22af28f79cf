"""From a posterior to ranked architectures."""

from balenas_plugin.selection.proxy_selection import ProxySelection
from balenas_plugin.selection.ranking import RankedArchitecture, rank

__all__ = ["ProxySelection", "RankedArchitecture", "rank"]
