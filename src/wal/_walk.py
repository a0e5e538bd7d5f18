# SPDX-License-Identifier: Apache-2.0
"""
The two loops that every entry read goes through: bytes to frames, and payloads to entries.

Each is a fast path for what nearly all records are, and leaves everything else to the slow, exact code beside it:
``walk`` stops in front of a frame that is not canonical, or wrong, and ``unmarshal_entries`` gives up. Both paths give
equal results. This module is tuned for the interpreter: one look-up tells all that a header says, and numbers of many
frames stand side by side in one large integer ("lanes" of 64 bits), so that one operation is for all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from operator import itemgetter
from typing import NamedTuple

from ._crc32c import extend_each
from ._frame import ALIGNMENT, MAX_RECORD_BYTES, RecordType, frame_bytes
from ._marks import Mark, ends_save, fits, mark_of
from ._protobuf import varint
from ._records import Entry

__all__ = ["LANES", "Frame", "Run", "Walk", "unmarshal_entries", "walk"]

Frame = tuple[int, bytes, int]
"""A record's type, its data, and the offset of its frame in the segment."""

_IS_OTHER = bytes(type not in (RecordType.ENTRY, RecordType.CRC) for type in range(256))


class Run:
    """
    Frames that stand one behind the other in a segment; iterate over it to get each as a ``Frame``.

    Attributes:
        start: The offset of the first one.
        types: Their records' types.
        values: Their records' data.
        lengths: How many bytes each takes.
    """

    __slots__ = ("lengths", "start", "types", "values")

    def __init__(self, start: int) -> None:
        self.start: int = start
        self.types: bytearray = bytearray()
        self.values: list[bytes] = []
        self.lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Frame]:
        return zip(self.types, self.values, self.offsets(), strict=False)

    def offsets(self) -> Iterator[int]:
        """Yield the offset of each frame, and of the end."""
        return accumulate(self.lengths, initial=self.start)

    def append(self, type: int, value: bytes, length: int) -> None:
        """Add the frame that follows."""
        self.types.append(type)
        self.values.append(value)
        self.lengths.append(length)

    def others(self) -> Iterator[tuple[int, Frame]]:
        """Yield the frames that are neither entries nor CRCs, each with how many frames are before it."""
        flags = self.types.translate(_IS_OTHER)
        place = flags.find(1)
        if place < 0:
            return
        offsets = list(self.offsets())
        while place >= 0:
            yield place, (self.types[place], self.values[place], offsets[place])
            place = flags.find(1, place + 1)

    def parts(self) -> Iterator[Run]:
        """Yield it in parts of up to ``LANES`` frames."""
        start = self.start
        for begin in range(0, len(self), LANES):
            part = Run(start)
            part.types = self.types[begin : begin + LANES]
            part.values = self.values[begin : begin + LANES]
            part.lengths = self.lengths[begin : begin + LANES]
            start += sum(part.lengths)
            yield part

    def take(self, count: int) -> Run:
        """Take the first frames out and return them."""
        taken = Run(self.start)
        taken.types, self.types = self.types[:count], self.types[count:]
        taken.values, self.values = self.values[:count], self.values[count:]
        taken.lengths, self.lengths = self.lengths[:count], self.lengths[count:]
        self.start += sum(taken.lengths)
        return taken


# ---------------------------------------------------------------------------------------------------- lanes

LANES = 4096
"""How many frames or entries go through one pass at most."""

_DIGITS = [int.from_bytes((0x7F << 7 * place).to_bytes(8, "little") * LANES, "little") for place in range(5)]
"""The bits of each digit of a varint, in all lanes, when the digits before it have moved together."""


def _varints(lanes: int, count: int, digits: int) -> tuple[int, ...]:
    """Return the varints of so many digits with which the lanes begin."""
    values = 0
    for place in range(digits):
        values |= lanes >> place & _DIGITS[place]
    return struct.unpack(f"<{count}Q", values.to_bytes(8 * count, "little"))


# ----------------------------------------------------------------------------------------------------- walk


class Walk(NamedTuple):
    """How far ``walk`` came."""

    at: int
    """The place in the chunk that it reached, with the CRC chain and the mark of the frame before it."""
    crc: int
    mark: int
    whole: int
    """How many frames the run has up to the end of the last whole save; 0 if none came to its end."""
    end: int
    """The place of that end, with the chain and the mark there."""
    end_crc: int
    end_mark: int


