"""Opening: which calls are allowed before reading, what is read, and what opening does to the disk."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import wal
from damage import overwrite, truncate, unstamp
from logs import SMALL, Disk, frames, in_child, indexes, read, segments, tree, untouched
from segments import segment_of, write_log
from wal import CommitState, Entry, RecordType, SnapshotMarker
from wal._names import SegmentName

METADATA = b"node"


def make(path: Path, *, segments: int = 1) -> None:
    """Make a log with entry 1 in the first segment, entry 2 in the second, and so on; all are committed."""
    with wal.WAL.create(path, METADATA, segment_size=SMALL, fs=Disk()) as log:
        for index in range(1, segments + 1):
            log.save(CommitState(index), [Entry(index, b"%d" % index * (1 if index == segments else SMALL))])


def end(segment: Path) -> int:
    """Return where the used part of an intact segment ends."""
    *_, last = frames(segment)
    return last.offset + last.length


def tear(path: Path) -> None:
    """Leave half a frame of a save behind the end of the log."""
    tail = segments(path)[-1]
    unstamp(tail)
    overwrite(tail, end(tail), b"\x30\0\0\0\0\0\0\x38" + b"\x55" * 20)


# ------------------------------------------------------------------------------------------------------- before reading


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda log: log.save(CommitState(9), [Entry(2)]), id="save"),
        pytest.param(lambda log: log.save(None, None), id="save of nothing"),
        pytest.param(lambda log: log.save_entry([Entry(2)]), id="save_entry"),
        pytest.param(lambda log: log.save_entry([]), id="save_entry of nothing"),
        pytest.param(lambda log: log.save_state(CommitState(9)), id="save_state"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(1)), id="save_snap"),
        pytest.param(lambda log: log.sync(), id="sync"),
        pytest.param(lambda log: log.metadata, id="metadata"),
        pytest.param(lambda log: log.state, id="state"),
        pytest.param(lambda log: log.last_index, id="last_index"),
    ],
)
def test_an_opened_log_must_be_read_first(path: Path, call: Callable[[wal.WAL], object]) -> None:
    """R56, F24: nothing is known about its end yet; the call says so, writes nothing, and reading still works."""
    make(path)
    before = untouched(path)
    fs = Disk()
    with wal.WAL.open(path, fs=fs) as log:
        fs.trace.clear()
        with pytest.raises(wal.NotReadError):
            call(log)
        assert fs.trace == []
        assert untouched(path) == before

        assert log.read_all().entries == [Entry(1, b"1")]
        call(log)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(lambda log: log.path.name, "wal", id="path"),
        pytest.param(lambda log: log.first_index, 1, id="first_index"),
        pytest.param(lambda log: log.repaired, None, id="repaired"),
        pytest.param(lambda log: log.closed, False, id="closed"),
        pytest.param(lambda log: repr(log)[-9:], "not read>", id="repr"),
        pytest.param(lambda log: log.release(SnapshotMarker(0)), None, id="release"),
        pytest.param(lambda log: log.close(), None, id="close"),
    ],
)
def test_some_things_need_no_reading(path: Path, call: Callable[[wal.WAL], object], expected: object) -> None:
    """R56: what the directory alone tells."""
    make(path)
    with wal.WAL.open(path) as log:
        assert call(log) == expected


@pytest.mark.parametrize("ready", [True, False], ids=["read", "not read"])
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda log: log.save(CommitState(9), [Entry(2)]), id="save"),
        pytest.param(lambda log: log.save(None, None), id="save of nothing"),
        pytest.param(lambda log: log.save_entry([Entry(2)]), id="save_entry"),
        pytest.param(lambda log: log.save_state(CommitState(9)), id="save_state"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(1)), id="save_snap"),
        pytest.param(lambda log: log.sync(), id="sync"),
        pytest.param(lambda log: log.release(SnapshotMarker(1)), id="release"),
        pytest.param(lambda log: log.read_all(), id="read_all"),
        pytest.param(lambda log: list(log.replay()), id="replay"),
    ],
)
def test_a_closed_log_refuses_every_call(path: Path, call: Callable[[wal.WAL], object], ready: bool) -> None:
    """R56: with its own error, and without a look at the disk."""
    make(path)
    fs = Disk()
    with wal.WAL.open(path, fs=fs) as log:
        if ready:
            log.read_all()
    fs.trace.clear()

    with pytest.raises(wal.WALClosedError):
        call(log)

    assert fs.trace == []
    log.close()
    assert indexes(path) == [1]


def test_a_closed_log_still_tells_what_it_was(path: Path) -> None:
    """The properties need no lock."""
    make(path)
    with wal.read_wal(path).wal as log:
        pass

    assert (log.path, log.metadata, log.state, log.last_index, log.closed) == (
        path,
        METADATA,
        CommitState(1),
        1,
        True,
    )


def test_a_log_closed_in_the_middle_of_a_replay_is_not_ready(path: Path) -> None:
    """R57: the replay ends with the error of a closed log."""
    make(path, segments=3)
    log = wal.WAL.open(path)
    replay = log.replay()
    next(replay)
    log.close()

    with pytest.raises(wal.WALClosedError):
        list(replay)


# -------------------------------------------------------------------------------------------------------------- reading


def test_reading_twice_gives_the_same(path: Path) -> None:
    """R56: before the first save and after it."""
    make(path, segments=3)
    with wal.WAL.open(path, segment_size=SMALL) as log:
        first = log.read_all()
        assert log.read_all() == first
        log.save_entry([Entry(4)])

        assert log.read_all() == (METADATA, CommitState(3), [*first.entries, Entry(4)], None)
        log.save_entry([Entry(5)])
    assert indexes(path) == [1, 2, 3, 4, 5]


def test_a_replay_streams_and_leaves_the_log_ready(path: Path) -> None:
    """The log is ready when the iteration has come to its end, and not before."""
    make(path, segments=2)
    with wal.WAL.open(path, segment_size=SMALL) as log:
        replay = log.replay()
        first = next(replay)
        with pytest.raises(wal.NotReadError):
            log.save_entry([Entry(3)])
        rest = list(replay)
        log.save_entry([Entry(3)])

    assert [record.type.name for record in [first, *rest]] == [
        *["METADATA", "SNAPSHOT", "ENTRY", "STATE"],
        *["METADATA", "STATE", "ENTRY", "STATE"],
    ]
    assert first.value == METADATA
    assert indexes(path) == [1, 2, 3]


def test_a_replay_that_is_given_up_leaves_the_log_unread(path: Path) -> None:
    """It can be read again from the start, and no file stays open for it."""
    make(path, segments=3)
    fs = Disk()
    with wal.WAL.open(path, fs=fs) as log:
        held = set(fs.open_descriptors)
        replay = log.replay()
        for _ in range(3):
            next(replay)
        del replay

        assert fs.open_descriptors == held
        with pytest.raises(wal.NotReadError):
            log.sync()
        assert len(log.read_all().entries) == 3
        log.sync()


@pytest.mark.parametrize("read_it", [lambda log: log.read_all(), lambda log: list(log.replay())], ids=["all", "stream"])
def test_a_torn_tail_is_an_error_and_leaves_the_log_unread(path: Path, read_it: Callable[[wal.WAL], object]) -> None:
    """F21: only ``read_wal`` and ``repair`` cut, so the log is not ready, and nothing on disk has been changed."""
    make(path)
    at = end(segments(path)[0])
    tear(path)
    before = untouched(path)
    with wal.WAL.open(path) as log:
        with pytest.raises(wal.TornWriteError) as caught:
            read_it(log)
        assert (caught.value.path, caught.value.offset) == (segments(path)[0], at)
        with pytest.raises(wal.NotReadError):
            log.save_entry([Entry(2)])
        with pytest.raises(wal.TornWriteError):
            read_it(log)
    assert untouched(path) == before

    log, _, _, found = wal.read_wal(path)
    with log:
        assert found == [Entry(1, b"1")]
        assert log.repaired is not None
        assert (log.repaired.offset, log.repaired.bytes_cut) == (at, 28)
        log.save_entry([Entry(2)])
    assert indexes(path) == [1, 2]


def test_the_error_of_a_torn_tail_carries_the_entries(path: Path) -> None:
    """R11: what was read before it."""
    make(path, segments=2)
    tear(path)
    with wal.WAL.open(path) as log, pytest.raises(wal.TornWriteError) as caught:
        log.read_all()

    assert [entry.index for entry in caught.value.entries] == [1, 2]


# ----------------------------------------------------------------------------------------------------- what cannot open


@pytest.mark.parametrize("opening", [wal.WAL.open, wal.read_wal, wal.WALReader, wal.verify], ids=lambda f: f.__name__)
@pytest.mark.parametrize("scene", ["missing", "empty", "other files only", "inside a missing one"])
def test_a_directory_without_a_log_is_not_found(tmp_path: Path, opening: Callable[[Path], object], scene: str) -> None:
    """It is not made either, and a segment in preparation is no log."""
    path = tmp_path / "a" / "b" if scene == "inside a missing one" else tmp_path / "wal"
    if scene in ("empty", "other files only"):
        path.mkdir()
    if scene == "other files only":
        (path / "notes.txt").write_bytes(b"mine")
        (path / "0000000000000000-0000000000000000.wal.tmp").write_bytes(b"half")
    before = tree(tmp_path)

    with pytest.raises(wal.WALNotFoundError) as caught:
        opening(path)

    assert isinstance(caught.value, FileNotFoundError)
    assert tree(tmp_path) == before


def test_a_file_in_the_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    """It is not changed."""
    (tmp_path / "wal").write_bytes(b"precious")

    with pytest.raises(NotADirectoryError):
        wal.WAL.open(tmp_path / "wal")

    assert tree(tmp_path) == {"wal": b"precious"}


def test_a_directory_in_the_place_of_a_segment_is_an_error(path: Path) -> None:
    """Everything that was open by then is closed, so that the log opens when the directory is gone."""
    make(path)
    (path / str(SegmentName(1, 2))).mkdir()
    fs = Disk()

    with pytest.raises(IsADirectoryError):
        wal.WAL.open(path, fs=fs)

    assert not fs.open_descriptors
    (path / str(SegmentName(1, 2))).rmdir()
    wal.WAL.open(path).close()


@pytest.mark.parametrize("opening", [wal.WAL.open, wal.read_wal], ids=lambda f: f.__name__)
@pytest.mark.parametrize("lost", [(1,), (2,), (1, 2), (3,)], ids=str)
def test_a_gap_in_the_segments_is_an_error(
    path: Path, opening: Callable[[Path], object], lost: tuple[int, ...]
) -> None:
    """F28, R15: also right behind the first one; nothing is changed or held."""
    make(path, segments=5)
    for sequence in lost:
        segments(path)[sequence].rename(path.with_name(f"{sequence} is lost"))
    before = untouched(path)

    for _ in range(2):
        with pytest.raises(wal.SegmentGapError) as caught:
            opening(path)
        assert caught.value.path == path
    assert untouched(path) == before


@pytest.mark.parametrize("read_it", [lambda log: log.read_all(), lambda log: list(log.replay())], ids=["all", "stream"])
@pytest.mark.parametrize("index", [2, 4, 999, 2**64 - 1])
def test_a_snapshot_that_is_not_in_the_log_is_not_found(
    path: Path, read_it: Callable[[wal.WAL], object], index: int
) -> None:
    """R48, F8: the log says so when it has been read, stays unread, and nothing on disk has been changed."""
    make(path, segments=3)
    with wal.read_wal(path).wal as log:
        log.save_snap(SnapshotMarker(3))
    before = untouched(path)

    with wal.WAL.open(path, SnapshotMarker(index)) as log:
        with pytest.raises(wal.SnapshotNotFoundError) as caught:
            read_it(log)
        with pytest.raises(wal.NotReadError):
            log.save_entry([Entry(4)])

    assert caught.value.index == index
    assert isinstance(caught.value, LookupError)
    assert untouched(path) == before


def test_read_wal_at_an_unknown_snapshot_frees_everything(path: Path) -> None:
    """R48, R55: nobody was given a log to close."""
    make(path, segments=3)
    before = untouched(path)
    fs = Disk()

    with pytest.raises(wal.SnapshotNotFoundError):
        wal.read_wal(path, SnapshotMarker(2), fs=fs)

    assert not fs.open_descriptors
    assert untouched(path) == before


@pytest.mark.parametrize("index", [None, 0, 1, 2])
def test_a_snapshot_whose_segments_were_purged_is_not_found(path: Path, index: int | None) -> None:
    """R48: the beginning is a snapshot like others, and is gone with the first segment."""
    make(path, segments=5)
    for segment in segments(path)[:3]:
        segment.unlink()
    before = untouched(path)
    fs = Disk()

    with pytest.raises(wal.SnapshotNotFoundError) as caught:
        wal.WAL.open(path, None if index is None else SnapshotMarker(index), fs=fs)

    assert caught.value.index == (index or 0)
    assert not fs.open_descriptors
    assert untouched(path) == before


# ---------------------------------------------------------------------------------------------------- what opening does


def test_open_syncs_what_it_will_read(path: Path) -> None:
    """P4: what a killed process left unsynced is durable before anybody acts on it, and no byte is written."""
    make(path, segments=3)
    fs = Disk()
    with wal.WAL.open(path, fs=fs):
        first, second, third = map(str, segments(path))

        assert sorted(fs.of("fdatasync", "fsync")) == sorted(
            [("fdatasync", first), ("fdatasync", second), ("fdatasync", third), ("fsync", str(path))]
        )
        assert fs.of("pwrite", "truncate", "allocate", "rename", "unlink", "mkdir") == []
        assert fs.trace.index("lock_directory") < fs.trace.index("listdir") < fs.trace.index("fdatasync")


def test_open_sweeps_segments_in_preparation_and_nothing_else(path: Path) -> None:
    """R38, F43: a killed writer's are ours; every other file is somebody's."""
    make(path)
    others = {"0.tmp": b"a", "x.tmp": b"b", "1-2.wal.tmp": b"c", "lost+found": b"d", "a.broken": b"e"}
    for name, data in others.items():
        (path / name).write_bytes(data)
    (path / f"{SegmentName(1, 2)}.tmp").write_bytes(b"\xff" * 9000)
    (path / f"{SegmentName(7, 9)}.tmp").write_bytes(b"")
    log = tree(path)[str(SegmentName(0, 0))]

    wal.WAL.open(path).close()

    assert tree(path) == {**others, str(SegmentName(0, 0)): log}


@pytest.mark.parametrize(
    ("index", "first"),
    [
        pytest.param(0, 0, id="the beginning"),
        pytest.param(1, 0, id="the last of the first segment"),
        pytest.param(2, 1, id="the only one of the second"),
        pytest.param(3, 2, id="the third"),
        pytest.param(5, 4, id="the last"),
    ],
)
def test_open_at_a_snapshot_takes_the_segments_behind_it(path: Path, index: int, first: int) -> None:
    """The segment from which everything behind the snapshot can be read, and those after it, are held; no others."""
    with wal.WAL.create(path, METADATA, segment_size=SMALL) as log:
        for last in range(1, 6):
            log.save_entry([Entry(last, b"x" * SMALL)])
            log.save_snap(SnapshotMarker(last))
    fs = Disk()
    with wal.WAL.open(path, SnapshotMarker(index), fs=fs) as log:
        assert [target for _, target in fs.of("lock")] == [str(segment) for segment in segments(path)[first:]]
        assert log.first_index == max(1, first + 1)

        contents = log.read_all()
        assert contents.metadata == METADATA
        assert [entry.index for entry in contents.entries] == list(range(index + 1, 6))
        assert log.last_index == 5
        log.save_entry([Entry(6)])
    assert indexes(path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("index", [0, 2, 4])
def test_the_state_is_known_wherever_reading_starts(path: Path, index: int) -> None:
    """F7: a head repeats the last state, so segments before it are not needed for it."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        log.save_state(CommitState(7))
        for last in range(1, 6):
            log.save_entry([Entry(last, bytes(SMALL))])
            log.save_snap(SnapshotMarker(last))
    for segment in segments(path)[: max(0, index - 1)]:
        segment.unlink()

    log, _, state, found = wal.read_wal(path, SnapshotMarker(index))
    log.close()

    assert state == log.state == CommitState(7)
    assert [entry.index for entry in found] == list(range(index + 1, 6))


