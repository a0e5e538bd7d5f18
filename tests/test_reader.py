"""Reading without writing: what a reader gives, what it refuses, and that it lives beside a writer."""

from __future__ import annotations

import errno
import functools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import wal
from damage import append, overwrite, truncate, unstamp, zero
from faults import FaultyFileSystem
from logs import segments
from unsynced import UNSYNCED
from wal import CommitState, Entry, RecordType, SnapshotMarker
from wal._crc32c import extend
from wal._frame import encode_frame, parse_record
from wal._names import SegmentName

CRC, ENTRY, METADATA = RecordType.CRC, RecordType.ENTRY, RecordType.METADATA
SNAPSHOT, STATE = RecordType.SNAPSHOT, RecordType.STATE

Payload = tuple[int, bytes]


def numbered(first: int, last: int, data: bytes = b"") -> list[wal.LogEntry]:
    """Entries with the indexes from ``first`` to ``last``."""
    return [Entry(index, data or b"%d" % index) for index in range(first, last + 1)]


def create_segments(path: Path, number: int) -> list[wal.LogEntry]:
    """
    Make a log of so many segments; return its entries.

    Segment k holds entries 2k + 1 and 2k + 2, and the marker of the first of them between the two.
    """
    entries = []
    with wal.WAL.create(path, b"node", segment_size=4096, fs=UNSYNCED) as log:
        for index in range(1, 2 * number, 2):
            entries += [Entry(index, b"small"), Entry(index + 1, b"large" * 800)]
            log.save(CommitState(index), entries[-2:-1])
            log.save_snap(SnapshotMarker(index))
            log.save(CommitState(index + 1), entries[-1:])
    assert len(segments(path)) == number
    return [*entries]


def forge(path: Path, *logs: Iterable[Payload], metadata: tuple[bytes, ...] = (), first_index: int = 1) -> list[Path]:
    """Write segments with these unmarked records, which a writer would refuse, behind intact heads."""
    path.mkdir()
    made, crc = [], 0
    for number, records in enumerate(logs):
        name = SegmentName(number, first_index if number else 0)
        head = [(CRC, b""), (METADATA, metadata[number] if metadata else b"node")]
        frames = []
        for type, data in [*head, *([] if number else [(SNAPSHOT, b"")]), *records]:
            crc = extend(crc, data)
            frames.append(encode_frame(type, crc, data, 0))
        made.append(path / str(name))
        made[-1].write_bytes(b"".join(frames))
    return made


def forged_entry(index: int) -> Payload:
    return ENTRY, Entry(index, b"%d" % index).marshal()


READERS: list[Any] = [
    pytest.param(lambda path: list(wal.WALReader(path)), id="iterate"),
    pytest.param(lambda path: wal.WALReader(path).read_all(), id="read_all"),
    pytest.param(wal.verify, id="verify"),
    pytest.param(wal.valid_snapshots, id="valid_snapshots"),
]
every_reader = pytest.mark.parametrize("read", READERS)


# ----------------------------------------------------------------------------------------------- what it gives


def test_records_come_in_the_order_of_writing(path: Path) -> None:
    """Iterating yields each record of each save with its type and value, entries before the state."""
    with wal.WAL.create(path, b"node", segment_size=4096, fs=UNSYNCED) as log:
        log.save(CommitState(2), numbered(1, 2))
        log.save_snap(SnapshotMarker(2))
        log.save_entry(numbered(3, 3, b"x" * 4000))
        log.save_state(CommitState(3))

    assert [(record.type, record.value) for record in wal.WALReader(path)] == [
        (METADATA, b"node"),
        (SNAPSHOT, SnapshotMarker(0)),
        (ENTRY, Entry(1, b"1")),
        (ENTRY, Entry(2, b"2")),
        (STATE, CommitState(2)),
        (SNAPSHOT, SnapshotMarker(2)),
        (ENTRY, Entry(3, b"x" * 4000)),
        (METADATA, b"node"),
        (STATE, CommitState(2)),
        (STATE, CommitState(3)),
    ]


def test_each_record_says_where_it_stands(path: Path) -> None:
    """At a record's offset in its segment begins the frame that holds it."""
    create_segments(path, 3)

    places = set()
    for record in wal.WALReader(path):
        data = record.path.read_bytes()
        start = record.offset + 8
        stop = start + int.from_bytes(data[record.offset : record.offset + 7], "little")
        frame = parse_record(data, start, stop)
        assert frame is not None
        assert frame[0] == record.type
        value = record.value
        assert data[frame[2] : stop] == (value if isinstance(value, bytes) else value.marshal())
        places.add((record.path, record.offset))

    assert len(places) == len(list(wal.WALReader(path)))
    assert {place for place, _ in places} == set(segments(path))


def test_read_all_collects_what_iterating_yields(path: Path) -> None:
    """``read_all`` gives the metadata, the last state, and the entries that no later one replaced."""
    with wal.WAL.create(path, b"node", segment_size=4096, fs=UNSYNCED) as log:
        log.save(CommitState(1), numbered(1, 5))
        log.save(CommitState(2), numbered(3, 4, b"again"))

    assert wal.WALReader(path).read_all() == (
        b"node",
        CommitState(2),
        [*numbered(1, 2), *numbered(3, 4, b"again")],
        None,
    )


