"""Find proxies by name: the modules of this package, and what other packages offer as entry points.

A proxy of this package is a module of it (no leading underscore) that defines ``PROXY``. Another package adds one in
its pyproject.toml, with no change here::

    [project.entry-points."balenas_plugin.proxies"]
    my_proxy = "my_package.my_module:PROXY"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from balenas_plugin.parts import Parts

ENTRY_POINT_GROUP = "balenas_plugin.proxies"

Compute = Callable[[nn.Module, Tensor, Tensor | None], float]
"""``compute(model, inputs, targets) -> float``; `targets` is None unless the proxy needs labels."""


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """One zero-cost proxy: the function that computes it, and what one must know to use it.

    Attributes:
        name: the name to ask for.
        compute: the proxy's definition. It leaves the model as it was (see `borrowed`).
        higher_is_better: whether a larger value announces a better network.
        needs_labels: whether `compute` must be given targets.
        description: one line.
        source: author, year, equation.
        log_compute: the natural logarithm of `compute`, for a positive proxy that can overflow; `rank_value` uses it.
    """

    name: str
    compute: Compute
    higher_is_better: bool
    needs_labels: bool
    description: str
    source: str
    log_compute: Compute | None = None

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
        return self.compute(model, inputs, targets)


PROXIES: Parts[Proxy] = Parts("proxy", ENTRY_POINT_GROUP, Proxy)
list_proxies, get_proxy = PROXIES.names, PROXIES.get
