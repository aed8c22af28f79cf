"""Algorithm 1, framework-free: an adapter gives closures, a distribution the mixing weights."""

from balenas_plugin.search.algorithm import Host, Search, SkippedStep, require_part
from balenas_plugin.search.order import Order
from balenas_plugin.search.together import require_splittable

__all__ = ["Host", "Order", "Search", "SkippedStep", "require_part", "require_splittable"]
