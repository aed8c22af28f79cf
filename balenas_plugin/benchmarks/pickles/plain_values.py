"""What a pickle of plain data may make: a fixed table of callables, and which values may be keys.

Nothing here is looked up by name outside of the table, and nothing is hashed or called that a stranger's file could
make expensive.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

_LONGEST_KEY: Final = 8
"""Entries of a tuple that is a key."""


class _Marker:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


SKIPPED: Final = _Marker("SKIPPED")
"""Stands for a tensor or a storage, which are not read."""

DROPPED: Final = _Marker("DROPPED")
"""Stands for a reference to a memo entry that was dropped (see `plain_pickle.PlainReader.missing`)."""


class Allowed:
    """A callable of the fixed table; only these can be called."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


class NumberType:
    """A NumPy number type, by its code (``"f8"``) and byte order."""

    def __init__(self, code: str) -> None:
        (code,) = hashable([code])
        self.format = _NUMBER_FORMATS[code]
        self.order = "<"

    def number(self, raw: bytes) -> Any:
        """Return the number that these bytes hold."""
        return struct.unpack(("<" if self.order == "=" else self.order) + self.format, raw)[0]


_NUMBER_FORMATS = {"f2": "e", "f4": "f", "f8": "d", "b1": "?"} | {
    f"{kind}{size}": letter.upper() if kind == "u" else letter
    for kind in "iu"
    for size, letter in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
}

_SCALARS: Final = {bool, int, float, str, bytes, type(None), _Marker}


def hashable(keys: list[Any]) -> list[Any]:
    """Return keys of a dictionary, or members of a set, if they are numbers, text, or short tuples of these.

    Nothing else is hashed: a deeply nested tuple overflows the stack, and one whose halves are the same never ends.
    """
    kinds = set(map(type, keys))
    if tuple in kinds:
        tuples = [key for key in keys if type(key) is tuple]
        if max(map(len, tuples)) > _LONGEST_KEY:
            raise TypeError(f"a key of more than {_LONGEST_KEY} entries")
        kinds = (kinds - {tuple}).union(type(entry) for key in tuples for entry in key)
    if not kinds <= _SCALARS:
        raise TypeError("a key that is neither a number, nor text, nor a tuple of these")
    return keys


def _ordered(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    keys, values = zip(*pairs, strict=True) if pairs else ((), ())
    return dict(zip(hashable(list(keys)), values, strict=True))


def _latin1(text: str, encoding: str) -> bytes:
    if type(encoding) is not str or encoding != "latin1":
        raise ValueError("an encoding other than latin1")
    return text.encode("latin1")


CALLABLES: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered,
    ("builtins", "set"): lambda items=(): set(hashable(list(items))),
    ("__builtin__", "set"): lambda items=(): set(hashable(list(items))),
    ("_codecs", "encode"): _latin1,  # how protocol 2 writes bytes
    ("__builtin__", "bytes"): lambda: b"",  # and how it writes none
    ("numpy", "dtype"): lambda code, align, copy: NumberType(code),
    ("numpy.core.multiarray", "scalar"): NumberType.number,
    ("numpy._core.multiarray", "scalar"): NumberType.number,
    ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: SKIPPED,
    ("torch._utils", "_rebuild_parameter"): lambda *arguments: SKIPPED,
}
