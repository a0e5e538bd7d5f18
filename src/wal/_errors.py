# SPDX-License-Identifier: Apache-2.0
"""
The errors, one tree.

::

    WALError
    ├── WALUsageError              the caller can avoid it
    │   ├── WALClosedError         the log is closed, or belongs to the process that forked this one
    │   ├── NotReadError           an opened log must be read before it is appended to
    │   ├── IndexOrderError        (ValueError)   an entry's index leaves a gap or is not in order
    │   ├── EntryTooLargeError     (ValueError)   a record is longer than the log's limit
    │   ├── RequestTooLargeError   (ValueError)   a save is larger than one request to the cluster may be
    │   ├── SnapshotTooLargeError  (ValueError)   a snapshot is larger than what the cluster is to keep
    │   ├── RecordTypeError        (TypeError)    a class or a value of the wrong kind
    │   ├── RecordDecodeError      (ValueError)   the registered class refuses an intact payload
    │   ├── SnapshotNotFoundError  (LookupError)  the log does not know that snapshot
    │   ├── NoSnapshotError        (LookupError)  there is no snapshot file that will do
    │   ├── SnapshotOutOfDateError (ValueError)   there is a snapshot already that covers as much
    │   ├── CompactedError         (LookupError)  the entry is not there any more
    │   └── UnavailableError       (LookupError)  the entry is not there yet
    ├── CorruptionError            the bytes on disk are not what was written: path, offset, reason
    │   ├── TornWriteError         only the unfinished last write is damaged: repairable
    │   ├── CRCMismatchError
    │   ├── UnknownRecordError
    │   ├── MetadataConflictError
    │   ├── IndexGapError
    │   └── SegmentGapError
    ├── FencedError                another owner has taken over
    └── WALEnvironmentError        the machine, or another process
        ├── WALExistsError         (FileExistsError)
        ├── WALNotFoundError       (FileNotFoundError)
        ├── WALLockedError         (BlockingIOError)
        ├── WALFailedError         a write or a sync failed: this writer has stopped for good
        ├── ClusterUnavailableError  (ConnectionError)  no member of the cluster has answered in time
        └── QuotaExceededError     (OSError)      the cluster's database is full

An ``OSError`` that is none of these (no permission, no space while creating) passes through as it is.
Every error pickles. Catch ``CorruptionError`` for damage, ``WALError`` for everything that is ours.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "CRCMismatchError",
    "ClusterUnavailableError",
    "CompactedError",
    "CorruptionError",
    "EntryTooLargeError",
    "FencedError",
    "IndexGapError",
    "IndexOrderError",
    "MetadataConflictError",
    "NoSnapshotError",
    "NotReadError",
    "QuotaExceededError",
    "RecordDecodeError",
    "RecordTypeError",
    "RequestTooLargeError",
    "SegmentGapError",
    "SnapshotNotFoundError",
    "SnapshotOutOfDateError",
    "SnapshotTooLargeError",
    "TornWriteError",
    "UnavailableError",
    "UnknownRecordError",
    "WALClosedError",
    "WALEnvironmentError",
    "WALError",
    "WALExistsError",
    "WALFailedError",
    "WALLockedError",
    "WALNotFoundError",
    "WALUsageError",
]


def _rebuild(cls: type[WALError], args: tuple[Any, ...], state: dict[str, Any]) -> WALError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class WALError(Exception):
    """
    The base of every error that this library defines.

    Attributes:
        reason: What is wrong, in words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception whose __init__ takes other arguments than `args` does not unpickle by itself.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class WALUsageError(WALError):
    """The call was wrong. Nothing was written, and the log stays usable."""


class WALClosedError(WALUsageError):
    """The log is closed in this process."""


class NotReadError(WALUsageError):
    """The log was opened but not read to its end yet; call ``read_all()`` or exhaust ``replay()`` first."""


class IndexOrderError(WALUsageError, ValueError):
    """
    An entry's index is not the one that must follow.

    Attributes:
        found: The index that was given.
        expected: The greatest index that would have been taken there.
    """

    def __init__(self, found: int, expected: int, reason: str) -> None:
        super().__init__(reason)
        self.found = found
        self.expected = expected


class EntryTooLargeError(WALUsageError, ValueError):
    """
    A record is longer than the log's limit.

    Attributes:
        size: Length of the marshalled record, in bytes.
        limit: The log's ``max_record_bytes``.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"a record of {size:,} bytes exceeds the limit of {limit:,}; split it, or open the log with a greater"
            " max_record_bytes (Go readers refuse records of 10 MiB and more)"
        )
        self.size = size
        self.limit = limit


class RequestTooLargeError(WALUsageError, ValueError):
    """
    A save does not fit into one request to the cluster. Nothing was sent.

    Attributes:
        size: What the request could take, in bytes.
        limit: The storage's ``max_request_bytes``.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"a request of {size:,} bytes exceeds the limit of {limit:,}; save less at once, or let the servers and"
            " this storage take more (etcd's --max-request-bytes, max_request_bytes)"
        )
        self.size = size
        self.limit = limit


