"""
What is fuzzed: functions that take any bytes and must not complain.

Whatever the bytes are, the library answers with a value or with an error of its own. What it answers must agree
with what it answers otherwise: a reader with the writer, what is read with what is written again, a log before its
repair with the log after it. Everything runs in memory and is over within a second.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import mutations
import wal
import wal._decoder
import wal._marks
from archive import unpack
from crashes import TOP, SimulatedDisk
from wal._decoder import Decoder, Frame, Position, SegmentDecoder
from wal._frame import HEADER, RecordType, frame_bytes
from wal._marks import Verdict
from wal._protobuf import varint
from wal._segments import segments_from

__all__ = ["TARGETS", "Target", "run"]

T = TypeVar("T")

Contents = tuple[bytes, wal.HardState, Sequence[wal.LogEntry]]

SECONDS = 1.0
"""The most CPU time that one input may take."""

LOG = TOP / "log"


class Complaint(AssertionError):
    """The library's answer is wrong. What is said of it comes without long repetitions."""

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"(\\x..|[^\\])\1{9,}", r"\1…", message))


def expect(claim: object, message: object) -> None:
    """Complain if a claim does not hold, also under ``python -O``."""
    if not claim:
        raise Complaint(str(message))


# ------------------------------------------------------------------------------------------- logs in memory


def disk_of(files: dict[str, bytes]) -> SimulatedDisk:
    """Return a disk with these files in a log's directory."""
    return SimulatedDisk({"log": None, **{f"log/{name}": content for name, content in files.items()}})


def files_of(disk: SimulatedDisk) -> dict[str, bytes]:
    """Return the files of the log's directory."""
    return {name.removeprefix("log/"): content for name, content in disk.files().items() if content is not None}


@contextmanager
def unchanged(disk: SimulatedDisk) -> Iterator[None]:
    """P8: nothing in the block asks for a change of the disk, and every file that it opens is closed again."""

    def refuse(what: str) -> None:
        raise Complaint(f"a reader wants to {what}")

    disk.before_change = refuse
    try:
        yield
    finally:
        disk.before_change = lambda _: None
    expect(not disk._open, "a file was left open")


def attempt(call: Callable[[], T]) -> T | wal.WALError:
    """Return what a call returns, or the error of this library that it raises. Others are for the fuzzer to see."""
    try:
        return call()
    except wal.WALError as error:
        repr(error), str(error)
        return error


def same(one: object, other: object) -> bool:
    """Tell whether two answers are equal, or two errors of one class, about one place."""
    if isinstance(one, wal.CorruptionError) and isinstance(other, wal.CorruptionError):
        return (type(one), one.path, one.offset) == (type(other), other.path, other.offset)
    return type(one) is type(other) if isinstance(one, wal.WALError) else one == other


# -------------------------------------------------------------------------------------------------- one segment

HEADS: list[tuple[list[int], int | None]] = [
    ([RecordType.CRC, RecordType.METADATA, RecordType.SNAPSHOT], 0),
    ([RecordType.CRC, RecordType.METADATA], None),
]


class Walk(NamedTuple):
    """What a decoder gives, and what it says of the end."""

    frames: list[Frame]
    position: Position
    verdicts: list[Verdict]


def walk(data: bytes, head: Sequence[int], crc: int | None) -> Walk:
    """Walk one segment."""
    longest = max(2 * wal._decoder.CHUNK_BYTES, len(data))

    def read(offset: int, length: int) -> bytes:
        expect(0 <= length <= longest, f"{length} bytes are read at once")
        return data[offset : offset + length]

    segment = SegmentDecoder(read, len(data), Position(0, crc, None), head)
    frames = [frame for run in segment.saves() for frame in run]
    return Walk(frames, segment.position, [segment.judge(last_segment=last)[0] for last in (True, False)])


def frames(data: bytes) -> None:
    """
    Decode a segment.

    The frames are those of the bytes, one behind the other; and neither the size of the chunks nor what is behind
    the last whole save makes a difference to them.
    """
    for head, crc in HEADS:
        found = walk(data, head, crc)
        at = 0
        for type, value, offset in found.frames:
            expect(offset == at, f"a frame at {offset}, after one that ends at {at}")
            (header,) = HEADER.unpack_from(data, at)
            stop = at + HEADER.size + (header & 2**56 - 1)
            expect(data[at + HEADER.size + 1] == type and data[at:stop].endswith(value), f"another record at {at}")
            at += frame_bytes(header)
        end = found.position.offset
        expect(at == end, f"the whole saves end at {at}, not {end}")

        cut = walk(data[:end], head, crc)
        expect(cut[:2] == found[:2], "there are other frames without what is behind the last whole save")
        if found.verdicts[0] is not Verdict.CORRUPT:
            expect(cut.verdicts[0] is Verdict.CLEAN, f"cut at {end}, it is {cut.verdicts}")
        if found.verdicts[1] is Verdict.CLEAN:
            expect(found.verdicts[0] is Verdict.CLEAN, "it is clean only as long as it is not the last one")
        expect(found.verdicts[1] is not Verdict.TORN, "a segment that is not the last one is torn")

        big = wal._decoder.CHUNK_BYTES
        try:
            wal._decoder.CHUNK_BYTES = wal._marks.CHUNK_BYTES = 64
            expect(walk(data, head, crc) == found, "by smaller chunks it is read differently")
        finally:
            wal._decoder.CHUNK_BYTES = wal._marks.CHUNK_BYTES = big


