"""Saving: what reaches the disk, in which order, and what never does."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import wal
from logs import SMALL, Disk, frames, in_child, indexes, read, segments, tree, types, untouched
from wal import CommitState, Entry, RecordType, SnapshotMarker
from wal._crc32c import extend
from wal._frame import HEADER
from wal._marks import Mark, mark_of
from wal._names import SegmentName
from wal._stamp import PAGE_BYTES

CRC, ENTRY, METADATA = RecordType.CRC, RecordType.ENTRY, RecordType.METADATA
SNAPSHOT, STATE = RecordType.SNAPSHOT, RecordType.STATE


def entries(first: int, count: int, data: bytes = b"x") -> list[Entry]:
    return [Entry(index, data) for index in range(first, first + count)]


def new_frames(log: wal.WAL, save: Callable[[], None]) -> list[RecordType]:
    """Return the types of the records that a call appends to the log's last segment."""
    before = len(types(segments(log.path)[-1]))
    save()
    return types(segments(log.path)[-1])[before:]


@pytest.fixture
def fs() -> Disk:
    return Disk()


@pytest.fixture
def log(path: Path, fs: Disk) -> Iterator[wal.WAL]:
    """A new log with nothing in it, on a disk that keeps a trace."""
    with wal.WAL.create(path, b"node", segment_size=SMALL, fs=fs) as log:
        fs.trace.clear()
        fs.calls.clear()
        yield log


# ------------------------------------------------------------------------------------------------- what a save writes


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        pytest.param(lambda log: log.save(CommitState(1), entries(1, 3)), [ENTRY] * 3 + [STATE], id="save"),
        pytest.param(lambda log: log.save(None, entries(1, 2)), [ENTRY] * 2, id="save without a state"),
        pytest.param(lambda log: log.save(CommitState(1), None), [STATE], id="save without entries"),
        pytest.param(lambda log: log.save(CommitState(1), []), [STATE], id="save with no entry"),
        pytest.param(lambda log: log.save_entry(entries(1, 2)), [ENTRY] * 2, id="save_entry"),
        pytest.param(lambda log: log.save_state(CommitState(1)), [STATE], id="save_state"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(9)), [SNAPSHOT], id="save_snap"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(0)), [SNAPSHOT], id="save_snap of nothing"),
    ],
)
def test_a_save_is_one_write_and_one_sync(
    log: wal.WAL, fs: Disk, save: Callable[[wal.WAL], None], expected: list[RecordType]
) -> None:
    """The entries come first and the state behind them; all of it is handed over at once and synced before return."""
    assert new_frames(log, lambda: save(log)) == expected
    assert fs.trace == ["pwrite", "fdatasync"]


@pytest.mark.parametrize(
    "save",
    [
        pytest.param(lambda log: log.save(None, None), id="neither"),
        pytest.param(lambda log: log.save(None, []), id="no entry"),
        pytest.param(lambda log: log.save(None, iter(())), id="empty iterator"),
        pytest.param(lambda log: log.save_entry([]), id="save_entry of nothing"),
        pytest.param(lambda log: log.save(CommitState(3), []), id="the same state"),
        pytest.param(lambda log: log.save_state(CommitState(3)), id="save_state of the same state"),
    ],
)
def test_where_there_is_nothing_to_write_the_disk_is_left_alone(
    log: wal.WAL, fs: Disk, save: Callable[[wal.WAL], None]
) -> None:
    """F26: no write, and no sync either."""
    log.save(CommitState(3), entries(1, 3))
    fs.trace.clear()

    save(log)

    assert fs.trace == []


def test_the_empty_state_of_a_new_log_is_not_written(log: wal.WAL, fs: Disk) -> None:
    """F6: what readers would see anyway."""
    log.save_state(CommitState(0))

    assert fs.trace == []
    assert read(log.path).state == CommitState(0)


