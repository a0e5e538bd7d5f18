# SPDX-License-Identifier: Apache-2.0
"""
The little of protobuf that the formats need: varints, and flat messages of integers and bytes.

Decoding is strict, because what is decoded here was also written by one of three known encoders: varints are
minimal and fit 64 bits, fields come once, in ascending order, and none is unknown.
Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

__all__ = ["Fields", "bytes_field", "read_varint", "uint_field", "varint"]

_VARINT, _BYTES = 0, 2  # wire types
_MAX_UINT = 2**64 - 1


def varint(value: int) -> bytes:
    """Encode an unsigned integer, seven bits a byte, the lowest first."""
    if value < 0x80:
        return value.to_bytes(1)
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Decode the varint at ``at``, which must end before ``stop``; return it and where it ends."""
    value = shift = 0
    while at < stop:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (byte == 0 and shift) or value > _MAX_UINT:
                raise ValueError("a varint is not minimal or exceeds 64 bits")
            return value, at
        shift += 7
        if shift > 63:
            break
    raise ValueError("a varint does not end")


def uint_field(number: int, value: int, *, keep_zero: bool = False) -> bytes:
    """Encode an integer field. proto3 leaves a zero out; etcd's proto2 messages keep it."""
    if not 0 <= value <= _MAX_UINT:
        raise ValueError(f"{value} is not an unsigned integer of 64 bits")
    if value == 0 and not keep_zero:
        return b""
    return varint(number << 3 | _VARINT) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode a field of bytes, left out if empty."""
    return varint(number << 3 | _BYTES) + varint(len(value)) + value if value else b""


class Fields:
    """
    The fields of one flat message: take each by number, then ``finish()``.

    Every method raises ``ValueError`` if the message is not what the caller expects.
    """

    def __init__(self, data: bytes) -> None:
        self._values: dict[int, int | bytes] = {}
        at, stop, last = 0, len(data), 0
        while at < stop:
            tag, at = read_varint(data, at, stop)
            number, value = tag >> 3, 0
            value, at = read_varint(data, at, stop)
            if number <= last:
                raise ValueError(f"field {number} after field {last}")
            last = number
            if tag & 7 == _VARINT:
                self._values[number] = value
            elif tag & 7 == _BYTES:
                if value > stop - at:
                    raise ValueError(f"field {number} is longer than the message")
                self._values[number] = data[at : at + value]
                at += value
            else:
                raise ValueError(f"field {number} has wire type {tag & 7}")

    def uint(self, number: int) -> int:
        """Take an integer field; 0 if it is absent."""
        value = self._values.pop(number, 0)
        if isinstance(value, bytes):
            raise ValueError(f"field {number} is not an integer")
        return value

    def bytes(self, number: int) -> bytes:
        """Take a field of bytes; empty if it is absent."""
        value = self._values.pop(number, b"")
        if isinstance(value, int):
            raise ValueError(f"field {number} is not bytes")
        return value

    def finish(self) -> None:
        """Refuse what was not taken."""
        if self._values:
            raise ValueError(f"unknown fields {sorted(self._values)}")
