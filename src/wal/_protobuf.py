# SPDX-License-Identifier: Apache-2.0
"""
The little of protobuf that the formats need: varints, and flat messages of integers and bytes.

Decoding is strict, because what is decoded here was also written by one of three known encoders: varints are
minimal and fit 64 bits, fields come once, in ascending order, and none is unknown.
Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import Any

__all__ = ["BYTES", "UINT", "bytes_field", "decode_message", "read_varint", "uint_field", "varint"]

_VARINT, _BYTES = 0, 2  # wire types
_MAX_UINT = 2**64 - 1

# The bytes of a varint: its last one, and those before it.
_LAST = [bytes((digit,)) for digit in range(0x80)]
_MORE = [bytes((digit | 0x80,)) for digit in range(0x80)]


def varint(value: int) -> bytes:
    """Encode an unsigned integer, seven bits a byte, the lowest first."""
    if 0 <= value < 0x80:
        return _LAST[value]
    if value < 0:
        raise OverflowError(f"{value} is not an unsigned integer")
    out = b""
    while value >= 0x80:
        out += _MORE[value & 0x7F]
        value >>= 7
    return out + _LAST[value]


def read_varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Decode the varint at ``at``, which must end before ``stop``; return it and where it ends."""
    if at < stop and data[at] < 0x80:
        return data[at], at + 1
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
    """Encode an integer field, one of the first fifteen. proto3 leaves a zero out; etcd's proto2 messages keep it."""
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not an integer")
    if not 0 <= value <= _MAX_UINT:
        raise ValueError(f"{value} is not an unsigned integer of 64 bits")
    if value or keep_zero:
        return _LAST[number << 3 | _VARINT] + varint(value)
    return b""


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode a field of bytes, one of the first fifteen, left out if empty."""
    if not isinstance(value, bytes):
        value = bytes(memoryview(value))  # any buffer; a TypeError for text, integers and None
    return _LAST[number << 3 | _BYTES] + varint(len(value)) + value if value else b""


UINT, BYTES = _VARINT, _BYTES
"""The kinds of field that ``decode_message`` knows."""


def decode_message(data: bytes, kinds: tuple[int, ...]) -> list[Any]:
    """
    Decode a flat message whose fields 1, 2, ... are of the given kinds: ``UINT`` or ``BYTES``.

    Returns:
        The values in the order of their numbers, 0 or ``b""`` for a field that is absent.

    Raises:
        ValueError: The message is anything else.
    """
    values: list[Any] = [b"" if kind else 0 for kind in kinds]
    at = last = 0
    stop = len(data)
    while at < stop:
        tag = data[at]
        number, kind = tag >> 3, tag & 7
        if not last < number <= len(kinds) or kind != kinds[number - 1]:
            raise ValueError(f"byte {at} of the message cannot be the tag {tag:#x} after field {last}")
        at += 1
        if at < stop and (value := data[at]) < 0x80:  # as read_varint would say, without the call
            at += 1
        else:
            value, at = read_varint(data, at, stop)
        if kind == _BYTES:
            begin, at = at, at + value
            if at > stop:
                raise ValueError(f"field {number} is longer than the message")
            values[number - 1] = data[begin:at]
        else:
            values[number - 1] = value
        last = number
    return values
