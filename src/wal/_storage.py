# SPDX-License-Identifier: Apache-2.0
"""The contract of a place that a state machine saves to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

from ._records import HardState, LogEntry, Snapshot

__all__ = ["Storage"]

SnapshotT_contra = TypeVar("SnapshotT_contra", contravariant=True)


@runtime_checkable
class Storage(Protocol[SnapshotT_contra]):
    """
    What an application saves to, so that the place can be exchanged.

    The type parameter is what ``save_snap`` takes: a ``WAL`` is a ``Storage[Snapshot]``. Every method is durable when
    it returns, unless the storage was told otherwise, and raises a ``WALError`` if it is not.
    """

    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        """Save entries and the hard state together, all or nothing."""

    def save_state(self, state: HardState) -> None:
        """Save the hard state alone."""

    def save_entry(self, entries: Iterable[LogEntry]) -> None:
        """Save entries alone."""

    def save_snap(self, snapshot: SnapshotT_contra) -> None:
        """Save a snapshot."""

    def release(self, snapshot: Snapshot) -> None:
        """Give up what is older than a saved snapshot."""

    def sync(self) -> None:
        """Make everything saved so far durable."""

    def close(self) -> None:
        """Sync and release everything."""
