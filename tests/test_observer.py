"""Observers are told what is done, when it is done, in its order; and whatever they do, the log goes on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import shutil
import threading
from collections.abc import Callable
from itertools import count, dropwhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wal
import wal.aio
from clocks import TimedDisk
from damage import overwrite, unstamp
from faults import FaultyFileSystem
from logs import (
    HANG,
    SMALL,
    Disk,
    Frame,
    HeldDisk,
    Interrupt,
    comes_to_its_end,
    frames,
    in_child,
    indexes,
    logged,
    read,
    segments,
)
from unsynced import UNSYNCED
from wal import CommitState, Entry, GroupCommit, SegmentCut, SnapshotData, SnapshotMarker, SnapshotSave

METHODS = ("committed", "synced", "cut", "repaired", "failed", "purged", "saved_snapshot")


class Told(wal.Observer):
    """Keeps what it is told, and does what a test wants it to do then."""

    def __init__(self, react: Callable[[str, Any], object] = lambda name, value: None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.react = react

    def _hear(self, name: str, value: Any) -> None:
        self.calls.append((name, value))
        self.react(name, value)

    def committed(self, group: GroupCommit) -> None:
        self._hear("committed", group)

    def synced(self, seconds: float) -> None:
        self._hear("synced", seconds)

    def cut(self, cut: SegmentCut) -> None:
        self._hear("cut", cut)

    def repaired(self, report: wal.RepairReport) -> None:
        self._hear("repaired", report)

    def failed(self, error: BaseException) -> None:
        self._hear("failed", error)

    def purged(self, segments: list[str]) -> None:
        self._hear("purged", segments)

    def saved_snapshot(self, snapshot: SnapshotSave) -> None:
        self._hear("saved_snapshot", snapshot)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def of(self, name: str) -> list[Any]:
        """Return what calls of this name were told."""
        return [value for called, value in self.calls if called == name]


class Raising:
    """A reaction that raises when it hears of some kinds of things."""

    def __init__(self, error: type[BaseException], *names: str) -> None:
        self.error = error
        self.names = names or METHODS

    def __call__(self, name: str, value: Any) -> None:
        if name in self.names:
            raise self.error(name)


def torn(path: Path) -> None:
    """Make a log that ends in a torn write."""
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        log.save(CommitState(1), [Entry(1, b"whole")])
    (segment,) = segments(path)
    unstamp(segment)
    overwrite(segment, wal.verify(path).bytes, b"\xff" * 40)


def a_life(root: Path, observer: wal.Observer, fs: wal.FileSystem) -> None:
    """Do everything that observers are told of, but for failures."""
    torn(root / "wal")
    storage, _ = wal.open_storage(
        root, segment_size=SMALL, retention=wal.Retention(snapshots=1), observer=observer, fs=fs
    )
    with storage:
        for index in range(2, 6):
            storage.save(CommitState(index), [Entry(index, b"x" * SMALL)])
        snapshot = SnapshotData(5, b"state")
        storage.save_snap(snapshot)
        storage.release(snapshot)


# --------------------------------------------------------------------------------------------------------- what is told


def test_a_save_is_told_of_with_its_size_and_times(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sync comes first, by itself; then the group, with the bytes that it takes in the file."""
    observer, fs = Told(), TimedDisk(monkeypatch, pwrite=0.25, fdatasync=2.5)
    with wal.WAL.create(path, slow_sync_s=None, observer=observer, fs=fs) as log:
        assert observer.calls == []
        before = sum(frame.length for frame in frames(segments(path)[0]))

        log.save(CommitState(3), [Entry(1, b"a"), Entry(2, b"b"), Entry(3, b"c")])

        written = sum(frame.length for frame in frames(segments(path)[0])) - before
        assert observer.calls == [("synced", 2.5), ("committed", GroupCommit(1, 4, written, 0.25))]


