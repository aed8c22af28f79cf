"""What pydantic finds wrong with options, in one line: which option, what is allowed, what was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from balenas_plugin.errors import OptionError, nearest, quoted, same_word, setting

Schema = dict[str, Any]
"""A JSON schema."""

_UNKNOWN = ("unexpected_keyword_argument", "invalid_key")
_CONFIG = ("the", "data", "evaluator", "evaluator.optimizer", "evaluator.schedule", "diagnostics", "strategy", "space")
"""How messages begin that are about a part of a config."""


def refusal(error: ValidationError, schema: Schema, given: Any, where: str, called: str) -> OptionError:
    """Return the error that shows what pydantic found: which option, what is allowed, what was given.

    Args:
        error: of a check of `given`.
        schema: the JSON schema of what was checked.
        given: the options, or the value of one.
        where: what comes before the names of the options.
        called: what all of them are called.
    """
    details = error.errors(include_url=False)
    problem = next((one for one in details if one["type"] in _UNKNOWN), details[0])
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, OptionError):  # of a check of several options together
        return cause
    missing = problem["type"] == "missing" and isinstance(problem["loc"][-1], str)  # and not an item of a list
    key = problem["loc"][-1] if missing or problem["type"] in _UNKNOWN else None
    path: list[str] = []
    forms = list(_forms(schema, schema))
    for part in problem["loc"] if key is None else problem["loc"][:-1]:  # also names of a union's members
        below = [form["properties"][part] for form in forms if part in form.get("properties", ())]
        if not below and isinstance(given, Mapping) and part in given:
            below = [
                form["additionalProperties"] for form in forms if isinstance(form.get("additionalProperties"), dict)
            ]
        if below:
            path.append(str(part))
            forms = [form for one in below for form in _forms(one, schema)]
            given = given.get(part, problem["input"]) if isinstance(given, Mapping) else problem["input"]
    name = ".".join([where, *path] if where else path)
    if key is not None:
        allowed = [option for form in forms for option in form.get("properties", ())]
        name = name if path else called
        if missing:
            return OptionError(f"{name} needs the option {key}")
        value = given.get(key) if isinstance(given, Mapping) else None
        return OptionError(_no_option(name, key, value, allowed))
    most = [form["maximum"] for form in forms if "maximum" in form]
    if problem["type"] == "less_than_equal" and most:
        return OptionError(f"{name} must be at most {most[0]}, got {quoted(given)}")
    words = [str(word) for form in forms for word in form.get("enum", ())]
    hint = nearest(str(given), words) if words else ""
    return OptionError(f"{name or called} must be {_allowed(forms)}, got {quoted(given)}{hint}")


def _forms(schema: Schema, root: Schema) -> Iterator[Schema]:
    """Yield the schemas that a value can fit, without references and unions."""
    if "$ref" in schema:
        yield from _forms(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    elif "errorMessage" in schema:  # says itself what is allowed
        yield schema
    elif "anyOf" in schema or "oneOf" in schema:
        for one in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            yield from _forms(one, root)
    elif schema.get("type") != "null" and "not" not in schema:
        yield {**schema, "enum": [schema["const"]]} if "const" in schema else schema


def _allowed(forms: list[Schema]) -> str:
    """Return in words what fits one of the schemas."""
    words = [str(word) for form in forms for word in form.get("enum", ())]
    kinds = [_kind(form) for form in forms if "enum" not in form]
    if "a number" in kinds and "a whole number" in kinds:
        kinds.remove("a whole number")
    if words and "true or false" in kinds:
        kinds.remove("true or false")
        words += ["true", "false"]
    if words:
        kinds.insert(0, f"one of {', '.join(words)}" if len(words) > 1 else words[0])
    return " or ".join(dict.fromkeys(kinds)) or "an object, which only a script can give"


def _kind(schema: Schema) -> str:
    """Return in words what fits a schema."""
    if "errorMessage" in schema:
        return str(schema["errorMessage"])
    match schema.get("type"):
        case "integer" | "number":
            return f"a {_number(schema)}"
        case "array" if "prefixItems" in schema:
            items = list(_forms(schema["prefixItems"][0], schema))
            numbers = len(items) == 1 and items[0].get("type") in ("integer", "number")
            return f"{len(schema['prefixItems'])} {_number(items[0], 's') if numbers else 'values'}"
        case kind:
            if kind == "array" and "minItems" in schema:
                return f"a list of at least {schema['minItems']}"
            plain = {"boolean": "true or false", "string": "text", "array": "a list", "object": "a mapping of options"}
            return plain.get(str(kind), "something else")


def _number(schema: Schema, plural: str = "") -> str:
    noun = f"whole number{plural}" if schema["type"] == "integer" else f"number{plural}"
    least, above, below = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "exclusiveMaximum"))
    if below is not None and above is not None:
        return f"{noun} between {above:g} and {below:g}, both excluded"
    if below is not None:
        return f"{noun} in [{least:g}, {below:g})"
    if above == 0:
        return f"positive {noun}"
    return noun if least is None else f"{noun} of at least {least:g}"


def _no_option(name: str, key: object, value: object, allowed: list[str]) -> str:
    hint = _elsewhere(name, str(key), value, allowed) or nearest(str(key), allowed)
    return f"{name} has no option {quoted(key)}{hint} Options: {', '.join(allowed)}"


def _elsewhere(name: str, key: str, value: object, allowed: list[str]) -> str:
    """Return a hint for an option of a config that is in the wrong place; an empty text for any other."""
    if name.split()[0] not in _CONFIG or any(same_word(key, word) for word in allowed):
        return ""
    place = setting(key)
    if place == f"{name.split()[0]}.{key}":  # the right one, but this strategy or source has no such option
        return ""
    if place is not None and isinstance(value, Mapping):  # {optimizer: {learning_rate: ...}} at the top
        inner = (setting(str(one)) or "" for one in value)
        place = next((found for found in inner if found.startswith(place)), place)
    return f"; did you mean {place!r}?" if place else ""
