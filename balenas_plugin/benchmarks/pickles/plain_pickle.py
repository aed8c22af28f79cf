"""Read pickle streams that hold plain data only, without Python's pickle and in bounded memory.

Benchmark files are pickles from strangers, and a pickle can run any program. `PlainReader` is a small machine that
knows the opcodes of pickle protocols 2 to 5 for numbers, text, bytes and containers. It imports nothing by name: a
global is looked up in the fixed table of `plain_values` (ordered dictionaries, sets, NumPy numbers), and anything else
raises. Tensors become `SKIPPED`; their storages are never read.

Benchmark files are also large (4.7 GB, 28 GB once loaded), so a caller may `consume` dictionaries while they stream by:

    after each dictionary update, consume(dictionary) -> True empties it and starts a new generation of the memo

The memo (what later opcodes may refer back to) is what keeps a consumed object alive, and it grows with the file. Here
an entry lives for `GENERATIONS` generations, and for good once a later generation has referred to it, or if it precedes
the first consumed dictionary. A reference to an entry that was dropped is recorded in `missing`: whatever was read
is then unusable, and a second reading with ``keep=missing`` is exact. Files written by one program refer back to names
that they use all the time, so one reading is the rule.

Source: the opcodes are documented in CPython's `pickletools`.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO, Final

from balenas_plugin.benchmarks.pickles.plain_values import CALLABLES, DROPPED, SKIPPED, Allowed, NumberType, hashable
from balenas_plugin.errors import FileFormatError

GENERATIONS: Final = 4
_CHUNK: Final = 1 << 20
_LARGEST: Final = 16 << 20
"""Bytes between two consumed dictionaries, and of a pickle without any; an architecture has less than one million."""

_LONGEST_FIXED: Final = 9  # bytes of the longest opcode with a fixed size, the float


_NOT_PLAIN: Final = (
    *(IndexError, KeyError, TypeError, ValueError, AttributeError),
    *(OverflowError, RecursionError, struct.error),
)
"""What opcodes raise that do not fit the stack."""

_DAMAGED: Final = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What reading raises, from bzip2 and zip streams too."""