@pytest.mark.parametrize("call", ["sync", "close"])
def test_without_a_sync_for_each_save_that_of_all_is_told_of(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``sync=False`` a save is told of when it is handed over; a sync when there is one, and something to sync."""
    observer, fs = Told(), TimedDisk(monkeypatch, fdatasync=0.5)
    with wal.WAL.create(path, sync=False, observer=observer, fs=fs) as log:
        log.save_entry([Entry(1)])
        log.save_entry([Entry(2)])
        assert observer.names == ["committed", "committed"]

        getattr(log, call)()
        assert observer.calls[2:] == [("synced", 0.5)]
        log.sync() if call == "sync" else log.close()
        assert len(observer.calls) == 3


def test_saves_that_share_a_sync_are_one_group(path: Path) -> None:
    """Twenty saves that one thread waits for at once are told of once, as twenty."""
    observer = Told()
    with wal.WAL.create(path, observer=observer, fs=Disk()) as log:
        pending = [log.submit(None, [Entry(index), Entry(index + 1)]) for index in range(1, 40, 2)]
        assert observer.calls == []
        pending[7].wait()

    assert observer.names == ["synced", "committed"]
    (group,) = observer.of("committed")
    assert (group.saves, group.records) == (20, 40)


def test_saves_of_nothing_are_not_told_of(path: Path) -> None:
    """Nothing is written for them."""
    observer = Told()
    with wal.WAL.create(path, observer=observer, fs=Disk()) as log:
        log.save(None, None)
        log.sync()
    assert observer.calls == []


def test_a_cut_is_told_of_before_the_save_that_it_was_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the new segment, the length of the one before it, and how long all of it took."""
    observer, fs = Told(), TimedDisk(monkeypatch, truncate=1, fsync=2, allocate=4, pwrite=8, rename=16)
    with wal.WAL.create(path, segment_size=SMALL, slow_sync_s=None, observer=observer, fs=fs) as log:
        log.save_entry([Entry(1, b"x" * SMALL)])
        observer.calls.clear()
        log.save_entry([Entry(2)])
        old, new = segments(path)

        assert observer.names == ["cut", "synced", "committed"]
        # The old segment is truncated and synced; the new one is allocated, written, synced, renamed, its name synced.
        assert observer.of("cut") == [SegmentCut(new, old.stat().st_size, 1 + 2 + 4 + 8 + 2 + 16 + 2)]


def behind_the_head(segment: Path) -> list[Frame]:
    """Return the frames from the first entry on."""
    return list(dropwhile(lambda frame: frame.type is not wal.RecordType.ENTRY, frames(segment)))


@settings(deadline=None)
@given(
    saves=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2000), st.booleans()), max_size=12),
    waits=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_what_is_told_adds_up_to_what_is_on_disk(
    tmp_path_factory: pytest.TempPathFactory, saves: list[tuple[int, int, bool]], waits: list[bool]
) -> None:
    """Over cuts and groups: all saves, all records and all bytes but those of the segments' heads, each once."""
    path = tmp_path_factory.mktemp("logs") / "wal"
    observer, last = Told(), 0
    with wal.WAL.create(path, segment_size=SMALL, observer=observer, fs=UNSYNCED) as log:
        for number, (entries, size, state) in enumerate(saves):
            new = [Entry(index, b"x" * size) for index in range(last + 1, last + 1 + entries)]
            last += entries
            pending = log.submit(CommitState(last) if state else None, new)
            if waits[number]:
                pending.wait()
        log.sync()
        groups = observer.of("committed")
        written = [frame for segment in segments(path) for frame in behind_the_head(segment)]

        assert sum(group.saves for group in groups) == len(saves)
        assert sum(group.records for group in groups) == len(written)
        assert sum(group.bytes for group in groups) == sum(frame.length for frame in written)
        assert [cut.path for cut in observer.of("cut")] == segments(path)[1:]
        assert [cut.bytes for cut in observer.of("cut")] == [file.stat().st_size for file in segments(path)[:-1]]
        assert len(observer.of("synced")) == len(groups)
    shutil.rmtree(path)


def test_a_repair_is_told_of(path: Path) -> None:
    """With the report that ``repaired`` has, and once."""
    torn(path)
    observer = Told()
    log = wal.read_wal(path, observer=observer, fs=UNSYNCED).wal
    log.close()

    assert observer.calls == [("repaired", log.repaired)]


