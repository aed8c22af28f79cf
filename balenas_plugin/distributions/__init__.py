"""Distributions over mixing weights, one a file: how weights are drawn, learned, and what they say of the choices.

To add one, write a module here with a subclass of `Distribution` and its `name`, or offer the class from another
package as an entry point of the group ``balenas_plugin.distributions``.
"""

from balenas_plugin.distributions._chosen import ChosenDistribution, distribution_options
from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.distributions._draw import Draw, Evaluate, Weights
from balenas_plugin.distributions._registry import get_distribution, list_distributions

__all__ = [
    "ChosenDistribution",
    "Distribution",
    "Draw",
    "Evaluate",
    "Weights",
    "distribution_options",
    "get_distribution",
    "list_distributions",
]
