# SPDX-License-Identifier: Apache-2.0
"""
The two loops that every saved entry goes through: entries to payloads, and payloads to frames.

Each has a fast path for what nearly all records are, and leaves everything else to the slow, exact code beside it:
``marshal_entries`` hands back what is not canonical, and ``encode_group`` calls ``encode_frame``. Both paths give
equal bytes. This module is tuned for the interpreter: it looks up and joins, and computes with many numbers at once.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain

from ._crc32c import extend
from ._frame import Payload, RecordType, encode_frame, frame_edges
from ._marks import CODES, Mark, marks_of_save
from ._protobuf import varint
from ._records import Entry, LogEntry

__all__ = ["encode_group", "marshal_entries"]

# ------------------------------------------------------------------------------------------------- marshal

_ENTRY = RecordType.ENTRY.value
_KEPT_LENGTHS = 4096  # what goes with longer data is not kept, since copying and checksums take most of the time then


class _LengthFields(dict[int, bytes]):
    """The tag and the length of an entry's data, by the length."""

    def __missing__(self, length: int) -> bytes:
        field = self[length] = b"\x1a" + varint(length) if length else b""
        return field


_LENGTH_FIELDS = _LengthFields()
# The tag of the index and the lowest digit of an index of two digits or more.
_INDEX_BEGINS = [bytes((0x08, digit | 0x80)) for digit in range(0x80)]


def marshal_entries(
    entries: Iterator[LogEntry], records: list[Payload], expected: int | None, max_record_bytes: int
) -> tuple[list[LogEntry], int | None]:
    """
    Append the payloads of entries as long as each is a canonical ``Entry`` with the expected index.

    Canonical is what ``Entry.marshal`` takes, of no subclass in any field, small, and with an index from 128 on,
    which has two digits at least.

    Args:
        entries: They are taken from it one by one.
        records: The payloads so far.
        expected: The index of the next entry; ``None`` for any.
        max_record_bytes: The longest payload.

    Returns:
        The entry that is not canonical, if it did not come to the end, and the index that is expected next.
    """
    append = records.append
    longest = min(_KEPT_LENGTHS, max_record_bytes - 32)  # less than 32 bytes stand before the data
    high = kind = length = -1
    prefix: bytes | None = None
    for entry in entries:
        if type(entry) is not Entry:
            return [entry], expected
        index, data, its_kind = entry.index, entry.data, entry.type
        if (
            type(index) is not int
            or expected not in (index, None)
            or type(data) is not bytes
            or type(its_kind) is not int
        ):
            return [entry], expected
        if prefix is None or len(data) != length or index >> 7 != high or its_kind != kind:
            # The same for entries of equal length and type whose indexes differ in the lowest digit alone.
            high, kind, length = index >> 7, its_kind, len(data)
            if not 0 < high < 2**56 or not 0 <= kind < 128 or length > longest:
                return [entry], expected
            prefix = _middle(high, kind) + _LENGTH_FIELDS[length]
        append((_ENTRY, _INDEX_BEGINS[index & 0x7F] + prefix + data))
        expected = index + 1
    return [], expected


@functools.lru_cache(64)
def _middle(high: int, kind: int) -> bytes:
    """Return what stands between the lowest digit of an index and the field of the data."""
    return varint(high) + (bytes((0x10, kind)) if kind else b"")


# -------------------------------------------------------------------------------------------------- encode


class _Shapes(dict[int, tuple[bytes, bytes, bytes]]):
    """
    What stands around the CRC and the data of a frame, by the length of the data, if the CRC takes five bytes.

    That is the header with the type; the tag and the length of the data; and the padding.
    """

    def __init__(self, type: int, mark_code: int) -> None:
        self._type = bytes((0x08, type))
        self._mark_code = mark_code

    def __missing__(self, length: int) -> tuple[bytes, bytes, bytes]:
        field = b"\x1a" + varint(length) if length else b""
        header, padding = frame_edges(len(self._type) + 6 + len(field) + length, self._mark_code)
        shape = header + self._type, field, padding
        if length <= _KEPT_LENGTHS:
            self[length] = shape
        return shape


_SHAPES = {
    mark.value: {type: _Shapes(type, codes[mark]) for type, codes in CODES.items()}
    for mark in Mark
    if mark is not Mark.INVALID
}

_NO_MARK = Mark.NONE.value
_FEW = 4  # with fewer records the fast path does not pay


def encode_group(saves: Sequence[Sequence[Payload]], crc: int, *, synced: bool, save_marks: bool) -> tuple[bytes, int]:
    """
    Return the frames of saves that are written together, and the CRC chain after them.

    Args:
        saves: Each of at least one record; a CRC record has no data and is given the chain so far.
        crc: The chain before the first save.
        synced: Whether all earlier bytes of the segment are on stable storage.
        save_marks: Whether to mark the frames (see ``_marks``) or to write what the Go original does.
    """
    marks: list[int] = []
    for save in saves:
        marks += marks_of_save(len(save), synced=synced and not marks) if save_marks else [_NO_MARK] * len(save)
    records = [record for save in saves for record in save]
    pieces = []
    if len(records) < _FEW:
        for (type, data), mark in zip(records, marks, strict=True):
            crc = extend(crc, data)
            pieces.append(encode_frame(type, crc, data, CODES[type][mark]))
        return b"".join(pieces), crc
    crcs = list(accumulate([data for _, data in records], extend, initial=crc))[1:]
    for (type, data), mark, its_crc, (field,) in zip(records, marks, crcs, _crc_fields(crcs), strict=True):
        if its_crc >> 28:
            header, length, padding = _SHAPES[mark][type][len(data)]
            pieces += (header, field, length, data, padding)
        else:  # one of sixteen has a CRC of fewer bytes
            pieces.append(encode_frame(type, its_crc, data, CODES[type][mark]))
    return b"".join(pieces), crcs[-1]


_LANES = 512
_unpack_fields = struct.Struct("<6s2x").iter_unpack


def _lanes(value: int) -> int:
    return int.from_bytes(value.to_bytes(8, "little") * _LANES, "little")


_DIGITS = [_lanes(0x7F << 7 * place & 0xFFFFFFFF) for place in range(5)]
_FIELD = _lanes(0x80_80_80_80_10)


def _crc_fields(crcs: list[int]) -> Iterator[tuple[bytes]]:
    """
    Return the fields of CRCs that take five bytes; those of smaller CRCs are not minimal.

    The CRCs stand side by side in one large integer, 64 bits each, so that their digits are moved apart at once.
    """

    def fields(some: list[int]) -> Iterable[tuple[bytes]]:
        count = len(some)
        lanes = int.from_bytes(struct.pack(f"<{count}Q", *some), "little")
        spread = _FIELD >> 64 * (_LANES - count)
        for place, digit in enumerate(_DIGITS):
            spread |= (lanes & digit) << place + 8
        return _unpack_fields(spread.to_bytes(8 * count, "little"))

    return chain.from_iterable(fields(crcs[at : at + _LANES]) for at in range(0, len(crcs), _LANES))
