# SPDX-License-Identifier: Apache-2.0
"""
The writer.

A save goes this way: the records are marshalled and checked (nothing is written if that fails), one write hands
them to the system, one ``fdatasync`` makes them durable, and only then does the log know them. If anything
fails from the first byte on, file and memory may disagree, and the system may have dropped what it could not
write: the log stops for good, and never tries a sync again.
"""

from __future__ import annotations

import logging
import operator
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

from ._crc32c import warn_if_slow
from ._encoder import Encoder, Payload
from ._errors import (
    CorruptionError,
    IndexOrderError,
    NotReadError,
    TornWriteError,
    WALClosedError,
    WALExistsError,
    WALFailedError,
    WALLockedError,
)
from ._files import OPERATING_SYSTEM, FileSystem, make_directories, real_path, remove_directories, sync_directory
from ._frame import RecordType, aligned
from ._hold import Hold
from ._marshal import Marshaller
from ._names import SegmentName
from ._records import HardState, LogEntry, RecordRegistry, Snapshot
from ._repair import RepairReport, cut_tail
from ._replay import LogContents, LogRecord, Replay
from ._segments import segments_among, segments_from
from ._stamp import find_stamps, stamp_reach

__all__ = ["MAX_RECORD_BYTES", "SEGMENT_SIZE", "WAL"]

_logger = logging.getLogger("wal")

SEGMENT_SIZE = 64_000_000
MIN_SEGMENT_SIZE = 4096
MAX_SEGMENT_SIZE = 2**62
MAX_RECORD_BYTES = 10_000_000

_CRC, _METADATA, _STATE = RecordType.CRC.value, RecordType.METADATA.value, RecordType.STATE.value


class _Known(NamedTuple):
    """What the log knows of itself. All of it changes in one step, when a save is done."""

    last_entry: int
    last_marker: int
    state: HardState
    state_data: bytes | None
    """The state as it stands on disk, to be repeated at a cut; ``None`` if none was saved."""

    @property
    def last_index(self) -> int:
        return max(self.last_entry, self.last_marker)


_INTERRUPTED = InterruptedError("a save was interrupted before it was done")