def test_entries_may_come_from_a_generator(log: wal.WAL) -> None:
    """Any iterable will do, and it is walked once."""
    log.save(None, (Entry(index, b"%d" % index) for index in range(1, 6)))
    log.save_entry(iter([Entry(6)]))

    assert indexes(log.path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("data", [b"", b"\0", bytes(600), b"\xff" * 600, bytes(range(256)) * 8], ids=len)
def test_any_bytes_come_back(log: wal.WAL, data: bytes) -> None:
    """Zeros and ones, nothing and much."""
    log.save_entry([Entry(1, data), Entry(2, data, 2**64 - 1)])

    assert read(log.path).entries == [Entry(1, data), Entry(2, data, 2**64 - 1)]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_marshalled_buffers_are_taken(path: Path, kind: Callable[[bytes], Any]) -> None:
    """``marshal`` may return a ``bytearray`` or a ``memoryview``."""

    class Buffered(Entry):
        __slots__ = ()

        def marshal(self) -> bytes:
            return kind(super().marshal())  # type: ignore[no-any-return]

    registry = wal.RecordRegistry()
    registry.register(ENTRY, Buffered)
    with wal.WAL.create(path, registry=registry, segment_size=SMALL) as log:
        log.save_entry([Buffered(1, b"a")])

        assert log.read_all().entries == [Buffered(1, b"a")]


# ------------------------------------------------------------------------------------------------------------- states


@dataclass
class Ballot(wal.HardState):
    """A state with more in it than ``committed``."""

    term: int = 0
    committed: int = 0

    def marshal(self) -> bytes:
        return b"%d %d" % (self.term, self.committed)

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        return cls(*map(int, data.split()))


@pytest.fixture
def ballots() -> wal.RecordRegistry:
    registry = wal.RecordRegistry()
    registry.register(STATE, Ballot)
    return registry


def test_a_state_with_other_fields_is_written_even_if_committed_is_equal(
    path: Path, ballots: wal.RecordRegistry
) -> None:
    """F5: a vote in a new term commits nothing, and must not be forgotten."""
    with wal.WAL.create(path, registry=ballots, segment_size=SMALL) as log:
        log.save_state(Ballot(1, 5))
        log.save_state(Ballot(2, 5))
        assert log.state == Ballot(2, 5)

    assert read(path, registry=ballots).state == Ballot(2, 5)


def test_a_state_with_nothing_committed_is_written(path: Path, ballots: wal.RecordRegistry) -> None:
    """F6: there are terms and votes before the first commit."""
    with wal.WAL.create(path, registry=ballots, segment_size=SMALL) as log:
        log.save_state(Ballot(3, 0))

    assert read(path, registry=ballots).state == Ballot(3, 0)


def test_a_state_may_go_back_to_empty(log: wal.WAL) -> None:
    """F6: the last state saved counts, also if all its fields are zero."""
    log.save_state(CommitState(5))
    log.save_state(CommitState(0))

    assert log.state == CommitState(0)
    assert read(log.path).state == CommitState(0)


def test_one_state_object_may_be_used_again_and_again(log: wal.WAL) -> None:
    """F4: a log keeps what the state was at each save, not the object."""
    state = CommitState(0)
    for committed in range(1, 10):
        state.committed = committed
        log.save_state(state)
    state.committed = 99

    assert log.state == CommitState(9)
    assert read(log.path).state == CommitState(9)
    assert types(segments(log.path)[0]).count(STATE) == 9


def test_a_state_is_compared_with_the_one_before_a_reopen(path: Path, log: wal.WAL, fs: Disk) -> None:
    """F7: an opened log knows its state."""
    log.save_state(CommitState(4))
    log.close()
    log, _, state, _ = wal.read_wal(path, fs=fs)
    with log:
        fs.trace.clear()
        log.save_state(CommitState(4))

        assert state == log.state == CommitState(4)
        assert fs.trace == []


# ------------------------------------------------------------------------------------------------------------ indexes


@dataclass
class Loose(wal.LogEntry):
    """An entry whose index may be anything."""

    index: Any = 0

    def marshal(self) -> bytes:
        return repr(self.index).encode()

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        return cls(int(data))


@pytest.fixture
def loose(path: Path, fs: Disk) -> Iterator[wal.WAL]:
    """A log with entries 1, 2, 3 of a class that does not check its index."""
    registry = wal.RecordRegistry()
    registry.register(ENTRY, Loose)
    with wal.WAL.create(path, registry=registry, segment_size=SMALL, fs=fs) as log:
        log.save_entry([Loose(1), Loose(2), Loose(3)])
        yield log
        log.save_entry([Loose(4)])
    assert read(path, registry=registry).entries == [Loose(1), Loose(2), Loose(3), Loose(4)]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        pytest.param([5], wal.IndexOrderError, id="F11 gap"),
        pytest.param([4, 6], wal.IndexOrderError, id="F11 gap inside the save"),
        pytest.param([4, 4], wal.IndexOrderError, id="the same twice"),
        pytest.param([4, 3], wal.IndexOrderError, id="backwards"),
        pytest.param([0], wal.IndexOrderError, id="F12 zero"),
        pytest.param([0, 1, 2], wal.IndexOrderError, id="F12 from zero"),
        pytest.param([-1], wal.IndexOrderError, id="negative"),
        pytest.param([-1, 0, 1], wal.IndexOrderError, id="from below zero"),
        pytest.param([2**63], wal.IndexOrderError, id="R10 2^63"),
        pytest.param([2**64 - 1], wal.IndexOrderError, id="R10 2^64 - 1"),
        pytest.param([2**64], wal.IndexOrderError, id="R10 2^64"),
        pytest.param([True], wal.RecordTypeError, id="bool"),
        pytest.param([4, True], wal.RecordTypeError, id="bool inside the save"),
        pytest.param(["4"], wal.RecordTypeError, id="text"),
        pytest.param([4.0], wal.RecordTypeError, id="float"),
        pytest.param([None], wal.RecordTypeError, id="None"),
    ],
)
def test_an_index_that_does_not_follow_is_refused(
    loose: wal.WAL, fs: Disk, given: list[Any], error: type[wal.WALUsageError]
) -> None:
    """R10: an index is an int from 1 to ``last_index + 1``, consecutive inside a save. Nothing is written otherwise."""
    fs.trace.clear()

    with pytest.raises(error):
        loose.save(CommitState(1), [Loose(index) for index in given])

    assert fs.trace == []
    assert (loose.last_index, loose.state) == (3, CommitState(0))


@pytest.mark.parametrize("index", [-(2**64), -1, 2**64 - 1, 2**64, 2**70])
def test_an_index_that_no_log_can_have_is_refused_before_it_is_marshalled(log: wal.WAL, fs: Disk, index: int) -> None:
    """R10: as an index that does not follow, and not as a number that ``marshal`` has no bytes for."""
    fs.trace.clear()

    with pytest.raises(wal.IndexOrderError):
        log.save_entry([Entry(index)])
    with pytest.raises(wal.IndexOrderError):
        log.save_snap(SnapshotMarker(index))

    assert fs.trace == []


def test_an_index_error_says_what_was_expected(log: wal.WAL) -> None:
    """F11: the first index may be at most one more than the last."""
    log.save_entry(entries(1, 3))

    with pytest.raises(wal.IndexOrderError) as caught:
        log.save_entry([Entry(7)])

    assert (caught.value.found, caught.value.expected) == (7, 4)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("first", "count"), [(1, 1), (1, 9), (3, 1), (3, 3), (5, 1), (5, 4), (6, 1)])
