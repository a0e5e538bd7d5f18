"""Logs that programs in Go wrote: they are read exactly, left alone, appended to, and written the same."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import wal
from conftest import DATA
from wal._decoder import Decoder, Frame
from wal._files import OPERATING_SYSTEM
from wal._frame import encode_frame, parse_record
from wal._segments import list_segments

FAMILIES = {
    "single": "original",
    "single.from2": "original",
    "segments": "original",
    "segments.frommid": "original",
    "big": "original",
    "etcd": "etcd",
}
WHOLE = [name for name in FAMILIES if "." not in name]


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All directories of the archives. No test changes them."""
    directory = tmp_path_factory.mktemp("unpacked")
    for archive in DATA.glob("*/dirs.tar.xz"):
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
    return directory


class Fixture:
    """A log by its name, and what the JSON beside the archive says of it."""

    def __init__(self, unpacked: Path, name: str) -> None:
        self.etcd = FAMILIES[name] == "etcd"
        self.registry = wal.etcd.registry() if self.etcd else wal.RecordRegistry()
        self.path = unpacked / ("etcd/member/wal" if self.etcd else name.partition(".")[0])
        self.expected: dict[str, Any] = json.loads((DATA / FAMILIES[name] / f"{name}.json").read_text())

    @property
    def start(self) -> wal.Snapshot | None:
        index = self.expected.get("start_index")
        return wal.SnapshotMarker(index) if index else None

    @property
    def state(self) -> wal.HardState:
        if self.etcd:
            return wal.etcd.HardState(**self.expected["hard_state"])
        return wal.CommitState(self.expected["committed"])

    @property
    def valid_snapshots(self) -> list[wal.Snapshot]:
        markers = self.expected["valid_snapshots"]
        if self.etcd:
            return [wal.etcd.Snapshot(**marker) for marker in markers]
        return [wal.SnapshotMarker(index) for index in markers]

    @property
    def segments(self) -> list[Path]:
        return [self.path / str(name) for name in list_segments(OPERATING_SYSTEM, self.path)]

    def assert_is(self, metadata: bytes, state: wal.HardState, entries: list[wal.LogEntry]) -> None:
        expected = self.expected["entries"]
        assert metadata.hex() == self.expected["metadata_hex"]
        assert state == self.state
        assert [described(entry, like) for entry, like in zip(entries, expected, strict=True)] == expected

    def frames(self) -> Iterator[tuple[Path, Frame]]:
        names = list_segments(OPERATING_SYSTEM, self.path)
        for path, frames in Decoder(OPERATING_SYSTEM, self.path, names):
            for frame in frames:
                yield path, frame


def described(entry: Any, like: dict[str, Any]) -> dict[str, Any]:
    """Describe an entry by the keys that the JSON has for it."""
    keys: dict[str, Callable[[], Any]] = {
        "data_hex": entry.data.hex,
        "data_len": lambda: len(entry.data),
        "data_sha256": lambda: hashlib.sha256(entry.data).hexdigest(),
    }
    return {key: keys[key]() if key in keys else getattr(entry, key) for key in like}


@pytest.fixture(params=FAMILIES)
def fixture(request: pytest.FixtureRequest, unpacked: Path) -> Fixture:
    return Fixture(unpacked, request.param)


@pytest.fixture(params=WHOLE)
def whole(request: pytest.FixtureRequest, unpacked: Path) -> Fixture:
    return Fixture(unpacked, request.param)


# ------------------------------------------------------------------------------------------------------ read


def test_a_reader_returns_what_go_returns(fixture: Fixture) -> None:
    """P15: A log from Go is read exactly: metadata, state and every entry."""
    metadata, state, entries, tail = wal.WALReader(fixture.path, fixture.start, registry=fixture.registry).read_all()

    fixture.assert_is(metadata, state, entries)
    assert tail is None


def test_a_writer_returns_what_go_returns(fixture: Fixture, path: Path) -> None:
    """P15: ``read_wal`` returns the same as a reader, and has nothing to repair."""
    shutil.copytree(fixture.path, path)

    log, metadata, state, entries = wal.read_wal(path, fixture.start, registry=fixture.registry)
    with log:
        fixture.assert_is(metadata, state, entries)
        assert log.repaired is None
        assert log.last_index == fixture.expected["entries"][-1]["index"]


