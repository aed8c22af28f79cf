"""Errors a user can cause and cure.

Every message names what was given, what is allowed and what to do. The command line prints the message without a
traceback and exits with code 2; library callers can also catch the built-in type each error derives from.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BalenasError(Exception):
    """Base class of every error that the user can cause and cure."""


class OptionError(BalenasError, ValueError):
    """An option has a wrong name, type or value."""


class SpaceError(BalenasError, ValueError):
    """A model space or an architecture cannot be used as given."""


class EvaluatorError(BalenasError, ValueError):
    """An evaluator, or the data it holds, cannot be searched with."""


class DataError(BalenasError, ValueError):
    """A data set is missing, unreadable or not of the expected form."""


class FileFormatError(BalenasError, ValueError):
    """A file is corrupt, or is not one that this package wrote."""


class StorageError(BalenasError, OSError):
    """A file could not be written; what was there before is untouched."""


class NonFiniteLossError(BalenasError, ArithmeticError):
    """The loss became NaN or infinite."""


class SearchFailedError(BalenasError, RuntimeError):
    """A search that was started in another process failed there."""


class ManagerLostError(BalenasError, ConnectionError):
    """NNI's manager, which runs the trials and serves the web page, could not be started or has ended."""


class MissingDependencyError(BalenasError, ImportError):
    """An optional dependency is not installed."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the allowed word nearest to `given`, or ``"."`` if none is near."""
    words = {word.lower(): word for word in allowed}
    close = difflib.get_close_matches(given.lower(), words, n=1, cutoff=0.5)
    return f"; did you mean {words[close[0]]!r}?" if close else "."
