"""A perturbation as a user chooses it: which one, with which options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

import pydantic
from pydantic_core import core_schema

from balenas_plugin.errors import BalenasError, OptionError, quoted
from balenas_plugin.options import Schema, given_options, json_schema, signature_options
from balenas_plugin.perturbations._perturbation import Perturbation
from balenas_plugin.perturbations._registry import get_perturbation, list_perturbations


def perturbation_of(given: Any, *, seed: int) -> Perturbation | None:
    """Return the perturbation that an option asks for; None for None.

    Args:
        given: its name, or a class; or a mapping with that as "name", and options of its constructor.
        seed: of its noise.

    Raises:
        OptionError: there is none of that name, or an option is unknown or refused.
    """
    if given is None:
        return None
    options = dict(given) if isinstance(given, Mapping) else {"name": given}
    name = options.pop("name", None)
    if not isinstance(name, str) and not (inspect.isclass(name) and issubclass(name, Perturbation)):
        raise OptionError(
            f"perturbation must be one of {', '.join(list_perturbations())}, or a mapping of such a name and options, "
            f"got {quoted(given)}"
        )
    kind = get_perturbation(name) if isinstance(name, str) else name
    checked = given_options(perturbation_options(kind), options)
    try:
        return kind(**checked, seed=seed)
    except BalenasError:
        raise
    except (TypeError, ValueError) as error:  # of a class of the user's
        raise OptionError(f"the perturbation {kind.name} does not accept {quoted(checked)}: {error}") from error


@cache
def perturbation_options(kind: type[Perturbation]) -> type[Any]:
    """Return the options that users may give to a perturbation: those of its constructor."""
    return signature_options(kind, "perturbation", called=f"the perturbation {kind.name}", without=("seed",))


class _Choice:
    """Checks the option, and describes it for editors."""

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_plain_validator_function(self._checked)

    def __get_pydantic_json_schema__(self, schema: Any, handler: pydantic.GetJsonSchemaHandler) -> Schema:
        return {"anyOf": [{"enum": list_perturbations()}, *map(self._form, list_perturbations()), {"type": "null"}]}

    def _form(self, name: str) -> Schema:
        options = json_schema(perturbation_options(get_perturbation(name)))
        properties = {"name": {"const": name}, **options["properties"]}
        return {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}

    def _checked(self, given: Any) -> Any:
        perturbation_of(given, seed=0)
        return given


PerturbationOption = Annotated[Any, _Choice()]
"""An option that takes a perturbation: its name, a mapping of name and options, a class, or None."""