def test_valid_snapshots_are_those_of_go(fixture: Fixture) -> None:
    """P15: The markers at which a log from Go can be opened are those that Go lists."""
    assert wal.valid_snapshots(fixture.path, registry=fixture.registry) == fixture.valid_snapshots


def test_a_log_from_go_opens_at_each_of_its_markers(whole: Fixture) -> None:
    """P15, P19: From each marker on, the entries behind it are read."""
    everything = wal.WALReader(whole.path, registry=whole.registry).read_all().entries
    for marker in whole.valid_snapshots:
        assert (
            wal.WALReader(whole.path, marker, registry=whole.registry).read_all().entries
            == (everything[marker.index :])
        )


def test_verify_counts_what_is_there(whole: Fixture) -> None:
    """P15: ``verify`` finds a log from Go in order, and its figures are those of the frames."""
    frames = [frame for _, frame in whole.frames()]

    report = wal.verify(whole.path, registry=whole.registry)

    assert report.segments == len(whole.segments)
    assert report.records == len(frames)
    assert report.entries == sum(type == wal.RecordType.ENTRY for type, _, _ in frames)
    assert report.bytes == sum(len(segment.read_bytes().rstrip(b"\0")) + 7 & ~7 for segment in whole.segments)
    assert report.last_index == whole.expected["entries"][-1]["index"]
    assert report.tail is None


def test_reading_changes_nothing(fixture: Fixture) -> None:
    """P8: After every kind of reading, the directory has the same files with the same bytes, modes and times."""

    def look() -> list[tuple[str, int, int, int, int, str]]:
        return [
            (file.name, (s := file.stat()).st_ino, s.st_mode, s.st_mtime_ns, s.st_ctime_ns, content(file))
            for file in [fixture.path, *sorted(fixture.path.iterdir())]
        ]

    def content(file: Path) -> str:
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""

    before = look()
    reader = wal.WALReader(fixture.path, fixture.start, registry=fixture.registry)
    assert len(list(reader)) > 0
    reader.read_all()
    wal.verify(fixture.path, registry=fixture.registry)
    wal.valid_snapshots(fixture.path, registry=fixture.registry)
    assert wal.exists(fixture.path)

    assert look() == before


# ------------------------------------------------------------------------------------------------- go on


@pytest.mark.parametrize(
    "marks",
    [pytest.param([True], id="marks"), pytest.param([False], id="no marks"), pytest.param([True, False], id="both")],
)
def test_a_log_from_go_is_appended_to(whole: Fixture, path: Path, marks: list[bool]) -> None:
    """P15: A log from Go goes on over several reopenings and cuts; what was there before stays what it was."""
    shutil.copytree(whole.path, path)
    added: list[wal.LogEntry] = []
    state = whole.state
    for number in range(4):
        log, metadata, found, entries = wal.read_wal(
            path, registry=whole.registry, segment_size=4096, save_marks=marks[number % len(marks)]
        )
        with log:
            old = len(entries) - len(added)
            assert entries[old:] == added
            assert found == state
            if not added:
                whole.assert_is(metadata, found, entries)
            for size in (1, 2000, 3000):
                batch = [entry_of(whole, log.last_index + 1 + n, bytes([number]) * size) for n in range(2)]
                state = state_of(whole, batch[-1].index)
                log.save(state, batch)
                added += batch

    contents = wal.WALReader(path, registry=whole.registry).read_all()
    assert contents.entries[-len(added) :] == added
    whole.assert_is(contents.metadata, whole.state, contents.entries[: -len(added)])
    assert contents.state == state
    assert contents.tail is None
    assert wal.verify(path, registry=whole.registry).segments > len(whole.segments) + 1
    for file in whole.segments[:-1]:
        assert (path / file.name).read_bytes() == file.read_bytes()


def entry_of(fixture: Fixture, index: int, data: bytes) -> wal.LogEntry:
    return wal.etcd.Entry(term=2, index=index, data=data) if fixture.etcd else wal.Entry(index, data)


def state_of(fixture: Fixture, committed: int) -> wal.HardState:
    return wal.etcd.HardState(term=2, vote=1, commit=committed) if fixture.etcd else wal.CommitState(committed)


# ------------------------------------------------------------------------------------------- write the same