def test_an_empty_log_has_an_empty_state_and_no_entries(path: Path) -> None:
    """R39: A log of which nothing but its creation is known is in order."""
    wal.WAL.create(path, segment_size=4096).close()

    assert wal.WALReader(path).read_all() == (b"", CommitState.empty(), [], None)


def test_a_reader_may_be_used_again(path: Path) -> None:
    """Each iteration and each ``read_all`` is a read of its own, which sees what was written meanwhile."""
    with wal.WAL.create(path, segment_size=4096, fs=UNSYNCED) as log:
        reader = wal.WALReader(path)
        assert reader.read_all().entries == []
        log.save_entry(numbered(1, 2))
        first, second = iter(reader), iter(reader)
        assert next(first) == next(second)
        assert list(first) == list(second)
        assert reader.read_all().entries == reader.read_all().entries == numbered(1, 2)


def test_an_iteration_that_is_given_up_leaves_no_file_open(path: Path) -> None:
    """R55: A reader has files open only while it is iterated over."""
    create_segments(path, 3)
    fs = FaultyFileSystem()

    reader = wal.WALReader(path, fs=fs)
    assert not fs.open_descriptors
    for record in (records := reader.__iter__()):
        if record.value == SnapshotMarker(3):
            break
    assert len(fs.open_descriptors) == 1
    del records
    assert not fs.open_descriptors
    reader.read_all()
    assert not fs.open_descriptors


@pytest.mark.parametrize("kind", [str, Path, os.fsencode], ids=["str", "Path", "bytes-like"])
def test_paths_are_path_like(path: Path, kind: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may be a string, a ``Path`` or any path-like object; it is made absolute at once."""

    class Somewhere:
        def __fspath__(self) -> str:
            return path.name

    create_segments(path, 2)
    monkeypatch.chdir(path.parent)
    given: Any = Somewhere() if kind is os.fsencode else kind(Path(path.name))
    reader = wal.WALReader(given)
    monkeypatch.chdir("/")

    assert reader.path == path
    assert len(reader.read_all().entries) == 4


def test_a_log_behind_a_symbolic_link_is_read(path: Path) -> None:
    """The path may be a link to the log's directory."""
    entries = create_segments(path, 1)
    link = path.with_name("link")
    link.symlink_to(path)

    assert wal.WALReader(link).read_all().entries == entries


def test_a_reader_has_no_way_to_write(path: Path) -> None:
    """F23: Reader and writer are different types: a reader has no save to call, on which Go panics."""
    create_segments(path, 1)

    assert {name for name in dir(wal.WALReader(path)) if not name.startswith("_")} == {
        "entries",
        "entry",
        "first_index",
        "follow",
        "last_index",
        "path",
        "read_all",
        "tail",
    }


# ---------------------------------------------------------------------------------------------- at a snapshot


def test_entries_up_to_the_snapshot_are_left_out(path: Path) -> None:
    """A read at a snapshot begins behind it; metadata, states and markers are given as always."""
    entries = create_segments(path, 3)

    for index in (1, 3, 5):
        reader = wal.WALReader(path, SnapshotMarker(index))
        assert reader.read_all() == (b"node", CommitState(6), entries[index:], None)
        yielded = list(reader)
        assert [record.value for record in yielded if record.type is ENTRY] == entries[index:]
        assert {METADATA, STATE, SNAPSHOT} < {record.type for record in yielded}


def test_only_segments_from_the_snapshot_on_are_opened(path: Path) -> None:
    """Older segments are not needed to read at a snapshot, so they may be damaged or gone."""
    entries = create_segments(path, 4)
    first, second, *_ = segments(path)
    first.write_bytes(b"rubbish")
    second.unlink()

    assert wal.WALReader(path, SnapshotMarker(5)).read_all().entries == entries[5:]


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4])
def test_entries_that_were_overruled_do_not_come_back(path: Path, start: int) -> None:
    """R47, F9, P19: An entry takes the place of all from its index on, at whatever snapshot the log is opened."""
    with wal.WAL.create(path, segment_size=4096, fs=UNSYNCED) as log:
        log.save_entry(numbered(1, 5))
        for index in range(1, 5):
            log.save_snap(SnapshotMarker(index))
        log.save_entry(numbered(3, 4, b"new"))

    # Go returns the overruled entry 5 if it opens this log at snapshot 4.
    expected = [*numbered(1, 2), *numbered(3, 4, b"new")]
    assert wal.WALReader(path, SnapshotMarker(start)).read_all().entries == expected[start:]


