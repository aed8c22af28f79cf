"""An option that takes a part: which one, with which options of its constructor."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

import pydantic
from pydantic_core import core_schema

from balenas_plugin.errors import BalenasError, OptionError, quoted
from balenas_plugin.options.declaration import given_options, json_schema
from balenas_plugin.options.refusal import Schema
from balenas_plugin.options.signatures import signature_options

T = TypeVar("T")


class _Parts(Protocol):
    kind: str
    of: type

    def names(self) -> list[str]: ...

    def get(self, name: str) -> Any: ...


class ChosenPart(Generic[T]):
    """Makes `Annotated[Any, ChosenPart(...)]` a name, a mapping of name and options, a class, or None.

    Args:
        option: name of the option.
        parts: all of the kind, classes: `balenas_plugin.parts.Parts`.
        without: parameters of constructors that are no options; the search gives them.
    """

    def __init__(self, option: str, parts: _Parts, *, without: Sequence[str] = ()) -> None:
        self._option, self._parts, self._without = option, parts, tuple(without)

    def make(self, given: Any, **more: Any) -> T | None:
        """Return the part that an option asks for; None for None.

        Args:
            given: its name, or a class; or a mapping with that as "name", and options of its constructor.
            more: what else its constructor takes.

        Raises:
            OptionError: there is none of that name, or an option is unknown or refused.
        """
        if given is None:
            return None
        options = dict(given) if isinstance(given, Mapping) else {"name": given}
        name = options.pop("name", None)
        if not isinstance(name, str) and not (inspect.isclass(name) and issubclass(name, self._parts.of)):
            raise OptionError(
                f"{self._option} must be one of {', '.join(self._parts.names())}, or a mapping of such a name and "
                f"options, got {quoted(given)}"
            )
        part: Any = self._parts.get(name) if isinstance(name, str) else name
        checked = given_options(self.options(part), options)
        try:
            made: T = part(**checked, **more)
        except BalenasError:
            raise
        except (TypeError, ValueError) as error:  # of a class of the user's
            raise OptionError(
                f"the {self._parts.kind} {part.name} does not accept {quoted(checked)}: {error}"
            ) from error
        return made

    @cache  # noqa: B019  # the instances are module constants
    def options(self, part: Any) -> type[Any]:
        """Return the options that users may give to a part: those of its constructor."""
        called = f"the {self._parts.kind} {part.name}"
        return signature_options(part, self._option, called=called, without=self._without)

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_plain_validator_function(self._checked)

    def __get_pydantic_json_schema__(self, schema: Any, handler: pydantic.GetJsonSchemaHandler) -> Schema:
        names = self._parts.names()
        return {"anyOf": [{"enum": list(names)}, *map(self._form, names), {"type": "null"}]}

    def _form(self, name: str) -> Schema:
        options = json_schema(self.options(self._parts.get(name)))
        properties = {"name": {"const": name}, **options["properties"]}
        return {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}

    def _checked(self, given: Any) -> Any:
        self.make(given)
        return given