def test_a_symbolic_link_and_a_relative_path_open_the_same_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D9: and a ``chdir`` afterwards does no harm to a cut."""
    make(path)
    (path.parent / "link").symlink_to(path)
    monkeypatch.chdir(path.parent)
    for name in ("link", "wal"):
        with wal.read_wal(name, segment_size=SMALL).wal as log:
            monkeypatch.chdir("/")
            assert log.path == path
            log.save_entry([Entry(log.last_index + 1, bytes(SMALL))])
            monkeypatch.chdir(path.parent)

    assert indexes(path) == [1, 2, 3]


@pytest.mark.parametrize("options", [{"segment_size": 4095}, {"max_record_bytes": 0}, {"segment_size": "x"}], ids=str)
def test_bad_options_are_refused_before_anything_is_opened(path: Path, options: dict[str, Any]) -> None:
    """P6: as by ``create``."""
    make(path)
    fs = Disk()

    for opening in (wal.WAL.open, wal.read_wal):
        with pytest.raises((ValueError, TypeError)):
            opening(path, fs=fs, **options)

    assert fs.trace == []


# ------------------------------------------------------------------------------------------------ where writing goes on


def test_a_tail_without_zeros_behind_it_is_appended_to_at_its_end(path: Path) -> None:
    """R04: where the space was never reserved, or was lost, the end of the file is the end of the log."""
    make(path)
    tail = segments(path)[0]
    used = end(tail)
    for index in range(2, 6):
        truncate(tail, used)
        with wal.read_wal(path, segment_size=SMALL).wal as log:
            log.save_entry([Entry(index, b"x" * index * 10)])
        assert end(tail) > used
        used = end(tail)

    assert indexes(path) == [1, 2, 3, 4, 5]


def test_writing_goes_on_at_any_offset(path: Path) -> None:
    """R03: reopen after every save and append, until the log has ended at every place that a sector has for it."""
    wal.WAL.create(path, segment_size=64 * SMALL, fs=Disk()).close()
    tail = segments(path)[0]
    left = set(range(0, 512, 8))
    for index in count(1):
        left.discard(end(tail) % 512)
        log, _, _, found = wal.read_wal(path, fs=Disk())
        with log:
            assert len(found) == index - 1
            log.save_entry([Entry(index, b"x" * (index % 41))])
        if not left:
            break

    assert indexes(path) == list(range(1, index + 1))


def log_that_ends_at(path: Path, offset: int) -> None:
    """Make a log with one entry behind which nothing is used from ``offset`` on."""
    for size in range(offset - 180, offset):
        with wal.WAL.create(path, segment_size=4 * SMALL, fs=Disk()) as log:
            log.save_entry([Entry(1, bytes(size))])
        if end(segments(path)[0]) == offset:
            return
        segments(path)[0].unlink()
    pytest.fail(f"no entry ends at {offset}")


@pytest.mark.parametrize("offset", [504, 512, 520, 1024, 4088, 4096, 4104, 8192])
def test_writing_goes_on_at_the_borders_of_sectors_and_pages(path: Path, offset: int) -> None:
    """R03, R02: a log that ends there exactly, or a word before or behind."""
    log_that_ends_at(path, offset)

    for index in (2, 3):
        with wal.read_wal(path, segment_size=4 * SMALL).wal as log:
            log.save_entry([Entry(index, b"short")])

    assert [frame.offset for frame in frames(segments(path)[0])][-2] == offset
    assert indexes(path) == [1, 2, 3]


# ----------------------------------------------------------------------------------------------------------- after kill


class Killed(Disk):
    """Ends the process at the n-th call, before that takes place."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def _run(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        if len(self.trace) + 1 == self.number:
            os._exit(9)
        return super()._run(name, call, *args)