def test_iterating_yields_entries_that_overrule_yielded_ones(path: Path) -> None:
    """R47: An entry up to the snapshot is yielded exactly if entries behind the snapshot had been."""
    with wal.WAL.create(path, segment_size=4096, fs=UNSYNCED) as log:
        log.save_entry(numbered(1, 3))
        log.save_snap(SnapshotMarker(3))
        log.save_entry(numbered(2, 3, b"unseen"))
        log.save_entry(numbered(4, 6))
        log.save_entry(numbered(2, 3, b"overruling"))

    assert [record.value for record in wal.WALReader(path, SnapshotMarker(3)) if record.type is ENTRY] == [
        *numbered(4, 6),
        Entry(2, b"overruling"),
    ]
    assert wal.WALReader(path, SnapshotMarker(3)).read_all().entries == []


def test_reading_agrees_with_a_model_at_every_snapshot(path: Path) -> None:
    """P19: After any overruling, reading at any marker gives what a plain list would hold, without its start."""
    model: list[wal.LogEntry] = []
    with wal.WAL.create(path, segment_size=4096, fs=UNSYNCED) as log:
        log.save_entry(numbered(1, 9))
        model += numbered(1, 9)
        for index in range(1, 10):
            log.save_snap(SnapshotMarker(index))
        for number, (first, length) in enumerate([(7, 4), (10, 1), (9, 2), (4, 6), (5, 1), (6, 4), (10, 9), (2, 12)]):
            new = numbered(first, first + length - 1, b"%d" % number * 400)
            log.save_entry(new)
            model[first - 1 :] = new
            for start in range(10):
                assert wal.WALReader(path, SnapshotMarker(start)).read_all().entries == model[start:]


def test_a_snapshot_that_is_not_in_the_log_is_an_error(path: Path) -> None:
    """R48, F8: Every way of reading raises if the marker was not met, at its end."""
    create_segments(path, 2)

    for index in (2, 999):
        for read in (wal.WALReader.read_all, list):
            with pytest.raises(wal.SnapshotNotFoundError, match=f"{index}.*valid_snapshots") as caught:
                read(wal.WALReader(path, SnapshotMarker(index)))
            assert caught.value.index == index
        with pytest.raises(LookupError):
            wal.verify(path, SnapshotMarker(index))


def test_a_beginning_that_was_purged_is_an_error(path: Path) -> None:
    """Where the oldest segments are gone, a read from the very beginning is refused at once, and verify goes on."""
    entries = create_segments(path, 4)
    for gone in segments(path)[:2]:
        gone.unlink()

    for start in (None, SnapshotMarker(0), SnapshotMarker(3)):
        with pytest.raises(wal.SnapshotNotFoundError, match="purged"):
            wal.WALReader(path, start)
    assert wal.WALReader(path, SnapshotMarker(5)).read_all().entries == entries[5:]
    assert wal.verify(path).segments == 2


def test_entries_behind_a_marker_that_leaps_are_read_from_there(path: Path) -> None:
    """A snapshot from another node covers entries that the log never had: reading before it is refused."""
    with wal.WAL.create(path, segment_size=4096, fs=UNSYNCED) as log:
        log.save_entry(numbered(1, 2))
        log.save_snap(SnapshotMarker(100))
        log.save_entry(numbered(101, 103))

    assert wal.WALReader(path, SnapshotMarker(100)).read_all().entries == numbered(101, 103)
    assert [record.value for record in wal.WALReader(path) if record.type is ENTRY] == (
        [*numbered(1, 2), *numbered(101, 103)]
    )
    with pytest.raises(wal.IndexGapError, match="valid_snapshots") as caught:
        wal.WALReader(path).read_all()
    assert caught.value.entries == numbered(1, 2)


# ------------------------------------------------------------------------------------------------------- tail


def test_the_tail_tells_a_torn_end(path: Path) -> None:
    """F21: ``tail`` is the torn write at which the log ends; whole saves before it are given, none of its records."""
    with wal.WAL.create(path, segment_size=4096, fs=UNSYNCED) as log:
        log.save_entry(numbered(1, 3))
        whole = wal.verify(path).bytes
        log.save(CommitState(5), numbered(4, 6))
        size = wal.verify(path).bytes
    (segment,) = segments(path)
    unstamp(segment)
    zero(segment, size - 16, size)
    reader = wal.WALReader(path)

    yielded = [record.value for record in reader if record.type is ENTRY]

    assert yielded == numbered(1, 3)
    assert isinstance(reader.tail, wal.TornWriteError)
    assert (reader.tail.path, reader.tail.offset) == (segment, whole)
    assert reader.tail.reason
    contents = reader.read_all()
    assert contents.tail is not None
    assert contents.tail is reader.tail
    assert contents[:3] == (b"", CommitState(0), numbered(1, 3))
    report = wal.verify(path)
    assert report.tail is not None
    assert (report.entries, report.bytes) == (3, whole)


def test_the_tail_is_that_of_the_last_read(path: Path) -> None:
    """A new read forgets the tail of the one before."""
    wal.WAL.create(path, segment_size=4096).close()
    (segment,) = segments(path)
    append(segment, b"rubbish!")
    reader = wal.WALReader(path)
    list(reader)
    assert reader.tail is not None
    truncate(segment, 4096)

    assert next(iter(reader)).type is METADATA
    assert reader.tail is None
    assert reader.read_all().tail is None


# ------------------------------------------------------------------------------------------------ changes nothing


