# SPDX-License-Identifier: Apache-2.0
"""
Reading without writing: ``WALReader``, ``verify`` and ``valid_snapshots``.

All of them take no lock and change nothing, so they work on a read-only disk and beside a live writer, where
they see the log as it was at some moment during the read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic

from ._crc32c import warn_if_slow
from ._entries import EntryReader
from ._errors import CompactedError, SnapshotNotFoundError, TornWriteError
from ._files import OPERATING_SYSTEM, FileSystem, real_path
from ._follow import Follower
from ._frame import RecordType
from ._progress import Progress, watched
from ._records import EntryT, EntryT_co, RecordRegistry, Snapshot, SnapshotT, SnapshotT_co, StateT_co, parametrized
from ._replay import LogContents, LogRecord, Replay, beside_a_purge
from ._segments import segments_from
from ._watch import Watch

__all__ = ["VerifyReport", "WALReader", "valid_snapshots", "verify"]


@parametrized
class WALReader(Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    A log, to read from.

    Iterate over it, as often as you like, to get a ``LogRecord`` for each record of each whole save, in memory
    bounded by the largest save. Entries come as they were written: one with index i takes the place of every
    earlier one from i on. Afterwards ``tail`` tells whether the log ended in a torn write; beside a live writer
    that may be a save in the making.

    A reader keeps no file open between iterations and may be shared by threads that do not iterate at once.

    Args:
        path: The log's directory.
        snapshot: Where to start: entries behind its index are read. By default at the very beginning.
        registry: The record classes; by default the process-wide ones.
        fs: The file system to read from.

    Raises:
        WALNotFoundError: There is no log.
        SnapshotNotFoundError: The log begins behind the snapshot.
        SegmentGapError: A segment is missing.

    Iterating and ``read_all()`` raise ``CorruptionError`` at damage, and ``SnapshotNotFoundError`` at the end if the
    snapshot's marker was not met.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        snapshot: Snapshot | None = None,
        *,
        registry: RecordRegistry[EntryT_co, StateT_co, SnapshotT_co] | None = None,
        fs: FileSystem = OPERATING_SYSTEM,
    ) -> None:
        warn_if_slow()
        self.path: Path = real_path(path)
        self.tail: TornWriteError | None = None
        self._fs = fs
        self._start = 0 if snapshot is None else snapshot.index
        self._registry = registry
        self._entries = EntryReader(fs, partial(_begin_noting, fs, self.path, self._start, registry))
        segments_from(fs, self.path, self._start)

    def _replay(self) -> Replay[EntryT_co, StateT_co, SnapshotT_co]:
        self.tail = None
        return Replay(self._fs, self.path, self._start, self._registry)

    def __iter__(self) -> Iterator[LogRecord[EntryT_co, StateT_co, SnapshotT_co]]:
        """Yield the records; see the class."""
        replay = self._replay()
        yield from replay
        self.tail = replay.tail

    def read_all(self) -> LogContents[EntryT_co, StateT_co]:
        """
        Read the whole log into memory.

        Returns:
            The metadata, the last state, the entries behind the snapshot, and the torn write at the end, if any.

        Raises:
            CorruptionError: The log is damaged; ``error.entries`` are those before the damage.
        """
        contents = beside_a_purge(lambda: self._replay().contents())
        self.tail = contents.tail
        return contents

    def follow(self, index: int | None = None) -> Follower[EntryT_co, StateT_co, SnapshotT_co]:
        """
        Return an iterator over the log's records that waits for those to come; see ``Follower``.

        It goes on across cuts, purges and restarts of the writer. A save that is being written, or that a crash tore,
        is not damage to it: it waits for the rest, or for what the next writer puts in its place.

        >>> with WAL.create("followed") as log, WALReader("followed").follow() as records:
        ...     log.save_entry([Entry(1, b"one")])
        ...     [next(records).type.name for _ in range(3)]
        ['METADATA', 'SNAPSHOT', 'ENTRY']

        Args:
            index: Start at this entry, which may be one that is yet to come, and needs no snapshot: what was written
                before, up to the entry in front of it, is left out. By default it starts where iterating over the
                reader does.

        Raises:
            CompactedError: The entry at ``index`` is not there any more.
            WALNotFoundError: There is no log.
            SnapshotNotFoundError: Without ``index``, the log begins behind the reader's snapshot.
        """
        if index is not None and index < 1:
            raise ValueError(f"index must be at least 1, not {index}")
        watch = Watch(self.path)
        try:
            start = self._start if index is None else index - 1
            replay = Replay(self._fs, self.path, start, self._registry, live=True, marker=index is None)
        except SnapshotNotFoundError as error:
            watch.close()
            if index is None:
                raise
            raise CompactedError(index, f"entry {index} is not there any more ({error})") from None
        except BaseException:
            watch.close()
            raise
        return Follower(self._fs, watch, replay, skip_to_start=index is not None)

    # ------------------------------------------------------------------------------------- entries by index

    @property
    def first_index(self) -> int:
        """The index of the first entry that is there, or would be."""
        return self._entries.first_index

    @property
    def last_index(self) -> int:
        """The index of the last entry; one less than ``first_index`` if there is none."""
        return self._entries.last_index

    def entry(self, index: int) -> EntryT_co:
        """
        Return one entry; see ``entries``.

        Raises:
            CompactedError, UnavailableError: It is not there any more, or not yet.
        """
        return self.entries(index, index + 1)[0]

    def entries(self, lo: int, hi: int, max_size: int | None = None) -> list[EntryT_co]:
        """
        Return the entries from ``lo`` up to, and without, ``hi``, read from disk.

        The first call reads the log to note where each entry stands, in eight bytes; later ones what was written
        since. Each entry's CRC is checked. Any thread may call this.

        Args:
            lo: At least ``first_index``.
            hi: At most one more than the index of the last entry.
            max_size: Stop before the sum of the entries' ``size()`` exceeds so many bytes; one entry is returned at
                least, if there is any.

        Raises:
            CompactedError: ``lo`` is not there any more.
            UnavailableError: What is in front of ``hi`` is not there.
            ValueError: ``lo`` is greater than ``hi``.
            CorruptionError: The log is damaged.
        """
        return self._entries.entries(lo, hi, max_size)

    def __repr__(self) -> str:
        return f"<WALReader {str(self.path)!r}>"


def _begin_noting(
    fs: FileSystem, path: Path, start: int, registry: RecordRegistry[EntryT, Any, Any] | None
) -> Replay[EntryT, Any, Any]:
    """Begin a walk where the reader does, or, if that has been purged since, where the log does."""
    begin = partial(Replay, fs, path, registry=registry, live=True, marker=False, noting=True)
    try:
        return begin(start)
    except SnapshotNotFoundError:
        return begin(None)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """
    What a log that is in order consists of.

    Attributes:
        path: Its directory.
        segments: How many segments were read.
        records: How many records they hold, all types together.
        entries: How many of them are entries, including those whose place was taken by later ones.
        bytes: How many bytes they take, without the space reserved behind the end.
        last_index: The greater of the last entry's index and the greatest snapshot marker's.
        tail: The torn write at which the log ends, or ``None``. A log with one is in order, but must be repaired
            before it is written to.
    """

    path: Path
    segments: int
    records: int
    entries: int
    bytes: int
    last_index: int
    tail: TornWriteError | None


def verify(
    path: str | os.PathLike[str],
    snapshot: Snapshot | None = None,
    *,
    registry: RecordRegistry | None = None,
    progress: Progress | None = None,
    fs: FileSystem = OPERATING_SYSTEM,
) -> VerifyReport:
    """
    Read a whole log and say what it consists of, or raise what is wrong with it.

    Args:
        path: The log's directory.
        snapshot: Where to start; by default at the oldest segment that is there.
        registry: The record classes; by default the process-wide ones.
        progress: Called with ``(bytes_done, bytes_total)`` as the segments are read, some times per megabyte. What
            it raises ends the call.
        fs: The file system to read from.

    Raises:
        CorruptionError: The log is damaged.
        WALNotFoundError: There is none.
        SnapshotNotFoundError: The snapshot's marker is not in it.
        RecordDecodeError: The registry is not the one that the log was written with.
    """

    def report() -> VerifyReport:
        replay = Replay(watched(fs, directory, index, progress), directory, index, registry)
        for _ in replay.skim():
            pass
        return VerifyReport(
            path=directory,
            segments=len(replay.names),
            records=replay.records,
            entries=replay.entries,
            bytes=replay.bytes,
            last_index=replay.last_index,
            tail=replay.tail,
        )

    warn_if_slow()
    directory = real_path(path)
    index = None if snapshot is None else snapshot.index
    return beside_a_purge(report)


def valid_snapshots(
    path: str | os.PathLike[str],
    *,
    registry: RecordRegistry[Any, Any, SnapshotT] | None = None,
    fs: FileSystem = OPERATING_SYSTEM,
) -> list[SnapshotT]:
    """
    List the snapshots at which the log can be opened, in the order in which they were saved.

    Those are the markers in the segments that are there whose index is at most the last committed one, or all of
    them if no state was ever saved. The first one of a log that was never purged is the empty one, index 0.

    Args:
        path: The log's directory.
        registry: The record classes; by default the process-wide ones.
        fs: The file system to read from.

    Raises:
        CorruptionError: The log is damaged.
        WALNotFoundError: There is none.
    """

    def markers() -> list[SnapshotT]:
        replay = Replay(fs, directory, None, registry)
        found: list[Any] = [record.value for record in replay.skim() if record.type is RecordType.SNAPSHOT]
        committed = None if replay.state_data is None else replay.state.committed
        return [marker for marker in found if committed is None or marker.index <= committed]

    warn_if_slow()
    directory = real_path(path)
    return beside_a_purge(markers)
