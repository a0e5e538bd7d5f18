# SPDX-License-Identifier: Apache-2.0
"""What a log must hold: a list of saves, and what reading them gives. It knows nothing of files."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from wal.etcd import Entry, HardState, Snapshot

__all__ = ["Contents", "Model", "Outcome", "Save", "difference"]


class Contents(NamedTuple):
    """What reading a log gives."""

    metadata: bytes
    state: HardState
    entries: list[Entry]


Outcome = Contents | str
"""What reading a log gives, or in a word why it was refused."""

NO_STATE = HardState()


@dataclass(frozen=True, slots=True)
class Save:
    """One save of entries and a hard state, or one snapshot marker."""

    state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    marker: Snapshot | None = None

    def records(self) -> list[Save]:
        """The same, one record at a time: what is left of it by those to whom each record stands alone."""
        singles = [Save(entries=(entry,)) for entry in self.entries]
        if self.state:
            singles.append(Save(state=self.state))
        if self.marker:
            singles.append(Save(marker=self.marker))
        return singles


class Model:
    """The saves of a Raft node: terms grow, and what is committed is not overruled."""

    def __init__(self, metadata: bytes, saves: Iterable[Save] = ()) -> None:
        self.metadata = metadata
        self.saves: list[Save] = []
        self.state = NO_STATE
        self.last = 0
        """The last index, of an entry or of a snapshot from elsewhere."""
        self.begins_behind = 0
        """The index of the last snapshot from elsewhere; there is a gap in front of it."""
        self._terms = {0: 0}
        self.add(saves)

    def add(self, saves: Iterable[Save]) -> None:
        for save in saves:
            self.saves.append(save)
            for entry in save.entries:
                self._terms[entry.index] = entry.term
                self.last = entry.index
            if save.state:
                self.state = save.state
            if save.marker and save.marker.index > self.last:
                self._terms[save.marker.index] = save.marker.term
                self.last = self.begins_behind = save.marker.index

    @property
    def term(self) -> int:
        """The latest term of all."""
        return max(self.state.term, self._terms[self.last])

    @property
    def markers(self) -> list[Snapshot]:
        return [save.marker for save in self.saves if save.marker]

    @property
    def entries_written(self) -> int:
        return sum(len(save.entries) for save in self.saves)

    def contents(self, start: int = 0, *, forgets: bool = True) -> Outcome:
        """
        What reading from the snapshot with index ``start`` on must give.

        An entry takes the place of all from its index on. Without ``forgets`` one that is not behind the snapshot
        leaves those behind it alone.
        """
        state, entries = NO_STATE, list[Entry]()
        for save in self.saves:
            for entry in save.entries:
                place = entry.index - start - 1
                if place > len(entries):
                    return "gap"
                if place >= 0:
                    entries[place:] = [entry]
                elif forgets:
                    entries.clear()
            state = save.state or state
        return Contents(self.metadata, state, entries)

    def contents_for_etcd(self, start: int = 0) -> list[Outcome]:
        """
        What etcd may give instead: it passes over entries that are not behind the snapshot, and forgets to drop what
        they overrule, if it reads the segments in which that is.
        """
        return [self.contents(start), self.contents(start, forgets=False)]

    # ------------------------------------------------------------------------------------- what comes next

    def next_saves(self, rng: random.Random, count: int, *, received: bool = False) -> list[Save]:
        """Make up what the node saves next; with ``received`` that may be a snapshot from elsewhere."""
        node = Model(self.metadata, self.saves)
        for _ in range(count):
            node.add(node._next(rng, received=received))
        return node.saves[len(self.saves) :]

    def _next(self, rng: random.Random, *, received: bool) -> Iterator[Save]:
        term = max(1, self.term) + (rng.random() < 0.1)
        commit, newest = self.state.commit, max((marker.index for marker in self.markers), default=0)
        if received and rng.random() < 0.1:
            index = self.last + rng.randint(1, 50)
            yield Save(marker=Snapshot(index=index, term=term))
            # The order in which etcd saves it. (An etcd that is opened at a marker without an entry behind it names
            # the next segment after an entry long gone, and then finds neither.)
            yield Save(HardState(term=term, vote=1, commit=index), (Entry(term=term, index=index + 1, data=b"next"),))
        elif commit > newest and rng.random() < 0.2:
            index = rng.randint(newest + 1, commit)
            yield Save(marker=Snapshot(index=index, term=self._terms[index]))
        else:
            count = rng.choice([0, 1, 1, 2, 3, 8])
            first = self.last + 1
            if rng.random() < 0.2:
                first = rng.randint(max(commit, newest) + 1, first)
            entries = tuple(
                Entry(term=term, index=index, type=rng.choice([0, 0, 0, 1, 2]), data=_data(rng))
                for index in range(first, first + count)
            )
            last = entries[-1].index if entries else self.last
            state = HardState(term=term, vote=rng.choice([0, 1, 2**64 - 1]), commit=rng.randint(commit, last))
            if state == self.state and not entries:
                state.term += 1  # the same again would not be written
            yield Save(state if not entries or rng.random() < 0.5 else None, entries)


def _data(rng: random.Random) -> bytes:
    longest = rng.choices([0, 24, 300, 2_000, 140_000], [100, 400, 400, 200, 1])[0]
    return rng.randbytes(rng.randint(0, longest))


def difference(one: Outcome, other: Outcome) -> str | None:
    """Say where two outcomes differ first; ``None`` if they are the same."""
    if isinstance(one, str) or isinstance(other, str):
        return None if one == other else f"{_short(one)} and {_short(other)}"
    for name in ("metadata", "state"):
        if getattr(one, name) != getattr(other, name):
            return f"{name}: {getattr(one, name)!r} and {getattr(other, name)!r}"
    for place, (mine, theirs) in enumerate(zip(one.entries, other.entries, strict=False)):
        if mine != theirs:
            return f"entry {place} of {len(one.entries)}: {_short(mine)} and {_short(theirs)}"
    if len(one.entries) != len(other.entries):
        return f"{len(one.entries)} entries and {len(other.entries)}"
    return None


def _short(thing: object) -> str:
    return f"{thing!r:.300}"
