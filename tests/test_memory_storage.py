"""The log in memory: what is there, what is not there any more or not yet, and nothing between."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import wal
from wal import CommitState, Entry, MemoryStorage, SnapshotData


def entries(first: int, last: int, data: bytes = b"") -> list[wal.LogEntry]:
    """Return entries with the indexes from ``first`` to ``last``."""
    return [Entry(index, data) for index in range(first, last + 1)]


def storage(compacted: int, last: int) -> MemoryStorage:
    """Return a storage with a snapshot at ``compacted`` and the entries from there to ``last``."""
    memory = MemoryStorage()
    memory.append(entries(1, last))
    if compacted:
        memory.create_snapshot(compacted, b"state")
        memory.compact(compacted)
    return memory


def contents(memory: MemoryStorage) -> tuple[SnapshotData, int, list[wal.LogEntry]]:
    """Return the snapshot, the first index, and the entries, which must be as many as the indexes say."""
    found = memory.entries(memory.first_index, memory.last_index + 1)
    assert [entry.index for entry in found] == list(range(memory.first_index, memory.last_index + 1))
    return memory.snapshot, memory.first_index, found


# ---------------------------------------------------------------------------------------------------- a new one


def test_a_new_one_is_ready() -> None:
    """M1: Before anything was put in, it answers as an empty log does, and can be appended to."""
    memory = MemoryStorage()

    assert (memory.first_index, memory.last_index) == (1, 0)
    assert memory.snapshot == SnapshotData(0)
    assert memory.entries(1, 1) == []
    memory.append([])
    memory.append(entries(1, 2))
    assert contents(memory) == (SnapshotData(0), 1, entries(1, 2))


def test_the_hard_state_is_empty_before_it_is_set() -> None:
    """M7: It is never ``None``: at first the registered class's ``empty()``, then what was set last."""
    memory = MemoryStorage()
    assert memory.hard_state == CommitState.empty()

    memory.set_hard_state(CommitState(3))
    memory.set_hard_state(CommitState(2))

    assert memory.hard_state == CommitState(2)


def test_the_registry_says_what_empty_is() -> None:
    """M7: Another registry has another empty state; the process-wide one is looked at if there is none."""
    assert MemoryStorage(registry=wal.etcd.registry()).hard_state == wal.etcd.HardState()
    wal.register_record(wal.RecordType.STATE, wal.etcd.HardState)
    assert MemoryStorage().hard_state == wal.etcd.HardState()


# ------------------------------------------------------------------------------------------------------ entries


@pytest.mark.parametrize(
    ("lo", "hi", "outcome"),
    [
        pytest.param(4, 9, [4, 5, 6, 7, 8], id="all"),
        pytest.param(4, 5, [4], id="the first"),
        pytest.param(8, 9, [8], id="the last"),
        pytest.param(5, 8, [5, 6, 7], id="some"),
        pytest.param(4, 4, [], id="none at the beginning"),
        pytest.param(6, 6, [], id="none in the middle"),
        pytest.param(9, 9, [], id="none at the end"),
        pytest.param(3, 9, wal.CompactedError, id="M3: from what is compacted"),
        pytest.param(3, 4, wal.CompactedError, id="M3: what was compacted last"),
        pytest.param(3, 3, wal.CompactedError, id="M3: none of what is compacted"),
        pytest.param(0, 9, wal.CompactedError, id="M3: from 0"),
        pytest.param(-1, 5, wal.CompactedError, id="M3: from below 0"),
        pytest.param(4, 10, wal.UnavailableError, id="M3: one too many"),
        pytest.param(9, 10, wal.UnavailableError, id="M3: the next one"),
        pytest.param(10, 10, wal.UnavailableError, id="M3: none of what is not there"),
        pytest.param(4, 2**70, wal.UnavailableError, id="M3: far too many"),
        pytest.param(6, 5, ValueError, id="M3: backwards"),
        pytest.param(10, 9, ValueError, id="M3: backwards from beyond the end"),
        pytest.param(3, 2, ValueError, id="M3: backwards in what is compacted"),
    ],
)
def test_a_range_is_there_or_an_error(lo: int, hi: int, outcome: list[int] | type[Exception]) -> None:
    """M3: From ``lo`` up to and without ``hi``; what is not there any more, or not yet, is a typed error."""
    memory = storage(3, 8)

    if isinstance(outcome, list):
        assert [entry.index for entry in memory.entries(lo, hi)] == outcome
    else:
        with pytest.raises(outcome) as caught:
            memory.entries(lo, hi)
        assert type(caught.value) is outcome
    assert contents(memory) == (SnapshotData(3, b"state"), 4, entries(4, 8))