def test_what_a_storage_removes_and_saves_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The segments by their names, the snapshot with its times."""
    observer, fs = Told(), TimedDisk(monkeypatch)
    before: list[str] = []
    observer.react = lambda name, _: before.extend(file.name for file in segments(tmp_path / "wal"))

    a_life(tmp_path, observer, fs)

    assert observer.names[0] == "repaired"
    assert set(observer.names) == set(METHODS) - {"failed"}
    assert set(observer.names[-2:]) <= {"purged", "committed", "synced"}
    (removed,) = observer.of("purged")
    assert removed
    assert set(removed) == set(before) - {file.name for file in segments(tmp_path / "wal")}


@pytest.mark.parametrize("database", [False, True])
def test_a_snapshot_is_told_of(tmp_path: Path, database: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is durable, with how long its sync took, and all of it."""
    observer, fs = Told(), TimedDisk(monkeypatch, pwrite=1, fsync=10, rename=100)
    snapshots = wal.Snapshotter(tmp_path, observer=observer, fs=fs)
    if database:
        with (tmp_path / "source").open("wb+") as source:
            source.write(b"x" * 100)
            source.seek(0)
            path = snapshots.save_db_from(source, 7)
    else:
        path = snapshots.save(SnapshotData(7, b"state"))

    # The parent is synced at the first save; behind the rename, the directory.
    assert observer.calls == [
        ("saved_snapshot", SnapshotSave(path, path.stat().st_size, database, 10, 10 + 1 + 10 + 100 + 10))
    ]


def test_a_snapshot_that_failed_is_not_told_of(tmp_path: Path) -> None:
    """Nothing was saved."""
    fs, observer = FaultyFileSystem(), Told()
    fs.fail("fsync", persistent=True)
    with pytest.raises(OSError, match="Input/output"):
        wal.Snapshotter(tmp_path, observer=observer, fs=fs).save(SnapshotData(7, b"state"))
    assert observer.calls == []


def test_what_was_removed_is_told_of_when_the_storage_is_free_again(tmp_path: Path) -> None:
    """An observer of the purge may call the storage."""
    storage, _ = wal.open_storage(
        tmp_path, segment_size=SMALL, observer=(observer := Told()), retention=wal.Retention(1), fs=UNSYNCED
    )
    with storage:
        storage.save(CommitState(1), [Entry(1, b"x" * SMALL)])
        storage.save(CommitState(2), [Entry(2)])
        storage.save_snap(SnapshotData(2, b"state"))
        observer.react = lambda name, _: storage.release(SnapshotMarker(2)) if name == "purged" else None
        assert comes_to_its_end(lambda: storage.release(SnapshotMarker(2)))
    assert observer.names.count("purged") == 1


def test_nothing_removed_is_not_told_of(tmp_path: Path) -> None:
    """A release that finds nothing superfluous."""
    observer = Told()
    storage, _ = wal.open_storage(tmp_path, observer=observer, fs=UNSYNCED)
    with storage:
        storage.save(CommitState(1), [Entry(1)])
        storage.save_snap(SnapshotData(1, b"state"))
        storage.release(SnapshotMarker(1))
    assert "purged" not in observer.names


def test_a_log_may_be_opened_with_an_observer(path: Path) -> None:
    """``WAL.open`` takes one, too."""
    wal.WAL.create(path, fs=UNSYNCED).close()
    observer = Told()
    with wal.WAL.open(path, observer=observer, fs=UNSYNCED) as log:
        log.read_all()
        log.save_entry([Entry(1)])
    assert observer.names == ["synced", "committed"]


def test_one_observer_may_be_told_of_several_logs(tmp_path: Path) -> None:
    """Whoever wants to tell them apart makes one for each."""
    observer = Told()
    for name in ("a", "b"):
        with wal.WAL.create(tmp_path / name, observer=observer, fs=UNSYNCED) as log:
            log.save_entry([Entry(1)])
    assert observer.names == ["synced", "committed"] * 2


