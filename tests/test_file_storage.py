"""A log and its snapshots as one storage: opened by one call, whatever happened to it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import wal
from crashes import TOP, Watch
from damage import append, flip_bit, truncate, zero
from logs import SMALL, Disk, in_child, segments, tree, untouched
from unsynced import UNSYNCED
from wal import CommitState, Entry, FileStorage, Recovered, Retention, SnapshotData, SnapshotMarker
from wal.testing import SimulatedDisk

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@dataclass(frozen=True)
class Held:
    """What is recovered from a storage: all that its owner needs to know."""

    snapshot: SnapshotData | None = None
    state: wal.HardState = CommitState()  # noqa: RUF009 - nobody changes it
    entries: tuple[wal.LogEntry, ...] = ()
    metadata: bytes = b"node"

    @classmethod
    def of(cls, recovered: Recovered) -> Held:
        return cls(recovered.snapshot, recovered.state, tuple(recovered.entries), recovered.metadata)

    def and_saved(self, state: CommitState | None, *entries: Entry) -> Held:
        """The same after one more save."""
        kept = tuple(entry for entry in self.entries if not entries or entry.index < entries[0].index)
        return replace(self, state=state or self.state, entries=kept + entries)

    def and_snapped(self, snapshot: SnapshotData) -> Held:
        """The same after one more snapshot."""
        behind = tuple(entry for entry in self.entries if entry.index > snapshot.index)
        return replace(self, snapshot=snapshot, entries=behind)


def entry(index: int, size: int = 700) -> Entry:
    return Entry(index, (b"%d " % index * size)[:size])


def snapshot(index: int) -> SnapshotData:
    return SnapshotData(index, b"the state at %d" % index, b"members")


def open_storage(path: Path, fs: wal.FileSystem = UNSYNCED, **options: Any) -> tuple[FileStorage, Recovered]:
    return wal.open_storage(path, b"node", segment_size=SMALL, fs=fs, **options)


def reopened(path: Path, fs: wal.FileSystem = UNSYNCED, **options: Any) -> Recovered:
    """Return what a storage that is not open holds."""
    storage, recovered = open_storage(path, fs, **options)
    storage.close()
    return recovered


def grow(storage: FileStorage, stop: int, snapshots: tuple[int, ...] = ()) -> None:
    """Save entries up to ``stop``, each committed at once, and snapshots at some of them."""
    for index in range(storage.last_index + 1, stop + 1):
        storage.save(CommitState(index), [entry(index)])
        if index in snapshots:
            storage.save_snap(snapshot(index))


def grown(path: Path, stop: int, snapshots: tuple[int, ...] = (), **options: Any) -> Path:
    """Make a storage with entries and snapshots, and close it."""
    storage, _ = open_storage(path, **options)
    with storage:
        grow(storage, stop, snapshots)
    return path


def snapshot_file(path: Path, index: int) -> Path:
    return path / "snap" / f"{index:016x}.snap"


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A directory that does not exist yet, for a storage."""
    return tmp_path / "storage"


# ------------------------------------------------------------------------------------------------- first use, and later


def test_the_first_call_makes_a_storage(tmp_path: Path) -> None:
    """The directory is made with its parents: the log in ``wal``, the snapshots in ``snap``, and nothing in them."""
    path = tmp_path / "a" / "b" / "storage"
    storage, recovered = wal.open_storage(path, b"node-1")
    storage.close()

    assert recovered == Recovered(None, b"node-1", CommitState(0), [], None, ())
    assert names(path) == ["snap", "wal"]
    assert names(path / "wal") == ["0000000000000000-0000000000000000.wal"]
    assert names(path / "snap") == []


def test_a_later_call_finds_what_was_saved(path: Path) -> None:
    """The second call gives back all of it; the metadata are those of the first."""
    storage, _ = open_storage(path)
    with storage:
        storage.save(CommitState(1), [entry(1), entry(2)])
        storage.save_snap(snapshot(1))
        storage.save_entry([entry(3)])
        storage.save_state(CommitState(3))

    storage, recovered = wal.open_storage(path, b"other")
    with storage:
        assert recovered == Recovered(snapshot(1), b"node", CommitState(3), [entry(2), entry(3)], None, ())
        assert (storage.metadata, storage.state, storage.last_index) == (b"node", CommitState(3), 3)


def test_files_and_directories_are_private(path: Path) -> None:
    """S10: whatever the umask allows, nobody else can read a state."""
    before = os.umask(0)
    try:
        grown(path, 2, (1,))
    finally:
        os.umask(before)

    modes = {str(p.relative_to(path.parent)): stat.S_IMODE(p.stat().st_mode) for p in path.parent.rglob("*")}
    assert {name: mode for name, mode in modes.items() if mode != (0o600 if "." in name else 0o700)} == {}
    assert len(modes) == 5


@pytest.mark.parametrize("newest_first", [False, True], ids=["as they were made", "the other way round"])
def test_the_times_of_files_do_not_matter(path: Path, newest_first: bool) -> None:
    """P17: clocks jump, and a copy has times of its own; order comes from names alone."""
    grown(path, 20, snapshots=(5, 10), retention=None)
    before = reopened(path)
    for second, file in enumerate(sorted(file for file in path.rglob("*") if file.is_file())):
        time = 2**31 - second if newest_first else second
        os.utime(file, (time, time))

    assert reopened(path) == before
    assert before.snapshot == snapshot(10)