def test_a_lower_index_takes_the_place_of_all_from_it_on(log: wal.WAL, first: int, count: int) -> None:
    """P19: also if fewer entries come than go."""
    log.save_entry(entries(1, 5, b"old"))

    log.save_entry(entries(first, count, b"new"))

    assert log.last_index == first + count - 1
    assert read(log.path).entries == [*entries(1, first - 1, b"old"), *entries(first, count, b"new")]


@pytest.mark.parametrize("cut", [False, True], ids=["in one segment", "over a cut"])
def test_replaced_entries_do_not_come_back_behind_a_snapshot(log: wal.WAL, cut: bool) -> None:
    """R47, F9: 1 to 5, then 3 and 4 anew, then a snapshot at 4: nothing is left behind it."""
    log.save_entry(entries(1, 5, bytes(SMALL if cut else 1)))
    log.save_entry(entries(3, 2, b"new"))
    log.save_snap(SnapshotMarker(4))

    assert read(log.path, SnapshotMarker(4)).entries == []
    assert len(segments(log.path)) == 1 + cut


def test_entries_go_on_behind_a_snapshot_from_elsewhere(log: wal.WAL) -> None:
    """A marker beyond the last entry makes its index the last one; entries follow it, or fill in from below."""
    log.save_entry(entries(1, 3))
    log.save_snap(SnapshotMarker(10))

    assert log.last_index == 10
    with pytest.raises(wal.IndexOrderError):
        log.save_entry([Entry(12)])
    log.save_entry(entries(11, 2, b"behind"))

    assert log.last_index == 12
    assert read(log.path, SnapshotMarker(10)).entries == entries(11, 2, b"behind")


def test_a_lower_snapshot_marker_does_not_lower_the_last_index(log: wal.WAL) -> None:
    """A snapshot of what is long in the log changes nothing but where it can be opened."""
    log.save_entry(entries(1, 6))
    log.save_snap(SnapshotMarker(4))

    assert log.last_index == 6
    assert read(log.path, SnapshotMarker(4)).entries == entries(5, 2)

    log.save_snap(SnapshotMarker(10))
    log.save_snap(SnapshotMarker(5))

    assert log.last_index == 10