# A canonical frame begins with three words:
#
#     header     08 type 10 crc crc crc crc crc     1a length data ...
#
# A CRC below 2**28 takes fewer bytes, and what is behind it moves up. Fifteen of sixteen take five; nearly all
# others four, with the 1a in the last byte of the second word.
_WORDS = struct.Struct("<QQI")
_FORM_5, _MASK_5, _LEAST_5 = 0x00_80808080_10_00_08, 0xF0_80808080_FF_F8_FF, 0x01 << 56
_FORM_4, _MASK_4, _LAST_DIGIT_4 = 0x1A_00808080_10_00_08, 0xFF_80808080_FF_F8_FF, 0x7F << 48
_4_AS_5 = 0x1A_80 << 48  # makes it a number of five digits, the last one 0

_Shape = tuple[int, int, int, int, int, int]


class _Shapes(dict[int, _Shape | None]):
    """
    All that the header of a canonical frame says, if its CRC takes so many bytes.

    That is the frame's length; the record's end and the place where its data begin; the field that gives the
    data's length, and a mask for its bytes; and the code of the mark. ``None`` if no canonical frame begins so.
    """

    def __init__(self, crc_bytes: int) -> None:
        self._crc_bytes = crc_bytes

    def __missing__(self, header: int) -> _Shape | None:
        size = header & MAX_RECORD_BYTES
        for width in (1, 2, 3):
            begin = 3 + self._crc_bytes + 1 + width
            field = varint(size - begin) if size > begin else b""
            if len(field) == width:
                break
        else:
            return None
        if not frame_bytes(header):
            return None
        if self._crc_bytes == 5:
            field = b"\x1a" + field
        shape = (
            frame_bytes(header),
            ALIGNMENT + size,
            ALIGNMENT + begin,
            (1 << 8 * len(field)) - 1,
            int.from_bytes(field, "little"),
            header >> 59 & 15,
        )
        if len(self) >= _MOST_SHAPES:
            self.clear()
        self[header] = shape
        return shape


_MOST_SHAPES = 4096
_SHAPES_5, _SHAPES_4 = _Shapes(5), _Shapes(4)

# Tables of what the rules of _marks say: the mark by type and code, whether a mark fits the one before it, and
# whether a save ends with it. A CRC record has no data, so here its type is none.
_TYPES = frozenset(type.value for type in RecordType) - {RecordType.CRC.value}
MARKS = bytes(mark_of(type, code << 59) if type in _TYPES else Mark.INVALID for type in range(16) for code in range(16))
FITS = bytes(mark < Mark.INVALID and fits(mark, before) for before in range(32) for mark in range(8))
ENDS = bytes(ends_save(mark) for mark in range(256))


def walk(data: bytes, at: int, crc: int, mark: int, run: Run) -> Walk:
    """
    Walk frames as long as they are whole, canonical and right, and append them to the run.

    Args:
        data: A part of a segment.
        at: Where to begin in it.
        crc: The CRC chain there.
        mark: The mark of the frame before.
        run: The frames before.
    """
    begin = at
    records: list[int] = []
    values: list[bytes] = []
    lengths: list[int] = []
    codes: list[int] = []
    add_record, add_value, add_length, add_code = records.append, values.append, lengths.append, codes.append
    unpack, shapes_5, shapes_4 = _WORDS.unpack_from, _SHAPES_5, _SHAPES_4
    last = len(data) - _WORDS.size
    for _ in range(LANES):
        if at > last:
            break
        header, record, field = unpack(data, at)
        if record & _MASK_5 == _FORM_5 and record >= _LEAST_5:
            shape = shapes_5[header]
        elif record & _MASK_4 == _FORM_4 and record & _LAST_DIGIT_4:
            shape = shapes_4[header]
            record ^= _4_AS_5
        else:
            break
        if shape is None:
            break
        length, stop, start, mask, expected, code = shape
        if field & mask != expected:
            break
        add_record(record)
        add_value(data[at + start : at + stop])
        add_length(length)
        add_code(code)
        at += length
    if at > len(data):  # the last one goes on behind the chunk
        del records[-1], values[-1], lengths[-1], codes[-1]
    count = len(values)
    if count:
        # What is gathered is well-formed. Right it is as far as each CRC is that of the data behind the CRC before,
        # and each mark fits the one before.
        packed = struct.pack(f"<{count}Q", *records)
        types = packed[1::8]
        found = _varints(int.from_bytes(packed, "little") >> 24, count, 5)
        right = tuple(extend_each(chain((crc,), found), values))
        marks = _beside(types, bytes(codes), 4).translate(MARKS)
        fitting = _beside(bytes((mark,)) + marks[:-1], marks, 3).translate(FITS)
        if found != right or 0 in fitting:
            count = next(k for k in range(count) if found[k] != right[k] or not fitting[k])
    if not count:
        return Walk(begin, crc, mark, 0, begin, crc, mark)
    whole = marks.translate(ENDS).rfind(1, 0, count) + 1
    before = len(run)
    run.types += types[:count]
    run.values += values[:count]
    run.lengths += lengths[:count]
    at = begin + sum(lengths[:count])
    crc, mark = found[count - 1], marks[count - 1]
    if not whole:
        return Walk(at, crc, mark, 0, begin, 0, 0)
    end = at - sum(lengths[whole:count])
    return Walk(at, crc, mark, before + whole, end, found[whole - 1], marks[whole - 1])


