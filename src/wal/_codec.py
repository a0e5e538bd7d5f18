# SPDX-License-Identifier: Apache-2.0
"""
The two loops that every saved entry goes through: entries to payloads, and payloads to frames.

Each has faster ways for what most records are. ``marshal_entries`` takes canonical entries and hands back any other
one, for its own ``marshal``. ``encode_group`` makes the frames of many entries of equal length at once, and looks up
most of any other frame; the bytes are those of ``encode_frame``.

This module is tuned for the interpreter: it looks up and joins, and computes with many numbers at once.
``_codec_compiled`` has the same functions for mypyc.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby

from ._crc32c import extend
from ._frame import ALIGNMENT, Payload, RecordType, frame_edges
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
            or (index != expected and expected is not None)
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
    What stands around the CRC and the data of a frame, by the length of the data.

    That is the header with the type; the tag and the length of the data; and the padding.
    """

    def __init__(self, type: int, mark_code: int, crc_field_bytes: int) -> None:
        self._type = bytes((0x08, type))
        self._mark_code = mark_code
        self._before = len(self._type) + crc_field_bytes

    def __missing__(self, length: int) -> tuple[bytes, bytes, bytes]:
        field = b"\x1a" + varint(length) if length else b""
        header, padding = frame_edges(self._before + len(field) + length, self._mark_code)
        shape = header + self._type, field, padding
        if length <= _KEPT_LENGTHS:
            self[length] = shape
        return shape


_MARKS = [mark.value for mark in Mark if mark is not Mark.INVALID]
_NO_MARK, _ONLY, _LAST = Mark.NONE.value, Mark.ONLY.value, Mark.LAST.value

# By the length of the CRC's field, the mark and the type. A CRC of 0 is left out; else its field has 2 to 6 bytes.
_SHAPES = [
    [{type: _Shapes(type, codes[mark], length) for type, codes in CODES.items()} for mark in _MARKS]
    for length in range(7)
]
_CRC_FORM = 0x00_80808080_10  # the tag, and a varint of five digits
_SHAPES_OF_SIX = _SHAPES[6]  # fifteen of sixteen CRCs take five bytes

# With fewer records, and in shorter runs or with longer data, the faster ways do not pay.
_FEW = 6
_RUN = 16
_RUN_LENGTH = 512


def encode_group(saves: Sequence[Sequence[Payload]], crc: int, *, synced: bool, save_marks: bool) -> tuple[bytes, int]:
    """
    Return the frames of saves that are written together, and the CRC chain after them.

    Args:
        saves: Each of at least one record; a CRC record has no data and is given the chain so far.
        crc: The chain before the first save.
        synced: Whether all earlier bytes of the segment are on stable storage.
        save_marks: Whether to mark the frames (see ``_marks``) or to write what the Go original does.
    """
    if len(saves) == 1 and len(saves[0]) == 1:  # the smallest save, whose latency counts most
        ((type, data),) = saves[0]
        mark = (_ONLY if synced else _LAST) if save_marks else _NO_MARK
        crc = extend(crc, data)
        return b"".join(_frame(type, crc, data, mark)), crc
    marks: list[int] = []
    for save in saves:
        marks += marks_of_save(len(save), synced=synced and not marks) if save_marks else [_NO_MARK] * len(save)
    records = [record for save in saves for record in save]
    pieces: list[bytes | memoryview] = []
    if len(records) < _FEW:
        for (type, data), mark in zip(records, marks, strict=True):
            crc = extend(crc, data)
            pieces += _frame(type, crc, data, mark)
        return b"".join(pieces), crc

    types, datas = zip(*records, strict=True)
    crcs = list(accumulate(datas, extend, initial=crc))[1:]
    fields = b"".join(_crc_fields(crcs[at : at + _LANES]) for at in range(0, len(crcs), _LANES))
    done = begin = 0

    def one_by_one(stop: int) -> None:
        """Append the frames from ``done`` on."""
        for (type, data), mark, crc, (field,) in zip(
            records[done:stop],
            marks[done:stop],
            crcs[done:stop],
            _unpack_fields(fields[8 * done : 8 * stop]),
            strict=True,
        ):
            if crc >> 28:
                header, length, padding = _SHAPES_OF_SIX[mark][type][len(data)]
                pieces.extend((header, field, length, data, padding))
            else:
                pieces.extend(_frame(type, crc, data, mark))

    lengths = list(map(len, datas))
    if _RUN * len(set(lengths)) <= len(lengths):
        for length, run in groupby(lengths):
            stop = begin + len(list(run))
            count = stop - begin
            if count >= _RUN and length <= _RUN_LENGTH and types[begin:stop].count(_ENTRY) == count:
                one_by_one(begin)
                pieces += _frames_of_run(
                    datas[begin:stop], marks[begin:stop], crcs[begin:stop], fields[8 * begin : 8 * stop]
                )
                done = stop
            begin = stop
    one_by_one(len(records))
    return b"".join(pieces), crcs[-1]


