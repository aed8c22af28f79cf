"""Check the options of NASLib's adapter; `options` declares all others."""

from __future__ import annotations

from balenas_plugin.errors import OptionError, nearest, quoted
from balenas_plugin.options import MAX_FLOAT


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
