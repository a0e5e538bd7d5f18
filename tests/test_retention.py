"""What is removed, what is kept, and that what is kept is enough: ``purge``, and the retention of a storage."""

from __future__ import annotations

import io
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import FrozenInstanceError
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wal
from crashes import TOP, Watch
from damage import append, flip_bit, truncate
from logs import SMALL, Child, Disk, segments, tree
from unsynced import UNSYNCED, Unsynced
from wal import CommitState, Entry, FileStorage, Recovered, Retention, SnapshotData, SnapshotMarker
from wal._files import OPERATING_SYSTEM
from wal.testing import SimulatedDisk

MARKERS = (3, 5, 6, 12, 20, 28)
"""The snapshots of the log that most tests purge. Its segments hold five of its 28 entries each."""

RETENTION_MB = int(os.environ.get("WAL_RETENTION_MB", "50"))
"""How much is written to see that a storage does not grow. The more, the longer it takes: 10000 are some minutes."""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def entry(index: int) -> Entry:
    return Entry(index, b"%0820d" % index)


def make(path: Path, fs: wal.FileSystem = UNSYNCED, *, sync: bool = True) -> wal.WAL:
    """Make the log and leave it open."""
    log = wal.WAL.create(path, segment_size=SMALL, fs=fs, sync=sync)
    for index in range(1, 29):
        log.save_entry([entry(index)])
        if index in MARKERS:
            log.save_snap(SnapshotMarker(index))
    return log


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("retention") / "template"
    make(path).close()
    assert [int(segment.stem.split("-")[1], 16) for segment in segments(path)] == [0, 6, 11, 16, 21, 26]
    return path


@pytest.fixture
def path(tmp_path: Path, template: Path) -> Path:
    """A copy of the log."""
    return Path(shutil.copytree(template, tmp_path / "wal"))


@pytest.fixture
def names(template: Path) -> list[str]:
    """The names of the log's segments."""
    return names_of(template)


def names_of(path: Path) -> list[str]:
    return [segment.name for segment in segments(path)]


def check_open(path: Path, index: int, fs: wal.FileSystem = UNSYNCED) -> None:
    """The log can be written and read from a snapshot on, and readers of what is left see no gap in it."""
    marker = SnapshotMarker(index)
    assert wal.WALReader(path, marker, fs=fs).read_all().entries == [entry(i) for i in range(index + 1, 29)]
    log, _, _, entries = wal.read_wal(path, marker, segment_size=SMALL, fs=fs)
    with log:
        assert entries == [entry(i) for i in range(index + 1, 29)]
        assert log.last_index == 28
    assert marker in wal.valid_snapshots(path, fs=fs)
    assert wal.verify(path, fs=fs).last_index == 28


# --------------------------------------------------------------------------------------------------- what purge removes


@pytest.mark.parametrize("keep", [0, 1, 2, 100])
@pytest.mark.parametrize(
    ("snapshot", "older"),
    [
        pytest.param(0, 0, id="the beginning"),
        pytest.param(3, 0, id="in the first segment"),
        pytest.param(5, 0, id="at the first cut, where the marker may be on either side"),
        pytest.param(6, 1, id="the first entry of the second segment"),
        pytest.param(12, 2, id="in the third segment"),
        pytest.param(20, 3, id="the last entry of the fourth segment"),
        pytest.param(28, 5, id="the last entry"),
    ],
)
def test_the_segments_before_a_snapshot_go(path: Path, names: list[str], snapshot: int, older: int, keep: int) -> None:
    """F41, P13: those that are wholly older, but for the newest ``keep`` of them; the rest is as it was."""
    before = tree(path)
    gone = names[: max(older - keep, 0)]

    removed = wal.purge(path, SnapshotMarker(snapshot), keep=keep)

    assert removed == gone
    assert tree(path) == {name: data for name, data in before.items() if name not in gone}
    assert wal.purge(path, SnapshotMarker(snapshot), keep=keep) == []
    if snapshot:
        check_open(path, snapshot)


def test_segments_go_oldest_first_and_durably(path: Path, names: list[str]) -> None:
    """P13: and the last thing is a sync of the directory."""
    fs = Disk()
    wal.purge(path, SnapshotMarker(28), fs=fs)

    assert [os.path.basename(file) for _, file in fs.of("unlink")] == names[:5]
    assert fs.of("unlink", "fsync")[-1] == ("fsync", str(path))
    assert not fs.open_descriptors


def test_where_nothing_is_to_go_nothing_is_changed(path: Path) -> None:
    """Neither a name nor a sync."""
    fs = Disk()

    assert wal.purge(path, SnapshotMarker(3), fs=fs) == []
    assert fs.of("unlink", "rename", "pwrite", "truncate") == []


def test_a_purged_log_may_be_purged_again(path: Path, names: list[str]) -> None:
    """Each time from where it begins then; what went earlier is not told again."""
    removed = [wal.purge(path, SnapshotMarker(index)) for index in MARKERS]

    assert removed == [[], [], names[:1], names[1:2], names[2:3], names[3:5]]
    check_open(path, 28)