def _beside(high: bytes, low: bytes, bits: int) -> bytes:
    """Return bytes with those of ``low`` in their lower bits and those of ``high`` above."""
    return (int.from_bytes(high, "little") << bits | int.from_bytes(low, "little")).to_bytes(len(low), "little")


# ------------------------------------------------------------------------------------------------- unmarshal


_first_word = itemgetter(slice(8))
_new = object.__new__

_Prefix = tuple[bytes, bytes, int]


class _Prefixes(dict[int, _Prefix]):
    """
    How a canonical payload without a type begins, by its size, if its index has so many digits.

    That is the first word, the bits of it that are not the index or data, and the place where the data begin.
    """

    def __init__(self, digits: int) -> None:
        self._digits = digits

    def __missing__(self, size: int) -> _Prefix:
        index = bytes([0x80] * (self._digits - 1) + [0])
        for width in range(4):
            begin = 1 + len(index) + (1 + width if width else 0)
            field = b"\x1a" + varint(size - begin) if width and size > begin else b""
            form = b"\x08" + index + field
            if len(form) == begin <= 8 and (width or size == begin):
                mask = b"\xff" + b"\x80" * len(index) + b"\xff" * len(field)
                prefix = form.ljust(8, b"\0"), mask.ljust(8, b"\0"), begin
                break
        else:
            prefix = b"\1" * 8, b"\0" * 8, 0  # which nothing is equal to
        if len(self) >= _MOST_SHAPES:
            self.clear()
        self[size] = prefix
        return prefix


_PREFIXES = [_Prefixes(digits) for digits in range(6)]


def unmarshal_entries(values: Sequence[bytes], first: int) -> list[Entry] | None:
    """
    Return the entries with these payloads if their indexes are ``first``, ``first + 1``, ...

    ``None`` if they are not, or if one is not canonical: has a type, or takes more than a word in front of its data.
    There are at most ``LANES`` of them.
    """
    # A canonical payload is: 08 index ... 1a length ... data
    count = len(values)
    digits = -(-first.bit_length() // 7)
    if not 0 < digits < len(_PREFIXES):
        return None
    prefixes = _PREFIXES[digits]
    forms: Iterable[bytes]
    masks: Iterable[bytes]
    begins: Iterable[int]
    if len(sizes := set(map(len, values))) == 1:
        form, mask, begin = prefixes[sizes.pop()]
        forms, masks, begins = repeat(form, count), repeat(mask, count), repeat(begin, count)
    else:
        forms, masks, begins = zip(*map(prefixes.__getitem__, map(len, values)), strict=True)
    words = b"".join(map(_first_word, values))
    if len(words) < 8 * count:
        words = b"".join([value[:8].ljust(8, b"\0") for value in values])
    lanes = int.from_bytes(words, "little")
    if lanes & int.from_bytes(b"".join(masks), "little") != int.from_bytes(b"".join(forms), "little"):
        return None
    indexes = _varints(lanes >> 8, count, digits)
    if indexes != tuple(range(first, first + count)):
        return None
    datas = [value[begin:] for value, begin in zip(values, begins, strict=True)]
    return make_entries(indexes, datas)


def make_entries(indexes: Sequence[int], datas: Sequence[bytes]) -> list[Entry]:
    """Return ``list(map(Entry, indexes, datas))`` in half the time, without a call for each."""
    entries = list(map(_new, repeat(Entry, len(datas))))
    for entry, index, data in zip(entries, indexes, datas, strict=True):
        entry.index = index
        entry.data = data
        entry.type = 0
    return entries
