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

    * Only zeros from D on (but for stamps), and no save open: the log ends here, **clean**.
    * D is in a segment that is not the last, or in a head: those were synced before the next thing happened.
      **Corrupt**.
    * The frame at D is intact and only its mark or its type is wrong. A crash loses whole sectors, it does not
      alter one byte of a frame: **corrupt**.
    * The segment was closed behind D (see ``_stamp``), so nothing was unfinished: **corrupt**.
    * A frame that says "synced before" lies behind D. It was written after a sync of everything before it, so
      the bytes at D had been on disk: **corrupt**. An unmarked frame counts as one, since nobody knows. Every
      multiple of eight to the end of the file is looked at. Only what certainly belongs to the frame at D is
      stepped over, since a payload may contain anything: the header at D tells where that frame ends, and is
      believed if a frame stands there whose CRC continues the one at D. From there on, the same again.
    * Otherwise nothing says that the bytes at D were ever synced: **torn**. The last whole save before D is the
      end of the log.

    So a save that was acknowledged is never cut if the first bytes of any later group's first frame are intact.
    What this cannot tell from a crash is damage to the last group alone of a log that was not closed; repair
    keeps a copy of what it cuts. A payload that contains frames may make a torn end look corrupt: that is an
    error without loss, which ``repair(force=True)`` overrides.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntEnum
from typing import NamedTuple

from ._crc32c import extend
from ._frame import ALIGNMENT, HEADER, MAX_RECORD_BYTES, PREFIX_BYTES, RecordType, frame_bytes, parse_record
from ._stamp import STAMP_BYTES, Stamp, find_stamps

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


def _codes(type: int) -> dict[int, int]:
    return {mark.value: codes[type in _EVEN_TYPES] for mark, codes in _CODES.items()}


CODES: dict[int, dict[int, int]] = {type.value: _codes(type) for type in RecordType}
"""The four bits of each mark, by record type."""

_MARKS = {
    type: bytes(next((m for m, c in codes.items() if c == code), _INVALID) for code in range(16))
    for type, codes in CODES.items()
}
_UNKNOWN_TYPE = bytes(_NONE if code == 0 else _INVALID for code in range(16))


def mark_of(type: int, header: int) -> int:
    """Return the mark of a frame of this type with this header, as a plain integer."""
    return _MARKS.get(type, _UNKNOWN_TYPE)[header >> 59 & 15]


def marks_of_save(count: int, *, synced: bool) -> list[int]:
    """Return the marks of a save of ``count`` records; ``synced``: all earlier bytes of the segment are synced."""
    if count == 1:
        return [_ONLY if synced else _LAST]
    return [_FIRST if synced else _MORE, *[_MORE] * (count - 2), _LAST]


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
    read: Read,
    size: int,
    damage: Damage,
    *,
    crc: int | None,
    save_open: bool,
    head_complete: bool,
    last_segment: bool,
) -> tuple[Verdict, str]:
    """
    Say what the end of a walk means: a clean end, a torn write or corruption. The module's head has the reasons.

    Args:
        read: Reads the segment; it is asked for little more than ``CHUNK_BYTES`` at once.
        size: The length of the file in bytes.
        damage: Where the walk ended, and why.
        crc: The CRC chain behind the last whole save.
        save_open: Whether frames of an unfinished save lie before ``damage.offset``.
        head_complete: Whether the segment's head was walked.
        last_segment: Whether the log has no later segment.

    Returns:
        The verdict and its reason in words.
    """
    what = damage.cause.value
    if not head_complete:
        return Verdict.CORRUPT, f"{what}; the segment's head is incomplete"
    only_zeros, stamp = _rest(read, size, damage.offset)
    closed_behind = stamp if stamp and stamp.end >= damage.offset and stamp != (damage.offset, crc) else None
    if only_zeros and not closed_behind:
        if not save_open:
            return Verdict.CLEAN, what
        what = "the last save is not complete"
    if not last_segment:
        return Verdict.CORRUPT, f"{what}; later segments follow"
    if damage.cause in (Cause.MARK, Cause.TYPE, Cause.HEAD):
        return Verdict.CORRUPT, what
    if closed_behind:
        return Verdict.CORRUPT, f"{what}; the log was closed with its end at byte {closed_behind.end:,}"
    evidence = _find_synced_later(read, size, damage)
    if evidence is not None:
        return Verdict.CORRUPT, f"{what}; a frame at byte {evidence:,} was written after a sync of this place"
    return Verdict.TORN, f"{what} (the save that begins here was not finished)"