@pytest.mark.parametrize("purged", [False, True], ids=["whole log", "purged log"])
@pytest.mark.parametrize("index", [1, 11, 27, 29, 999])
def test_an_unknown_snapshot_removes_nothing(path: Path, index: int, purged: bool) -> None:
    """P13, R48: without a marker in the log nobody could open it there."""
    if purged:
        wal.purge(path, SnapshotMarker(6))
    before = tree(path)

    with pytest.raises(wal.SnapshotNotFoundError) as caught:
        wal.purge(path, SnapshotMarker(index))

    assert caught.value.index == index
    assert tree(path) == before


def test_a_snapshot_that_has_been_purged_removes_nothing(path: Path) -> None:
    """What is asked for has gone with what is older."""
    wal.purge(path, SnapshotMarker(20))
    before = tree(path)

    for index in (0, 3, 12):
        with pytest.raises(wal.SnapshotNotFoundError):
            wal.purge(path, SnapshotMarker(index))

    assert tree(path) == before


def test_a_negative_number_to_keep_is_refused(path: Path) -> None:
    """P6: before anything is looked at."""
    with pytest.raises(ValueError, match="keep must be 0 or more"):
        wal.purge(path, SnapshotMarker(28), keep=-1)


@pytest.mark.parametrize("made", [False, True], ids=["no directory", "empty directory"])
def test_there_must_be_a_log(tmp_path: Path, made: bool) -> None:
    """Otherwise an error says so."""
    if made:
        (tmp_path / "x").mkdir()

    with pytest.raises(wal.WALNotFoundError):
        wal.purge(tmp_path / "x", SnapshotMarker(0))


@pytest.mark.parametrize("segment", [3, 4, 5])
def test_damage_behind_the_snapshot_removes_nothing(path: Path, segment: int) -> None:
    """P13: a log that cannot be opened at the snapshot may still be needed from before it."""
    flip_bit(segments(path)[segment], 8 * 1000)
    before = tree(path)

    with pytest.raises(wal.CorruptionError):
        wal.purge(path, SnapshotMarker(20))

    assert tree(path) == before


def test_damage_before_the_snapshot_is_purged(path: Path, names: list[str]) -> None:
    """What is not needed is not read."""
    flip_bit(segments(path)[1], 8 * 1000)

    assert wal.purge(path, SnapshotMarker(20)) == names[:3]
    check_open(path, 20)


def test_a_missing_segment_behind_the_snapshot_removes_nothing(path: Path) -> None:
    """P13: there is a gap, so nothing is certain."""
    segments(path)[4].unlink()
    before = tree(path)

    with pytest.raises(wal.SegmentGapError):
        wal.purge(path, SnapshotMarker(20))

    assert tree(path) == before


def test_a_torn_end_is_no_obstacle(path: Path, names: list[str]) -> None:
    """A writer that was killed is repaired by the next one, not by a purge."""
    tail = segments(path)[-1]
    *_, last = wal.WALReader(path)
    truncate(tail, last.offset + 3)
    append(tail, b"torn")
    before = tail.read_bytes()

    assert wal.purge(path, SnapshotMarker(20)) == names[:3]
    assert tail.read_bytes() == before


def test_other_files_stay(path: Path) -> None:
    """Backups, foreign files and segments in preparation are not a purge's business."""
    others = ["lost+found", "0.wal", "0000000000000000-0000000000000000.wal.0000000000000040.broken", "x.tmp"]
    others.append("0000000000000006-000000000000001d.wal.tmp")
    for name in others:
        (path / name).write_bytes(b"mine")

    wal.purge(path, SnapshotMarker(28))

    assert {name for name in tree(path) if not name.startswith("0000000000000005")} == set(others)


def test_other_record_classes(tmp_path: Path) -> None:
    """The registry says what a marker looks like; with a wrong one nothing is removed."""
    registry = wal.etcd.registry()
    with wal.WAL.create(tmp_path / "wal", registry=registry, segment_size=SMALL, fs=UNSYNCED) as log:
        for index in range(1, 21):
            log.save_entry([wal.etcd.Entry(index=index, term=7, data=bytes(800))])
        log.save_snap(wal.etcd.Snapshot(index=20, term=7))
    before = tree(tmp_path)

    with pytest.raises(wal.RecordDecodeError):
        wal.purge(tmp_path / "wal", SnapshotMarker(20))
    assert tree(tmp_path) == before
    assert len(wal.purge(tmp_path / "wal", wal.etcd.Snapshot(index=20), registry=registry)) == 3


# ------------------------------------------------------------------------------------- segments that somebody still has


@contextmanager
def locked(segment: Path) -> Iterator[None]:
    """Another program has a segment open and locked."""
    fd = OPERATING_SYSTEM.open(segment, os.O_RDWR)
    try:
        OPERATING_SYSTEM.lock(fd)
        yield
    finally:
        OPERATING_SYSTEM.close(fd)