def _frame(type: int, crc: int, data: bytes, mark: int) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Return the pieces of any frame."""
    if crc >> 28:
        spread = crc & 0x7F | crc << 1 & 0x7F00 | crc << 2 & 0x7F0000 | crc << 3 & 0x7F000000 | crc << 4 & 0xF00000000
        field = (spread << 8 | _CRC_FORM).to_bytes(6, "little")
    else:
        field = b"\x10" + varint(crc) if crc else b""
    header, length, padding = _SHAPES[len(field)][mark][type][len(data)]
    return header, field, length, data, padding


_TOPS = [
    bytes(CODES[_ENTRY][mark] << 3 | (0x80 | padding if padding else 0) if mark in _MARKS else 0 for mark in range(256))
    for padding in range(ALIGNMENT)
]
"""The top byte of an entry's header by its mark, for each length of the padding."""


def _frames_of_run(
    datas: Sequence[bytes], marks: list[int], crcs: list[int], fields: bytes
) -> Iterator[bytes | memoryview]:
    """
    Return the frames of entries whose data are of equal length.

    They are of equal length then, but for those with a short CRC. So all are made by one join, and what differs is put
    in byte by byte of a frame, for all frames at once.
    """
    header, length, padding = _SHAPES_OF_SIX[_NO_MARK][_ENTRY][len(datas[0])]
    between = padding + header + bytes(6) + length
    frames = bytearray(between).join((b"", *datas, b""))
    begin, stride = len(padding), len(between) + len(datas[0])
    end = stride * len(datas)
    frames[begin + 7 : end : stride] = bytes(marks).translate(_TOPS[len(padding)])
    for place in range(6):
        frames[begin + len(header) + place : end : stride] = fields[place::8]

    view = memoryview(frames)[begin : begin + end]
    last_digits = fields[5::8]
    done, short = 0, last_digits.find(0)
    while short >= 0:
        yield view[done * stride : short * stride]
        yield from _frame(_ENTRY, crcs[short], datas[short], marks[short])
        done, short = short + 1, last_digits.find(0, short + 1)
    yield view[done * stride :]


_LANES = 512
_unpack_fields = struct.Struct("<6s2x").iter_unpack


def _lanes(value: int) -> int:
    return int.from_bytes(value.to_bytes(8, "little") * _LANES, "little")


_DIGITS = [_lanes(0x7F << 7 * place & 0xFFFFFFFF) for place in range(5)]
_FIELD = _lanes(0x80_80_80_80_10)


def _crc_fields(crcs: list[int]) -> bytes:
    """
    Return the fields of CRCs that take five bytes, each and two zeros; those of smaller CRCs are not minimal.

    The CRCs stand side by side in one large integer, 64 bits each, so that their digits are moved apart at once.
    """
    count = len(crcs)
    lanes = int.from_bytes(struct.pack(f"<{count}Q", *crcs), "little")
    fields = _FIELD >> 64 * (_LANES - count)
    for place, digit in enumerate(_DIGITS):
        fields |= (lanes & digit) << place + 8
    return fields.to_bytes(8 * count, "little")
