"""Real disks that are full, become read-only, or lose their power: small file systems, mounted for the test."""

from __future__ import annotations

import errno
import os
import random
import select
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import wal
from damage import overwrite, unstamp
from logs import SMALL, Child, segments, tree, untouched
from scenes import SCENES, STEPS, Sync, as_read, held_after
from volumes import KIB, Ext4, Memory, PowerCut, Volume, why_not
from wal import CommitState, Entry, SnapshotData, SnapshotMarker

pytestmark = [
    pytest.mark.torture,
    pytest.mark.skipif(bool(why_not()), reason=f"needs to mount file systems: {why_not()}"),
]

Effort = Callable[..., int]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Volume]]:
    """Volumes that are mounted once, because that takes most of the time."""
    root = tmp_path_factory.mktemp("volumes")
    with Ext4(root / "ext4") as on_disk, Memory(root / "tmpfs") as in_memory:
        yield {"ext4": on_disk, "tmpfs": in_memory}


@pytest.fixture(params=["ext4", "tmpfs"])
def volume(request: pytest.FixtureRequest, volumes: dict[str, Volume]) -> Iterator[Volume]:
    """An empty file system."""
    found = volumes[request.param]
    yield found
    found.clear()


@pytest.fixture
def ext4(volumes: dict[str, Volume]) -> Iterator[Ext4]:
    """An empty file system that is ext4."""
    found = volumes["ext4"]
    assert isinstance(found, Ext4)
    yield found
    found.clear()


def entry(index: int, size: int = 700) -> Entry:
    return Entry(index, (b"%d " % index * size)[:size])


def grow(log: wal.WAL | wal.FileStorage, stop: int) -> None:
    for index in range(log.last_index + 1, stop + 1):
        log.save(CommitState(index), [entry(index)])


def reopened(path: Path) -> list[wal.LogEntry]:
    """Open a log as its owner would, let it go on, and return the entries that it held."""
    log, _, _, entries = wal.read_wal(path, segment_size=SMALL)
    with log:
        grow(log, log.last_index + 20)
    assert wal.verify(path).tail is None
    assert not list(path.glob("*.tmp"))
    return entries