def _rest(read: Read, size: int, at: int) -> tuple[bool, Stamp | None]:
    """Tell whether there are only zeros and stamps from ``at`` on, and return the last one's stamp."""
    only_zeros = True
    last: Stamp | None = None
    zeros = bytes(CHUNK_BYTES)
    while at < size:
        # Chunks end at multiples of their size, so that no stamp lies across.
        chunk = read(at, min(CHUNK_BYTES - at % CHUNK_BYTES, size - at))
        if not chunk:
            break  # truncated meanwhile
        length = len(chunk)
        if chunk != zeros[:length]:
            for place, stamp in find_stamps(chunk, at):
                chunk = chunk[:place] + zeros[:STAMP_BYTES] + chunk[place + STAMP_BYTES :]
                last = stamp
            only_zeros = only_zeros and chunk == zeros[:length]
        at += length
        del chunk  # before there is the next one
    return only_zeros, last


class _Found(NamedTuple):
    """A well-formed frame."""

    length: int
    type: int
    crc: int
    data: int
    """Where its data begin, and ``stop`` where they end, from the start of the frame."""
    stop: int
    synced: bool
    """Whether it says "synced before", or nothing."""


def _find_synced_later(read: Read, size: int, damage: Damage) -> int | None:
    """Return the offset of a frame behind D that was written after a sync, or is unmarked."""
    at = damage.offset
    search_from = at + ALIGNMENT
    before = _frame_at(read(at, PREFIX_BYTES), 0, size - at)
    while before is not None:
        at += before.length
        frame = _frame_at(read(at, PREFIX_BYTES), 0, size - at)
        if frame is None or _chain(read, at, frame, before.crc) != frame.crc:
            break
        if frame.synced:
            return at
        search_from = at + ALIGNMENT
        before = frame
    return _search(read, size, search_from)


def _chain(read: Read, at: int, frame: _Found, crc: int) -> int:
    """Return the CRC chain behind the frame at ``at``, if it is ``crc`` in front of it."""
    for offset in range(at + frame.data, at + frame.stop, CHUNK_BYTES):
        crc = extend(crc, read(offset, min(CHUNK_BYTES, at + frame.stop - offset)))
    return crc


def _frame_at(data: bytes, at: int, rest: int) -> _Found | None:
    """Return the well-formed frame at ``at``, of which the first bytes are there; ``None`` if there is none."""
    if rest < ALIGNMENT or len(data) - at < ALIGNMENT:
        return None
    (header,) = HEADER.unpack_from(data, at)
    length = frame_bytes(header)
    if not length or length > rest:
        return None
    start = at + ALIGNMENT
    stop = start + (header & MAX_RECORD_BYTES)
    record = parse_record(data, start, stop)
    if record is None or record[0] not in _MARKS:
        return None
    type, crc, begin = record
    mark = mark_of(type, header)
    if mark == _INVALID:
        return None
    return _Found(length, type, crc, begin - at, stop - at, synced=mark in (_NONE, _ONLY, _FIRST))


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
_TYPES = bytes(byte in _MARKS for byte in range(256))
# Behind the type stands the tag of the CRC or of the data; or, in a record of two bytes, anything.
_TAGS = bytes(byte in (0x10, 0x1A) for byte in range(256))
_TWO_BYTES = bytes(byte == 2 for byte in range(256))


def _search(read: Read, size: int, at: int) -> int | None:
    """
    Look at every multiple of eight from ``at`` on.

    The telling bytes of all places in a chunk are looked up and combined at once, as large integers: searching
    64 MB takes a fraction of a second, where a loop over the places would take many.
    """
    while size - at > ALIGNMENT:
        # The last bytes are there to read a frame's prefix from, not to look for another frame in.
        chunk = read(at, min(CHUNK_BYTES, size - at) + PREFIX_BYTES)
        count = len(chunk[ALIGNMENT : ALIGNMENT + CHUNK_BYTES : ALIGNMENT])

        def those(byte: int, table: bytes, chunk: bytes = chunk, count: int = count) -> int:
            """Return the places whose byte of this number is in the table, as one byte each of an integer."""
            return int.from_bytes(chunk[byte::ALIGNMENT].translate(table)[:count], "little")

        candidates = those(ALIGNMENT, _RECORD_BEGINS) & those(ALIGNMENT - 1, _TOPS) & those(ALIGNMENT + 1, _TYPES)
        candidates &= those(ALIGNMENT + 2, _TAGS) | those(0, _TWO_BYTES)
        places = candidates.to_bytes(count, "little")
        place = places.find(1)
        while place >= 0:
            frame = _frame_at(chunk, place * ALIGNMENT, size - at - place * ALIGNMENT)
            if frame is not None and frame.synced:
                return at + place * ALIGNMENT
            place = places.find(1, place + 1)
        at += CHUNK_BYTES
    return None