@pytest.mark.parametrize("observer", [wal.Observer, object(), print], ids=["the class", "something else", "a function"])
def test_what_is_no_observer_is_refused(tmp_path: Path, observer: Any) -> None:
    """At once, and nothing is made."""
    calls: list[Callable[[], object]] = [
        lambda: wal.WAL.create(tmp_path / "wal", observer=observer),
        lambda: wal.open_storage(tmp_path / "storage", observer=observer),
        lambda: wal.Snapshotter(tmp_path / "snap", observer=observer),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"is not a wal\.Observer"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_an_observer_overrides_what_it_wants_to_know(tmp_path: Path) -> None:
    """All methods are there and do nothing."""
    with logged() as messages:
        a_life(tmp_path, wal.Observer(), UNSYNCED)
    assert [message for message in messages if "has raised" in message] == []
    for name in METHODS:
        assert getattr(wal.Observer(), name)(None) is None


# ------------------------------------------------------------------------------------------------------- when and where


def test_what_is_told_of_is_done(path: Path) -> None:
    """When ``committed`` is called its saves are done, on disk and known; when ``failed`` is, all have failed."""
    pending: list[wal.PendingSave] = []

    def look(name: str, value: Any) -> None:
        if name == "committed":
            assert all(save.done for save in pending)
            assert log.last_index == len(pending)
            assert indexes(path) == list(range(1, len(pending) + 1))
        elif name == "failed":
            assert repr(pending[-1]) == "<PendingSave failed>"
            assert repr(log) == f"<WAL {str(path)!r} failed>"

    observer, fs = Told(look), FaultyFileSystem()
    with wal.WAL.create(path, observer=observer, fs=fs) as log, logged() as messages:
        pending += [log.submit(None, [Entry(index)]) for index in (1, 2, 3)]
        pending[0].wait()
        fs.fail("fdatasync")
        pending.append(log.submit(None, [Entry(4)]))
        with pytest.raises(wal.WALFailedError):
            pending[-1].wait()

    assert observer.names == ["synced", "committed", "failed"]
    assert not any("has raised" in message for message in messages)


def test_others_in_the_group_do_not_wait_for_the_observer(path: Path) -> None:
    """A thread whose save another thread has committed goes on while that one's observer still has not returned."""
    entered, go_on = threading.Event(), threading.Event()

    def hold(name: str, value: Any) -> None:
        if name == "synced" and observer.names.count("synced") == 2:
            entered.set()
            assert go_on.wait(HANG)

    observer, fs = Told(hold), HeldDisk()
    with wal.WAL.create(path, observer=observer, fs=fs) as log:
        first = threading.Thread(target=log.save_entry, args=([Entry(1)],))
        first.start()
        assert fs.begun.wait(HANG)
        others = [log.submit(None, [Entry(index)]) for index in range(2, 7)]
        home = threading.Semaphore(0)

        def wait_for(save: wal.PendingSave) -> None:
            save.wait()
            home.release()

        threads = [threading.Thread(target=wait_for, args=(save,)) for save in others]
        for thread in threads:
            thread.start()
        fs.go_on.set()
        assert entered.wait(HANG)
        for _ in others[1:]:
            assert home.acquire(timeout=HANG)
        assert not home.acquire(blocking=False)  # this one has the turn, and is in the observer
        go_on.set()
        for thread in [first, *threads]:
            thread.join(HANG)


def test_calls_for_a_log_do_not_overlap(path: Path) -> None:
    """However many threads save: one call at a time, a group's sync and then the group."""
    inside = threading.Lock()

    def alone(name: str, value: Any) -> None:
        assert inside.acquire(blocking=False)
        inside.release()

    def save() -> None:
        for _ in range(30):
            with numbering:
                pending = log.submit(None, [Entry(next(numbers))])
            pending.wait()

    observer, numbering, numbers = Told(alone), threading.Lock(), count(1)
    with wal.WAL.create(path, segment_size=SMALL, observer=observer, fs=UNSYNCED) as log, logged() as messages:
        threads = [threading.Thread(target=save) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG)

    assert messages == []
    assert sum(group.saves for group in observer.of("committed")) == 240
    assert [name for name in observer.names if name != "cut"] == ["synced", "committed"] * len(observer.of("synced"))


@pytest.mark.parametrize(
    ("call", "refused_anyway"),
    [
        pytest.param(lambda log: log.save_entry([Entry(2)]), True, id="save"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(1)), True, id="save_snap"),
        pytest.param(wal.WAL.sync, True, id="sync"),
        pytest.param(lambda log: log.release(SnapshotMarker(1)), False, id="release"),
        pytest.param(wal.WAL.close, False, id="close"),
    ],
)
@pytest.mark.parametrize("name", ["synced", "committed", "failed"])
def test_an_observer_that_calls_the_log_is_told_so(
    path: Path, name: str, call: Callable[[wal.WAL], None], refused_anyway: bool
) -> None:
    """
    It would wait for itself. Afterwards the log may be called as if nothing had been; one that has stopped refuses what
    it always refuses.
    """
    raised: list[str] = []

    def react(told: str, value: Any) -> None:
        if told == name and not raised:
            try:
                call(log)
            except (RuntimeError, wal.WALError) as error:
                raised.append(type(error).__name__)

    fs = FaultyFileSystem()
    log = wal.WAL.create(path, sync=name != "synced", observer=Told(react), fs=fs)

    def run() -> None:
        with logged(), contextlib.suppress(wal.WALFailedError):
            if name == "failed":
                fs.fail("fdatasync")
            log.save_entry([Entry(1)])
            log.sync()
        if name != "failed":
            log.close()

    assert comes_to_its_end(run)
    assert comes_to_its_end(log.close)
    assert raised == (["WALFailedError"] if name == "failed" and refused_anyway else ["RuntimeError"])


