"""Group commit: saves that are submitted while another one is under way share one write and one sync."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wal
from faults import FaultyFileSystem
from logs import HANG, SMALL, Disk, HeldDisk, in_child, read, segments
from unsynced import UNSYNCED
from wal import CommitState, Entry, SnapshotMarker


def entry(index: int, size: int = 5) -> Entry:
    return Entry(index, bytes([index % 256]) * size)


@pytest.fixture
def held(path: Path) -> Iterator[tuple[wal.WAL, HeldDisk, threading.Thread]]:
    """A log in which a thread's save of entry 1 is in the middle of its sync."""
    fs = HeldDisk()
    with wal.WAL.create(path, fs=fs) as log:
        fs.writes.clear()
        thread = threading.Thread(target=log.save, args=(None, [entry(1)]))
        thread.start()
        assert fs.begun.wait(HANG)
        yield log, fs, thread
        fs.go_on.set()
        thread.join()


# ------------------------------------------------------------------------------------------------------ one group


@pytest.mark.parametrize("waited_for", [0, 7, 19], ids=["the first", "one in the middle", "the last"])
def test_what_was_submitted_is_one_write_and_one_sync(path: Path, waited_for: int) -> None:
    """Whichever of twenty saves is waited for, its sync is that of all."""
    fs = Disk()
    with wal.WAL.create(path, fs=fs) as log:
        pending = [log.submit(CommitState(index), [entry(index)]) for index in range(1, 21)]
        assert not any(save.done for save in pending)
        assert (log.last_index, log.state) == (0, CommitState(0))
        before = len(fs.calls)

        pending[waited_for].wait()

        assert [name for name, _ in fs.calls[before:]] == ["pwrite", "fdatasync"]
        assert all(save.done for save in pending)
        assert (log.last_index, log.state) == (20, CommitState(20))
        for save in pending:
            save.wait()
        assert len(fs.calls) == before + 2
    assert read(path).entries == [entry(index) for index in range(1, 21)]


def test_saves_that_come_during_a_sync_share_the_next_one(held: tuple[wal.WAL, HeldDisk, threading.Thread]) -> None:
    """Thirty threads submit while the disk is busy: their saves are one write, in the order of their calls."""
    log, fs, first = held
    numbering = threading.Lock()
    last = 1
    submitted = threading.Semaphore(0)

    def save() -> None:
        nonlocal last
        with numbering:
            last += 1
            pending = log.submit(None, [entry(last)])
        submitted.release()
        pending.wait()

    threads = [threading.Thread(target=save) for _ in range(30)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert submitted.acquire(timeout=HANG)
    assert log.last_index == 0
    fs.go_on.set()
    for thread in [first, *threads]:
        thread.join(HANG)

    assert log.last_index == 31
    assert len(fs.writes) == 2
    assert read(log.path).entries == [entry(index) for index in range(1, 32)]


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(wal.WAL.sync, id="sync"),
        pytest.param(wal.WAL.close, id="close"),
        pytest.param(lambda log: log.save_state(CommitState(3)), id="save"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(3)), id="save_snap"),
        pytest.param(lambda log: log.save(None, None), id="a save of nothing"),
    ],
)
@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
def test_who_comes_later_does_what_nobody_waited_for(path: Path, end: Callable[[wal.WAL], None], sync: bool) -> None:
    """Submitted saves stand in front of all that comes later."""
    with wal.WAL.create(path, sync=sync) as log:
        pending = [log.submit(None, [entry(index)]) for index in (1, 2, 3)]
        end(log)
        assert all(save.done for save in pending)
        for save in pending:
            save.wait()
    assert read(path).entries == [entry(1), entry(2), entry(3)]


def test_a_state_that_is_on_its_way_is_waited_for(held: tuple[wal.WAL, HeldDisk, threading.Thread]) -> None:
    """P1: saving what another thread is just saving returns when that is durable, not before."""
    log, fs, _ = held
    submitted = log.submit(CommitState(1), None)
    returned = threading.Event()

    def save() -> None:
        log.save(CommitState(1), None)
        assert submitted.done
        returned.set()

    thread = threading.Thread(target=save)
    thread.start()
    assert not returned.wait(0.05)
    fs.go_on.set()
    thread.join(HANG)
    assert returned.is_set()
    assert log.state == CommitState(1)