def test_it_can_be_opened_through_a_relative_path_and_a_link(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later ``chdir`` does no harm."""
    path.mkdir()
    (path.parent / "link").symlink_to(path)
    monkeypatch.chdir(path.parent)
    storage, _ = open_storage(Path("link"))
    with storage:
        monkeypatch.chdir("/")
        grow(storage, 20, (5, 10, 15))
        storage.release(snapshot(15))

    assert Held.of(reopened(path)).snapshot == snapshot(15)


def test_other_files_are_left_alone(path: Path) -> None:
    """What is not ours is not touched, at the first use and later."""
    foreign = ["notes.txt", "wal/notes.txt", "wal/0.tmp", "snap/notes.tmp", "snap/1.snap", "snap/db.tmp7", "x/y"]
    for name in foreign:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)

    storage, _ = open_storage(path)
    with storage:
        grow(storage, 20, (5, 10, 15))
        storage.release(snapshot(15))

    assert Held.of(reopened(path)).snapshot == snapshot(15)
    assert {name: (path / name).read_text() for name in foreign} == {name: name for name in foreign}


def test_what_a_crash_left_half_made_is_swept(path: Path) -> None:
    """R49, R50: snapshots and segments in the making go at the next open."""
    grown(path, 3, (3,))
    for name in ["snap/0000000000000009.snap.tmp", "snap/0000000000000009.snap.db.tmp"]:
        (path / name).write_bytes(b"half")
    (path / "wal" / "0000000000000001-0000000000000004.wal.tmp").write_bytes(b"half")

    reopened(path)

    assert [name for name in tree(path) if name.endswith(".tmp")] == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param({"segment_size": 100}, ValueError, id="tiny segments"),
        pytest.param({"max_record_bytes": 0}, ValueError, id="no record"),
        pytest.param({"metadata": "text"}, wal.RecordTypeError, id="metadata of text"),
        pytest.param({"metadata": bytes(100), "max_record_bytes": 99}, wal.EntryTooLargeError, id="long metadata"),
    ],
)
def test_wrong_options_leave_nothing_behind(tmp_path: Path, options: dict[str, Any], error: type[Exception]) -> None:
    """P6: the arguments are looked at before anything stays."""
    with pytest.raises(error):
        wal.open_storage(tmp_path / "a" / "storage", **options)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", [True, False], ids=["first use", "later"])
def test_options_reach_the_log(path: Path, first: bool) -> None:
    """Segment size, limit, marks and sync are the log's, whether it is made or opened."""
    if not first:
        grown(path, 1)
    fs = Disk()
    storage, _ = wal.open_storage(
        path, segment_size=5000, max_record_bytes=1000, save_marks=False, sync=False, retention=None, fs=fs
    )
    with storage:
        fs.trace.clear()
        grow(storage, 10)
        with pytest.raises(wal.EntryTooLargeError):
            storage.save_entry([entry(11, 1001)])
        assert fs.trace.count("fdatasync") == 0
    assert max(segment.stat().st_size for segment in segments(path / "wal")) in range(5000, 6000)
    assert Held.of(reopened(path)).entries == tuple(entry(index) for index in range(1, 11))


def test_it_can_be_looked_at(path: Path) -> None:
    """It names its directory, and gives out its two parts."""
    storage, _ = open_storage(path)
    with storage:
        assert repr(storage) == f"<FileStorage {str(path)!r}>"
        assert storage.log.path == path / "wal"
        assert storage.snapshotter.path == path / "snap"
    assert storage.log.closed


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: shutil.rmtree(path / "wal"), id="no directory"),
        pytest.param(lambda path: shutil.move(path / "wal", path / "elsewhere"), id="moved away"),
    ],
)
def test_snapshots_without_their_log_are_refused(path: Path, damage: Callable[[Path], object]) -> None:
    """A log that is gone is not begun anew: its acknowledged entries must be looked for."""
    grown(path, 3, (2,))
    damage(path)
    before = tree(path)

    with pytest.raises(wal.WALNotFoundError, match="snapshots in"):
        open_storage(path)

    assert tree(path) == before


# ------------------------------------------------------------------------------------------------ a crash at any moment


class Life:
    """A storage in use on a disk in memory. After each step it is said what a crash must leave from then on."""

    def __init__(self, watch: Watch[Held], *, sync: bool = True) -> None:
        self.watch = watch
        self.sync = sync
        self.history = [Held()]
        self.durable = 0
        self.open()

    @property
    def held(self) -> Held:
        return self.history[-1]

    def _step(self, after: Held, call: Callable[[], object], *, durable: bool) -> None:
        self.history.append(after)
        self.watch.expect(self.history[-2:], self.history[self.durable :])
        call()
        if durable:
            self.durable = len(self.history) - 1
        self.watch.expect(self.history[-1:], self.history[self.durable :])
        self.watch.look("the call that follows the acknowledgement")

    def open(self) -> None:
        def call() -> None:
            self.storage, recovered = open_storage(TOP / "storage", self.watch.disk, sync=self.sync)
            if Held.of(recovered) != self.held:
                self.watch.complaints.append(f"opened again, there is {recovered}")

        self._step(self.held, call, durable=True)

    def save(self, committed: int | None, *indexes: int, word: bytes = b"") -> None:
        state = None if committed is None else CommitState(committed)
        entries = [Entry(index, word + entry(index, 300 * (1 + index % 3)).data) for index in indexes]
        self._step(self.held.and_saved(state, *entries), lambda: self.storage.save(state, entries), durable=self.sync)

    def save_snap(self, index: int) -> None:
        data = snapshot(index)
        self._step(self.held.and_snapped(data), lambda: self.storage.save_snap(data), durable=True)

    def release(self, index: int) -> None:
        self._step(self.held, lambda: self.storage.release(snapshot(index)), durable=False)

    def close(self) -> None:
        self._step(self.held, self.storage.close, durable=True)


