"""Options declared once: a dataclass, or a signature, is checked, described and listed from its declaration.

Types and bounds are in the annotations, descriptions in the ``Args:`` of the docstring. Python, YAML, ``--set`` and
editors (`json_schema`) use the same declaration, and every mistake becomes one `OptionError`.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import os
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pydantic
from pydantic import ConfigDict, Field, Strict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ArgsKwargs, core_schema

from balenas_plugin.options.refusal import Schema, refusal

T = TypeVar("T")
MAX_SEED = 2**32 - 1
"""NumPy's limit."""

MAX_FLOAT = 3.4e38
"""The largest number that a tensor of float32 holds."""

MAX_WORKERS = 128
"""Processes that help one: more than this starve each other."""

Positive = Annotated[float, Field(gt=0, le=MAX_FLOAT, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=MAX_FLOAT, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Makes `Annotated[str, OneOf(words)]` a word of a registry, which is asked at every check (else use `Literal`)."""

    words: Callable[[], Iterable[str]]

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: pydantic.GetJsonSchemaHandler) -> Schema:
        return {"type": "string", "enum": list(self.words())}

    def _checked(self, given: str) -> str:
        if given not in self.words():
            raise ValueError
        return given


def options(where: str = "", *, called: str = "", open: bool = False) -> Callable[[type[T]], type[T]]:
    """Return a decorator that makes a keyword-only dataclass check its fields when it is made.

    A text is no number, nor is true or false. A list is taken for a tuple, and a mapping for nested options.

    Args:
        where: what comes before the names of the options in messages, e.g. "data" for "data.name".
        called: what messages call all of the options; `where` or the name of the class if nothing is given.
        open: take unknown options too.
    """

    def decorate(cls: type[T]) -> type[T]:
        described = descriptions(cls.__doc__ or "")
        hints = typing.get_type_hints(cls, vars(sys.modules[cls.__module__]), include_extras=True)
        declared: Any = cls  # a data class already
        for field in dataclasses.fields(declared):
            field.type = _strict(hints[field.name])
            if field.name in described:
                field.type = Annotated[field.type, Field(description=described[field.name])]
        cls.__pydantic_config__ = ConfigDict(  # type: ignore[attr-defined]
            extra="allow" if open else "forbid",
            arbitrary_types_allowed=True,
            json_schema_extra={"description": _summary(cls)},
        )
        cls.__options__ = (where, called or where or cls.__name__)  # type: ignore[attr-defined]

        @functools.wraps(cls.__init__)
        def init(self: T, **given: Any) -> None:
            _validated(cls, given, *cls.__options__, instance=self)  # type: ignore[attr-defined]

        cls.__init__ = init  # type: ignore[assignment]
        return cls

    return decorate


def read_options(cls: type[T], given: object) -> T:
    """Return options made of a mapping, or as they are.

    Raises:
        OptionError: it is no mapping, or an option is unknown, missing or refused.
    """
    return _validated(cls, given, *cls.__options__)  # type: ignore[attr-defined,no-any-return]


def checked(where: str, given: object, kind: Any) -> Any:
    """Return `given` as the type `kind` has it, e.g. `PositiveInt` or a `Literal`.

    Raises:
        OptionError: it is not of that type.
    """
    return _validated(_strict(kind), given, where, where)


def signature_options(
    factory: Callable[..., Any], where: str = "", *, called: str = "", without: Iterable[str] = ()
) -> type[Any]:
    """Return an options class of all that can be given to a class or function by keyword.

    Where a class takes ``**kwargs``, it takes the options of its base classes; a function takes anything. A parameter
    without a type is of the type of its default, if that is a number, a text or a flag.

    Args:
        factory: its docstring describes the options in ``Args:``.
        where: as for `options`.
        called: as for `options`.
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
    return _made(name, fields, _summary(factory), described, where, called, open=open and not inspect.isclass(factory))


def joined_options(
    name: str,
    *parts: type[Any],
    where: str = "",
    called: str = "",
    changed: Mapping[str, Any] | None = None,
    without: Iterable[str] = (),
) -> type[Any]:
    """Return an options class with the options of several; checks of several options together stay with the parts.

    Args:
        name: of the class.
        parts: options classes; where two have an option of one name, it is the first one's.
        where: as for `options`.
        called: as for `options`.
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
    return _made(name, list(found.values()), "", described, where, called)


def given_options(cls: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are given, checked, without the defaults of the others.

    Raises:
        OptionError: an option is unknown, missing or refused.
    """
    whole = vars(read_options(cls, given))
    return {name: whole[name] for name in given}


def default_options(cls: type[Any]) -> dict[str, Any]:
    """Return the defaults of the options that have one."""
    made = (
        (field.name, field.default if field.default_factory is dataclasses.MISSING else field.default_factory())
        for field in dataclasses.fields(cls)
    )
    return {name: value for name, value in made if value is not dataclasses.MISSING}


def json_schema(kind: Any) -> Schema:
    """Return the JSON schema of an options class or a type, for editors."""
    return _adapter(kind).json_schema(schema_generator=_Generator)


def documentation(cls: type[Any]) -> str:
    """Return the ``Args:`` of a docstring for an options class."""
    wrapped = functools.partial(textwrap.fill, width=120, initial_indent=" " * 4, subsequent_indent=" " * 8)
    return "\n".join(["Args:", *(wrapped(f"{name}: {text}") for name, text in descriptions(cls.__doc__ or "").items())])


def descriptions(docstring: str) -> dict[str, str]:
    """Return what the ``Args:`` (or ``Attributes:``) of a docstring say of each parameter, in one line each."""
    found: dict[str, str] = {}
    names: list[str] = []
    lines = re.split(r"^(?:Args|Attributes):\n", inspect.cleandoc(docstring), maxsplit=1, flags=re.MULTILINE)
    for line in lines[1].splitlines() if len(lines) > 1 else ():
        if line and not line.startswith(" "):  # the next section
            break
        begins = re.match(r"    (\w+(?:, \w+)*)(?: \([^)]*\))?: *(.*)", line)
        names = begins[1].split(", ") if begins else names
        found |= {name: begins[2] if begins else f"{found[name]} {line.strip()}".strip() for name in names}
    return found


# -- declarations -----------------------------------------------------------------------------------------------------


def _strict(kind: Any) -> Any:
    """Return a type that takes no text for a number, and so on, but a list for a tuple."""
    if any(kind is plain for plain in (bool, int, float, str)):
        return Annotated[kind, Strict()]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return Annotated[(_strict(arguments[0]), *arguments[1:])]
    if origin in (Union, UnionType):
        return Union[tuple(_strict(argument) for argument in arguments)]  # noqa: UP007  # of as many as there are
    if origin in (None, Literal, collections.abc.Callable, os.PathLike):
        return kind
    return origin[tuple(_strict(argument) for argument in arguments)]


def _made(
    name: str,
    fields: list[tuple[str, Any, Any]],
    summary: str,
    described: Mapping[str, str],
    where: str,
    called: str,
    *,
    open: bool = False,
) -> type[Any]:
    cls = dataclasses.make_dataclass(name, fields, kw_only=True, frozen=True)
    lines = [f"    {field}: {described[field]}" for field, _, _ in fields if field in described]
    cls.__doc__ = "\n".join([summary, "", "Args:", *lines])
    return options(where, called=called, open=open)(cls)


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


def _summary(documented: Any) -> str:
    return inspect.cleandoc(documented.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


class _Generator(GenerateJsonSchema):
    """Schemas without a title for each option; of an object of Python there is no JSON."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  # as the base class has it

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {"not": {}}


# -- the check ---------------------------------------------------------------------------------------------------------


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _validated(kind: Any, given: Any, where: str, called: str, *, instance: Any = None) -> Any:
    validator = _adapter(kind).validator
    try:
        if instance is None:
            return validator.validate_python(given)
        return validator.validate_python(ArgsKwargs((), given), self_instance=instance)
    except pydantic.ValidationError as error:
        raise refusal(error, json_schema(kind), given, where, called) from None
