"""Options classes of what functions and classes can be given."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from balenas_plugin.options.declaration import declared_options, default_options
from balenas_plugin.options.docstrings import descriptions, summary


def signature_options(
    factory: Callable[..., Any], where: str = "", *, called: str = "", without: Iterable[str] = ()
) -> type[Any]:
    """Return an options class of all that can be given to a class or function by keyword.

    Where a class takes ``**kwargs``, it takes the options of its base classes; a function takes anything. A parameter
    without a type is of the type of its default, if that is a number, a text or a flag.

    Args:
        factory: its docstring describes the options in ``Args:``.
        where: as for `declared_options`.
        called: as for `declared_options`.
        without: parameters that are no options.
    """
    found: dict[str, tuple[str, Any, Any]] = {}
    described: dict[str, str] = {}
    open = True
    for function, docstring in _functions(factory):
        described = descriptions(docstring) | described
        parameters = inspect.signature(function).parameters.values() if open else ()
        hints = _hints(function)
        for parameter in parameters:
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                hint = hints.get(parameter.name, _type_of(parameter.default))
                found.setdefault(parameter.name, (parameter.name, hint, _field(parameter.default)))
        open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    fields = [field for name, field in found.items() if name not in ("self", *without)]
    name = getattr(factory, "__name__", where)
    return _made(name, fields, summary(factory), described, where, called, open=open and not inspect.isclass(factory))


def joined_options(
    name: str,
    *parts: type[Any],
    about: str = "",
    where: str = "",
    called: str = "",
    changed: Mapping[str, Any] | None = None,
    without: Iterable[str] = (),
) -> type[Any]:
    """Return an options class with the options of several; checks of several options together stay with the parts.

    Args:
        name: of the class.
        parts: options classes; where two have an option of one name, it is the first one's.
        about: one line that describes it; that of the first part if nothing is given.
        where: as for `declared_options`.
        called: as for `declared_options`.
        changed: defaults in the place of the parts' own.
        without: options that are left out.
    """
    found: dict[str, tuple[str, Any, Any]] = {}
    described: dict[str, str] = {}
    for part in parts:
        own = default_options(part) | dict(changed or {})
        for field in dataclasses.fields(part):
            if field.name not in without:
                default = _field(own.get(field.name, inspect.Parameter.empty))
                found.setdefault(field.name, (field.name, field.type, default))
        described = descriptions(part.__doc__ or "") | described
    return _made(name, list(found.values()), about or summary(parts[0]), described, where, called)


def _made(
    name: str,
    fields: list[tuple[str, Any, Any]],
    text: str,
    described: Mapping[str, str],
    where: str,
    called: str,
    *,
    open: bool = False,
) -> type[Any]:
    cls = dataclasses.make_dataclass(name, fields, kw_only=True, frozen=True)
    lines = [f"    {field}: {described[field]}" for field, _, _ in fields if field in described]
    cls.__doc__ = "\n".join([text, "", "Args:", *lines])
    return declared_options(where, called=called, open=open)(cls)


def _functions(factory: Callable[..., Any]) -> Iterator[tuple[Callable[..., Any], str]]:
    """Yield a function, or the constructors of a class and its bases, each with what documents it."""
    if not inspect.isclass(factory):
        yield factory, factory.__doc__ or ""
        return
    for base in factory.__mro__:
        init = vars(base).get("__init__")
        if base is not object and init is not None:
            yield init, f"{inspect.cleandoc(base.__doc__ or '')}\n\n{inspect.cleandoc(init.__doc__ or '')}"


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # of names that only a type checker imports
        return {}


def _type_of(default: object) -> Any:
    if isinstance(default, bool | str):
        return type(default)
    return float | int if isinstance(default, int | float) else Any


def _field(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return dataclasses.field()
    if isinstance(default, list | dict | set):
        return dataclasses.field(default_factory=lambda: default)
    return dataclasses.field(default=default)
