# SPDX-License-Identifier: Apache-2.0
"""
The storage: saves from many threads, one transaction after the other.

As in a log in files, a save is checked and marshalled first, then queued, and whoever has the turn sends as much of the
queue as fits, as one batch. What a save promises (the next index, the state) counts for the saves behind it at once.
So if the cluster refuses a batch, everything that is queued fails with it, and the promises are taken back.
"""

from __future__ import annotations

import copy
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NoReturn, Self

from wal._errors import (
    ClusterUnavailableError,
    CorruptionError,
    FencedError,
    RecordTypeError,
    RequestTooLargeError,
    WALClosedError,
    WALEnvironmentError,
    WALFailedError,
)
from wal._events import log_failed, log_fenced, log_not_compacted
from wal._file_storage import Retention, marker_of, oldest_kept
from wal._frame import Payload, RecordType
from wal._known import Known
from wal._marshal import Marshaller
from wal._records import EntryT_co, HardState, RecordRegistry, Snapshot, SnapshotT_co, StateT_co, parametrized
from wal._snapshotter import SnapshotData
from wal._turns import PendingSave, Turns

from .batches import BATCH_OVERHEAD, RECORD_OVERHEAD, encode_batch
from .client import Refused
from .entities import End, Manifest
from .messages import COMPACT, delete_op, put_op
from .ownership import Ownership
from .quota import Quota
from .recovery import Holdings
from .snapshots import SnapshotBytes, Upload

__all__ = ["EtcdStorage", "request_overhead"]

_STATE = RecordType.STATE.value


def request_overhead(name: str) -> int:
    """Return how many bytes a request takes at most besides the records and the state in the tail."""
    return 2048 + 12 * len(name.encode())


class _Declined(Exception):  # noqa: N818  # it is an outcome
    """The cluster has refused a batch: nothing of it is there, and the storage goes on."""

    def __init__(self, error: WALEnvironmentError) -> None:
        super().__init__(str(error))
        self.error = error


_INTERRUPTED = InterruptedError("a save was interrupted before it was done")