class WatchedFileSystem(FaultyFileSystem):
    """Remembers with which flags files were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.flags: list[int] = []

    def open(self, path: Path, flags: int) -> int:
        self.flags.append(flags)
        return super().open(path, flags)


READS: list[Any] = [
    pytest.param(lambda path, fs: list(wal.WALReader(path, fs=fs)), id="iterate"),
    pytest.param(lambda path, fs: wal.WALReader(path, fs=fs).read_all(), id="read_all"),
    pytest.param(lambda path, fs: wal.verify(path, fs=fs), id="verify"),
    pytest.param(lambda path, fs: wal.valid_snapshots(path, fs=fs), id="valid_snapshots"),
    pytest.param(lambda path, fs: wal.exists(path, fs=fs), id="exists"),
]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_reading_asks_for_nothing_but_to_read(path: Path, read: Callable[[Path, Any], Any], torn: bool) -> None:
    """P8: A reader only lists, opens for reading, reads and closes; it locks, makes and changes nothing."""
    create_segments(path, 3)
    if torn:
        append(segments(path)[-1], b"rubbish!")
    fs = WatchedFileSystem()

    read(path, fs)

    assert set(fs.trace) <= {"listdir", "open", "size", "pread", "close"}
    assert not any(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) for flags in fs.flags)
    assert not fs.open_descriptors


@pytest.mark.parametrize("read", READS)
def test_a_read_only_directory_is_read(path: Path, read: Callable[[Path, Any], Any]) -> None:
    """P8: Reading needs no right to write, neither to the directory nor to the files."""
    create_segments(path, 3)
    for segment in segments(path):
        segment.chmod(0o400)
    path.chmod(0o500)

    try:
        assert read(path, FaultyFileSystem())
    finally:
        path.chmod(0o700)


@pytest.mark.parametrize("read", READS)
def test_a_failing_disk_is_an_os_error(path: Path, read: Callable[[Path, Any], Any]) -> None:
    """P16, R55: Whatever call of a reader fails, the error comes out as it is, and no file stays open."""
    create_segments(path, 2)

    for number in count(1):
        fs = FaultyFileSystem()
        fs.fail("any", number=number)
        try:
            read(path, fs)
        except OSError as error:
            assert error.errno == errno.EIO
            for fd in [fd for fd in fs.open_descriptors if fs.trace[-1] == "close"]:
                os.close(fd)  # the close itself was made to fail
                fs.open_descriptors.discard(fd)
        else:
            break
        assert not fs.open_descriptors
    assert number > 1


def test_short_reads_are_read_on(path: Path) -> None:
    """A system that returns less than was asked for is asked again."""

    class Stingy(FaultyFileSystem):
        def pread(self, fd: int, length: int, offset: int) -> bytes:
            return super().pread(fd, min(length, 7), offset)

    entries = create_segments(path, 2)

    assert wal.WALReader(path, fs=Stingy()).read_all().entries == entries


# ------------------------------------------------------------------------------------------- beside a live writer


def save_numbers(log: wal.WAL, first: int, number: int) -> None:
    """Make saves that a reader can check: entries 2n - 1 and 2n and the state 2n, of growing sizes."""
    for n in range(first, first + number):
        log.save(CommitState(2 * n), [Entry(2 * n - 1, b"%d" % n * (n % 200)), Entry(2 * n, b"%d" % n)])


def assert_prefix(contents: wal.LogContents) -> int:
    """Check that the contents are those after a whole number of saves; return it."""
    saves = len(contents.entries) // 2
    assert contents.state == CommitState(2 * saves)
    assert contents.entries == [
        Entry(index, b"%d" % (index + 1 >> 1) * ((index + 1 >> 1) % 200 if index & 1 else 1))
        for index in range(1, 2 * saves + 1)
    ]
    return saves


WRITER = """
import sys, wal
sys.path.insert(0, sys.argv[2])
from test_reader import UNSYNCED, save_numbers
with wal.WAL.create(sys.argv[1], segment_size=4096, sync=False, fs=UNSYNCED) as log:
    first = 1
    while sys.stdin.buffer.read(1):
        save_numbers(log, first, 2)
        first += 2