class PlainReader:
    """Read consecutive pickles of plain data from a binary stream.

    Args:
        stream: the file, at the first byte of the first pickle.
        name: what to call the file in messages.
        consume: called with each dictionary after each of its updates; see the module's text.
        keep: memo numbers that are never dropped.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        name: str,
        consume: Callable[[dict[Any, Any]], bool] | None = None,
        keep: frozenset[int] = frozenset(),
    ) -> None:
        self.missing: set[int] = set()
        self._stream = stream
        self._name = name
        self._consume = consume
        self._keep = keep
        self._buffer = b""
        self._at = 0
        self._offset = 0  # of the buffer in the stream
        self._reset()

    def load(self) -> Any:
        """Return the object of the next pickle in the stream.

        Raises:
            FileFormatError: the stream is truncated, is not a pickle, or holds more than plain data.
        """
        self._reset()
        try:
            return self._run()
        except _NOT_PLAIN as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(
                f"{self._name} is truncated or is not a pickle of plain data "
                f"(byte {self._offset + self._at}: {type(error).__name__}: {error}). Download it again."
            ) from error

    def _reset(self) -> None:
        self._since = self._offset + self._at  # where the memory that is in use begins in the stream
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._recent: dict[int, Any] = {}
        self._older: deque[dict[int, Any]] = deque()
        self._permanent: dict[int, Any] = {}
        self._memoized = 0
        self._generation = 0

    def _run(self) -> Any:
        """Interpret opcodes until STOP; the frequent ones inline, the others through `_HANDLERS`."""
        float_at, int_at = struct.Struct(">d").unpack_from, struct.Struct("<I").unpack_from
        while True:
            buffer, at, stack, memo = self._buffer, self._at, self._stack, self._recent
            limit = len(buffer) - _LONGEST_FIXED
            while at <= limit:
                code = buffer[at]
                if code == 0x47:  # BINFLOAT
                    stack.append(float_at(buffer, at + 1)[0])
                    at += 9
                elif code == 0x4B:  # BININT1
                    stack.append(buffer[at + 1])
                    at += 2
                elif code == 0x72:  # LONG_BINPUT
                    memo[int_at(buffer, at + 1)[0]] = stack[-1]
                    at += 5
                elif code == 0x94:  # MEMOIZE
                    memo[self._memoized] = stack[-1]
                    self._memoized += 1
                    at += 1
                elif code == 0x58 and at + 5 + int_at(buffer, at + 1)[0] <= len(buffer):  # BINUNICODE
                    end = at + 5 + int_at(buffer, at + 1)[0]
                    stack.append(buffer[at + 5 : end].decode("utf-8", "surrogatepass"))
                    at = end
                elif code == 0x8C and at + 2 + buffer[at + 1] <= len(buffer):  # SHORT_BINUNICODE
                    end = at + 2 + buffer[at + 1]
                    stack.append(buffer[at + 2 : end].decode("utf-8", "surrogatepass"))
                    at = end
                elif code == 0x71:  # BINPUT
                    memo[buffer[at + 1]] = stack[-1]
                    at += 2
                else:
                    break
            self._at = at
            code = self._take(1)[0]
            if code == 0x2E:  # STOP
                return stack.pop()
            handler = _HANDLERS.get(code)
            if handler is None:
                raise FileFormatError(
                    f"{self._name} is not a pickle of plain data: opcode {code:#04x} at byte "
                    f"{self._offset + self._at - 1}."
                )
            handler(self)

    # ---------------------------------------------------------------------------------------------- reading

    def _take(self, size: int) -> bytes:
        """Return the next `size` bytes, reading on when the buffer does not hold them and an opcode's length more."""
        if self._at + size + _LONGEST_FIXED > len(self._buffer):
            self._refill(size + _LONGEST_FIXED)
        taken = self._buffer[self._at : self._at + size]
        if len(taken) < size:
            raise IndexError(f"{size} bytes wanted, {len(taken)} left")
        self._at += size
        return taken

    def _refill(self, size: int) -> None:
        """Drop what was read from the buffer, and read on until it holds `size` bytes or the stream ends."""
        if self._offset + self._at + size - self._since > _LARGEST:
            raise FileFormatError(
                f"{self._name} is not a pickle of plain data as benchmarks are: one object in it has more than "
                f"{_LARGEST >> 20} MiB."
            )
        parts = [self._buffer[self._at :]]
        held = len(parts[0])
        try:
            while held < size and (more := self._stream.read(_CHUNK)):  # not `size`: a corrupt file may say 2**63
                parts.append(more)
                held += len(more)
        except _DAMAGED as error:
            raise FileFormatError(f"{self._name} is damaged or unreadable: {error}. Download it again.") from error
        self._offset += self._at
        self._buffer, self._at = b"".join(parts), 0

    def _take_line(self) -> str:
        line = bytearray()
        while (byte := self._take(1)) != b"\n":
            line += byte
        return line.decode("utf-8")

    def _take_int(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    # ------------------------------------------------------------------------------------------------- memo

    def _memoize(self, number: int) -> None:
        self._recent[number] = self._stack[-1]
        self._memoized += 1  # counts what MEMOIZE numbers; a stream uses either that opcode or numbers of its own

    def _get(self, number: int) -> None:
        if number in self._recent:
            self._push(self._recent[number])
            return
        for memo in (self._permanent, *self._older):
            if number in memo:
                self._permanent[number] = memo[number]
                self._push(memo[number])
                return
        if self._generation <= GENERATIONS:  # nothing has been dropped yet
            raise KeyError(f"it refers to object {number}, which it does not hold")
        self.missing.add(number)
        self._push(DROPPED)

    def _next_generation(self) -> None:
        if self._generation == 0:
            self._permanent = self._recent
        else:
            self._permanent.update((key, self._recent[key]) for key in self._keep & self._recent.keys())
            self._older.append(self._recent)
        if len(self._older) > GENERATIONS:
            self._older.popleft()
        self._recent = {}
        self._generation += 1
        self._since = self._offset + self._at

    # ------------------------------------------------------------------------------------------- containers

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _tuple(self, size: int) -> None:
        items = tuple(self._stack[-size:])
        del self._stack[-size:]
        self._push(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            raise TypeError(f"items for a {type(target).__name__}")
        target.update(zip(hashable(items[::2]), items[1::2], strict=True))
        if self._consume is not None and self._consume(target):
            target.clear()
            self._next_generation()

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _add_items(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not set:
            raise TypeError(f"items for a {type(self._stack[-1]).__name__}")
        self._stack[-1].update(hashable(items))

    def _extend(self, items: list[Any]) -> None:
        self._stack[-1].extend(items)

    def _append(self) -> None:
        item = self._stack.pop()
        self._stack[-1].append(item)

    # ---------------------------------------------------------------------------------------------- globals

    def _find(self, module: str, name: str) -> None:
        if module == "torch" and name.endswith("Storage"):
            self._push(SKIPPED)
        elif (module, name) in CALLABLES:
            self._push(Allowed(CALLABLES[module, name]))
        else:
            raise FileFormatError(
                f"{self._name} asks for the Python object {module}.{name}, and only numbers, text and containers are "
                "read from such files. Save it as plain dictionaries (`state_dict()`), as the official files are."
            )

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(module) is not str or type(name) is not str:
            raise TypeError("the name of a Python object is not text")
        self._find(module, name)

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Allowed):
            raise TypeError(f"{type(function).__name__} is called")
        self._push(function.call(*arguments))

    def _build(self) -> None:
        state = self._stack.pop()
        if not isinstance(self._stack[-1], NumberType):
            raise TypeError(f"state for a {type(self._stack[-1]).__name__}")
        self._stack[-1].order = "<" if state[1] == "|" else state[1]

    def _persistent(self) -> None:
        self._stack[-1] = SKIPPED


_Handler = Callable[[PlainReader], object]


def _text(size: int) -> _Handler:
    return lambda machine: machine._push(machine._take(machine._take_int(size)).decode("utf-8", "surrogatepass"))


def _bytes(size: int) -> _Handler:
    return lambda machine: machine._push(machine._take(machine._take_int(size)))


_HANDLERS: dict[int, _Handler] = {
    0x80: lambda machine: machine._take(1),  # PROTO
    0x95: lambda machine: machine._take(8),  # FRAME
    0x28: PlainReader._mark,
    0x4E: lambda machine: machine._push(None),
    0x88: lambda machine: machine._push(True),
    0x89: lambda machine: machine._push(False),
    0x47: lambda machine: machine._push(struct.unpack(">d", machine._take(8))[0]),
    0x4B: lambda machine: machine._push(machine._take_int(1)),
    0x4D: lambda machine: machine._push(machine._take_int(2)),
    0x4A: lambda machine: machine._push(machine._take_int(4, signed=True)),
    0x8A: lambda machine: machine._push(machine._take_int(machine._take_int(1), signed=True)),  # LONG1
    0x8C: _text(1),
    0x58: _text(4),
    0x8D: _text(8),
    0x43: _bytes(1),
    0x42: _bytes(4),
    0x8E: _bytes(8),
    0x71: lambda machine: machine._memoize(machine._take_int(1)),
    0x72: lambda machine: machine._memoize(machine._take_int(4)),
    0x94: lambda machine: machine._memoize(machine._memoized),
    0x68: lambda machine: machine._get(machine._take_int(1)),
    0x6A: lambda machine: machine._get(machine._take_int(4)),
    0x7D: lambda machine: machine._push({}),
    0x5D: lambda machine: machine._push([]),
    0x29: lambda machine: machine._push(()),
    0x8F: lambda machine: machine._push(set()),
    0x85: lambda machine: machine._tuple(1),
    0x86: lambda machine: machine._tuple(2),
    0x87: lambda machine: machine._tuple(3),
    0x74: lambda machine: machine._push(tuple(machine._pop_mark())),
    0x61: PlainReader._append,
    0x65: lambda machine: machine._extend(machine._pop_mark()),
    0x90: lambda machine: machine._add_items(machine._pop_mark()),
    0x73: PlainReader._set_item,
    0x75: lambda machine: machine._set_items(machine._pop_mark()),
    0x63: lambda machine: machine._find(machine._take_line(), machine._take_line()),
    0x93: PlainReader._stack_global,
    0x52: PlainReader._reduce,
    0x62: PlainReader._build,
    0x51: PlainReader._persistent,
}
