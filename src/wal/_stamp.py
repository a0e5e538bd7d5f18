# SPDX-License-Identifier: Apache-2.0
"""
The stamp: how a closed log says where it ends.

The frames of the last sync group cannot tell rot from a write that a crash left unfinished (see ``_marks``). But a
writer that is closed has finished all its writes. Once they are synced it writes a stamp and syncs that, and so
any damage in front of it is rot, whatever frames are hit.

::

    stamp   ┌──────────────────┬──────────────────┬───────────────┬───────────────┐
            │ "wal ends"       │ end: 8 bytes     │ chain: 4      │ check: 4      │
            └──────────────────┴──────────────────┴───────────────┴───────────────┘
            little endian; `end` is the offset behind the last frame, `chain` the CRC chain there,
            `check` the CRC-32C of the 20 bytes before

It stands at the first multiple of ``PAGE_BYTES`` that leaves at least one zero word behind the end. So a page that
is lost takes the last frames or the stamp, not both; and whoever does not know of stamps, such as the Go readers,
meets the zeros first and stops there. No frame begins like it.

A stamp stays true: what was on disk when it was written was on disk. It is zeroed before the next save only because
it would lie in the way. That needs no sync of its own, since a stamp that a crash brings back says nothing wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ._crc32c import extend
from ._frame import ALIGNMENT

__all__ = ["STAMP_BYTES", "Stamp", "encode_stamp", "find_stamps", "parse_stamp", "stamp_offset", "stamp_reach"]

PAGE_BYTES = 4096

_FORM = struct.Struct("<8sQI")
_CHECK = struct.Struct("<I")
_MAGIC = b"wal ends"  # read as a header, it has a padding of three bytes and no bit that says so
STAMP_BYTES = _FORM.size + _CHECK.size


class Stamp(NamedTuple):
    """What a stamp says: the segment's frames end at ``end``, with the chain at ``crc``, and all is synced."""

    end: int
    crc: int


def stamp_offset(end: int) -> int:
    """Return where the stamp of a segment stands whose frames end at ``end``."""
    behind = end + ALIGNMENT
    return behind + -behind % PAGE_BYTES


def stamp_reach(end: int) -> int:
    """Return how many bytes behind ``end`` there are up to the end of the stamp."""
    return stamp_offset(end) + STAMP_BYTES - end


def encode_stamp(stamp: Stamp) -> bytes:
    """Return the bytes of a stamp."""
    form = _FORM.pack(_MAGIC, *stamp)
    return form + _CHECK.pack(extend(0, form))


def parse_stamp(data: bytes, at: int) -> Stamp | None:
    """Read the stamp in ``data``, found at this offset in its segment; ``None`` if that is not one, or another's."""
    if len(data) < STAMP_BYTES or not data.startswith(_MAGIC):
        return None
    _, end, crc = _FORM.unpack_from(data)
    stamp = Stamp(end, crc)
    return stamp if stamp_offset(end) == at and encode_stamp(stamp) == data[:STAMP_BYTES] else None


def find_stamps(chunk: bytes, at: int) -> Iterator[tuple[int, Stamp]]:
    """Yield the stamps in a part of a segment that was read at ``at``, each with its place in the part."""
    for place in range(-at % PAGE_BYTES, len(chunk), PAGE_BYTES):
        stamp = parse_stamp(chunk[place : place + STAMP_BYTES], at + place)
        if stamp is not None:
            yield place, stamp
