"""Find proxies by name: the modules of this package, and what other packages offer as entry points.

A proxy of this package is a module of it (no leading underscore) that defines ``PROXY``. Another package adds one in
its pyproject.toml, with no change here::

    [project.entry-points."balenas_plugin.proxies"]
    my_proxy = "my_package.my_module:PROXY"
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from balenas_plugin.errors import OptionError, nearest

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


def list_proxies() -> list[str]:
    """Return the names of all proxies that can be asked for, sorted. Those of other packages are not imported."""
    return sorted({*_built_in(), *(entry.name for entry in _entry_points())})


def get_proxy(name: str) -> Proxy:
    """Return the proxy called `name`; this package's own come before those of others.

    Raises:
        OptionError: there is none of that name, or the package that offers it is broken.
    """
    built_in = _built_in()
    return built_in[name] if name in built_in else _third_party(name)


@functools.cache
def _built_in() -> dict[str, Proxy]:
    package = importlib.import_module(__package__)
    proxies = {}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            proxy: Proxy = importlib.import_module(f"{__package__}.{module.name}").PROXY
            proxies[proxy.name] = proxy
    return proxies


@functools.cache
def _third_party(name: str) -> Proxy:
    """Import another package's proxy, once: reading the entry points takes longer than scoring a small network."""
    entries = [entry for entry in _entry_points() if entry.name == name]
    if not entries:
        names = list_proxies()
        raise OptionError(f"unknown proxy {name!r}; allowed: {', '.join(names)}{nearest(str(name), names)}")
    try:
        proxy = entries[0].load()
    except Exception as error:  # a foreign module can fail in any way
        raise OptionError(
            f"proxy {name!r} could not be loaded from {entries[0].value!r}: {type(error).__name__}: {error}. "
            "Repair or uninstall the package that offers it."
        ) from error
    if not isinstance(proxy, Proxy):
        raise OptionError(
            f"proxy {name!r}: {entries[0].value!r} is a {type(proxy).__name__}; it must be a {Proxy.__module__}.Proxy"
        )
    return proxy


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
