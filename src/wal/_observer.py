# SPDX-License-Identifier: Apache-2.0
"""
The observer: what a log tells of itself while it works, as it happens.

It is told in numbers and values, and cannot change anything. ``wal.prometheus`` has one that counts for Prometheus.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["GroupCommit", "Observer", "RepairReport", "SegmentCut", "SnapshotSave", "checked"]


@dataclass(frozen=True, slots=True)
class GroupCommit:
    """
    A group of saves that one write has handed to the system, and one sync has made durable.

    Attributes:
        saves: How many saves it was.
        records: How many records they had: entries, states and markers.
        bytes: How many bytes they take in the segment.
        write_s: How long it took to encode and write them, in seconds; their sync is told of by itself.
    """

    saves: int
    records: int
    bytes: int
    write_s: float


@dataclass(frozen=True, slots=True)
class SegmentCut:
    """
    The end of a segment, and the beginning of the next one.

    Attributes:
        path: The new segment.
        bytes: The length of the one before it.
        seconds: How long it took. Saves had to wait.
    """

    path: Path
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RepairReport:
    """
    What a repair did.

    Attributes:
        path: The last segment.
        offset: Where it ends now, in bytes.
        bytes_cut: How many bytes were cut, not counting the zeros at the end; 0 if there was nothing to repair.
        backup: The file that keeps them, or ``None`` if nothing was cut.
        reason: What was wrong, in words.
    """

    path: Path
    offset: int
    bytes_cut: int
    backup: Path | None
    reason: str


@dataclass(frozen=True, slots=True)
class SnapshotSave:
    """
    A snapshot file that has become durable.

    Attributes:
        path: The file.
        bytes: Its length.
        database: Whether it is a database, from ``Snapshotter.save_db_from``.
        sync_s: How long the sync of its content took, in seconds.
        seconds: How long all of it took, the sync included.
    """

    path: Path
    bytes: int
    database: bool
    sync_s: float
    seconds: float


class Observer:
    """
    Is told what a log does. Subclass it, override what you want to know, and pass it as ``observer=``.

    >>> class Syncs(Observer):
    ...     longest = 0.0
    ...
    ...     def synced(self, seconds):
    ...         self.longest = max(self.longest, seconds)
    >>> syncs = Syncs()
    >>> with WAL.create("observed", observer=syncs) as log:
    ...     log.save(None, [Entry(1, b"data")])
    >>> syncs.longest > 0
    True

    *When.* A call tells of what is done. Saves that are told of are durable (with ``sync=False``: handed to the
    system), and whoever waited for them in other threads has been told to go on.

    *In which thread.* ``committed``, ``synced``, ``cut``, ``repaired`` and ``failed`` are called in a thread that is
    in a call of the log, holds its turn, and holds none of its locks: one at a time, in the order of what happened.
    For ``wal.aio`` that is the log's own thread, or the one in which it is opened. The next group of saves waits
    meanwhile, and so does the call of the log that this thread is in (in asyncio, all saves of the group); so be
    brief. ``purged`` and ``saved_snapshot`` are called in the thread that calls the storage or the snapshotter,
    without the turn, and so possibly beside one of the others.

    *What it must not do.* Call the same log's methods, not even ``close``: what waits for the turn raises
    ``RuntimeError``. Nor may ``saved_snapshot`` call the storage, which is in the middle of its own work and would wait
    for itself. Properties may be read.

    *If it raises.* What was done stays done, and the log goes on. An ``Exception`` goes no further: the first one of
    each method is logged with its traceback. Anything else (``KeyboardInterrupt``, ``SystemExit``) is an interrupt
    like any other: it ends the call that the thread is in, though the saves told of are done.

    One observer may be given to several logs; it is then called from the threads of all of them.
    """

    def committed(self, group: GroupCommit) -> None:
        """Learn of a group of saves that is done; with ``sync=True``, which is the default, ``synced`` came before."""

    def synced(self, seconds: float) -> None:
        """Learn how long a sync of saves took (``fdatasync``): one for each group, or that of ``sync`` or ``close``."""

    def cut(self, cut: SegmentCut) -> None:
        """Learn of a new segment, before the group that it was made for."""

    def repaired(self, report: RepairReport) -> None:
        """Learn that a torn write was cut off when the log was read."""

    def failed(self, error: BaseException) -> None:
        """
        Learn that the log has stopped for good: it accepts nothing more until it is closed and opened again.

        Args:
            error: Why: an ``OSError`` of the system, or what interrupted a save in the middle. It comes once.
        """

    def purged(self, segments: list[str]) -> None:
        """Learn which segments ``FileStorage.release`` has removed; there is at least one."""

    def saved_snapshot(self, snapshot: SnapshotSave) -> None:
        """Learn of a snapshot file that has become durable."""


def checked(observer: Observer | None) -> Observer | None:
    """Return the observer; ``TypeError`` if it is none, such as the class in the place of an object."""
    if observer is not None and not isinstance(observer, Observer):
        raise TypeError(f"{observer!r} is not a wal.Observer")
    return observer
