"""Algorithm 1, framework-free: an adapter gives closures, a distribution the mixing weights."""

from balenas_plugin.search.algorithm import Host, Order, Search, SkippedStep

__all__ = ["Host", "Order", "Search", "SkippedStep"]