@parametrized
class EtcdStorage(Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    A log and its snapshots on an etcd cluster. It is a ``Storage[SnapshotData]``.

    ``wal.cluster.open_storage`` makes one. All methods may be called from any thread; saves take effect one after the
    other, and those that come at once share a transaction. A process forked from the one that opened it cannot use it.
    It is a context manager that closes itself, and warns with ``ResourceWarning`` if it is dropped without.

    Whoever opens the same storage takes it over. From then on this one is fenced: every save raises ``FencedError``
    and leaves no trace.
    """

    def __init__(
        self,
        ownership: Ownership,
        holdings: Holdings,
        marshaller: Marshaller,
        quota: Quota,
        snapshots: SnapshotBytes,
        *,
        retention: Retention | None,
        max_request_bytes: int,
        compact: bool,
    ) -> None:
        # Not for callers: open_storage() makes sure that all of these are about the same storage.
        self._lock = threading.Lock()
        self._snapshot_lock = threading.Lock()
        self._turns = Turns()
        self._queue: deque[PendingSave] = deque()
        self._uploads: dict[PendingSave, Upload] = {}
        self._ownership = ownership
        self._path = ownership.client.path
        self._marshaller = marshaller
        self._registry: RecordRegistry[EntryT_co, StateT_co, SnapshotT_co] = marshaller.registry
        self._quota = quota
        self._snapshots = snapshots
        self._retention = retention
        self._max_request_bytes = max_request_bytes
        self._overhead = request_overhead(ownership.keys.name) + BATCH_OVERHEAD
        # So that there is always room for one snapshot more, which makes room when it is released.
        self._reserve = snapshots.max_bytes * 3 // 2 + max_request_bytes
        self._compact = compact
        self._process = os.getpid()
        self._metadata = holdings.recovered.metadata
        self._manifests = holdings.manifests
        self._intact = {holdings.intact} - {0}
        self._ends = holdings.ends
        self._known = self._promised = Known(
            holdings.last_entry, holdings.last_marker, holdings.state, ownership.tail.state
        )
        self._failure: BaseException | None = None
        self._at_work = False
        self._closed = False
        self._released = False

    # ---------------------------------------------------------------------------------------------- save

    def save(self, state: StateT_co | None, entries: Iterable[EntryT_co] | None) -> None:
        """
        Save entries and the hard state as one save, all or nothing.

        When this returns, a majority of the members has it on disk. If it raises anything but ``WALFailedError``,
        nothing was written; with ``FencedError`` it may have been, as a whole, if the error says so.

        Args:
            state: The new hard state; ``None`` leaves it.
            entries: Entries with consecutive indexes, the first between 1 and ``last_index + 1``. A lower index
                takes the place of every entry from it on. ``None`` or none at all saves nothing.

        Raises:
            IndexOrderError: The indexes are not as above, or the state commits less than the newest snapshot covers.
            RequestTooLargeError: The save does not fit into one request.
            RecordTypeError: Something is not of the registered class.
            QuotaExceededError: The cluster's database is full.
            WALEnvironmentError: The cluster has refused it for another reason.
            FencedError: Somebody else has taken the storage over.
            WALFailedError: The cluster has not answered in time, now or at an earlier save. Whether the save is kept
                is not known; the storage has stopped. Open it again to see.
            WALClosedError: The storage is closed.
        """
        self._submit(state, entries).wait()

    def submit(self, state: StateT_co | None, entries: Iterable[EntryT_co] | None) -> PendingSave:
        """
        Begin a save, and leave it to ``wait()`` of what this returns to end it; see ``WAL.submit``.

        Args:
            state: As for ``save``.
            entries: As for ``save``; the first index is at most one more than the last one submitted.

        Raises:
            WALError: As ``save``, but for what goes wrong with the cluster, which ``wait()`` raises.
        """
        return self._submit(state, entries)

    def save_entry(self, entries: Iterable[EntryT_co]) -> None:
        """Save entries alone: ``save(None, entries)``."""
        self.save(None, entries)

    def save_state(self, state: StateT_co) -> None:  # type: ignore[misc]  # covariant, see _records
        """Save the hard state alone: ``save(state, None)``."""
        self.save(state, None)

    def _submit(self, state: HardState | None, entries: Iterable[Any] | None) -> PendingSave:
        records, indexes = self._marshaller.entries(entries or ())
        state_data = None
        if state is not None:
            state, state_data = self._marshaller.state(state)
        self._check_process()
        with self._lock:
            self._check_usable_locked()
            if state is not None:
                self._promised.check_state(state)
            return self._queue_locked(records, self._promised.behind_save(records, indexes, state, state_data))

    def _queue_locked(self, records: list[Payload], promised: Known, upload: Upload | None = None) -> PendingSave:
        if not records and self._queue:
            return self._queue[-1]  # what is there already may still be on its way
        save = PendingSave(self._wait_for, records, promised)
        if records:
            size = self._size(save) + self._overhead
            if size > self._max_request_bytes:
                raise RequestTooLargeError(size, self._max_request_bytes)
            self._promised = promised
            self._queue.append(save)
            if upload is not None:
                self._uploads[save] = upload
        return save

    @staticmethod
    def _size(save: PendingSave) -> int:
        """Return how many bytes of a request a save takes at most, with its state once more in the tail."""
        state: bytes | None = save.known.state_data
        return save.size + len(save.records) * RECORD_OVERHEAD + (len(state) * 4 // 3 + 4 if state else 0)

    def _wait_for(self, save: PendingSave) -> None:
        if not save.finished:
            self._check_process()
            self._turns.until_finished(save, self._commit)
        if save.failure is not None:
            raise self._raised(save.failure) from save.failure

    def sync(self) -> None:
        """
        Wait until everything submitted so far is done. When this returns, it is durable.

        Raises:
            WALError: As ``save``.
        """
        self._check_usable()
        self._turns.take(self._commit)
        self._check_usable()

    # ----------------------------------------------------------------------------------------- snapshots

    def save_snap(self, snapshot: SnapshotData, marker: SnapshotT_co | None = None) -> None:
        """
        Save a snapshot: first its bytes, then its marker in the log.

        When this returns, both are on the disks of a majority, or the bytes in the object store, and the storage is
        recovered from this snapshot on. If it raises, or this process ends in between, the storage is recovered from
        the one before.

        Args:
            snapshot: What to save.
            marker: The marker for the log; by default one of the registered class, made from the index.

        Raises:
            SnapshotOutOfDateError: The log has a snapshot that covers as much, and it is intact.
            IndexOrderError: The snapshot covers entries that the saved state says are not committed.
            SnapshotTooLargeError: It has more bytes than ``max_snapshot_bytes``, and there is no object store.
            RecordTypeError: The marker does not fit the snapshot, or must be given.
            ClusterUnavailableError: The cluster has not answered while the bytes were sent. The storage goes on.
            WALError: As ``save``.
        """
        if not isinstance(snapshot, SnapshotData):
            raise RecordTypeError(f"{snapshot!r:.80} is not a SnapshotData")
        if marker is None:
            marker = marker_of(self._registry, snapshot.index)
        self._check_process()
        with self._snapshot_lock:
            record, index = self._marshaller.snapshot(marker)
            self._check_usable()
            if index != snapshot.index:
                raise RecordTypeError(f"the marker has index {index}, the snapshot {snapshot.index}")
            self._promised.check_snapshot(index, self._is_intact)
            try:
                upload = self._snapshots.upload(
                    snapshot, lambda size: self._turns.take(self._quota.check, size + self._overhead)
                )
            except FencedError as error:
                self._turns.take(self._stop, error)
                raise
            with self._lock:
                self._check_usable_locked()
                self._promised.check_committed(index)  # the bytes took their time
                save = self._queue_locked([record], self._promised.behind_marker(index), upload)
            save.wait()
            self._intact.add(index)

    def release(self, snapshot: Snapshot | SnapshotData) -> None:
        """
        Give up what is older than a snapshot, as far as the retention setting allows.

        The snapshots before the ones that are kept go, and the batches that none of those needs, in one transaction;
        then etcd is told to compact. When this returns, they are gone. Members give the space back to their disks, and
        to the quota, only when they defragment.

        Args:
            snapshot: One that was saved, or its marker.

        Raises:
            ClusterUnavailableError: The cluster did not answer when it was told to compact. What is left is in order.
            OSError: The object store has refused something. What is left is in order.
            WALError: As ``save``.
        """
        self._check_process()
        with self._snapshot_lock:
            self._check_usable()
            if self._retention is None:
                return
            oldest = self._oldest_kept(snapshot.index)
            if oldest is None:
                return  # nothing is older than an intact snapshot that the log knows
            self._turns.take(self._release, oldest)
            self._check_usable()
            self._manifests = {index: kept for index, kept in self._manifests.items() if index >= oldest}
            self._intact &= self._manifests.keys()
            if self._compact:
                self._compact_history()
            self._snapshots.remove_objects(oldest)

    def _oldest_kept(self, index: int) -> int | None:
        """Return the oldest of the snapshots to keep that are not newer than ``index``; ``None`` if there is none."""
        assert self._retention is not None
        return oldest_kept((i for i in self._manifests if i <= index), self._retention.snapshots, self._is_intact)

    def _is_intact(self, index: int) -> bool:
        if index not in self._intact and index in self._manifests:
            with suppress(CorruptionError):
                self._snapshots.load(self._manifests[index], self._ownership.check())
                self._intact.add(index)
        return index in self._intact

    def _compact_history(self) -> None:
        ownership = self._ownership
        request = COMPACT.request(revision=ownership.check())
        try:
            ownership.client.ask(COMPACT, request, deadline=ownership.deadline())
        except Refused as error:
            log_not_compacted(self._path, error.words)

    # ------------------------------------------------------------------------------------- with the turn

    def _commit(self, until: PendingSave | None = None) -> None:
        """Send what was submitted, batch by batch, until a save is done; by default all of it."""
        if self._failure is None and self._at_work:
            self._stop(_INTERRUPTED)
        while self._queue and not (until is not None and until.finished):
            if self._failure is not None:
                self._stop(self._failure)
            else:
                self._work(self._commit_group)

    def _work(self, work: Callable[[], None]) -> None:
        """Do something to its end, or take it back if the cluster refuses it, or stop for good."""
        self._at_work = True  # until the end, wherever an interrupt comes
        try:
            work()
            self._at_work = False
        except (FencedError, ClusterUnavailableError, WALFailedError) as error:
            self._stop(error)
        except WALEnvironmentError as error:
            self._fail_queue(_Declined(error))
            self._at_work = False
        except BaseException as error:
            self._stop(error)
            raise

    def _commit_group(self) -> None:
        with self._lock:
            group = self._next_group_locked()
        before = self._ownership.tail
        number = before.end.batch + 1
        value, crc = encode_batch(number, before.end.crc, [save.records for save in group])
        known: Known = group[-1].known
        end = End(number, crc, known.last_entry, known.last_marker)
        manifests = [
            Manifest(save.known.last_marker, self._ends.behind(save.known.last_marker), *self._uploads[save])
            for save in group
            if save in self._uploads
        ]
        keys = self._ownership.keys
        operations = [put_op(keys.manifest(manifest.covers), manifest.value()) for manifest in manifests]
        request = self._ownership.request(
            tail := before._replace(epoch=self._ownership.owner.epoch, end=end, state=known.state_data),
            [put_op(keys.batch(number), value), *operations],
        )
        size = request.ByteSize()
        assert size <= self._max_request_bytes, "each save was counted with the most that it can take"
        self._quota.check(size, reserve=0 if manifests else self._reserve)
        self._ownership.advance(tail, request)
        self._ends.append(end)
        self._known = known
        self._manifests.update({manifest.covers: manifest for manifest in manifests})
        for save in group:
            save.finish()
        with self._lock:
            for save in group:
                self._queue.popleft()
                self._uploads.pop(save, None)
        self._turns.tell(group)

    def _next_group_locked(self) -> list[PendingSave]:
        """Return the next saves that fit into one request, and not more than one snapshot's marker."""
        group: list[PendingSave] = []
        left = self._max_request_bytes - self._overhead
        for save in self._queue:
            left -= self._size(save)
            if group and (left < 0 or save in self._uploads):
                break
            group.append(save)
            if save in self._uploads:
                break
        return group

    def _release(self, oldest: int) -> None:
        self._commit()
        if self._failure is None:
            outcome: list[WALEnvironmentError] = []
            self._work(partial(self._remove, oldest, outcome))
            for error in outcome:
                raise error

    def _remove(self, oldest: int, declined: list[WALEnvironmentError]) -> None:
        """Remove what is older than a snapshot."""
        ownership = self._ownership
        before, keys = ownership.tail, ownership.keys
        first = max(before.first, self._manifests[oldest].behind)
        tail = before._replace(epoch=ownership.owner.epoch, first=first)
        operations = [delete_op(keys.batch(0), keys.batch(first.batch + 1)), *self._snapshots.removal(oldest)]
        try:
            if tail == before:
                ownership.write_beside(operations)  # only snapshots go
            else:
                ownership.advance(tail, ownership.request(tail, operations))
                self._ends.forget(first.batch)
        except (ClusterUnavailableError, WALFailedError):
            raise
        except WALEnvironmentError as error:
            declined.append(error)

    def _fail_queue(self, failure: BaseException) -> None:
        """Let everything fail that was submitted, and take back what it promised."""
        with self._lock:
            saves = list(self._queue)
            for save in saves:
                if not save.finished:
                    save.finish(failure)
            self._queue.clear()
            self._uploads.clear()
            self._promised = self._known
        self._turns.tell(saves)

    def _stop(self, failure: BaseException) -> None:
        """Take no more saves."""
        first = self._failure is None
        if self._failure is None:
            self._failure = failure
        self._fail_queue(self._failure)
        self._at_work = False
        if first:
            self._turns.run_code_of_others(partial(_log_stop, self._path, failure))

    def close(self) -> None:
        """
        Finish what was submitted and give up the connections. A second call does nothing.

        When this returns, everything that was submitted is saved, unless the storage had stopped before.

        The storage stays in the cluster as it is; whoever opens it is its next owner. A storage that was taken over,
        or has stopped before, is closed without an error.

        Raises:
            WALError: A save that was submitted, and for which nobody has waited yet, failed just now.
        """
        if os.getpid() != self._process:
            self._closed = self._released = True  # a forked child: the connections are the parent's
            return
        self._turns.check_that_it_can_come()
        with self._lock:
            self._closed = True
        self._turns.take(self._close)

    def _close(self) -> None:
        if self._released:
            return
        try:
            with self._lock:
                pending = list(self._queue)
            stopped = self._failure is not None
            self._commit()
            failures = [save.failure for save in pending if save.failure is not None]
            if failures and not stopped and not isinstance(failures[0], FencedError):
                raise self._raised(failures[0]) from failures[0]
        finally:
            self._released = True
            self._ownership.client.close()

    # ------------------------------------------------------------------------------------------- checks

    def _raised(self, failure: BaseException) -> Exception:
        """Return what a call raises that met this failure."""
        if isinstance(failure, _Declined):
            return copy.copy(failure.error)
        if isinstance(failure, FencedError):
            return copy.copy(failure)
        return WALFailedError(
            self._path,
            f"the storage has stopped ({failure!r}); whether the last save is kept is not known: open the storage again"
            " to see",
        )

    def _check_usable(self) -> None:
        self._check_process()
        with self._lock:
            self._check_usable_locked()

    def _check_usable_locked(self) -> None:
        if self._closed:
            raise WALClosedError(f"{self._path} is closed")
        if self._failure is not None:
            raise self._raised(self._failure) from self._failure

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise WALClosedError(f"{self._path} was opened by process {self._process}; a forked child cannot use it")

    # ---------------------------------------------------------------------------------------- properties

    @property
    def name(self) -> str:
        """The storage's name, which its keys begin with."""
        return self._ownership.keys.name

    @property
    def epoch(self) -> int:
        """How many owners the storage has had, this one included."""
        return self._ownership.owner.epoch

    @property
    def metadata(self) -> bytes:
        """The bytes given when the storage was first opened."""
        return self._metadata

    @property
    def registry(self) -> RecordRegistry[EntryT_co, StateT_co, SnapshotT_co]:
        """The record classes, as they were when the storage was opened."""
        return self._registry

    @property
    def state(self) -> StateT_co:
        """The last hard state saved, or the registered class's ``empty()``."""
        return self._known.state  # type: ignore[return-value]  # of the registered class

    @property
    def first_index(self) -> int:
        """The index of the first entry in the batches that the cluster holds."""
        return self._ownership.tail.first.entry + 1

    @property
    def last_index(self) -> int:
        """The greater of the last entry's index and the newest snapshot's; 0 if there is none of both."""
        return self._known.last_index

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._closed

    def __repr__(self) -> str:
        failure = self._failure
        status = "closed" if self._closed else "fenced" if isinstance(failure, FencedError) else "stopped"
        return f"<EtcdStorage {self.name!r} epoch {self.epoch} {status if failure or self._closed else 'open'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_released", True) or os.getpid() != self._process:
            return
        with suppress(Exception):
            self._ownership.client.close()
        if not self._closed:
            warnings.warn(f"{self!r} was dropped without close()", ResourceWarning, stacklevel=2, source=self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open storage cannot be pickled or copied; pass its name")


def _log_stop(path: Path, failure: BaseException) -> None:
    if isinstance(failure, FencedError):
        log_fenced(path, failure)
    else:
        log_failed(path, failure)
