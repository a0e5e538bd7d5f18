# SPDX-License-Identifier: Apache-2.0
"""
The same log for asyncio.

>>> async def main():
...     async with await AsyncWAL.create("async-example") as log:
...         await asyncio.gather(*(log.save(None, [Entry(index, b"data")]) for index in range(1, 101)))
...         return log.last_index
>>> asyncio.run(main())
100

Thousands of tasks may save at once: one thread, which lives from the first save until ``close``, writes and syncs for
all of them, one group at a time, while the event loop goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar, Unpack

from ._follow import Follower
from ._reader import WALReader
from ._records import (
    EntryT,
    EntryT_co,
    Snapshot,
    SnapshotT,
    SnapshotT_co,
    StateT,
    StateT_co,
    parametrized,
)
from ._recovery import ReadWAL
from ._recovery import read_wal as _read_wal
from ._replay import LogRecord
from ._turns import PendingSave
from ._wal import WAL, CreateOptions, OpenOptions

__all__ = ["AsyncFollower", "AsyncReadWAL", "AsyncWAL", "follow", "read_wal"]

MAX_PENDING_BYTES = 16_000_000

_T = TypeVar("_T")


@parametrized
class AsyncWAL(Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    A write-ahead log, open for appending, whose methods do not block the event loop.

    Saves take effect in the order in which ``save``, ``save_entry``, ``save_state`` and ``save_snap`` are *called*,
    whatever the tasks that await them do meanwhile. Cancelling such a task ends the waiting, not the save: that is in
    the log as a whole or, if the log stops, not at all. Other saves do not notice.

    It belongs to the event loop in which it is first used, and its methods are called there. The underlying log may be
    used by threads besides. It is an asynchronous context manager that closes the log.

    Args:
        log: A log that is ready for appending.
        max_pending_bytes: While saves with so many bytes of data are on their way, further ones wait with their
            entries as they are; those must not be changed before their save is done.
    """

    def __init__(
        self, log: WAL[EntryT_co, StateT_co, SnapshotT_co], *, max_pending_bytes: int = MAX_PENDING_BYTES
    ) -> None:
        if max_pending_bytes < 1:
            raise ValueError(f"max_pending_bytes must be at least 1, not {max_pending_bytes}")
        self._log = log
        self._max_pending_bytes = max_pending_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wal")
        # Saves on their way, in their order, each with the future of who waits; and how many bytes they have.
        self._pending: deque[tuple[PendingSave, asyncio.Future[None]]] = deque()
        self._pending_bytes = 0
        # Those that must wait before they are submitted.
        self._held: deque[tuple[asyncio.Future[None], Callable[..., PendingSave], tuple[Any, ...]]] = deque()
        self._all_submitted: asyncio.Future[None] | None = None
        self._working = False
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def create(
        cls: type[AsyncWAL[Any, Any, Any]],
        path: str | os.PathLike[str],
        metadata: bytes = b"",
        *,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        **options: Unpack[CreateOptions[EntryT, StateT, SnapshotT]],
    ) -> AsyncWAL[EntryT, StateT, SnapshotT]:
        """
        Make a new log, ready for appending; see ``WAL.create``, also for what it raises.

        When this returns, the empty log is durable. If it is cancelled, the log may have been made, and is closed.

        Args:
            path: As for ``WAL.create``.
            metadata: As for ``WAL.create``.
            max_pending_bytes: As for ``AsyncWAL``.
            options: Those of ``WAL.create``.
        """
        making = asyncio.to_thread(lambda: WAL.create(path, metadata, **options))
        return cls(await _or_close(making, WAL.close), max_pending_bytes=max_pending_bytes)

    # --------------------------------------------------------------------------------------------- write

    def save(self, state: StateT_co | None, entries: Iterable[EntryT_co] | None) -> Coroutine[Any, Any, None]:
        """
        Append entries and the hard state, in this order, as one save; see ``WAL.save``.

        The save begins when this is called. When the awaited call returns, it is durable.

        Raises:
            WALError: As ``WAL.save``, when awaited.
        """
        return self._begin(self._log.submit, state, entries)

    def save_entry(self, entries: Iterable[EntryT_co]) -> Coroutine[Any, Any, None]:
        """Append entries: ``save(None, entries)``."""
        return self.save(None, entries)

    def save_state(
        self,
        state: StateT_co,  # type: ignore[misc]  # covariant, see _records
    ) -> Coroutine[Any, Any, None]:
        """Append the hard state: ``save(state, None)``."""
        return self.save(state, None)

    def save_snap(
        self,
        snapshot: SnapshotT_co,  # type: ignore[misc]  # covariant, see _records
    ) -> Coroutine[Any, Any, None]:
        """Append the marker of a snapshot; see ``WAL.save_snap``. It begins when this is called."""
        return self._begin(self._log._submit_snap, snapshot)

    async def sync(self) -> None:
        """Make every save that has begun durable; see ``WAL.sync``. It may wait for saves that begin meanwhile."""
        await self._until_submitted()
        await self._in_thread(self._log.sync)

    async def release(self, snapshot: Snapshot) -> None:
        """Give up the locks of segments that reading from ``snapshot`` on does not need; see ``WAL.release``."""
        await self._in_thread(self._log.release, snapshot)

    async def close(self) -> None:
        """
        End the saves that have begun, and close the log; see ``WAL.close``. A second call does nothing.

        If this is cancelled, the log is closed all the same.
        """
        if self._closing is None:
            self._bind()
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._until_submitted()
        try:
            await self._in_thread(self._log.close)
        finally:
            self._thread.shutdown(wait=False)

    def _begin(self, submit: Callable[..., PendingSave], *arguments: Any) -> Coroutine[Any, Any, None]:
        future: asyncio.Future[None] = self._bind().create_future()
        if self._held or self._pending_bytes >= self._max_pending_bytes:
            self._held.append((future, submit, arguments))
        else:
            self._submit(future, submit, arguments)
        return _wait(future)

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise RuntimeError(f"{self!r} belongs to another event loop")
            self._loop = loop
        return loop

    def _submit(
        self, future: asyncio.Future[None], submit: Callable[..., PendingSave], arguments: tuple[Any, ...]
    ) -> None:
        try:
            save = submit(*arguments)
        except Exception as error:
            if not future.done():  # cancelled while it was held
                future.set_exception(error)
            return
        self._pending.append((save, future))
        self._pending_bytes += save.size
        if not self._working:
            self._start_work()

    def _settle(self) -> None:
        """In the event loop: tell of the saves that are done, and let others begin."""
        while self._pending and self._pending[0][0].finished:
            save, future = self._pending.popleft()
            self._pending_bytes -= save.size
            if future.done():
                continue  # cancelled
            if save.failure is None:
                future.set_result(None)
            else:
                future.set_exception(self._log._stopped(save.failure))
        while self._held and self._pending_bytes < self._max_pending_bytes:
            self._submit(*self._held.popleft())
        if self._all_submitted is not None and not self._held:
            self._all_submitted.set_result(None)
            self._all_submitted = None
        if self._pending and not self._working:
            self._start_work()

    def _start_work(self) -> None:
        self._working = True
        self._thread.submit(self._work)

    def _work(self) -> None:
        """In the thread: write and sync what was submitted, until there is nothing left."""
        assert self._loop is not None
        try:
            with suppress(Exception):  # each save knows what has happened to it; or the loop is closed
                while self._log._commit_next():
                    self._loop.call_soon_threadsafe(self._settle)
        finally:  # an observer may end the thread's work by what is no Exception
            # What is submitted from here on is seen by the settling.
            self._working = False
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle)

    async def _until_submitted(self) -> None:
        """Wait until every save that has begun is in the log's own queue."""
        if self._held:
            if self._all_submitted is None:
                self._all_submitted = self._bind().create_future()
            await asyncio.shield(self._all_submitted)

    async def _in_thread(self, call: Callable[..., _T], *arguments: Any) -> _T:
        loop = self._bind()
        self._log._check_open()  # the thread has gone if it is closed
        return await loop.run_in_executor(self._thread, call, *arguments)

    # ---------------------------------------------------------------------------------------- properties

    @property
    def log(self) -> WAL[EntryT_co, StateT_co, SnapshotT_co]:
        """The underlying log, with its properties. Those that change tell of the saves that are done."""
        return self._log

    @property
    def last_index(self) -> int:
        """As ``WAL.last_index``, of the saves that are done."""
        return self._log.last_index

    def __repr__(self) -> str:
        return f"<AsyncWAL {str(self._log.path)!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


