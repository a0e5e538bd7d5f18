# SPDX-License-Identifier: Apache-2.0
"""
The writer.

A save goes this way: the records are marshalled and checked (nothing is written if that fails) and queued. Whoever
has the turn (see ``_turns``) takes a group of saves from the queue, one write hands them to the system, one
``fdatasync`` makes them durable, and only then does the log know them. If anything fails from the first byte on, file
and memory may disagree, and the system may have dropped what it could not write: the log stops for good with all
that is queued, and never tries a sync again.

So there are two locks. ``_lock`` guards what is promised: the queue, and what the log will know when that is done. It
is held for moments. The turn guards the files and what is known, and is held while the disk works. Who has the turn
may take the lock, not the other way round.
"""

from __future__ import annotations

import operator
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypedDict, TypeVar

from ._crc32c import warn_if_slow
from ._encoder import Encoder
from ._entries import EntryReader, Limit
from ._errors import (
    CompactedError,
    CorruptionError,
    NotReadError,
    TornWriteError,
    WALClosedError,
    WALExistsError,
    WALFailedError,
    WALLockedError,
)
from ._events import log_failed, log_not_stamped, log_slow_cut
from ._files import OPERATING_SYSTEM, FileSystem, make_directories, real_path, remove_directories, sync_directory
from ._frame import ALIGNMENT, PREFIX_BYTES, Payload, RecordType, aligned
from ._hold import Hold
from ._known import Known
from ._marshal import Marshaller
from ._names import SegmentName
from ._notices import SLOW_SYNC_S, Notices
from ._observer import GroupCommit, Observer, RepairReport, SegmentCut, checked
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
from ._repair import cut_tail
from ._replay import LogContents, LogRecord, Replay
from ._segments import segments_among, segments_from
from ._stamp import find_stamps, stamp_reach
from ._turns import PendingSave, Turns

__all__ = ["MAX_RECORD_BYTES", "SEGMENT_SIZE", "WAL", "ZERO_AHEAD_BYTES", "CreateOptions", "OpenOptions"]

SEGMENT_SIZE = 64_000_000
MIN_SEGMENT_SIZE = 4096
MAX_SEGMENT_SIZE = 2**62
MAX_RECORD_BYTES = 10_000_000
ZERO_AHEAD_BYTES = 2 << 20
GROUP_BYTES = 4_000_000
"""A group that has so many bytes is closed; a longer save is a group by itself."""

_RECORD_OVERHEAD = PREFIX_BYTES + ALIGNMENT
"""A record takes no more bytes than this besides its data."""

_T = TypeVar("_T")

_CRC, _METADATA, _STATE = RecordType.CRC.value, RecordType.METADATA.value, RecordType.STATE.value


class CreateOptions(TypedDict, Generic[EntryT, StateT, SnapshotT], total=False):
    """The options of ``WAL.create``, for those who pass them on."""

    registry: RecordRegistry[EntryT, StateT, SnapshotT] | None
    segment_size: int
    sync: bool
    save_marks: bool
    max_record_bytes: int
    zero_ahead_bytes: int
    slow_sync_s: float | None
    observer: Observer | None
    fs: FileSystem


class OpenOptions(CreateOptions[EntryT, StateT, SnapshotT], total=False):
    """The options of ``WAL.open``."""

    index_entries: bool


_INTERRUPTED = InterruptedError("a save was interrupted before it was done")


