# SPDX-License-Identifier: Apache-2.0
"""
Survey: all that one look at a log tells, segment by segment, whatever state the log is in.

``verify`` answers whether a log is in order, and raises if it is not. A survey is for whoever has to find out what
there is: damage is one of the things that it reports, with everything that stands in front of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ._crc32c import warn_if_slow
from ._decoder import Run
from ._errors import CorruptionError, TornWriteError
from ._files import OPERATING_SYSTEM, READ, File, FileSystem, real_path
from ._frame import RecordType
from ._names import SegmentName
from ._progress import Progress, watched
from ._records import HardState, RecordRegistry, Snapshot
from ._replay import Replay, beside_a_purge

__all__ = ["LogSurvey", "SegmentSurvey", "survey"]

_CRC, _ENTRY = RecordType.CRC.value, RecordType.ENTRY.value


@dataclass(frozen=True, slots=True)
class SegmentSurvey:
    """
    One segment of a log.

    Attributes:
        path: The file.
        first_index: The index after the log's last one when the segment was begun, from its name; 0 for the very
            first segment.
        last_index: The greater of the last entry's index and the greatest snapshot marker's behind its last save.
        size: The length of the file in bytes, with the space reserved for later saves.
        bytes: How many bytes at its beginning hold whole saves.
        records: How many records they are, all types but CRCs.
        entries: How many of them are entries.
        read: Whether it was read; if not, it lies behind damage, and the four numbers before are 0.
    """

    path: Path
    first_index: int
    last_index: int
    size: int
    bytes: int
    records: int
    entries: int
    read: bool


@dataclass(frozen=True, slots=True)
class LogSurvey:
    """
    What a log consists of.

    Attributes:
        path: Its directory.
        segments: Its segments in their order.
        metadata: The bytes given to ``WAL.create``.
        state: The last hard state; the registered class's ``empty()`` if none was saved.
        markers: The snapshot markers whose index is at most the last committed one, or all if no state was saved, as
            ``valid_snapshots`` returns them.
        last_index: The greater of the last entry's index and the greatest snapshot marker's.
        tail: The torn write at which the log ends, or ``None``.
        damage: What is wrong with the log, or ``None``. Everything else is about what is in front of it.
    """

    path: Path
    segments: tuple[SegmentSurvey, ...]
    metadata: bytes
    state: HardState
    markers: tuple[Snapshot, ...]
    last_index: int
    tail: TornWriteError | None
    damage: CorruptionError | None


def survey(
    path: str | os.PathLike[str],
    *,
    registry: RecordRegistry | None = None,
    progress: Progress | None = None,
    fs: FileSystem = OPERATING_SYSTEM,
) -> LogSurvey:
    """
    Read a whole log and say what it consists of, also if it is damaged.

    It takes no lock and changes nothing. Memory is bounded by the largest save and the number of snapshot markers.

    Args:
        path: The log's directory.
        registry: The record classes; by default the process-wide ones.
        progress: Called with ``(bytes_done, bytes_total)`` as the segments are read, some times per megabyte. What
            it raises ends the call.
        fs: The file system to read from.

    Raises:
        SegmentGapError: A segment is missing; what is left is no log.
        WALNotFoundError: There is none.
        RecordDecodeError: The registry is not the one that the log was written with.
    """

    def look() -> LogSurvey:
        replay = _Counted(watched(fs, directory, None, progress), directory, registry)
        markers: list[Snapshot] = []
        damage: CorruptionError | None = None
        try:
            markers.extend(record.value for record in replay.skim() if isinstance(record.value, Snapshot))
        except CorruptionError as error:
            damage = error
            replay.count_up_to(error.offset)
        if replay.state_data is not None:
            markers = [marker for marker in markers if marker.index <= replay.state.committed]
        return LogSurvey(
            path=directory,
            segments=tuple(_segment(fs, directory, name, replay) for name in replay.names),
            metadata=replay.metadata or b"",
            state=replay.state,
            markers=tuple(markers),
            last_index=replay.last_index,
            tail=replay.tail,
            damage=damage,
        )

    warn_if_slow()
    directory = real_path(path)
    return beside_a_purge(look)


class _Counted(Replay):
    """Counts as it walks, by the segment's path."""

    def __init__(self, fs: FileSystem, path: Path, registry: RecordRegistry | None) -> None:
        super().__init__(fs, path, None, registry)
        self.counts: dict[Path, list[int]] = {}
        """Records, entries, bytes, and the log's last index behind them."""
        self._current: tuple[Path, Run] | None = None

    def _runs(self) -> Iterator[tuple[Path, Run]]:
        for path, run in super()._runs():
            self._current = path, run
            yield path, run
            self._count(path, run, len(run))

    def count_up_to(self, offset: int) -> None:
        """Count those frames of the current run that are in front of one that was refused."""
        if self._current is None:
            return
        path, run = self._current
        self._count(path, run, sum(begin < offset for _, _, begin in run))

    def _count(self, path: Path, run: Run, before: int) -> None:
        self._current = None
        count = self.counts.setdefault(path, [0, 0, 0, 0])
        count[0] += before - run.types.count(_CRC, 0, before)
        count[1] += run.types.count(_ENTRY, 0, before)
        count[2] = run.start + sum(run.lengths[:before])
        count[3] = self.last_index


def _segment(fs: FileSystem, directory: Path, name: SegmentName, replay: _Counted) -> SegmentSurvey:
    path = directory / str(name)
    records, entries, length, last_index = replay.counts.get(path, (0, 0, 0, 0))
    try:
        with File(fs, path, READ) as file:
            size = file.size()
    except FileNotFoundError:
        size = length  # purged since it was read
    return SegmentSurvey(
        path=path,
        first_index=name.first_index,
        last_index=last_index,
        size=size,
        bytes=length,
        records=records,
        entries=entries,
        read=path in replay.counts,
    )
