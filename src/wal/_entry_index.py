# SPDX-License-Identifier: Apache-2.0
"""
Where each entry stands on disk, in eight bytes.

A record can be checked with the CRC of the record before it, and only so. So what is kept for an entry is the place
of the frame *before* it, which is in the same segment, since a segment begins with a head.

Places are numbers that grow from one segment to the next. An entry that takes the place of others stands behind them,
and all from its index on are gone; so the places of the entries that count grow with their indexes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain, compress, islice
from pathlib import Path

from ._frame import RecordType
from ._walk import Run

__all__ = ["EntryIndex"]

_IS_ENTRY = bytes(type == RecordType.ENTRY for type in range(256))


class EntryIndex:
    """
    The entries that count, with consecutive indexes: each takes the place of all from its own index on.

    Attributes:
        first: The index of the first one, or what it would be.
        segments: The segments in which they stand.
    """

    def __init__(self, first: int) -> None:
        self.first: int = first
        self.segments: list[Path] = []
        self._begins: list[int] = []  # the place at which each of them begins
        self._places = array("Q")
        self._before = 0  # the place of the last frame that was noted

    @property
    def last(self) -> int:
        """The index of the last entry; one less than ``first`` if there is none."""
        return self.first + len(self._places) - 1

    def note(self, path: Path, run: Run, indexes: Sequence[int]) -> None:
        """
        Note the entries of a run.

        Args:
            path: The segment: the last one that was noted, or the one behind it.
            run: The frames that follow those that were noted before.
            indexes: The indexes of its entries.
        """
        if not self.segments or path != self.segments[-1]:
            self.segments.append(path)
            self._begins.append(self._before + 1)
        begin = self._begins[-1]
        places = [begin + offset for offset in run.offsets()]
        places.pop()  # the end
        before: Iterable[int] = chain((self._before,), places)
        self._before = places[-1]
        if not indexes:
            return
        if len(indexes) < len(run):
            before = compress(before, run.types.translate(_IS_ENTRY))
        if isinstance(indexes, range):
            self._give_way(indexes[0])
            self._places.extend(islice(before, len(indexes)))
        else:
            for index, place in zip(indexes, before, strict=False):
                self._give_way(index)
                self._places.append(place)

    def _give_way(self, index: int) -> None:
        """Drop what an entry with this index takes the place of, so that it is the next one."""
        at = index - self.first
        if not 0 <= at <= len(self._places):
            # Behind a snapshot from elsewhere: what stands before it is not continued.
            self.first, at = index, 0
        del self._places[at:]

    def forget(self, path: Path) -> None:
        """Drop the entries that stand in a segment or in one before it."""
        count = self.segments.index(path) + 1
        gone = bisect_left(self._places, self._begins[count]) if count < len(self._begins) else len(self._places)
        del self.segments[:count], self._begins[:count], self._places[:gone]
        self.first += gone

    def find(self, index: int) -> tuple[Path, int]:
        """Return the segment in which an entry stands, and the offset of the frame before its own."""
        place = self._places[index - self.first]
        at = bisect_right(self._begins, place) - 1
        return self.segments[at], place - self._begins[at]

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self._places.__sizeof__()