@pytest.mark.parametrize("marker", [2**64 - 2, 2**64 - 4])
def test_no_index_outgrows_the_name_of_the_next_segment(path: Path, marker: int) -> None:
    """R10: where 16 hexadecimal digits end, the save is refused; what was taken is there after a cut."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        log.save_snap(SnapshotMarker(marker))
        taken = []
        with suppress(wal.IndexOrderError, ValueError):
            for index in range(marker + 1, 2**64 + 2):
                log.save_entry([Entry(index, bytes(SMALL))])
                taken.append(index)
        log.save_state(CommitState(7))

    contents = read(path, SnapshotMarker(marker))
    assert [entry.index for entry in contents.entries] == taken
    assert contents.state == CommitState(7)
    assert {SegmentName.parse(file.name) is not None for file in path.iterdir()} == {True}


# -------------------------------------------------------------------------------------------- errors before any byte


class Broken(Entry):
    """An entry that cannot be marshalled."""

    __slots__ = ()

    def marshal(self) -> bytes:
        raise ZeroDivisionError


class Textual(Entry):
    """An entry that marshals into text."""

    __slots__ = ()

    def marshal(self) -> bytes:
        return "text"  # type: ignore[return-value]


class Fickle(CommitState):
    """A state that refuses its own bytes."""

    __slots__ = ()

    def marshal(self) -> bytes:
        return b"\xff"


def endless() -> Iterator[Entry]:
    """Two entries, and then the source fails."""
    yield Entry(4)
    yield Entry(5)
    raise ConnectionError("the source of the entries failed")


MARKER_AT_THE_END = SnapshotMarker(2**64 - 1)
TEXT: Any = "text"
TOO_LARGE = Entry(5, bytes(1000))


@pytest.mark.parametrize(
    ("save", "error"),
    [
        pytest.param(lambda log: log.save(7, None), wal.RecordTypeError, id="state is an int"),
        pytest.param(lambda log: log.save(Entry(4), None), wal.RecordTypeError, id="state is an entry"),
        pytest.param(lambda log: log.save_state(SnapshotMarker(4)), wal.RecordTypeError, id="state is a marker"),
        pytest.param(lambda log: log.save_state(Ballot(1, 1)), wal.RecordTypeError, id="state of another class"),
        pytest.param(lambda log: log.save_state(CommitState(-1)), ValueError, id="state below zero"),
        pytest.param(lambda log: log.save_state(CommitState(2**64)), ValueError, id="state over 64 bits"),
        pytest.param(lambda log: log.save_state(Fickle(1)), ValueError, id="state that refuses its bytes"),
        pytest.param(lambda log: log.save(CommitState(-1), [Entry(4)]), ValueError, id="entry good, state bad"),
        pytest.param(lambda log: log.save(CommitState(1), [Entry(9)]), wal.IndexOrderError, id="state good, entry bad"),
        pytest.param(lambda log: log.save_entry(7), TypeError, id="entries are an int"),
        pytest.param(lambda log: log.save_entry("45"), wal.RecordTypeError, id="entries are text"),
        pytest.param(lambda log: log.save_entry(b"45"), wal.RecordTypeError, id="entries are bytes"),
        pytest.param(lambda log: log.save_entry(Entry(4)), TypeError, id="one entry and no list"),
        pytest.param(lambda log: log.save_entry([None]), wal.RecordTypeError, id="entry is None"),
        pytest.param(lambda log: log.save_entry([CommitState(4)]), wal.RecordTypeError, id="entry is a state"),
        pytest.param(lambda log: log.save_entry([Loose(4)]), wal.RecordTypeError, id="entry of another class"),
        pytest.param(lambda log: log.save_entry([Entry(4), 5]), wal.RecordTypeError, id="second entry is an int"),
        pytest.param(lambda log: log.save_entry([Entry(4, TEXT)]), TypeError, id="entry data is text"),
        pytest.param(lambda log: log.save_entry([Entry(-1)]), ValueError, id="entry below zero"),
        pytest.param(lambda log: log.save_entry([Entry(2**64)]), ValueError, id="entry over 64 bits"),
        pytest.param(lambda log: log.save_entry([Entry(4, b"", -1)]), ValueError, id="entry type below zero"),
        pytest.param(lambda log: log.save_entry([Entry(4), Broken(5)]), ZeroDivisionError, id="marshal fails"),
        pytest.param(lambda log: log.save_entry([Entry(4), Textual(5)]), wal.RecordTypeError, id="marshal gives text"),
        pytest.param(lambda log: log.save_entry(endless()), ConnectionError, id="the source of entries fails"),
        pytest.param(lambda log: log.save_entry([TOO_LARGE]), wal.EntryTooLargeError, id="F10 too large"),
        pytest.param(
            lambda log: log.save_entry([Entry(4), Entry(5, bytes(1000))]),
            wal.EntryTooLargeError,
            id="F10 second too large",
        ),
        pytest.param(lambda log: log.save_snap(None), wal.RecordTypeError, id="snapshot is None"),
        pytest.param(lambda log: log.save_snap(3), wal.RecordTypeError, id="snapshot is an int"),
        pytest.param(lambda log: log.save_snap(CommitState(3)), wal.RecordTypeError, id="snapshot is a state"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(-1)), ValueError, id="snapshot below zero"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(2**64)), ValueError, id="snapshot over 64 bits"),
        pytest.param(lambda log: log.save_snap(MARKER_AT_THE_END), wal.IndexOrderError, id="snapshot at the end"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(True)), wal.RecordTypeError, id="snapshot bool"),
    ],
)
def test_a_bad_argument_is_refused_before_a_byte_is_written(
    path: Path, fs: Disk, save: Callable[[wal.WAL], None], error: type[Exception]
) -> None:
    """P6: the log has not been touched, and the next save takes place as if nothing had been."""
    with wal.WAL.create(path, segment_size=SMALL, max_record_bytes=1000, fs=fs) as log:
        log.save(CommitState(3), entries(1, 3))
        before = untouched(path)
        fs.trace.clear()

        with pytest.raises(error):
            save(log)

        assert fs.trace == []
        assert untouched(path) == before
        assert (log.last_index, log.state) == (3, CommitState(3))
        log.save(CommitState(4), [Entry(4)])

    assert read(path)[1:3] == (CommitState(4), [*entries(1, 3), Entry(4)])


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("limit", [16, 200, 5000])
def test_the_limit_is_on_the_marshalled_record(path: Path, limit: int, over: int) -> None:
    """F10: a record of exactly ``max_record_bytes`` is taken, one more byte is not."""
    size = limit + over
    entry = Entry(1, bytes(size - len(Entry(1, bytes(size)).marshal()) + size))
    assert len(entry.marshal()) == size
    with wal.WAL.create(path, segment_size=SMALL, max_record_bytes=limit) as log:
        if over:
            with pytest.raises(wal.EntryTooLargeError) as caught:
                log.save_entry([entry])
            assert (caught.value.size, caught.value.limit) == (size, limit)
        else:
            log.save_entry([entry])

    assert read(path).entries == ([] if over else [entry])


@pytest.mark.parametrize("size", [9_000_000, 9_999_990, 10_000_000, 11_000_000])
def test_what_a_save_takes_can_be_read_back(path: Path, size: int) -> None:
    """R08, F10: with the defaults, a large entry is refused at once, or it is there after a reopen."""
    data = bytes(size)
    with wal.WAL.create(path) as log:
        log.save_entry([Entry(1, b"before")])
        taken = True
        try:
            log.save_entry([Entry(2, data)])
        except wal.EntryTooLargeError:
            taken = False
        log.save_entry([Entry(2 + taken, b"after")])

    log, _, _, found = wal.read_wal(path)
    log.close()
    assert found == [Entry(1, b"before"), *([Entry(2, data)] if taken else []), Entry(2 + taken, b"after")]
    assert taken == (size < 10_000_000)


def test_a_greater_limit_lets_greater_records_in(path: Path) -> None:
    """R08: readers have no limit of their own."""
    data = bytes(11_000_000)
    with wal.WAL.create(path, max_record_bytes=20_000_000) as log:
        log.save_entry([Entry(1, data)])

    assert read(path).entries == [Entry(1, data)]


# --------------------------------------------------------------------------------------------------------------- cuts


def test_a_record_may_be_longer_than_a_segment(log: wal.WAL) -> None:
    """The size is a mark that is passed, not a wall."""
    log.save_entry([Entry(1, b"x" * 3 * SMALL)])
    log.save_entry([Entry(2)])

    assert [len(read(log.path).entries), len(segments(log.path))] == [2, 2]


def test_a_segment_is_cut_by_the_first_save_that_finds_it_full(log: wal.WAL) -> None:
    """F44: the save that fills a segment stays in it, and all its bytes count."""
    for index in range(1, 400, 2):
        log.save_entry(entries(index, 2, b"x" * 50))

    *sealed, _ = segments(log.path)
    assert len(sealed) > 3
    for segment in sealed:
        last_save = sum(frame.length for frame in frames(segment)[-2:])
        assert segment.stat().st_size - last_save < SMALL <= segment.stat().st_size


def test_a_sealed_segment_has_exactly_the_bytes_that_are_used(log: wal.WAL) -> None:
    """R16: so the end of a file in the middle of the log is the end of a frame."""
    for index in range(1, 30):
        log.save_entry([Entry(index, bytes(1000))])

    *sealed, tail = segments(log.path)
    assert len(sealed) > 3
    for segment in sealed:
        assert segment.stat().st_size == sum(frame.length for frame in frames(segment))
    assert tail.stat().st_size == SMALL


def test_a_save_never_spans_a_cut(log: wal.WAL) -> None:
    """A save of many records, far longer than a segment, is in one segment as a whole."""
    log.save_entry(entries(1, 3, b"x" * 1000))
    log.save(CommitState(50), entries(4, 47, b"x" * 1000))
    log.save_entry([Entry(51)])

    first, second = segments(log.path)
    assert [frame.mark for frame in frames(first)] == [
        *[Mark.FIRST, Mark.MORE, Mark.LAST],
        *[Mark.FIRST, Mark.MORE, Mark.LAST],
        *[Mark.FIRST, *[Mark.MORE] * 46, Mark.LAST],
    ]
    assert types(second) == [CRC, METADATA, STATE, ENTRY]


def test_a_segment_is_named_after_its_number_and_the_next_index(log: wal.WAL) -> None:
    """The name's index is one more than the log's last index at the cut, be it that of an entry or of a marker."""
    log.save_entry([Entry(1, bytes(SMALL))])
    log.save_entry([Entry(2, bytes(SMALL))])
    log.save_entry([Entry(1, bytes(SMALL))])
    log.save_snap(SnapshotMarker(30))
    log.save_entry([Entry(31, bytes(SMALL))])
    log.save_entry([Entry(2, bytes(SMALL))])
    log.save_state(CommitState(31))

    assert [SegmentName.parse(segment.name) for segment in segments(log.path)] == [
        SegmentName(0, 0),
        SegmentName(1, 2),
        SegmentName(2, 3),
        SegmentName(3, 2),
        SegmentName(4, 32),
        SegmentName(5, 31),
    ]


def test_each_head_repeats_the_metadata_and_the_last_state(log: wal.WAL) -> None:
    """F7: whoever reads from a segment on knows the state, and there is none where none was saved."""
    log.save_entry([Entry(1, bytes(SMALL))])
    log.save_entry([Entry(2, bytes(SMALL))])
    log.save(CommitState(2), [Entry(3, bytes(SMALL))])
    log.save(CommitState(3), None)

    heads = [[(frame.type, frame.data) for frame in frames(segment)[:3]] for segment in segments(log.path)]
    assert heads[0] == [(CRC, b""), (METADATA, b"node"), (SNAPSHOT, b"")]
    assert heads[1] == [(CRC, b""), (METADATA, b"node"), (ENTRY, Entry(2, bytes(SMALL)).marshal())]
    assert heads[2] == [(CRC, b""), (METADATA, b"node"), (ENTRY, Entry(3, bytes(SMALL)).marshal())]
    assert heads[3] == [(CRC, b""), (METADATA, b"node"), (STATE, CommitState(2).marshal())]
    assert frames(segments(log.path)[3])[3].data == CommitState(3).marshal()


def test_a_cut_after_a_reopen_repeats_the_state(path: Path, log: wal.WAL) -> None:
    """F7: a log that was opened and never given a state repeats the one that it read."""
    log.save(CommitState(1), [Entry(1, bytes(SMALL))])
    log.close()
    with wal.read_wal(path, segment_size=SMALL).wal as log:
        log.save_entry([Entry(2)])

    assert [(frame.type, frame.data) for frame in frames(segments(path)[1])] == [
        (CRC, b""),
        (METADATA, b"node"),
        (STATE, CommitState(1).marshal()),
        (ENTRY, Entry(2).marshal()),
    ]


@pytest.mark.parametrize("save_marks", [True, False])
def test_the_checksum_is_chained_over_all_segments(path: Path, save_marks: bool) -> None:
    """Each record's CRC covers the data of every record before it; a head begins with the chain so far."""
    with wal.WAL.create(path, b"node", segment_size=SMALL, save_marks=save_marks) as log:
        for index in range(1, 20):
            log.save(CommitState(index), entries(index, 1, b"%d" % index * 500))

    crc = 0
    assert len(segments(path)) > 3
    for frame in (frame for segment in segments(path) for frame in frames(segment)):
        crc = extend(crc, frame.data)
        assert frame.crc == crc


