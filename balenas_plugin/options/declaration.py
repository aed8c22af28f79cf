"""Options classes: dataclasses whose fields are checked against their types, also when a file is read."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import os
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pydantic
from pydantic import ConfigDict, Field, Strict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ArgsKwargs, core_schema

from balenas_plugin.options.docstrings import descriptions, summary
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
Share = Annotated[float, Field(gt=0, lt=1)]
Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Workers = Annotated[int, Field(ge=1, le=MAX_WORKERS)]


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


def declared_options(where: str = "", *, called: str = "", open: bool = False) -> Callable[[type[T]], type[T]]:
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
        for field in dataclasses.fields(typing.cast(Any, cls)):
            field.type = _strict(hints[field.name])
            if field.name in described:
                field.type = Annotated[field.type, Field(description=described[field.name])]
        cls.__pydantic_config__ = ConfigDict(  # type: ignore[attr-defined]
            extra="allow" if open else "forbid",
            arbitrary_types_allowed=True,
            json_schema_extra={"description": summary(cls)},
        )
        cls.__options__ = (where, called or where or cls.__name__)  # type: ignore[attr-defined]

        @functools.wraps(cls.__init__)
        def init(self: T, **given: Any) -> None:
            _validated(cls, given, *cls.__options__, instance=self)  # type: ignore[attr-defined]

        cls.__init__ = init  # type: ignore[assignment]
        return cls

    return decorate


def read_options(cls: type[T], given: object, *, called: str = "") -> T:
    """Return options made of a mapping, or as they are.

    Args:
        cls: their class.
        given: the mapping.
        called: what messages call all of them, in the place of what the class does: the file that they are in.

    Raises:
        OptionError: it is no mapping, or an option is unknown, missing or refused.
    """
    where, usually = cls.__options__  # type: ignore[attr-defined]
    return _validated(cls, given, where, called or usually)  # type: ignore[no-any-return]


def checked(where: str, given: object, kind: Any) -> Any:
    """Return `given` as the type `kind` has it, e.g. `PositiveInt` or a `Literal`.

    Raises:
        OptionError: it is not of that type.
    """
    return _validated(_strict(kind), given, where, where)


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


class _Generator(GenerateJsonSchema):
    """Schemas without a title for each option; of an object of Python there is no JSON."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  # as the base class has it

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {"not": {}}


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
