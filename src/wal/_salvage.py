# SPDX-License-Identifier: Apache-2.0
"""
Salvage: the records of a log as they stand in it, and what can still be told behind damage.

Readers end at the first damage, since nobody knows what was there and what depends on it. Whoever looks into a
damaged log wants to see what is left all the same, and to know what of it is certain.

What is certain behind damage
    A record's CRC covers all data before it, so where bytes are lost the chain is lost too. But each CRC is the chain
    so far: if a frame A stands somewhere, and the frame B right behind it has the CRC that continues A's, then A's CRC
    is the chain, and B is intact. So reading goes on with the first such B that begins a save. A is not given out:
    its own data may be wrong. In the next segment the head says what the chain is, and that head is intact if the
    record behind it continues it.

    Two things look like that and are not. A payload that holds frames of a log, behind damage that hides where the
    payload begins; and old frames of this log, if the damage is that a disk has written them to a second place. So
    what is salvaged was written once, but need not have been written there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ._crc32c import extend, warn_if_slow
from ._decoder import Decoder, Position, Run, SegmentDecoder, goes_on
from ._errors import CorruptionError, SegmentGapError, WALNotFoundError
from ._files import OPERATING_SYSTEM, FileSystem, real_path
from ._frame import ALIGNMENT, HEADER, MAX_RECORD_BYTES, PREFIX_BYTES, RecordType, frame_bytes, parse_record
from ._marks import Mark, Read, mark_of
from ._names import SegmentName, select
from ._segments import list_segments, segments_from

__all__ = ["RawRecord", "count_frames", "raw_records"]

CHUNK_BYTES = 1 << 18

_CRC = RecordType.CRC.value
_TYPES = {type.value: type for type in RecordType}

OnDamage = Callable[[CorruptionError], None]


class RawRecord(NamedTuple):
    """
    One record of a log as it stands in it.

    Attributes:
        type: METADATA, ENTRY, STATE or SNAPSHOT.
        data: What was marshalled.
        path: The segment.
        offset: Where the record's frame begins in it, in bytes.
        length: How many bytes the frame takes, with its header and padding.
    """

    type: RecordType
    data: bytes
    path: Path
    offset: int
    length: int


def raw_records(
    path: str | os.PathLike[str],
    *,
    from_index: int = 0,
    on_damage: OnDamage | None = None,
    fs: FileSystem = OPERATING_SYSTEM,
) -> Iterator[RawRecord]:
    """
    Yield the records of a log as bytes, those of whole saves with right checksums, in the order of writing.

    It takes no lock, changes nothing, needs no record class, and works beside a live writer. Memory is bounded by
    the largest save. What the records say is not looked at: not whether indexes follow each other, nor whether the
    segments' metadata agree.

    Args:
        path: The log's directory.
        from_index: Begin at the segment in which the log has the entry of this index, instead of at the oldest one.
        on_damage: Called with each damage, a torn end included. Then reading goes on with the next save, in the
            same segment or a later one, that begins behind a frame whose checksum it continues; what is between is
            left out. By default, damage is raised and ends the reading.
        fs: The file system to read from.

    Raises:
        CorruptionError: The log is damaged, and ``on_damage`` was not given.
        WALNotFoundError: There is none; or a segment was purged while the log was read.
    """
    warn_if_slow()
    directory = real_path(path)
    names = list_segments(fs, directory)
    if on_damage is None or not names:
        names = segments_from(fs, directory, None)
    names = names[select(names, from_index) or 0 :]
    runs = Decoder(fs, directory, names) if on_damage is None else _all_runs(fs, directory, names, on_damage)
    return _records(runs)


def _records(runs: Decoder | Iterator[tuple[Path, Run]]) -> Iterator[RawRecord]:
    for path, run in runs:
        for (number, data, offset), length in zip(run, run.lengths, strict=True):
            if number != _CRC:
                yield RawRecord(_TYPES[number], data, path, offset, length)
    if isinstance(runs, Decoder) and runs.tail is not None:
        raise runs.tail


def _all_runs(
    fs: FileSystem, directory: Path, names: list[SegmentName], on_damage: OnDamage
) -> Iterator[tuple[Path, Run]]:
    """Yield what is whole in all segments."""
    crc: int | None = None
    for before, name in pairwise([None, *names]):
        assert name is not None
        if before is not None and name.sequence != before.sequence + 1:
            on_damage(
                SegmentGapError(directory, 0, f"segment {name} follows {before}: what was between them is missing")
            )
            crc = None
        decoder = Decoder(fs, directory, [name])
        if before is not None:
            decoder.position = Position(0, crc, None)
        try:
            yield from decoder
            damage: CorruptionError | None = decoder.tail
        except CorruptionError as error:
            damage = error
        except WALNotFoundError:
            if name in list_segments(fs, directory):
                raise
            crc = None
            continue  # purged since it was listed
        crc = decoder.position.crc
        if damage is not None:
            on_damage(damage)
            crc = yield from _behind(decoder, damage.offset, on_damage)


def _behind(decoder: Decoder, at: int, on_damage: OnDamage) -> Generator[tuple[Path, Run], None, int | None]:
    """Yield what is whole behind damage in a segment; return the chain at its end, ``None`` if that is not known."""
    with decoder._open() as file:
        while (start := _next_save(file.read, file.size(), at)) is not None:
            segment = SegmentDecoder(file.read, file.size(), start, ())
            for run in segment.saves():
                yield decoder.path, run
            damage = decoder._error(segment)
            if damage is None or goes_on(segment, file):
                return segment.position.crc
            on_damage(damage)
            assert segment.damage is not None
            at = max(segment.damage.offset, start.offset)
    return None


# ---------------------------------------------------------------------------------------------------- search


class _Frame(NamedTuple):
    """A well-formed frame, of any type and with any mark."""

    offset: int
    length: int
    type: int
    crc: int
    mark: int
    begin: int
    """Where its data begin, and ``end`` where they end."""
    end: int


def _frame_at(read: Read, size: int, at: int) -> _Frame | None:
    """Return the well-formed frame at ``at``; ``None`` if there is none."""
    prefix = read(at, min(PREFIX_BYTES, size - at))
    if len(prefix) <= ALIGNMENT:
        return None
    (header,) = HEADER.unpack_from(prefix)
    length = frame_bytes(header)
    if not 0 < length <= size - at:
        return None
    stop = ALIGNMENT + (header & MAX_RECORD_BYTES)
    record = parse_record(prefix, ALIGNMENT, stop)
    if record is None:
        return None
    type, crc, begin = record
    return _Frame(at, length, type, crc, mark_of(type, header), at + begin, at + stop)


def _frames(read: Read, size: int, at: int) -> Iterator[_Frame]:
    """Yield the well-formed frames at every multiple of eight from ``at`` on, those inside of others included."""
    while size - at > ALIGNMENT:
        chunk = read(at, min(CHUNK_BYTES + ALIGNMENT, size - at))
        if len(chunk) <= ALIGNMENT:
            return  # the file has become shorter
        records = chunk[ALIGNMENT::ALIGNMENT]  # the bytes with which records would begin
        place = records.find(0x08)
        while place >= 0:
            frame = _frame_at(read, size, at + place * ALIGNMENT)
            if frame is not None:
                yield frame
            place = records.find(0x08, place + 1)
        at += len(records) * ALIGNMENT


_MOST = 16
"""A search reads no more than so many times the segment's length, whatever bytes are there."""


