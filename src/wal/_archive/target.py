# SPDX-License-Identifier: Apache-2.0
"""
The place at which a log is cut to go back to an index.

An entry may be written several times, since a Raft leader may overrule what was not committed. What counts is the last
time that entry N was written: from there on nothing in front of it changed any more. The log goes back to the moment
before it was told anything beyond N::

    ... entry N | state, marker ... | entry N + 1 ...
                                    ^ cut

The cut is in front of the first record behind entry N that is about something greater: an entry, a state that commits
more than N, the marker of a snapshot beyond N. Of the records from there up to entry N + 1, states that commit no more
than N and markers up to N count, too. So the state is the last one that was saved in front of entry N + 1 and commits
no more than N; or the registered class's empty one, if only states that commit more were saved by then. It is said by
the head of the segment that is begun behind the cut, as at every cut.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from wal._errors import CompactedError, UnavailableError
from wal._frame import RecordType
from wal._records import RecordRegistry
from wal._replay import unmarshal

from .walking import SealedSegment, entry_indexes

__all__ = ["Cut", "Place", "Target"]

_ENTRY, _STATE, _SNAPSHOT = RecordType.ENTRY.value, RecordType.STATE.value, RecordType.SNAPSHOT.value


class Place(NamedTuple):
    """A record's place: the number of its segment, counted from the first that is walked, and its offset there."""

    segment: int
    offset: int


class _State(NamedTuple):
    data: bytes
    committed: int


class Cut(NamedTuple):
    """How a log goes back."""

    place: Place | None
    """The first record that is left out; ``None``: no record is."""
    markers: list[bytes]
    """The markers to write behind the cut."""
    known: frozenset[int]
    """The indexes of the markers in front of the cut, and of those."""
    state: bytes | None
    """The last state then; ``None`` if none was ever saved."""
    committed: int | None
    """What it commits."""


class Target:
    """Finds the cut while the segments are walked, one after the other."""

    def __init__(self, index: int, registry: RecordRegistry[Any, Any, Any]) -> None:
        self.index = index
        self._registry = registry
        self._last_entry = 0
        self._first_seen: int | None = None
        self._greatest_marker = 0
        self._markers: set[int] = set()
        self._state: _State | None = None  # the last one
        self._right_state: _State | None = None  # the last one that commits no more than the index
        self._forget()

    def _forget(self) -> None:
        """The index has not been reached, or not for the last time."""
        self._reached = False
        self._blocked = False
        self._cut: Place | None = None
        self._cut_state: _State | None = None
        self._cut_markers: set[int] = set()
        self._kept: dict[int, bytes] = {}
        self.passed = False
        """Whether the next entry was met, so that only a lower one could still change anything."""
        self._passed_state: _State | None = None

    def walk(self, number: int, segment: SealedSegment) -> None:
        """
        Look at the records of the next segment.

        Raises:
            CorruptionError: It does not end well.
            RecordDecodeError: The registry is not the one that the log was written with.
        """
        for run in (part for whole in segment.runs() for part in whole.parts()):
            indexes = entry_indexes(run, self._registry, segment.path, self._last_entry + 1)
            if isinstance(indexes, range) and len(indexes) == len(run) and not self._matters(indexes):
                self._first_seen = indexes[0] if self._first_seen is None else self._first_seen
                self._last_entry = indexes[-1]
                continue
            following = iter(indexes)
            for type, data, offset in run:
                place = Place(number, offset)
                if type == _ENTRY:
                    self._entry(next(following), place)
                elif type == _STATE:
                    committed = unmarshal(self._registry.state, data, segment.path, offset).committed
                    self._note_state(_State(data, committed), place)
                elif type == _SNAPSHOT:
                    index = unmarshal(self._registry.snapshot, data, segment.path, offset).index
                    self._marker(index, data, place)

    def _matters(self, indexes: range) -> bool:
        """Tell whether entries in a row could be those that are looked for, or the ones behind, or overrule them."""
        return self.index in indexes or (self._reached and not (self.passed and indexes[0] > self.index))

    def _entry(self, index: int, place: Place) -> None:
        self._first_seen = index if self._first_seen is None else self._first_seen
        self._last_entry = index
        if index == self.index:
            self._reach()
        elif self._reached and index < self.index:
            self._forget()  # it is overruled
        elif self._reached and not self.passed:
            self._cut_at(place)
            self.passed, self._passed_state = True, self._right_state

    def _note_state(self, state: _State, place: Place) -> None:
        if state.committed > self.index:
            if self._reached and not self.passed:
                self._cut_at(place)
        else:
            self._right_state = state
        self._state = state

    def _marker(self, index: int, data: bytes, place: Place) -> None:
        if index == self.index and not self._reached and self._last_entry < index:
            self._reach()  # a snapshot took the place of the entries up to it
        elif self._reached and not self.passed:
            if index > self.index:
                self._cut_at(place)
            elif self._cut is not None:
                self._kept[index] = data
        self._markers.add(index)
        self._greatest_marker = max(self._greatest_marker, index)

    def _reach(self) -> None:
        self._forget()
        self._reached = True
        self._blocked = self._greatest_marker > self.index

    def _cut_at(self, place: Place) -> None:
        if self._cut is None:
            self._cut, self._cut_state, self._cut_markers = place, self._state, set(self._markers)

    def outcome(self) -> Cut:
        """
        Return the cut, once all segments that matter were walked.

        Raises:
            CompactedError: What is archived begins behind the index.
            UnavailableError: It ends in front of it, or the entry was overruled, or covered by a snapshot.
        """
        if not self._reached:
            raise self._not_there()
        if self._blocked:
            raise UnavailableError(
                self.index,
                f"the log had a snapshot beyond {self.index} before it had entry {self.index}; it cannot go back there",
            )
        right = self._passed_state if self.passed else self._right_state
        there = self._state if self._cut is None else self._cut_state
        if right is None and there is not None:
            empty = self._registry.state.empty()
            right = _State(empty.marshal(), empty.committed)
        known = (self._markers if self._cut is None else self._cut_markers) | self._kept.keys()
        state, committed = (None, None) if right is None else right
        return Cut(self._cut, list(self._kept.values()), frozenset(known), state, committed)

    def _not_there(self) -> CompactedError | UnavailableError:
        index, last = self.index, max(self._last_entry, self._greatest_marker)
        if index > last:
            return UnavailableError(index, f"entry {index} is not in the archive, which ends with {last}")
        if self._first_seen is not None and index < self._first_seen:
            return CompactedError(
                index, f"entry {index} is not in the archive, whose entries begin with {self._first_seen}"
            )
        return UnavailableError(index, f"entry {index} is not in the archive: a snapshot took its place")
