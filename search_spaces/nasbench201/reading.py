"""Read an architecture in whatever notation somebody has it, and say how it was read.

==================  =================================================================================
notation            example
==================  =================================================================================
string              ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|``
index               ``6111``: its number in the benchmark, 0 to 15624
indices             ``3,0,1,0,0,4``: operations in the string's order of edges
naslib              ``(2, 1, 1, 0, 1, 4)``: NASLib's `op_indices`, of other edges and operations
nni                 ``{"cell/0_1": "conv_3x3", ...}`` in JSON or Python
==================  =================================================================================

Sources: Dong and Yang 2020; NASLib, `search_spaces/nasbench201/conversions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from balenas_plugin.errors import SpaceError, UnreadableError
from balenas_plugin.options import OneOf, checked
from balenas_plugin.search_spaces import Reading, read_literal

from .notation import (
    EDGES,
    OPERATIONS,
    Edge,
    Indices,
    check_indices,
    format_string,
    from_nni,
    parse,
    to_nni,
)

NOTATIONS = {
    "string": "",
    "index": "the number of an architecture in NAS-Bench-201",
    "indices": "operation indices in the order of NAS-Bench-201's string",
    "naslib": "NASLib's op_indices",
    "nni": "a mapping as in NNI",
}
"""Notations, and what they are in words; nothing is said of the benchmark's own."""

NUM_ARCHITECTURES = len(OPERATIONS) ** len(EDGES)

NASLIB_OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
"""NASLib's operations in its order: Identity, Zero, ReLUConvBN3x3, ReLUConvBN1x1, AvgPool1x1."""

NASLIB_EDGES = (Edge(1, 0), Edge(2, 0), Edge(3, 0), Edge(2, 1), Edge(3, 1), Edge(3, 2))
"""NASLib's edges in its order: by source, where the benchmark's string goes by target."""

_LONGEST = 4000
_ENTRY = re.compile(r"([^|+~\s,]+)\s*~\s*(\d+)")
_OTHER_NAMES = {
    "none": ("zero", "zeroize"),
    "skip_connect": ("skip", "identity", "skip_connection"),
    "nor_conv_1x1": ("conv_1x1", "conv1x1", "reluconvbn1x1"),
    "nor_conv_3x3": ("conv_3x3", "conv3x3", "reluconvbn3x3"),
    "avg_pool_3x3": ("avg_pool", "avgpool", "avgpool3x3", "avgpool1x1"),
}
_NAMES = {other: name for name, others in _OTHER_NAMES.items() for other in (name, *others)}


def read_architecture(text: str, *, notation: str | None = None) -> Reading:
    """Return the architecture that `text` names.

    Args:
        text: in one of `NOTATIONS`.
        notation: which; None finds out. Six numbers are taken for the benchmark's own indices then, not NASLib's.

    Raises:
        UnreadableError: it is none of them.
        SpaceError: it is malformed.
        OptionError: there is no such notation.
    """
    if notation is not None:
        checked("notation", notation, Annotated[str, OneOf(lambda: NOTATIONS)])
    text = text.strip().strip("\"'").strip()
    if len(text) > _LONGEST:
        raise SpaceError(f"an architecture of {len(text)} characters was given; none is that long")
    numbers = _numbers(text)
    if notation == "string" or (notation is None and numbers is None and _is_string(text)):
        return _reading("string", parse(_written_properly(text)))
    digits = text.isdecimal() and len(text) == len(EDGES) and int(text) >= NUM_ARCHITECTURES
    if notation == "index" or (notation is None and text.isdecimal() and not digits):
        return _by_number(text, numbers)
    if numbers is not None:
        return _by_numbers(numbers, naslib=notation == "naslib", asked=notation is not None)
    return _by_containers(_literal(text), text, naslib=notation == "naslib")


def from_naslib(op_indices: Sequence[int]) -> Indices:
    """Return the operation indices, in the order of `EDGES`, of NASLib's `op_indices`.

    Raises:
        SpaceError: they are not six integers from 0 to 4.
    """
    operations = dict(zip(NASLIB_EDGES, check_indices(op_indices), strict=True))
    return tuple(OPERATIONS.index(NASLIB_OPERATIONS[operations[edge]]) for edge in EDGES)


def _reading(notation: str, indices: Indices, remark: str = "") -> Reading:
    return Reading(notation, sample=to_nni(indices), read_as=NOTATIONS[notation], remark=remark)


def _is_string(text: str) -> bool:
    """Return whether a text has a node of the benchmark's string; those of NAS-Bench-1Shot1's have no such bars."""
    return text.startswith("|") or ("~" in text and "+" in text)