@pytest.mark.parametrize(("lo", "hi", "index"), [(3, 9, 3), (1, 9, 1), (4, 10, 9), (4, 20, 19)], ids=str)
def test_the_error_names_an_entry_that_is_not_there(lo: int, hi: int, index: int) -> None:
    """M3: The first that is gone, or the last that was asked for."""
    with pytest.raises(LookupError) as caught:
        storage(3, 8).entries(lo, hi)

    assert isinstance(caught.value, wal.CompactedError | wal.UnavailableError)
    assert caught.value.index == index


def test_one_entry() -> None:
    """``entry`` is ``entries`` for one."""
    memory = storage(3, 8)

    assert [memory.entry(index) for index in range(4, 9)] == entries(4, 8)
    with pytest.raises(wal.CompactedError):
        memory.entry(3)
    with pytest.raises(wal.UnavailableError):
        memory.entry(9)


class Sized(Entry):
    """An entry that says of itself how large it is."""

    def size(self) -> int:
        return int(self.data)


def sized(*sizes: int) -> list[Sized]:
    return [Sized(index, b"%d" % size) for index, size in enumerate(sizes, 1)]


@pytest.mark.parametrize(
    ("sizes", "max_size", "count"),
    [
        pytest.param([10, 20, 30], None, 3, id="no limit"),
        pytest.param([10, 20, 30], 60, 3, id="all fit exactly"),
        pytest.param([10, 20, 30], 10**9, 3, id="all fit"),
        pytest.param([10, 20, 30], 59, 2, id="one byte short of all"),
        pytest.param([10, 20, 30], 30, 2, id="two fit exactly"),
        pytest.param([10, 20, 30], 29, 1, id="one byte short of two"),
        pytest.param([10, 20, 30], 10, 1, id="the first fits exactly"),
        pytest.param([10, 20, 30], 9, 1, id="the first does not fit"),
        pytest.param([10, 20, 30], 0, 1, id="nothing fits"),
        pytest.param([10, 20, 30], -1, 1, id="less than nothing"),
        pytest.param([100, 1, 1], 50, 1, id="a large one, then small ones"),
        pytest.param([10, 100, 1], 50, 1, id="a large one between small ones"),
        pytest.param([0, 0, 0], 0, 3, id="entries without a size"),
        pytest.param([5, 0, 0], 5, 3, id="entries without a size behind the limit"),
    ],
)
def test_max_size_limits_the_sum(sizes: list[int], max_size: int | None, count: int) -> None:
    """Entries are returned as long as the sum of their ``size()`` fits, and one at least, so that a reader goes on."""
    memory = MemoryStorage()
    memory.append(sized(*sizes))

    assert memory.entries(1, 4, max_size) == sized(*sizes)[:count]
    assert memory.entries(1, 1, max_size) == []
    with pytest.raises(wal.UnavailableError):
        memory.entries(1, 5, max_size)


