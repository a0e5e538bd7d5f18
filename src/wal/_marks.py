# SPDX-License-Identifier: Apache-2.0
"""
Save marks: how a reader knows which frames are one save, and whether damage is a torn write or rot.

The problem
    A crash may leave any part of what was written since the last sync. So after a crash the end of a log may be
    half a save, and damage there is normal: cut it off, nobody was told that it is safe. The same damage to
    bytes that *had* been synced is rot in data that somebody relies on: cutting there would lose it. The frames
    of the Go formats do not tell one from the other.

The idea
    Each frame says two things in four bits that the Go readers skip: whether **everything before it in the
    segment was on stable storage before it was written**, and whether its **save ends** with it.

    ======  =============  =========  ============  =========
    mark    synced before  save ends  types 1 2 4   types 3 5
    ======  =============  =========  ============  =========
    ONLY    yes            yes        1110          1111
    FIRST   yes            no         1101          1100
    MORE    no             no         1011          1010
    LAST    no             yes        0111          0110
    ======  =============  =========  ============  =========

    No two codes of a column are one bit apart, and a type and its code have an even number of ones together.
    So a single flipped bit in a code, or in the type, which no CRC covers, makes a pair that nobody writes.
    ``0000`` is a frame without a mark, from a Go writer or with marks turned off: a save by itself.

The writer
    A save is *only* or *first, more, ..., last* if all earlier bytes of the segment had been synced before it
    was written, else *last* or *more, ..., last*. No write begins while a sync is in flight.

The reader
    It walks the frames up to the first offset D without a good frame (well-formed, CRC right, mark fits), and
    then has to say what the damage at D means. ``judge`` does:

    * Only zeros from D on, and no save open: the log ends here, **clean**.
    * D is in a segment that is not the last, or in a head: those were synced before the next thing happened.
      **Corrupt**.
    * The frame at D is intact and only its mark or its type is wrong. A crash loses whole sectors, it does not
      alter one byte of a frame: **corrupt**.
    * A frame that says "synced before" lies behind D. It was written after a sync of everything before it, so
      the bytes at D had been on disk: **corrupt**. An unmarked frame counts as one, since nobody knows. It is
      looked for in two ways. If the frame at D is well-formed, its length tells where the next one begins, and
      so on; that steps over payloads, which may contain anything. Where no frame follows, every multiple of
      eight to the end of the file is looked at.
    * Otherwise nothing says that the bytes at D were ever synced: **torn**. The last whole save before D is the
      end of the log.

    So a save that was acknowledged is never cut if the first bytes of any later group's first frame are intact.
    What this cannot tell from a crash is damage to the last group alone; repair keeps a copy of what it cuts.
    A payload that contains frames may make a torn end look corrupt, if its own frame's header was lost: that is
    an error without loss, which ``repair(force=True)`` overrides.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntEnum
from typing import NamedTuple

from ._frame import ALIGNMENT, HEADER, PREFIX_BYTES, RecordType, frame_bytes, parse_record

__all__ = ["Cause", "Damage", "Mark", "Read", "Verdict", "fits", "judge", "mark_of", "marks_of_save"]

Read = Callable[[int, int], bytes]
"""``read(offset, length)`` returns that part of a segment, shorter only at its end."""

CHUNK_BYTES = 1 << 18


class Mark(IntEnum):
    """What a frame says about the bytes before it and about its save."""

    NONE = 0
    ONLY = 1
    FIRST = 2
    MORE = 3
    LAST = 4
    INVALID = 5


# The plain integers behind the names: what the loops over frames compare with.
_NONE, _ONLY, _FIRST, _MORE, _LAST, _INVALID = (mark.value for mark in Mark)

_CODES = {
    Mark.NONE: (0b0000, 0b0000),
    Mark.ONLY: (0b1110, 0b1111),
    Mark.FIRST: (0b1101, 0b1100),
    Mark.MORE: (0b1011, 0b1010),
    Mark.LAST: (0b0111, 0b0110),
}
_EVEN_TYPES = (RecordType.STATE, RecordType.SNAPSHOT)  # an even number of ones


def _codes(type: int) -> dict[Mark, int]:
    return {mark: codes[type in _EVEN_TYPES] for mark, codes in _CODES.items()}


CODES: dict[int, dict[Mark, int]] = {type.value: _codes(type) for type in RecordType}
"""The four bits of each mark, by record type."""

_MARKS = {
    type: bytes(next((m for m, c in codes.items() if c == code), _INVALID) for code in range(16))
    for type, codes in CODES.items()
}
_UNKNOWN_TYPE = bytes(_NONE if code == 0 else _INVALID for code in range(16))


def mark_of(type: int, header: int) -> int:
    """Return the mark of a frame of this type with this header, as a plain integer."""
    return _MARKS.get(type, _UNKNOWN_TYPE)[header >> 59 & 15]


def marks_of_save(count: int, *, synced: bool) -> list[Mark]:
    """Return the marks of a save of ``count`` records; ``synced``: all earlier bytes of the segment are synced."""
    if count == 1:
        return [Mark.ONLY if synced else Mark.LAST]
    return [Mark.FIRST if synced else Mark.MORE, *[Mark.MORE] * (count - 2), Mark.LAST]


def fits(mark: int, before: int | None) -> bool:
    """
    Tell whether a frame with ``mark`` can follow one with the mark ``before`` (``None``: begins a segment).

    A save that begins after a sync cannot stand inside another save. One that begins without a sync cannot
    begin a segment, nor follow an unmarked frame: a writer of marks that opens a log syncs it first.
    """
    if mark in (_ONLY, _FIRST):
        return before is None or before in (_NONE, _ONLY, _LAST)
    if mark in (_MORE, _LAST):
        return before is not None and before != _NONE
    return mark == _NONE


def ends_save(mark: int) -> bool:
    """Tell whether a save ends with a frame that has this mark."""
    return mark in (_NONE, _ONLY, _LAST)


class Cause(Enum):
    """Why the walk could not go on at D; the values are the reasons in words."""

    END = "the log ends here"
    MALFORMED = "no well-formed frame begins here"
    CRC = "the checksum is wrong"
    MARK = "the record is intact, but its save mark cannot stand here"
    TYPE = "the record is intact, but its type is not known"
    HEAD = "a segment begins with a CRC record and a metadata record"


class Damage(NamedTuple):
    """What the walk found at D. ``frame_bytes`` is the length of the frame there, 0 if it is not well-formed."""

    offset: int
    cause: Cause
    frame_bytes: int = 0


class Verdict(Enum):
    """What the damage at D means."""

    CLEAN = "clean"
    TORN = "torn"
    CORRUPT = "corrupt"


def judge(
    read: Read, size: int, damage: Damage, *, save_open: bool, head_complete: bool, last_segment: bool
) -> tuple[Verdict, str]:
    """
    Say what the end of a walk means: a clean end, a torn write or corruption. The module's head has the reasons.

    Args:
        read: Reads the segment; it is asked for little more than ``CHUNK_BYTES`` at once.
        size: The length of the file in bytes.
        damage: Where the walk ended, and why.
        save_open: Whether frames of an unfinished save lie before ``damage.offset``.
        head_complete: Whether the segment's head was walked.
        last_segment: Whether the log has no later segment.

    Returns:
        The verdict and its reason in words.
    """
    what = damage.cause.value
    if not head_complete:
        return Verdict.CORRUPT, f"{what}; the segment's head is incomplete"
    if _only_zeros(read, size, damage.offset):
        if not save_open:
            return Verdict.CLEAN, what
        what = "the last save is not complete"
    if not last_segment:
        return Verdict.CORRUPT, f"{what}; later segments follow"
    if damage.cause in (Cause.MARK, Cause.TYPE, Cause.HEAD):
        return Verdict.CORRUPT, what
    evidence = _find_synced_later(read, size, damage)
    if evidence is not None:
        return Verdict.CORRUPT, f"{what}; a frame at byte {evidence:,} was written after a sync of this place"
    return Verdict.TORN, f"{what} (the save that begins here was not finished)"


def _only_zeros(read: Read, size: int, at: int) -> bool:
    zeros = bytes(CHUNK_BYTES)
    while at < size:
        chunk = read(at, min(CHUNK_BYTES, size - at))
        if not chunk:
            return True  # truncated meanwhile
        if chunk != zeros[: len(chunk)]:
            return False
        at += len(chunk)
    return True


def _find_synced_later(read: Read, size: int, damage: Damage) -> int | None:
    """Return the offset of a frame behind D that was written after a sync, or is unmarked."""
    if not damage.frame_bytes:
        return _search(read, size, damage.offset + ALIGNMENT)
    at = damage.offset + damage.frame_bytes
    base, chunk = at, b""
    while True:
        if at + PREFIX_BYTES > base + len(chunk):
            base, chunk = at, read(at, CHUNK_BYTES)
        frame = _frame_at(chunk, at - base, size - at)
        if frame is None:
            return _search(read, size, at)
        length, synced = frame
        if synced:
            return at
        at += length


def _frame_at(data: bytes, at: int, rest: int) -> tuple[int, bool] | None:
    """Return the length of the well-formed frame at ``at`` and whether it says "synced before"; else ``None``."""
    if rest < ALIGNMENT or len(data) - at < ALIGNMENT:
        return None
    (header,) = HEADER.unpack_from(data, at)
    length = frame_bytes(header)
    if not length or length > rest:
        return None
    start = at + ALIGNMENT
    record = parse_record(data, start, start + (header & (1 << 56) - 1))
    if record is None or record[0] not in _MARKS:
        return None
    mark = mark_of(record[0], header)
    return None if mark == _INVALID else (length, mark in (_NONE, _ONLY, _FIRST))


# A frame that says "synced before", or nothing, has one of these top bytes, and its record begins with 08.
_TOPS = bytes(
    any(
        top & 0x78 == code << 3
        for codes in CODES.values()
        for code in (codes[Mark.NONE], codes[Mark.ONLY], codes[Mark.FIRST])
    )
    and (top & 0x80 != 0) == (top & 0x07 != 0)
    for top in range(256)
)
_RECORD_BEGINS = bytes(byte == 0x08 for byte in range(256))


def _search(read: Read, size: int, at: int) -> int | None:
    """
    Look at every multiple of eight from ``at`` on.

    Both bytes of all places in a chunk are looked up and combined at once, as two large integers: searching
    64 MB takes about a tenth of a second, where a loop over the places would take seconds.
    """
    while size - at > ALIGNMENT:
        chunk = read(at, min(CHUNK_BYTES, size - at) + PREFIX_BYTES)
        # The last bytes are there to read a frame's prefix from, not to look for another frame in.
        begins = chunk[ALIGNMENT : ALIGNMENT + CHUNK_BYTES : ALIGNMENT].translate(_RECORD_BEGINS)
        tops = chunk[ALIGNMENT - 1 :: ALIGNMENT].translate(_TOPS)[: len(begins)]
        both = int.from_bytes(tops, "little") & int.from_bytes(begins, "little")
        places = both.to_bytes(len(begins), "little")
        place = places.find(1)
        while place >= 0:
            offset = at + place * ALIGNMENT
            frame = _frame_at(chunk, place * ALIGNMENT, size - offset)
            if frame is not None and frame[1]:
                return offset
            place = places.find(1, place + 1)
        at += CHUNK_BYTES
    return None
