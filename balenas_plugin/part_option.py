"""An option whose value is a part: which one, with which options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Generic, TypeVar

import pydantic
from pydantic_core import core_schema

from balenas_plugin.errors import BalenasError, OptionError, quoted
from balenas_plugin.options import Schema, given_options, json_schema, signature_options
from balenas_plugin.parts import Parts

T = TypeVar("T")


class PartOption(Generic[T]):
    """Takes the name of a part, a mapping of that as "name" and options of its constructor, a class, or None.

    As metadata of a type, ``Annotated[Any, PartOption(...)]``, it checks an option and describes it for editors.

    Args:
        parts: all there are of the kind, as classes.
        without: parameters of their constructors that are no options: the search gives them.
    """

    def __init__(self, parts: Parts[type[T]], *, without: Sequence[str] = ()) -> None:
        self.parts, self._without = parts, tuple(without)
        self.options: Callable[[Any], type[Any]] = cache(self._options)
        """Returns the options that users may give to a part: those of its constructor."""

    def made(self, given: Any, **by_the_search: Any) -> T | None:
        """Return the part that an option asks for; None for None.

        Args:
            given: the option.
            by_the_search: further arguments of the constructor.

        Raises:
            OptionError: there is none of that name, or an option is unknown or refused.
        """
        if given is None:
            return None
        options = dict(given) if isinstance(given, Mapping) else {"name": given}
        name = options.pop("name", None)
        if not isinstance(name, str) and not self.parts.is_part(name):
            raise OptionError(
                f"{self.parts.kind} must be one of {', '.join(self.parts.names())}, or a mapping of such a name and "
                f"options, got {quoted(given)}"
            )
        kind: Any = self.parts.get(name) if isinstance(name, str) else name
        checked = given_options(self.options(kind), options)
        try:
            return kind(**checked, **by_the_search)  # type: ignore[no-any-return]  # a class of this kind
        except BalenasError:
            raise
        except (TypeError, ValueError) as error:  # of a class of the user's
            raise OptionError(
                f"the {self.parts.kind} {kind.name} does not accept {quoted(checked)}: {error}"
            ) from error

    def _options(self, kind: Any) -> type[Any]:
        called = f"the {self.parts.kind} {kind.name}"
        return signature_options(kind, self.parts.kind, called=called, without=self._without)

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_plain_validator_function(self._checked)

    def __get_pydantic_json_schema__(self, schema: Any, handler: pydantic.GetJsonSchemaHandler) -> Schema:
        names = self.parts.names()
        return {"anyOf": [{"enum": names}, *map(self._form, names), {"type": "null"}]}

    def _form(self, name: str) -> Schema:
        options = json_schema(self.options(self.parts.get(name)))
        properties = {"name": {"const": name}, **options["properties"]}
        required = ["name", *options.get("required", ())]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def _checked(self, given: Any) -> Any:
        self.made(given, **dict.fromkeys(self._without, 0))
        return given