def test_a_create_killed_at_any_call_leaves_no_log_or_an_empty_one(tmp_path: Path) -> None:
    """R30, R39: an empty log is legal and opens, and what is no log is no obstacle."""
    outcomes = set()
    for number in count(1):
        path = tmp_path / str(number) / "wal"
        made = in_child(partial(wal.WAL.create, path, METADATA, segment_size=SMALL, fs=Killed(number)))
        killed = made == ""
        outcomes.add((killed, wal.exists(path)))
        if not wal.exists(path):
            wal.WAL.create(path, METADATA, segment_size=SMALL).close()
        log, metadata, state, found = wal.read_wal(path, segment_size=SMALL)
        with log:
            assert (metadata, state, found, log.last_index) == (METADATA, CommitState(0), [], 0)
            log.save_entry([Entry(1)])
        assert indexes(path) == [1]
        assert not list(path.glob("*.tmp"))
        if not killed:
            break
    assert outcomes == {(True, False), (True, True), (False, True)}


def save_and_be_killed(path: Path, number: int) -> None:
    fs = Killed(0)
    log = wal.read_wal(path, segment_size=SMALL, fs=fs).wal
    fs.number = len(fs.trace) + number
    log.save(CommitState(2), [Entry(2)])


def test_a_cut_killed_at_any_call_loses_nothing(path: Path) -> None:
    """R35, F1: what was acknowledged before the cut is there, and the cut is made again or goes on."""
    for number in count(1):
        log = path.with_name(str(number))
        with wal.WAL.create(log, segment_size=SMALL) as writer:
            writer.save(CommitState(1), [Entry(1, bytes(SMALL))])
        killed = in_child(partial(save_and_be_killed, log, number)) == ""
        with wal.read_wal(log, segment_size=SMALL).wal as writer:
            assert writer.last_index in (1, 2)
            assert writer.state == CommitState(writer.last_index)
            last = writer.last_index
            writer.save_entry([Entry(last + 1)])
        assert indexes(log) == list(range(1, last + 2))
        assert not list(log.glob("*.tmp"))
        if not killed:
            assert number > 8
            break