@pytest.mark.parametrize("number", range(6))
def test_a_locked_segment_ends_the_purge(
    path: Path, names: list[str], number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """R41: what is behind it is not deleted, so there is no gap; and it is named, so that nothing grows silently."""
    with locked(segments(path)[number]):
        removed = wal.purge(path, SnapshotMarker(28))

        assert removed == names[: min(number, 5)]
        assert names_of(path) == names[min(number, 5) :]
    assert [(r.levelno, names[number] in r.getMessage()) for r in caplog.records] == (
        [(logging.WARNING, True)] if number < 5 else []
    )
    assert wal.purge(path, SnapshotMarker(28)) == names[number:5]
    check_open(path, 28)


def test_a_writer_keeps_what_it_has_not_released(
    tmp_path: Path, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """P13: beside a live writer nothing goes before ``release``, and then what was released; the writer goes on."""
    path = tmp_path / "wal"
    with make(path) as log:
        assert wal.purge(path, SnapshotMarker(28)) == []
        assert names[0] in caplog.text
        log.release(SnapshotMarker(12))
        assert wal.purge(path, SnapshotMarker(28)) == names[:2]
        log.release(SnapshotMarker(28))
        log.save_entry([entry(29)])
        assert wal.purge(path, SnapshotMarker(28)) == names[2:5]
        log.save_entry([entry(30)])

    assert wal.WALReader(path, SnapshotMarker(28)).read_all().entries == [entry(29), entry(30)]


class Interrupted(Unsynced):
    """Something else happens right before the n-th call."""

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.left = number
        self.action = action

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in ("left", "action"):
            self.left -= 1
            if self.left == 0:
                self.action()
        return super().__getattribute__(name)


def test_a_purge_in_the_middle_of_a_purge(tmp_path: Path, template: Path, names: list[str]) -> None:
    """R43: before each call of one purge, another one removes everything. Neither fails, and the log opens."""
    for number in count(1):
        path = Path(shutil.copytree(template, tmp_path / str(number)))
        others: list[str] = []
        fs = Interrupted(number, lambda path=path, others=others: others.extend(wal.purge(path, SnapshotMarker(28))))  # type: ignore[misc]

        removed = wal.purge(path, SnapshotMarker(28), fs=fs)

        assert set(removed) | set(others) <= set(names[:5])
        wal.purge(path, SnapshotMarker(28))
        assert names_of(path) == names[5:]
        check_open(path, 28)
        shutil.rmtree(path)
        if fs.left > 0:
            assert (removed, others) == (names[:5], [])
            break


def test_a_removed_segment_is_told_once(tmp_path: Path, template: Path, names: list[str]) -> None:
    """R43: what the other one has removed is in the other one's list only."""
    for number in count(1):
        path = Path(shutil.copytree(template, tmp_path / str(number)))
        others: list[str] = []
        fs = Interrupted(number, lambda path=path, others=others: others.extend(wal.purge(path, SnapshotMarker(28))))  # type: ignore[misc]

        removed = wal.purge(path, SnapshotMarker(28), fs=fs)

        assert not set(removed) & set(others), f"call {number}"
        shutil.rmtree(path)
        if fs.left > 0:
            break


@pytest.mark.parametrize("purgers", [2, 5])
def test_purging_threads(tmp_path: Path, template: Path, names: list[str], purgers: int) -> None:
    """R43: many purges at once: none fails, and together they remove all that is to go."""
    for number in range(20):
        path = Path(shutil.copytree(template, tmp_path / str(number)))
        together = threading.Barrier(purgers)
        problems: list[BaseException] = []

        def purge(path: Path = path, together: threading.Barrier = together, problems: Any = problems) -> None:
            try:
                together.wait()
                for index in MARKERS:
                    with suppress(wal.SnapshotNotFoundError):  # another one is further on
                        wal.purge(path, SnapshotMarker(index), fs=UNSYNCED)
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=purge) for _ in range(purgers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert problems == []
        wal.purge(path, SnapshotMarker(28), fs=UNSYNCED)
        assert names_of(path) == names[5:]
        check_open(path, 28)


@needs_fork
def test_purging_processes(tmp_path: Path, template: Path, names: list[str]) -> None:
    """R43: also in processes."""
    for number in range(10):
        path = Path(shutil.copytree(template, tmp_path / str(number)))
        with Child(partial(wal.purge, path, SnapshotMarker(28))) as one:
            with Child(partial(wal.purge, path, SnapshotMarker(28))) as other:
                outcomes = [one.wait(), other.wait()]

        assert all(outcome.startswith("[") for outcome in outcomes), outcomes
        wal.purge(path, SnapshotMarker(28))
        assert names_of(path) == names[5:]
        check_open(path, 28)


# ------------------------------------------------------------------------------------------- failures and crashes in it


@pytest.mark.parametrize("number", range(1, 6))
def test_a_segment_that_cannot_be_removed_ends_the_purge(path: Path, names: list[str], number: int) -> None:
    """P13: the error is raised; those before it are gone, it and those behind it are there, and the log opens."""
    fs = Disk()
    fs.fail("unlink", number=number, error=13)

    with pytest.raises(PermissionError):
        wal.purge(path, SnapshotMarker(28), fs=fs)

    assert names_of(path) == names[number - 1 :]
    assert not fs.open_descriptors
    check_open(path, 28)
    assert wal.purge(path, SnapshotMarker(28)) == names[number - 1 : 5]


def test_any_call_may_fail(tmp_path: Path, template: Path, names: list[str]) -> None:
    """P13, R55: fail the i-th call. What is left is the end of the log, it opens, and no descriptor leaks."""
    for number in count(1):
        path, fs = Path(shutil.copytree(template, tmp_path / str(number))), Disk()
        fs.fail("any", number=number)
        with suppress(OSError):
            wal.purge(path, SnapshotMarker(28), fs=fs)

        assert names_of(path) in [names[at:] for at in range(6)]
        assert not fs.open_descriptors
        check_open(path, 28)
        wal.purge(path, SnapshotMarker(28))
        assert names_of(path) == names[5:]
        shutil.rmtree(path)
        if fs.faults:
            break


def check_crashed_log(disk: SimulatedDisk, acceptable: Sequence[int]) -> None:
    for index in acceptable:
        check_open(TOP / "wal", index, disk)


@pytest.mark.parametrize("snapshot", [6, 12, 20, 28])
def test_a_crash_in_a_purge_leaves_a_log_without_a_gap(snapshot: int) -> None:
    """P13: before each call, a kill or a power cut leaves a log that opens at the snapshot and at every later one."""
    with Watch(SimulatedDisk(), check_crashed_log) as watch:
        make(TOP / "wal", watch.disk).close()
        watch.expect([index for index in MARKERS if index >= snapshot])
        wal.purge(TOP / "wal", SnapshotMarker(snapshot), fs=watch.disk)
        watch.look("return")

    assert watch.complaints == []
    assert watch.crashes > 10


@pytest.mark.parametrize("alive", [True, False], ids=["beside the writer", "after a kill"])
def test_a_purge_relies_only_on_what_is_durable(alive: bool) -> None:
    """
    P4, P13: a writer without syncs has written the marker, and the system has it, but not the disk. Segments must not
    be gone for good before the marker is there for good.
    """
    disk = SimulatedDisk()
    log = make(TOP / "wal", disk, sync=False)
    log.release(SnapshotMarker(28))
    with Watch(disk if alive else disk.killed(), check_crashed_log) as watch:
        watch.look("nothing yet")
        removed = wal.purge(TOP / "wal", SnapshotMarker(28), fs=watch.disk)
        watch.expect([28])
        watch.look("return")
    log.close()

    assert len(removed) == 5
    assert watch.complaints == []


# ---------------------------------------------------------------------------------------------------- readers and opens


def test_a_reader_from_the_snapshot_on_does_not_notice(path: Path) -> None:
    """P13: what it reads is not removed, whenever the purge happens."""
    reader = wal.WALReader(path, SnapshotMarker(20))
    found: list[object] = []
    for record in reader:
        if not found:
            wal.purge(path, SnapshotMarker(20))
        if record.type is wal.RecordType.ENTRY:
            found.append(record.value)

    assert found == [entry(index) for index in range(21, 29)]


def test_a_reader_of_what_is_purged_is_told(path: Path) -> None:
    """R44: a typed error at the missing segment, and no wrong entries before it."""
    found: list[object] = []
    with pytest.raises(wal.WALNotFoundError, match="purged while"):
        for record in wal.WALReader(path):
            if record.type is wal.RecordType.ENTRY:
                if not found:
                    wal.purge(path, SnapshotMarker(28))
                found.append(record.value)

    assert found == [entry(index) for index in range(1, len(found) + 1)]


@pytest.mark.parametrize(
    "look",
    [
        pytest.param(lambda path, fs: wal.valid_snapshots(path, fs=fs)[-1] == SnapshotMarker(28), id="valid_snapshots"),
        pytest.param(lambda path, fs: wal.verify(path, fs=fs).last_index == 28, id="verify"),
        pytest.param(
            lambda path, fs: wal.WALReader(path, SnapshotMarker(20), fs=fs).read_all().entries[-1] == entry(28),
            id="read_all",
        ),
        pytest.param(lambda path, fs: wal.exists(path, fs=fs), id="exists"),
    ],
)
def test_a_purge_in_the_middle_of_a_look(
    tmp_path: Path, template: Path, look: Callable[[Path, wal.FileSystem], bool]
) -> None:
    """R44: before each call of a scan, a purge; the scan finds what is left."""
    for number in count(1):
        path = Path(shutil.copytree(template, tmp_path / str(number)))
        fs = Interrupted(number, partial(wal.purge, path, SnapshotMarker(20)))

        assert look(path, fs)
        shutil.rmtree(path)
        if fs.left > 0:
            break


def test_a_purge_in_the_middle_of_an_open(tmp_path: Path, template: Path) -> None:
    """R40: before each call of an open at the last snapshot, a purge; the open is not disturbed."""
    for number in count(1):
        path = Path(shutil.copytree(template, tmp_path / str(number)))
        fs = Interrupted(number, partial(wal.purge, path, SnapshotMarker(28)))

        log, _, _, entries = wal.read_wal(path, SnapshotMarker(28), segment_size=SMALL, fs=fs)
        with log:
            assert entries == []
            log.save_entry([entry(29)])
        shutil.rmtree(path)
        if fs.left > 0:
            break


def test_the_last_snapshot_opens_always(tmp_path: Path) -> None:
    """R40: 200 lives of a log, with a purge running all the time: each opens at the snapshot of the one before."""
    path = tmp_path / "wal"
    marker = SnapshotMarker(0)
    wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED).close()
    done = threading.Event()
    removed: list[str] = []
    problems: list[BaseException] = []

    def purge() -> None:
        try:
            while not done.is_set():
                removed.extend(wal.purge(path, marker, fs=UNSYNCED))
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=purge)
    thread.start()
    try:
        for _ in range(200):
            log, _, _, entries = wal.read_wal(path, marker, segment_size=SMALL, fs=UNSYNCED)
            with log:
                assert entries == []
                for index in range(log.last_index + 1, log.last_index + 8):
                    log.save_entry([entry(index)])
                log.save_snap(SnapshotMarker(log.last_index))
                log.release(SnapshotMarker(log.last_index))
                marker = SnapshotMarker(log.last_index)
    finally:
        done.set()
        thread.join()

    assert problems == []
    assert removed
    wal.purge(path, marker)
    assert len(names_of(path)) <= 2