def test_a_small_log_is_written_byte_for_byte_as_go_writes_it(unpacked: Path, path: Path) -> None:
    """P15: The calls that made ``single`` in Go make the same file, to the last byte of its reserved space."""
    with wal.WAL.create(path, metadata=b"metadata", segment_size=4096, save_marks=False) as log:
        log.save(wal.CommitState(2), [wal.Entry(1, b"a"), wal.Entry(2, b"bb", 1), wal.Entry(3)])
        log.save_snap(wal.SnapshotMarker(2))
        log.save_state(wal.CommitState(3))

    assert read_files(path) == read_files(unpacked / "single")


@pytest.mark.parametrize("name", ["single", "segments", "big"])
def test_the_same_saves_give_the_same_segments(unpacked: Path, path: Path, name: str) -> None:
    """P15: Saving what the segments of a log from Go hold, with cuts at the same places, makes the same segments."""
    fixture = Fixture(unpacked, name)
    metadata = bytes.fromhex(fixture.expected["metadata_hex"])
    cut_at = max(4096, fixture.segments[0].stat().st_size)
    wal.WAL.create(path, metadata, segment_size=cut_at, save_marks=False).close()

    for file, (first, *rest) in saves_by_segment(fixture):
        # The segment before is full to the byte, so this save begins the next one; those after it find room.
        with wal.read_wal(path, segment_size=cut_at, save_marks=False).wal as log:
            save_to(log, first)
        with wal.read_wal(path, save_marks=False).wal as log:
            for save in rest:
                save_to(log, save)
        cut_at = file.stat().st_size

    assert {name: data.rstrip(b"\0") for name, data in read_files(path).items()} == (
        {name: data.rstrip(b"\0") for name, data in read_files(fixture.path).items()}
    )


def test_each_frame_is_encoded_as_go_encodes_it(whole: Fixture) -> None:
    """P15: Encoding each record of a log from Go gives its frame; etcd alone writes out the zero of its first CRC."""
    for path, group in groupby(whole.frames(), key=lambda item: item[0]):
        data = path.read_bytes()
        again = b"".join(encode_frame(type, crc_at(data, at), payload, 0) for _, (type, payload, at) in group)
        skipped = 16 if whole.etcd else 0
        assert again[skipped:] == data[skipped : len(again)]
        assert not any(data[len(again) :])


def test_each_payload_is_marshalled_as_go_marshals_it(whole: Fixture) -> None:
    """P15: Every record of a log from Go, unmarshalled and marshalled again, is the same bytes."""
    classes: dict[int, type[wal.Record]] = {
        wal.RecordType.ENTRY: whole.registry.entry,
        wal.RecordType.STATE: whole.registry.state,
        wal.RecordType.SNAPSHOT: whole.registry.snapshot,
    }
    seen = set()
    for _, (type, payload, _) in whole.frames():
        if type in classes:
            assert classes[type].unmarshal(payload).marshal() == payload
            seen.add(type)
    assert seen == set(classes)


Save = tuple[wal.HardState | None, list[wal.LogEntry]] | wal.Snapshot


def save_to(log: wal.WAL, save: Save) -> None:
    if isinstance(save, wal.Snapshot):
        log.save_snap(save)
    else:
        log.save(*save)


def saves_by_segment(fixture: Fixture) -> Iterator[tuple[Path, list[Save]]]:
    """Yield each segment and the calls that its records came from: entries up to their state, or a marker."""
    for path, records in groupby(wal.WALReader(fixture.path), key=lambda record: record.path):
        saves: list[Save] = []
        entries: list[wal.LogEntry] = []
        types = []
        for record in records:
            types.append(record.type)
            if len(types) == 1 or types == [wal.RecordType.METADATA, wal.RecordType.SNAPSHOT]:
                continue  # the head
            if types == [wal.RecordType.METADATA, wal.RecordType.STATE]:
                continue  # the head of a later segment
            value = record.value
            if isinstance(value, wal.LogEntry):
                if entries and value.index != entries[-1].index + 1:
                    saves.append((None, entries))
                    entries = []
                entries.append(value)
                continue
            if isinstance(value, wal.HardState):
                saves.append((value, entries))
                entries = []
                continue
            assert isinstance(value, wal.Snapshot)
            if entries:
                saves.append((None, entries))
                entries = []
            saves.append(value)
        if entries:
            saves.append((None, entries))
        yield path, saves


def crc_at(data: bytes, offset: int) -> int:
    """Return the CRC in the frame at ``offset``."""
    size = int.from_bytes(data[offset : offset + 7], "little")
    record = parse_record(data, offset + 8, offset + 8 + size)
    assert record is not None
    return record[1]


def read_files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}