# ------------------------------------------------------------------------------------------------------- append


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        pytest.param([], [4, 5, 6], id="nothing"),
        pytest.param([7], [4, 5, 6, -7], id="the next"),
        pytest.param([7, 8, 9], [4, 5, 6, -7, -8, -9], id="the next ones"),
        pytest.param([6], [4, 5, -6], id="over the last"),
        pytest.param([5], [4, -5], id="over the middle: what is behind goes"),
        pytest.param([5, 6, 7, 8], [4, -5, -6, -7, -8], id="over the middle, and on"),
        pytest.param([4], [-4], id="over all"),
        pytest.param([3, 4], [-4], id="from what is compacted over all"),
        pytest.param([1, 2, 3, 4, 5], [-4, -5], id="from the beginning over all"),
        pytest.param([2, 3], [4, 5, 6], id="only what is compacted"),
        pytest.param([1], [4, 5, 6], id="long compacted"),
    ],
)
@pytest.mark.parametrize("make", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_appending_takes_the_place_of_what_is_behind(
    make: Callable[[list[Entry]], Sequence[Entry]], new: list[int], expected: list[int]
) -> None:
    """P19: The first new entry replaces everything from its index on; what is compacted is passed over."""
    memory = storage(3, 6)

    memory.append(make([Entry(index, b"new") for index in new]))

    assert contents(memory)[2] == [Entry(abs(index), b"new" if index < 0 else b"") for index in expected]
    assert contents(memory)[:2] == (SnapshotData(3, b"state"), 4)


@pytest.mark.parametrize("compacted", [0, 3], ids=["", "compacted"])
@pytest.mark.parametrize(
    ("new", "found", "expected"),
    [
        pytest.param([8], 8, 7, id="M5: behind a gap"),
        pytest.param([100, 101], 100, 7, id="M5: far behind"),
        pytest.param([6, 9], 9, 7, id="M6: a gap inside"),
        pytest.param([7, 7], 7, 8, id="M6: the same twice"),
        pytest.param([7, 8, 7], 7, 9, id="M6: back again"),
        pytest.param([5, 4], 4, 6, id="M6: backwards"),
        pytest.param([1, 3], 3, 2, id="M6: a gap in front"),
        pytest.param([0], 0, 7, id="M5: no entry has index 0"),
        pytest.param([0, 1], 0, 7, id="M5: from index 0 on"),
        pytest.param([-1, 0], -1, 7, id="M5: below 0"),
        pytest.param([-1, 0, 1, 2, 3, 4, 5, 6, 7], -1, 7, id="M5: from below 0 on"),
    ],
)
def test_a_gap_is_refused(new: list[int], found: int, expected: int, compacted: int) -> None:
    """M5, M6: Entries that are not in order, or leave a gap, are an error that changes nothing."""
    memory = storage(compacted, 6)
    before = contents(memory)

    with pytest.raises(wal.IndexOrderError) as caught:
        memory.append([Entry(index, b"new") for index in new])

    assert (caught.value.found, caught.value.expected) == (found, expected)
    assert contents(memory) == before


# ---------------------------------------------------------------------------------------------------- snapshots


@pytest.mark.parametrize(
    ("index", "new", "expected"),
    [
        pytest.param(5, [], [], id="M2: nothing behind it"),
        pytest.param(5, [6, 7], [6, 7], id="M2: entries behind it"),
        pytest.param(5, [4, 5, 6, 7], [6, 7], id="M2: entries that it covers, too"),
        pytest.param(5, [1, 2, 3], [], id="M2: only entries that it covers"),
        pytest.param(5, [5], [], id="M2: only its own"),
        pytest.param(4, [], [], id="just newer than the present one"),
        pytest.param(6, [], [], id="of the last entry"),
        pytest.param(1000, [1001], [1001], id="far beyond the last entry"),
    ],
)
def test_a_snapshot_takes_the_place_of_everything(index: int, new: list[int], expected: list[int]) -> None:
    """M2: The log begins behind an applied snapshot, with the entries that came along and no other."""
    memory = storage(3, 6)
    snapshot = SnapshotData(index, b"new state", b"members")

    memory.apply_snapshot(snapshot, (Entry(index, b"new") for index in new))

    assert contents(memory) == (snapshot, index + 1, [Entry(i, b"new") for i in expected])
    with pytest.raises(wal.CompactedError):
        memory.entries(index, index + 1)
    memory.append([Entry(memory.last_index + 1)])
    assert memory.last_index == (expected or [index])[-1] + 1


@pytest.mark.parametrize(
    ("index", "new", "error"),
    [
        pytest.param(3, [], wal.SnapshotOutOfDateError, id="the present one"),
        pytest.param(2, [3], wal.SnapshotOutOfDateError, id="an older one"),
        pytest.param(0, [], wal.SnapshotOutOfDateError, id="that of the beginning"),
        pytest.param(5, [7], wal.IndexOrderError, id="M2: a gap behind it"),
        pytest.param(5, [6, 8], wal.IndexOrderError, id="M6: a gap inside"),
        pytest.param(5, [6, 6], wal.IndexOrderError, id="M6: the same twice"),
        pytest.param(5, [0, 1], wal.IndexOrderError, id="M5: index 0"),
    ],
)
def test_a_snapshot_that_does_not_fit_changes_nothing(index: int, new: list[int], error: type[Exception]) -> None:
    """M2: An older snapshot, or entries with a gap, are refused as a whole."""
    memory = storage(3, 6)
    memory.set_hard_state(CommitState(5))

    with pytest.raises(error):
        memory.apply_snapshot(SnapshotData(index, b"new"), [Entry(i) for i in new])

    assert contents(memory) == (SnapshotData(3, b"state"), 4, entries(4, 6))
    assert memory.hard_state == CommitState(5)


def test_a_snapshot_is_created_beside_the_entries() -> None:
    """M4: A snapshot of the present log is kept and returned; entries go only when they are compacted."""
    memory = storage(3, 6)

    created = memory.create_snapshot(5, b"new state", b"members")

    assert created == SnapshotData(5, b"new state", b"members")
    assert contents(memory) == (created, 4, entries(4, 6))
    memory.create_snapshot(6, b"newer state")
    assert contents(memory) == (SnapshotData(6, b"newer state"), 4, entries(4, 6))


@pytest.mark.parametrize(
    ("index", "error"),
    [
        pytest.param(7, wal.UnavailableError, id="M4: beyond the last entry"),
        pytest.param(500, wal.UnavailableError, id="M4: far beyond"),
        pytest.param(3, wal.SnapshotOutOfDateError, id="the present one"),
        pytest.param(2, wal.SnapshotOutOfDateError, id="an older one"),
        pytest.param(0, wal.SnapshotOutOfDateError, id="that of the beginning"),
    ],
)
def test_a_snapshot_of_what_is_not_there_is_refused(index: int, error: type[Exception]) -> None:
    """M4: A snapshot covers entries that are there, and more than the present one."""
    memory = storage(3, 6)

    with pytest.raises(error) as caught:
        memory.create_snapshot(index, b"new state")

    assert isinstance(caught.value, wal.UnavailableError | wal.SnapshotOutOfDateError)
    assert caught.value.index == index
    assert contents(memory) == (SnapshotData(3, b"state"), 4, entries(4, 6))


# --------------------------------------------------------------------------------------------------- compaction


@pytest.mark.parametrize(
    ("index", "outcome"),
    [
        pytest.param(4, [5, 6], id="the first"),
        pytest.param(5, [6], id="some"),
        pytest.param(6, [], id="all"),
        pytest.param(3, wal.CompactedError, id="what is compacted"),
        pytest.param(1, wal.CompactedError, id="what was compacted long ago"),
        pytest.param(0, wal.CompactedError, id="nothing"),
        pytest.param(7, wal.UnavailableError, id="M5: beyond the last entry"),
        pytest.param(2**64, wal.UnavailableError, id="M5: far beyond"),
    ],
)
def test_compacting_drops_the_oldest(index: int, outcome: list[int] | type[Exception]) -> None:
    """M5: Entries up to the index go; an index that is gone already or not there yet changes nothing."""
    memory = storage(3, 6)

    if isinstance(outcome, list):
        memory.compact(index)
        assert contents(memory) == (SnapshotData(3, b"state"), index + 1, [Entry(index) for index in outcome])
        memory.append([Entry(7)])
        assert (memory.last_index, memory.entry(7)) == (7, Entry(7))
    else:
        with pytest.raises(outcome):
            memory.compact(index)
        assert contents(memory) == (SnapshotData(3, b"state"), 4, entries(4, 6))


def test_compacting_does_not_touch_what_stays() -> None:
    """M8: A hundred thousand entries are not copied to drop one: they are the same objects, and no memory is taken."""
    kept = entries(1, 100_000)
    memory = MemoryStorage()
    memory.append(kept)
    tracemalloc.start()
    try:
        for index in range(1, 11):
            memory.compact(index)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 10_000
    assert all(entry is old for entry, old in zip(memory.entries(11, 100_001), kept[10:], strict=True))


class Watched(Entry):
    """An entry that can be seen to be freed: it has a weak reference."""


@pytest.mark.parametrize(
    ("call", "freed"),
    [
        pytest.param(lambda memory: memory.compact(4), [3, 4], id="compacted"),
        pytest.param(lambda memory: memory.append([Entry(5)]), [5, 6], id="replaced"),
        pytest.param(lambda memory: memory.apply_snapshot(SnapshotData(4)), [3, 4, 5, 6], id="a snapshot applied"),
        pytest.param(lambda memory: memory.append([Watched(1), Watched(2), Entry(3)]), [3, 4, 5, 6], id="passed over"),
    ],
)
def test_what_is_gone_is_freed(call: Callable[[MemoryStorage], None], freed: list[int]) -> None:
    """M8: The log does not hold on to entries that nobody can get any more."""
    memory = storage(2, 2)
    memory.append([Watched(index) for index in range(3, 7)])
    alive = {entry.index: weakref.ref(entry) for entry in memory.entries(3, 7)}

    call(memory)
    gc.collect()

    assert [index for index, entry in alive.items() if entry() is None] == freed
    left = sum(isinstance(value, Watched) for value in gc.get_objects())
    assert left == len(alive) - len(freed)


# ---------------------------------------------------------------------------------------------------- ownership


def test_what_is_returned_is_the_callers() -> None:
    """M8: Changing a list that was returned does not change the log."""
    memory = storage(0, 6)
    memory.entries(1, 7).clear()
    memory.entries(1, 7)[0] = Entry(9)
    memory.entries(1, 7, 10**9).clear()
    memory.entries(1, 7, 0).append(Entry(9))

    assert memory.entries(1, 7) is not memory.entries(1, 7)
    assert contents(memory)[2] == entries(1, 6)


def test_what_was_given_stays_the_callers() -> None:
    """M8: Changing a list that was appended or applied does not change the log."""
    given = entries(1, 6)
    memory = MemoryStorage()
    memory.append(given)
    given[2:] = []
    assert contents(memory)[2] == entries(1, 6)

    given = entries(8, 9)
    memory.apply_snapshot(SnapshotData(7), given)
    given.clear()
    assert contents(memory) == (SnapshotData(7), 8, entries(8, 9))


def test_what_was_returned_stays_what_it_was() -> None:
    """M8: A list that was returned is not changed by what happens to the log."""
    memory = storage(0, 6)
    before, snapshot = memory.entries(1, 7), memory.snapshot
    memory.append([Entry(2, b"new")])
    memory.apply_snapshot(SnapshotData(9))

    assert before == entries(1, 6)
    assert snapshot == SnapshotData(0)


def test_it_shows_what_it_holds() -> None:
    """The repr names the range of entries."""
    assert repr(storage(3, 8)) == "<MemoryStorage entries 4 to 8>"


# --------------------------------------------------------------------------------------------------- the model


class Model(RuleBasedStateMachine):
    """The same log as a list that begins with index 1 and has ``None`` for what is compacted."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryStorage()
        self.log: list[Entry | None] = []
        self.compacted = 0
        self.snapshot = SnapshotData(0)
        self.state = CommitState(0)
        self.number = 0

    def some_entries(self, first: int, count: int) -> list[Entry]:
        self.number += 1
        return [Entry(first + n, b"%d" % self.number * (n % 4)) for n in range(count)]

    def index(self, data: st.DataObject, label: str) -> int:
        """An index near to where something changes."""
        return data.draw(st.integers(max(self.compacted - 2, 0), len(self.log) + 3), label)

    @initialize(count=st.integers(0, 8))
    def begin(self, count: int) -> None:
        self.append_from(1, count)

    @rule(data=st.data(), count=st.integers(0, 6))
    def append(self, data: st.DataObject, count: int) -> None:
        self.append_from(self.index(data, "first") or 1, count)

    def append_from(self, first: int, count: int) -> None:
        new = self.some_entries(first, count)
        last = first + count - 1
        if count and first > len(self.log) + 1:
            with pytest.raises(wal.IndexOrderError):
                self.memory.append(new)
            return
        self.memory.append(new)
        if count and last > self.compacted:
            self.log[max(first - 1, self.compacted) :] = new[max(0, self.compacted + 1 - first) :]

    @rule(data=st.data(), count=st.integers(0, 6), distance=st.integers(-3, 4))
    def apply(self, data: st.DataObject, count: int, distance: int) -> None:
        snapshot = SnapshotData(self.index(data, "snapshot"), b"applied")
        new = self.some_entries(max(1, snapshot.index + distance), count)
        if new and new[0].index > snapshot.index + 1:
            with pytest.raises(wal.IndexOrderError):
                self.memory.apply_snapshot(snapshot, new)
        elif snapshot.index <= self.snapshot.index:
            with pytest.raises(wal.SnapshotOutOfDateError):
                self.memory.apply_snapshot(snapshot, new)
        else:
            self.memory.apply_snapshot(snapshot, new)
            self.snapshot, self.compacted = snapshot, snapshot.index
            self.log = [None] * snapshot.index + [entry for entry in new if entry.index > snapshot.index]

    @rule(data=st.data())
    def create(self, data: st.DataObject) -> None:
        index = self.index(data, "snapshot")
        if index <= self.snapshot.index:
            with pytest.raises(wal.SnapshotOutOfDateError):
                self.memory.create_snapshot(index, b"created")
        elif index > len(self.log):
            with pytest.raises(wal.UnavailableError):
                self.memory.create_snapshot(index, b"created")
        else:
            self.snapshot = SnapshotData(index, b"created", b"members")
            assert self.memory.create_snapshot(index, b"created", b"members") == self.snapshot

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        # As the documentation asks, only what a snapshot covers.
        index = min(self.index(data, "index"), self.snapshot.index)
        if index <= self.compacted:
            with pytest.raises(wal.CompactedError):
                self.memory.compact(index)
        elif index > len(self.log):
            with pytest.raises(wal.UnavailableError):
                self.memory.compact(index)
        else:
            self.memory.compact(index)
            self.compacted = index
            self.log[:index] = [None] * index

    @rule(committed=st.integers(0, 9))
    def set_state(self, committed: int) -> None:
        self.state = CommitState(committed)
        self.memory.set_hard_state(self.state)

    @rule(data=st.data(), max_size=st.none() | st.integers(0, 30))
    def read(self, data: st.DataObject, max_size: int | None) -> None:
        lo, hi = self.index(data, "lo"), self.index(data, "hi")
        error: type[Exception] | None = None
        if lo > hi:
            error = ValueError
        elif lo <= self.compacted:
            error = wal.CompactedError
        elif hi > len(self.log) + 1:
            error = wal.UnavailableError
        if error:
            with pytest.raises(error):
                self.memory.entries(lo, hi, max_size)
            return
        expected = [entry for entry in self.log[lo - 1 : hi - 1] if entry]
        assert len(expected) == hi - lo
        while max_size is not None and len(expected) > 1 and sum(entry.size() for entry in expected) > max_size:
            expected.pop()
        assert self.memory.entries(lo, hi, max_size) == expected

    @invariant()
    def it_is_the_same(self) -> None:
        assert contents(self.memory) == (self.snapshot, self.compacted + 1, self.log[self.compacted :])
        assert self.memory.last_index == len(self.log)
        assert self.memory.hard_state == self.state


def test_it_behaves_as_a_list_does() -> None:
    """M1 to M6, P19: Whatever is done in whatever order, answers and errors are those of a plain list."""
    run_state_machine_as_test(Model, settings=settings(max_examples=100, stateful_step_count=30))


@given(batches=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), max_size=8), start=st.integers(0, 10))
def test_it_holds_what_a_log_gives_back(batches: list[tuple[int, int]], start: int) -> None:
    """P19: Appending in order of writing gives what any later reader of a log with these saves gets."""
    memory = MemoryStorage()
    memory.append(entries(1, 10, b"old"))
    expected = entries(1, 10, b"old")
    for number, (wanted, count) in enumerate(batches):
        first = min(wanted, len(expected) + 1)
        new = entries(first, first + count - 1, b"%d" % number)
        memory.append(new)
        expected[first - 1 :] = new
    start = min(start, memory.last_index)
    if start:
        memory.compact(start)

    assert contents(memory)[2] == expected[start:]


# ------------------------------------------------------------------------------------------------------ threads


@pytest.fixture
def _switching() -> Any:
    """Threads take turns as often as the interpreter lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_switching")
def test_readers_see_a_whole_log_beside_a_writer() -> None:
    """M7: Whatever a thread appends, compacts or applies, another one gets entries without a gap, or a typed error."""
    memory = MemoryStorage()
    memory.append(entries(1, 50))
    failures: list[object] = []
    done = threading.Event()

    def write() -> None:
        try:
            for _ in range(300):
                last = memory.last_index
                memory.append(entries(last - 5, last + 10, b"new"))
                memory.create_snapshot(last, b"state")
                memory.compact(last - 10)
                memory.apply_snapshot(SnapshotData(last + 1), entries(last + 2, last + 40))
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    def read() -> None:
        try:
            while not done.is_set():
                lo, hi = memory.first_index, memory.last_index + 1
                if lo > hi:
                    continue  # a snapshot was applied in between
                try:
                    found = memory.entries(lo, hi)
                except (wal.CompactedError, wal.UnavailableError):
                    continue
                assert [entry.index for entry in found] == list(range(lo, hi))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=target) for target in (write, read, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    contents(memory)