def test_an_asynchronous_log_tells_in_its_own_thread(path: Path) -> None:
    """The event loop goes on meanwhile; what happens when the log is opened is told in another thread, too."""
    torn(path)
    names: set[tuple[str, bool]] = set()
    observer = Told(lambda name, _: names.add((name, threading.current_thread() is threading.main_thread())))

    async def main() -> None:
        log, *_ = await wal.aio.read_wal(path, observer=observer, fs=UNSYNCED)
        async with log:
            await asyncio.gather(*(log.save(None, [Entry(index)]) for index in range(2, 20)))

    asyncio.run(main())
    assert names == {("repaired", False), ("synced", False), ("committed", False)}
    assert sum(group.saves for group in observer.of("committed")) == 18


def test_a_forked_child_tells_nothing(path: Path) -> None:
    """What happens in the parent is told in the parent."""
    observer = Told()
    with wal.WAL.create(path, observer=observer, sync=False, fs=UNSYNCED) as log:
        log.save_entry([Entry(1)])

        def close() -> list[str]:
            log.close()
            return observer.names

        assert in_child(close) == "['committed']"


# ------------------------------------------------------------------------------------------------------------- it fails


@pytest.mark.parametrize("error", [ValueError, OSError, wal.WALFailedError, MemoryError])
def test_an_observer_that_raises_does_no_harm(
    tmp_path: Path, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """The log does all that it would do; the first error of each method is logged, with its traceback."""
    raising = Told(Raising(error) if error is not wal.WALFailedError else fail_as_a_log)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a_life(tmp_path / "b", wal.Observer(), UNSYNCED)
    caplog.clear()

    a_life(tmp_path / "a", raising, UNSYNCED)

    complaints = [record for record in caplog.records if record.__dict__["wal_event"] == "listener_failed"]
    assert {complaint.__dict__["wal_listener"] for complaint in complaints} == {
        f"Told.{name}" for name in raising.names
    }
    assert len(complaints) == len(set(raising.names)) < len(raising.names)
    assert all(complaint.exc_info and complaint.exc_info[0] is error for complaint in complaints)
    for name in ("wal", "snap"):
        left, right = (
            {file.name: file.read_bytes() for file in sorted((tmp_path / root / name).iterdir())} for root in "ab"
        )
        assert left == right


def fail_as_a_log(name: str, value: Any) -> None:
    raise wal.WALFailedError(Path("another log"), "which has stopped")


def test_an_observer_that_raises_at_a_failure_hides_nothing(path: Path) -> None:
    """The save raises what it would raise."""
    fs = FaultyFileSystem()
    with wal.WAL.create(path, observer=Told(Raising(ValueError)), fs=fs) as log:
        fs.fail("fdatasync")
        with pytest.raises(wal.WALFailedError) as caught, logged():
            log.save_entry([Entry(1)])
        assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("name", ["synced", "committed", "cut"])
def test_an_interrupt_in_an_observer_ends_the_call_and_not_the_log(
    path: Path, name: str, error: type[BaseException]
) -> None:
    """The save is done, and the log goes on; what was not told yet is told with the next save."""
    observer = Told()
    with wal.WAL.create(path, segment_size=SMALL, observer=observer, fs=UNSYNCED) as log:
        log.save_entry([Entry(1, b"x" * SMALL)])
        observer.react = Raising(error, name)
        with pytest.raises(error):
            log.save_entry([Entry(2)])
        assert log.last_index == 2

        observer.react = lambda name, value: None
        log.save_entry([Entry(3)])
    assert observer.names == ["synced", "committed", "cut", "synced", "committed", "synced", "committed"]
    assert indexes(path) == [1, 2, 3]


def test_an_interrupt_in_failed_leaves_a_log_that_has_stopped(path: Path) -> None:
    """It is told of once all the same, and everything is freed."""
    observer, fs = Told(Raising(KeyboardInterrupt, "failed")), Disk()
    log = wal.WAL.create(path, observer=observer, fs=fs)
    fs.fail("fdatasync")
    with pytest.raises(KeyboardInterrupt):
        log.save_entry([Entry(1)])
    for _ in range(2):
        with pytest.raises(wal.WALFailedError):
            log.sync()
    log.close()
    assert observer.names == ["failed"]
    assert not fs.open_descriptors


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
def test_an_interrupt_in_an_observer_during_close_leaves_nothing_open(path: Path, sync: bool) -> None:
    """Whatever was told of when the log was closed, it is closed."""
    observer, fs = Told(Raising(KeyboardInterrupt, "synced")), Disk()
    log = wal.WAL.create(path, sync=sync, observer=observer, fs=fs)
    log.submit(None, [Entry(1)])
    with pytest.raises(KeyboardInterrupt):
        log.close()
    log.close()
    assert not fs.open_descriptors
    assert indexes(path) == [1]
    wal.read_wal(path).wal.close()


def test_an_interrupt_at_a_repair_leaves_a_repaired_log(path: Path) -> None:
    """It is cut, nobody holds it, and the next one finds nothing to repair."""
    torn(path)
    fs = Disk()
    with pytest.raises(KeyboardInterrupt):
        wal.read_wal(path, observer=Told(Raising(KeyboardInterrupt)), fs=fs)
    assert not fs.open_descriptors
    log = wal.read_wal(path).wal
    log.close()
    assert log.repaired is None


def test_an_asynchronous_log_survives_what_ends_its_thread(path: Path) -> None:
    """``SystemExit`` in an observer would end the work for good; the saves of this group and the next are done."""
    observer = Told(Raising(SystemExit, "committed"))

    async def main() -> None:
        async with await wal.aio.AsyncWAL.create(path, observer=observer, fs=UNSYNCED) as log:
            async with asyncio.timeout(HANG):
                await asyncio.gather(*(log.save(None, [Entry(index)]) for index in (1, 2, 3)))
                await log.save(None, [Entry(4)])

    asyncio.run(main())
    assert indexes(path) == [1, 2, 3, 4]


def workload(log: wal.WAL, acknowledged: list[int]) -> None:
    """Saves of one and of many records with two cuts, a marker, and a sync."""
    for first, sizes in ((1, [1]), (2, [1000, 2000, 1500]), (5, [10]), (6, [5000]), (7, [1])):
        log.save(CommitState(first), [Entry(index, b"x" * size) for index, size in enumerate(sizes, first)])
        acknowledged.append(1 + len(sizes))
    log.save_snap(SnapshotMarker(3))
    acknowledged.append(1)
    log.sync()


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
def test_a_failure_is_told_of_once_and_nothing_that_failed_as_done(
    tmp_path: Path, persistent: bool, sync: bool
) -> None:
    """Fail the i-th call of the file system, for each i: what is told is what was acknowledged, and the failure."""
    for number in count(1):
        path, observer, fs = tmp_path / str(number), Told(), Disk()
        acknowledged: list[int] = []
        log = wal.WAL.create(path, segment_size=SMALL, sync=sync, observer=observer, fs=fs)
        fs.fail("any", number=number, persistent=persistent)
        failure: BaseException | None = None
        with logged():
            try:
                workload(log, acknowledged)
            except wal.WALFailedError as error:
                failure = error.__cause__
                for _ in range(2):
                    with pytest.raises(wal.WALFailedError):
                        log.sync()
            clean = bool(fs.faults) and not fs.failed
            fs.faults.clear()
            log.close()

        assert observer.of("failed") == ([failure] if failure else [])
        assert [group.records for group in observer.of("committed")] == acknowledged
        assert not failure or observer.names[-1] == "failed"
        if clean:
            assert number > 15
            break


@pytest.mark.parametrize("name", ["save", "save over a cut", "close"])
def test_an_interrupt_anywhere_tells_of_nothing_that_is_not_so(memory: Path, name: str) -> None:
    """
    Interrupt at the n-th place, for each n: what is told as done is on disk, once; a log that has stopped says so to
    its observer by the next call at the latest; and it closes.
    """
    for number in count(1):
        path, observer = memory / str(number), Told()
        log = wal.WAL.create(path, segment_size=SMALL, sync=name != "close", observer=observer, fs=UNSYNCED)
        if name == "save over a cut":
            log.save_entry([Entry(1, b"x" * SMALL)])
        pending = log.submit(CommitState(1), [Entry(log.last_index + 1), Entry(log.last_index + 2)])
        before = len(observer.of("committed"))
        interrupt = Interrupt(number)
        with logged():
            with contextlib.suppress(KeyboardInterrupt, wal.WALFailedError), interrupt:
                log.close() if name == "close" else pending.wait()
            if name != "close":
                with contextlib.suppress(wal.WALFailedError):
                    log.sync()
                assert (observer.names.count("failed") == 1) == ("failed" in repr(log))
            assert comes_to_its_end(log.close)
        told = observer.of("committed")[before:]
        assert len(told) <= 1
        if told:
            assert pending.done
            assert pending.failure is None
        if told or (pending.done and pending.failure is None):
            assert read(path).entries[-2:] == [Entry(before + 1), Entry(before + 2)]
        if not interrupt.missed:
            shutil.rmtree(path)
            continue
        assert (len(told), observer.of("failed")) == (1, [])
        assert number > 30
        break


def test_a_log_with_an_observer_is_freed_as_before(path: Path) -> None:
    """Dropping it without close() warns at once: nothing refers to it in a circle."""
    observer = Told()
    gc.disable()
    try:
        log = wal.WAL.create(path, observer=observer, fs=UNSYNCED)
        log.save_entry([Entry(1)])
        with pytest.warns(ResourceWarning, match="dropped without close"):
            del log
    finally:
        gc.enable()


def test_logging_that_fails_does_no_harm(path: Path) -> None:
    """A handler or filter that raises is no reason to stop; there is nobody to tell."""

    def refuse(record: logging.LogRecord) -> bool:
        raise ValueError("a filter with a bug in it")

    logger = logging.getLogger("wal")
    logger.addFilter(refuse)
    try:
        observer = Told(Raising(ValueError))
        with wal.WAL.create(path, slow_sync_s=0, observer=observer, fs=UNSYNCED) as log:
            log.save_entry([Entry(1)])
            log.save_entry([Entry(2)])
    finally:
        logger.removeFilter(refuse)
    assert observer.names == ["synced", "committed"] * 2
    assert indexes(path) == [1, 2]
