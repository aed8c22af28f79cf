"""Genotypes: the two cells of an architecture, and the ways of writing them.

=========  ==========================================================================================
notation   example
=========  ==========================================================================================
genotype   ``Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=[2, 3, 4, 5], reduce=...)``
compact    ``(((1, 3), (0, 3), ...), ((0, 0), ...))``: NASLib's, (state, number of the operation)
config     ``{"NetworkSelectorDatasetInfo:darts:edge_normal_0": "sep_conv_3x3", ...}``: NAS-Bench-301's and NASLib's
nni        ``{"normal/op_2_0": "sep_conv_3x3", "normal/input_2_0": [1], ...}`` in JSON or Python
name       ``DARTS_V2``: that of a published genotype
=========  ==========================================================================================

A genotype is that of Liu et al. 2019, in the words of any project that calls it so (confopt's `DARTSGenotype`); text is
parsed, never run. States 0 and 1 are what a cell gets, 2 its first node; of a node, the stronger pair comes first.

Sources: Liu et al. 2019 (DARTS, `cnn/genotypes.py`); NASLib, `search_spaces/nasbench301/conversions.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.errors import SpaceError, UnreadableError, nearest
from balenas_plugin.options import OneOf, checked
from balenas_plugin.search_spaces import Reading, read_literal

from .edges import NODES, OPERATIONS
from .operations import NAMES
from .published import published_cells

Pair = tuple[str, int]
"""An operation, and the state that it is applied to."""

CELLS = ("normal", "reduce")

NOTATIONS = {
    "genotype": "",
    "compact": "NASLib's compact form",
    "config": "a configuration of NAS-Bench-301",
    "nni": "a mapping as in NNI",
    "name": "the published genotype",
}
"""Notations, and what they are in words; nothing is said of the space's own."""

COMPACT_OPERATIONS = tuple(name for name in OPERATIONS if name not in ("none", "noise"))
"""NASLib's numbers of the operations."""

_CONFIG = "NetworkSelectorDatasetInfo:darts:"
_LONGEST, _LONGEST_RANGE, _MOST_NODES = 10_000, 100, 16
_EXAMPLE = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ...], normal_concat=[2, 3, 4, 5], reduce=[...], "
    "reduce_concat=[2, 3, 4, 5])"
)


T = TypeVar("T")


class Genotype(NamedTuple):
    """The two cells of an architecture; printed, it is in the reference's form.

    Attributes:
        normal: (operation, state), two a node.
        normal_concat: states that the cell's output joins.
        reduce: as `normal`, of the cells that halve the resolution.
        reduce_concat: likewise.
    """

    normal: tuple[Pair, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Pair, ...]
    reduce_concat: tuple[int, ...]

    @property
    def cells(self) -> dict[str, tuple[tuple[Pair, ...], tuple[int, ...]]]:
        """The pairs and the joined states of each of `CELLS`."""
        return {"normal": (self.normal, self.normal_concat), "reduce": (self.reduce, self.reduce_concat)}

    def __str__(self) -> str:
        """Return the genotype as Python code of the reference."""
        return f"Genotype({', '.join(f'{name}={list(part)}' for name, part in self._asdict().items())})"


