# SPDX-License-Identifier: Apache-2.0
"""
Following a storage: its records, and those that are still to come.

The batches that are there are read first, as of one revision, and then etcd tells of those that come. When a watch
ends, because a member does or has lost its leader, or because etcd has compacted what the watch had not come to, the
same begins again behind the last batch that was seen. Batches come whole, are verified, and come once.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self

from wal._errors import CompactedError, CorruptionError, WALNotFoundError
from wal._frame import RecordType
from wal._records import EntryT_co, RecordRegistry, SnapshotT_co, StateT_co, parametrized
from wal._replay import LogRecord, RecordWalk

from .batches import BatchSource
from .client import PAUSE_S, Client, Refused, Unanswered, refusal_error
from .entities import End, Manifest, Tail, path_of
from .keys import Keys
from .messages import RANGE, WATCH, range_request
from .pages import read_range

__all__ = ["EtcdFollower"]


class _Again(Exception):  # noqa: N818  # it is an outcome
    """What was being read is compacted: look anew."""


@parametrized
class EtcdFollower(Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    The records of a storage on an etcd cluster, and those that are still to come; ``wal.cluster.follow`` returns it.

    Iterate over it: each step waits for the next record, until ``stop`` is called. Use it as a context manager, or
    call ``close``. One thread iterates; any may stop it. What it yields is on the disks of a majority.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        index: int | None,
        registry: RecordRegistry[EntryT_co, StateT_co, SnapshotT_co] | None,
        *,
        timeout_s: float,
    ) -> None:
        self._client = client
        self._keys = keys
        self._timeout_s = timeout_s
        self._stopped = False
        self._stream: Any = None
        tail, revision = self._tail()
        behind = tail.end if index is None else self._behind(index, tail, revision)
        self._start = 0 if index is None else index - 1
        self._skipping = index is not None
        self._source = BatchSource(keys, behind.batch, behind.crc)
        self._walk = RecordWalk[EntryT_co, StateT_co, SnapshotT_co](
            Path(keys.name),
            self._source,
            None if index is None else self._start,
            registry,
            last_entry=behind.entry,
            marker=False,
        )
        self._walk.last_marker = behind.marker
        self._values: Iterator[Any] | None = None
        self._records: Iterator[LogRecord[EntryT_co, StateT_co, SnapshotT_co]] = iter(())
        self._failure: Exception | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> LogRecord[EntryT_co, StateT_co, SnapshotT_co]:
        """
        Wait for the next record.

        Raises:
            StopIteration: ``stop`` or ``close`` was called.
            CompactedError: What comes next was released before it was read. Begin anew behind a snapshot.
            CorruptionError: The storage is damaged.
            RecordDecodeError: The registry is not the one that the storage is written with.
            ClusterUnavailableError: No member has answered in time. The next call tries again.
            WALNotFoundError: The storage is gone.
        """
        while not self._stopped:
            if self._failure is not None:
                raise self._failure
            try:
                for record in self._records:
                    if not self._is_skipped(record.type):
                        return record
                self._take_batch()
            except (CompactedError, CorruptionError, WALNotFoundError, ValueError) as error:
                if not self._stopped:
                    self._failure = error
            except Exception:
                self._values = None
                if not self._stopped:
                    raise
        raise StopIteration

    def _is_skipped(self, type: RecordType) -> bool:
        if self._skipping and type is not RecordType.ENTRY and self._walk.last_entry < self._start:
            return True
        self._skipping = False
        return False

    def stop(self) -> None:
        """
        End the iteration, also one that waits. Records that were not yielded yet are not yielded any more.

        Any thread may call this.
        """
        self._stopped = True
        stream = self._stream
        if stream is not None:
            stream.cancel()
        self._client.close()

    def close(self) -> None:
        """Stop, and give up the connections. A second call does nothing."""
        self.stop()

    # ------------------------------------------------------------------------------------------- batches

    def _take_batch(self) -> None:
        """Wait for the next batch and begin to walk its records."""
        if self._values is None:
            self._values = self._batches()
        kv = next(self._values, None)
        if kv is None:
            return  # it was stopped
        self._source.feed(kv.key, kv.value)
        self._records = iter(self._walk)

    def _batches(self) -> Iterator[Any]:
        """Yield the batches behind the last one that was walked, one after the other, until it is stopped."""
        while not self._stopped:
            try:
                revision = yield from self._there()
            except _Again:
                continue
            try:
                yield from self._coming(revision + 1)
            except Unanswered:
                time.sleep(PAUSE_S)
            except Refused as error:
                raise refusal_error(self._client.path, error) from error

    def _there(self) -> Generator[Any, None, int]:
        """Yield the batches that are there now; return the revision of which that is true."""
        tail, revision = self._tail()
        number = self._source.number
        if number < tail.first.batch:
            index = self._walk.last_entry + 1
            raise CompactedError(index, f"what follows entry {index - 1} was released before it was read")
        if number > tail.end.batch:
            path = path_of(self._keys.tail)
            raise CorruptionError(path, 0, f"batch {number} was there, and now the log ends at {tail.end.batch}")
        if number < tail.end.batch:
            yield from read_range(
                self._client,
                self._keys.batch(number + 1),
                self._keys.batch(tail.end.batch + 1),
                revision=revision,
                renew=_again,
                timeout_s=self._timeout_s,
            )
            if self._source.number != tail.end.batch:
                path = path_of(self._keys.batch(self._source.number + 1))
                raise CorruptionError(path, 0, "this batch is missing")
        return revision

    def _coming(self, revision: int) -> Iterator[Any]:
        """Yield the batches that come from a revision on, until the watch ends."""
        create = {
            "key": self._keys.batch(self._source.number + 1),
            "range_end": self._keys.batches_end,
            "start_revision": revision,
        }
        stream = self._stream = self._client.watch(WATCH.request(create_request=create))
        if self._stopped:
            stream.cancel()
        try:
            for response in self._client.watched(stream):
                for event in response.events:
                    if event.type == 0:  # a value was put, not deleted
                        yield event.kv
                if response.canceled:  # compacted, or nobody may look any more: reading tells which
                    raise Unanswered(response.cancel_reason)
        finally:
            stream.cancel()

    def _tail(self) -> tuple[Tail, int]:
        """Return the tail as it is now, and the revision."""
        try:
            response = self._client.ask(
                RANGE, range_request(self._keys.tail), deadline=time.monotonic() + self._timeout_s
            )
        except Refused as error:
            raise refusal_error(self._client.path, error) from error
        for kv in response.kvs:
            return Tail.of(kv.value, kv.key), response.header.revision
        raise WALNotFoundError(self._client.path, "the cluster has no storage of this name")

    def _behind(self, index: int, tail: Tail, revision: int) -> End:
        """Return an end of a batch, not far in front of an entry."""
        if index <= tail.first.entry:
            raise CompactedError(index, f"entry {index} is not there any more; the first one is {tail.first.entry + 1}")
        manifests = read_range(
            self._client,
            self._keys.manifest(0),
            self._keys.manifest(index),
            revision=revision,
            renew=lambda: self._tail()[1],
            timeout_s=self._timeout_s,
        )
        behind = tail.first
        for kv in manifests:
            try:
                behind = max(behind, Manifest.of(kv.value, kv.key).behind)
            except CorruptionError:
                continue  # then it begins further in front
        return behind

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EtcdFollower of {self._keys.name!r} behind entry {self._walk.last_entry}>"


def _again() -> int:
    raise _Again