"""


@pytest.mark.parametrize("where", ["process", "thread"])
def test_a_reader_beside_a_writer_sees_a_prefix(path: Path, where: str) -> None:
    """P8, R54: Whenever it reads a log that is being written and cut, a reader gets whole saves and never an error."""
    rounds = 300
    if where == "process":
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path, Path(__file__).parent], stdin=subprocess.PIPE
        ) as peer:
            assert peer.stdin is not None
            peer.stdin.write(b".")
            peer.stdin.flush()
            while not wal.exists(path):
                assert peer.poll() is None
            read_beside(path, rounds, peer.stdin.fileno())
        assert peer.returncode == 0
    else:
        ours, theirs = os.pipe()

        def write() -> None:
            first = 1
            while os.read(ours, 1):
                save_numbers(log, first, 2)
                first += 2

        with wal.WAL.create(path, segment_size=4096, sync=False, fs=UNSYNCED) as log:
            thread = threading.Thread(target=write)
            thread.start()
            try:
                read_beside(path, rounds, theirs)
            finally:
                os.close(theirs)
                thread.join()
        os.close(ours)

    assert assert_prefix(wal.WALReader(path).read_all()) >= 2 * rounds
    assert len(segments(path)) > 30


def read_beside(path: Path, rounds: int, more: int) -> None:
    """Read again and again in each way, and let the writer make a few saves more each time."""
    seen = 0
    for number in range(rounds):
        os.write(more, b".")
        match number % 4:
            case 0:
                report = wal.verify(path)
                assert report.entries % 2 == 0
                saves = report.entries // 2
            case 1:
                committed = [record.value for record in wal.WALReader(path) if record.type is STATE]
                last = committed[-1] if committed else CommitState(0)
                assert isinstance(last, CommitState)
                saves = last.committed // 2
            case 2:
                assert wal.valid_snapshots(path) == [SnapshotMarker(0)]
                continue
            case _:
                saves = assert_prefix(wal.WALReader(path).read_all())
        assert saves >= seen
        seen = saves


class Interrupted(FaultyFileSystem):
    """Lets things happen before the calls with the given numbers."""

    def __init__(self, happenings: Mapping[int, Callable[[], object]]) -> None:
        super().__init__()
        self.happenings = dict(happenings)

    def _run(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        happening = self.happenings.pop(len(self.trace), None)
        if happening is not None:
            happening()
        return super()._run(name, call, *args)


@pytest.mark.parametrize(
    "saves", [pytest.param(1, id="a save"), pytest.param(20, id="a cut"), pytest.param(60, id="cuts")]
)
@pytest.mark.parametrize("before", [1, 25, 50])
def test_saves_may_happen_between_any_two_calls_of_a_reader(path: Path, saves: int, before: int) -> None:
    """R54: Whatever a writer does between two calls of a reader, the reader gets a prefix of whole saves."""
    made = before
    with wal.WAL.create(path, segment_size=4096, sync=False, fs=UNSYNCED) as log:
        save_numbers(log, 1, before)

        def write() -> None:
            nonlocal made
            save_numbers(log, made + 1, saves)
            made += saves

        for number in range(25):
            known, fs = made, Interrupted({number: write})
            contents = wal.WALReader(path, fs=fs).read_all()
            assert contents.tail is None
            assert known <= assert_prefix(contents) <= made
            if fs.happenings:
                break  # the read was over before
    assert number > 6


@pytest.mark.parametrize("later", [1, 2, 3])
def test_a_reader_that_meets_half_a_write_gets_a_prefix(path: Path, later: int) -> None:
    """R54: A write may look half done at one call of a reader, and be done some calls later."""
    with wal.WAL.create(path, segment_size=4096, fs=UNSYNCED) as log:
        save_numbers(log, 1, 3)
        (segment,) = segments(path)
        old, begin = segment.read_bytes(), wal.verify(path).bytes
        save_numbers(log, 4, 2)
        new, end = segment.read_bytes(), wal.verify(path).bytes
    calls = FaultyFileSystem()
    wal.WALReader(path, fs=calls).read_all()

    seen = set()
    for number in range(1, len(calls.trace)):
        for stop in range(begin, end, 3):
            segment.write_bytes(old)
            half = functools.partial(overwrite, segment, begin, new[begin:stop])
            whole = functools.partial(overwrite, segment, begin, new[begin:end])
            fs = Interrupted({number: half, number + later: whole})
            contents = wal.WALReader(path, fs=fs).read_all()
            seen.add(assert_prefix(contents))
            assert contents.tail is None or contents.tail.offset >= begin
    assert seen == {3, 4, 5}


def test_damage_is_not_torn_if_a_segment_follows_by_now(path: Path) -> None:
    """R16, R54: What ends a segment is damage, not a torn write, also if the next segment appeared during the read."""
    create_segments(path, 2)
    first, second = segments(path)
    zero(first, first.stat().st_size - 8, first.stat().st_size)
    hidden = second.with_suffix(".hidden")
    second.rename(hidden)
    alone = FaultyFileSystem()
    assert wal.WALReader(path, fs=alone).read_all().tail is not None

    for number in range(alone.trace.index("pread") + 1):
        fs = Interrupted({number: functools.partial(hidden.rename, second)})
        with pytest.raises(wal.CorruptionError) as caught:
            wal.WALReader(path, fs=fs).read_all()
        assert not isinstance(caught.value, wal.TornWriteError)
        assert caught.value.path == first
        second.rename(hidden)


# ----------------------------------------------------------------------------------------------- beside a purge


class Purged(FaultyFileSystem):
    """Removes the first segments when the ``number``-th file is opened: after they were listed."""

    def __init__(self, path: Path, remove: int, number: int = 1) -> None:
        super().__init__()
        self.doomed = segments(path)[:remove]
        self.number = number

    def open(self, path: Path, flags: int) -> int:
        self.number -= 1
        if not self.number:
            for segment in self.doomed:
                segment.unlink()
        return super().open(path, flags)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_segments_may_vanish_while_they_are_read(path: Path, number: int) -> None:
    """R44: If segments are purged between the listing and their turn, the read begins anew without them."""
    create_segments(path, 5)
    fs = Purged(path, 3, number)

    report = wal.verify(path, fs=fs)

    # A file that was open already is read to its end, however its name fares.
    assert report.segments == (2 if number <= 3 else 5)
    assert report.last_index == 10
    assert not fs.open_descriptors


@pytest.mark.parametrize("number", [1, 2, 3])
def test_markers_are_listed_beside_a_purge(path: Path, number: int) -> None:
    """R44, R45: ``valid_snapshots`` lists the markers of the segments that are left."""
    create_segments(path, 5)

    assert wal.valid_snapshots(path, fs=Purged(path, 3, number)) == [SnapshotMarker(7), SnapshotMarker(9)]


def test_a_read_begins_anew_however_often_it_meets_a_purge(path: Path) -> None:
    """R44: a purge after each listing takes one more segment, nine times; what the tenth reads is there."""

    class Purging(FaultyFileSystem):
        def open(self, path: Path, flags: int) -> int:
            if len(segments(path.parent)) > 1:
                path.unlink()
            return super().open(path, flags)

    create_segments(path, 10)

    assert wal.valid_snapshots(path, fs=Purging()) == [SnapshotMarker(19)]


def test_entries_that_are_purged_under_a_reader_are_missed(path: Path) -> None:
    """R44: A reader whose own start is purged meanwhile says that the beginning is gone."""
    create_segments(path, 5)
    reader = wal.WALReader(path, fs=Purged(path, 3))

    with pytest.raises(wal.SnapshotNotFoundError, match="purged"):
        reader.read_all()


def test_an_iteration_does_not_begin_anew(path: Path) -> None:
    """R44: Records that were yielded cannot be taken back: iterating says which segment was purged."""
    create_segments(path, 5)
    fs = Purged(path, 3, number=2)
    *_, third = segments(path)[:2]

    with pytest.raises(wal.WALNotFoundError, match="purged") as caught:
        list(wal.WALReader(path, fs=fs))
    assert caught.value.path == third
    assert not fs.open_descriptors


@every_reader
def test_segments_that_are_listed_but_never_there_are_an_error(
    path: Path, read: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R44: A directory that goes on listing what cannot be opened is not read for ever."""
    create_segments(path, 2)
    fs = FaultyFileSystem()
    fs.fail("open", error=errno.ENOENT, persistent=True)

    with pytest.raises(wal.WALNotFoundError):
        wal.verify(path, fs=fs)
    assert fs.trace.count("open") == 2


