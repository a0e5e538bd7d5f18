# SPDX-License-Identifier: Apache-2.0
"""
A log and its snapshots as one storage.

::

    path/wal/    the log
    path/snap/   the snapshot files

The order of things is what makes it safe. A snapshot's file is durable before the log's marker says that it exists;
the marker is durable before anything older is removed; snapshot files go before the segments that only they need.
So after a crash between any two steps, the newest snapshot that the log knows is whole, and the segments behind
every snapshot that is kept are there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self

from ._errors import (
    CorruptionError,
    NoSnapshotError,
    RecordTypeError,
    SnapshotNotFoundError,
    WALExistsError,
    WALLockedError,
    WALNotFoundError,
)
from ._files import OPERATING_SYSTEM, FileSystem, make_directories, real_path, remove_directories
from ._notices import SLOW_SYNC_S
from ._observer import Observer, RepairReport
from ._purge import Archived, remove_segments
from ._reader import valid_snapshots
from ._records import (
    EntryT,
    EntryT_co,
    HardState,
    RecordRegistry,
    Snapshot,
    SnapshotT,
    SnapshotT_co,
    StateT,
    StateT_co,
    parametrized,
)
from ._recovery import ReadWAL, read_wal
from ._segments import exists
from ._snapshotter import SnapshotData, Snapshotter
from ._wal import MAX_RECORD_BYTES, SEGMENT_SIZE, WAL, ZERO_AHEAD_BYTES, CreateOptions

__all__ = ["FileStorage", "Recovered", "Retention", "marker_of", "oldest_kept", "open_storage"]


@dataclass(frozen=True, slots=True)
class Retention:
    """
    What ``FileStorage.release`` keeps of what is not needed any more.

    Attributes:
        snapshots: How many snapshots to keep, at least 1; the log is kept from the oldest of them on.
        segments: How many segments to keep besides.
        archived: Asked of a segment or snapshot file, by its path, whether it is in an archive. Nothing is removed that
            is not, nor what belongs to a snapshot that is not. By default nothing is asked.
    """

    snapshots: int = 2
    segments: int = 0
    archived: Archived | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.snapshots < 1 or self.segments < 0:
            raise ValueError(f"at least one snapshot and no negative number of segments can be kept, not {self}")


@parametrized
class Recovered(NamedTuple, Generic[EntryT_co, StateT_co]):
    """
    What a storage held when it was opened.

    Attributes:
        snapshot: The newest snapshot that is intact and that the log knows, or ``None``.
        metadata: The bytes given when the storage was first opened.
        state: The last hard state; the registered class's ``empty()`` if none was saved.
        entries: The entries behind the snapshot.
        repaired: What was cut off the log's end, or ``None``.
        skipped: The snapshots that were passed over as damaged, newest first.
    """

    snapshot: SnapshotData | None
    metadata: bytes
    state: StateT_co
    entries: list[EntryT_co]
    repaired: RepairReport | None
    skipped: tuple[CorruptionError, ...]


def marker_of(registry: RecordRegistry[Any, Any, SnapshotT], index: int) -> SnapshotT:
    """Make a marker of the registered class from an index alone; ``RecordTypeError`` if that is not enough."""
    cls: Any = registry.snapshot
    try:
        marker: SnapshotT = cls(index=index)
    except TypeError as error:
        raise RecordTypeError(
            f"{cls.__qualname__} cannot be made from an index alone ({error}); pass marker="
        ) from error
    return marker


def oldest_kept(snapshots: Iterable[int], count: int, is_intact: Callable[[int], bool]) -> int | None:
    """Return the oldest of the newest so many intact snapshots; ``None`` if none is."""
    oldest = None
    for index in sorted(snapshots, reverse=True):
        if count and is_intact(index):
            oldest, count = index, count - 1
    return oldest


@parametrized
class FileStorage(Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    A log and a snapshotter, kept in step. It is a ``Storage[SnapshotData]``.

    ``open_storage`` makes one. All methods may be called from any thread. It is a context manager that closes itself.

    Args:
        log: A log that is ready for appending; it is closed with the storage.
        snapshotter: The snapshots of the same state machine.
        markers: The snapshots that the log knows, from ``valid_snapshots``.
        retention: What ``release`` keeps; ``None``: everything.
    """

    def __init__(
        self,
        log: WAL[EntryT_co, StateT_co, SnapshotT_co],
        snapshotter: Snapshotter,
        *,
        markers: Iterable[Snapshot] = (),
        retention: Retention | None = Retention(),
    ) -> None:
        self._lock = threading.Lock()
        self._log = log
        self._snapshotter = snapshotter
        self._fs = snapshotter.fs
        self._markers = {marker.index: marker for marker in markers}
        self._retention = retention
        self._intact: set[int] = set()  # the snapshots that this object has written, or found to be whole

    # ---------------------------------------------------------------------------------------------- save

    def save(self, state: StateT_co | None, entries: Iterable[EntryT_co] | None) -> None:
        """
        Append entries and the hard state as one save; see ``WAL.save``.

        Raises:
            IndexOrderError: Also if the state commits less than the newest snapshot covers.
        """
        self._log._submit(state, entries, self._check_state).wait()

    def _check_state(self, state: HardState) -> None:
        """Refuse a state under the log's lock, so that no snapshot comes between this and the save."""
        self._log._promised.check_state(state)

    def save_entry(self, entries: Iterable[EntryT_co]) -> None:
        """Append entries; see ``WAL.save``."""
        self._log.save_entry(entries)

    def save_state(self, state: StateT_co) -> None:  # type: ignore[misc]  # covariant, see _records
        """Append the hard state: ``save(state, None)``."""
        self.save(state, None)

    def save_snap(self, snapshot: SnapshotData, marker: SnapshotT_co | None = None) -> None:
        """
        Save a snapshot: first its file, then its marker in the log.

        When this returns, both are durable, and the storage is recovered from this snapshot on. If it raises, or
        the machine stops in between, the storage is recovered from the one before.

        Args:
            snapshot: What to save.
            marker: The marker for the log; by default one of the registered class, made from the index.

        Raises:
            SnapshotOutOfDateError: The log has a snapshot that covers as much, and it is intact.
            IndexOrderError: The snapshot covers entries that the saved state says are not committed.
            RecordTypeError: The marker does not fit the snapshot, or must be given.
            WALFailedError: The log has stopped.
            OSError: The file could not be written.
        """
        if not isinstance(snapshot, SnapshotData):
            raise RecordTypeError(f"{snapshot!r:.80} is not a SnapshotData")
        if marker is None:
            marker = marker_of(self._log.registry, snapshot.index)
        self._log._check_process()  # a fork may have left our lock taken for ever
        with self._lock:
            self._log._check_snapshot(marker)
            if marker.index != snapshot.index:
                raise RecordTypeError(f"the marker has index {marker.index}, the snapshot {snapshot.index}")
            self._log._promised.check_snapshot(snapshot.index, self._is_intact_locked)
            # A file of this index is left from a crash before its marker: the log does not know it.
            self._snapshotter.save(snapshot, replace=True)
            self._intact.add(snapshot.index)
            self._log._submit_snap(
                marker, partial(self._check_committed, snapshot.index)
            ).wait()  # the file took its time
            self._log.sync()
            self._markers[snapshot.index] = marker

    def _check_committed(self, index: int) -> None:
        """Refuse a marker under the log's lock, as above."""
        self._log._promised.check_committed(index)

    def release(self, snapshot: Snapshot | SnapshotData) -> None:
        """
        Give up what is older than a snapshot, as far as the retention setting allows.

        The snapshots before the ones that are kept go, with their databases, and the segments that none of those
        needs. When this returns, the removal is durable.

        Args:
            snapshot: One that was saved, or its marker.

        Raises:
            WALClosedError, WALFailedError: The storage is closed, or has stopped. Nothing was removed.
            OSError: The system refused to remove a file. What is left is in order.
        """
        self._log._check_process()
        removed: list[str] = []
        with self._lock:
            self._log._check_usable()
            oldest = self._oldest_kept_locked(snapshot.index)
            if oldest is None:
                return  # nothing is older than an intact snapshot that the log knows
            self._log.release(self._markers[oldest])
            # Snapshots first: segments that no snapshot needs do no harm, a snapshot without its segments would.
            self._snapshotter.release_dbs(oldest)
            if self._retention is not None:
                self._snapshotter.release(oldest)
                removed = remove_segments(
                    self._fs,
                    self._log.path,
                    oldest,
                    keep=self._retention.segments,
                    archived=self._retention.archived,
                )
                self._markers = {index: marker for index, marker in self._markers.items() if index >= oldest}
                self._intact &= self._markers.keys()
        self._log._tell_purged(removed)

    def _oldest_kept_locked(self, index: int) -> int | None:
        """Return the oldest of the snapshots to keep that are not newer than ``index``; ``None`` if there is none."""
        count = 1 if self._retention is None else self._retention.snapshots
        oldest = oldest_kept((i for i in self._markers if 0 < i <= index), count, self._is_intact_locked)
        if oldest is None or self._retention is None or self._retention.archived is None:
            return oldest
        return min(self._not_archived_locked(oldest, self._retention.archived), default=oldest)

    def _not_archived_locked(self, before: int, archived: Archived) -> Iterator[int]:
        """Yield the snapshots in front of one that an archive still waits for: those that are whole, and known."""
        for path in self._snapshotter._files_before(before):
            index = int(path.name[:16], 16)
            wanted = index in self._markers and (path.suffix == ".db" or self._is_intact_locked(index))
            if wanted and not archived(path):
                yield index

    def _is_intact_locked(self, index: int) -> bool:
        if index not in self._intact and self._snapshotter.is_intact(index):
            self._intact.add(index)
        return index in self._intact

    def sync(self) -> None:
        """Make every save so far durable; see ``WAL.sync``."""
        self._log.sync()

    def close(self) -> None:
        """Close the log; see ``WAL.close``. A second call does nothing."""
        self._log.close()

    def entry(self, index: int) -> EntryT_co:
        """Return one entry, read from the log; see ``WAL.entry``."""
        return self._log.entry(index)

    def entries(self, lo: int, hi: int, max_size: int | None = None) -> list[EntryT_co]:
        """
        Return the entries from ``lo`` up to, and without, ``hi``, read from the log; see ``WAL.entries``.

        Args:
            lo: As for ``WAL.entries``.
            hi: As for ``WAL.entries``.
            max_size: As for ``WAL.entries``.
        """
        return self._log.entries(lo, hi, max_size)

    # ---------------------------------------------------------------------------------------- properties

    @property
    def log(self) -> WAL[EntryT_co, StateT_co, SnapshotT_co]:
        """The log."""
        return self._log

    @property
    def snapshotter(self) -> Snapshotter:
        """The snapshot files."""
        return self._snapshotter

    @property
    def metadata(self) -> bytes:
        """The bytes given when the storage was first opened."""
        return self._log.metadata

    @property
    def state(self) -> StateT_co:
        """The last hard state saved, or the registered class's ``empty()``."""
        return self._log.state

    @property
    def first_index(self) -> int:
        """The index of the first entry in the segments that the log holds; see ``WAL.first_index``."""
        return self._log.first_index

    @property
    def last_index(self) -> int:
        """The greater of the last entry's index and the newest snapshot's; 0 if there is none of both."""
        return self._log.last_index

    def __repr__(self) -> str:
        return f"<FileStorage {str(self._log.path.parent)!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_storage(
    path: str | os.PathLike[str],
    metadata: bytes = b"",
    *,
    registry: RecordRegistry[EntryT, StateT, SnapshotT] | None = None,
    retention: Retention | None = Retention(),
    segment_size: int = SEGMENT_SIZE,
    sync: bool = True,
    save_marks: bool = True,
    max_record_bytes: int = MAX_RECORD_BYTES,
    zero_ahead_bytes: int = ZERO_AHEAD_BYTES,
    index_entries: bool = False,
    slow_sync_s: float | None = SLOW_SYNC_S,
    observer: Observer | None = None,
    fs: FileSystem = OPERATING_SYSTEM,
) -> tuple[FileStorage[EntryT, StateT, SnapshotT], Recovered[EntryT, StateT]]:
    """
    Open a storage after whatever happened to it, or make it.

    When this returns, the storage is ready for saving, and holds everything that was acknowledged.

    Args:
        path: The storage's directory, made if needed; the log is in ``wal``, the snapshots are in ``snap``.
        metadata: Bytes to be kept in a new log; not looked at if there is one.
        registry: The record classes; by default the process-wide ones.
        retention: What ``FileStorage.release`` keeps; ``None``: everything.
        segment_size: As for ``WAL.create``.
        sync: As for ``WAL.create``.
        save_marks: As for ``WAL.create``.
        max_record_bytes: As for ``WAL.create``.
        zero_ahead_bytes: As for ``WAL.create``.
        index_entries: As for ``WAL.open``.
        slow_sync_s: As for ``WAL.create``.
        observer: Who is told what the log does, and the snapshots, or ``None``.
        fs: The file system to work on.

    Returns:
        The storage, and what it holds.

    Raises:
        CorruptionError: The log is damaged in a way that is not a torn write; nothing was changed.
        NoSnapshotError: No snapshot that the log knows is intact, or what is left behind the newest intact one does
            not reach up to the one that is damaged. Nothing was changed, but for a torn write that was cut.
        WALNotFoundError: There are snapshots, but the log that belongs to them is gone.
        WALLockedError: Another writer has the storage open.
        OSError: The system refused.
    """
    directory = real_path(path)
    log_path = directory / "wal"
    snapshotter = Snapshotter(directory / "snap", observer=observer, fs=fs)
    options: CreateOptions[EntryT, StateT, SnapshotT] = {
        "registry": registry,
        "segment_size": segment_size,
        "sync": sync,
        "save_marks": save_marks,
        "max_record_bytes": max_record_bytes,
        "zero_ahead_bytes": zero_ahead_bytes,
        "slow_sync_s": slow_sync_s,
        "observer": observer,
        "fs": fs,
    }
    if not exists(log_path, fs=fs):
        if snapshotter.names():
            raise WALNotFoundError(log_path, f"there is no log here, but snapshots in {snapshotter.path}")
        made = make_directories(fs, snapshotter.path)
        try:
            log = WAL.create(log_path, metadata, **options)
        except WALExistsError:
            pass  # another process was faster, and has gone again
        except WALLockedError:
            raise  # another process was faster, and needs the directories
        except BaseException:
            remove_directories(fs, made)
            raise
        else:
            nothing: Recovered[EntryT, StateT] = Recovered(None, log.metadata, log.state, [], None, ())
            return FileStorage(log, snapshotter, retention=retention), nothing
    markers, snapshot, opened = _recover(log_path, snapshotter, options, index_entries=index_entries)
    try:
        reached = (snapshot.index if snapshot else 0) + len(opened.entries)
        newest = max((marker.index for marker in markers), default=0)
        if reached < newest:
            raise NoSnapshotError(
                f"snapshot {newest} in {snapshotter.path} is missing or damaged, and the log has no entries behind"
                f" {reached} to make up for it"
            )
        snapshotter.sweep()
    except BaseException:
        opened.wal.close()
        raise
    recovered = Recovered(
        snapshot, opened.metadata, opened.state, opened.entries, opened.wal.repaired, snapshotter.skipped
    )
    return FileStorage(opened.wal, snapshotter, markers=markers, retention=retention), recovered


def _recover(
    path: Path,
    snapshotter: Snapshotter,
    options: CreateOptions[EntryT, StateT, SnapshotT],
    *,
    index_entries: bool,
    attempts: int = 3,
) -> tuple[list[SnapshotT], SnapshotData | None, ReadWAL[EntryT, StateT, SnapshotT]]:
    """Choose the newest intact snapshot that the log knows, and open the log there."""
    fs, registry = options["fs"], options["registry"]
    while True:
        attempts -= 1
        markers = valid_snapshots(path, registry=registry, fs=fs)
        try:
            snapshot = snapshotter.load_newest_available(marker for marker in markers if marker.index)
        except NoSnapshotError:
            snapshot = None
            if not any(marker.index == 0 for marker in markers):
                raise
        marker = next((m for m in reversed(markers) if snapshot is not None and m.index == snapshot.index), None)
        try:
            return markers, snapshot, read_wal(path, marker, index_entries=index_entries, **options)
        except (SnapshotNotFoundError, WALNotFoundError):
            # Another process had the storage open until just now, and has purged what we were about to read.
            if not attempts:
                raise
