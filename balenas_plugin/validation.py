"""Check options: each function says what was given, what is allowed, and which allowed word is near."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from balenas_plugin.errors import OptionError, nearest, quoted, same_word, setting

MAX_SEED = 2**32 - 1
"""NumPy's limit."""

_CONFIG = ("the", "data", "evaluator", "evaluator.optimizer", "evaluator.schedule", "diagnostics", "strategy", "space")
"""How messages begin that are about a part of a config."""
MAX_FLOAT = 3.4e38
"""The largest number that a tensor of float32 holds."""

MAX_WORKERS = 128
"""Processes that help one: more than this starve each other."""


def require_keys(where: str, given: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Raise OptionError at the first key that is not allowed, naming the nearest that is."""
    allowed = tuple(allowed)
    for key in given:
        if key not in allowed:
            hint = _elsewhere(where, str(key), given[key], allowed) or nearest(str(key), allowed)
            raise OptionError(f"{where} has no option {quoted(key)}{hint} Options: {', '.join(allowed)}")


def _elsewhere(where: str, key: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Return a hint for an option of a config that is in the wrong place; an empty text for any other."""
    if where.split()[0] not in _CONFIG or any(same_word(key, word) for word in allowed):
        return ""
    place = setting(key)
    if place is not None and isinstance(value, Mapping):  # {optimizer: {learning_rate: ...}} at the top
        inner = (setting(str(name)) or "" for name in value)
        place = next((found for found in inner if found.startswith(place)), place)
    return f"; did you mean {place!r}?" if place else ""


def require_word(where: str, given: object, allowed: tuple[str, ...]) -> None:
    """Raise OptionError unless `given` is one of the words."""
    if given not in allowed:
        raise OptionError(
            f"{where} must be one of {', '.join(allowed)}, got {quoted(given)}{nearest(str(given), allowed)}"
        )


def require_whole(where: str, given: object, *, least: int, most: int | None = None) -> None:
    """Raise OptionError unless `given` is a whole number of at least `least`, and at most `most` if that is given."""
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise OptionError(f"{where} must be a whole number of at least {least}, got {quoted(given)}")
    if most is not None and given > most:
        raise OptionError(f"{where} must be at most {most}, got {quoted(given)}")


def require_seed(where: str, given: object) -> None:
    """Raise OptionError unless `given` is a whole number that every random generator takes."""
    require_whole(where, given, least=0, most=MAX_SEED)


def require_positive(where: str, given: object) -> None:
    """Raise OptionError unless `given` is a positive number that a tensor can hold."""
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not given > 0:
        raise OptionError(f"{where} must be a positive number, got {quoted(given)}")
    if given > MAX_FLOAT:
        raise OptionError(f"{where} must be at most {MAX_FLOAT}, got {quoted(given)}")


def require_flag(where: str, given: object) -> None:
    """Raise OptionError unless `given` is true or false."""
    if not isinstance(given, bool):
        raise OptionError(f"{where} must be true or false, got {quoted(given)}")