def left(effort: Effort, most: int = 24 * KIB) -> list[int]:
    """Return how many bytes are left on disks that are about to be full."""
    parts = effort(quick=1, full=12, deep=96)
    return [most * part // parts for part in range(parts + 1)]


# ----------------------------------------------------------------------------------------------------- a full disk


SAVES = {
    "one small entry": [700],
    "one that fills a segment": [SMALL],
    "many entries": [2000] * 30,
    "one large entry": [64 * KIB],
}


@pytest.mark.parametrize("sizes", SAVES.values(), ids=SAVES)
def test_a_full_disk_stops_the_log_and_costs_nothing(volume: Volume, effort: Effort, sizes: list[int]) -> None:
    """P1, P2, P5, R20, R21: the disk is full in a save or in a cut; space that comes back does not revive the log."""
    for space in left(effort):
        path = volume.path / str(space)
        log = wal.WAL.create(path, segment_size=SMALL)
        grow(log, 5)
        saved = [entry(index) for index in range(1, 6)]
        volume.fill(leave=space)

        with pytest.raises(wal.WALFailedError) as full:
            while True:
                batch = [entry(index, size) for index, size in enumerate(sizes, len(saved) + 1)]
                log.save_entry(batch)
                saved += batch

        assert isinstance(full.value.__cause__, OSError)
        assert full.value.__cause__.errno == errno.ENOSPC
        check_that_it_stays_stopped(log)
        volume.empty()
        check_that_it_stays_stopped(log)
        log.close()
        assert reopened(path) in (saved, saved + batch)


def check_that_it_stays_stopped(log: wal.WAL) -> None:
    before = untouched(log.path)
    for _ in range(100):
        with pytest.raises(wal.WALFailedError):
            log.save_entry([entry(log.last_index + 1)])
    with pytest.raises(wal.WALFailedError):
        log.sync()
    assert untouched(log.path) == before


def test_a_marker_on_a_full_disk_is_there_or_not(volume: Volume, effort: Effort) -> None:
    """P2, P5: the marker begins a segment for which there is no space."""
    for space in left(effort, 8 * KIB):
        path = volume.path / str(space)
        log = wal.WAL.create(path, segment_size=SMALL)
        markers = [SnapshotMarker(0)]
        volume.fill(leave=space)
        with pytest.raises(wal.WALFailedError):
            for index in range(1, 1000):
                log.save(CommitState(index), [entry(index, 50)])
                log.save_snap(SnapshotMarker(index))
                markers.append(SnapshotMarker(index))
        log.close()
        volume.empty()

        entries = reopened(path)
        assert entries == [entry(n, 50) for n in range(1, len(entries) + 1)]
        assert len(entries) in (len(markers) - 1, len(markers))
        found = wal.valid_snapshots(path)
        assert found[: len(markers)] == markers
        assert len(found) <= len(entries) + 1


@pytest.mark.parametrize("there", ["nothing", "a directory", "other files"])
def test_a_create_on_a_full_disk_leaves_nothing(volume: Volume, effort: Effort, there: str) -> None:
    """P11, R30, R32: there is a whole log or what was there before, and with space again it can be made."""
    refused = 0
    for space in left(effort, 8 * KIB):
        path = volume.path / str(space) / "log"
        if there != "nothing":
            path.mkdir(parents=True)
        if there == "other files":
            (path / "lost+found").mkdir()
            (path / "notes").write_bytes(b"not a log")
        volume.fill(leave=space)
        before = tree(volume.path)
        try:
            wal.WAL.create(path, b"node", segment_size=SMALL).close()
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert tree(volume.path) == before
            refused += 1
            volume.empty()
            wal.WAL.create(path, b"node", segment_size=SMALL).close()
        else:
            volume.empty()
        assert reopened(path) == []
    assert refused


def test_a_log_on_a_full_disk_can_be_opened_and_written_where_space_is_reserved(volume: Volume) -> None:
    """R13, R27: a full disk does not keep a log from being opened, nor the rest of its segment from being used."""
    path = volume.path / "log"
    with wal.WAL.create(path, segment_size=64 * KIB) as log:
        grow(log, 5)
    volume.fill()

    log, _, _, entries = wal.read_wal(path, segment_size=64 * KIB)
    with log:
        assert entries == [entry(index) for index in range(1, 6)]
        grow(log, 60)
    assert wal.verify(path).last_index == 60


def test_a_snapshot_on_a_full_disk_leaves_the_ones_before(volume: Volume, effort: Effort) -> None:
    """P14, R25, S1, R49: the storage goes on without it, and takes it when there is space again."""
    refused = 0
    for space in left(effort):
        path = volume.path / str(space)
        storage, _ = wal.open_storage(path, b"node", segment_size=64 * KIB)
        grow(storage, 3)
        storage.save_snap(SnapshotData(2, b"good"))
        taken = SnapshotData(3, b"large" * 3000)
        volume.fill(leave=space)
        before = tree(path / "snap")
        try:
            storage.save_snap(taken)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            refused += 1
            assert tree(path / "snap") == before
            assert storage.snapshotter.load() == SnapshotData(2, b"good")
            grow(storage, 4)
            volume.empty()
            storage.save_snap(taken)
        else:
            volume.empty()
        grow(storage, 5)
        storage.close()

        storage, recovered = wal.open_storage(path, segment_size=64 * KIB)
        storage.close()
        assert recovered.snapshot == taken
        assert recovered.entries == [entry(4), entry(5)]
        assert recovered.skipped == ()
    assert refused


def test_a_snapshot_that_cannot_be_replaced_stays(volume: Volume, effort: Effort) -> None:
    """P14, S1: the file of the same index is what it was, until the new one is there as a whole."""
    for space in left(effort):
        snapshotter = wal.Snapshotter(volume.path / str(space))
        snapshotter.save(SnapshotData(7, b"good"))
        volume.fill(leave=space)
        with pytest.raises(OSError, match="No space") as full:
            snapshotter.save(SnapshotData(7, bytes(64 * KIB)), replace=True)

        assert full.value.errno == errno.ENOSPC
        assert snapshotter.load() == SnapshotData(7, b"good")
        assert snapshotter.sweep() == []
        volume.empty()


TORN = bytes(range(1, 256)) * 64


@pytest.mark.parametrize("mend", [wal.repair, lambda path: wal.read_wal(path).wal.close()], ids=["repair", "read_wal"])
def test_a_repair_without_space_for_its_copy_changes_nothing(
    volume: Volume, effort: Effort, mend: Callable[[Path], object]
) -> None:
    """P10, R13: what is cut is kept first; if that cannot be, nothing is cut."""
    refused = 0
    for space in left(effort, 32 * KIB):
        path = volume.path / str(space)
        with wal.WAL.create(path, segment_size=SMALL) as log:
            grow(log, 3)
        unstamp(segments(path)[0])
        overwrite(segments(path)[0], wal.verify(path).bytes, TORN)
        volume.fill(leave=space)
        before = untouched(path)
        try:
            mend(path)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            refused += 1
            assert untouched(path) == before
        volume.empty()

        assert reopened(path) == [entry(index) for index in range(1, 4)]
        assert [file.read_bytes() for file in path.glob("*.broken")] == [TORN]
    assert 0 < refused < len(left(effort))


# --------------------------------------------------------------------------------------------------- a read-only disk


WRITES: dict[str, Callable[[wal.WAL], None]] = {
    "a save": lambda log: log.save_entry([entry(log.last_index + 1)]),
    "a save that cuts": lambda log: log.save_entry([entry(log.last_index + 1, 2 * SMALL)]),
    "a state": lambda log: log.save_state(CommitState(1)),
    "a marker": lambda log: log.save_snap(SnapshotMarker(2)),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_disk_that_becomes_read_only_stops_the_log(ext4: Ext4, write: Callable[[wal.WAL], None]) -> None:
    """P5, P8: ext4 does so at an error, under the writer; what was acknowledged can still be read."""
    log = wal.WAL.create(ext4.path / "log", segment_size=SMALL)
    grow(log, 5)
    log.save_entry([entry(6, SMALL)])
    saved = [*(entry(index) for index in range(1, 6)), entry(6, SMALL)]

    ext4.become_read_only()

    with pytest.raises(wal.WALFailedError) as stopped:
        write(log)
    assert isinstance(stopped.value.__cause__, OSError)
    assert stopped.value.__cause__.errno == errno.EROFS
    check_that_it_stays_stopped(log)
    log.close()
    assert wal.WALReader(log.path).read_all().entries == saved
    ext4.power_on()
    assert reopened(log.path) == saved


def test_reading_works_on_a_read_only_disk(ext4: Ext4) -> None:
    """P8: readers, ``verify`` and loading a snapshot need no right to write; whoever writes is told why he cannot."""
    path = ext4.path / "storage"
    with wal.open_storage(path, b"node", segment_size=SMALL)[0] as storage:
        grow(storage, 20)
        storage.save_snap(SnapshotData(15, b"good"))
        grow(storage, 25)
    torn = ext4.path / "torn"
    with wal.WAL.create(torn, segment_size=SMALL) as log:
        grow(log, 3)
        overwrite(segments(torn)[0], wal.verify(torn).bytes, TORN)
    ext4.unmount()
    ext4.mount("ro")

    entries = [entry(index) for index in range(1, 26)]
    assert wal.exists(path / "wal")
    assert wal.WALReader(path / "wal").read_all() == (b"node", CommitState(25), entries, None)
    assert wal.WALReader(path / "wal", SnapshotMarker(15)).read_all().entries == entries[15:]
    assert wal.verify(path / "wal").entries == 25
    assert wal.valid_snapshots(path / "wal") == [SnapshotMarker(0), SnapshotMarker(15)]
    assert wal.Snapshotter(path / "snap").load() == SnapshotData(15, b"good")
    assert isinstance(wal.verify(torn).tail, wal.TornWriteError)
    writers: list[Callable[[], object]] = [
        lambda: wal.read_wal(path / "wal"),
        lambda: wal.open_storage(path),
        lambda: wal.repair(torn),
        lambda: wal.purge(path / "wal", SnapshotMarker(15)),
        lambda: wal.WAL.create(ext4.path / "new"),
        lambda: wal.Snapshotter(path / "snap").save(SnapshotData(16)),
    ]
    for writer in writers:
        with pytest.raises(OSError, match="Read-only") as refused:
            writer()
        assert refused.value.errno == errno.EROFS


# --------------------------------------------------------------------------------------------------------- a power cut


SYNCED = STEPS.index(Sync()) + 1
"""So many steps are durable, when they are done, of a log that does not sync each save."""


@pytest.mark.parametrize("name", SCENES)
def test_a_power_cut_before_any_call_costs_nothing_that_was_acknowledged(ext4: Ext4, effort: Effort, name: str) -> None:
    """P1, P2, P4, P5, P10, P11, P13, P14, P18, R30, R33, R34, R35: ext4 loses what it was not told to sync."""
    stride = effort(quick=41, full=1, deep=1)
    scene, number, runs_clean = SCENES[name], 1 + len(name) % stride, False
    while not runs_clean:
        path = ext4.path / str(number)
        scene.prepare(path)
        ext4.sync()
        fs = PowerCut(ext4, number)
        done = acknowledged = 0
        try:
            target = scene.open(path, fs)
            try:
                for done, step in enumerate(STEPS, 1):
                    step.do(target)
                    acknowledged = done if len(fs.trace) < number else acknowledged  # before the cut
            finally:
                target.close()
            runs_clean = len(fs.trace) < number
        except (OSError, wal.WALError):
            assert len(fs.trace) >= number
        assert not fs.open_descriptors
        if not runs_clean:
            ext4.power_on()

        if name == "log without sync":
            acknowledged = SYNCED if acknowledged >= SYNCED else 0
        possible = [as_read(scene, held_after(steps)) for steps in range(acknowledged, done + 1)]
        assert scene.reopened(path) in possible, f"the power was cut before call {number}: {fs.trace[number - 3 :]}"
        number += stride
    assert number > 60, "the scenes have as many calls"


def test_power_cuts_at_random_moments_cost_nothing_that_was_acknowledged(ext4: Ext4, effort: Effort) -> None:
    """P1, P2, P4: a process saves on and on, and acknowledges; the same log lives through all the cuts."""
    times = random.Random(14)
    path = ext4.path / "log"
    wal.WAL.create(path, segment_size=SMALL).close()
    saved = 0

    def save_until_it_fails(acknowledge: int) -> str:
        with wal.read_wal(path, segment_size=SMALL).wal as log:
            while True:
                try:
                    grow(log, log.last_index + 1)
                except wal.WALFailedError as error:
                    return errno.errorcode[error.__cause__.errno]  # type: ignore[union-attr]
                os.write(acknowledge, b"!")

    for number in range(effort(quick=8, full=150, deep=3000)):
        reading, writing = os.pipe()
        with Child(lambda to=writing: save_until_it_fails(to)) as child:  # type: ignore[misc]
            os.close(writing)
            select.select([reading], [], [], times.uniform(0, 0.03))
            before = len(os.read(reading, 1))  # at least one, however slow the machine is
            select.select([], [], [], times.uniform(0, 0.02))
            os.set_blocking(reading, False)
            with suppress(BlockingIOError):
                before += len(os.read(reading, 1 << 16))
            ext4.cut_power()
            assert child.wait() in ("'EIO'", "'EROFS'")
        after = len(os.read(reading, 1 << 16))  # nobody would have heard of these
        os.close(reading)
        ext4.power_on()

        log, _, state, entries = wal.read_wal(path, segment_size=SMALL)
        log.close()
        assert saved + before <= len(entries) <= saved + before + after + 1, f"cut {number}"
        assert entries == [entry(index) for index in range(1, len(entries) + 1)]
        assert state == CommitState(len(entries))
        saved = len(entries)
        if saved > 400:  # the disk is small
            ext4.clear()
            wal.WAL.create(path, segment_size=SMALL).close()
            saved = 0


def test_a_disk_copied_at_any_moment_has_all_that_was_acknowledged(ext4: Ext4, effort: Effort) -> None:
    """P1: copied under the running writer and mounted elsewhere, it holds exactly the saves that have returned."""
    with wal.WAL.create(ext4.path / "log", segment_size=SMALL) as log:
        for number in range(effort(quick=5, full=60, deep=300)):
            grow(log, log.last_index + 1 + number % 5)
            with ext4.as_if_cut_now() as copy:
                recovered, _, state, entries = wal.read_wal(copy / "log")
                recovered.close()
                assert entries == [entry(index) for index in range(1, log.last_index + 1)]
                assert state == CommitState(log.last_index)
