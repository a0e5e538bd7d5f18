# SPDX-License-Identifier: Apache-2.0
"""
CRC-32C of short data, for mypyc: calling one of the packages of ``_crc32c`` takes longer than computing it here.

Sixteen bytes are taken at a time ("slicing by 16"). The table at place p has what a byte contributes that p more bytes
of the sixteen follow.
"""

from __future__ import annotations

import struct
from typing import Final

from librt.strings import read_i32_le, read_i64_le
from mypy_extensions import i64

__all__ = ["SHORT", "extend_short"]

SHORT: Final = 256
"""Longer data are a matter for packages that use the processor's instruction for it."""

_POLYNOMIAL: Final = 0x82F63B78  # its bits are in the reverse order
_PLACES: Final = 16


def _make_tables() -> bytes:
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0) for crc in table]
    tables = [table]
    while len(tables) < _PLACES:
        tables.append([table[crc & 0xFF] ^ crc >> 8 for crc in tables[-1]])
    return b"".join([struct.pack("<256I", *each) for each in tables])


_TABLES: Final = _make_tables()


def extend_short(crc: i64, data: bytes) -> i64:
    """Return ``crc`` continued over data of any length."""
    tables: bytes = _TABLES
    stop: i64 = len(data)
    at: i64 = 0
    crc ^= 0xFFFFFFFF
    while at + 16 <= stop:
        a = read_i64_le(data, at) ^ crc
        b = read_i64_le(data, at + 8)
        # Four bytes of a table's entry for each byte. An arithmetic shift is as good as any, for one byte of it.
        crc = 0xFFFFFFFF & (
            i64(read_i32_le(tables, 15 << 10 | a << 2 & 0x3FC))
            ^ i64(read_i32_le(tables, 14 << 10 | a >> 6 & 0x3FC))
            ^ i64(read_i32_le(tables, 13 << 10 | a >> 14 & 0x3FC))
            ^ i64(read_i32_le(tables, 12 << 10 | a >> 22 & 0x3FC))
            ^ i64(read_i32_le(tables, 11 << 10 | a >> 30 & 0x3FC))
            ^ i64(read_i32_le(tables, 10 << 10 | a >> 38 & 0x3FC))
            ^ i64(read_i32_le(tables, 9 << 10 | a >> 46 & 0x3FC))
            ^ i64(read_i32_le(tables, 8 << 10 | a >> 54 & 0x3FC))
            ^ i64(read_i32_le(tables, 7 << 10 | b << 2 & 0x3FC))
            ^ i64(read_i32_le(tables, 6 << 10 | b >> 6 & 0x3FC))
            ^ i64(read_i32_le(tables, 5 << 10 | b >> 14 & 0x3FC))
            ^ i64(read_i32_le(tables, 4 << 10 | b >> 22 & 0x3FC))
            ^ i64(read_i32_le(tables, 3 << 10 | b >> 30 & 0x3FC))
            ^ i64(read_i32_le(tables, 2 << 10 | b >> 38 & 0x3FC))
            ^ i64(read_i32_le(tables, 1 << 10 | b >> 46 & 0x3FC))
            ^ i64(read_i32_le(tables, b >> 54 & 0x3FC))
        )
        at += 16
    while at < stop:
        byte: i64 = data[at]
        crc = i64(read_i32_le(tables, (crc ^ byte) << 2 & 0x3FC)) & 0xFFFFFFFF ^ crc >> 8
        at += 1
    return crc ^ 0xFFFFFFFF