def test_a_cut_syncs_the_old_segment_and_the_new_head_before_the_save(path: Path, log: wal.WAL, fs: Disk) -> None:
    """R33, R35, F1: the new segment gets its name when it is complete, and is written to when the name is durable."""
    log.save_entry([Entry(1, bytes(SMALL))])
    fs.calls.clear()

    log.save_entry([Entry(2)])

    first, second = (str(path / str(name)) for name in (SegmentName(0, 0), SegmentName(1, 2)))
    assert fs.calls == [
        ("truncate", first),
        ("fsync", first),
        ("open", f"{second}.tmp"),
        ("lock", f"{second}.tmp"),
        ("allocate", f"{second}.tmp"),
        ("size", f"{second}.tmp"),
        ("pwrite", f"{second}.tmp"),
        ("fsync", f"{second}.tmp"),
        ("rename", f"{second}.tmp"),
        ("fsync", str(path)),
        ("pwrite", second),
        ("fdatasync", second),
    ]


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        pytest.param(lambda log: log.save_state(CommitState(1)), [STATE], id="a state"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(1)), [SNAPSHOT], id="a marker"),
        pytest.param(lambda log: log.save(CommitState(1), [Entry(2)]), [ENTRY, STATE], id="both"),
    ],
)
def test_anything_that_is_written_can_cut(
    log: wal.WAL, save: Callable[[wal.WAL], None], expected: list[RecordType]
) -> None:
    """Whatever comes first when the segment is full."""
    log.save_entry([Entry(1, bytes(SMALL))])

    save(log)

    assert types(segments(log.path)[1]) == [CRC, METADATA, *expected]


