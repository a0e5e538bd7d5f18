# SPDX-License-Identifier: Apache-2.0
"""The contracts of the places that a state machine saves to, and that its entries are read from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from ._records import EntryT, EntryT_co, EntryT_contra, SavedT_contra, Snapshot, StateT_contra, parametrized

__all__ = ["EntrySource", "Storage", "limited"]


@parametrized
@runtime_checkable
class Storage(Protocol[SavedT_contra, EntryT_contra, StateT_contra]):
    """
    What an application saves to, so that the place can be exchanged.

    The first type parameter is what ``save_snap`` takes: a ``WAL`` is a ``Storage[Snapshot]``. The others are the
    classes of entries and states, any by default. Every method is durable when it returns, unless the storage was told
    otherwise, and raises a ``WALError`` if it is not.
    """

    def save(self, state: StateT_contra | None, entries: Iterable[EntryT_contra] | None) -> None:
        """Save entries and the hard state together, all or nothing."""

    def save_state(self, state: StateT_contra) -> None:
        """Save the hard state alone."""

    def save_entry(self, entries: Iterable[EntryT_contra]) -> None:
        """Save entries alone."""

    def save_snap(self, snapshot: SavedT_contra) -> None:
        """Save a snapshot."""

    def release(self, snapshot: Snapshot) -> None:
        """Give up what is older than a saved snapshot."""

    def sync(self) -> None:
        """Make everything saved so far durable."""

    def close(self) -> None:
        """Sync and release everything."""


@runtime_checkable
class EntrySource(Protocol[EntryT_co]):
    """
    What a Raft library reads entries from: ``MemoryStorage``, ``WAL``, ``WALReader`` and ``FileStorage`` are such.

    The indexes of the entries that are there follow each other without a gap.
    """

    @property
    def first_index(self) -> int:
        """The index of the first entry that is there, or would be."""

    @property
    def last_index(self) -> int:
        """The index of the last entry, or of a snapshot behind which no entry is yet."""

    def entry(self, index: int) -> EntryT_co:
        """Return one entry; ``CompactedError`` or ``UnavailableError`` if it is not there any more, or not yet."""

    def entries(self, lo: int, hi: int, max_size: int | None = None) -> Sequence[EntryT_co]:
        """
        Return the entries from ``lo`` up to, and without, ``hi``.

        Args:
            lo: At least ``first_index``.
            hi: At most one more than the index of the last entry.
            max_size: Stop before the sum of the entries' ``size()`` exceeds so many bytes; one entry is returned at
                least, if there is any.

        Raises:
            CompactedError: ``lo`` is not there any more.
            UnavailableError: What is in front of ``hi`` is not there.
            ValueError: ``lo`` is greater than ``hi``.
        """


def limited(entries: Iterable[EntryT], max_size: int | None) -> list[EntryT]:
    """Return the first entries, up to a sum of sizes in bytes, but one at least."""
    if max_size is None:
        return list(entries)
    found: list[EntryT] = []
    total = 0
    for entry in entries:
        total += entry.size()
        if total > max_size and found:
            break
        found.append(entry)
    return found
