"""Write blocks as classes; blocks that differ in sizes alone become instances of one class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from balenas_plugin.export.standalone.expressions import (
    Attribute,
    Block,
    Call,
    Expression,
    Literal,
    Text,
    fold_runs,
    lay_out,
    literals,
    to_source,
)
from balenas_plugin.export.standalone.forward import is_name

_SIZES = ("in_channels", "out_channels", "num_features", "in_features", "out_features", "num_channels", "groups")
"""Arguments that count channels: where two of them always agree they are one argument of the class."""

_REPEATING = ("nn.Sequential(", "nn.ModuleList([")
_ANNOTATED = (bool, int, float, str)


class _Filling(NamedTuple):
    """What stands in a hole of a class: the name of an argument, or a constant."""

    source: str
    is_argument: bool


@dataclass
class _Class:
    """The blocks that one class stands for.

    Args:
        name: of the class.
        blocks: in the order in which the network has them; all have one skeleton.
        arguments: argument of the constructor -> the first of the holes that it fills.
        fillings: what stands in each hole of the blocks.
    """

    name: str
    blocks: list[Block] = field(default_factory=list)
    arguments: dict[str, int] = field(default_factory=dict)
    fillings: list[_Filling] = field(default_factory=list)


class ClassWriter:
    """The classes of every block inside an expression.

    Args:
        root: the expression that constructs the network.
        reserved: names that the classes must not take.
    """

    def __init__(self, root: Expression, *, reserved: Sequence[str]) -> None:
        self._root = root
        self._classes: dict[tuple[object, ...], _Class] = {}
        self._names = set(reserved)
        self._collect(root)
        for found in self._classes.values():
            _decide_arguments(found)

    @property
    def definitions(self) -> str:
        """The classes, each after those that it needs."""
        return "\n\n\n".join("\n".join(self._class_lines(found)) for found in self._classes.values())

    def root_lines(self, prefix: str, *, indent: int) -> list[str]:
        """Return the lines of ``prefix`` and the expression that constructs the network."""
        constants = iter([_Filling(to_source(literal.value), False) for literal in literals(self._root)])
        return lay_out(prefix, self._fill(self._root, constants), indent=indent)

    def _collect(self, expression: Expression) -> None:
        """Sort the blocks into classes, the innermost first."""
        if isinstance(expression, Call):
            for item in expression.items:
                self._collect(item.value)
        elif isinstance(expression, Block):
            for attribute in expression.attributes:
                self._collect(attribute.value)
            key = expression.skeleton
            if key not in self._classes:
                self._classes[key] = _Class(self._free_name(expression.class_name))
            self._classes[key].blocks.append(expression)

    def _free_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}{number}"
        self._names.add(name)
        return name

    def _class_lines(self, found: _Class) -> list[str]:
        block = found.blocks[0]
        lines = [f"class {found.name}({block.base}):"]
        if not block.forward:
            lines += ['    """Layers that the network around them calls."""', ""]
        if block.attributes:
            arguments = ["self", *(f"{name}{_annotation(found, hole)}" for name, hole in found.arguments.items())]
            lines += lay_out("", Text("def __init__(", tuple(arguments), ") -> None:"), indent=1)
            lines += [*self._constructor_lines(block, iter(found.fillings)), ""]
        lines += [f"    {line}" for line in block.forward]
        return lines if lines[-1] else lines[:-1]

    def _constructor_lines(self, block: Block, fillings: Iterator[_Filling]) -> list[str]:
        values = [self._fill(attribute.value, fillings) for attribute in block.attributes]
        if block.base == "nn.Sequential":
            return lay_out("", Text("super().__init__(", fold_runs(values), ")"), indent=2)
        lines = ["        super().__init__()"]
        for attribute, value in zip(block.attributes, values, strict=True):
            lines += _attribute_lines(attribute, value)
        return lines

    def _fill(self, expression: Expression, fillings: Iterator[_Filling]) -> str | Text:
        if isinstance(expression, Literal):
            return next(fillings).source
        if isinstance(expression, Block):
            found = self._classes[expression.skeleton]
            own = [next(fillings) for _ in found.fillings]
            arguments = [
                own[hole].source if _is_size(name) else f"{name}={own[hole].source}"
                for name, hole in found.arguments.items()
            ]
            return Text(f"{found.name}(", tuple(arguments), ")")
        items: list[str | Text] = []
        for item in expression.items:
            if isinstance(item.value, Literal):
                filling = next(fillings)
                if filling.is_argument or not item.value.default:
                    items.append(f"{item.prefix}{filling.source}")
            else:
                inner = self._fill(item.value, fillings)
                prefixed = f"{item.prefix}{inner}" if isinstance(inner, str) else inner.prefixed(item.prefix)
                items.append(prefixed)
        entries = fold_runs(items) if expression.opening in _REPEATING else tuple(items)
        if expression.opening.endswith("[") and len(entries) == 1 < len(items):
            entries = (str(entries[0])[2:-1],)  # not a list within the list
        return Text(expression.opening, entries, expression.closing)


def _attribute_lines(attribute: Attribute, value: str | Text) -> list[str]:
    if attribute.kind == "buffer":
        return lay_out("", Text("self.register_buffer(", (to_source(attribute.name), value), ")"), indent=2)
    if is_name(attribute.name):
        return lay_out(f"self.{attribute.name} = ", value, indent=2)
    method = "add_module" if attribute.kind == "module" else "register_parameter"
    return lay_out("", Text(f"self.{method}(", (to_source(attribute.name), value), ")"), indent=2)


def _decide_arguments(found: _Class) -> None:
    """Make arguments of the holes whose contents differ between the blocks, one for all that always agree."""
    columns = list(zip(*(block.literals for block in found.blocks), strict=True))
    arguments: dict[tuple[object, ...], str] = {}
    first: dict[str, int] = {}
    for hole, column in enumerate(columns):
        sources = [to_source(literal.value) for literal in column]
        if len(set(sources)) == 1:
            found.fillings.append(_Filling(sources[0], False))
            continue
        name = column[0].name
        key = ("size" if name in _SIZES else name, *sources)
        if key not in arguments:
            same = sum(1 for used in first if used == name or used.startswith(f"{name}_"))
            arguments[key] = f"{name}_{same + 1}" if same else name
            first[arguments[key]] = hole
        found.fillings.append(_Filling(arguments[key], True))
    found.arguments = dict(sorted(first.items(), key=lambda item: not _is_size(item[0])))


def _is_size(argument: str) -> bool:
    return argument.rstrip("_0123456789") in _SIZES


def _annotation(found: _Class, hole: int) -> str:
    types = {type(block.literals[hole].value) for block in found.blocks}
    (kind,) = types if len(types) == 1 else (object,)
    return f": {kind.__name__}" if kind in _ANNOTATED else ""