# -------------------------------------------------------------------------------------------------------------- release


def unlocked(path: Path) -> list[int]:
    """Return the sequence numbers of the segments whose lock another writer could take."""
    from wal._locks import lock_file

    free = []
    for sequence, segment in enumerate(segments(path)):
        fd = os.open(segment, os.O_RDWR)
        try:
            lock_file(fd)
            free.append(sequence)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
    return free


@pytest.fixture
def ten(path: Path) -> Path:
    """A log with segments 0-0, 1-11, 2-21, ..., 9-91 and a marker at each fifth entry."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        for first in range(1, 101, 10):
            log.save_entry([Entry(index, b"x" * (SMALL // 10)) for index in range(first, first + 10)])
    assert [SegmentName.parse(segment.name) for segment in segments(path)] == [
        SegmentName(sequence, 10 * sequence + 1 if sequence else 0) for sequence in range(10)
    ]
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a lock of the same process does not exclude")
@pytest.mark.parametrize(
    ("index", "free"),
    [
        pytest.param(0, 0, id="the beginning"),
        pytest.param(1, 0, id="inside the first segment"),
        pytest.param(10, 0, id="the end of the first segment"),
        pytest.param(11, 1, id="the first of the second segment"),
        pytest.param(20, 1, id="the end of the second segment"),
        pytest.param(21, 2, id="the first of the third segment"),
        pytest.param(55, 5, id="the middle"),
        pytest.param(90, 8, id="before the last segment"),
        pytest.param(91, 9, id="the first of the last segment"),
        pytest.param(100, 9, id="the last entry"),
        pytest.param(101, 9, id="one too many"),
        pytest.param(2**64 - 1, 9, id="any large number"),
    ],
)
def test_release_unlocks_what_reading_behind_the_snapshot_does_not_need(ten: Path, index: int, free: int) -> None:
    """R58: the segment that holds the snapshot's successor, and all behind it, stay locked."""
    with wal.read_wal(ten, segment_size=SMALL).wal as log:
        assert unlocked(ten) == []

        log.release(SnapshotMarker(index))

        assert unlocked(ten) == list(range(free))
        assert log.first_index == (10 * free + 1 if free else 1)
        log.save_entry([Entry(101, bytes(SMALL)), Entry(102)])
        log.save_entry([Entry(103)])
        assert unlocked(ten) == list(range(free))
    assert unlocked(ten) == list(range(len(segments(ten))))
    assert indexes(ten) == list(range(1, 104))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a lock of the same process does not exclude")
