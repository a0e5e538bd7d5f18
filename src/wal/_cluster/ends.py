# SPDX-License-Identifier: Apache-2.0
"""Where batches end, so that a snapshot knows from which on it needs them. It takes some twenty bytes a batch."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from .entities import End

__all__ = ["Ends"]


class Ends:
    """
    The ends of batches that follow each other.

    Args:
        first: Where the batch ended in front of the first of them.
    """

    def __init__(self, first: End) -> None:
        self._number = first.batch
        self._crcs = array("I", [first.crc])
        self._entries = array("Q", [first.entry])
        self._markers = array("Q", [first.marker])
        self._highest = array("Q", [first.entry])
        """The greatest last entry up to each: so it can be searched."""

    def append(self, end: End) -> None:
        """Add the next one."""
        self._crcs.append(end.crc)
        self._entries.append(end.entry)
        self._markers.append(end.marker)
        self._highest.append(max(self._highest[-1], end.entry))

    def behind(self, index: int) -> End:
        """Return the last end up to which no batch has left an entry behind ``index``, or the first of all."""
        return self._end(max(0, bisect_right(self._highest, index) - 1))

    def forget(self, number: int) -> None:
        """Forget the ends in front of that of a batch."""
        gone = min(max(0, number - self._number), len(self._crcs) - 1)
        for values in (self._crcs, self._entries, self._markers, self._highest):
            del values[:gone]
        self._number += gone

    def _end(self, place: int) -> End:
        return End(self._number + place, self._crcs[place], self._entries[place], self._markers[place])