# ------------------------------------------------------------------------------------------------ a storage's retention


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory that does not exist yet, for a storage."""
    return tmp_path / "storage"


def open_storage(
    path: Path, retention: Retention | None, fs: wal.FileSystem = UNSYNCED
) -> tuple[FileStorage, Recovered]:
    return wal.open_storage(path, b"node", segment_size=SMALL, retention=retention, fs=fs)


def snapshot(index: int) -> SnapshotData:
    return SnapshotData(index, b"the state at %d" % index)


def grow(storage: FileStorage, stop: int, *, release: bool = True) -> None:
    """Save entries up to ``stop``, five in a segment, with snapshots of 7, 17, 27 and so on."""
    for index in range(storage.last_index + 1, stop + 1):
        storage.save_entry([entry(index)])
        if index % 10 == 7:
            storage.save_snap(snapshot(index))
            if release:
                storage.release(snapshot(index))


def kept(path: Path) -> tuple[list[int], list[int]]:
    """Return the indexes of the snapshots and the first indexes of the segments that are there."""
    snapshots = [int(file.stem, 16) for file in sorted((path / "snap").glob("*.snap"))]
    return snapshots, [int(file.stem.split("-")[1], 16) for file in segments(path / "wal")]


def damage(path: Path, index: int) -> None:
    truncate(path / "snap" / f"{index:016x}.snap", 5)


@pytest.mark.parametrize(
    ("retention", "snapshots", "firsts"),
    [
        pytest.param(Retention(1), [37], [36], id="one snapshot"),
        pytest.param(Retention(2), [27, 37], [26, 31, 36], id="two"),
        pytest.param(Retention(3), [17, 27, 37], [16, 21, 26, 31, 36], id="three"),
        pytest.param(Retention(9), [7, 17, 27, 37], [6, 11, 16, 21, 26, 31, 36], id="more than there are"),
        pytest.param(Retention(1, 1), [37], [31, 36], id="one and a segment"),
        pytest.param(Retention(1, 3), [37], [21, 26, 31, 36], id="one and three segments"),
        pytest.param(Retention(2, 2), [27, 37], [16, 21, 26, 31, 36], id="two and two"),
        pytest.param(Retention(1, 99), [37], [0, 6, 11, 16, 21, 26, 31, 36], id="one and all segments"),
        pytest.param(None, [7, 17, 27, 37], [0, 6, 11, 16, 21, 26, 31, 36], id="everything"),
    ],
)
@pytest.mark.parametrize("at", ["each snapshot", "the end", "the next life"])
def test_what_is_kept(
    root: Path, retention: Retention | None, snapshots: list[int], firsts: list[int], at: str
) -> None:
    """S9, F41, R49: so many snapshots, and the segments from the oldest of them on, and so many besides."""
    storage, _ = open_storage(root, retention)
    with storage:
        grow(storage, 40, release=at == "each snapshot")
        if at == "the end":
            storage.release(snapshot(37))
    if at == "the next life":
        storage, _ = open_storage(root, retention)
        with storage:
            storage.release(snapshot(37))

    assert kept(root) == (snapshots, firsts)


def test_by_default_two_snapshots_are_kept(root: Path) -> None:
    """So that one damaged snapshot is never the end."""
    storage, _ = wal.open_storage(root, segment_size=SMALL, fs=UNSYNCED)
    with storage:
        grow(storage, 40)

    assert Retention() == Retention(snapshots=2, segments=0)
    assert kept(root)[0] == [27, 37]


@pytest.mark.parametrize(
    "values",
    [pytest.param((0, 0), id="no snapshot"), pytest.param((-1, 0), id="fewer"), pytest.param((1, -1), id="-1")],
)
def test_a_retention_keeps_one_snapshot_at_least(values: tuple[int, int]) -> None:
    """And it is a value that does not change."""
    with pytest.raises(ValueError, match="at least one snapshot"):
        Retention(*values)
    with pytest.raises(FrozenInstanceError):
        Retention().snapshots = 0  # type: ignore[misc]


@pytest.mark.parametrize("given", [snapshot(17), SnapshotMarker(17)], ids=["snapshot", "marker"])
def test_newer_snapshots_than_the_given_one_are_kept(root: Path, given: SnapshotData | SnapshotMarker) -> None:
    """Nobody has asked about what is newer."""
    storage, _ = open_storage(root, Retention(1))
    with storage:
        grow(storage, 40, release=False)
        storage.release(given)

        assert kept(root) == ([17, 27, 37], [16, 21, 26, 31, 36])


def test_releasing_again_changes_nothing(root: Path) -> None:
    """Also an older snapshot than the last one released."""
    storage, _ = open_storage(root, Retention(1))
    with storage:
        grow(storage, 40)
        before = tree(root)
        for index in (37, 27, 17, 0):
            storage.release(SnapshotMarker(index))

    assert kept(root)[0] == [37]
    assert {name for name in tree(root) if ".snap" in name} == {name for name in before if ".snap" in name}


@pytest.mark.parametrize("index", [5, 9, 20, 99])
@pytest.mark.parametrize("retention", [Retention(1), Retention(2), None], ids=["one", "two", "everything"])
def test_releasing_what_was_never_saved(root: Path, retention: Retention | None, index: int) -> None:
    """P13: at most what is older than the snapshots that are there goes; databases, too."""
    storage, _ = open_storage(root, retention)
    with storage:
        grow(storage, 20, release=False)
        for database in (7, 17):
            storage.snapshotter.save_db_from(io.BytesIO(b"database"), database)
        newest = max((i for i in (7, 17) if i <= index), default=0)
        storage.release(SnapshotMarker(index))

        if newest:
            assert storage.snapshotter.db_path(newest)
    check_every_kept_snapshot(root, 20)


def test_a_damaged_snapshot_does_not_count_as_kept(root: Path) -> None:
    """P13: instead of it an older one is kept, with its segments, and it goes when it is older than those."""
    storage, _ = open_storage(root, None)
    with storage:
        grow(storage, 40)
    damage(root, 37)
    damage(root, 17)

    storage, recovered = open_storage(root, Retention(2))
    with storage:
        assert recovered.snapshot == snapshot(27)
        storage.release(snapshot(37))
        assert kept(root) == ([7, 17, 27, 37], [6, 11, 16, 21, 26, 31, 36])
        grow(storage, 50)
        assert kept(root)[0] == [27, 37, 47]
        grow(storage, 60)
        assert kept(root)[0] == [47, 57]
    check_every_kept_snapshot(root, 60)


def test_if_no_snapshot_is_intact_nothing_goes(root: Path) -> None:
    """P13: the log from its beginning on is all there is."""
    storage, _ = open_storage(root, None)
    with storage:
        grow(storage, 40)
    for index in (7, 17, 27, 37):
        damage(root, index)
    before = kept(root)

    storage, recovered = open_storage(root, Retention(1))
    with storage:
        assert recovered.entries == [entry(index) for index in range(1, 41)]
        storage.release(snapshot(37))

    assert kept(root) == before


def test_a_file_that_the_log_does_not_know_does_not_count_as_kept(root: Path) -> None:
    """R46: what a crash left before its marker is no snapshot yet."""
    storage, _ = open_storage(root, Retention(1))
    with storage:
        grow(storage, 12)
        storage.snapshotter.save(snapshot(12))
        storage.release(snapshot(12))

        assert kept(root) == ([7, 12], [6, 11])
    assert open_and_close(root).snapshot == snapshot(7)


def test_a_locked_segment_is_removed_by_a_later_release(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """R41: as long as another program has it, the log grows, and says so; then all of it goes."""
    storage, _ = open_storage(root, Retention(1))
    with storage:
        grow(storage, 7, release=False)
        storage.log.release(SnapshotMarker(7))  # so that it can be locked by somebody else
        with locked(segments(root / "wal")[0]):
            grow(storage, 40)
            assert kept(root) == ([37], [0, 6, 11, 16, 21, 26, 31, 36])
            assert "is in use" in caplog.text
        storage.release(snapshot(37))

        assert kept(root) == ([37], [36])


def test_a_failing_release_leaves_what_opens(tmp_path: Path) -> None:
    """P13: fail the i-th call. Every snapshot that is left can be recovered; releasing again does what was left."""
    for number in count(1):
        path, fs = tmp_path / str(number), Disk()
        storage, _ = open_storage(path, Retention(2), fs)
        with storage:
            grow(storage, 40, release=False)
            fs.fail("any", number=number)
            with suppress(OSError, wal.WALFailedError):
                storage.release(snapshot(37))
            clean = bool(fs.faults)
            fs.faults.clear()
            check_every_kept_snapshot(path, 40)
            storage.release(snapshot(37))
            assert kept(path) == ([27, 37], [26, 31, 36])
        assert not fs.open_descriptors
        shutil.rmtree(path)
        if clean:
            break


# ---------------------------------------------------------------------------------------- what is kept can be recovered


def open_and_close(path: Path, fs: wal.FileSystem = UNSYNCED) -> Recovered:
    storage, recovered = open_storage(path, None, fs)
    storage.close()
    return recovered


def check_every_kept_snapshot(path: Path, last: int) -> None:
    """P13, P14: each snapshot that is there and intact can be recovered from if all newer ones are damaged."""
    copy = Path(shutil.copytree(path, path.with_name("copy")))
    for index in reversed(kept(copy)[0]):
        recovered = open_and_close(copy)
        if recovered.snapshot == snapshot(index):
            assert recovered.entries == [entry(i) for i in range(index + 1, last + 1)]
        else:
            assert index in [int(error.path.stem, 16) for error in recovered.skipped]
        damage(copy, index)
    shutil.rmtree(copy)


def check_crashed_storage(disk: SimulatedDisk, acceptable: Sequence[int]) -> None:
    """A storage holds entries up to one of these, from each of its snapshots on, and at least one of them."""
    recovered = open_and_close(TOP / "storage", disk)
    assert recovered.snapshot is not None
    last = recovered.snapshot.index + len(recovered.entries)
    assert last in acceptable
    files = dict(disk.files())
    known = {marker.index for marker in wal.valid_snapshots(TOP / "storage" / "wal", fs=disk)}
    for name in sorted(files, reverse=True):
        if name.endswith(".snap") and (index := int(Path(name).stem, 16)) in known:
            recovered = open_and_close(TOP / "storage", SimulatedDisk(files))
            assert recovered.snapshot == snapshot(index)
            assert recovered.entries == [entry(i) for i in range(index + 1, last + 1)]
            files[name] = b"damaged"


@pytest.mark.parametrize(
    "retention", [Retention(1), Retention(2), Retention(2, 1)], ids=["one", "two", "two and a segment"]
)
def test_a_crash_at_any_moment_leaves_snapshots_that_can_be_recovered(
    retention: Retention, caplog: pytest.LogCaptureFixture
) -> None:
    """P13, P14: before each call of saves, snapshots and releases, a kill or a power cut; all that is there is good."""
    caplog.set_level(logging.ERROR, logger="wal")
    disk = SimulatedDisk()
    storage, _ = open_storage(TOP / "storage", retention, disk)
    with storage:
        grow(storage, 18)
        with Watch(disk, check_crashed_storage) as watch:
            for index in range(19, 38):
                watch.expect([index - 1, index])
                grow(storage, index)

    assert watch.complaints == []
    assert watch.crashes > 100


class Model:
    """What a storage must be able to give back, whatever is done to it."""

    def __init__(self, retention: Retention | None) -> None:
        self.disk = SimulatedDisk()
        self.retention = retention
        self.damaged: set[int] = set()
        self.storage, _ = open_storage(TOP / "storage", retention, self.disk)

    @property
    def files(self) -> list[int]:
        return sorted(int(name[-21:-5], 16) for name in self.disk.files() if name.endswith(".snap"))

    def grow(self, number: int) -> None:
        for _ in range(number):
            self.storage.save_entry([entry(self.storage.last_index + 1)])

    def snap(self, _: int) -> None:
        with suppress(wal.SnapshotOutOfDateError):
            self.storage.save_snap(snapshot(self.storage.last_index))

    def release(self, _: int) -> None:
        before = [index for index in self.files if index not in self.damaged]
        self.storage.release(snapshot(self.storage.last_index))
        after = [index for index in self.files if index not in self.damaged]
        assert after == (before if self.retention is None else before[-self.retention.snapshots :])

    def reopen(self, number: int) -> None:
        """Close; damage one of the snapshots or none; open."""
        self.storage.close()
        files = dict(self.disk.files())
        victims = [index for index in self.files if index not in self.damaged]
        if number < len(victims) - 1:  # the last good one is needed
            self.damaged.add(victims[number])
            files[f"storage/snap/{victims[number]:016x}.snap"] = b"damaged"
        self.disk = SimulatedDisk(files)
        self.storage, recovered = open_storage(TOP / "storage", self.retention, self.disk)
        assert [int(error.path.stem, 16) for error in recovered.skipped] == sorted(
            (index for index in self.damaged & {*self.files} if index > max({*self.files} - self.damaged, default=0)),
            reverse=True,
        )

    def close(self) -> None:
        self.storage.close()
        last = self.storage.last_index
        files = dict(self.disk.files())
        for index in reversed(self.files):
            if index not in self.damaged:
                recovered = open_and_close(TOP / "storage", SimulatedDisk(files))
                assert recovered.snapshot == snapshot(index)
                assert recovered.entries == [entry(i) for i in range(index + 1, last + 1)]
            files[f"storage/snap/{index:016x}.snap"] = b"damaged"


STEPS = st.lists(
    st.tuples(st.sampled_from(["grow", "grow", "snap", "snap", "release", "reopen"]), st.integers(0, 12)), max_size=30
)


@settings(max_examples=60)
@given(retention=st.none() | st.builds(Retention, st.integers(1, 3), st.integers(0, 2)), steps=STEPS)
def test_whatever_is_done_what_is_kept_can_be_recovered(
    retention: Retention | None, steps: list[tuple[str, int]]
) -> None:
    """P13, P14: any order of saves, snapshots, releases, reopening, and damage to snapshots."""
    logging.getLogger("wal").setLevel(logging.ERROR)
    model = Model(retention)
    try:
        for name, number in steps:
            getattr(model, name)(number)
    finally:
        model.close()
        logging.getLogger("wal").setLevel(logging.NOTSET)


# --------------------------------------------------------------------------------------------------- database snapshots


def databases(storage: FileStorage) -> list[int]:
    return [int(file.name[:16], 16) for file in sorted(storage.snapshotter.path.glob("*.snap.db"))]


def grow_with_databases(storage: FileStorage, stop: int) -> None:
    for index in range(7, stop + 1, 10):
        storage.snapshotter.save_db_from(io.BytesIO(b"database %d" % index), index)
        grow(storage, index)


def test_databases_go_with_their_snapshots(root: Path) -> None:
    """R49: one is left, as of the snapshots."""
    storage, _ = open_storage(root, Retention(1))
    with storage:
        grow_with_databases(storage, 40)

        assert databases(storage) == kept(root)[0] == [37]
        assert storage.snapshotter.db_path(37).read_bytes() == b"database 37"


def test_a_kept_snapshot_keeps_its_database(root: Path) -> None:
    """P13: a snapshot without the database that belongs to it could not be recovered from."""
    storage, _ = open_storage(root, Retention(2))
    with storage:
        grow_with_databases(storage, 40)

        assert databases(storage) == kept(root)[0] == [27, 37]


def test_a_database_that_is_newer_than_the_snapshot_stays(root: Path) -> None:
    """It was streamed in by another node, and its snapshot comes next."""
    storage, _ = open_storage(root, Retention(1))
    with storage:
        storage.snapshotter.save_db_from(io.BytesIO(b"ahead"), 99)
        grow_with_databases(storage, 20)

        assert databases(storage) == [17, 99]


# -------------------------------------------------------------------------------------------------- bounded on the disk


class Measured(Unsynced):
    """Notes the most bytes that were ever in the files below a directory. Before something goes, it is the most."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.most = 0

    def measure(self) -> int:
        size = sum(entry.stat().st_size for part in os.scandir(self.root) for entry in os.scandir(part))
        self.most = max(self.most, size)
        return size

    def truncate(self, fd: int, size: int) -> None:
        self.measure()
        super().truncate(fd, size)

    def unlink(self, path: Path) -> None:
        self.measure()
        super().unlink(path)

    def rename(self, old: Path, new: Path) -> None:
        self.measure()
        super().rename(old, new)