@parametrized
class AsyncReadWAL(NamedTuple, Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    A log that was read and is ready for appending.

    Attributes:
        wal: The log; close it.
        metadata: The bytes given to ``create``.
        state: The last hard state; the registered class's ``empty()`` if none was saved.
        entries: The entries behind the snapshot, one after the other.
    """

    wal: AsyncWAL[EntryT_co, StateT_co, SnapshotT_co]
    metadata: bytes
    state: StateT_co
    entries: list[EntryT_co]


@parametrized
class AsyncFollower(Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    The records of a log, and those that are still to come; ``follow`` returns it.

    Iterate over it with ``async for``, in one task, and use it as an asynchronous context manager. While nothing is
    written it takes neither time nor a thread; looking at the disk is done in the event loop's default threads. A step
    that is cancelled loses no record.
    """

    def __init__(self, reader: WALReader[EntryT_co, StateT_co, SnapshotT_co], index: int | None) -> None:
        self._begin = partial(reader.follow, index)
        self._follower: Follower[EntryT_co, StateT_co, SnapshotT_co] | None = None
        self._batch: Iterator[LogRecord[EntryT_co, StateT_co, SnapshotT_co]] = iter(())
        self._look: asyncio.Future[list[LogRecord[EntryT_co, StateT_co, SnapshotT_co]]] | None = None
        self._stopped = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogRecord[EntryT_co, StateT_co, SnapshotT_co]:
        """
        Wait for the next record.

        Raises:
            StopAsyncIteration: ``stop`` or ``close`` was called.
            CompactedError: What comes next was purged before it was read. Begin anew behind a snapshot.
            CorruptionError: The log is damaged.
            RecordDecodeError: The registry is not the one that the log is written with.
            WALNotFoundError: There is no log, or it is gone.
        """
        while not self._stopped.is_set():
            record = next(self._batch, None)
            if record is not None:
                return record
            batch = await self._next_look()
            self._batch = iter(batch)
            if not batch:
                await self._wait()
        raise StopAsyncIteration

    async def _next_look(self) -> list[LogRecord[EntryT_co, StateT_co, SnapshotT_co]]:
        if self._look is None:
            self._look = asyncio.ensure_future(asyncio.to_thread(self._look_once))
        # A look whose waiting is cancelled is not lost: the next step takes what it found.
        records = await asyncio.shield(self._look)
        self._look = None
        return records

    def _look_once(self) -> list[LogRecord[EntryT_co, StateT_co, SnapshotT_co]]:
        if self._follower is None:
            self._follower = self._begin()
        return self._follower._look()

    async def _wait(self) -> None:
        """Wait for a change, or for ``stop``."""
        assert self._follower is not None
        loop, watch = asyncio.get_running_loop(), self._follower._watch
        changed = asyncio.Event()
        loop.add_reader(watch.fileno(), changed.set)
        waiting = [asyncio.ensure_future(event.wait()) for event in (changed, self._stopped)]
        try:
            await asyncio.wait(waiting, timeout=self._follower._patience_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(watch.fileno())
            for wait in waiting:
                wait.cancel()
        if changed.is_set():
            watch.wait(0)
            await asyncio.sleep(self._follower._pace_s)

    def stop(self) -> None:
        """End the iteration, also one that waits, from the event loop's thread."""
        self._stopped.set()

    async def close(self) -> None:
        """Stop, and give everything back to the system. A second call does nothing."""
        self.stop()
        if self._look is not None:
            with suppress(Exception):
                await asyncio.shield(self._look)
        if self._follower is not None:
            self._follower.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def follow(
    reader: WALReader[EntryT, StateT, SnapshotT], index: int | None = None
) -> AsyncFollower[EntryT, StateT, SnapshotT]:
    """
    Return an asynchronous iterator over a log's records that waits for those to come; see ``WALReader.follow``.

    ::

        async with wal.aio.follow(wal.WALReader("data/wal")) as records:
            async for record in records:
                ...

    Args:
        reader: Says which log, and how to read it.
        index: As for ``WALReader.follow``.
    """
    return AsyncFollower(reader, index)


async def read_wal(
    path: str | os.PathLike[str],
    snapshot: Snapshot | None = None,
    *,
    max_pending_bytes: int = MAX_PENDING_BYTES,
    **options: Unpack[OpenOptions[EntryT, StateT, SnapshotT]],
) -> AsyncReadWAL[EntryT, StateT, SnapshotT]:
    """
    Open a log, read it, and cut off a torn write at its end; see ``wal.read_wal``, also for what it raises.

    When this returns, the log is ready for appending, and all that was read is durable. If it is cancelled, the log is
    closed again.

    Args:
        path: The log's directory.
        snapshot: As for ``wal.read_wal``.
        max_pending_bytes: As for ``AsyncWAL``.
        options: Those of ``wal.read_wal``.
    """
    reading = asyncio.to_thread(lambda: _read_wal(path, snapshot, **options))
    opened = await _or_close(reading, _close)
    log = AsyncWAL(opened.wal, max_pending_bytes=max_pending_bytes)
    return AsyncReadWAL(log, opened.metadata, opened.state, opened.entries)


def _close(opened: ReadWAL[Any, Any, Any]) -> None:
    opened.wal.close()


async def _wait(future: asyncio.Future[None]) -> None:
    await future


async def _or_close(opening: Awaitable[_T], close: Callable[[_T], None]) -> _T:
    """Await what opens a log; if that is cancelled, close the log as soon as it is there."""
    task = asyncio.ensure_future(opening)

    def closing(task: asyncio.Future[_T]) -> None:
        if not task.cancelled() and task.exception() is None:
            close(task.result())

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(closing)
        raise
