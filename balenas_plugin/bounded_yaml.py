"""Read YAML that may come from anyone: bounded in size, depth and aliases, every key once."""

from __future__ import annotations

from typing import Any

import yaml

from balenas_plugin.errors import quoted

MAX_BYTES = 128 * 2**10
MAX_DEPTH = 30
MAX_SIZE = 2 * MAX_BYTES
"""Characters and values of a config, written out without aliases; nine lines of them make a billion values."""

_MAX_DIGITS = 100


class BoundedLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that refuses what no config has: depth, size, keys given twice, text that no file can hold."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node that is not too deep."""
        if self._depth == MAX_DEPTH:
            event = self.peek_event()  # type: ignore[no-untyped-call]  # its stub has no types
            raise _refusal(f"nested more than {MAX_DEPTH} levels deep", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """Compose the document, and look at all of it before any value is made."""
        node = super().get_single_node()
        if node is not None:
            _measure(node, {})
        return node


def _measure(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the size of a node with its aliases written out.

    Args:
        node: of a composed document; it may hold itself.
        sizes: id of a node -> its size, of those measured already; too large while it is being measured.
    """
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = MAX_SIZE + 1
    if isinstance(node, yaml.ScalarNode):
        if node.tag.endswith((":int", ":float")) and len(node.value) > _MAX_DIGITS:
            raise _refusal(f"a number of more than {_MAX_DIGITS} characters", node.start_mark)
        if "\0" in node.value or any("\ud800" <= c <= "\udfff" for c in node.value):
            raise _refusal("a character that no text has", node.start_mark)
        children, size = [], len(node.value) + 1
    elif isinstance(node, yaml.MappingNode):
        keys: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in keys:
                raise _refusal(f"the key {quoted(key.value)} is given twice", key.start_mark)
            keys.add((key.tag, str(key.value) if isinstance(key, yaml.ScalarNode) else f"{id(key)}"))
        children, size = [child for pair in node.value for child in pair], 1
    else:
        children, size = list(node.value), 1
    for child in children:
        size += _measure(child, sizes)
        if size > MAX_SIZE:
            raise _refusal("aliases (*) that make more of it than a config can be", node.start_mark)
    sizes[id(node)] = size
    return size


def _refusal(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


NOT_YAML = (
    *(yaml.YAMLError, ValueError, TypeError),
    *(ArithmeticError, AttributeError, LookupError, RecursionError),
)
"""What loading a text that is no YAML raises; PyYAML lets errors of the values through, such as impossible dates."""


def yaml_problem(error: Exception) -> str:
    """Return what YAML complains about, and where, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {str(error.problem)[:300]}"
    return " ".join(str(error)[:300].split())
