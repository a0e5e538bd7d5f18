# SPDX-License-Identifier: Apache-2.0
"""
``_codec`` once more, for mypyc: the same functions, results and refusals.

Compiled, this takes a quarter of the time of ``_codec``; interpreted, it would take several times as much. Here bytes
are written one after the other, with machine integers: ``BytesWriter`` compiles to plain stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from librt.strings import BytesWriter, write_i64_le
from mypy_extensions import i64, u8

from ._crc32c import DATA_FIRST, crc_backend, native
from ._crc32c_compiled import SHORT, extend_short
from ._frame import Payload, RecordType
from ._marks import CODES, Mark
from ._records import Entry, LogEntry

__all__ = ["encode_group", "marshal_entries"]

_ENTRY: Final = 2
assert RecordType.ENTRY.value == _ENTRY  # mypyc knows the numbers of Final names only if they stand there

_LONG: Final = 512
"""Data of so many bytes do not go through the writer, which would copy them once more."""


def marshal_entries(
    entries: Iterator[LogEntry], records: list[Payload], expected: int | None, max_record_bytes: int
) -> tuple[list[LogEntry], int | None]:
    """See ``_codec``. Here an index or a type is canonical if it is a small integer, and data of any length are."""
    longest: i64 = min(max_record_bytes, 2**60) - 40  # less than 40 bytes stand before the data
    next_index: i64 = -1
    if expected is not None:
        if not 0 <= expected < 2**60:
            return _first_of(entries), expected
        next_index = expected
    entry_class: Any = Entry
    out = BytesWriter()
    entry: Any
    for entry in entries:
        if type(entry) is not entry_class:
            break
        its_index: Any = entry.index
        data: Any = entry.data
        its_kind: Any = entry.type
        if type(its_index) is not int or type(data) is not bytes or type(its_kind) is not int:
            break
        wide_index: int = its_index
        wide_kind: int = its_kind
        if not 0 < wide_index < 2**60 or not 0 <= wide_kind < 2**60:
            break
        index: i64 = wide_index
        kind: i64 = wide_kind
        payload: bytes = data
        length: i64 = len(payload)
        if length > longest or next_index not in (index, -1):
            break
        out.truncate(0)
        out.append(0x08)
        _write_varint(out, index)
        if kind:
            out.append(0x10)
            _write_varint(out, kind)
        if length:
            out.append(0x1A)
            _write_varint(out, length)
        if length < _LONG:
            out.write(payload)
            records.append((_ENTRY, out.getvalue()))
        else:
            records.append((_ENTRY, out.getvalue() + payload))
        next_index = index + 1
    else:
        return [], next_index if next_index != -1 else expected
    return [entry], next_index if next_index != -1 else expected


def _first_of(entries: Iterator[LogEntry]) -> list[LogEntry]:
    """Return the next entry, if there is one."""
    for entry in entries:
        return [entry]
    return []


def _write_varint(out: BytesWriter, value: i64) -> None:
    while value >= 0x80:
        out.append(u8(value & 0x7F | 0x80))
        value >>= 7
    out.append(u8(value))


# The mark codes by type and mark, eight to a type.
_CODES: Final = bytes([CODES.get(number >> 3, {}).get(number & 7, 0) for number in range(48)])
_SHORT = 2**60 if crc_backend().startswith("crcmod") else SHORT  # that one takes longer for any length

_NONE: Final = 0
_ONLY: Final = 1
_FIRST: Final = 2
_MORE: Final = 3
_LAST: Final = 4
assert [mark.value for mark in Mark][:5] == [_NONE, _ONLY, _FIRST, _MORE, _LAST]


def encode_group(saves: Sequence[Sequence[Payload]], crc: int, *, synced: bool, save_marks: bool) -> tuple[bytes, int]:
    """See ``_codec``."""
    codes: bytes = _CODES
    continued: Any = native
    data_first: bool = DATA_FIRST
    short: i64 = _SHORT
    pieces: list[bytes] = []
    out = BytesWriter()
    chain: i64 = crc
    mark: i64
    for save in saves:
        left: i64 = len(save)
        mark = _NONE if not save_marks else _FIRST if synced else _MORE
        synced = False
        for its_type, data in save:
            left -= 1
            if left == 0 and mark != _NONE:
                mark = _ONLY if mark == _FIRST else _LAST
            type: i64 = its_type
            length: i64 = len(data)
            if length < short:
                chain = extend_short(chain, data)
            else:
                chain = continued(data, chain) if data_first else continued(chain, data)
            padding = _write_prefix(out, type, chain, length, i64(codes[type << 3 | mark]))
            if length < _LONG:
                out.write(data)
            else:
                pieces.append(out.getvalue())
                pieces.append(data)
                out.truncate(0)
            while padding:
                out.append(0)
                padding -= 1
            if mark == _FIRST:
                mark = _MORE
    if not pieces:
        return out.getvalue(), chain
    pieces.append(out.getvalue())
    return b"".join(pieces), chain


def _write_prefix(out: BytesWriter, type: i64, crc: i64, length: i64, mark_code: i64) -> i64:
    """Write what stands before the data in a frame, and return how many bytes of padding stand behind it."""
    size: i64 = 2 + length
    if crc:
        size += 1 + _varint_bytes(crc)
    if length:
        size += 1 + _varint_bytes(length)
    padding = -size & 7
    top = mark_code << 3
    if padding:
        top |= 0x80 | padding
    write_i64_le(out, size | (top ^ 0x80) - 0x80 << 56)  # the top bit is the sign
    out.append(0x08)
    out.append(u8(type))
    if crc:
        out.append(0x10)
        _write_varint(out, crc)
    if length:
        out.append(0x1A)
        _write_varint(out, length)
    return padding


def _varint_bytes(value: i64) -> i64:
    count: i64 = 1
    while value >= 0x80:
        value >>= 7
        count += 1
    return count
