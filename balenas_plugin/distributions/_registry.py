"""Find distributions by name."""

from __future__ import annotations

import inspect

from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.parts import Parts


def _is_distribution(candidate: object) -> bool:
    return inspect.isclass(candidate) and issubclass(candidate, Distribution)


def _of_module(module: object) -> dict[str, type[Distribution]]:
    own = (c for c in vars(module).values() if _is_distribution(c) and c.__module__ == vars(module)["__name__"])
    return {distribution.name: distribution for distribution in own}


DISTRIBUTIONS: Parts[type[Distribution]] = Parts(
    "distribution",
    "balenas_plugin.distributions",
    of_module=_of_module,
    is_part=_is_distribution,
    contract="subclass of balenas_plugin.distributions.Distribution",
)
list_distributions, get_distribution = DISTRIBUTIONS.names, DISTRIBUTIONS.get