# ------------------------------------------------------------------------------------------------ what it refuses


@every_reader
@pytest.mark.parametrize("there", ["nothing", "directory", "foreign files"])
def test_a_directory_without_a_log_is_an_error(path: Path, read: Callable[[Path], Any], there: str) -> None:
    """No directory, an empty one, or one without a segment: there is no log, and none is made."""
    if there != "nothing":
        path.mkdir()
    if there == "foreign files":
        (path / "1-2.wal").touch()

    with pytest.raises(wal.WALNotFoundError) as caught:
        read(path)

    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.path == path
    assert path.exists() == (there != "nothing")


@every_reader
def test_metadata_is_the_same_in_every_segment(path: Path, read: Callable[[Path], Any]) -> None:
    """Segments with different metadata are not one log."""
    _, second = forge(path, [forged_entry(1)], [forged_entry(2)], metadata=(b"node-1", b"node-2"))

    with pytest.raises(wal.MetadataConflictError, match=r"node-2.*node-1") as caught:
        read(path)
    assert (caught.value.path, caught.value.offset) == (second, 16)


@every_reader
@pytest.mark.parametrize("index", [0, 5, 100, 2**63, 2**64 - 1])
def test_a_gap_between_entries_is_an_error(path: Path, read: Callable[[Path], Any], index: int) -> None:
    """R10, R11: An index that cannot follow is refused where it stands, and what came before it is not lost."""
    (segment,) = forge(path, [*map(forged_entry, (1, 2, 3, index, 4))])
    size = len(segment.read_bytes())

    with pytest.raises(wal.IndexGapError, match=f"entry {index} follows index 3") as caught:
        read(path)

    assert caught.value.path == segment
    assert 0 < caught.value.offset < size
    with pytest.raises(wal.IndexGapError) as again:
        wal.WALReader(path).read_all()
    assert again.value.entries == [Entry(1, b"1"), Entry(2, b"2"), Entry(3, b"3")]
    assert again.value.offset == caught.value.offset


def test_entries_may_begin_anywhere_behind_a_purged_beginning(path: Path) -> None:
    """R11: The first segment's name says which index may come first; a later one is a gap."""
    first, second = forge(path, [*map(forged_entry, (1, 2, 3))], [*map(forged_entry, (4, 5))], first_index=4)
    first.unlink()
    assert wal.verify(path).last_index == 5

    second.rename(path / "0000000000000001-0000000000000003.wal")
    with pytest.raises(wal.IndexGapError):
        wal.verify(path)


