# SPDX-License-Identifier: Apache-2.0
"""Work for a storage, by many threads without end, that remembers what was acknowledged."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import wal
import wal.cluster

__all__ = ["MEMBERS", "THREADS", "Open", "Work", "check", "finished", "verdict"]

MEMBERS = 3
"""So many has a cluster."""

PATIENCE_S = 120.0
"""A cluster that has not gone on after so long never will."""

THREADS = 4
"""So many save at once."""

Open = Callable[[], tuple[wal.cluster.EtcdStorage[Any, Any, Any], wal.Recovered[Any, Any]]]


class Work:
    """
    Saves numbered entries in several threads until its block ends, and opens the storage again whenever it has stopped.

    Args:
        open: Opens the storage.
    """

    def __init__(self, open: Open) -> None:
        self._open = open
        self._lock = threading.Lock()
        self._last_number = 0
        self._last_index = 0
        self._acknowledged: list[tuple[int, bytes]] = []
        self._acknowledged_at = 0.0
        self._changed = threading.Condition()
        self._ending = False
        self._pool = ThreadPoolExecutor(1)
        self.stopped = 0
        """How often the storage has stopped."""
        self.longest_stall_s = 0.0
        """The longest time in which nothing was acknowledged."""

    def __enter__(self) -> Self:
        self._running = self._pool.submit(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        with self._pool:
            self._running.result()

    @property
    def acknowledged(self) -> int:
        """How many saves have been acknowledged so far."""
        return len(self._acknowledged)

    def wait_for(self, more: int) -> None:
        """Wait until so many more saves have been acknowledged."""
        wanted = self.acknowledged + more
        self.wait_until(lambda: self.acknowledged >= wanted)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait until something has happened."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: happened() or self._running.done(), PATIENCE_S)
        if self._running.done():
            self._running.result()
        assert in_time, f"nothing has gone on for {PATIENCE_S} s"

    def _run(self) -> None:
        try:
            while not self._ending:
                try:
                    storage, _ = self._open()
                except wal.ClusterUnavailableError:
                    continue
                self._last_index = storage.last_index
                with storage, ThreadPoolExecutor(THREADS) as pool:
                    for saving in [pool.submit(self._save, storage) for _ in range(THREADS)]:
                        saving.result()
        finally:
            self._tell()

    def _save(self, storage: wal.cluster.EtcdStorage[Any, Any, Any]) -> None:
        """Save until the storage has stopped, or the work ends."""
        while not self._ending:
            try:
                with self._lock:  # numbers grow as indexes do
                    self._last_number += 1
                    entry = wal.Entry(self._last_index + 1, b"%d" % self._last_number)
                    pending = storage.submit(wal.CommitState(entry.index), [entry])
                    self._last_index = entry.index
                pending.wait()
            except (wal.WALFailedError, wal.ClusterUnavailableError):
                break
            except wal.IndexOrderError:
                break  # what was submitted in front of it was refused
            now = time.monotonic()
            with self._changed:
                if self._acknowledged:
                    self.longest_stall_s = max(self.longest_stall_s, now - self._acknowledged_at)
                self._acknowledged_at = now
                self._acknowledged.append((entry.index, entry.data))
                self._changed.notify_all()
        else:
            return
        with self._lock:
            self.stopped += 1
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def verdict(self, entries: Sequence[Any]) -> Counter[str]:
        """Hold what the storage has in the end against what was acknowledged."""
        return verdict(self._acknowledged, self._last_number, entries)


def verdict(acknowledged: Sequence[tuple[int, bytes]], last_number: int, entries: Sequence[Any]) -> Counter[str]:
    """
    Say in numbers what is wrong with a log.

    Args:
        acknowledged: The indexes and data of the entries whose saves were acknowledged.
        last_number: The data of entries are numbers, growing from 1 to this one.
        entries: What is there.
    """
    numbers = [int(entry.data) for entry in entries]
    there = {entry.index: entry.data for entry in entries}
    return Counter(
        {
            "acknowledged saves": len(acknowledged),
            "acknowledged saves lost": sum(there.get(index) != data for index, data in acknowledged),
            "saves doubled": len(numbers) - len(set(numbers)),
            "saves out of order": sum(number < before for before, number in pairwise(numbers)),
            "saves that nobody made": sum(not 0 < number <= last_number for number in numbers),
            "holes": sum(index != place for place, index in enumerate(there, 1)),
        }
    )


def finished(open: Open, last: bytes | None = None) -> list[Any]:
    """Return the entries of a storage; then save one more with these data, if any."""
    storage, recovered = open()
    with storage:
        if last is not None:
            storage.save(None, [wal.Entry(storage.last_index + 1, last)])
    return list(recovered.entries)


def check(work: Work, entries: Sequence[Any], count: Callable[..., None], **torment: int) -> None:
    """Fail unless all is there once and in order; tell what there was."""
    found = work.verdict(entries)
    count(found, **torment)
    wrong = {what: number for what, number in found.items() if number and what != "acknowledged saves"}
    assert not wrong, found
