"""Entries by index: from memory, from an open log, from its files, and from a storage, all by one protocol."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wal
import wal._entries
from damage import flip_bit, overwrite
from logs import HANG, SMALL, Child, HeldDisk
from unsynced import UNSYNCED
from wal import CommitState, Entry, LogEntry, SnapshotData, SnapshotMarker, WALReader
from wal._files import OperatingSystem

LAST = 300


def entry(index: int, size: int | None = None) -> Entry:
    return Entry(index, b"%d " % index * (index % 7 if size is None else size))


ENTRIES: list[LogEntry] = [entry(index) for index in range(1, LAST + 1)]


def fill(save: Callable[[CommitState | None, list[LogEntry]], object]) -> None:
    """Save the entries with others between them that are overruled, and with states."""
    numbers = random.Random(7)
    last = 0
    while last < LAST:
        some = numbers.randint(1, 9)
        if numbers.random() < 0.3:
            save(None, [Entry(index, b"overruled") for index in range(last + 1, last + some + 1)])
        save(CommitState(last) if numbers.random() < 0.5 else None, ENTRIES[last : last + some])
        last += len(ENTRIES[last : last + some])


def in_memory(path: Path) -> Iterator[wal.EntrySource]:
    memory = wal.MemoryStorage()
    fill(lambda _, entries: memory.append(entries))
    yield memory


def in_a_log(path: Path) -> Iterator[wal.EntrySource]:
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        fill(log.save)
        yield log


def in_an_opened_log(path: Path, **options: Any) -> Iterator[wal.EntrySource]:
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        fill(log.save)
    with wal.read_wal(path, fs=UNSYNCED, **options).wal as log:
        yield log


def in_an_opened_log_with_an_index(path: Path) -> Iterator[wal.EntrySource]:
    yield from in_an_opened_log(path, index_entries=True)


def in_the_files(path: Path) -> Iterator[wal.EntrySource]:
    for _ in in_a_log(path):
        yield WALReader(path)


def in_a_storage(path: Path) -> Iterator[wal.EntrySource]:
    with wal.open_storage(path, segment_size=SMALL, fs=UNSYNCED)[0] as storage:
        fill(storage.save)
        yield storage


SOURCES = [in_memory, in_a_log, in_an_opened_log, in_an_opened_log_with_an_index, in_the_files, in_a_storage]


@pytest.fixture(params=SOURCES, ids=lambda source: source.__name__.replace("_", " "))
def source(request: pytest.FixtureRequest, path: Path) -> Iterator[wal.EntrySource]:
    yield from request.param(path)


# ----------------------------------------------------------------------------------------------------- one protocol


def test_all_are_entry_sources(source: wal.EntrySource) -> None:
    """They have the methods, and the same entries."""
    assert isinstance(source, wal.EntrySource)
    assert (source.first_index, source.last_index) == (1, LAST)
    assert source.entries(1, LAST + 1) == ENTRIES


def test_each_entry_is_found(source: wal.EntrySource) -> None:
    """In any order; what took the place of others, and not those."""
    for index in random.Random(1).sample(range(1, LAST + 1), LAST):
        assert source.entry(index) == ENTRIES[index - 1]


def test_each_range_is_found(source: wal.EntrySource) -> None:
    """Also across segments, and none at all."""
    numbers = random.Random(2)
    for _ in range(100):
        lo, hi = sorted(numbers.choices(range(1, LAST + 2), k=2))
        assert source.entries(lo, hi) == ENTRIES[lo - 1 : hi - 1]


def test_a_range_is_limited_by_size(source: wal.EntrySource) -> None:
    """As many as fit in, but one at least."""
    for most in (0, 1, 50, 500):
        found = source.entries(10, LAST + 1, most)
        assert found == ENTRIES[9 : 9 + len(found)]
        assert len(found) == 1 or sum(entry.size() for entry in found) <= most
        assert sum(entry.size() for entry in [*found, ENTRIES[9 + len(found)]]) > most
    assert source.entries(5, 5, 0) == []


@pytest.mark.parametrize(
    ("lo", "hi", "error"),
    [
        pytest.param(0, 5, wal.CompactedError, id="before the first"),
        pytest.param(0, 0, wal.CompactedError, id="nothing, before the first"),
        pytest.param(LAST, LAST + 2, wal.UnavailableError, id="behind the last"),
        pytest.param(LAST + 2, LAST + 2, wal.UnavailableError, id="nothing, behind the last"),
        pytest.param(5, 4, ValueError, id="turned round"),
    ],
)
def test_what_is_not_there_is_an_error(source: wal.EntrySource, lo: int, hi: int, error: type[Exception]) -> None:
    """The errors of ``MemoryStorage``, with the index."""
    with pytest.raises(error) as caught:
        source.entries(lo, hi)
    if isinstance(caught.value, (wal.CompactedError, wal.UnavailableError)):
        assert caught.value.index == (lo if error is wal.CompactedError else hi - 1)
    assert source.entries(LAST + 1, LAST + 1) == []


# ---------------------------------------------------------------------------------------------------- as it changes

Step = st.tuples(st.sampled_from(["save", "overrule", "state", "marker", "jump", "reopen", "cut"]), st.integers(1, 60))


@given(steps=st.lists(Step, max_size=30), indexed=st.booleans())
def test_whatever_is_saved_is_found(
    steps: list[tuple[str, int]], indexed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A log and a reader of its files agree with a list, whatever was saved before and between."""
    path = tmp_path_factory.mktemp("entries") / "wal"
    log = wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED)
    reader = WALReader(path)
    numbers = count()
    first, expected = 1, list[LogEntry]()
    for step, number in steps:
        last = first + len(expected) - 1
        if step in ("save", "overrule", "cut"):
            begin = max(first, last + 1 - number) if step == "overrule" else last + 1
            size = SMALL if step == "cut" else number
            new: list[LogEntry] = [Entry(begin + at, b"%d" % next(numbers) * size) for at in range(1 + number % 3)]
            log.save(None, new)
            expected = [*expected[: begin - first], *new]
        elif step == "state":
            log.save_state(CommitState(next(numbers)))
        elif step == "marker":
            log.save_snap(SnapshotMarker(max(last - number, 0)))
        elif step == "jump":  # a snapshot from elsewhere, and the entries behind it
            log.save_snap(SnapshotMarker(log.last_index + number))
            first = log.last_index + 1
            expected = [Entry(first, b"behind")]
            log.save(None, expected)
        else:
            log.close()
            start = SnapshotMarker(first - 1)
            log = wal.read_wal(path, start, segment_size=SMALL, index_entries=indexed, fs=UNSYNCED).wal
        last = first + len(expected)
        for source in (log, reader):
            assert source.entries(first, last) == expected
            with pytest.raises(wal.UnavailableError):
                source.entry(last)
            if first > 1:
                with pytest.raises(wal.CompactedError):
                    source.entry(first - 1)
    log.close()