class SnapshotTooLargeError(WALUsageError, ValueError):
    """
    A snapshot is larger than what the cluster is to keep. Nothing was sent.

    Attributes:
        size: Length of the snapshot, in bytes.
        limit: The storage's ``max_snapshot_bytes``.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"a snapshot of {size:,} bytes exceeds the limit of {limit:,}; open the storage with a snapshot_store for"
            " large ones"
        )
        self.size = size
        self.limit = limit


class RecordTypeError(WALUsageError, TypeError):
    """A class does not fit its record type, or a value is not of the registered class."""


class RecordDecodeError(WALUsageError, ValueError):
    """
    The registered class refused a payload whose checksum is right: it was written by another class.

    Attributes:
        path: The segment.
        offset: Where the record's frame begins in it, in bytes.

    The refusal itself is the ``__cause__``.
    """

    def __init__(self, path: Path, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset:,}: {self.reason}"


class SnapshotNotFoundError(WALUsageError, LookupError):
    """
    The log has no marker of the snapshot, or no longer the segments that follow it.

    Attributes:
        index: The index that was looked for.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class NoSnapshotError(WALUsageError, LookupError):
    """There is no snapshot file that is intact and that the log knows."""


class SnapshotOutOfDateError(WALUsageError, ValueError):
    """
    A snapshot does not cover more than the one that is there.

    Attributes:
        index: The index of the refused snapshot.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class CompactedError(WALUsageError, LookupError):
    """
    An entry is not there any more: a snapshot covers it.

    Attributes:
        index: The index that was asked for.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class UnavailableError(WALUsageError, LookupError):
    """
    An entry is not there yet.

    Attributes:
        index: The index that was asked for.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class CorruptionError(WALError):
    """
    The bytes on disk are not what was written. Nothing has been changed.

    Attributes:
        path: The segment, or the directory if it is the set of segments that is wrong.
        offset: The byte in the segment at which the damage begins.
        reason: What is wrong there, in words.
        entries: What ``read_all()`` had read before the damage; empty where reading streams, and after pickling.
    """

    def __init__(self, path: Path, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.offset = offset
        self.entries: Sequence[Any] = ()

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset:,}: {self.reason}"

    def __reduce__(self) -> tuple[Any, ...]:
        # The entries may be many, and of classes that do not pickle; an error always must.
        return _rebuild, (type(self), self.args, {**self.__dict__, "entries": ()})


class TornWriteError(CorruptionError):
    """
    The last write did not reach the disk as a whole, and nothing tells that it was acknowledged.

    ``offset`` is where the last whole save ends. ``read_wal`` and ``repair`` cut the segment there.
    """


class CRCMismatchError(CorruptionError):
    """
    A record's checksum is wrong, and there is evidence that it had been right.

    Attributes:
        expected: The CRC-32C of the log up to this record.
        found: The one that stands in the record.
    """

    def __init__(self, path: Path, offset: int, reason: str, *, expected: int, found: int) -> None:
        super().__init__(path, offset, reason)
        self.expected = expected
        self.found = found


class UnknownRecordError(CorruptionError):
    """An intact record has a type that this version does not know."""


class MetadataConflictError(CorruptionError):
    """The metadata at a segment's head is not that of the segments before it."""


class IndexGapError(CorruptionError):
    """An entry's index leaves a gap behind the entries and snapshots before it."""


class SegmentGapError(CorruptionError):
    """Segments are missing from the directory."""


class FencedError(WALError):
    """
    Another owner has taken over. This one has stopped: whatever it does later raises this, too.

    The message says who it is. What was acknowledged before is in the other one's hands.
    """


class WALEnvironmentError(WALError):
    """
    The machine, or another process, stands in the way.

    Attributes:
        path: The log's directory, or the file in it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class WALExistsError(WALEnvironmentError, FileExistsError):
    """The directory already has a log; open it, or create in another directory."""

    errno: int = errno.EEXIST


class WALNotFoundError(WALEnvironmentError, FileNotFoundError):
    """The directory has no log."""

    errno: int = errno.ENOENT


class WALLockedError(WALEnvironmentError, BlockingIOError):
    """Another writer (a thread, a process, or a program in Go) has the log open."""

    errno: int = errno.EAGAIN


class WALFailedError(WALEnvironmentError):
    """
    A write or a sync failed, and the log object has stopped: every later call but ``close`` raises this.

    What the failed call was to save is unknown, absent or present as a whole; what was acknowledged before
    is untouched. Close the log and open it again. The first failure is the ``__cause__``.
    """


class ClusterUnavailableError(WALEnvironmentError, ConnectionError):
    """No member of the cluster that could have helped has answered in time."""

    errno: int = errno.EHOSTUNREACH


class QuotaExceededError(WALEnvironmentError, OSError):
    """
    The cluster's database is full, or would be after this. Nothing was written.

    Give up what is not needed (``release``), and let the members defragment their databases.
    """

    errno: int = errno.EDQUOT