def test_several_threads_may_wait_for_one_save(held: tuple[wal.WAL, HeldDisk, threading.Thread]) -> None:
    """All of them return."""
    log, fs, _ = held
    pending = log.submit(None, [entry(2)])
    threads = [threading.Thread(target=pending.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    fs.go_on.set()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive()
    assert log.last_index == 2


def test_who_waits_sleeps(held: tuple[wal.WAL, HeldDisk, threading.Thread], monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that has to wait lies down once, and does not ask again and again."""
    log, fs, _ = held
    monkeypatch.setattr(wal._turns, "LONGEST_SLEEP_S", HANG)
    asleep = threading.Semaphore(0)
    sleep = log._turns._sleep

    def counted(save: wal.PendingSave) -> None:
        asleep.release()
        sleep(save)

    monkeypatch.setattr(log._turns, "_sleep", counted)
    thread = threading.Thread(target=log.submit(None, [entry(2)]).wait)
    thread.start()
    assert asleep.acquire(timeout=HANG)
    assert not asleep.acquire(timeout=0.05)
    fs.go_on.set()
    thread.join(HANG)
    assert log.last_index == 2


# --------------------------------------------------------------------------------------------------------- order


def test_an_index_follows_what_was_submitted(path: Path) -> None:
    """Indexes are checked against the saves in front, done or not; what is refused is not in the line."""
    with wal.WAL.create(path) as log:
        log.submit(None, [entry(1), entry(2)])
        with pytest.raises(wal.IndexOrderError):
            log.submit(None, [entry(4)])
        log.submit(None, [entry(2, 9), entry(3)])
        log.submit(None, [entry(4)]).wait()
    assert read(path).entries == [entry(1), entry(2, 9), entry(3), entry(4)]


SAVES = st.lists(st.lists(st.integers(0, 3000), max_size=5), max_size=12)


@given(saves=SAVES, waits=st.sets(st.integers(0, 11)), sync=st.booleans())
def test_segments_end_where_they_would_without_groups(
    tmp_path_factory: pytest.TempPathFactory, saves: list[list[int]], waits: set[int], sync: bool
) -> None:
    """However saves fall into groups, the segments hold what they would if each save were made by itself."""
    root = tmp_path_factory.mktemp("groups")
    kept: list[list[tuple[str, list[wal.LogRecord]]]] = []
    for grouped in (False, True):
        path = root / str(grouped)
        with wal.WAL.create(path, segment_size=SMALL, sync=sync, fs=UNSYNCED) as log:
            index = 0
            for number, sizes in enumerate(saves):
                first, index = index + 1, index + len(sizes)
                entries = [entry(at, size) for at, size in enumerate(sizes, first)]
                pending = log.submit(CommitState(number) if number % 3 == 0 else None, entries)
                if number in waits or not grouped:
                    pending.wait()
        records = [record._replace(path=Path(record.path.name)) for record in wal.WALReader(path)]
        kept.append([(segment.name, records) for segment in segments(path)])
    assert kept[0] == kept[1]


def test_a_group_has_a_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of any length is written in parts; a save that is longer is a part by itself."""
    monkeypatch.setattr(wal._wal, "GROUP_BYTES", 1000)
    fs = Disk()
    with wal.WAL.create(path, fs=fs) as log:
        sizes = [300, 300, 5000, 10, 10, 10, 2000, 2000]
        for index, size in enumerate(sizes, 1):
            pending = log.submit(None, [entry(index, size)])
        before = len(fs.calls)
        pending.wait()
        written = fs.calls[before:]
    assert [name for name, _ in written] == ["pwrite", "fdatasync"] * 3
    assert read(path).entries == [entry(index, size) for index, size in enumerate(sizes, 1)]


# ------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_all_of_a_group_and_all_behind_it_fail_together(path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P5: those whose group failed, those who wait for the next one, and those who come later; with one cause."""
    monkeypatch.setattr(wal._wal, "GROUP_BYTES", 100)
    fs = FaultyFileSystem()
    with wal.WAL.create(path, fs=fs) as log:
        log.save(None, [entry(1)])
        pending = [log.submit(None, [entry(index, 60)]) for index in range(2, 10)]
        fs.fail(call, error=5)
        for save in reversed(pending):
            with pytest.raises(wal.WALFailedError) as caught:
                save.wait()
            assert isinstance(caught.value.__cause__, OSError)
            assert save.done
        with pytest.raises(wal.WALFailedError):
            log.submit(None, [entry(10)])
        with pytest.raises(wal.WALFailedError):
            log.sync()
        assert log.last_index == 1
    assert read(path).entries[:1] == [entry(1)]


def test_a_thread_that_waits_is_told_of_the_failure_of_another(
    held: tuple[wal.WAL, HeldDisk, threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5: the sync of one thread fails; the others, asleep meanwhile, are not told of success."""
    log, fs, first = held
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    failed: list[BaseException | None] = []

    def wait(pending: wal.PendingSave) -> None:
        with pytest.raises(wal.WALFailedError) as caught:
            pending.wait()
        failed.append(caught.value.__cause__)

    def fails(fd: int) -> None:
        raise OSError(5, "the disk gives up")

    threads = [threading.Thread(target=wait, args=(log.submit(None, [entry(index)]),)) for index in range(2, 6)]
    for thread in threads:
        thread.start()
    monkeypatch.setattr(fs, "fdatasync", fails)
    fs.go_on.set()
    for thread in [first, *threads]:
        thread.join(HANG)
    assert [str(cause) for cause in failed] == ["[Errno 5] the disk gives up"] * 4


class Interrupt(Exception):
    """What a signal handler raises."""


@pytest.fixture
def _interrupts() -> Iterator[None]:
    def handler(number: int, frame: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, handler)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("_interrupts")
def test_an_interrupt_ends_the_waiting_and_not_the_save(held: tuple[wal.WAL, HeldDisk, threading.Thread]) -> None:
    """A thread that sleeps is interrupted: its save is done in its turn, and so are those behind it."""
    log, fs, first = held
    pending = log.submit(None, [entry(2)])
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        while not log._turns._asleep:
            pass
        signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupt):
        pending.wait()
    thread.join()
    later = log.submit(None, [entry(3)])
    fs.go_on.set()
    later.wait()
    first.join()
    assert pending.done
    assert read(log.path).entries == [entry(1), entry(2), entry(3)]


def test_a_lost_wake_up_delays_and_does_not_hang(
    held: tuple[wal.WAL, HeldDisk, threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was woken to go on is interrupted just then: the next one finds the turn free by himself."""
    log, fs, first = held
    monkeypatch.setattr(wal._turns, "LONGEST_SLEEP_S", 0.01)
    pending = [log.submit(None, [entry(index)]) for index in (2, 3)]
    log._turns._sleep(pending[0])  # sleeps, wakes up, and goes away
    thread = threading.Thread(target=pending[1].wait)
    thread.start()
    fs.go_on.set()
    thread.join(HANG)
    assert not thread.is_alive()
    first.join()
    assert log.last_index == 3


def test_a_forked_child_does_not_wait(held: tuple[wal.WAL, HeldDisk, threading.Thread]) -> None:
    """The turn may be taken for ever in a child: it is told that the log is not its own."""
    log, _, _ = held
    pending = log.submit(None, [entry(2)])

    def child() -> None:
        for call in (pending.wait, log.sync, lambda: log.submit(None, [entry(3)])):
            with pytest.raises(wal.WALClosedError, match=str(os.getppid())):
                call()

    in_child(child)


def test_a_pending_save_says_what_it_is(path: Path) -> None:
    """Its ``repr`` is one line."""
    fs = FaultyFileSystem()
    with wal.WAL.create(path, fs=fs) as log:
        pending = log.submit(None, [entry(1)])
        assert repr(pending) == "<PendingSave pending>"
        pending.wait()
        assert repr(pending) == "<PendingSave done>"
        pending = log.submit(None, [entry(2)])
        fs.fail("fdatasync")
        with pytest.raises(wal.WALFailedError):
            pending.wait()
        assert repr(pending) == "<PendingSave failed>"
