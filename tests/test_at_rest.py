"""
A log at rest: whatever rots in a closed log is known to be rot.

Without the stamp of its close, damage to the last saves is what a crash may leave, and is cut (with a copy kept).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

import wal
from damage import unstamp
from images import Files, Image, load, read
from logs import SMALL, Disk, frames, segments, untouched
from segments import Fill, flipped, garbage, noise, ones, replaced, zeros
from unsynced import UNSYNCED
from wal import CommitState, Entry, SnapshotMarker
from wal._crc32c import extend
from wal._stamp import PAGE_BYTES, STAMP_BYTES, Stamp, encode_stamp, find_stamps, parse_stamp, stamp_offset

FILLS = [pytest.param(fill, id=fill.__name__) for fill in (zeros, garbage, ones, noise)]


def one_save(log: wal.WAL) -> None:
    log.save(CommitState(1), [Entry(1, b"the only one")])


def groups_of_one(log: wal.WAL) -> None:
    for index in range(1, 8):
        log.save(CommitState(index), [Entry(index, b"%d" % index * 50)])


def one_large_save(log: wal.WAL) -> None:
    log.save(CommitState(9), [Entry(index, bytes([index]) * 400) for index in range(1, 10)])


def saves_without_a_sync(log: wal.WAL) -> None:
    log.close()
    with wal.read_wal(log.path, sync=False, fs=UNSYNCED).wal as again:
        groups_of_one(again)
        again.save_snap(SnapshotMarker(3))


def nothing(log: wal.WAL) -> None:
    pass


def a_cut(log: wal.WAL) -> None:
    log.save_entry([Entry(1, bytes(SMALL))])
    log.save_entry([Entry(2, b"behind it")])


def two_lives(log: wal.WAL) -> None:
    one_save(log)
    log.close()
    with wal.read_wal(log.path, fs=UNSYNCED).wal as again:
        again.save_entry([Entry(2, b"of the second life")])


LIVES = [nothing, one_save, groups_of_one, one_large_save, saves_without_a_sync, a_cut, two_lives]
lives = pytest.mark.parametrize("live", LIVES, ids=lambda life: life.__name__)


@pytest.fixture
def closed(live: Callable[[wal.WAL], None], path: Path) -> Files:
    """The files of a log that has lived and was closed."""
    with wal.WAL.create(path, b"node", segment_size=SMALL, fs=UNSYNCED) as log:
        live(log)
    return load(path)


def damages(data: bytes, end: int) -> Iterator[bytes]:
    """Every flipped bit of the frames, every lost sector, page and end of the file."""
    for bit in range(8 * end):
        yield flipped(data, bit)
    for size, fill in product((8, 512, PAGE_BYTES), (zeros, garbage, ones, noise)):
        for start in range(0, end, size):
            yield replaced(data, start, min(start + size, len(data)), fill)


@lives
def test_any_damage_to_a_closed_log_is_corruption(closed: Files, path: Path) -> None:
    """P9: not one flipped bit, lost sector or lost page in front of the end is taken for a torn write."""
    name = list(closed)[-1]
    data = closed[name]
    end = frames(path / name)[-1].offset + frames(path / name)[-1].length
    for damaged in damages(data, end):
        found, error = read({**closed, name: damaged})
        assert not isinstance(error, wal.TornWriteError), error
        if error is None:
            assert found == read(closed)[0]
        else:
            assert isinstance(error, wal.CorruptionError)


@lives
@pytest.mark.parametrize("fill", FILLS)
def test_what_is_behind_the_end_is_not_data(closed: Files, path: Path, fill: Fill) -> None:
    """Damage behind the last frame, to the stamp as well, loses nothing of what was saved."""
    name = list(closed)[-1]
    data = closed[name]
    end = frames(path / name)[-1].offset + frames(path / name)[-1].length
    records, _ = read(closed)
    for start in range(end, len(data), 8):
        for size in (8, 512, PAGE_BYTES):
            found, error = read({**closed, name: replaced(data, start, min(start + size, len(data)), fill)})
            assert found == records
            assert error is None or (isinstance(error, wal.TornWriteError) and error.offset == end)


@lives
def test_without_the_stamp_the_last_group_cannot_be_told_from_a_crash(closed: Files, path: Path) -> None:
    """That is what the stamp is for: the same damage in a log that was not closed is cut."""
    name = list(closed)[-1]
    *_, last = frames(path / name)
    unstamp(path / name)
    data = (path / name).read_bytes()

    _, error = read({**closed, name: replaced(data, last.offset, last.offset + last.length)})

    if last.type is wal.RecordType.SNAPSHOT and last.data == b"":
        assert not isinstance(error, wal.TornWriteError)  # a head is never cut
    else:
        assert isinstance(error, wal.TornWriteError | None)


def test_a_log_that_lost_its_last_saves_is_not_opened(path: Path) -> None:
    """Also if they are gone without a trace, and what is left looks whole: nothing is changed."""
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        groups_of_one(log)
    (segment,) = segments(path)
    data = segment.read_bytes()
    for frame in frames(segment)[3:]:
        segment.write_bytes(replaced(data, frame.offset, PAGE_BYTES))
        before = untouched(path)
        for opening in (wal.read_wal, wal.repair, wal.verify):
            with pytest.raises(wal.CorruptionError, match="closed with its end at byte") as caught:
                opening(path)
            assert not isinstance(caught.value, wal.TornWriteError)
        assert untouched(path) == before


def test_repair_cuts_a_closed_log_by_force_alone(path: Path) -> None:
    """What is cut, the stamp with it, is kept."""
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        groups_of_one(log)
    (segment,) = segments(path)
    *_, last = frames(segment)
    data = segment.read_bytes()
    segment.write_bytes(flipped(data, 8 * last.offset + 100))

    report = wal.repair(path, force=True)

    assert report.backup is not None
    assert report.backup.read_bytes() == segment_tail(data, last.offset, report)
    assert wal.verify(path).tail is None
    with wal.read_wal(path).wal as log:
        log.save_state(CommitState(9))
    assert wal.WALReader(path).read_all().state == CommitState(9)


def segment_tail(data: bytes, offset: int, report: wal.RepairReport) -> bytes:
    return flipped(data, 8 * offset + 100)[report.offset :]


# ------------------------------------------------------------------------------------------- when there is one


def stamp_of(path: Path) -> Stamp | None:
    """Return the stamp of a log's last segment."""
    found = [stamp for _, stamp in find_stamps(segments(path)[-1].read_bytes(), 0)]
    assert len(found) <= 1
    return found[0] if found else None