@pytest.mark.parametrize(
    ("retention", "segment_size"),
    [
        pytest.param(Retention(1), 64_000, id="one snapshot"),
        pytest.param(Retention(2), 1_000_000, id="two snapshots"),
        pytest.param(Retention(3, 2), 64_000, id="three snapshots and two segments"),
    ],
)
def test_a_storage_does_not_grow(root: Path, retention: Retention, segment_size: int) -> None:
    """
    F41, S9: however much is written, the files are never larger than what the retention allows:

    * the log written since the oldest snapshot kept, until the release after the next snapshot: so many intervals
      between two snapshots as snapshots are kept;
    * the older part of the segment in which that begins, and the reserved space in the last one: a segment each, and
      the segments kept besides; one save may take each over its size;
    * the kept snapshots, and one in the making.
    """
    entry_size, save_of, saves_between, state_size = 1000, 10, 100, 20_000
    fs = Measured(root)
    storage, _ = wal.open_storage(root, segment_size=segment_size, retention=retention, sync=False, fs=fs)
    written = 0
    with storage:
        for number in count(1):
            first = storage.last_index + 1
            data = bytes(entry_size)
            storage.save(CommitState(first), [Entry(index, data) for index in range(first, first + save_of)])
            written += save_of * entry_size
            if number % saves_between == 0:
                state = SnapshotData(first, bytes(state_size))
                storage.save_snap(state)
                storage.release(state)
                if written >= RETENTION_MB * 1_000_000:
                    break
    fs.measure()

    frame, head, snapshot_file = entry_size + 50, 200, state_size + 50
    save = save_of * frame + head
    interval = saves_between * save
    segment = segment_size + save
    bound = (
        retention.snapshots * interval + (2 + retention.segments) * segment + (retention.snapshots + 1) * snapshot_file
    )
    print(f"{written:,} bytes written, at most {fs.most:,} on disk, bound {bound:,}")  # noqa: T201
    assert fs.most <= bound
    assert bound < written / 4, "too little was written to tell"
