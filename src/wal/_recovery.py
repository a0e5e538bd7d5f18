# SPDX-License-Identifier: Apache-2.0
"""The one call that opens a log after whatever happened to it."""

from __future__ import annotations

import os
from typing import Generic, NamedTuple

from ._errors import TornWriteError
from ._files import OPERATING_SYSTEM, FileSystem
from ._notices import SLOW_SYNC_S
from ._observer import Observer
from ._records import (
    EntryT,
    EntryT_co,
    RecordRegistry,
    Snapshot,
    SnapshotT,
    SnapshotT_co,
    StateT,
    StateT_co,
    parametrized,
)
from ._wal import MAX_RECORD_BYTES, SEGMENT_SIZE, WAL, ZERO_AHEAD_BYTES

__all__ = ["ReadWAL", "read_wal"]


@parametrized
class ReadWAL(NamedTuple, Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    A log that was read and is ready for appending.

    Attributes:
        wal: The log; close it. Its ``repaired`` says what was cut off, if anything was.
        metadata: The bytes given to ``WAL.create``.
        state: The last hard state; the registered class's ``empty()`` if none was saved.
        entries: The entries behind the snapshot, one after the other.
    """

    wal: WAL[EntryT_co, StateT_co, SnapshotT_co]
    metadata: bytes
    state: StateT_co
    entries: list[EntryT_co]


def read_wal(
    path: str | os.PathLike[str],
    snapshot: Snapshot | None = None,
    *,
    registry: RecordRegistry[EntryT, StateT, SnapshotT] | None = None,
    segment_size: int = SEGMENT_SIZE,
    sync: bool = True,
    save_marks: bool = True,
    max_record_bytes: int = MAX_RECORD_BYTES,
    zero_ahead_bytes: int = ZERO_AHEAD_BYTES,
    index_entries: bool = False,
    slow_sync_s: float | None = SLOW_SYNC_S,
    observer: Observer | None = None,
    fs: FileSystem = OPERATING_SYSTEM,
) -> ReadWAL[EntryT, StateT, SnapshotT]:
    """
    Open a log, read it, and cut off a torn write at its end if there is one.

    When this returns, the log is ready for appending, holds every save that was acknowledged, and all that was
    read is durable. A torn write is cut at most once, under the log's lock; the bytes are kept in a file ending
    in ``.broken``, and the cut is reported as a warning to ``logging`` and as the log's ``repaired``.

    Args:
        path: The log's directory.
        snapshot: Where to start: entries behind its index are returned. By default at the very beginning.
        registry: The record classes; by default the process-wide ones.
        segment_size: As for ``WAL.create``.
        sync: As for ``WAL.create``.
        save_marks: As for ``WAL.create``.
        max_record_bytes: As for ``WAL.create``.
        zero_ahead_bytes: As for ``WAL.create``.
        index_entries: As for ``WAL.open``.
        slow_sync_s: As for ``WAL.create``.
        observer: As for ``WAL.create``.
        fs: The file system to work on.

    Raises:
        CorruptionError: The log is damaged in a way that is not a torn write; nothing was changed.
        WALNotFoundError: There is no log.
        WALLockedError: Another writer has it open.
        SnapshotNotFoundError: The log does not have the snapshot.
        RecordDecodeError: The registry is not the one that the log was written with.
    """
    log = WAL.open(
        path,
        snapshot,
        registry=registry,
        segment_size=segment_size,
        sync=sync,
        save_marks=save_marks,
        max_record_bytes=max_record_bytes,
        zero_ahead_bytes=zero_ahead_bytes,
        index_entries=index_entries,
        slow_sync_s=slow_sync_s,
        observer=observer,
        fs=fs,
    )
    try:
        try:
            contents = log.read_all()
        except TornWriteError as torn:
            log._repair(torn)
            contents = log.read_all()
    except BaseException:
        log.close()
        raise
    return ReadWAL(log, contents.metadata, contents.state, contents.entries)