# ------------------------------------------------------------------------------------------------------ records

CLASSES: list[tuple[type[wal.Record], str]] = [
    (wal.Entry, "index type data"),
    (wal.CommitState, "committed"),
    (wal.SnapshotMarker, "index"),
    (wal.etcd.Entry, "type term index data"),
    (wal.etcd.HardState, "term vote commit"),
    (wal.etcd.Snapshot, "index term conf_state"),
]
"""The classes of records, with the names of their fields 1, 2, ..."""


def records(data: bytes) -> None:
    """
    Unmarshal a record of the class that the first byte says: ``ValueError``, or all of the bytes are understood.

    Of each field there is one form, but for a zero, which may be left out.
    """
    cls, names = CLASSES[data[0] % len(CLASSES)] if data else CLASSES[0]
    try:
        record = cls.unmarshal(data[1:])
    except ValueError:
        return
    expect(cls.unmarshal(record.marshal()) == record, f"{record} does not come back from its own bytes")
    forms = [_forms(number, getattr(record, name)) for number, name in enumerate(names.split(), 1)]
    expect(data[1:] in map(b"".join, product(*forms)), f"{record} is not what {data[1:]!r} says")


def _forms(number: int, value: int | bytes) -> tuple[bytes, ...]:
    if isinstance(value, bytes):
        field = bytes((number << 3 | 2,)) + varint(len(value)) + value
    else:
        field = bytes((number << 3,)) + varint(value)
    return (field,) if value else (field, b"")


# -------------------------------------------------------------------------------------------- a whole directory

REGISTRIES = [wal.RecordRegistry(), wal.etcd.registry()]


def directory(data: bytes) -> None:
    """
    Read a log, open it for writing, go on with it, and read it again.

    All ways to read agree. A log that can be read can be opened, and one that cannot is left as it is. What was
    read is still there after it, with what was saved.
    """
    files = unpack(data)
    disk = disk_of(files)
    registry = _registry(disk)
    with unchanged(disk):
        report = attempt(lambda: wal.verify(LOG, registry=registry, fs=disk))
        markers = attempt(lambda: wal.valid_snapshots(LOG, registry=registry, fs=disk))
        found = _read(disk, None, registry)
    if isinstance(report, wal.WALError):
        expect(same(markers, report), f"verify says {report!r}, valid_snapshots {markers!r}")
    names = [attempt(lambda index=index: segments_from(disk, LOG, index)) for index in (0, None)]  # type: ignore[misc]
    if not isinstance(found, wal.WALError) and names[0] == names[1]:  # several may say that they begin the log
        expect(not isinstance(report, wal.WALError), f"it is read, but verify says {report!r}")
    if isinstance(markers, wal.WALError):
        markers = []
    _write(files, None, registry, found)
    for marker in [marker for marker in markers if marker.index][-2:]:
        with unchanged(disk):
            found = _read(disk, marker, registry)
        _write(files, marker, registry, found)


def _registry(disk: SimulatedDisk) -> wal.RecordRegistry:
    """Choose the record classes that refuse less."""
    if isinstance(attempt(lambda: wal.verify(LOG, registry=REGISTRIES[0], fs=disk)), wal.RecordDecodeError):
        return REGISTRIES[1]
    return REGISTRIES[0]


