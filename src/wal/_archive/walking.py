# SPDX-License-Identifier: Apache-2.0
"""
A sealed segment in memory: whether it is in order, and what it says.

What is uploaded is the very bytes that were checked, and what is restored likewise. So a segment is read once, as a
whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wal._build import COMPILED
from wal._decoder import Position, Run, SegmentDecoder, error_of, head_of
from wal._errors import MetadataConflictError
from wal._frame import ALIGNMENT, HEADER, MAX_RECORD_BYTES, RecordType, parse_record
from wal._names import SegmentName
from wal._records import Entry, RecordRegistry
from wal._replay import unmarshal

if COMPILED:
    from wal._walk_compiled import unmarshal_entries
else:
    from wal._walk import unmarshal_entries

__all__ = ["Contents", "SealedSegment", "contents_of", "entry_indexes"]

_ENTRY, _STATE, _SNAPSHOT = RecordType.ENTRY.value, RecordType.STATE.value, RecordType.SNAPSHOT.value


class SealedSegment:
    """
    The bytes of a segment that has a successor.

    Args:
        path: Its file, for messages.
        name: Its name.
        data: Its bytes.
        crc: The chain in front of it; ``None`` if its head is to be believed.
    """

    def __init__(self, path: Path, name: SegmentName, data: bytes, crc: int | None) -> None:
        self.path = path
        self.name = name
        self.data = data
        self._start = Position(0, 0 if name.sequence == 0 else crc, None)
        self.end = self._start
        """Behind the last whole save, once ``runs()`` is exhausted."""

    def runs(self) -> Iterator[Run]:
        """
        Yield the records of whole saves, many at a time.

        Raises:
            CorruptionError: At the end, if the segment does not end well.
        """
        decoder = self._decoder(len(self.data))
        yield from decoder.saves()
        error = error_of(decoder, self.path, last_segment=False)
        if error is not None:
            raise error
        self.end = decoder.position

    def before(self, offset: int) -> Position:
        """Return the end of the last whole save that is wholly in front of ``offset``."""
        decoder = self._decoder(offset)
        for _ in decoder.saves():
            pass
        return decoder.position

    def _decoder(self, size: int) -> SegmentDecoder:
        return SegmentDecoder(self._read, size, self._start, head_of(self.name))

    def _read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]

    @property
    def crc_before(self) -> int:
        """The chain in front of the segment, as its head says, which has been walked."""
        (header,) = HEADER.unpack_from(self.data)
        record = parse_record(self.data, ALIGNMENT, ALIGNMENT + (header & MAX_RECORD_BYTES))
        assert record is not None, "a head that was walked begins with a CRC"
        return record[1]


def entry_indexes(run: Run, registry: RecordRegistry, path: Path, expected: int) -> Sequence[int]:
    """
    Return the indexes of a run's entries.

    Args:
        run: The records.
        registry: The record classes.
        path: The segment, for messages.
        expected: What the first index is most likely; it makes no difference but in time.

    Raises:
        RecordDecodeError: The registry's class refuses an entry.
    """
    if registry.entry is Entry:
        values = [value for type, value in zip(run.types, run.values, strict=True) if type == _ENTRY]
        if not values or unmarshal_entries(values, expected) is not None:
            return range(expected, expected + len(values))
    return [unmarshal(registry.entry, data, path, offset).index for type, data, offset in run if type == _ENTRY]


class Contents(NamedTuple):
    """What a segment's records say, as far as an archive needs to know."""

    lowest_index: int | None
    committed: int | None
    markers: list[tuple[int, bytes]]
    """The snapshot markers, each with its index and as it stands in the log."""


def contents_of(segment: SealedSegment, registry: RecordRegistry[Any, Any, Any], metadata: bytes) -> Contents:
    """
    Walk a segment.

    Raises:
        CorruptionError: It is damaged, or of a log with other metadata.
        RecordDecodeError: The registry is not the one that the log was written with.
    """
    lowest: int | None = None
    committed: int | None = None
    markers: list[tuple[int, bytes]] = []
    expected = max(1, segment.name.first_index)
    for run in (part for whole in segment.runs() for part in whole.parts()):
        indexes = entry_indexes(run, registry, segment.path, expected)
        if indexes:
            expected = indexes[-1] + 1
            lowest = min(indexes) if lowest is None else min(lowest, *indexes)
        for _, (type, data, offset) in run.others():
            if type == _STATE:
                committed = unmarshal(registry.state, data, segment.path, offset).committed
            elif type == _SNAPSHOT:
                markers.append((unmarshal(registry.snapshot, data, segment.path, offset).index, data))
            elif data != metadata:
                raise MetadataConflictError(
                    segment.path, offset, f"metadata {data[:40]!r} differs from {metadata[:40]!r} in the other segments"
                )
    return Contents(lowest, committed, markers)
