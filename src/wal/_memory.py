# SPDX-License-Identifier: Apache-2.0
"""
The log in memory: the hard state, a snapshot, and the entries behind it.

What a Raft library reads from while a ``WAL`` or a ``FileStorage`` keeps the same things on disk. Entries stand in a
dictionary by index: reading and appending one take constant time, and compacting touches only what goes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Generic

from ._errors import CompactedError, IndexOrderError, SnapshotOutOfDateError, UnavailableError
from ._records import DEFAULT_REGISTRY, EntryT, RecordRegistry, StateT, parametrized
from ._snapshotter import SnapshotData
from ._storage import limited

__all__ = ["MemoryStorage"]


@parametrized
class MemoryStorage(Generic[EntryT, StateT]):
    """
    A log in memory, contiguous at any time. All methods may be called from any thread.

    An empty one begins behind the snapshot of index 0, so its first entry has index 1.

    >>> memory = MemoryStorage()
    >>> memory.append([Entry(1, b"one"), Entry(2, b"two")])
    >>> memory.entries(1, 3)
    [Entry(index=1, data=b'one', type=0), Entry(index=2, data=b'two', type=0)]

    Args:
        registry: Says what the hard state is before any was set; by default the process-wide one.
    """

    def __init__(self, *, registry: RecordRegistry[EntryT, StateT, Any] | None = None) -> None:
        classes: RecordRegistry[Any, Any, Any] = registry or DEFAULT_REGISTRY
        self._lock = threading.Lock()
        self._state: StateT = classes.state.empty()
        self._snapshot = SnapshotData(0)
        self._compacted = 0  # the index before the first entry
        self._last = 0
        self._entries: dict[int, EntryT] = {}

    @property
    def hard_state(self) -> StateT:
        """The last hard state that was set, or the registered class's ``empty()``."""
        with self._lock:
            return self._state

    def set_hard_state(self, state: StateT) -> None:
        """Set the hard state."""
        with self._lock:
            self._state = state

    @property
    def snapshot(self) -> SnapshotData:
        """The last snapshot that was applied or created; index 0 if none was."""
        with self._lock:
            return self._snapshot

    @property
    def first_index(self) -> int:
        """The index of the first entry that is there, or would be."""
        with self._lock:
            return self._compacted + 1

    @property
    def last_index(self) -> int:
        """The index of the last entry; that of what was compacted if there is none."""
        with self._lock:
            return self._last

    def entries(self, lo: int, hi: int, max_size: int | None = None) -> list[EntryT]:
        """
        Return the entries from ``lo`` up to, and without, ``hi``.

        Args:
            lo: At least ``first_index``.
            hi: At most ``last_index + 1``.
            max_size: Stop before the sum of the entries' ``size()`` exceeds so many bytes; one entry is
                returned at least, if there is any.

        Raises:
            CompactedError: ``lo`` is compacted.
            UnavailableError: ``hi`` is beyond the end.
            ValueError: ``lo`` is greater than ``hi``.
        """
        if lo > hi:
            raise ValueError(f"entries from {lo} to {hi} are none")
        with self._lock:
            self._check_kept_locked(lo)
            self._check_there_locked(hi - 1)
            return limited(map(self._entries.__getitem__, range(lo, hi)), max_size)

    def entry(self, index: int) -> EntryT:
        """
        Return one entry.

        Raises:
            CompactedError, UnavailableError: It is not there any more, or not yet.
        """
        return self.entries(index, index + 1)[0]

    def append(self, entries: Iterable[EntryT]) -> None:
        """
        Append entries with consecutive indexes. The first one takes the place of all from its index on.

        Entries that are compacted already are passed over. Nothing is changed if this raises.

        Raises:
            IndexOrderError: There would be a gap.
        """
        new = list(entries)
        for before, after in pairwise(new):
            if after.index != before.index + 1:
                raise IndexOrderError(
                    after.index, before.index + 1, f"entry {after.index} follows entry {before.index}"
                )
        with self._lock:
            if not new or 0 < new[0].index <= new[-1].index <= self._compacted:
                return
            if not 0 < new[0].index <= self._last + 1:
                raise IndexOrderError(
                    new[0].index,
                    self._last + 1,
                    f"entry {new[0].index} must have an index from 1 to {self._last + 1}",
                )
            self._append_locked(new)

    def apply_snapshot(self, snapshot: SnapshotData, entries: Iterable[EntryT] = ()) -> None:
        """
        Take a snapshot, and the entries behind it, in the place of everything. Nothing is changed if this raises.

        Args:
            snapshot: One that covers more than the present one.
            entries: Entries with consecutive indexes; those that the snapshot covers are passed over.

        Raises:
            SnapshotOutOfDateError: The present snapshot covers as much.
            IndexOrderError: The entries leave a gap.
        """
        fresh: MemoryStorage[EntryT, StateT] = MemoryStorage()
        fresh._compacted = fresh._last = snapshot.index
        fresh.append(entries)
        with self._lock:
            self._check_newer_locked(snapshot.index)
            self._snapshot = snapshot
            self._compacted, self._last, self._entries = snapshot.index, fresh._last, fresh._entries

    def create_snapshot(self, index: int, data: bytes, metadata: bytes = b"") -> SnapshotData:
        """
        Keep a snapshot of the state at ``index``; the entries stay until ``compact``.

        Args:
            index: Up to where the state covers the entries.
            data: The state.
            metadata: Whatever else belongs to it.

        Returns:
            The snapshot.

        Raises:
            SnapshotOutOfDateError: The present snapshot covers as much.
            CompactedError: The entry at the index is gone; there would be a hole behind the snapshot.
            UnavailableError: The index is beyond the last entry.
        """
        with self._lock:
            self._check_newer_locked(index)
            self._check_kept_locked(index + 1)
            self._check_there_locked(index)
            self._snapshot = SnapshotData(index, data, metadata)
            return self._snapshot

    def compact(self, index: int) -> None:
        """
        Drop the entries up to ``index``. Make sure that a snapshot covers them.

        Raises:
            CompactedError: They are gone already.
            UnavailableError: The index is beyond the last entry.
        """
        with self._lock:
            self._check_kept_locked(index)
            self._check_there_locked(index)
            for gone in range(self._compacted + 1, index + 1):
                del self._entries[gone]
            self._compacted = index

    def _append_locked(self, entries: list[EntryT]) -> None:
        for replaced in range(max(entries[0].index, self._compacted + 1), self._last + 1):
            del self._entries[replaced]
        self._entries.update((entry.index, entry) for entry in entries if entry.index > self._compacted)
        self._last = entries[-1].index

    def _check_kept_locked(self, index: int) -> None:
        if index <= self._compacted:
            raise CompactedError(index, f"entry {index} is compacted; the first one is {self._compacted + 1}")

    def _check_there_locked(self, index: int) -> None:
        if index > self._last:
            raise UnavailableError(index, f"entry {index} is not there; the last one is {self._last}")

    def _check_newer_locked(self, index: int) -> None:
        if index <= self._snapshot.index:
            raise SnapshotOutOfDateError(
                index, f"a snapshot of index {index} is not newer than the present one of index {self._snapshot.index}"
            )

    def __repr__(self) -> str:
        return f"<MemoryStorage entries {self._compacted + 1} to {self._last}>"