def live_once(life: Life) -> None:
    """Cuts, snapshots with and without release, entries that overrule others."""
    life.save(1, 1)
    life.save(None, 2, 3)
    life.save(2, 3, 4, 5, word=b"overruled ")
    life.save(5)
    life.save_snap(4)
    for index in range(6, 20):
        life.save(index, index)
    life.save_snap(19)
    life.release(19)
    life.save(19, 20, 21)
    life.close()


def live(life: Life) -> None:
    """A life, and another one after it."""
    live_once(life)
    life.open()
    life.save(22, 21, 22, word=b"overruled ")
    life.save_snap(21)
    life.release(21)
    for index in range(23, 27):
        life.save(index, index)
    life.save_snap(26)
    life.save(27, 27)
    life.release(26)
    life.close()


def check(disk: SimulatedDisk, acceptable: Sequence[Held]) -> None:
    """A storage has one of these contents, and a storage that is open has them for good; it is clean; it works on."""
    storage, recovered = open_storage(TOP / "storage", disk)
    with storage:
        held = Held.of(recovered)
        assert held in acceptable
        assert not [name for name in disk.files() if name.endswith(".tmp")]
        assert Held.of(reopened(TOP / "storage", SimulatedDisk(disk.synced_files()))) == held
        index = storage.last_index + 1
        storage.save(CommitState(index), [entry(index)])
        storage.save_snap(snapshot(index))
        storage.release(snapshot(index))
    assert Held.of(reopened(TOP / "storage", disk)) == Held(snapshot(index), CommitState(index))


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of repairs are not worth a line each."""
    caplog.set_level(logging.ERROR, logger="wal")


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
def test_a_crash_at_any_moment_loses_nothing_that_was_acknowledged(sync: bool) -> None:
    """
    P1, P2, P13, P14, P18, R33, R34, R46: before each call, a kill or a power cut leaves a storage that opens with the
    acknowledged state, or with the unfinished save or snapshot as well; without sync, a power cut leaves that or any
    earlier state back to the last that was synced.
    """
    with Watch(SimulatedDisk(), check, subsets=1) as watch:
        live(Life(watch, sync=sync))

    assert watch.complaints == []
    assert watch.crashes > 500


@pytest.mark.usefixtures("quiet")
def test_a_crash_in_the_recovery_from_a_crash_loses_nothing_either() -> None:
    """P10, P14: whenever the first recovery is cut off, the second one finds the same."""
    crashes = 0

    def check_recovery(disk: SimulatedDisk, acceptable: Sequence[Held]) -> None:
        nonlocal crashes
        with Watch(disk, check_at_last, subsets=0) as recovery:
            recovery.expect(acceptable)
            reopened(TOP / "storage", disk)
        assert recovery.complaints == []
        crashes += recovery.crashes

    def check_at_last(disk: SimulatedDisk, acceptable: Sequence[Held]) -> None:
        assert Held.of(reopened(TOP / "storage", disk)) in acceptable

    with Watch(SimulatedDisk(), check_recovery, subsets=0) as watch:
        live_once(Life(watch))

    assert watch.complaints == []
    assert crashes > 1000


class NoFileSync(SimulatedDisk):
    """Files are never synced."""

    def fsync(self, fd: int) -> None:
        if self._open[fd].names is not None:
            super().fsync(fd)


class NoDirectorySync(SimulatedDisk):
    """Directories are never synced."""

    def fsync(self, fd: int) -> None:
        if self._open[fd].names is None:
            super().fsync(fd)


def marker_first(self: FileStorage, data: SnapshotData) -> None:
    self.log.save_snap(SnapshotMarker(data.index))
    self.snapshotter.save(data)


def keep_none(self: wal.Snapshotter, index: int) -> list[str]:
    return self._remove(self.names())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("disk", "cls", "method", "planted"),
    [
        pytest.param(NoFileSync, SimulatedDisk, "fsync", SimulatedDisk.fsync, id="files are not synced"),
        pytest.param(NoDirectorySync, SimulatedDisk, "fsync", SimulatedDisk.fsync, id="directories are not synced"),
        pytest.param(SimulatedDisk, FileStorage, "save_snap", marker_first, id="the marker comes first"),
        pytest.param(SimulatedDisk, wal.Snapshotter, "release", keep_none, id="no snapshot is kept"),
    ],
)
def test_the_crashes_find_planted_bugs(
    disk: type[SimulatedDisk], cls: type, method: str, planted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage with a known bug does not pass."""
    monkeypatch.setattr(cls, method, planted)

    with Watch(disk(), check, limit=1) as watch, contextlib.suppress(wal.WALError):
        live(Life(watch))

    assert watch.complaints


def test_the_disk_in_memory_is_like_a_real_one(tmp_path: Path) -> None:
    """The same calls leave the same files, byte by byte."""
    disk = SimulatedDisk()
    disks: list[tuple[Path, wal.FileSystem]] = [(tmp_path / "storage", UNSYNCED), (TOP / "storage", disk)]
    for path, fs in disks:
        for stop in (20, 40):
            storage, _ = open_storage(path, fs)
            with storage:
                grow(storage, stop, (4, 12, 25, 30))
                storage.release(snapshot(30))

    assert disk.files() == tree(tmp_path)


# ----------------------------------------------------------------------------------------- which snapshot the log knows