def _read(
    disk: SimulatedDisk, start: wal.Snapshot | None, registry: wal.RecordRegistry
) -> wal.LogContents | wal.WALError:
    """Read a log at once and record by record, and compare."""
    contents = attempt(lambda: wal.WALReader(LOG, start, registry=registry, fs=disk).read_all())
    reader = attempt(lambda: wal.WALReader(LOG, start, registry=registry, fs=disk))
    if isinstance(reader, wal.WALError):
        expect(same(contents, reader), f"it is {contents!r}, and then {reader!r}")
        return contents
    yielded: list[wal.LogRecord] = []
    error = attempt(lambda: yielded.extend(reader))
    first = 0 if start is None else start.index
    kept: dict[int, Any] = {}
    state = registry.state.empty()
    for type, value, _, _ in yielded:
        if isinstance(value, wal.LogEntry):
            kept = {index: entry for index, entry in kept.items() if index < value.index}
            if value.index > first:
                kept[value.index] = value
        elif type is RecordType.STATE:
            assert isinstance(value, wal.HardState)
            state = value
    if isinstance(contents, wal.IndexGapError) and not same(contents, error):
        return contents  # a snapshot covers entries that the log does not have; nothing behind that is read
    expect(same(contents, error) if error else not isinstance(contents, wal.WALError), f"{contents!r} and {error!r}")
    if isinstance(contents, wal.CorruptionError):
        expect(list(contents.entries) == list(kept.values()), "other entries come with the error")
    if not isinstance(contents, wal.WALError):
        expect(contents.entries == list(kept.values()), "the entries are others than those that are yielded")
        expect([e.index for e in contents.entries] == list(range(first + 1, first + 1 + len(kept))), "there is a gap")
        expect(contents.state == state, f"the state is {contents.state}, and {state} is yielded")
        expect(type_and_offset(contents.tail) == type_and_offset(reader.tail), f"{contents.tail!r}, {reader.tail!r}")
    return contents


def type_and_offset(tail: wal.TornWriteError | None) -> tuple[Path, int] | None:
    """Return what there is to compare in the end of a log."""
    return None if tail is None else (tail.path, tail.offset)


def _write(
    files: dict[str, bytes],
    start: wal.Snapshot | None,
    registry: wal.RecordRegistry,
    found: wal.LogContents | wal.WALError,
) -> None:
    """Open a log that a reader has found to be so, save to it over a cut, and read it again."""
    disk = disk_of(files)
    opened = attempt(lambda: wal.read_wal(LOG, start, registry=registry, segment_size=4096, fs=disk))
    if isinstance(opened, wal.WALError) or isinstance(found, wal.WALError):
        expect(same(opened, found), f"a reader finds {found!r}, the writer {opened!r}")
        without_temporaries = {name: content for name, content in files.items() if not name.endswith(".wal.tmp")}
        expect(files_of(disk).items() >= without_temporaries.items(), "a log that is not opened is changed")
        expect(not disk._open, "a file was left open")
        return
    expect(opened[1:] == found[:3], f"a reader finds {found!r}, the writer {opened!r}")
    log = opened.wal
    try:
        expect((log.repaired is None) == (found.tail is None), f"{found.tail!r} is repaired as {log.repaired}")
        if log.repaired is not None:
            _check_backup(files, files_of(disk), log.repaired)
        expected: Contents = found[:3]
        begin = 1 if start is None else start.index + 1
        for number, size in enumerate((0, 10, 4100, 10, 10), 1):  # over a cut, and then on
            first = log.last_index + 1
            entries = [_entry(registry, first, bytes(size))] if first <= MOST else []
            log.save(_state(registry, number), entries)
            expected = expected[0], log.state, [*expected[2], *entries]
        if [e.index for e in expected[2]] != list(range(begin, begin + len(expected[2]))):
            return  # it went on behind a marker; reading from here on is refused for the gap
    finally:
        log.close()
    expect(not disk._open, "a file was left open")
    with unchanged(disk):
        again = _read(disk, start, registry)
    expect(not isinstance(again, wal.WALError), f"after a save it is {again!r}")
    assert not isinstance(again, wal.WALError)
    expect(again[:3] == expected, f"{expected!r} was saved, {again!r} is read")
    expect(again.tail is None, f"after a save there is {again.tail!r}")


MOST = 2**64 - 2
"""The greatest index of an entry."""


def _entry(registry: wal.RecordRegistry, index: int, data: bytes) -> wal.LogEntry:
    cls: Any = registry.entry
    entry: wal.LogEntry = cls(index=index, data=data)
    return entry


def _state(registry: wal.RecordRegistry, number: int) -> wal.HardState:
    return wal.CommitState(number) if registry.state is wal.CommitState else wal.etcd.HardState(commit=number)


def _check_backup(before: dict[str, bytes], after: dict[str, bytes], report: wal.RepairReport) -> None:
    """P10: what was cut is in the backup, what is in front of it is as it was, and nothing else has changed."""
    name, begin, end = report.path.name, report.offset, report.offset + report.bytes_cut
    assert report.backup is not None
    expect(after.get(report.backup.name) == before[name][begin:end], "the backup has other bytes")
    expect(report.backup.name not in before, "a backup was overwritten")
    expect(after[name][:begin] == before[name][:begin], "bytes before the cut have changed")
    expect(not any(after[name][begin:]), "there is something behind the cut")
    expect(begin == end or before[name][end - 1], "the backup ends in zeros")
    expect(not any(before[name][end:]), "something was cut that is not in the backup")
    for other in before.keys() - {name}:
        expect(after.get(other) == before[other] or other.endswith(".wal.tmp"), f"{other} has changed")


# ------------------------------------------------------------------------------------------------------- repair