def _next_save(read: Read, size: int, at: int) -> Position | None:
    """Return the first place from ``at`` on where a save begins, behind a frame whose chain it continues."""
    left = _MOST * size
    for before in _frames(read, size, at):
        frame = _frame_at(read, size, before.offset + before.length)
        if frame is None or not _begins_save(frame, before):
            continue
        crc = before.crc
        left -= frame.length
        if left < 0:
            return None
        for begin in range(frame.begin, frame.end, CHUNK_BYTES):
            crc = extend(crc, read(begin, min(CHUNK_BYTES, frame.end - begin)))
        if crc == frame.crc:
            # A mark that says "synced before" fits behind any end of a save, whatever the frame before says of itself.
            mark = before.mark if frame.mark in (Mark.MORE, Mark.LAST) else Mark.LAST.value
            return Position(frame.offset, before.crc, mark)
    return None


def _begins_save(frame: _Frame, before: _Frame) -> bool:
    if frame.mark in (Mark.MORE, Mark.LAST):
        return before.mark in (Mark.ONLY, Mark.LAST)
    return frame.mark in (Mark.ONLY, Mark.FIRST, Mark.NONE)


def count_frames(read: Read, start: int, stop: int) -> int:
    """Count the records, but for CRCs, that can still be told in a part of a segment."""
    count = 0
    end = start
    for frame in _frames(read, stop, start):
        if frame.offset >= end:
            end = frame.offset + frame.length
            count += frame.type != _CRC
    return count
