# SPDX-License-Identifier: Apache-2.0
"""
The decoder: whole saves out of a log's segments.

It owns the CRC chain over all segments and the walk over frames. It gives out frames only when the save that
they belong to is complete. It reads by chunks, so memory is bounded by one chunk and the largest save, and no
length found on disk is believed beyond what is left of the file.

Beside a live writer
    A reader takes no lock, so what looks damaged may be a write that is just happening. A writer only appends;
    so if the walk can go on from the same place a moment later, the first look was too early, and the log *as
    it was then* ended cleanly there. Only damage that is still there at a second look counts.
    Segments that appear after the listing was made belong to the log of a later moment and are not read; they
    only tell that the last listed one is no longer the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ._build import COMPILED
from ._crc32c import extend
from ._errors import CorruptionError, CRCMismatchError, TornWriteError, UnknownRecordError, WALNotFoundError
from ._files import READ, File, FileSystem
from ._frame import ALIGNMENT, HEADER, MAX_RECORD_BYTES, PREFIX_BYTES, RecordType, frame_bytes, parse_record
from ._marks import Cause, Damage, Read, Verdict, ends_save, fits, judge, mark_of
from ._names import SegmentName
from ._segments import list_segments
from ._walk import Frame, Run

if COMPILED:
    from ._walk_compiled import walk
else:
    from ._walk import walk

__all__ = ["Decoder", "Frame", "Position", "Run", "SegmentDecoder", "error_of", "goes_on", "head_of"]

CHUNK_BYTES = 1 << 18

_CRC, _METADATA, _SNAPSHOT = RecordType.CRC.value, RecordType.METADATA.value, RecordType.SNAPSHOT.value
_KNOWN = frozenset(type.value for type in RecordType)


class Position(NamedTuple):
    """The end of a whole save: all that reading or writing on from there depends on."""

    offset: int
    crc: int | None
    """The CRC chain; ``None`` at the head of the first segment read, which says what it is."""
    mark: int | None
    """The mark of the frame before; ``None`` at the beginning of the segment."""


class SegmentDecoder:
    """
    Walks one segment, of which ``read`` gives the first ``size`` bytes.

    ``saves()`` ends where the log, the file or the good frames end, and ``damage`` then says which. ``position``
    is the end of the last whole save.
    """

    def __init__(self, read: Read, size: int, start: Position, head: Sequence[int]) -> None:
        self.read = read
        self.size = size
        self.position = start
        self.damage: Damage | None = None
        self.save_open = False
        self.crcs = (0, 0)
        """The expected and the found CRC where ``damage`` is about a CRC."""
        self.head_complete = not head and start.offset > 0
        """Whether the whole saves so far hold the head; not if a head was begun and its save is not complete."""
        self._head = list(head)

    def saves(self) -> Iterator[Run]:
        """Yield the frames of whole saves, many at a time."""
        offset, crc, mark = self.position
        frames = Run(offset)  # first those of whole saves, then those of the open one
        asked = CHUNK_BYTES
        while self.damage is None:
            rest = self.size - offset
            data = self.read(offset, min(asked, rest))
            at = whole = 0
            wanted = CHUNK_BYTES
            while (left := len(data) - at) >= ALIGNMENT:
                if crc is not None and mark is not None and not self._head:
                    # Nearly all frames are walked here, many at once. The rest of the loop is for those that are not.
                    walked = walk(data, at, crc, mark, frames)
                    if walked.whole:
                        whole = walked.whole
                        self.position = Position(offset + walked.end, walked.end_crc, walked.end_mark)
                        self.head_complete = True
                    at, crc, mark, left = walked.at, walked.crc, walked.mark, len(data) - walked.at
                    if left < ALIGNMENT:
                        continue
                (header,) = HEADER.unpack_from(data, at)
                length = frame_bytes(header)
                if length > left and at and left < rest - at:
                    break  # the frame goes on behind this chunk: begin the next one with it
                stop = at + ALIGNMENT + (header & MAX_RECORD_BYTES)
                record = None
                if 0 < length <= rest - at and (length <= left or left >= PREFIX_BYTES):
                    record = parse_record(data, at + ALIGNMENT, stop)
                if record is not None and length > left:
                    if length > asked:
                        wanted = length  # a chunk as long as the frame, now that its record looks right
                        break
                    record = None  # the file has become shorter
                if record is None:
                    self.damage = Damage(offset + at, Cause.MALFORMED if header else Cause.END)
                    break
                type, found, begin = record
                value = data[begin:stop]
                before, mark = mark, mark_of(type, header)
                expected = (found if crc is None else crc) if type == _CRC else extend(crc or 0, value)
                if found != expected or type not in _KNOWN or self._head or not fits(mark, before):
                    cause = self._cause(type, expected, found, fits(mark, before))
                    if cause is not None:
                        self.damage = Damage(offset + at, cause, length)
                        break
                frames.append(type, value, length)
                crc = found
                at += length
                if ends_save(mark):
                    whole = len(frames)
                    self.position = Position(offset + at, crc, mark)
                    self.head_complete = not self._head
            else:
                if at + left == rest or len(data) < min(asked, rest):
                    self.damage = Damage(offset + at, Cause.MALFORMED if any(data[at:]) else Cause.END)
            offset += at
            asked = wanted
            self.save_open = whole < len(frames)
            if whole:
                yield frames.take(whole)

    def _cause(self, type: int, expected: int, found: int, fitting: bool) -> Cause | None:
        """Say what is wrong with a well-formed frame, if it is not just part of the head."""
        if found != expected:
            self.crcs = expected, found
            return Cause.CRC
        if not fitting:
            return Cause.MARK
        if type not in _KNOWN:
            return Cause.TYPE
        if self._head:
            if type != self._head[0]:
                return Cause.HEAD
            del self._head[0]
        return None

    def judge(self, *, last_segment: bool) -> tuple[Verdict, str]:
        """Say what the end of ``saves()`` means."""
        assert self.damage is not None, "saves() was not exhausted"
        return judge(
            self.read,
            self.size,
            self.damage,
            crc=self.position.crc,
            save_open=self.save_open,
            head_complete=self.head_complete,
            last_segment=last_segment,
        )


class Decoder:
    """
    Walks the given segments of a log, and ends at the first damage.

    Corruption is raised. After the iteration, ``tail`` is ``None`` or the torn write at which the log ends;
    ``name`` and ``path``, ``position`` and ``head_complete`` say which segment was the last that was walked, where its
    last whole save ends, and whether that is behind its head.
    """

    def __init__(self, fs: FileSystem, directory: Path, names: Sequence[SegmentName]) -> None:
        self.fs = fs
        self.directory = directory
        self._names = names
        self.tail: TornWriteError | None = None
        self.name: SegmentName = names[0]
        self.path: Path = directory / str(self.name)
        # The chain begins with 0 in the very first segment; a later one's head says how far it is.
        self.position: Position = Position(0, 0 if names[0].sequence == 0 else None, None)
        self.head_complete: bool = False
        self.bytes: int = 0

    def __iter__(self) -> Iterator[tuple[Path, Run]]:
        """Yield segments' paths with frames of whole saves in them."""
        crc = self.position.crc
        for name in self._names:
            self.name, self.path = name, self.directory / str(name)
            with self._open() as file:
                segment = SegmentDecoder(file.read, file.size(), Position(0, crc, None), head_of(name))
                for run in segment.saves():
                    yield self.path, run
                self.position, self.head_complete = segment.position, segment.head_complete
                self.bytes += segment.position.offset
                error = self._error(segment)
                if error is not None and not goes_on(segment, file):
                    if not isinstance(error, TornWriteError):
                        raise error
                    self.tail = error
            crc = segment.position.crc

    def _open(self) -> File:
        try:
            return File(self.fs, self.path, READ)
        except FileNotFoundError:
            raise WALNotFoundError(self.path, "the segment was purged while the log was read") from None

    def _error(self, segment: SegmentDecoder) -> CorruptionError | None:
        error = error_of(segment, self.path, last_segment=self.name == self._names[-1])
        if isinstance(error, TornWriteError) and list_segments(self.fs, self.directory)[-1:] != [self.name]:
            error = error_of(segment, self.path, last_segment=False)
        return error