@pytest.mark.parametrize(
    ("file", "marker", "state", "expected"),
    [
        pytest.param(False, False, False, 5, id="none of the three"),
        pytest.param(True, False, False, 5, id="the file"),
        pytest.param(True, False, True, 5, id="the file and the state"),
        pytest.param(True, True, False, 5, id="the file and the marker"),
        pytest.param(True, True, True, 9, id="all three"),
        pytest.param(False, True, True, 5, id="the marker and the state"),
        pytest.param(False, True, False, 5, id="the marker"),
        pytest.param(False, False, True, 5, id="the state"),
    ],
)
def test_a_snapshot_counts_when_file_marker_and_state_are_there(
    path: Path, file: bool, marker: bool, state: bool, expected: int
) -> None:
    """R46: whichever of the three a crash, or another program, has left out: the snapshot before it is recovered."""
    storage, _ = open_storage(path)
    with storage:
        grow(storage, 7, (5,))
        storage.save_entry([entry(8), entry(9), entry(10)])
        if file:
            storage.snapshotter.save(snapshot(9))
        if marker:
            storage.log.save_snap(SnapshotMarker(9))
        if state:
            storage.save_state(CommitState(9))

    recovered = reopened(path)

    assert recovered.snapshot == snapshot(expected)
    assert recovered.entries == [entry(index) for index in range(expected + 1, 11)]
    assert recovered.state == CommitState(9 if state else 7)
    assert recovered.skipped == ()


def test_a_file_that_the_log_does_not_know_may_be_saved_again(path: Path) -> None:
    """S7, R46: what a crash left before its marker is replaced, also by something else."""
    storage, _ = open_storage(path)
    with storage:
        grow(storage, 12, (5,))
        storage.snapshotter.save(SnapshotData(9, b"never acknowledged"))
    assert reopened(path).snapshot == snapshot(5)

    storage, _ = open_storage(path)
    with storage:
        storage.save_snap(snapshot(9))

    assert Held.of(reopened(path)) == Held(snapshot(9), CommitState(12), (entry(10), entry(11), entry(12)))


# ------------------------------------------------------------------------------------ damaged snapshots are passed over


def emptied(file: Path) -> None:
    truncate(file, 0)


def cut_short(file: Path) -> None:
    truncate(file, file.stat().st_size - 1)


def bit_flipped(file: Path) -> None:
    flip_bit(file, 8 * file.stat().st_size - 3)


def zeroed(file: Path) -> None:
    zero(file, 0, file.stat().st_size)


def with_more(file: Path) -> None:
    append(file, b"more")


def with_another_index(file: Path) -> None:
    shutil.copyfile(min(file.parent.iterdir()), file)


DAMAGES = [emptied, cut_short, bit_flipped, zeroed, with_more, with_another_index]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_snapshot_is_passed_over(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """P14, S2: the one before is recovered, with the entries behind it; the file stays where it is, and is named."""
    grown(path, 20, (5, 10, 15))
    damage(snapshot_file(path, 15))
    before = untouched(path / "snap")

    recovered = reopened(path)

    assert Held.of(recovered) == Held(snapshot(10), CommitState(20), tuple(entry(index) for index in range(11, 21)))
    (reason,) = recovered.skipped
    assert isinstance(reason, wal.CorruptionError)
    assert reason.path == snapshot_file(path, 15)
    assert str(reason.path) in caplog.text
    assert untouched(path / "snap") == before


def test_all_that_was_passed_over_is_told_newest_first(path: Path) -> None:
    """One reason each."""
    grown(path, 20, (5, 10, 15))
    for index in (10, 15):
        bit_flipped(snapshot_file(path, index))

    recovered = reopened(path)

    assert recovered.snapshot == snapshot(5)
    assert [error.path for error in recovered.skipped] == [snapshot_file(path, 15), snapshot_file(path, 10)]


def test_a_snapshot_that_is_gone_is_passed_over_in_silence(path: Path) -> None:
    """There is nothing to tell about a file that does not exist."""
    grown(path, 20, (5, 10))
    snapshot_file(path, 10).unlink()

    recovered = reopened(path)

    assert (recovered.snapshot, recovered.skipped) == (snapshot(5), ())


def test_a_damaged_snapshot_may_be_saved_again(path: Path) -> None:
    """S1: the same snapshot takes the place of its damaged file; over an intact one it is refused."""
    storage, _ = open_storage(path)
    with storage:
        grow(storage, 12, (5, 9))
    emptied(path / "snap" / "0000000000000009.snap")

    storage, _ = open_storage(path)
    with storage:
        storage.save_snap(snapshot(9))
        with pytest.raises(wal.SnapshotOutOfDateError):
            storage.save_snap(snapshot(9))

    assert Held.of(reopened(path)) == Held(snapshot(9), CommitState(12), (entry(10), entry(11), entry(12)))


def test_a_damaged_file_that_the_log_does_not_know_is_not_looked_at(path: Path) -> None:
    """It would not have been chosen anyway."""
    grown(path, 20, (5,))
    snapshot_file(path, 19).write_bytes(b"half of it")

    recovered = reopened(path)

    assert (recovered.snapshot, recovered.skipped) == (snapshot(5), ())


def test_without_any_snapshot_a_whole_log_is_enough(path: Path) -> None:
    """As long as the log's beginning is there, everything can be made again from its entries."""
    grown(path, 20, (5, 10))
    for index in (5, 10):
        emptied(snapshot_file(path, index))

    recovered = reopened(path)

    assert Held.of(recovered) == Held(None, CommitState(20), tuple(entry(index) for index in range(1, 21)))
    assert len(recovered.skipped) == 2


def test_without_any_snapshot_the_rest_of_a_log_is_not_enough(path: Path) -> None:
    """If the beginning was purged, an error says so, and nothing is changed."""
    storage, _ = open_storage(path)
    with storage:
        grow(storage, 20, (10, 15))
        storage.release(snapshot(15))
    for index in (10, 15):
        emptied(snapshot_file(path, index))
    before = tree(path)

    with pytest.raises(wal.NoSnapshotError):
        open_storage(path)

    assert tree(path) == before


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE], ids=errno.errorcode.__getitem__)
def test_a_snapshot_that_cannot_be_read_is_not_damaged(path: Path, code: int) -> None:
    """S2: that a file cannot be read says nothing about it; an older state must not be taken instead."""

    class Unreadable(Disk):
        def open(self, path: Path, flags: int) -> int:
            if path == newest:
                raise OSError(code, os.strerror(code), str(path))
            return super().open(path, flags)

    grown(path, 20, (5, 10))
    newest = snapshot_file(path, 10)
    before = tree(path)

    with pytest.raises(OSError, match=os.strerror(code)):
        open_storage(path, Unreadable())

    assert tree(path) == before
    assert reopened(path).snapshot == snapshot(10)


