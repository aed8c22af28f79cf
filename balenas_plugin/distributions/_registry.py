"""Find distributions by name."""

from __future__ import annotations

from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.parts import Parts

DISTRIBUTIONS: Parts[type[Distribution]] = Parts(
    "distribution", "balenas_plugin.distributions", Distribution, classes=True
)
list_distributions, get_distribution = DISTRIBUTIONS.names, DISTRIBUTIONS.get
