"""Source expressions with holes: what a constructor is called with, before it is decided what becomes an argument.

Two blocks of a network that differ in their sizes alone have the same *skeleton*: the same expression once every
literal is a hole. Their literals, column by column, then say which sizes the class of both takes as arguments.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

WIDTH = 120
_INDENT = "    "


class NotExportableError(Exception):
    """A part of a network has no form in a stand-alone module; the message says which and why."""


@dataclass(frozen=True)
class Literal:
    """A hole and what one network has in it.

    Args:
        name: what an argument that fills the hole would be called.
        value: a number, string, None, or a sequence of these.
        default: whether it is what the constructor takes when nothing is given.
    """

    name: str
    value: object
    default: bool = False


@dataclass(frozen=True)
class Call:
    """``opening item, item, ... closing``: a call of a constructor, or a container."""

    opening: str
    items: tuple[Item, ...]
    closing: str = ")"


@dataclass(frozen=True)
class Item:
    """One entry of a `Call`; `prefix` is ``"name="``, ``"'key': "`` or empty."""

    prefix: str
    value: Expression


@dataclass(frozen=True)
class Attribute:
    """What a constructor stores under `name`; `kind` is ``module``, ``parameter`` or ``buffer``."""

    kind: str
    name: str
    value: Expression


@dataclass(frozen=True, eq=False)
class Block:
    """One module of a class that is still to be written.

    Args:
        class_name: what its class should be called.
        base: what its class derives from: ``nn.Module``, or ``nn.Sequential`` whose layers are `attributes`, in order.
        attributes: what its constructor stores.
        forward: lines of its `forward`, if it has one.
    """

    class_name: str
    base: str
    attributes: tuple[Attribute, ...]
    forward: tuple[str, ...]

    @property
    def skeleton(self) -> tuple[object, ...]:
        """What it shares with the modules that can be instances of one class with it."""
        attributes = tuple((each.kind, each.name, skeleton(each.value)) for each in self.attributes)
        return (self.class_name, self.base, attributes, self.forward)

    @property
    def literals(self) -> list[Literal]:
        """The contents of its holes, those of the blocks inside it included."""
        return [literal for attribute in self.attributes for literal in literals(attribute.value)]


Expression = Literal | Call | Block


def skeleton(expression: Expression) -> object:
    """Return `expression` with its literals taken out, as a hashable."""
    if isinstance(expression, Literal):
        return expression.name
    if isinstance(expression, Block):
        return expression.skeleton
    return (expression.opening, tuple((item.prefix, skeleton(item.value)) for item in expression.items))


def literals(expression: Expression) -> list[Literal]:
    """Return the literals of `expression` from left to right."""
    if isinstance(expression, Literal):
        return [expression]
    if isinstance(expression, Block):
        return expression.literals
    return [literal for item in expression.items for literal in literals(item.value)]


def to_source(value: object) -> str:
    """Return a constant as Python source that evaluates to it where ``torch`` is imported.

    Raises:
        NotExportableError: it is none of the types that have such a form.
    """
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, str):
        return json.dumps(value)  # a JSON string is a Python string, in double quotes
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int | np.integer):
        return repr(operator.index(value))
    if isinstance(value, tuple):
        return f"({', '.join(map(to_source, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(to_source, value))}]"
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if isinstance(value, torch.device):
        return f"torch.device({to_source(str(value))})"
    if value is Ellipsis:
        return "..."
    raise NotExportableError(f"it holds {value!r}, a {type(value).__name__}, which cannot be written as a constant")


@dataclass(frozen=True)
class Text:
    """A `Call` whose holes are filled."""

    opening: str
    items: tuple[str | Text, ...]
    closing: str

    def prefixed(self, prefix: str) -> Text:
        """Return it with `prefix` in front."""
        return Text(f"{prefix}{self.opening}", self.items, self.closing)

    def __str__(self) -> str:
        return f"{self.opening}{', '.join(map(str, self.items))}{self.closing}"


def lay_out(prefix: str, text: str | Text, *, indent: int) -> list[str]:
    """Return ``prefix text`` as lines of at most `WIDTH` characters where that is possible, `indent` levels deep."""
    line = f"{_INDENT * indent}{prefix}{text}"
    if isinstance(text, str) or not text.items or len(line) <= WIDTH:
        return [line]
    lines = [f"{_INDENT * indent}{prefix}{text.opening}"]
    for item in text.items:
        *body, last = lay_out("", item, indent=indent + 1)
        lines += [*body, f"{last},"]
    return [*lines, f"{_INDENT * indent}{text.closing}"]


def fold_runs(items: Sequence[str | Text]) -> tuple[str | Text, ...]:
    """Return the entries of a container with three or more equal neighbours written as one comprehension."""
    folded: list[str | Text] = []
    for item, count in _runs(items):
        folded += [f"*[{item} for _ in range({count})]"] if count > 2 else [item] * count
    return tuple(folded)


def _runs(items: Sequence[str | Text]) -> Iterator[tuple[str | Text, int]]:
    start = 0
    for end in range(1, len(items) + 1):
        if end == len(items) or items[end] != items[start]:
            yield items[start], end - start
            start = end