def test_segments_keep_their_size_when_the_log_is_opened_with_another(path: Path, log: wal.WAL) -> None:
    """F40: the size is an option of each writer, and of nothing else."""
    log.save_entry([Entry(1, bytes(2 * SMALL))])
    log.close()
    with wal.read_wal(path, segment_size=4 * SMALL).wal as log:
        log.save_entry([Entry(2, bytes(2 * SMALL))])
        assert len(segments(path)) == 1
        log.save_entry([Entry(3)])

        assert [segment.stat().st_size >= 4 * SMALL for segment in segments(path)] == [True, True]


# -------------------------------------------------------------------------------------------------------------- marks


class Watch(Disk):
    """
    Notes for every write whether all earlier bytes of its file had been synced, and the mark it begins with.

    Attributes:
        writes: For each write, what was true and what its first frame says.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dirty: set[int] = set()
        self.writes: list[tuple[bool, Mark]] = []

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        (header,) = HEADER.unpack_from(data)
        inode = os.fstat(fd).st_ino
        if any(data) and (offset % PAGE_BYTES or not offset):  # neither a stamp nor the zeros in its place
            self.writes.append((inode not in self.dirty, Mark(mark_of(data[9], header))))
            self.dirty.add(inode)
        return super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.dirty.discard(os.fstat(fd).st_ino)

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self.dirty.discard(os.fstat(fd).st_ino)


STEPS = st.sampled_from(["one", "many", "big", "snap", "state", "sync", "reopen", "lose the last sync"])


@settings(max_examples=150)
@given(steps=st.lists(STEPS, max_size=12), sync=st.booleans())
def test_a_save_says_synced_exactly_if_all_before_it_was(steps: list[str], sync: bool) -> None:
    """The first frame of each save tells the truth about the sync before it, whatever happened in between."""
    fs = Watch()
    with tempfile.TemporaryDirectory() as directory:
        log = wal.WAL.create(Path(directory) / "wal", segment_size=SMALL, sync=sync, fs=fs)
        for committed, step in enumerate(steps, 1):
            match step:
                case "one" | "big":
                    log.save_entry(entries(log.last_index + 1, 1, bytes(SMALL if step == "big" else 9)))
                case "many":
                    log.save(CommitState(committed), entries(log.last_index + 1, 5))
                case "snap":
                    log.save_snap(SnapshotMarker(log.last_index))
                case "state":
                    log.save_state(CommitState(committed))
                case "sync":
                    log.sync()
                case _:
                    if step == "lose the last sync":
                        fs.fail("fdatasync")
                    with suppress(wal.WALFailedError):
                        log.close()
                    fs.faults.clear()
                    log = wal.read_wal(log.path, segment_size=SMALL, sync=sync, fs=fs).wal
        log.close()
    for synced, mark in fs.writes:
        assert mark in ((Mark.ONLY, Mark.FIRST) if synced else (Mark.LAST, Mark.MORE))


def test_the_marks_of_a_save_frame_it(path: Path) -> None:
    """A save of one record, of two and of four, after a sync and without one."""
    with wal.WAL.create(path, segment_size=SMALL, sync=False) as log:
        log.save_entry(entries(1, 1))
        log.save_entry(entries(2, 1))
        log.save_entry(entries(3, 2))
        log.sync()
        log.save(CommitState(5), entries(5, 3))
        log.save_snap(SnapshotMarker(5))

    marks = [frame.mark for frame in frames(segments(path)[0])[3:]]
    assert marks == [
        *[Mark.ONLY],
        *[Mark.LAST],
        *[Mark.MORE, Mark.LAST],
        *[Mark.FIRST, Mark.MORE, Mark.MORE, Mark.LAST],
        *[Mark.LAST],
    ]


def test_without_save_marks_no_frame_has_one(path: Path) -> None:
    """``save_marks=False`` writes what the Go original does, heads and all."""
    with wal.WAL.create(path, segment_size=SMALL, save_marks=False) as log:
        for index in range(1, 5):
            log.save(CommitState(index), entries(index, 1, bytes(SMALL)))

    assert {frame.mark for segment in segments(path) for frame in frames(segment)} == {Mark.NONE}
    assert indexes(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("first", [True, False])
def test_each_writer_marks_its_own_saves_or_does_not(path: Path, first: bool) -> None:
    """The option is of the writer, not of the log: before a cut and behind it."""
    with wal.WAL.create(path, segment_size=SMALL, save_marks=first) as log:
        log.save_entry([Entry(1)])
    with wal.read_wal(path, segment_size=SMALL, save_marks=not first).wal as log:
        log.save_entry([Entry(2, bytes(SMALL))])
        log.save_entry([Entry(3)])

    old, new = segments(path)
    assert [frame.mark != Mark.NONE for frame in frames(old)] == [first] * 4 + [not first]
    assert [frame.mark != Mark.NONE for frame in frames(new)] == [not first] * 3


@settings(max_examples=40)
@given(
    sessions=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.lists(st.integers(1, 3), max_size=4)), min_size=1, max_size=6
    )
)
def test_a_log_may_have_saves_with_and_without_marks(sessions: list[tuple[bool, bool, list[int]]]) -> None:
    """Each writer marks its saves or not, syncs or not, and every reader gets them all."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "wal"
        wal.WAL.create(path, segment_size=SMALL, save_marks=sessions[0][0], fs=Disk()).close()
        last = 0
        for save_marks, sync, saves in sessions:
            with wal.read_wal(path, segment_size=SMALL, save_marks=save_marks, sync=sync, fs=Disk()).wal as log:
                for count in saves:
                    log.save_entry(entries(last + 1, count, bytes(800)))
                    last += count

        assert indexes(path) == list(range(1, last + 1))
        assert wal.verify(path).tail is None


# ------------------------------------------------------------------------------------------------------ without sync


