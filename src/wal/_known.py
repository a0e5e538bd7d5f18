# SPDX-License-Identifier: Apache-2.0
"""
What a log knows of itself, and with that, what may be saved next.

It changes in one step: a save is checked against what is promised, that is known once all saves in front of it are
done, and gives what will be known behind it. These rules are the same wherever the log is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ._errors import IndexOrderError, SnapshotOutOfDateError
from ._frame import Payload, RecordType
from ._records import HardState

__all__ = ["Known"]

_STATE = RecordType.STATE.value


class Known(NamedTuple):
    """Where a log stands."""

    last_entry: int
    last_marker: int
    state: HardState
    state_data: bytes | None
    """The state as it was saved, to be repeated; ``None`` if none was."""

    @property
    def last_index(self) -> int:
        """The greater of the last entry's index and the greatest marker's."""
        return max(self.last_entry, self.last_marker)

    def behind_save(
        self, records: list[Payload], indexes: range, state: HardState | None, state_data: bytes | None
    ) -> Known:
        """
        Return what is known behind a save.

        Args:
            records: The save's entries. The state is appended to them if it must be written.
            indexes: Their indexes.
            state: The save's state, if it has one.
            state_data: The state, marshalled.

        Raises:
            IndexOrderError: The entries do not follow.
        """
        last_entry, last_marker, old_state, old_data = self
        if indexes:
            first = indexes[0]
            if not 0 < first <= last_entry + 1 and not 0 < first <= last_marker + 1:
                raise IndexOrderError(
                    first, self.last_index + 1, f"entry {first} must have an index from 1 to {self.last_index + 1}"
                )
            last_entry = indexes[-1]
        if state is not None and state_data is not None:
            # An old one is written beside entries, as the Go original does.
            before = old_state.marshal() if old_data is None else old_data
            if state_data != before or (records and old_data is not None):
                records.append((_STATE, state_data))
                return Known(last_entry, last_marker, state, state_data)
        return Known(last_entry, last_marker, old_state, old_data)

    def behind_marker(self, index: int) -> Known:
        """Return what is known behind the marker of a snapshot."""
        return self._replace(last_marker=max(self.last_marker, index))

    def check_state(self, state: HardState) -> None:
        """Raise ``IndexOrderError`` if a state would take back what the newest snapshot covers."""
        newest = self.last_marker
        if state.committed < newest:
            raise IndexOrderError(
                state.committed, newest, f"the state commits {state.committed}, the newest snapshot covers {newest}"
            )

    def check_snapshot(self, index: int, is_intact: Callable[[int], bool]) -> None:
        """
        Check a snapshot that is to be saved. The newest one may be saved again if it is damaged.

        Raises:
            SnapshotOutOfDateError: The log has one that covers as much.
            IndexOrderError: It covers more than is committed.
        """
        newest = self.last_marker
        in_place_of_damaged = 0 < index == newest and not is_intact(newest)
        if index <= newest and not in_place_of_damaged:
            raise SnapshotOutOfDateError(index, f"the log has a snapshot of index {newest} already")
        self.check_committed(index)

    def check_committed(self, index: int) -> None:
        """Raise ``IndexOrderError`` if a snapshot covers more than is committed, as far as that was ever said."""
        committed = self.state.committed
        if self.state_data is not None and index > committed:
            raise IndexOrderError(
                index,
                committed,
                f"a snapshot of index {index} covers more than is committed, {committed}; save the new state first",
            )