def head_of(name: SegmentName) -> list[int]:
    """Return the types of the records with which a segment begins."""
    return [_CRC, _METADATA] if name.sequence else [_CRC, _METADATA, _SNAPSHOT]


def error_of(segment: SegmentDecoder, path: Path, *, last_segment: bool) -> CorruptionError | None:
    """Return what is wrong with the end of ``saves()``, if anything is."""
    verdict, reason = segment.judge(last_segment=last_segment)
    if verdict is Verdict.CLEAN:
        return None
    if verdict is Verdict.TORN:
        return TornWriteError(path, segment.position.offset, reason)
    assert segment.damage is not None
    if segment.damage.cause is Cause.CRC:
        expected, found = segment.crcs
        return CRCMismatchError(path, segment.damage.offset, reason, expected=expected, found=found)
    if segment.damage.cause is Cause.TYPE:
        return UnknownRecordError(path, segment.damage.offset, reason)
    return CorruptionError(path, segment.damage.offset, reason)


def goes_on(segment: SegmentDecoder, file: File) -> bool:
    """Tell whether another look finds a whole save, or nothing at all, where the first one found damage."""
    if not segment.head_complete:
        return False
    again = SegmentDecoder(file.read, file.size(), segment.position, ())
    if next(again.saves(), None) is None and again.judge(last_segment=False)[0] is Verdict.CLEAN:
        return True  # a repair has cut it meanwhile
    # Judging has taken its time; whether a save is whole by now is asked last.
    return next(SegmentDecoder(file.read, file.size(), segment.position, ()).saves(), None) is not None