def test_a_storage_that_fell_back_goes_on(path: Path) -> None:
    """The next snapshot is as good as any, and the damaged one goes when it is old enough."""
    grown(path, 20, (5, 10))
    emptied(snapshot_file(path, 10))

    storage, recovered = open_storage(path)
    with storage:
        assert recovered.snapshot == snapshot(5)
        grow(storage, 40, (25, 35))
        storage.release(snapshot(35))

    assert reopened(path).snapshot == snapshot(35)
    assert names(path / "snap") == [snapshot_file(path, index).name for index in (25, 35)]


def test_damage_to_the_log_is_an_error_and_nothing_is_changed(path: Path) -> None:
    """P9: snapshots do not make up for acknowledged entries."""
    grown(path, 20, (5, 18))
    flip_bit(segments(path / "wal")[1], 8 * 500)
    before = tree(path)

    with pytest.raises(wal.CorruptionError):
        open_storage(path)

    assert tree(path) == before


def test_a_torn_end_is_cut_and_reported(path: Path) -> None:
    """P10: what is cut is kept in a file, and told."""
    grown(path, 3, (2,))
    tail = segments(path / "wal")[-1]
    *_, last = wal.WALReader(path / "wal")
    truncate(tail, last.offset)

    recovered = reopened(path)

    assert (recovered.snapshot, recovered.entries) == (snapshot(2), [])
    assert recovered.repaired is not None
    assert recovered.repaired.path == tail
    assert recovered.repaired.backup is not None
    assert recovered.repaired.backup.exists()
    assert reopened(path).repaired is None


# ----------------------------------------------------------------------------------------------- what a snapshot may be


@pytest.fixture
def storage(path: Path) -> Iterator[FileStorage]:
    """A storage with seven entries, five of them committed, and a snapshot of the first three."""
    storage, _ = open_storage(path)
    with storage:
        grow(storage, 5, (3,))
        storage.save_entry([entry(6), entry(7)])
        yield storage
        storage.save_entry([entry(8)])
    assert wal.WALReader(path / "wal").read_all().entries[-1] == entry(8)


def refused(storage: FileStorage, error: type[Exception], data: SnapshotData, marker: wal.Snapshot | None) -> None:
    """A snapshot is refused, and no file is written or removed for it."""
    before = tree(storage.snapshotter.path)
    with pytest.raises(error):
        storage.save_snap(data, marker)
    assert tree(storage.snapshotter.path) == before


@pytest.mark.parametrize(
    ("index", "error"),
    [
        pytest.param(0, wal.SnapshotOutOfDateError, id="nothing"),
        pytest.param(2, wal.SnapshotOutOfDateError, id="less than the newest"),
        pytest.param(3, wal.SnapshotOutOfDateError, id="as much as the newest"),
        pytest.param(6, wal.IndexOrderError, id="not committed"),
        pytest.param(8, wal.IndexOrderError, id="not even saved"),
        pytest.param(2**64 - 1, wal.IndexOrderError, id="the greatest number"),
    ],
)
def test_a_snapshot_has_its_place(storage: FileStorage, index: int, error: type[Exception]) -> None:
    """It covers more than the one before, and no more than is committed."""
    refused(storage, error, SnapshotData(index), None)


@pytest.mark.parametrize("index", [4, 5])
def test_a_snapshot_covers_what_is_committed(path: Path, index: int) -> None:
    """All of it, or the first part."""
    storage, _ = open_storage(path)
    with storage:
        grow(storage, 5, (3,))
        storage.save_entry([entry(6)])
        storage.save_snap(snapshot(index))

    assert Held.of(reopened(path)).snapshot == snapshot(index)


def test_without_states_a_snapshot_may_be_ahead_of_the_entries(path: Path) -> None:
    """If no state was ever saved, all is taken as committed: also a snapshot that came from another node."""
    storage, _ = open_storage(path)
    with storage:
        storage.save_entry([entry(1)])
        storage.save_snap(snapshot(100))
        assert storage.last_index == 100
        storage.save_entry([entry(101)])
        storage.release(snapshot(100))

    assert Held.of(reopened(path)) == Held(snapshot(100), CommitState(0), (entry(101),))


def test_with_states_a_snapshot_of_another_node_comes_after_its_state(path: Path) -> None:
    """First the state that says it is committed, then the snapshot, then entries behind it."""
    storage, _ = open_storage(path)
    with storage:
        grow(storage, 1)
        storage.save_state(CommitState(100))
        storage.save_snap(snapshot(100))
        storage.save_entry([entry(101)])

    assert Held.of(reopened(path)) == Held(snapshot(100), CommitState(100), (entry(101),))