def test_records_of_the_application_are_found(path: Path) -> None:
    """Entries come back as the registered class, of any form and length."""
    registry = wal.etcd.registry()
    entries = [wal.etcd.Entry(term=index // 9, index=index, data=bytes(index**2)) for index in range(1, 600, 1)]
    with wal.WAL.create(path, segment_size=10 * SMALL, registry=registry, fs=UNSYNCED) as log:
        for begin in range(0, len(entries), 7):
            log.save(None, entries[begin : begin + 7])
        for source in (log, WALReader(path, registry=registry)):
            assert source.entries(1, 600) == entries
            assert [source.entry(index) for index in (1, 599, 300)] == [entries[0], entries[598], entries[299]]


def test_what_is_not_durable_is_not_there(path: Path) -> None:
    """An entry in the middle of its sync cannot be read from the log, nor one that it takes the place of be missed."""
    fs = HeldDisk()
    with wal.WAL.create(path, fs=fs) as log:
        fs.go_on.set()
        log.save(None, [entry(1), entry(2)])
        fs.go_on.clear()
        fs.begun.clear()
        thread = threading.Thread(target=log.save, args=(None, [Entry(2, b"new"), entry(3)]))
        thread.start()
        assert fs.begun.wait(HANG)
        assert log.entries(1, 3) == [entry(1), entry(2)]
        with pytest.raises(wal.UnavailableError):
            log.entry(3)
        fs.go_on.set()
        thread.join()
        assert log.entries(1, 4) == [entry(1), Entry(2, b"new"), entry(3)]


def test_threads_read_while_others_save(path: Path) -> None:
    """Each finds every entry whose save is done."""
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        wrong: list[object] = []
        done = threading.Event()

        def read(source: wal.EntrySource) -> None:
            numbers = random.Random(3)
            while not done.is_set():
                last = log.last_index
                if last:
                    index = numbers.randint(1, last)
                    if source.entry(index) != entry(index):
                        wrong.append(index)

        readers = [threading.Thread(target=read, args=(source,)) for source in (log, log, WALReader(path))]
        for reader in readers:
            reader.start()
        for index in range(1, 500):
            log.save(None, [entry(index)])
        done.set()
        for reader in readers:
            reader.join(HANG)
        assert wrong == []


@pytest.mark.parametrize("saves_between", [1, LAST], ids=["same-segment", "behind-a-cut"])
def test_who_has_asked_first_may_look_last(path: Path, saves_between: int) -> None:
    """A thread that is overtaken between asking how far saves are done and looking sees no damage, and no more."""
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        log.save(None, [entry(1)])
        asked_first = log._saved_up_to
        for index in range(2, 2 + saves_between):
            log.save(None, [entry(index)])
        assert log.entry(1 + saves_between) == entry(1 + saves_between)
        last = 2 + saves_between
        log.save(None, [entry(last)])

        assert log._entries.entries(1, 2, limit=asked_first) == [entry(1)]
        with pytest.raises(wal.UnavailableError):
            log._entries.entries(last, last + 1, limit=asked_first)
        assert log.entry(last) == entry(last)


def test_purged_entries_are_compacted(path: Path) -> None:
    """For a reader, from the first call behind the purge on; for a log, from the release on."""
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        for index in range(1, LAST + 1):
            log.save(CommitState(index), [entry(index)])
        log.save_snap(SnapshotMarker(200))
        reader = WALReader(path)
        assert reader.entry(1) == log.entry(1) == entry(1)
        log.release(SnapshotMarker(200))
        with pytest.raises(wal.CompactedError):
            log.entry(1)
        assert wal.purge(path, SnapshotMarker(200), fs=UNSYNCED)
        with pytest.raises(wal.CompactedError):
            reader.entry(1)
        assert 1 < reader.first_index <= 200
        for source in (log, reader, WALReader(path, SnapshotMarker(200))):
            assert source.entry(source.first_index).index == source.first_index
            assert source.entries(200, LAST + 1) == ENTRIES[199:]


def test_a_reader_that_was_left_behind_begins_anew(path: Path) -> None:
    """What it noted is gone, and what follows, too: it finds what is there."""
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        log.save(CommitState(1), [entry(1)])
        reader = WALReader(path)
        assert reader.last_index == 1
        for index in range(2, LAST + 1):
            log.save(CommitState(index), [entry(index)])
        log.save_snap(SnapshotMarker(LAST))
        log.release(SnapshotMarker(LAST))
        assert len(wal.purge(path, SnapshotMarker(LAST), fs=UNSYNCED)) > 1
        assert reader.last_index == LAST
        assert reader.entry(LAST) == entry(LAST)


def test_a_storage_has_the_entries_behind_its_snapshot(path: Path) -> None:
    """They are found by their indexes after a snapshot, a release and a restart."""
    storage, _ = wal.open_storage(path, segment_size=SMALL, fs=UNSYNCED)
    with storage:
        fill(storage.save)
        storage.save_state(CommitState(LAST))
        storage.save_snap(SnapshotData(250, b"state"))
        storage.save_snap(SnapshotData(260, b"state"))
        storage.release(SnapshotMarker(260))
    with wal.open_storage(path, index_entries=True, fs=UNSYNCED)[0] as storage:
        assert storage.entries(261, LAST + 1) == ENTRIES[260:]
        assert storage.first_index > 1


# ------------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize("alone", [True, False], ids=["one", "a range"])
def test_damage_is_found_when_it_is_read(path: Path, alone: bool) -> None:
    """Each entry's CRC is checked by itself: a flipped bit in it is told with its place, and the others are there."""
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        for index in range(1, 50):
            log.save(CommitState(index), [entry(index, 10)])
    reader = WALReader(path)
    records = {record.value: record for record in reader}
    place = records[entry(20, 10)]
    assert reader.entry(20) == entry(20, 10)
    for bit in range(8 * 8 * 4):
        at = place.offset + bit // 8
        if bit // 8 == 7:
            continue  # the mark, which says nothing of the entry
        flip_bit(place.path, 8 * place.offset + bit)
        with pytest.raises(wal.CorruptionError) as caught:
            if alone:
                reader.entry(20)
            else:
                reader.entries(15, 30)
        assert (caught.value.path, caught.value.offset) == (place.path, place.offset), at
        assert reader.entries(1, 20) == [entry(index, 10) for index in range(1, 20)]
        flip_bit(place.path, 8 * place.offset + bit)
    assert reader.entry(20) == entry(20, 10)


def test_a_log_that_is_damaged_is_not_taken_for_a_short_one(path: Path) -> None:
    """The first call, which finds the entries, raises what reading it all would."""
    with wal.WAL.create(path, fs=UNSYNCED) as log:
        for index in range(1, 50):
            log.save(None, [entry(index)])
    reader = WALReader(path)
    place = next(record for record in reader if record.value == entry(20))
    overwrite(place.path, place.offset, bytes(8))
    for _ in range(2):
        with pytest.raises(wal.CorruptionError):
            reader.entry(1)


def test_a_closed_log_is_closed(path: Path) -> None:
    """Also for reading; one that was not read yet must be; and a forked child cannot use it."""
    with wal.WAL.create(path, fs=UNSYNCED) as log:
        log.save(None, [entry(1)])
        with Child(lambda: log.entry(1)) as child:
            assert child.wait() == "WALClosedError"
    with pytest.raises(wal.WALClosedError):
        log.entry(1)
    with wal.WAL.open(path, fs=UNSYNCED) as log, pytest.raises(wal.NotReadError):
        log.entry(1)


def test_a_log_that_is_dropped_is_freed_at_once(path: Path) -> None:
    """Nothing refers to it in a circle, so that it warns, and its locks are free, without the garbage collector."""
    gc.disable()
    try:
        log = wal.WAL.create(path, fs=UNSYNCED)
        log.save(None, [entry(1)])
        assert log.entry(1) == entry(1)
        with pytest.warns(ResourceWarning, match="dropped without close"):
            del log
        wal.read_wal(path, fs=UNSYNCED).wal.close()
    finally:
        gc.enable()


# ---------------------------------------------------------------------------------------------------------- its costs


def test_the_index_takes_less_than_nine_bytes_an_entry(path: Path) -> None:
    """However the entries came."""
    with wal.WAL.create(path, sync=False) as log:
        for begin in range(1, 100_001, 1000):
            log.save(None, [Entry(index) for index in range(begin, begin + 1000)])
        reader = WALReader(path)
        assert reader.last_index == 100_000
        replay = reader._entries._replay
        assert replay is not None
        assert replay.index is not None
        assert replay.index.__sizeof__() < 900_000


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many bytes each read from here on asks for."""
    asked: list[int] = []
    pread = OperatingSystem.pread

    def noted(fs: OperatingSystem, fd: int, length: int, offset: int) -> bytes:
        asked.append(length)
        return pread(fs, fd, length, offset)

    monkeypatch.setattr(OperatingSystem, "pread", noted)
    return asked


@pytest.mark.parametrize("index_entries", [True, False])
def test_what_was_noted_while_reading_is_not_read_again(
    path: Path, index_entries: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``index_entries`` the first call reads its entry, and without it the log."""
    with wal.WAL.create(path, fs=UNSYNCED) as log:
        log.save(None, [entry(index, 100) for index in range(1, 10_000)])
    with wal.read_wal(path, index_entries=index_entries, fs=UNSYNCED).wal as log:
        read = reads(monkeypatch)
        assert log.entry(5000) == entry(5000, 100)
        assert (sum(read) < 10_000) is index_entries


def test_large_ranges_are_read_by_chunks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a limit leaves out is read up to one chunk and one entry at most."""
    with wal.WAL.create(path, fs=UNSYNCED) as log:
        log.save(None, [Entry(index, bytes(100_000)) for index in range(1, 101)])
    reader = WALReader(path)
    assert reader.last_index == 100
    read = reads(monkeypatch)
    assert len(reader.entries(1, 101, 250_000)) == 2
    assert max(read) <= 1 << 18
    assert sum(read) < 4 << 18