def test_a_close_stamps_the_end_and_the_next_save_takes_the_stamp_away(path: Path) -> None:
    """Opening, reading and closing leave it as it is; a killed writer leaves none."""
    with wal.WAL.create(path, b"node", segment_size=SMALL) as log:
        one_save(log)
        assert stamp_of(path) is None
    *_, last = frames(segments(path)[0])
    stamp = stamp_of(path)
    assert stamp == (last.offset + last.length, extend(last.crc, b""))

    before = untouched(path)
    for _ in range(2):
        wal.WAL.open(path).close()
        wal.read_wal(path).wal.close()
        assert untouched(path) == before

    with wal.read_wal(path).wal as log:
        log.save_entry([Entry(2)])
        assert stamp_of(path) is None
        assert not any(segments(path)[0].read_bytes()[frames(segments(path)[0])[-1].offset + 64 :])
    assert stamp_of(path) != stamp


def test_a_log_without_marks_has_no_stamp(path: Path) -> None:
    """Its bytes are those of the Go original."""
    with wal.WAL.create(path, segment_size=SMALL, save_marks=False) as log:
        one_save(log)
    assert stamp_of(path) is None


def test_a_stopped_log_is_not_stamped(path: Path) -> None:
    """What its last save left is not known."""
    fs = Disk()
    with wal.WAL.create(path, segment_size=SMALL, fs=fs) as log:
        fs.fail("fdatasync")
        with pytest.raises(wal.WALFailedError):
            one_save(log)
    assert stamp_of(path) is None


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_stamp_that_cannot_be_written_is_no_error(path: Path, call: str, caplog: pytest.LogCaptureFixture) -> None:
    """Everything saved is durable by then. It is logged, and everything is released."""
    fs = Disk()
    log = wal.WAL.create(path, segment_size=SMALL, fs=fs)
    one_save(log)
    fs.fail(call)

    with caplog.at_level(logging.WARNING, "wal"):
        log.close()

    assert "could not be stamped" in caplog.text
    assert not fs.open_descriptors
    assert wal.WALReader(path).read_all().entries == [Entry(1, b"the only one")]


