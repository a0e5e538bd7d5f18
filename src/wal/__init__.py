# SPDX-License-Identifier: Apache-2.0
"""
A write-ahead log: append records, and they survive the crash.

A log is a directory of segment files. ``WAL.create`` makes one, ``save`` appends entries and the hard state of a
state machine, and when it returns they are on disk. After a restart, or a crash, ``read_wal`` gives back every
save that was acknowledged, each as a whole, and the log is ready to go on::

    import wal

    with wal.WAL.create("data/wal", metadata=b"node-1") as log:
        log.save(wal.CommitState(1), [wal.Entry(1, b"a"), wal.Entry(2, b"b")])

    log, metadata, state, entries = wal.read_wal("data/wal")

Entries have indexes that grow by one. An entry with a lower index takes the place of those from it on, as a Raft
log needs it. A snapshot marker (``save_snap``) is a place at which the log can be opened without what is before.

Applications use the default records, ``Entry``, ``CommitState`` and ``SnapshotMarker``, or subclass ``LogEntry``,
``HardState`` and ``Snapshot`` and register their classes in a ``RecordRegistry``.

``WALReader`` reads beside a live writer; ``verify``, ``valid_snapshots`` and ``repair`` work on a directory.
``wal.etcd`` has the record types of an etcd member. Events are logged to the logger ``wal``; an ``Observer`` is told
numbers, and ``wal.prometheus`` has one.
"""

from __future__ import annotations

import logging

from . import _build, etcd
from ._crc32c import crc_backend
from ._errors import (
    ClusterUnavailableError,
    CompactedError,
    CorruptionError,
    CRCMismatchError,
    EntryTooLargeError,
    FencedError,
    IndexGapError,
    IndexOrderError,
    MetadataConflictError,
    NoSnapshotError,
    NotReadError,
    QuotaExceededError,
    RecordDecodeError,
    RecordTypeError,
    RequestTooLargeError,
    SegmentGapError,
    SnapshotNotFoundError,
    SnapshotOutOfDateError,
    SnapshotTooLargeError,
    TornWriteError,
    UnavailableError,
    UnknownRecordError,
    WALClosedError,
    WALEnvironmentError,
    WALError,
    WALExistsError,
    WALFailedError,
    WALLockedError,
    WALNotFoundError,
    WALUsageError,
)
from ._file_storage import FileStorage, Recovered, Retention, open_storage
from ._files import FileSystem
from ._follow import Follower
from ._frame import RecordType
from ._memory import MemoryStorage
from ._observer import GroupCommit, Observer, RepairReport, SegmentCut, SnapshotSave
from ._purge import purge
from ._reader import VerifyReport, WALReader, valid_snapshots, verify
from ._records import (
    CommitState,
    Entry,
    HardState,
    LogEntry,
    Record,
    RecordRegistry,
    Snapshot,
    SnapshotMarker,
    register_record,
)
from ._recovery import ReadWAL, read_wal
from ._repair import RepairPlan, plan_repair, repair
from ._replay import LogContents, LogRecord
from ._salvage import RawRecord, raw_records
from ._segments import exists
from ._snapshotter import SnapshotData, Snapshotter
from ._storage import EntrySource, Storage
from ._survey import LogSurvey, SegmentSurvey, survey
from ._turns import PendingSave
from ._wal import WAL

__all__ = [
    "WAL",
    "CRCMismatchError",
    "ClusterUnavailableError",
    "CommitState",
    "CompactedError",
    "CorruptionError",
    "Entry",
    "EntrySource",
    "EntryTooLargeError",
    "FencedError",
    "FileStorage",
    "FileSystem",
    "Follower",
    "GroupCommit",
    "HardState",
    "IndexGapError",
    "IndexOrderError",
    "LogContents",
    "LogEntry",
    "LogRecord",
    "LogSurvey",
    "MemoryStorage",
    "MetadataConflictError",
    "NoSnapshotError",
    "NotReadError",
    "Observer",
    "PendingSave",
    "QuotaExceededError",
    "RawRecord",
    "ReadWAL",
    "Record",
    "RecordDecodeError",
    "RecordRegistry",
    "RecordType",
    "RecordTypeError",
    "Recovered",
    "RepairPlan",
    "RepairReport",
    "RequestTooLargeError",
    "Retention",
    "SegmentCut",
    "SegmentGapError",
    "SegmentSurvey",
    "Snapshot",
    "SnapshotData",
    "SnapshotMarker",
    "SnapshotNotFoundError",
    "SnapshotOutOfDateError",
    "SnapshotSave",
    "SnapshotTooLargeError",
    "Snapshotter",
    "Storage",
    "TornWriteError",
    "UnavailableError",
    "UnknownRecordError",
    "VerifyReport",
    "WALClosedError",
    "WALEnvironmentError",
    "WALError",
    "WALExistsError",
    "WALFailedError",
    "WALLockedError",
    "WALNotFoundError",
    "WALReader",
    "WALUsageError",
    "crc_backend",
    "etcd",
    "exists",
    "open_storage",
    "plan_repair",
    "purge",
    "raw_records",
    "read_wal",
    "register_record",
    "repair",
    "survey",
    "valid_snapshots",
    "verify",
]

__compiled__: bool = _build.COMPILED
"""Whether the loops over records run compiled."""

for _name in __all__:
    # Tracebacks, reprs and pickles show the name that users import, not the module that it is written in.
    if hasattr(_public := globals()[_name], "__module__"):
        _public.__module__ = __name__
del _name, _public

logging.getLogger("wal").addHandler(logging.NullHandler())