def test_a_state_does_not_take_back_a_snapshot(path: Path) -> None:
    """A state that commits less than the newest snapshot covers would make the log disown it: refused, or harmless."""
    storage, _ = open_storage(path, retention=Retention(1))
    with storage:
        storage.save_entry([entry(index) for index in range(1, 10)])
        storage.save_entry([entry(10)])
        storage.save_snap(snapshot(10))
        storage.release(snapshot(10))
        with contextlib.suppress(wal.IndexOrderError):
            storage.save_state(CommitState(3))

    assert reopened(path).snapshot == snapshot(10)


# -------------------------------------------------------------------------------------------------------------- markers


class Named(wal.Snapshot):
    """A marker that cannot be made from an index alone."""

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        self.name = name

    @classmethod
    def empty(cls) -> Named:
        return cls(0, "")

    def marshal(self) -> bytes:
        return f"{self.index} {self.name}".encode()

    @classmethod
    def unmarshal(cls, data: bytes) -> Named:
        index, name = data.decode().split(" ")
        return cls(int(index), name)


@pytest.fixture
def named() -> wal.RecordRegistry:
    registry = wal.RecordRegistry()
    registry.register(wal.RecordType.SNAPSHOT, Named)
    return registry


def test_the_marker_is_made_from_the_index(path: Path, storage: FileStorage) -> None:
    """By default it is one of the registered class."""
    storage.save_snap(snapshot(4))

    assert wal.valid_snapshots(path / "wal") == [SnapshotMarker(0), SnapshotMarker(3), SnapshotMarker(4)]


def test_a_marker_that_needs_more_must_be_given(path: Path, named: wal.RecordRegistry) -> None:
    """Otherwise an error says so, before a file is written."""
    storage, _ = open_storage(path, registry=named)
    with storage:
        grow(storage, 5)
        refused(storage, wal.RecordTypeError, snapshot(3), None)
        storage.save_snap(snapshot(3), Named(3, "three"))
        grow(storage, 12)
        storage.save_snap(snapshot(12), marker=Named(12, "twelve"))
        storage.release(Named(12, "another"))

    markers = wal.valid_snapshots(path / "wal", registry=named)
    assert [(marker.index, marker.name) for marker in markers if isinstance(marker, Named)][1:] == [
        (3, "three"),
        (12, "twelve"),
    ]
    assert Held.of(reopened(path, registry=named)).snapshot == snapshot(12)


def test_markers_of_etcd(path: Path) -> None:
    """The marker of an etcd log has a term; without one given, it is 0."""
    registry = wal.etcd.registry()
    storage, _ = open_storage(path, registry=registry)
    with storage:
        for index in range(1, 31):
            state = wal.etcd.HardState(term=2, vote=1, commit=index)
            storage.save(state, [wal.etcd.Entry(term=2, index=index, data=bytes(700))])
            if index in (10, 20):
                storage.save_snap(snapshot(index), wal.etcd.Snapshot(index=index, term=2, conf_state=b"voters"))
        storage.save_snap(snapshot(30))
        storage.release(snapshot(30))

    storage, recovered = open_storage(path, registry=registry)
    storage.close()
    assert recovered.snapshot == snapshot(30)
    assert recovered.state == wal.etcd.HardState(term=2, vote=1, commit=30)
    assert wal.valid_snapshots(path / "wal", registry=registry)[-2:] == [
        wal.etcd.Snapshot(index=20, term=2, conf_state=b"voters"),
        wal.etcd.Snapshot(index=30),
    ]


@pytest.mark.parametrize(
    ("marker", "error"),
    [
        pytest.param(SnapshotMarker(5), wal.RecordTypeError, id="of another index"),
        pytest.param(SnapshotMarker(0), wal.RecordTypeError, id="of index 0"),
        pytest.param(wal.etcd.Snapshot(index=4), wal.RecordTypeError, id="of another class"),
        pytest.param(SnapshotData(4), wal.RecordTypeError, id="a snapshot's data"),
    ],
)
def test_a_marker_must_fit(storage: FileStorage, marker: Any, error: type[Exception]) -> None:
    """P6: a wrong one is refused before a file is written."""
    refused(storage, error, snapshot(4), marker)


def test_a_marker_must_not_be_too_long(path: Path) -> None:
    """P6: the log's limit holds for it, and is looked at before a file is written."""
    storage, _ = open_storage(path, registry=wal.etcd.registry(), max_record_bytes=100)
    with storage:
        marker = wal.etcd.Snapshot(index=4, conf_state=bytes(100))
        refused(storage, wal.EntryTooLargeError, snapshot(4), marker)


# ----------------------------------------------------------------------------------------- closed, failed, and in order


def closed(storage: FileStorage, fs: Disk) -> None:
    storage.close()


def failed(storage: FileStorage, fs: Disk) -> None:
    fs.fail("fdatasync")
    with pytest.raises(wal.WALFailedError):
        storage.save_entry([entry(6)])


@pytest.mark.parametrize(
    ("end", "error"),
    [pytest.param(closed, wal.WALClosedError, id="closed"), pytest.param(failed, wal.WALFailedError, id="failed")],
)
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda storage: storage.save_snap(snapshot(5)), id="save_snap"),
        pytest.param(lambda storage: storage.release(snapshot(3)), id="release"),
    ],
)
def test_a_storage_that_has_ended_touches_no_file(
    path: Path,
    end: Callable[[FileStorage, Disk], None],
    error: type[Exception],
    call: Callable[[FileStorage], None],
) -> None:
    """P5: nothing is written, and nothing removed."""
    fs = Disk()
    storage, _ = open_storage(path, fs)
    with storage:
        grow(storage, 5, (1, 2, 3))
        end(storage, fs)
        before = tree(path)
        fs.trace.clear()
        with pytest.raises(error):
            call(storage)
        assert fs.trace == []
        assert tree(path) == before