def test_release_again_and_backwards_is_no_error(ten: Path) -> None:
    """R58: what is released stays so, and a lower snapshot releases nothing more."""
    with wal.read_wal(ten, segment_size=SMALL).wal as log:
        for index, free in [(30, 2), (30, 2), (5, 2), (0, 2), (41, 4), (2**64, 9), (2**64, 9)]:
            log.release(SnapshotMarker(index))
            assert unlocked(ten) == list(range(free))


def test_released_segments_are_closed_and_kept(ten: Path) -> None:
    """F41: releasing gives up locks; removing files is another matter, and the tail is never given up."""
    fs = Disk()
    with wal.read_wal(ten, segment_size=SMALL, fs=fs).wal as log:
        before, held = untouched(ten), len(fs.open_descriptors)
        log.release(SnapshotMarker(50))
        assert held - len(fs.open_descriptors) == 4
        log.release(SnapshotMarker(10**6))

        assert len(fs.open_descriptors) == 2
        assert untouched(ten) == before
    assert not fs.open_descriptors


def test_a_released_log_can_be_read_as_long_as_the_files_are_there(ten: Path) -> None:
    """R58: and says what is missing when they are not."""
    with wal.read_wal(ten, segment_size=SMALL).wal as log:
        log.release(SnapshotMarker(55))
        assert len(log.read_all().entries) == 100
        for segment in segments(ten)[:5]:
            segment.unlink()
        with pytest.raises(wal.SnapshotNotFoundError):
            log.read_all()
        log.save_entry([Entry(101)])
    assert wal.verify(ten).last_index == 101