def _numbers(text: str) -> list[int] | None:
    """Return the six or so numbers that a text consists of: "3,0,1", "[3 0 1]", "301004"; None if it is other text."""
    if not re.fullmatch(r"[\s\[\](),;|0-9-]+", text) or not any(character.isdecimal() for character in text):
        return None
    if text.isdecimal():
        return [int(digit) for digit in text]
    return [int(number) for number in re.findall(r"-?\d{1,9}", text)]


def _by_number(text: str, digits: list[int] | None) -> Reading:
    if not text.isdecimal() or int(text) >= NUM_ARCHITECTURES:
        raise SpaceError(f"an architecture's index is a number from 0 to {NUM_ARCHITECTURES - 1}, got {text[:40]!r}")
    remark = ""
    if digits is not None and len(digits) == len(EDGES) and max(digits) < len(OPERATIONS):
        remark = f"If it is six operation indices, write {','.join(map(str, digits))}."
    return Reading("index", index=int(text), read_as=NOTATIONS["index"], remark=remark)


def _by_numbers(numbers: Sequence[int], *, naslib: bool, asked: bool) -> Reading:
    if len(numbers) > len(EDGES):  # as in the compact form of the DARTS space
        raise UnreadableError(f"{len(numbers)} numbers were given; a cell has {len(EDGES)} edges")
    own, other = check_indices(numbers), from_naslib(numbers)
    if naslib:
        return _reading("naslib", other)
    remark = f"If it is NASLib's op_indices, it is {format_string(other)}: say --notation naslib."
    return _reading("indices", own, remark="" if asked or own == other else remark)


def _literal(text: str) -> Any:
    words = [word for word in re.split(r"[\s,]+", text) if word]
    if all(word.lower() in _NAMES for word in words):
        return words
    try:
        return read_literal(text)
    except ValueError as error:
        raise _unreadable(text) from error


def _by_containers(found: Any, text: str, *, naslib: bool) -> Reading:
    if isinstance(found, Mapping):
        inner = found.get("choices", found)  # a record of architectures.json, too
        labels = {edge: f"cell/{edge.source}_{edge.target}" for edge in EDGES}
        allowed = {label.removeprefix("cell/"): label for label in labels.values()}
        if isinstance(inner, Mapping) and any(re.fullmatch(r"(cell/)?\d_\d", str(key)) for key in inner):
            return _reading(
                "nni", from_nni({allowed.get(str(key), str(key)): _nni_name(value) for key, value in inner.items()})
            )
    names = [name for name in _flattened(found) if isinstance(name, str)] if isinstance(found, list | tuple) else []
    if len(names) == len(EDGES) and all(name.lower() in _NAMES for name in names):
        edges = NASLIB_EDGES if naslib else EDGES
        by_edge = dict(zip(edges, (OPERATIONS.index(_NAMES[name.lower()]) for name in names), strict=True))
        return _reading("naslib" if naslib else "indices", tuple(by_edge[edge] for edge in EDGES))
    raise _unreadable(text)


def _unreadable(text: str) -> UnreadableError:
    return UnreadableError(
        f"{text[:200]!r} is no architecture of NAS-Bench-201. Give its string, its index, six operation indices, six "
        f"names of operations or NNI's dict, e.g. {format_string((3, 0, 1, 0, 0, 4))!r}, 6111, '3,0,1,0,0,4'"
    )


def _flattened(value: Any, depth: int = 0) -> list[Any]:
    """Return the entries of nested lists, as of NAS-Bench-201's genotypes: ((("none", 0),), (("none", 0), ...))."""
    if isinstance(value, list | tuple) and depth < 4:
        return [entry for inner in value[:100] for entry in _flattened(inner, depth + 1)]
    return [value]


def _nni_name(value: Any) -> Any:
    """Return an operation by NNI's name, whichever it is given by; what is none of them stays."""
    name = _NAMES.get(str(value).lower())
    return value if name is None else next(iter(to_nni((OPERATIONS.index(name),) * len(EDGES)).values()))


def _written_properly(text: str) -> str:
    """Return a string with its bars and without spaces, each node's inputs in order; what is unclear stays as it is."""
    entries = [(_NAMES.get(name.lower(), name), int(source)) for name, source in _ENTRY.findall(text)]
    nodes = [sorted(entries[:1], key=_source), sorted(entries[1:3], key=_source), sorted(entries[3:], key=_source)]
    if [source for node in nodes for _, source in node] != [edge.source for edge in EDGES]:
        return "".join(text.split())
    return "+".join(f"|{'|'.join(f'{name}~{source}' for name, source in node)}|" for node in nodes)


def _source(entry: tuple[str, int]) -> int:
    return entry[1]