@needs_fork
def test_a_forked_child_saves_no_snapshot(path: Path, storage: FileStorage) -> None:
    """P7: the storage is its parent's."""
    before = tree(path)

    assert in_child(lambda: storage.save_snap(snapshot(4))) == "WALClosedError"
    assert in_child(lambda: storage.release(snapshot(3))) == "WALClosedError"
    assert tree(path) == before


def test_close_may_be_called_again(path: Path) -> None:
    """A second call does nothing, and all that was held is given back."""
    fs = Disk()
    storage, _ = open_storage(path, fs)
    storage.close()
    storage.close()

    assert not fs.open_descriptors


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
def test_the_order_of_things(path: Path, sync: bool) -> None:
    """
    P13, P14, S3, R34: the file is synced, gets its name, and that is synced; then the marker is written and synced,
    also in a storage without sync; snapshot files go, durably; then segments.
    """
    fs = Disk()
    storage, _ = open_storage(path, fs, retention=Retention(1), sync=sync)
    with storage:
        grow(storage, 14, (3,))
        fs.calls.clear()
        storage.save_snap(snapshot(14))
        storage.release(snapshot(14))
        calls = fs.of("pwrite", "fsync", "fdatasync", "rename", "unlink")

    shown = [(call, os.path.relpath(where, path)) for call, where in calls]
    assert shown[:9] == [
        ("unlink", "snap/000000000000000e.snap.tmp"),  # there is none
        ("pwrite", "snap/000000000000000e.snap.tmp"),
        ("fsync", "snap/000000000000000e.snap.tmp"),
        ("rename", "snap/000000000000000e.snap.tmp"),
        ("fsync", "snap"),
        ("pwrite", "wal/0000000000000002-000000000000000d.wal"),
        ("fdatasync", "wal/0000000000000002-000000000000000d.wal"),
        ("unlink", "snap/0000000000000003.snap"),
        ("fsync", "snap"),
    ]
    assert [call for call in shown[9:] if call[0] == "unlink"] == [
        ("unlink", "wal/0000000000000000-0000000000000000.wal"),
        ("unlink", "wal/0000000000000001-0000000000000007.wal"),
    ]
    assert {call for call in shown[9:] if call[0] != "unlink"} == {("fsync", "wal")}
    assert shown[-1] == ("fsync", "wal")


# ------------------------------------------------------------------------------------------------------------- failures


def test_a_snapshot_that_could_not_be_saved_may_be_saved_again(tmp_path: Path) -> None:
    """
    P14, R25: fail the i-th call. The snapshot before is what is recovered, or the new one if only its last sync failed;
    if the log has not stopped, the storage goes on, and a second try is good.
    """
    outcomes: list[type[Exception] | None] = []
    for number in count(1):
        path, fs = tmp_path / str(number), Disk()
        storage, _ = open_storage(path, fs, retention=Retention(1))
        outcome: type[Exception] | None = None
        with storage:
            grow(storage, 8, (3,))
            fs.fail("any", number=number, error=errno.ENOSPC)
            try:
                storage.save_snap(snapshot(8))
            except (OSError, wal.WALFailedError) as error:
                outcome = type(error)
            fs.faults.clear()
            if outcome is OSError:
                assert Held.of(reopened(copied(path))).snapshot == snapshot(3)
                storage.save_snap(snapshot(8))
            if outcome is not wal.WALFailedError:
                storage.release(snapshot(8))
        assert not fs.open_descriptors
        recovered = reopened(path)
        assert recovered.snapshot in ([snapshot(3)] if outcome is wal.WALFailedError else []) + [snapshot(8)]
        assert recovered.skipped == ()
        assert not list((path / "snap").glob("*.tmp"))
        outcomes.append(outcome)
        if outcome is None:
            break
    assert outcomes[-3:] == [wal.WALFailedError, wal.WALFailedError, None], "the marker's write and sync come last"
    assert set(outcomes[:-3]) == {OSError}


def copied(path: Path) -> Path:
    """Return a copy of a directory, which nobody has locked."""
    copy = path.with_name(path.name + " copy")
    return Path(shutil.copytree(path, copy))


def test_a_failed_open_changes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """R55: fail the i-th call of a recovery. Everything is given back, and the next one finds all."""
    original = grown(tmp_path / "storage", 20, (5, 15))
    (original / "snap" / "0000000000000013.snap.tmp").write_bytes(b"half")
    *_, last = wal.WALReader(original / "wal")
    truncate(last.path, last.offset + 9)
    expected = Held(snapshot(15), CommitState(19), tuple(entry(index) for index in range(16, 20)))
    for number in count(1):
        path, fs = Path(shutil.copytree(original, tmp_path / str(number))), Disk()
        fs.fail("any", number=number)
        try:
            storage, recovered = open_storage(path, fs)
        except (OSError, wal.WALError):
            assert not fs.open_descriptors, fs.trace
            clean = False
        else:
            clean = bool(fs.faults)
            fs.faults.clear()
            storage.close()
            assert Held.of(recovered) == expected
        assert Held.of(reopened(path)) == expected
        if clean:
            break
        shutil.rmtree(path)