@parametrized
class WAL(Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    A write-ahead log, open for appending.

    Make one with ``WAL.create``, ``WAL.open`` or ``wal.read_wal``. All methods may be called from any thread;
    saves take effect one after the other, and those that come at once share a sync. A process forked from the one that
    opened it cannot use it. It is a context manager that closes itself, and warns with ``ResourceWarning`` if it is
    dropped without.

    >>> with WAL.create("example") as log:
    ...     log.save(CommitState(1), [Entry(1, b"one"), Entry(2, b"two")])
    ...     log.last_index
    2
    """

    def __init__(
        self,
        hold: Hold,
        marshaller: Marshaller,
        notices: Notices,
        observer: Observer | None,
        *,
        start: int,
        segment_size: int,
        sync: bool,
        save_marks: bool,
        zero_ahead_bytes: int,
        encoder: Encoder | None = None,
        metadata: bytes = b"",
        index_entries: bool = False,
    ) -> None:
        # Not for callers: create() and open() make sure that the hold has what this expects. Without an encoder
        # the log must be read first.
        warn_if_slow()
        self._lock = threading.Lock()
        self._turns = Turns()
        self._queue: deque[PendingSave] = deque()
        self._hold = hold
        self._marshaller = marshaller
        self._registry: RecordRegistry[EntryT_co, StateT_co, SnapshotT_co] = marshaller.registry
        self._notices = notices
        self._observer = observer
        self._start = start
        self._segment_size = segment_size
        self._sync = sync
        self._save_marks = save_marks
        self._zero_ahead = zero_ahead_bytes if sync else 0
        self._process = os.getpid()
        self._closed = False
        self._ended = False
        self._released = False
        self._failure: BaseException | None = None
        self._failure_noted = False
        self._at_work = False
        self._encoder = encoder
        self._metadata = metadata
        self._known = self._promised = Known(0, 0, self._registry.state.empty(), None)
        self._repaired: RepairReport | None = None
        self._index_entries = index_entries
        self._entries: EntryReader[EntryT_co] = EntryReader(
            hold.fs, partial(Replay, hold.fs, hold.path, None, self._registry, live=True, noting=True)
        )
        self._saved_up_to: Limit = (0, encoder.offset) if encoder is not None else (0, 0)  # of what is saved

    # ------------------------------------------------------------------------------------------ make one

    @classmethod
    def create(
        cls: type[WAL[Any, Any, Any]],
        path: str | os.PathLike[str],
        metadata: bytes = b"",
        *,
        registry: RecordRegistry[EntryT, StateT, SnapshotT] | None = None,
        segment_size: int = SEGMENT_SIZE,
        sync: bool = True,
        save_marks: bool = True,
        max_record_bytes: int = MAX_RECORD_BYTES,
        zero_ahead_bytes: int = ZERO_AHEAD_BYTES,
        slow_sync_s: float | None = SLOW_SYNC_S,
        observer: Observer | None = None,
        fs: FileSystem = OPERATING_SYSTEM,
    ) -> WAL[EntryT, StateT, SnapshotT]:
        """
        Make a new log, ready for appending.

        When this returns, the empty log is durable. If it raises, or the machine stops in the middle, there is no
        log, and nothing that was there before has been changed.

        Args:
            path: A directory, made if needed (with its parents), without a log in it. Other files may be there.
            metadata: Bytes that every reader is given, such as the name of the node. They cannot be changed later.
            registry: The record classes; by default the process-wide ones.
            segment_size: A segment that has reached so many bytes is cut at the next save. At least 4096. The
                space is reserved at once.
            sync: ``False`` leaves out the sync of each save: it then survives a kill of the process, but not of
                the machine, until ``sync()``, a cut or ``close()``.
            save_marks: ``False`` writes frames as the Go original does, so that a save of several records is not
                all or nothing, and a torn write cannot always be told from damage. Go reads both.
            max_record_bytes: The longest record that a save takes. Readers have no limit, but those in Go stop
                at 10 MiB.
            zero_ahead_bytes: How far to write zeros ahead of the end, from time to time, together with a save that is
                synced: later saves then go to blocks of the file that are in use already, whose sync is several times
                as fast on most file systems. 0 where it is of no use, such as on btrfs and ZFS.
            slow_sync_s: A sync of saves, or a cut, that takes longer (in seconds) is logged as a warning; ``None``:
                none is.
            observer: Who is told what the log does, or ``None``.
            fs: The file system to work on.

        Raises:
            WALExistsError: The directory has a log.
            WALLockedError: Another writer is making one there.
            OSError: The system refused.
        """
        _check_options(segment_size, zero_ahead_bytes, slow_sync_s, observer)
        marshaller = Marshaller(registry, max_record_bytes)
        metadata = marshaller.metadata(metadata)
        head = [(_CRC, b""), (_METADATA, metadata), marshaller.empty_snapshot()]
        directory = real_path(path)
        notices = Notices(directory, slow_sync_s)
        made = make_directories(fs, directory)
        try:
            hold = Hold(fs, directory)
        except WALLockedError:
            raise  # the directory is in use: leave it to whoever that is
        except BaseException:
            remove_directories(fs, made)
            raise
        try:
            if segments_among(directory, fs.listdir(directory)):  # we hold it, so not to find it is an error
                raise WALExistsError(directory, "the directory already has a log; open it with WAL.open")
            hold.remove_temporaries()
            sync_directory(fs, directory.parent)
            encoder = hold.begin_segment(
                SegmentName(0, 0),
                head,
                crc=0,
                segment_size=segment_size,
                save_marks=save_marks,
                zero_ahead=zero_ahead_bytes if sync else 0,
                notices=notices,
            )
            return cls(
                hold,
                marshaller,
                notices,
                observer,
                start=0,
                segment_size=segment_size,
                sync=sync,
                save_marks=save_marks,
                zero_ahead_bytes=zero_ahead_bytes,
                encoder=encoder,
                metadata=metadata,
            )
        except BaseException:
            remove_directories(fs, made)  # under our lock, so that nobody is at work in them
            hold.close()
            raise

    @classmethod
    def open(
        cls: type[WAL[Any, Any, Any]],
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
    ) -> WAL[EntryT, StateT, SnapshotT]:
        """
        Lock an existing log for appending. It must be read first: ``read_all()``, or ``replay()`` to its end.

        When this returns, no other writer can open the log, and all that it holds has been synced: what a killed
        process had written, but not synced, will not vanish after it has been read. ``wal.read_wal`` opens,
        reads and repairs in one call.

        Args:
            path: The log's directory.
            snapshot: Where to start: entries behind its index are read. By default at the very beginning.
            registry: The record classes; by default the process-wide ones.
            segment_size: As for ``create``; segments that exist keep their size.
            sync: As for ``create``.
            save_marks: As for ``create``; a log may have saves of both kinds.
            max_record_bytes: As for ``create``.
            zero_ahead_bytes: As for ``create``.
            index_entries: Note where each entry stands while the log is read, in eight bytes, so that ``entries()``
                need not read it again.
            slow_sync_s: As for ``create``.
            observer: As for ``create``.
            fs: The file system to work on.

        Raises:
            WALNotFoundError: There is no log.
            WALLockedError: Another writer has it open. Nothing was waited for or changed.
            SnapshotNotFoundError: The log begins behind the snapshot.
            SegmentGapError: A segment is missing.
        """
        _check_options(segment_size, zero_ahead_bytes, slow_sync_s, observer)
        marshaller = Marshaller(registry, max_record_bytes)
        directory = real_path(path)
        start = 0 if snapshot is None else snapshot.index
        hold = Hold(fs, directory)
        try:
            hold.open_segments(segments_from(fs, directory, start))
            hold.remove_temporaries()
            for _, file in hold.segments:
                fs.fdatasync(file.fd)
            hold.sync_directory()
            return cls(
                hold,
                marshaller,
                Notices(directory, slow_sync_s),
                observer,
                start=start,
                segment_size=segment_size,
                sync=sync,
                save_marks=save_marks,
                zero_ahead_bytes=zero_ahead_bytes,
                index_entries=index_entries,
            )
        except BaseException:
            hold.close()
            raise

    # ---------------------------------------------------------------------------------------------- read

    def replay(self) -> Iterator[LogRecord[EntryT_co, StateT_co, SnapshotT_co]]:
        """
        Yield the log's records in the order of writing, in memory bounded by the largest save.

        An opened log is ready for appending when the iteration has come to its end. Entries come as they were
        written: one with index i takes the place of every earlier one from i on.

        Raises:
            TornWriteError: At the end, if the log ends in a torn write. ``wal.read_wal`` repairs that.
            CorruptionError: At the damage.
            SnapshotNotFoundError: At the end, if the snapshot's marker was not met.
        """
        replay = self._begin_replay()
        yield from replay
        self._end_replay(replay)

    def read_all(self) -> LogContents[EntryT_co, StateT_co]:
        """
        Read the whole log. When this returns, an opened log is ready for appending.

        Returns:
            The metadata, the last state, and the entries behind the snapshot; ``tail`` is always ``None``.

        Raises:
            TornWriteError: The log ends in a torn write. ``wal.read_wal`` repairs that.
            CorruptionError: The log is damaged; ``error.entries`` are those before the damage.
            SnapshotNotFoundError: The snapshot's marker is not in the log.
        """
        replay = self._begin_replay()
        contents = replay.contents()
        try:
            self._end_replay(replay)
        except CorruptionError as error:
            error.entries = contents.entries
            raise
        return contents

    def _begin_replay(self) -> Replay[EntryT_co, StateT_co, SnapshotT_co]:
        self._check_process()
        self._check_open()
        return Replay(self._hold.fs, self.path, self._start, self._registry, noting=self._index_entries)

    def _end_replay(self, replay: Replay[EntryT_co, StateT_co, SnapshotT_co]) -> None:
        if replay.tail is not None:
            raise replay.tail
        self._turns.take(self._begin_appending, replay)

    def _begin_appending(self, replay: Replay[EntryT_co, StateT_co, SnapshotT_co]) -> None:
        self._check_open()
        if self._encoder is not None:
            return
        name, file = self._hold.tail
        size = file.size()
        if size != aligned(size):
            self._hold.fs.truncate(file.fd, aligned(size))
        assert replay.end.crc is not None, "every segment begins with a CRC record"
        self._metadata = replay.metadata or b""
        self._known = Known(replay.last_entry, replay.last_marker, replay.state, replay.state_data)
        self._promised = self._known
        end = replay.end.offset
        self._saved_up_to = name.sequence, end
        if self._index_entries:
            self._entries.go_on_behind(replay)
        self._encoder = Encoder(
            file,
            offset=end,
            crc=replay.end.crc,
            save_marks=self._save_marks,
            zero_ahead=self._zero_ahead,
            notices=self._notices,
            stamped=any(find_stamps(file.read(end, stamp_reach(end)), end)),
        )

    def _repair(self, torn: TornWriteError) -> None:
        """Cut the torn write that reading met, under the lock that is held anyway."""
        self._turns.take(self._cut_tail, torn)

    def _cut_tail(self, torn: TornWriteError) -> None:
        self._check_open()
        _, file = self._hold.tail
        assert file.path == torn.path, "only the last segment can be torn"
        self._repaired = cut_tail(file, torn.offset, torn.reason)
        if self._observer is not None:
            self._notices.note(self._observer.repaired, self._repaired)
            self._tell()

    # ------------------------------------------------------------------------------------- entries by index

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

        Entries whose save is not done are not there yet. Reading does not hold up saves. To find entries, the log is
        read by the first call, unless it was opened with ``index_entries``, and each call reads what was saved since
        the one before. Each entry's CRC is checked.

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
            NotReadError, WALClosedError: As ``save``.
        """
        self._check_process()
        self._check_open()
        self._check_read()
        if lo < self.first_index:
            raise CompactedError(lo, f"entry {lo} is not there any more; the first one is {self.first_index}")
        return self._entries.entries(lo, hi, max_size, limit=self._saved_up_to)

    # --------------------------------------------------------------------------------------------- write

    def save(self, state: StateT_co | None, entries: Iterable[EntryT_co] | None) -> None:
        """
        Append entries and the hard state, in this order, as one save.

        When this returns, the save is durable (with ``sync=False``: handed to the system). After a crash before
        that, it is there as a whole or not at all. A state equal to the last one is not written again by itself.
        If it raises anything but ``WALFailedError``, nothing has been written.

        Args:
            state: The new hard state; ``None`` leaves it.
            entries: Entries with consecutive indexes, the first between 1 and ``last_index + 1``. A lower index
                takes the place of every entry from it on. ``None`` or none at all appends nothing.

        Raises:
            IndexOrderError: The indexes are not as above.
            EntryTooLargeError: A record is longer than ``max_record_bytes``.
            RecordTypeError: Something is not of the registered class.
            NotReadError: The log was opened and not read yet.
            WALClosedError: The log is closed.
            WALFailedError: The save failed, now or an earlier one; the log has stopped.
        """
        self._wait_for(self._submit(state, entries))

    def submit(self, state: StateT_co | None, entries: Iterable[EntryT_co] | None) -> PendingSave:
        """
        Begin a save, and leave it to ``wait()`` of what this returns to end it.

        Saves take effect in the order of the calls of ``submit``. So threads that give out indexes under a lock of
        their own need to hold it for this call only, and wait for the disk side by side::

            with numbering:
                index += 1
                pending = log.submit(None, [Entry(index, data)])
            pending.wait()

        Args:
            state: As for ``save``.
            entries: As for ``save``; the first index is at most one more than the last one submitted.

        Raises:
            WALError: As ``save``, but for what goes wrong with the disk, which ``wait()`` raises.
        """
        return self._submit(state, entries)

    def _submit(
        self,
        state: StateT_co | None,
        entries: Iterable[EntryT_co] | None,
        check: Callable[[HardState], None] | None = None,
    ) -> PendingSave:
        """Submit a save; ``check`` may refuse the state, with no other save in between."""
        records, indexes = self._marshaller.entries(entries or ())
        state_data = None
        if state is not None:
            state, state_data = self._marshaller.state(state)
        if os.getpid() != self._process:
            self._check_process()
        with self._lock:
            if self._closed or self._failure is not None or self._encoder is None:
                self._check_usable_locked()
            if check is not None and state is not None:
                check(state)
            return self._queue_locked(records, self._promised.behind_save(records, indexes, state, state_data))

    def _queue_locked(self, records: list[Payload], promised: Known) -> PendingSave:
        if not records and self._queue:
            return self._queue[-1]  # what is there already may still be on its way
        save = PendingSave(self._wait_for, records, promised)
        if records:
            self._promised = promised
            self._queue.append(save)
        return save

    def _wait_for(self, save: PendingSave) -> None:
        if not save.finished:
            if os.getpid() != self._process:
                self._check_process()
            self._turns.until_finished(save, self._commit)
        if save.failure is not None:
            raise self._stopped(save.failure) from save.failure

    def save_entry(self, entries: Iterable[EntryT_co]) -> None:
        """Append entries: ``save(None, entries)``."""
        self.save(None, entries)

    def save_state(self, state: StateT_co) -> None:  # type: ignore[misc]  # covariant, see _records
        """Append the hard state: ``save(state, None)``."""
        self.save(state, None)

    def save_snap(self, snapshot: SnapshotT_co) -> None:  # type: ignore[misc]  # covariant, see _records
        """
        Append the marker of a snapshot, so that the log can be opened at it.

        When this returns, the marker is durable (with ``sync=False``: handed to the system). The snapshot itself
        must be durable before. Its index may lie beyond the last entry (a snapshot received from another node);
        entries then go on behind it.

        Raises:
            WALError: As ``save``.
        """
        self._submit_snap(snapshot).wait()

    def _submit_snap(self, snapshot: Snapshot, check: Callable[[], None] | None = None) -> PendingSave:
        """Submit a marker; ``check`` may refuse it, with no other save in between."""
        record, index = self._marshaller.snapshot(snapshot)
        self._check_process()
        with self._lock:
            self._check_usable_locked()
            if check is not None:
                check()
            return self._queue_locked([record], self._promised.behind_marker(index))

    def sync(self) -> None:
        """
        Make every save so far durable; of use with ``sync=False``. When this returns, they survive a power cut.

        Raises:
            NotReadError, WALClosedError, WALFailedError: As ``save``.
        """
        self._check_usable()
        self._turns.take(self._sync_all)

    def _sync_all(self) -> None:
        self._commit()
        self._check_usable()
        encoder = self._check_read()
        if not encoder.synced:
            self._sync_by_itself(encoder)
            self._tell()

    def _sync_by_itself(self, encoder: Encoder) -> None:
        """Sync what no group has synced; it is told of later."""
        seconds = self._finish_or_stop(encoder.sync)
        if self._observer is not None:
            self._notices.note(self._observer.synced, seconds)

    def release(self, snapshot: Snapshot) -> None:
        """
        Give up the locks of segments that reading from ``snapshot`` on does not need, so that they can be purged.

        Files are not removed. Unknown snapshots are no error.

        Raises:
            WALClosedError: The log is closed.
        """
        self._check_process()
        self._turns.take(self._release, snapshot.index)

    def _release(self, index: int) -> None:
        self._check_open()
        self._hold.release(index)

    def _tell_purged(self, segments: list[str]) -> None:
        if self._observer is not None and segments:
            self._notices.tell_now(self._observer.purged, segments)

    def close(self) -> None:
        """
        Sync what is not synced, unlock and close everything. A second call does nothing.

        When this returns, all saves are durable, unless the log had failed before, and the log says on disk where
        it ends, so that later damage to any save is told from a torn write. If this raises, everything has been
        released all the same.

        Raises:
            WALFailedError: The last sync failed.
            OSError: The system failed to close a file.
        """
        if os.getpid() != self._process:
            # A forked child: the parent's log goes on, and must not be synced, unlocked or warned about from here.
            self._closed = self._released = True
            self._hold.abandon()
            return
        self._turns.check_that_it_can_come()
        with self._lock:
            self._closed = True
        self._turns.take(self._close)

    def _close(self) -> None:
        try:
            self._end_and_free()
        finally:
            self._tell()

    def _end_and_free(self) -> None:
        try:
            if not self._ended:
                self._end()
        except BaseException:
            self._ended = True
            with suppress(OSError):
                self._hold.close()
                self._released = True
            raise
        if not self._released:
            self._hold.close()  # what is left of it, if an earlier call was interrupted
            self._released = True

    def _end(self) -> None:
        self._commit()
        if self._encoder is not None and self._failure is None:
            if not self._encoder.synced:
                self._sync_by_itself(self._encoder)
            self._stamp(self._encoder)
        self._ended = True

    def _stamp(self, encoder: Encoder) -> None:
        try:
            encoder.stamp()
        except OSError as error:
            # Everything saved is durable. Only, damage to the last saves will be taken for a torn write.
            self._notices.note(log_not_stamped, self.path, error)

    def _check_usable(self) -> None:
        """
        Raise what ``save`` would raise now, whatever it is given: for callers that do something else first.

        Raises:
            NotReadError, WALClosedError, WALFailedError: As ``save``.
        """
        self._check_process()
        with self._lock:
            self._check_usable_locked()

    def _check_snapshot(self, snapshot: Snapshot) -> None:
        """Raise what ``save_snap`` would raise for this marker before it writes anything."""
        self._marshaller.snapshot(snapshot)
        self._check_usable()

    # ------------------------------------------------------------------------------------- with the turn

    def _commit(self, until: PendingSave | None = None) -> None:
        """Write and sync what was submitted, group by group, until a save is done; by default all of them."""
        if self._failure is not None or self._at_work:
            self._stop(_INTERRUPTED)
        while self._queue and not (until is not None and until.finished):
            self._finish_or_stop(self._commit_group)
            if self._notices.untold:
                self._tell()

    def _commit_next(self) -> bool:
        """Take the turn and commit the next group, if there is one; tell whether there was."""
        return self._turns.take(self._commit_one)

    def _commit_one(self) -> bool:
        if not self._queue:
            return False
        self._commit(self._queue[0])
        return True

    def _commit_group(self) -> None:
        encoder = self._encoder
        assert encoder is not None, "nothing is submitted before the log was read"
        if encoder.offset >= self._segment_size:
            encoder = self._cut(encoder)
        with self._lock:
            group = [self._queue[0]] if len(self._queue) == 1 else self._next_group_locked(encoder.offset)
        if self._observer is None:
            encoder.write([save.records for save in group])
            if self._sync:
                encoder.sync()
        else:
            self._write_observed(encoder, group, self._observer)
        self._saved_up_to = self._hold.tail[0].sequence, encoder.offset
        self._known = group[-1].known
        for save in group:
            save.finish()
        with self._lock:
            for _ in group:
                self._queue.popleft()
        if len(group) > 1 or group[0].slept_for:
            self._turns.tell(group)

    def _write_observed(self, encoder: Encoder, group: list[PendingSave], observer: Observer) -> None:
        """Write and sync a group, and note what is so as soon as it is done."""
        records = sum(len(save.records) for save in group)
        begin, started = encoder.offset, time.perf_counter()
        encoder.write([save.records for save in group])
        write_s = time.perf_counter() - started
        if self._sync:
            self._notices.note(observer.synced, encoder.sync())
        commit = GroupCommit(len(group), records, encoder.offset - begin, write_s)
        self._notices.note(observer.committed, commit, after=group[-1])

    def _next_group_locked(self, offset: int) -> list[PendingSave]:
        """Return the next saves that begin in front of the segment's end, as if each were written by itself."""
        group: list[PendingSave] = []
        end = min(self._segment_size, offset + GROUP_BYTES)
        for save in self._queue:
            if group and offset >= end:
                break
            group.append(save)
            offset += save.size + len(save.records) * _RECORD_OVERHEAD
        return group

    def _finish_or_stop(self, work: Callable[[], _T]) -> _T:
        """
        Do the work to its end, or stop the log for good.

        ``_at_work`` says so from before the first byte until after the last: wherever an error or an interrupt leaves
        this, and however many of them, whoever has the turn next sees that something was left half done.
        """
        self._at_work = True
        try:
            result = work()
            self._at_work = False
            return result
        except OSError as error:
            self._stop(error)
            raise WALFailedError(
                self.path, f"a write failed and the log has stopped ({error}); close and reopen it"
            ) from error
        except BaseException as error:
            self._stop(error)
            raise

    def _stop(self, failure: BaseException) -> None:
        """Take no more saves, and let those that were submitted fail."""
        if self._failure is None:
            self._failure = failure
        with self._lock:
            saves = list(self._queue)
            for save in saves:
                if not save.finished:
                    save.finish(self._failure)
            self._queue.clear()
        self._turns.tell(saves)
        self._at_work = False
        if not self._failure_noted:
            self._failure_noted = True
            self._notices.note(log_failed, self.path, self._failure)
            if self._observer is not None:
                self._notices.note(self._observer.failed, self._failure)
        self._tell()

    def _tell(self) -> None:
        """Tell what was noted: to code of others, which does no harm whatever it does."""
        self._turns.run_code_of_others(self._notices.tell)

    def _cut(self, encoder: Encoder) -> Encoder:
        """End the segment and begin the next one; or let it grow, if there is no name left for that."""
        name, file = self._hold.tail
        next_name = SegmentName(name.sequence + 1, self._known.last_index + 1)
        if max(next_name) >= 1 << 64:
            return encoder  # readers would not take it for a segment; only other writers give such indexes
        started = time.perf_counter()
        # Everything in a segment is on disk, and its length is final, before there is a next one.
        self._hold.fs.truncate(file.fd, encoder.offset)
        self._hold.fs.fsync(file.fd)
        head = [(_CRC, b""), (_METADATA, self._metadata)]
        if self._known.state_data is not None:
            head.append((_STATE, self._known.state_data))
        self._encoder = self._hold.begin_segment(
            next_name,
            head,
            crc=encoder.crc,
            segment_size=self._segment_size,
            save_marks=self._save_marks,
            zero_ahead=self._zero_ahead,
            notices=self._notices,
        )
        seconds = time.perf_counter() - started
        if seconds > self._notices.slow_sync_s:
            self._notices.note(log_slow_cut, self._encoder.file.path, seconds)
        if self._observer is not None:
            self._notices.note(self._observer.cut, SegmentCut(self._encoder.file.path, encoder.offset, seconds))
        return self._encoder

    # -------------------------------------------------------------------------------------- check the log

    def _check_usable_locked(self) -> None:
        self._check_open()
        if self._failure is not None:
            raise self._stopped(self._failure) from self._failure
        self._check_read()

    def _stopped(self, failure: BaseException) -> WALFailedError:
        return WALFailedError(self.path, f"the log has stopped after a failure ({failure!r}); close and reopen it")

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise WALClosedError(f"{self.path} was opened by process {self._process}; a forked child cannot use it")

    def _check_open(self) -> None:
        if self._closed:
            raise WALClosedError(f"{self.path} is closed")

    def _check_read(self) -> Encoder:
        if self._encoder is None:
            raise NotReadError(f"{self.path} was opened but not read to its end; call read_all() first")
        return self._encoder

    # ---------------------------------------------------------------------------------------- properties

    @property
    def path(self) -> Path:
        """The log's directory, absolute."""
        return self._hold.path

    @property
    def metadata(self) -> bytes:
        """The bytes given to ``create``. ``NotReadError`` before the log has been read."""
        self._check_read()
        return self._metadata

    @property
    def state(self) -> StateT_co:
        """The last hard state saved, or the registered class's ``empty()``. ``NotReadError`` before reading."""
        self._check_read()
        return self._known.state  # type: ignore[return-value]  # of the registered class

    @property
    def has_state(self) -> bool:
        """Whether a hard state was ever saved. ``NotReadError`` before the log has been read."""
        self._check_read()
        return self._known.state_data is not None

    @property
    def registry(self) -> RecordRegistry[EntryT_co, StateT_co, SnapshotT_co]:
        """The record classes, as they were when the log was opened."""
        return self._registry

    @property
    def first_index(self) -> int:
        """The index of the first entry in the segments that the log holds; 1 for all of a new log."""
        return max(1, min([name.first_index for name, _ in self._hold.segments.copy()], default=1))

    @property
    def last_index(self) -> int:
        """The greater of the last entry's index and the greatest snapshot marker's; 0 if there is none of both."""
        self._check_read()
        return self._known.last_index

    @property
    def repaired(self) -> RepairReport | None:
        """What ``wal.read_wal`` cut off the log before it was read, or ``None``."""
        return self._repaired

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._closed

    def __repr__(self) -> str:
        status = "closed" if self._closed else "failed" if self._failure else "open" if self._encoder else "not read"
        return f"<WAL {str(self.path)!r} {status}>"

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
            self._hold.close()
        if not self._closed:
            warnings.warn(f"{self!r} was dropped without close()", ResourceWarning, stacklevel=2, source=self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open log cannot be pickled or copied; pass its path")


def _check_options(
    segment_size: int, zero_ahead_bytes: int, slow_sync_s: float | None, observer: Observer | None
) -> None:
    checked(observer)
    if slow_sync_s is not None and not slow_sync_s >= 0:
        raise ValueError(f"slow_sync_s must be 0 or more, or None, not {slow_sync_s}")
    if operator.index(zero_ahead_bytes) < 0:
        raise ValueError(f"zero_ahead_bytes must be 0 or more, not {zero_ahead_bytes}")
    if not MIN_SEGMENT_SIZE <= operator.index(segment_size) <= MAX_SEGMENT_SIZE:
        raise ValueError(f"segment_size must be from {MIN_SEGMENT_SIZE} to {MAX_SEGMENT_SIZE}, not {segment_size}")
