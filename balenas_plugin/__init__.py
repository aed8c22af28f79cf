"""BaLeNAS: differentiable architecture search that learns a distribution over architectures.

The public names are imported when they are first used, so `import balenas_plugin` is quick and needs no framework::

    from balenas_plugin import BaLeNAS        # strategy for Microsoft NNI
    from balenas_plugin import DARTS, DrNAS   # others: every preset of balenas_plugin.presets
    from balenas_plugin import Diagnostics    # Lightning callback that watches a search
    from balenas_plugin import SearchPlan     # another, which says beforehand what a search will do and take
    from balenas_plugin import Posterior      # what a search has learned
    from balenas_plugin import VAdam          # the optimizer that learns it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balenas_plugin.adapters.nni import Diagnostics, DistributionStrategy, SearchPlan
    from balenas_plugin.bayes import Posterior, SeededNoise, VAdam

    BaLeNAS = DARTS = DrNAS = GDAS = SNAS = DistributionStrategy

__version__ = "0.1.0"

_HOME = {
    "Diagnostics": "balenas_plugin.adapters.nni",
    "DistributionStrategy": "balenas_plugin.adapters.nni",
    "SearchPlan": "balenas_plugin.adapters.nni",
    "Posterior": "balenas_plugin.bayes",
    "SeededNoise": "balenas_plugin.bayes",
    "VAdam": "balenas_plugin.bayes",
}

__all__ = [
    "DARTS",
    "GDAS",
    "SNAS",
    "BaLeNAS",
    "Diagnostics",
    "DistributionStrategy",
    "DrNAS",
    "Posterior",
    "SearchPlan",
    "SeededNoise",
    "VAdam",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name[:1].isupper() and name in import_module("balenas_plugin.presets").list_presets():
        return import_module("balenas_plugin.adapters.nni").strategy_of(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
