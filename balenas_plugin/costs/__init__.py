"""Costs of an architecture that join the loss it is searched by: latency, operations, parameters."""

from balenas_plugin.costs.cost import CostOptions
from balenas_plugin.costs.table import CostTable

__all__ = ["CostOptions", "CostTable"]
