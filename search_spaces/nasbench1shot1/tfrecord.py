"""TensorFlow's record files and protocol buffers, read without TensorFlow, one record in memory at a time.

A record is its length (8 bytes), the masked CRC-32C of these 8 bytes, the data, and the data's own checksum, which no
data of a wrong length has. A message is a sequence of fields, each a number with a wire type, and a value whose size
follows from the type.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from balenas_plugin.errors import FileFormatError

_HEADER, _FOOTER = struct.Struct("<QI"), 4
_LONGEST = 1 << 13  # bytes of a record; NAS-Bench-101's are half a kilobyte
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
        length, _ = _HEADER.unpack(header)
        data = file.read(length + _FOOTER) if length <= _LONGEST else b""
        if length <= _LONGEST and len(data) < length + _FOOTER:
            raise FileFormatError(f"{name} ends within record {number}: it was not downloaded to its end.")
        if length > _LONGEST or masked_crc32c(data[:length]) != int.from_bytes(data[length:], "little"):
            raise FileFormatError(f"{name} is no file of TensorFlow's records, or is damaged, at record {number}.")
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
    """Return the checksum of a record file: CRC-32C, turned by 15 bits, plus a constant.

    A CRC is a sum without carries of what each byte adds at its place, so one look-up a byte does, all at once.

    Args:
        data: four bytes to 8 KiB.
    """
    values = np.frombuffer(data, np.uint8).astype(np.intp)
    values[:4] ^= 255  # a CRC-32 starts with ones
    places = np.arange(_LONGEST - len(values), _LONGEST)
    crc = int(np.bitwise_xor.reduce(_added_by_place()[places, values])) ^ 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _added_by_place() -> npt.NDArray[np.uint32]:
    """Return what each value of a byte adds to a checksum, ``(places, 256)``, the last byte's place the last."""
    byte: npt.NDArray[np.uint32] = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        byte = np.where(byte & 1, byte >> 1 ^ 0x82F63B78, byte >> 1).astype(np.uint32)
    found = [byte]
    while len(found) < _LONGEST:
        found.append(byte[found[-1] & 255] ^ (found[-1] >> 8))
    return np.stack(found[::-1])