def test_sync_false_leaves_out_the_sync_of_saves_only(path: Path, fs: Disk) -> None:
    """R24, F3: every byte reaches the system in its call; create, cut, ``sync`` and ``close`` sync."""
    log = wal.WAL.create(path, segment_size=SMALL, sync=False, fs=fs)
    fs.trace.clear()
    with log:
        log.save(CommitState(1), [Entry(1, bytes(SMALL))])
        assert fs.trace == ["pwrite"]

        fs.calls.clear()
        log.save_snap(SnapshotMarker(1))
        assert fs.of("pwrite", "fsync", "fdatasync") == [
            ("fsync", str(segments(path)[0])),
            ("pwrite", f"{segments(path)[1]}.tmp"),
            ("fsync", f"{segments(path)[1]}.tmp"),
            ("fsync", str(path)),
            ("pwrite", str(segments(path)[1])),
        ]

        fs.trace.clear()
        log.sync()
        assert fs.trace == ["fdatasync"]

        log.save_entry([Entry(2)])
        fs.trace.clear()
    assert fs.trace[0] == "fdatasync"


def test_a_close_with_nothing_to_sync_syncs_its_stamp_alone(log: wal.WAL, fs: Disk) -> None:
    """Saves that were synced are not synced again."""
    log.save_entry([Entry(1)])
    fs.trace.clear()

    log.close()

    assert [call for call in fs.trace if call in ("pwrite", "fdatasync", "fsync")] == ["pwrite", "fdatasync"]


@pytest.mark.parametrize("size", [10, SMALL])
def test_without_sync_a_clean_close_loses_nothing(path: Path, size: int) -> None:
    """R24, F3: ten saves, close, and all ten are there, with cuts or without."""
    with wal.WAL.create(path, segment_size=SMALL, sync=False) as log:
        for index in range(1, 11):
            log.save(CommitState(index), [Entry(index, bytes(size))])

    assert indexes(path) == list(range(1, 11))
    assert read(path).state == CommitState(10)


@pytest.mark.parametrize("size", [10, SMALL])
def test_without_sync_a_killed_process_loses_nothing(path: Path, size: int) -> None:
    """P18, R24: what ``save`` returned for is in the system's hands, not in the process's."""

    def write_and_be_killed() -> None:
        log = wal.WAL.create(path, segment_size=SMALL, sync=False)
        for index in range(1, 11):
            log.save(CommitState(index), [Entry(index, bytes(size))])
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(write_and_be_killed) == ""

    log, _, state, found = wal.read_wal(path, segment_size=SMALL)
    log.close()
    assert [entry.index for entry in found] == list(range(1, 11))
    assert state == CommitState(10)
    assert log.repaired is None


# --------------------------------------------------------------------------------------------- the object around it


def test_a_log_tells_about_itself(path: Path) -> None:
    """Each property follows the saves, and is the same after a reopen."""
    with wal.WAL.create(path, b"node", segment_size=SMALL) as log:
        assert (log.path, log.metadata, log.state) == (path, b"node", CommitState(0))
        assert (log.first_index, log.last_index, log.repaired, log.closed) == (1, 0, None, False)
        log.save(CommitState(2), entries(1, 3))
        assert (log.state, log.first_index, log.last_index) == (CommitState(2), 1, 3)
    assert log.closed

    with wal.read_wal(path).wal as log:
        assert (log.path, log.metadata, log.state) == (path, b"node", CommitState(2))
        assert (log.first_index, log.last_index, log.repaired, log.closed) == (1, 3, None, False)


