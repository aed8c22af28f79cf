"""What docstrings say of options."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from typing import Any


def summary(documented: Any) -> str:
    """Return the first paragraph of a docstring in one line."""
    return inspect.cleandoc(documented.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


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