@every_reader
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_segment_is_an_error(path: Path, read: Callable[[Path], Any], missing: int) -> None:
    """F28: Sequence numbers grow by one from the first segment on, also from 0 to 2, which Go accepts."""
    create_segments(path, 5)
    before, gone, after = segments(path)[missing - 1 : missing + 2]
    gone.unlink()

    with pytest.raises(wal.SegmentGapError) as caught:
        read(path)
    assert caught.value.path == path
    assert before.name in str(caught.value)
    assert after.name in str(caught.value)


@every_reader
def test_two_segments_with_one_number_are_an_error(path: Path, read: Callable[[Path], Any]) -> None:
    """A copy of a segment under another index is no part of the log."""
    create_segments(path, 3)
    (path / "0000000000000001-0000000000000004.wal").write_bytes(segments(path)[1].read_bytes())

    with pytest.raises(wal.SegmentGapError):
        read(path)


@every_reader
def test_a_directory_with_a_segments_name_is_an_error(path: Path, read: Callable[[Path], Any]) -> None:
    """What is named like a segment is taken for one; a directory cannot be read."""
    create_segments(path, 2)
    (path / "0000000000000002-0000000000000005.wal").mkdir()

    with pytest.raises(IsADirectoryError):
        read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@every_reader
def test_a_pipe_with_a_segments_name_does_not_hang(path: Path, read: Callable[[Path], Any]) -> None:
    """Nobody will ever write to the pipe: reading it is an error at once."""
    create_segments(path, 2)
    os.mkfifo(path / "0000000000000002-0000000000000005.wal")

    with pytest.raises((OSError, wal.CorruptionError)):
        read(path)


@every_reader
@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_empty_file_is_not_a_segment(path: Path, read: Callable[[Path], Any], number: int) -> None:
    """R30, R35: A segment gets its name when its head is on disk; one without a head is damage, not an end."""
    create_segments(path, 3)
    segment = segments(path)[number]
    truncate(segment, 0)

    with pytest.raises(wal.CorruptionError, match="head") as caught:
        read(path)
    assert not isinstance(caught.value, wal.TornWriteError)
    assert (caught.value.path, caught.value.offset) == (segment, 0)


FOREIGN = [
    "1-2.wal",
    "000000000000000A-000000000000000B.wal",
    "0000000000000000-0000000000000000.WAL",
    "0000000000000000-0000000000000000.wal.broken",
    "0000000000000009-0000000000000009.wal.tmp",
    " 0000000000000009-0000000000000009.wal",
    "00000000000000009-0000000000000009.wal",
    "0000000000000009-0000000000000009.wal\n",
    "0000000000000009_0000000000000009.wal",
    "٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٩-٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٩.wal",
    "lost+found",
    "notes.txt",
    ".wal",
]


