"""From a posterior to ranked architectures."""

from balenas_plugin.export.ranking import RankedArchitecture, rank
from balenas_plugin.export.selection import ProxySelection
from balenas_plugin.export.space import NasBench201Space, Space

__all__ = ["NasBench201Space", "ProxySelection", "RankedArchitecture", "Space", "rank"]