class WAL:
    """
    A write-ahead log, open for appending.

    Make one with ``WAL.create``, ``WAL.open`` or ``wal.read_wal``. All methods may be called from any thread;
    saves take effect one after the other. A process forked from the one that opened it cannot use it. It is a
    context manager that closes itself, and warns with ``ResourceWarning`` if it is dropped without.

    >>> with WAL.create("example") as log:
    ...     log.save(CommitState(1), [Entry(1, b"one"), Entry(2, b"two")])
    ...     log.last_index
    2
    """

    def __init__(
        self,
        hold: Hold,
        marshaller: Marshaller,
        *,
        start: int,
        segment_size: int,
        sync: bool,
        save_marks: bool,
        encoder: Encoder | None = None,
        metadata: bytes = b"",
    ) -> None:
        # Not for callers: create() and open() make sure that the hold has what this expects. Without an encoder
        # the log must be read first.
        warn_if_slow()
        self._lock = threading.Lock()
        self._hold = hold
        self._marshaller = marshaller
        self._registry = marshaller.registry
        self._start = start
        self._segment_size = segment_size
        self._sync = sync
        self._save_marks = save_marks
        self._process = os.getpid()
        self._closed = False
        self._released = False
        self._failure: BaseException | None = None
        self._encoder = encoder
        self._metadata = metadata
        self._known = _Known(0, 0, self._registry.state.empty(), None)
        self._repaired: RepairReport | None = None

    # ------------------------------------------------------------------------------------------ make one

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        metadata: bytes = b"",
        *,
        registry: RecordRegistry | None = None,
        segment_size: int = SEGMENT_SIZE,
        sync: bool = True,
        save_marks: bool = True,
        max_record_bytes: int = MAX_RECORD_BYTES,
        fs: FileSystem = OPERATING_SYSTEM,
    ) -> Self:
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
            fs: The file system to work on.

        Raises:
            WALExistsError: The directory has a log.
            WALLockedError: Another writer is making one there.
            OSError: The system refused.
        """
        _check_options(segment_size)
        marshaller = Marshaller(registry, max_record_bytes)
        metadata = marshaller.metadata(metadata)
        head = [(_CRC, b""), (_METADATA, metadata), marshaller.empty_snapshot()]
        directory = real_path(path)
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
                SegmentName(0, 0), head, crc=0, segment_size=segment_size, save_marks=save_marks
            )
            return cls(
                hold,
                marshaller,
                start=0,
                segment_size=segment_size,
                sync=sync,
                save_marks=save_marks,
                encoder=encoder,
                metadata=metadata,
            )
        except BaseException:
            remove_directories(fs, made)  # under our lock, so that nobody is at work in them
            hold.close()
            raise

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        snapshot: Snapshot | None = None,
        *,
        registry: RecordRegistry | None = None,
        segment_size: int = SEGMENT_SIZE,
        sync: bool = True,
        save_marks: bool = True,
        max_record_bytes: int = MAX_RECORD_BYTES,
        fs: FileSystem = OPERATING_SYSTEM,
    ) -> Self:
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
            fs: The file system to work on.

        Raises:
            WALNotFoundError: There is no log.
            WALLockedError: Another writer has it open. Nothing was waited for or changed.
            SnapshotNotFoundError: The log begins behind the snapshot.
            SegmentGapError: A segment is missing.
        """
        _check_options(segment_size)
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
                start=start,
                segment_size=segment_size,
                sync=sync,
                save_marks=save_marks,
            )
        except BaseException:
            hold.close()
            raise

    # ---------------------------------------------------------------------------------------------- read

    def replay(self) -> Iterator[LogRecord]:
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

    def read_all(self) -> LogContents:
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

    def _begin_replay(self) -> Replay:
        self._check_process()
        with self._lock:
            self._check_open_locked()
        return Replay(self._hold.fs, self.path, self._start, self._registry)

    def _end_replay(self, replay: Replay) -> None:
        if replay.tail is not None:
            raise replay.tail
        with self._lock:
            self._check_open_locked()
            if self._encoder is not None:
                return
            _, file = self._hold.tail
            size = file.size()
            if size != aligned(size):
                self._hold.fs.truncate(file.fd, aligned(size))
            assert replay.end.crc is not None, "every segment begins with a CRC record"
            self._metadata = replay.metadata or b""
            self._known = _Known(replay.last_entry, replay.last_marker, replay.state, replay.state_data)
            end = replay.end.offset
            self._encoder = Encoder(
                file,
                offset=end,
                crc=replay.end.crc,
                save_marks=self._save_marks,
                stamped=any(find_stamps(file.read(end, stamp_reach(end)), end)),
            )

    def _repair(self, torn: TornWriteError) -> None:
        """Cut the torn write that reading met, under the lock that is held anyway."""
        with self._lock:
            self._check_open_locked()
            _, file = self._hold.tail
            assert file.path == torn.path, "only the last segment can be torn"
            self._repaired = cut_tail(file, torn.offset, torn.reason)

    # --------------------------------------------------------------------------------------------- write

    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        """
        Append entries and the hard state, in this order, as one save.

        When this returns, the save is durable (with ``sync=False``: handed to the system). After a crash before
        that, it is there as a whole or not at all. A state equal to the last one is not written again by itself.

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

            Nothing has been written in each case but the last.
        """
        self._save(state, entries)

    def _save(
        self,
        state: HardState | None,
        entries: Iterable[LogEntry] | None,
        check: Callable[[HardState], None] | None = None,
    ) -> None:
        """Save; ``check`` may refuse the state, with no other save in between."""
        records, indexes = self._marshaller.entries(entries or ())
        state_data = None
        if state is not None:
            state, state_data = self._marshaller.state(state)
        self._check_process()
        with self._lock:
            self._check_usable_locked()
            if check is not None and state is not None:
                check(state)
            known = self._known
            if indexes:
                if not 0 < indexes[0] <= known.last_index + 1:
                    raise IndexOrderError(
                        indexes[0],
                        known.last_index + 1,
                        f"entry {indexes[0]} must have an index from 1 to {known.last_index + 1}",
                    )
                known = known._replace(last_entry=indexes[-1])
            if state is not None and state_data is not None and self._is_news_locked(state_data, records):
                records.append((_STATE, state_data))
                known = known._replace(state=state, state_data=state_data)
            if records:
                self._finish_or_stop_locked(self._append_locked, records, known)

    def save_entry(self, entries: Iterable[LogEntry]) -> None:
        """Append entries: ``save(None, entries)``."""
        self.save(None, entries)

    def save_state(self, state: HardState) -> None:
        """Append the hard state: ``save(state, None)``."""
        self.save(state, None)

    def save_snap(self, snapshot: Snapshot) -> None:
        """
        Append the marker of a snapshot, so that the log can be opened at it.

        When this returns, the marker is durable (with ``sync=False``: handed to the system). The snapshot itself
        must be durable before. Its index may lie beyond the last entry (a snapshot received from another node);
        entries then go on behind it.

        Raises:
            As ``save``.
        """
        self._save_snap(snapshot)

    def _save_snap(self, snapshot: Snapshot, check: Callable[[], None] | None = None) -> None:
        """Save a marker; ``check`` may refuse it, with no other save in between."""
        record, index = self._marshaller.snapshot(snapshot)
        self._check_process()
        with self._lock:
            self._check_usable_locked()
            if check is not None:
                check()
            known = self._known._replace(last_marker=max(self._known.last_marker, index))
            self._finish_or_stop_locked(self._append_locked, [record], known)

    def sync(self) -> None:
        """
        Make every save so far durable; of use with ``sync=False``. When this returns, they survive a power cut.

        Raises:
            NotReadError, WALClosedError, WALFailedError: As ``save``.
        """
        self._check_process()
        with self._lock:
            encoder = self._check_usable_locked()
            if not encoder.synced:
                self._finish_or_stop_locked(encoder.sync)

    def release(self, snapshot: Snapshot) -> None:
        """
        Give up the locks of segments that reading from ``snapshot`` on does not need, so that they can be purged.

        Files are not removed. Unknown snapshots are no error.

        Raises:
            WALClosedError: The log is closed.
        """
        self._check_process()
        with self._lock:
            self._check_open_locked()
            self._hold.release(snapshot.index)

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
        with self._lock:
            try:
                if not self._closed:
                    self._closed = True
                    if self._encoder is not None and self._failure is None:
                        if not self._encoder.synced:
                            self._finish_or_stop_locked(self._encoder.sync)
                        self._stamp(self._encoder)
            except BaseException:
                with suppress(OSError):
                    self._hold.close()
                    self._released = True
                raise
            if not self._released:
                self._hold.close()  # what is left of it, if an earlier call was interrupted
                self._released = True

    def _stamp(self, encoder: Encoder) -> None:
        try:
            encoder.stamp()
        except OSError as error:
            # Everything saved is durable. Only, damage to the last saves will be taken for a torn write.
            _logger.warning("%s: the log is closed, but its end could not be stamped: %s", self.path, error)

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

    def _finish_or_stop_locked(self, work: Callable[..., None], *arguments: Any) -> None:
        """
        Do the work to its end, or stop the log for good.

        It counts as stopped from before the first byte until after the last: wherever an error or an interrupt
        leaves this, and however many of them, there is no moment at which a half-done save is forgotten.
        """
        self._failure = _INTERRUPTED
        try:
            work(*arguments)
            self._failure = None
        except OSError as error:
            self._failure = error
            raise WALFailedError(
                self.path, f"a write failed and the log has stopped ({error}); close and reopen it"
            ) from error
        except BaseException as error:
            self._failure = error
            raise

    def _append_locked(self, records: list[Payload], known: _Known) -> None:
        encoder = self._check_read()
        if encoder.offset >= self._segment_size:
            encoder = self._cut_locked(encoder)
        encoder.write(records)
        if self._sync:
            encoder.sync()
        self._known = known

    def _is_news_locked(self, state_data: bytes, records: list[Payload]) -> bool:
        """Tell whether a state must be written; an old one is by the Go original, too, if entries are."""
        if self._known.state_data is None:
            return state_data != self._known.state.marshal()
        return state_data != self._known.state_data or bool(records)

    def _cut_locked(self, encoder: Encoder) -> Encoder:
        """End the segment and begin the next one; or let it grow, if there is no name left for that."""
        name, file = self._hold.tail
        next_name = SegmentName(name.sequence + 1, self._known.last_index + 1)
        if max(next_name) >= 1 << 64:
            return encoder  # readers would not take it for a segment; only other writers give such indexes
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
        )
        return self._encoder

    # -------------------------------------------------------------------------------------- check the log

    def _check_usable_locked(self) -> Encoder:
        self._check_open_locked()
        if self._failure is not None:
            raise WALFailedError(
                self.path, f"the log has stopped after a failure ({self._failure!r}); close and reopen it"
            ) from self._failure
        return self._check_read()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise WALClosedError(f"{self.path} was opened by process {self._process}; a forked child cannot use it")

    def _check_open_locked(self) -> None:
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
    def state(self) -> HardState:
        """The last hard state saved, or the registered class's ``empty()``. ``NotReadError`` before reading."""
        self._check_read()
        return self._known.state

    @property
    def has_state(self) -> bool:
        """Whether a hard state was ever saved. ``NotReadError`` before the log has been read."""
        self._check_read()
        return self._known.state_data is not None

    @property
    def registry(self) -> RecordRegistry:
        """The record classes, as they were when the log was opened."""
        return self._registry

    @property
    def first_index(self) -> int:
        """The index of the first entry in the segments that the log holds; 1 for all of a new log."""
        return max(1, min((name.first_index for name, _ in self._hold.segments.copy()), default=1))

    @property
    def last_index(self) -> int:
        """The greater of the last entry's index and the greatest snapshot marker's; 0 if there is none of both."""
        self._check_read()
        return self._known.last_index

    @property
    def _last_marker(self) -> int:
        """The greatest snapshot marker's index; 0 if there is none."""
        return self._known.last_marker

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


def _check_options(segment_size: int) -> None:
    if not MIN_SEGMENT_SIZE <= operator.index(segment_size) <= MAX_SEGMENT_SIZE:
        raise ValueError(f"segment_size must be from {MIN_SEGMENT_SIZE} to {MAX_SEGMENT_SIZE}, not {segment_size}")
