# SPDX-License-Identifier: Apache-2.0
"""
Frames: how one record stands in a segment. Bytes to record and back, without I/O.

::

    frame   ┌──────────────── 8 bytes, little endian ─────────────────┐
            │ size of the record: 56 bits  │ top byte                 │
            ├──────────────────────────────┴──────────────────────────┤
            │ record: `size` bytes                                    │
            ├─────────────────────────────────────────────────────────┤
            │ padding: 0 to 7 bytes, to a multiple of 8               │
            └─────────────────────────────────────────────────────────┘

    top     ┌───┬───┬───┬───┬───┬───┬───┬───┐
    byte    │ 7 │ 6 │ 5 │ 4 │ 3 │ 2 │ 1 │ 0 │
            └─┬─┴─┬─┴───┴───┴─┬─┴─┬─┴───┴─┬─┘
              │   │ save mark │   │ padding bytes
              │   (see _marks)
              1 exactly if there is padding

    record  :=  08 type  [10 crc]  [1a length data]        protobuf {1: type, 2: crc, 3: data}

The record's numbers are varints. The CRC covers the data alone, so everything else is held to its form: only
what one of the two known encoders writes is well-formed. The Go original (proto3) leaves out a CRC of 0 and
empty data; etcd (proto2) always writes the CRC, and may write empty data as ``1a 00``. Padding is written as
zeros and not looked at, since damage there changes nothing.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from ._protobuf import read_varint, varint

__all__ = [
    "ALIGNMENT",
    "HEADER",
    "PREFIX_BYTES",
    "Payload",
    "RecordType",
    "aligned",
    "encode_frame",
    "frame_bytes",
    "frame_edges",
    "parse_record",
]


class RecordType(IntEnum):
    """The kinds of record in a segment, with their numbers on disk."""

    METADATA = 1
    ENTRY = 2
    STATE = 3
    CRC = 4
    SNAPSHOT = 5


Payload = tuple[int, bytes]
"""A record's type and marshalled data."""

ALIGNMENT = 8
HEADER = struct.Struct("<Q")
assert HEADER.size == ALIGNMENT

PREFIX_BYTES = 40
"""No frame has more bytes than this before its data: header 8, type 2, CRC 1 + 5, length 1 + 9."""

MAX_RECORD_BYTES = 2**56 - 1

_TAG_TYPE, _TAG_CRC, _TAG_DATA = 0x08, 0x10, 0x1A
_CRC = RecordType.CRC.value
_PADDINGS = [bytes(length) for length in range(ALIGNMENT)]


def aligned(size: int) -> int:
    """
    Round a segment's length up to whole words.

    etcd takes one to seven bytes behind the last frame for a frame that was cut off, even if they are zeros.
    """
    return size + -size % ALIGNMENT


def encode_frame(type: int, crc: int, data: bytes, mark_code: int) -> bytes:
    """
    Return the frame of one record; ``mark_code`` is the four bits of its save mark.

    This is how a frame is made, in plain words. Saves are framed in faster ways, by ``_codec``.
    """
    record = bytes((_TAG_TYPE, type))
    if crc:
        record += b"\x10" + varint(crc)
    if data:
        record += b"\x1a" + varint(len(data))
    header, padding = frame_edges(len(record) + len(data), mark_code)
    return b"".join((header, record, data, padding))


def frame_edges(size: int, mark_code: int) -> tuple[bytes, bytes]:
    """Return what stands in front of a record of ``size`` bytes, and the padding behind it."""
    padding = -size % ALIGNMENT
    top = mark_code << 3 | (0x80 | padding if padding else 0)
    return HEADER.pack(top << 56 | size), _PADDINGS[padding]


def frame_bytes(header: int) -> int:
    """Return the length of the frame with this header, in bytes; 0 if no well-formed frame begins so."""
    size = header & MAX_RECORD_BYTES
    padding = -size % ALIGNMENT
    if size < 2 or header >> 56 & 0x87 != (0x80 | padding if padding else 0):
        return 0
    return ALIGNMENT + size + padding


def parse_record(data: bytes, start: int, stop: int) -> tuple[int, int, int] | None:
    """
    Read the record in ``data[start:stop]``: its type, its CRC, and where its own data begin.

    Only the first ``PREFIX_BYTES`` are looked at; those after them may lie beyond the end of ``data``.
    ``None`` if the record is not well-formed. The type may be one that is not known.
    """
    type = data[start + 1]
    if data[start] != _TAG_TYPE or not 0 < type < 0x80:
        return None
    at, crc, has_crc = start + 2, 0, False
    try:
        if at < stop and data[at] == _TAG_CRC:
            # Fifteen of sixteen CRCs take five bytes; read_varint does those too, in three times the time.
            five = int.from_bytes(data[at + 1 : at + 6], "little")
            if at + 6 <= stop and five & 0xF080808080 == 0x0080808080 and five >> 32:
                crc = five & 0x7F | five >> 1 & 0x3F80 | five >> 2 & 0x1FC000 | five >> 3 & 0xFE00000
                crc, at = crc | five >> 4 & 0xF0000000, at + 6
            else:
                crc, at = read_varint(data, at + 1, stop)
            has_crc = True
        if at == stop:
            return (type, crc, at) if crc < 2**32 else None
        if data[at] != _TAG_DATA or type == _CRC:
            return None
        length, at = read_varint(data, at + 1, stop)
    except ValueError:
        return None
    if crc >= 2**32 or at + length != stop or not (length or has_crc):
        return None
    return type, crc, at