def test_the_repr_says_where_and_in_what_state(path: Path, fs: Disk) -> None:
    """Open, not read, failed or closed."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        assert repr(log) == f"<WAL {str(path)!r} open>"
    assert repr(log) == f"<WAL {str(path)!r} closed>"
    with wal.WAL.open(path, fs=fs) as log:
        assert repr(log) == f"<WAL {str(path)!r} not read>"
        log.read_all()
        assert repr(log) == f"<WAL {str(path)!r} open>"
        fs.fail("pwrite")
        with pytest.raises(wal.WALFailedError):
            log.save_entry([Entry(1)])
        assert repr(log) == f"<WAL {str(path)!r} failed>"


def test_leaving_the_block_closes_the_log(path: Path, fs: Disk) -> None:
    """Also if the block raises, whose error goes on."""
    with pytest.raises(ZeroDivisionError), wal.WAL.create(path, segment_size=SMALL, fs=fs) as log:
        log.save_entry([Entry(1)])
        raise ZeroDivisionError

    assert log.closed
    assert not fs.open_descriptors
    assert indexes(path) == [1]


def test_a_dropped_log_warns_and_frees_everything(path: Path, fs: Disk) -> None:
    """R55: what it held is given back, and somebody is told."""
    log = wal.WAL.create(path, segment_size=SMALL, fs=fs)
    log.save_entry([Entry(1, bytes(SMALL))])
    log.save_entry([Entry(2)])
    with pytest.warns(ResourceWarning, match="dropped without close"):
        del log
        gc.collect()

    assert not fs.open_descriptors
    assert indexes(path) == [1, 2]
    wal.read_wal(path).wal.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dropped_log_frees_everything_where_warnings_are_errors(path: Path, fs: Disk) -> None:
    """R55: the warning comes last, since it may raise."""
    log = wal.WAL.create(path, segment_size=SMALL, fs=fs)
    del log
    gc.collect()

    assert not fs.open_descriptors
    wal.read_wal(path).wal.close()


def test_a_closed_log_is_dropped_in_silence(path: Path) -> None:
    """Warnings are errors here."""
    log = wal.WAL.create(path, segment_size=SMALL)
    log.close()
    del log
    gc.collect()


@pytest.mark.parametrize("copying", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_log_cannot_be_copied(log: wal.WAL, copying: Callable[[object], object]) -> None:
    """D14: two objects with one lock would be two writers."""
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        copying(log)


def test_a_log_is_a_storage(log: wal.WAL) -> None:
    """``wal.Storage`` is what an application needs of it."""
    storage: wal.Storage[wal.Snapshot] = log

    assert isinstance(storage, wal.Storage)


def test_a_log_leaves_no_thread(path: Path) -> None:
    """P16: neither while it is open nor afterwards."""
    before = threading.enumerate()
    with wal.WAL.create(path, segment_size=SMALL) as log:
        for index in range(1, 5):
            log.save_entry([Entry(index, bytes(SMALL))])
        assert threading.enumerate() == before
    assert threading.enumerate() == before


def test_nothing_outside_the_directory_is_touched(tmp_path: Path, path: Path) -> None:
    """P16: a log lives in its directory alone."""
    (tmp_path / "other").write_bytes(b"other")
    with wal.WAL.create(path, segment_size=SMALL) as log:
        for index in range(1, 5):
            log.save_entry([Entry(index, bytes(SMALL))])

    outside = {name: data for name, data in tree(tmp_path).items() if not name.startswith("wal/")}
    assert outside == {"other": b"other", "wal": None}


# -------------------------------------------------------------------------------------------------------------- model


class Model:
    """What a log must give back: all that was saved, in order, and the rules for reading it."""

    def __init__(self) -> None:
        self.saved: list[Entry | SnapshotMarker] = [SnapshotMarker(0)]
        self.state: CommitState | None = None
        self.last_entry = 0

    @property
    def markers(self) -> list[SnapshotMarker]:
        return [record for record in self.saved if isinstance(record, SnapshotMarker)]

    @property
    def last_index(self) -> int:
        return max(self.last_entry, *(marker.index for marker in self.markers))

    @property
    def valid(self) -> list[SnapshotMarker]:
        return [marker for marker in self.markers if self.state is None or marker.index <= self.state.committed]

    def save(self, state: CommitState | None, saved: list[Entry]) -> None:
        self.saved += saved
        self.last_entry = saved[-1].index if saved else self.last_entry
        self.state = state if state is not None and state != (self.state or CommitState()) else self.state

    def read(self, start: int) -> list[Entry] | None:
        """Return the entries behind ``start``; ``None`` where some of them were never in the log."""
        found: dict[int, Entry] = {}
        for record in self.saved:
            if isinstance(record, Entry):
                found = {index: entry for index, entry in found.items() if index < record.index}
                if record.index > start + 1 and record.index - 1 not in found:
                    return None
                found[record.index] = record
        return [entry for index, entry in found.items() if index > start]


class LogAgainstModel(RuleBasedStateMachine):
    """Random saves, cuts and reopens; the log and the model agree after each."""

    @initialize(save_marks=st.booleans(), sync=st.booleans())
    def create(self, save_marks: bool, sync: bool) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "wal"
        self.log = wal.WAL.create(self.path, b"node", segment_size=SMALL, save_marks=save_marks, sync=sync, fs=Disk())
        self.model = Model()

    @rule(
        back=st.one_of(st.just(0), st.integers(0, 6)),
        count=st.integers(1, 4),
        size=st.sampled_from([0, 1, 100, 1500, SMALL]),
        committed=st.none() | st.integers(0, 12),
    )
    def save(self, back: int, count: int, size: int, committed: int | None) -> None:
        first = max(1, self.model.last_index + 1 - back)
        saved = entries(first, count, b"%d" % len(self.model.saved) + bytes(size))
        state = None if committed is None else CommitState(committed)
        self.log.save(state, saved)
        self.model.save(state, saved)

    @rule(committed=st.integers(0, 12))
    def save_state(self, committed: int) -> None:
        self.log.save_state(CommitState(committed))
        self.model.save(CommitState(committed), [])

    @rule(ahead=st.integers(-6, 3))
    def save_snap(self, ahead: int) -> None:
        marker = SnapshotMarker(max(0, self.model.last_index + ahead))
        self.log.save_snap(marker)
        self.model.saved.append(marker)

    @rule(gap=st.integers(2, 5))
    def save_with_a_gap(self, gap: int) -> None:
        with pytest.raises(wal.IndexOrderError):
            self.log.save_entry([Entry(self.model.last_index + gap)])

    @rule(index=st.sampled_from([0, 1, 3, 999]))
    def release(self, index: int) -> None:
        self.log.release(SnapshotMarker(index))

    @rule()
    def sync(self) -> None:
        self.log.sync()

    @precondition(lambda self: any(self.model.read(marker.index) is not None for marker in self.model.markers))
    @rule(data=st.data(), save_marks=st.booleans(), sync=st.booleans())
    def reopen(self, data: st.DataObject, save_marks: bool, sync: bool) -> None:
        self.log.close()
        readable = [marker for marker in self.model.markers if self.model.read(marker.index) is not None]
        marker = data.draw(st.sampled_from(readable))
        self.log, metadata, state, found = wal.read_wal(
            self.path, marker, segment_size=SMALL, save_marks=save_marks, sync=sync, fs=Disk()
        )
        assert (metadata, state, found) == (b"node", self.model.state or CommitState(), self.model.read(marker.index))

    @invariant()
    def reads_as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        assert self.log.last_index == self.model.last_index
        assert self.log.state == (self.model.state or CommitState())
        valid = wal.valid_snapshots(self.path)
        assert valid == self.model.valid
        for marker in valid:
            expected = self.model.read(marker.index)
            if expected is None:
                with pytest.raises(wal.IndexGapError):
                    read(self.path, marker)
            else:
                assert read(self.path, marker) == (b"node", self.log.state, expected, None)

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()
            self.directory.cleanup()


LogAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestLogAgainstModel = LogAgainstModel.TestCase