@pytest.mark.parametrize("end", [4072, 4080, 4088, 4096, 4104, 8176, 8184, 8192])
def test_a_stamp_at_the_border_of_a_page(path: Path, end: int) -> None:
    """Wherever the frames end: a zero word is in front of the stamp, which is found, and is gone after a save."""
    for size in range(end - 160, end):
        with wal.WAL.create(path / str(size), segment_size=SMALL, fs=UNSYNCED) as log:
            log.save_entry([Entry(1, bytes(size))])
        (segment,) = segments(path / str(size))
        stamp = stamp_of(path / str(size))
        assert stamp
        if stamp.end == end:
            break
    at = segment.read_bytes().index(b"wal ends")
    assert at % PAGE_BYTES == 0
    assert 8 <= at - end < PAGE_BYTES + 8
    for index in (2, 3):
        with wal.read_wal(segment.parent, segment_size=4 * SMALL, fs=UNSYNCED).wal as log:
            log.save_entry([Entry(index, b"%d" % index * 600)])
            assert stamp_of(segment.parent) is None
            assert wal.verify(segment.parent).entries == index


# --------------------------------------------------------------------------------------------------- its bytes


@pytest.mark.parametrize("end", [0, 8, 4080, 4088, 4096, 2**40])
def test_a_stamp_is_read_at_its_place_only(end: int) -> None:
    """It says where it stands, so a copy elsewhere, in a payload for example, is not one."""
    stamp = Stamp(end, 0xDEADBEEF)
    at = stamp_offset(end)
    data = encode_stamp(stamp)

    assert len(data) == STAMP_BYTES
    assert parse_stamp(data, at) == parse_stamp(data + b"more", at) == stamp
    for other in (at - PAGE_BYTES, at + PAGE_BYTES, at + 8, 0):
        assert parse_stamp(data, other) is None
    for bit in range(8 * STAMP_BYTES):
        assert parse_stamp(flipped(data, bit), at) is None
    for size in range(STAMP_BYTES):
        assert parse_stamp(data[:size], at) is None


def test_a_stamp_with_another_chain_is_corruption(closed_by_hand: Callable[[Stamp], Files]) -> None:
    """Frames that all look right, but are not those that were closed, are not what was saved."""
    _, error = read(closed_by_hand(Stamp(0, 1)))
    assert isinstance(error, wal.CorruptionError)
    assert not isinstance(error, wal.TornWriteError)


def test_an_older_stamp_behind_the_end_says_nothing(closed_by_hand: Callable[[Stamp], Files]) -> None:
    """A crash may bring back the one that the last saves had taken away: it is gone with the next save."""
    files = closed_by_hand(Stamp(-24, 5))
    records, error = read(files)
    assert error is None
    assert len(records) > 3
    verdict = wal.verify(Path("/log"), fs=Image(files))
    assert verdict.tail is None


@pytest.fixture
def closed_by_hand(path: Path) -> Callable[[Stamp], Files]:
    """Make a log that ends with a stamp of our own: ``end`` counts from its end, ``crc`` is xored to the chain."""

    def make(stamp: Stamp) -> Files:
        with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
            groups_of_one(log)
        right = stamp_of(path)
        assert right
        unstamp(segments(path)[-1])
        wrong = Stamp(right.end + stamp.end, right.crc ^ stamp.crc)
        with segments(path)[-1].open("r+b") as file:
            file.seek(stamp_offset(wrong.end))
            file.write(encode_stamp(wrong))
        return load(path)

    return make
