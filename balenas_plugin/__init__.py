"""BaLeNAS: differentiable architecture search that learns a distribution over architectures.

The public names are imported when they are first used, so `import balenas_plugin` is quick and needs no framework::

    from balenas_plugin import BaLeNAS        # strategy for Microsoft NNI
    from balenas_plugin import Diagnostics    # Lightning callback that watches a search
    from balenas_plugin import SearchPlan     # another, which says beforehand what a search will do and take
    from balenas_plugin import Posterior      # what a search has learned
    from balenas_plugin import VAdam          # the optimizer that learns it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balenas_plugin.adapters.nni import BaLeNAS, Diagnostics, SearchPlan
    from balenas_plugin.bayes import Posterior, SeededNoise, VAdam

__version__ = "0.1.0"

_HOME = {
    "BaLeNAS": "balenas_plugin.adapters.nni",
    "Diagnostics": "balenas_plugin.adapters.nni",
    "SearchPlan": "balenas_plugin.adapters.nni",
    "Posterior": "balenas_plugin.bayes",
    "SeededNoise": "balenas_plugin.bayes",
    "VAdam": "balenas_plugin.bayes",
}

__all__ = ["BaLeNAS", "Diagnostics", "Posterior", "SearchPlan", "SeededNoise", "VAdam", "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
