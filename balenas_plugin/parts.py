"""Find parts by name: the modules of a folder of this package, and what other packages offer as entry points."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import logging
import pkgutil
from typing import Any, Generic, TypeVar

from balenas_plugin.errors import OptionError, nearest

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Parts(Generic[T]):
    """All parts of one kind.

    A part of this package is defined in a module of `package` (no leading underscore). Another package adds one in its
    pyproject.toml, with no change here::

        [project.entry-points."balenas_plugin.proxies"]
        my_proxy = "my_package.my_module:PROXY"

    Args:
        kind: what a part is called in messages, e.g. "proxy".
        package: where this package's own are; the group of the entry points has the same name.
        of: the class that parts are objects of, such as `Proxy`; or, with `classes`, subclasses of. Each has a `name`.
        classes: whether parts are classes.
    """

    def __init__(self, kind: str, package: str, of: type, *, classes: bool = False) -> None:
        self.kind, self.package, self.of = kind, package, of
        self.contract = f"{'subclass of ' if classes else ''}{package}.{of.__name__}"
        self._classes = classes

    def names(self) -> list[str]:
        """Return the names of all parts that can be asked for, sorted. Those of other packages are not imported."""
        return sorted({*self._built_in, *(entry.name for entry in self._entry_points())})

    def get(self, name: str) -> T:
        """Return the part called `name`; this package's own come before those of others.

        Raises:
            OptionError: there is none of that name, or the package that offers it is broken.
        """
        return self._built_in[name] if name in self._built_in else self._third_party(name)

    @functools.cached_property
    def all(self) -> list[T]:
        """All parts, this package's own first; those of other packages that are broken are left out, with a warning."""
        found = list(self._built_in.values())
        for entry in self._entry_points():
            try:
                found += [] if entry.name in self._built_in else [self._third_party(entry.name)]
            except OptionError as error:
                _logger.warning("%s", error)
        return found

    @functools.cached_property
    def _built_in(self) -> dict[str, T]:
        package = importlib.import_module(self.package)
        found: dict[str, T] = {}
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                content = vars(importlib.import_module(f"{self.package}.{module.name}"))
                own = (part for part in content.values() if self._is_part(part, content["__name__"]))
                found |= {part.name: part for part in own}
        return found

    def _is_part(self, candidate: Any, module: str | None = None) -> bool:
        """Return whether it is a part; of classes, one with a name that is defined in `module`, if that is given."""
        if not self._classes:
            return isinstance(candidate, self.of)
        is_class = inspect.isclass(candidate) and issubclass(candidate, self.of) and hasattr(candidate, "name")
        return is_class and module in (None, candidate.__module__)

    @functools.cache  # noqa: B019  # the instances are module constants
    def _third_party(self, name: str) -> T:
        """Import another package's part, once: reading the entry points takes long."""
        entries = [entry for entry in self._entry_points() if entry.name == name]
        if not entries:
            names = self.names()
            raise OptionError(f"unknown {self.kind} {name!r}; allowed: {', '.join(names)}{nearest(str(name), names)}")
        try:
            part = entries[0].load()
        except Exception as error:  # a foreign module can fail in any way
            raise OptionError(
                f"{self.kind} {name!r} could not be loaded from {entries[0].value!r}: {type(error).__name__}: {error}. "
                "Repair or uninstall the package that offers it."
            ) from error
        if not self._is_part(part):
            raise OptionError(
                f"{self.kind} {name!r}: {entries[0].value!r} is a {type(part).__name__}; it must be a {self.contract} "
                "with a name"
            )
        return part  # type: ignore[no-any-return]  # `_is_part` has said so

    def _entry_points(self) -> importlib.metadata.EntryPoints:
        return importlib.metadata.entry_points(group=self.package)