def test_a_failed_first_use_leaves_nothing_but_a_directory(tmp_path: Path) -> None:
    """P11, R31, R32: fail the i-th call. There is no storage, or a whole one, and the next call makes or finds it."""
    for number in count(1):
        path, fs = tmp_path / str(number), Disk()
        fs.fail("any", number=number)
        try:
            storage, _ = open_storage(path, fs)
        except (OSError, wal.WALError):
            assert not fs.open_descriptors
            assert not path.exists() or not segments(path / "wal")
            clean = False
        else:
            clean = bool(fs.faults)
            fs.faults.clear()
            storage.close()
        assert Held.of(reopened(path)) == Held()
        if clean:
            break


# --------------------------------------------------------------------------------------------- one writer, many threads


def test_a_second_opener_is_refused_and_harms_nothing(path: Path, storage: FileStorage) -> None:
    """P7: at once, in this process."""
    storage.snapshotter.path.joinpath("0000000000000009.snap.tmp").write_bytes(b"a snapshot in the making")
    before = tree(path)

    with pytest.raises(wal.WALLockedError):
        open_storage(path)

    assert tree(path) == before


@needs_fork
def test_a_second_process_is_refused(path: Path, storage: FileStorage) -> None:
    """P7: and in another one."""
    before = tree(path)

    assert in_child(lambda: open_storage(path)) == "WALLockedError"
    assert tree(path) == before


class Rival(SimulatedDisk):
    """A disk on which something else happens just before the n-th call of a kind."""

    def __init__(self, call: str, number: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.left = number

        def before(what: str) -> None:
            self.left -= what == call
            if not self.left:
                self.left = -1
                action()

        self.before_change = before


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "goes"])
@pytest.mark.parametrize("number", [1, 2, 3], ids=["top", "snap", "wal"])
def test_two_first_users(number: int, stays: bool) -> None:
    """
    P7: while one makes the storage, another one is faster. If it is still there, the storage is locked; if it has gone,
    what it saved is found.
    """
    rivals: list[FileStorage] = []

    def use() -> None:
        rival, _ = open_storage(TOP / "storage", disk)
        rival.save(CommitState(1), [entry(1)])
        if stays:
            rivals.append(rival)
        else:
            rival.close()

    disk = Rival("make a directory", number, use)
    if stays:
        with pytest.raises(wal.WALLockedError):
            open_storage(TOP / "storage", disk)
        (rival,) = rivals
        rival.close()
        assert Held.of(reopened(TOP / "storage", disk)) == Held(None, CommitState(1), (entry(1),))
    else:
        assert Held.of(reopened(TOP / "storage", disk)) == Held(None, CommitState(1), (entry(1),))


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        pytest.param(Retention(1), Held(snapshot(40), CommitState(40)), id="purged"),
        pytest.param(
            None,
            Held(snapshot(5), CommitState(40), tuple(entry(index) for index in range(6, 41))),
            id="not purged",
        ),
    ],
)
def test_another_user_between_choosing_a_snapshot_and_opening_the_log(
    path: Path, retention: Retention | None, expected: Held
) -> None:
    """R40, R44: what it has added is found; if what was about to be read is purged meanwhile, a new choice is made."""

    class Overtaken(Disk):
        def lock_directory(self, fd: int) -> None:
            if not overtaken:
                overtaken.append(True)
                storage, _ = open_storage(path, retention=retention)
                with storage:
                    grow(storage, storage.last_index + 20)
                    storage.save_snap(snapshot(storage.last_index))
                    storage.release(snapshot(storage.last_index))
            super().lock_directory(fd)

    overtaken: list[bool] = []
    grown(path, 20, (5,))

    storage, recovered = open_storage(path, Overtaken())
    storage.close()

    assert Held.of(recovered) == expected


def test_all_methods_may_be_called_from_any_thread(path: Path) -> None:
    """R57: threads that save, snapshot, release, sync and look go on beside each other, and nothing is lost."""
    storage, _ = open_storage(path)
    done = threading.Event()
    problems: list[BaseException] = []

    def repeat(call: Callable[[], object]) -> None:
        try:
            while not done.is_set():
                with contextlib.suppress(wal.SnapshotOutOfDateError, wal.SnapshotNotFoundError):  # another was faster
                    call()
        except BaseException as error:
            problems.append(error)

    calls = [
        lambda: storage.save_snap(snapshot(storage.state.committed or 1)),
        lambda: storage.save_snap(snapshot(storage.state.committed or 1)),
        lambda: storage.release(snapshot(storage.state.committed)),
        storage.sync,
        lambda: wal.purge(path / "wal", wal.valid_snapshots(path / "wal")[-1], keep=1000),
        lambda: repr(storage),
    ]
    grow(storage, 1)
    threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    grow(storage, 300)
    done.set()
    for thread in threads:
        thread.join()
    storage.close()

    assert problems == []
    recovered = reopened(path)
    assert recovered.snapshot is not None
    assert recovered.entries == [entry(index) for index in range(recovered.snapshot.index + 1, 301)]
    assert recovered.state == CommitState(300)


def test_a_close_while_a_snapshot_is_written_is_an_error_and_no_damage(path: Path) -> None:
    """R57: another thread closes the storage behind the file and before the marker: the snapshot before counts."""

    class Closing(Disk):
        def rename(self, old: Path, new: Path) -> None:
            super().rename(old, new)
            if new == snapshot_file(path, 5):
                opened.close()

    opened, _ = open_storage(path, Closing())
    grow(opened, 5, (3,))

    with pytest.raises(wal.WALClosedError):
        opened.save_snap(snapshot(5))

    assert Held.of(reopened(path)) == Held(snapshot(3), CommitState(5), (entry(4), entry(5)))