def repair(data: bytes) -> None:
    """
    Repair a log, and repair it by force.

    A repair that raises has changed nothing. One that does not leaves all whole saves before the damage, and a log
    without damage; what it cut is in the backup; and there is nothing left to do for another.
    """
    files = unpack(data)
    before, damage = _frames(disk_of(files))
    for force in (False, True):
        disk = disk_of(files)
        report = attempt(lambda disk=disk, force=force: wal.repair(LOG, force=force, fs=disk))  # type: ignore[misc]
        expect(not disk._open, "a file was left open")
        if isinstance(report, wal.WALError):
            expect(files_of(disk) == files, f"{report!r}, but something has changed")
            if isinstance(report, wal.CorruptionError) and not force:
                expect(not isinstance(damage, wal.TornWriteError), f"{damage!r} is repairable")
            continue
        if report.backup is None:
            expect(damage is None, f"nothing is done about {damage!r}")
            expect(files_of(disk) == files, "nothing was cut, but something has changed")
        else:
            expect(force or isinstance(damage, wal.TornWriteError), f"{damage!r} is no reason to cut")
            _check_backup(files, files_of(disk), report)
        expect(_frames(disk) == (before, None), "the frames after the repair are not those before the damage")
        repaired = files_of(disk)
        again = wal.repair(LOG, force=force, fs=disk)
        expect((again.bytes_cut, again.backup, files_of(disk)) == (0, None, repaired), f"another repair: {again}")


def _frames(disk: SimulatedDisk) -> tuple[list[tuple[Path, Frame]], wal.WALError | None]:
    """Return the frames of the whole saves of a log, whatever is in them, and the damage at which it ends."""
    found: list[tuple[Path, Frame]] = []
    names = attempt(lambda: segments_from(disk, LOG, None))
    if isinstance(names, wal.WALError):
        return found, names
    decoder = Decoder(disk, LOG, names)
    with unchanged(disk):
        error = attempt(lambda: found.extend((path, frame) for path, run in decoder for frame in run))
    return found, decoder.tail if error is None else error


# ---------------------------------------------------------------------------------------------------- snapshots

SNAPSHOTS = TOP / "snap"


def snapshot(data: bytes) -> None:
    """
    Load the newest of some snapshot files.

    Loading changes nothing. What is loaded can be saved again, and then takes no more bytes than it did.
    """
    files = {f"snap/{name}": content for name, content in unpack(data).items()}
    disk = SimulatedDisk({"snap": None, **files})
    snapshotter = wal.Snapshotter(SNAPSHOTS, fs=disk)
    with unchanged(disk):
        names = snapshotter.names()
        loaded = attempt(snapshotter.load)
        intact = [name for name in names if snapshotter.is_intact(int(name[:16], 16))]
        known = attempt(lambda: snapshotter.load_newest_available([wal.SnapshotMarker(int(n[:16], 16)) for n in names]))
    expect(same(loaded, known), f"{loaded!r} and {known!r} are the newest")
    expect(bool(intact) == (not isinstance(loaded, wal.WALError)), f"{intact} are intact, and {loaded!r} is loaded")
    if isinstance(loaded, wal.WALError):
        expect(isinstance(loaded, wal.NoSnapshotError), f"it raises {loaded!r}")
        expect(len(snapshotter.skipped) == len(names), f"not all of {names} were passed over")
        return
    expect(intact[0] == f"{loaded.index:016x}.snap", f"{intact} are intact, {loaded.index} is loaded")
    path = snapshotter.save(loaded)
    expect(snapshotter.load() == loaded, "it does not come back when it is saved again")
    again, before = disk.files()[f"snap/{path.name}"], files[f"snap/{path.name}"]
    expect(again is not None and len(again) <= len(before) <= len(again) + 10, "it has bytes that were not read")
    if again is not None and len(again) == len(before):
        expect(again == before, "it has two forms")


# ------------------------------------------------------------------------------------------------------ all of it


class Target(NamedTuple):
    """
    One thing that is fuzzed.

    Attributes:
        check: Takes any bytes; complains by raising.
        mutate: Makes new bytes of given ones, so that checksums and lengths stay right more often than by chance.
    """

    check: Callable[[bytes], None]
    mutate: mutations.Mutation


TARGETS = {
    "frames": Target(frames, mutations.of_segment),
    "records": Target(records, mutations.of_bytes),
    "directory": Target(directory, mutations.of_directory),
    "repair": Target(repair, mutations.of_directory),
    "snapshot": Target(snapshot, mutations.of_snapshots),
}


def run(name: str, data: bytes) -> None:
    """Give some bytes to a target; complain if it takes too long."""
    start = time.process_time()
    TARGETS[name].check(data)
    took = time.process_time() - start
    expect(took <= SECONDS, f"{len(data)} bytes took {took:.1f} s")