@every_reader
def test_files_with_other_names_are_ignored(
    path: Path, read: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """R37, F26, F29: Only names to the letter are segments; what looks like one is worth a warning."""
    create_segments(path, 2)
    before = read(path)
    assert not caplog.records
    for name in FOREIGN:
        (path / name).write_bytes(b"foreign")

    with caplog.at_level(logging.WARNING, "wal"):
        assert read(path) == before

    warned = {name for name in FOREIGN for message in caplog.messages if f" {name} is not" in message}
    assert warned == {name for name in FOREIGN if name.lower().endswith(".wal")}


@every_reader
def test_an_unknown_record_is_an_error(path: Path, read: Callable[[Path], Any]) -> None:
    """F22: An intact record of a type that this version does not know is not skipped."""
    (segment,) = forge(path, [forged_entry(1), (9, b"from the future"), forged_entry(2)])

    with pytest.raises(wal.UnknownRecordError, match="type is not known") as caught:
        read(path)
    assert caught.value.path == segment
    assert segment.read_bytes()[caught.value.offset + 8 :].startswith(b"\x08\x09")


@pytest.mark.parametrize(
    ("record", "type"),
    [
        pytest.param(forged_entry(1), ENTRY, id="entry"),
        pytest.param((STATE, b"\x10\x01"), STATE, id="state"),
        pytest.param((SNAPSHOT, b"no protobuf"), SNAPSHOT, id="marker"),
    ],
)
@every_reader
def test_a_payload_of_another_class_is_a_decode_error(
    path: Path, read: Callable[[Path], Any], record: Payload, type: RecordType
) -> None:
    """F22: What the registered class refuses is the caller's mistake, not damage; Go panics."""

    class Refusing(wal.Entry):
        @classmethod
        def unmarshal(cls, data: bytes) -> Refusing:
            raise KeyError("not mine")

    (segment,) = forge(path, [(STATE, CommitState(9).marshal()), record, forged_entry(1)])
    wal.register_record(ENTRY, Refusing)

    with pytest.raises(wal.RecordDecodeError) as caught:
        read(path)

    error = caught.value
    assert not isinstance(error, wal.CorruptionError)
    assert isinstance(error, ValueError)
    assert error.path == segment
    assert segment.read_bytes()[error.offset + 8 :].startswith(bytes((8, type)))
    assert isinstance(error.__cause__, KeyError if type is ENTRY else ValueError)


def test_the_wrong_registry_is_a_decode_error(path: Path) -> None:
    """A log of default entries is not one of etcd's, and the other way round."""
    create_segments(path, 1)

    with pytest.raises(wal.RecordDecodeError) as caught:
        wal.WALReader(path, registry=wal.etcd.registry()).read_all()
    assert caught.value.offset == 56
    assert isinstance(caught.value.__cause__, ValueError)


def test_two_thousand_segments_without_a_save_are_read(path: Path) -> None:
    """F35: Segments that hold only their head are a loop, not a recursion."""
    forge(path, *[[] for _ in range(2000)], [forged_entry(1)])

    assert wal.WALReader(path).read_all().entries == [Entry(1, b"1")]
    assert wal.verify(path).segments == 2001
    assert wal.valid_snapshots(path) == [SnapshotMarker(0)]


# ------------------------------------------------------------------------------- verify, valid_snapshots, exists


def test_verify_reports_what_the_log_consists_of(path: Path) -> None:
    """The report's figures count segments, records with their heads, all entries written, and used bytes."""
    with wal.WAL.create(path, b"node", segment_size=4096, fs=UNSYNCED) as log:
        log.save(CommitState(1), numbered(1, 4))
        log.save_snap(SnapshotMarker(1))
        log.save_entry(numbered(3, 3, b"x" * 4000))
        log.save_snap(SnapshotMarker(7))
    first, second = segments(path)

    unstamp(second)
    used = first.stat().st_size + len(second.read_bytes().rstrip(b"\0"))
    assert wal.verify(path) == wal.VerifyReport(
        path=path,
        segments=2,
        records=(3 + 4 + 1 + 1 + 1) + (3 + 1),
        entries=5,
        bytes=used + -used % 8,
        last_index=7,
        tail=None,
    )
    assert wal.verify(str(path)).path == path


def test_verify_begins_at_a_snapshot(path: Path) -> None:
    """Given a snapshot, ``verify`` reads the segments that opening there needs."""
    create_segments(path, 4)
    overwrite(segments(path)[0], 64, b"rubbish")

    report = wal.verify(path, SnapshotMarker(5))

    assert (report.segments, report.entries, report.last_index) == (2, 4, 8)
    with pytest.raises(wal.CorruptionError):
        wal.verify(path)


@pytest.mark.parametrize(
    ("committed", "expected"),
    [
        pytest.param([], [0, 2, 5, 3, 9], id="no state was ever saved"),
        pytest.param([9], [0, 2, 5, 3, 9], id="all are committed"),
        pytest.param([4], [0, 2, 3], id="some are not committed"),
        pytest.param([2], [0, 2], id="up to the committed index itself"),
        pytest.param([1], [0], id="none but the first is committed"),
        pytest.param([9, 4], [0, 2, 3], id="the last state counts"),
    ],
)
def test_markers_up_to_the_last_committed_index_are_valid(
    path: Path, committed: list[int], expected: list[int]
) -> None:
    """R46, F27: Markers behind the last committed index are left out; without any state, all of them count."""
    with wal.WAL.create(path, segment_size=4096, fs=UNSYNCED) as log:
        log.save_entry(numbered(1, 9))
        for index in (2, 5, 3, 9):
            log.save_snap(SnapshotMarker(index))
        for index in committed:
            log.save_state(CommitState(index))

    assert wal.valid_snapshots(path) == [SnapshotMarker(index) for index in expected]


def test_markers_are_found_in_every_segment_that_is_there(path: Path) -> None:
    """R45: After the first segments were removed, the markers of the others are listed; the CRC chain begins there."""
    create_segments(path, 5)
    for number, segment in enumerate(segments(path)):
        first = [] if number else [0]
        assert wal.valid_snapshots(path) == [SnapshotMarker(n) for n in (*first, *range(2 * number + 1, 10, 2))]
        segment.unlink()


def test_a_log_opens_at_each_valid_snapshot(path: Path) -> None:
    """What ``valid_snapshots`` lists can be read from, whatever was removed before."""
    entries = create_segments(path, 5)
    for segment in segments(path):
        for marker in wal.valid_snapshots(path):
            assert wal.WALReader(path, marker).read_all().entries == entries[marker.index :]
        segment.unlink()


def test_only_segments_make_a_log(path: Path) -> None:
    """R37, F13: Foreign files are no log, one file with a segment's name is."""
    assert not wal.exists(path)
    path.mkdir()
    assert not wal.exists(path)
    for name in FOREIGN:
        (path / name).touch()
        assert not wal.exists(str(path))
    (path / "0000000000000003-0000000000000007.wal").touch()
    assert wal.exists(path)


def test_a_directory_that_cannot_be_read_is_not_taken_for_empty(path: Path) -> None:
    """F13: Not knowing whether there is a log is an error; Go says no and overwrites it."""
    create_segments(path, 1)
    fs = FaultyFileSystem()
    fs.fail("listdir", error=errno.EACCES)

    with pytest.raises(PermissionError):
        wal.exists(path, fs=fs)
    with pytest.raises(NotADirectoryError):
        wal.exists(segments(path)[0])