def make_genotype(normal: Any, normal_concat: Any = None, reduce: Any = None, reduce_concat: Any = None) -> Genotype:
    """Return the genotype of these cells, checked; a concat of None joins all nodes.

    Raises:
        SpaceError: it is no genotype; the message says what of which cell.
    """
    pairs = {"normal": _pairs("normal", normal), "reduce": _pairs("reduce", reduce)}
    given = {"normal": normal_concat, "reduce": reduce_concat}
    concat = {cell: _concat(cell, given[cell], 2 + len(pairs[cell]) // 2) for cell in CELLS}
    return Genotype(pairs["normal"], concat["normal"], pairs["reduce"], concat["reduce"])


def to_nni(genotype: Genotype) -> Architecture:
    """Return the architecture (label -> choice) of NNI's cells; states that are joined are named where not all are."""
    architecture: Architecture = {}
    for cell, (pairs, concat) in genotype.cells.items():
        for k, (operation, source) in enumerate(pairs):
            architecture[f"{cell}/op_{2 + k // 2}_{k % 2}"] = operation
            architecture[f"{cell}/input_{2 + k // 2}_{k % 2}"] = [source]
        if concat != _all_nodes(len(pairs) // 2):
            architecture[f"{cell}/concat"] = list(concat)
    return architecture


def from_nni(architecture: Mapping[str, Any]) -> Genotype:
    """Return the genotype of an architecture of NNI's cells; the order of its keys is free.

    Raises:
        SpaceError: a label is missing or unknown, or a choice impossible.
    """
    left = dict(architecture)
    cells: dict[str, Any] = {}
    for cell in CELLS:
        pairs: list[tuple[Any, Any]] = []
        while (label := f"{cell}/op_{2 + len(pairs) // 2}_{len(pairs) % 2}") in left:
            source = left.pop(label.replace("/op_", "/input_"), None)
            pairs.append((left.pop(label), only_state(source)))
        cells |= {cell: pairs, f"{cell}_concat": left.pop(f"{cell}/concat", None)}
    if left:
        raise SpaceError(
            f"the architecture names {next(iter(left))!r}, which is no choice of a cell: those are normal/op_2_0, "
            "normal/input_2_0, ..., reduce/input_5_1"
        )
    return make_genotype(**cells)


def only_state(given: Any) -> Any:
    """Return the state of a list of one, as NNI names the input of an edge; anything else as it is."""
    return given[0] if isinstance(given, list | tuple) and len(given) == 1 else given


def to_compact(genotype: Genotype) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Return NASLib's compact form.

    Raises:
        SpaceError: NASLib has no number for an operation, or the cells do not join all nodes.
    """
    _check_plain(genotype, "the compact form")
    return tuple(tuple((s, COMPACT_OPERATIONS.index(op)) for op, s in pairs) for pairs, _ in genotype.cells.values())


def to_config(genotype: Genotype) -> dict[str, str]:
    """Return the configuration that NAS-Bench-301 and NASLib take.

    Raises:
        SpaceError: it has none of these operations, numbers of nodes, joined states or pairs of inputs.
    """
    _check_plain(genotype, "a configuration of NAS-Bench-301")
    config = {}
    for cell, (pairs, _) in genotype.cells.items():
        if len(pairs) != 2 * len(NODES) or any(pairs[k][1] == pairs[k + 1][1] for k in range(0, len(pairs), 2)):
            raise SpaceError(
                f"a configuration of NAS-Bench-301 can only say cells of {len(NODES)} nodes with two different inputs "
                f"each ({cell} cell)"
            )
        for k, (operation, source) in enumerate(pairs):
            config[f"{_CONFIG}edge_{cell}_{_first_edge(k // 2) + source}"] = operation
        for node in range(1, len(pairs) // 2):
            inputs = sorted(source for _, source in pairs[2 * node : 2 * node + 2])
            config[f"{_CONFIG}inputs_node_{cell}_{node + 2}"] = "_".join(map(str, inputs))
    return config


def _check_plain(genotype: Genotype, form: str) -> None:
    for cell, (pairs, concat) in genotype.cells.items():
        unknown = [operation for operation, _ in pairs if operation not in COMPACT_OPERATIONS]
        if unknown or concat != _all_nodes(len(pairs) // 2):
            what = f"the operation {unknown[0]}" if unknown else "a cell that joins some of its nodes only"
            raise SpaceError(f"{form} cannot say {what} ({cell} cell)")


def read_genotype(text: str, *, notation: str | None = None) -> Reading:
    """Return the architecture that a text names.

    Args:
        text: in one of `NOTATIONS`; ``NAME = `` before it is passed over.
        notation: which; None finds out.

    Raises:
        SpaceError: it is none of them, or malformed.
        OptionError: there is no such notation.
    """
    found, (name, genotype) = read_in(text, notation, NOTATIONS, _read)
    return Reading(found, sample=to_nni(genotype), read_as=f"{NOTATIONS[found]} {name}".rstrip(), name=name)


def read_in(
    text: str, notation: str | None, notations: Collection[str], read: Callable[[str], tuple[str, T]]
) -> tuple[str, T]:
    """Return the notation of a text, without the ``NAME = `` before its genotype, and what `read` makes of it.

    Args:
        text: to be read.
        notation: that it must be in; None allows any.
        notations: that there are.
        read: returns both.

    Raises:
        SpaceError: the text is in another notation.
        OptionError: there is no such notation.
    """
    if notation is not None:
        checked("notation", notation, Annotated[str, OneOf(lambda: tuple(notations))])
    found, genotype = read(re.sub(r"^\s*\w+\s*=\s*(?=\w*\()", "", text).strip())
    if notation not in (None, found):
        raise SpaceError(f"{text[:60]!r} is not in the notation {notation}, but in {found}")
    return found, genotype


def _read(text: str) -> tuple[str, tuple[str, Genotype]]:
    """Return the notation, the published name or "", and the genotype."""
    named = published_cells(text)
    if named is not None:
        return "name", (named[0], make_genotype(**named[1]))
    found, genotype = _written(text)
    return found, ("", genotype)


def _written(text: str) -> tuple[str, Genotype]:
    value = literal_of(text, Genotype._fields, _unreadable)
    if isinstance(value, Mapping):
        inner = value.get("choices", value)  # a record of architectures.json, too
        if isinstance(inner, Mapping) and set(inner) & set(Genotype._fields):
            return "genotype", make_genotype(*parts_of(inner, Genotype._fields))
        if isinstance(inner, Mapping) and any(str(key).startswith(_CONFIG) for key in inner):
            return "config", _from_config(inner)
        if isinstance(inner, Mapping) and any(str(key).startswith(("normal/", "reduce/")) for key in inner):
            return "nni", from_nni({str(key): choice for key, choice in inner.items()})
    if isinstance(value, list | tuple) and len(value) == 2:
        return "compact", make_genotype(_from_compact(value[0]), None, _from_compact(value[1]))
    raise _unreadable(text)


def literal_of(text: str, fields: Sequence[str], unreadable: Callable[[str], UnreadableError]) -> Any:
    """Return the literal, or the arguments by name of a genotype with these fields, that a text is; nothing is run.

    Raises:
        SpaceError: it is too long, or neither; then what `unreadable` returns.
    """
    if len(text) > _LONGEST:
        raise SpaceError(f"a genotype of {len(text)} characters was given; none is that long")
    try:
        if text.startswith("{"):
            return read_literal(text)
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and "genotype" in node.func.id.lower():
            by_place = dict(zip(fields[: len(node.args)], map(_literal, node.args), strict=True))
            return by_place | {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
        return ast.literal_eval(node)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise unreadable(text) from error


def parts_of(given: Mapping[Any, Any], fields: Sequence[str]) -> list[Any]:
    """Return the parts of a genotype in the order of its fields, None for one that is not given.

    Raises:
        SpaceError: others are given.
    """
    unknown = [str(key) for key in given if key not in fields]
    if unknown:
        raise SpaceError(f"a genotype of these cells has {', '.join(fields)}, and no {unknown[0][:40]!r}")
    return [given.get(name) for name in fields]


def _literal(node: ast.expr) -> Any:
    """Return a literal's value; ``range(2, 6)`` is one."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        return list(range(*map(ast.literal_eval, node.args))[:_LONGEST_RANGE])  # longer than any cell
    return ast.literal_eval(node)


def _from_compact(pairs: Any) -> Any:
    if not isinstance(pairs, list | tuple):
        return pairs
    numbered = dict(enumerate(COMPACT_OPERATIONS))
    return [(numbered.get(p[1], p[1]), p[0]) if isinstance(p, list | tuple) and len(p) == 2 else p for p in pairs]


def _from_config(config: Mapping[Any, Any]) -> Genotype:
    left = dict(config)
    cells = []
    for cell in CELLS:
        pairs: list[tuple[Any, int]] = []
        for place, node in enumerate(NODES):
            edges = {k: left.pop(f"{_CONFIG}edge_{cell}_{_first_edge(place) + k}", None) for k in range(node)}
            chosen = [(operation, source) for source, operation in edges.items() if operation is not None]
            inputs = "_".join(str(source) for _, source in chosen)
            said = left.pop(f"{_CONFIG}inputs_node_{cell}_{node}", inputs)
            if len(chosen) != 2 or said != inputs:
                raise SpaceError(
                    f"{cell} cell, node {node}: it needs two edges, and has those of the states {inputs or 'none'}"
                    + ("" if said == inputs else f", although inputs_node_{cell}_{node} is {str(said)[:40]!r}")
                )
            pairs += chosen
        cells.append(pairs)
    if left:
        raise SpaceError(
            f"{str(next(iter(left)))[:80]!r} is no part of an architecture of NAS-Bench-301: those are "
            f"{_CONFIG}edge_normal_0 to 13 and inputs_node_normal_3 to 5, and of reduce likewise"
        )
    return make_genotype(cells[0], None, cells[1])


def _first_edge(node: int) -> int:
    """Return the number of a node's first edge, the nodes counted from 0."""
    return node * (node + 3) // 2


def _all_nodes(nodes: int) -> tuple[int, ...]:
    return tuple(range(2, 2 + nodes))


def _pairs(cell: str, given: Any) -> tuple[Pair, ...]:
    if not isinstance(given, list | tuple) or not 2 <= len(given) <= 2 * _MOST_NODES or len(given) % 2:
        raise SpaceError(f"the {cell} cell needs two pairs (operation, state) a node, got {str(given)[:80]}")
    pairs = []
    for k, pair in enumerate(given):
        node = 2 + k // 2
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise SpaceError(f"{cell} cell, node {node}: {str(pair)[:80]} is no pair (operation, state)")
        operation, source = pair
        if operation not in NAMES:
            raise SpaceError(
                f"{cell} cell, node {node}: unknown operation {str(operation)[:40]!r}; allowed: {', '.join(NAMES)}"
                f"{nearest(str(operation)[:40], NAMES)}"
            )
        if isinstance(source, bool) or not isinstance(source, int) or not 0 <= source < node:
            raise SpaceError(f"{cell} cell, node {node}: its inputs are states 0 to {node - 1}, not {str(source)[:40]}")
        pairs.append((operation, source))
    return tuple(pairs)


def _concat(cell: str, given: Any, states: int) -> tuple[int, ...]:
    allowed = range(2, states)
    joined = joined_states(given, allowed)
    if joined is None:
        raise SpaceError(f"{cell} cell: it can join the states {', '.join(map(str, allowed))}, not {str(given)[:40]}")
    return joined


def joined_states(given: Any, allowed: range) -> tuple[int, ...] | None:
    """Return the states that a cell joins, all where None is given; None if those given are none of a cell."""
    states = allowed if given is None else given
    fits = isinstance(states, list | tuple | range) and all(type(state) is int and state in allowed for state in states)
    return tuple(states) if fits and 0 < len(states) == len(set(states)) else None


def _unreadable(text: str) -> UnreadableError:
    return UnreadableError(
        f"{text[:200]!r} is no architecture of the DARTS space. Give a genotype, {_EXAMPLE}; or NASLib's compact form, "
        "NAS-Bench-301's configuration, NNI's dict or the name of a published genotype (balenas spaces)"
    )
