# SPDX-License-Identifier: Apache-2.0
"""
Following a log: its records, and those that are still to come.

Each look goes on where the last whole save has ended. So a save that is half written is not seen yet, a torn write
that the next writer cuts never is, and nothing is yielded twice, whatever happens to the writer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Self

from ._decoder import Position
from ._errors import CompactedError, WALNotFoundError
from ._files import FileSystem
from ._frame import RecordType
from ._records import EntryT_co, SnapshotT_co, StateT_co, parametrized
from ._replay import LogRecord, Replay
from ._segments import exists
from ._watch import Watch

__all__ = ["Follower"]

PACE_S = 0.001
"""So long after a look comes the next one, so that a busy writer costs one look for many saves."""

LOOK_ANYWAY_S = 1.0
"""After so long without a change it is looked all the same: the disk may be another machine's."""

POLL_S = 0.01
"""How often to look where the system does not tell of changes."""

CHECK_SHARE = 100
"""A check may read all the rest of a segment; not more than one part in so many of a follower's time goes there."""

BATCH_RECORDS = 1024


@parametrized
class Follower(Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    The records of a log, and those that are still to come; ``WALReader.follow`` returns it.

    Iterate over it: each step waits for the next record of a whole save, until ``stop`` is called. Use it as a context
    manager, or call ``close``. One thread iterates; any may stop it.

    While nothing is written it sleeps. What it yields is in the file, but may not be synced yet: after a power cut the
    log may end before it.
    """

    def __init__(
        self,
        fs: FileSystem,
        watch: Watch,
        replay: Replay[EntryT_co, StateT_co, SnapshotT_co],
        *,
        skip_to_start: bool,
    ) -> None:
        self._fs = fs
        self._watch = watch
        self._replay = replay
        self._skipping = skip_to_start
        self._walk: Iterator[LogRecord[EntryT_co, StateT_co, SnapshotT_co]] | None = None
        self._batch: Iterator[LogRecord[EntryT_co, StateT_co, SnapshotT_co]] = iter(())
        self._failure: BaseException | None = None
        self._stopped = False
        self._looked = time.monotonic()
        self._check_at = self._looked + LOOK_ANYWAY_S
        self._checked: Position | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> LogRecord[EntryT_co, StateT_co, SnapshotT_co]:
        """
        Wait for the next record.

        Raises:
            StopIteration: ``stop`` or ``close`` was called.
            CompactedError: What comes next was purged before it was read. Begin anew behind a snapshot.
            CorruptionError: The log is damaged.
            RecordDecodeError: The registry is not the one that the log is written with.
            WALNotFoundError: The log is gone.
        """
        while not self._stopped:
            record = next(self._batch, None)
            if record is not None:
                return record
            batch = self._look()
            self._batch = iter(batch)
            if not batch and self._watch.wait(self._patience_s):
                time.sleep(self._pace_s)
        raise StopIteration

    def stop(self) -> None:
        """
        End the iteration, also one that waits. Records that were not yielded yet are not yielded any more.

        Any thread may call this, and a signal handler.
        """
        self._stopped = True
        self._watch.wake()

    def close(self) -> None:
        """Stop, and give everything back to the system. A second call does nothing."""
        self.stop()
        self._watch.close()

    # ---------------------------------------------------------------------- for those who wait in other ways

    @property
    def _patience_s(self) -> float:
        """After so many seconds it should be looked, whether a change was told of or not."""
        return LOOK_ANYWAY_S if self._watch.told else POLL_S

    @property
    def _pace_s(self) -> float:
        """How many seconds to wait before the next look, whatever has changed."""
        return max(0.0, self._looked + PACE_S - time.monotonic())

    def _look(self) -> list[LogRecord[EntryT_co, StateT_co, SnapshotT_co]]:
        """Return some of the records that are there, without waiting; none if there are no more now."""
        if self._failure is not None:
            raise self._failure
        self._looked = time.monotonic()
        records: list[LogRecord[EntryT_co, StateT_co, SnapshotT_co]] = []
        try:
            self._take(records)
            if records:
                self._check_at = max(self._check_at, self._looked + LOOK_ANYWAY_S)
            elif self._looked >= self._check_at:
                self._check_once()
        except Exception as error:
            self._failure = self._explained(error)
            if not records:
                raise self._failure from error
        except BaseException:
            # The walk is ahead of what was yielded.
            self._failure = InterruptedError("following the log was interrupted; begin anew behind the last record")
            raise
        return records

    def _take(self, records: list[LogRecord[EntryT_co, StateT_co, SnapshotT_co]]) -> None:
        if self._walk is None:
            self._walk = iter(self._replay)
        start = self._replay.start or 0
        for record in self._walk:
            if self._skipping:
                if record.type is not RecordType.ENTRY and self._replay.last_entry < start:
                    continue
                self._skipping = False
            records.append(record)
            if len(records) == BATCH_RECORDS:
                return
        self._walk = None

    def _check_once(self) -> None:
        """Nothing comes: see whether it is because of damage."""
        live = self._replay.go_live()
        if self._checked != live.position:
            live.check()
            self._checked = live.position
            now = time.monotonic()
            self._check_at = now + (now - self._looked) * CHECK_SHARE

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, WALNotFoundError) and exists(self._replay.path, fs=self._fs):
            index = max(self._replay.last_entry, self._replay.start or 0) + 1
            return CompactedError(index, f"what follows entry {index - 1} was purged before it was read ({error})")
        return error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Follower of {str(self._replay.path)!r} behind entry {self._replay.last_entry}>"
