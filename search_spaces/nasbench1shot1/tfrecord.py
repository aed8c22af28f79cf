"""TensorFlow's record files and protocol buffers, read without TensorFlow, one record in memory at a time.

A record is its length (8 bytes), the masked CRC-32C of these 8 bytes, the data, and the data's own checksum. A message
is a sequence of fields, each a number with a wire type, and a value whose size follows from the type.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from balenas_plugin.errors import FileFormatError

_HEADER, _FOOTER = struct.Struct("<QI"), 4
_LONGEST = 1 << 20  # bytes of a record; NAS-Bench-101's are half a kilobyte
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5


def records(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield the data of each record.

    Raises:
        FileFormatError: the file is cut short, damaged, or of another kind.
    """
    number = 0
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise FileFormatError(f"{name} ends within record {number}: it was not downloaded to its end.")
        length, checksum = _HEADER.unpack(header)
        if length > _LONGEST or masked_crc32c(header[:8]) != checksum:
            raise FileFormatError(f"{name} is no file of TensorFlow's records, or is damaged, at record {number}.")
        data = file.read(length + _FOOTER)
        if len(data) < length + _FOOTER:
            raise FileFormatError(f"{name} ends within record {number}: it was not downloaded to its end.")
        yield data[:length]
        number += 1


def fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Yield (number, value) of each field: whole numbers, floating ones, or the bytes of texts and inner messages.

    Raises:
        ValueError: it is no message.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        length = 8 if kind == _DOUBLE else 4
        if kind == _BYTES:
            length, place = _varint(message, place)
        found = message[place : place + length]
        if len(found) < length or kind not in (_DOUBLE, _BYTES, _FLOAT):
            raise ValueError(f"field {number} is of the unknown type {kind}, or cut short")
        place += length
        yield number, found if kind == _BYTES else struct.unpack("<d" if kind == _DOUBLE else "<f", found)[0]


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if place >= len(message):
            raise ValueError("a number is cut short")
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("a number is too long")


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of a record file: CRC-32C, turned by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_entry(byte) for byte in range(256)]
