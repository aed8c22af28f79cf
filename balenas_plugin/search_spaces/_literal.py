"""Values that somebody has typed, in JSON or in Python; nothing is run."""

from __future__ import annotations

import ast
import json
from typing import Any


def read_literal(text: str) -> Any:
    """Return the value that a text is in JSON, or else in Python.

    Raises:
        ValueError: it is none in either.
    """
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    raise ValueError("it is a literal neither of JSON nor of Python")