def test_a_log_of_many_segments_opens(path: Path) -> None:
    """F35: each segment is a step of a loop, not of a recursion."""
    with wal.WAL.create(path, segment_size=SMALL, fs=Disk()) as log:
        for index in range(1, 301):
            log.save_entry([Entry(index, bytes(SMALL))])
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        found = wal.WALReader(path).read_all().entries
    finally:
        sys.setrecursionlimit(limit)

    assert [entry.index for entry in found] == list(range(1, 301))
    assert len(segments(path)) == 300


def test_read_of_a_purged_log_goes_on_at_a_marker(path: Path) -> None:
    """R45, R06: the checksum of what was purged is in the next head, so the rest needs nothing of it."""
    with wal.WAL.create(path, METADATA, segment_size=SMALL) as log:
        for index in range(1, 6):
            log.save(CommitState(index), [Entry(index, bytes(SMALL))])
            log.save_snap(SnapshotMarker(index))
    for segment in segments(path)[:3]:
        segment.unlink()
    with wal.read_wal(path, SnapshotMarker(4), segment_size=SMALL).wal as log:
        log.save(None, [Entry(6, bytes(SMALL)), Entry(7)])
        log.save(CommitState(7), [Entry(8)])

    assert read(path, SnapshotMarker(4)) == (
        METADATA,
        CommitState(7),
        [Entry(5, bytes(SMALL)), Entry(6, bytes(SMALL)), Entry(7), Entry(8)],
        None,
    )


def test_a_segment_grows_if_the_next_one_could_have_no_name(path: Path) -> None:
    """A log of another writer with the greatest of all indexes cannot be cut, and takes saves all the same."""
    marker = SnapshotMarker(2**64 - 1)
    head = [(RecordType.CRC.value, b""), (RecordType.METADATA.value, b""), (RecordType.SNAPSHOT.value, b"")]
    snapshot = [(RecordType.SNAPSHOT.value, marker.marshal())]
    entry = [(RecordType.ENTRY.value, Entry(1, bytes(SMALL)).marshal())]
    write_log(path, segment_of([[snapshot], [entry]], head=head).data)

    with wal.read_wal(path, segment_size=SMALL).wal as log:
        log.save_entry([Entry(1, b"instead")])

    assert len(segments(path)) == 1
    assert read(path).entries == [Entry(1, b"instead")]
