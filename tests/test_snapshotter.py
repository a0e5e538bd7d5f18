"""Snapshot files: there as a whole or not at all, never harmed by what fails later, and never judged unread."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import random
import re
import stat
import tarfile
import tracemalloc
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wal
from conftest import DATA
from damage import append, flip_bit, overwrite, truncate, zero
from faults import CALLS
from images import HERE, Image
from logs import Disk, Interrupt, tree, untouched
from test_kill import killed_after
from unsynced import UNSYNCED
from wal import SnapshotData, SnapshotMarker, Snapshotter
from wal._crc32c import extend
from wal._files import OperatingSystem

MEBIBYTE = 1 << 20
MAX_INDEX = 2**64 - 1
READING = {"listdir", "open", "size", "pread", "close"}
"""The calls that change nothing."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A directory that does not exist yet, for snapshots."""
    return tmp_path / "snap"


def name_of(index: int) -> str:
    return f"{index:016x}.snap"


def db_name_of(index: int) -> str:
    return f"{index:016x}.snap.db"


def spelled(value: int) -> bytes:
    """A varint, digit by digit: base 128, the lowest digit first, each but the last with the high bit set."""
    digits = [value % 128]
    while value := value // 128:
        digits.append(value % 128)
    return bytes([digit + 128 for digit in digits[:-1]] + digits[-1:])


def field(number: int, value: int | bytes) -> bytes:
    """A protobuf field; proto3 leaves it out if it is zero or empty."""
    if isinstance(value, int):
        return spelled(number * 8) + spelled(value) if value else b""
    return spelled(number * 8 + 2) + spelled(len(value)) + value if value else b""


def payload_of(snapshot: SnapshotData) -> bytes:
    return field(1, snapshot.index) + field(2, snapshot.data) + field(3, snapshot.metadata)


def file_of(payload: bytes, crc: int | None = None) -> bytes:
    """The content of a snapshot file, with the right checksum or another one."""
    return field(1, extend(0, payload) if crc is None else crc) + field(2, payload)


def make(path: Path, *indexes: int) -> Snapshotter:
    """Make a directory with these snapshots, each with data of its own."""
    snapshots = Snapshotter(path, fs=UNSYNCED)
    for index in indexes:
        snapshots.save(sample(index))
    return Snapshotter(path)


def sample(index: int) -> SnapshotData:
    return SnapshotData(index, b"state at %d" % index, b"members")


def load(path: Path, index: int) -> SnapshotData:
    """Return the snapshot of this index and no other."""
    return Snapshotter(path).load_newest_available([SnapshotMarker(index)])


# ----------------------------------------------------------------------------------------- what others wrote


class Original(NamedTuple):
    """A directory of snapshots that the Go original wrote, and what the JSON beside the archive says of it."""

    path: Path
    expected: dict[str, Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    directory = tmp_path_factory.mktemp("original")
    with tarfile.open(DATA / "original" / "dirs.tar.xz") as tar:
        tar.extractall(directory, [m for m in tar.getmembers() if m.name.startswith("snap/")], filter="data")
    return Original(directory / "snap", json.loads((DATA / "original" / "snap.json").read_text()))


def test_a_directory_of_the_original_is_read(original: Original) -> None:
    """P15: Names, order, the newest snapshot and the database snapshot are those that Go gives."""
    snapshots = Snapshotter(original.path)
    newest = snapshots.load()

    assert snapshots.names() == original.expected["names"]
    assert newest.index == original.expected["index"]
    assert len(newest.data) == original.expected["data_len"]
    assert hashlib.sha256(newest.data).hexdigest() == original.expected["data_sha256"]
    assert newest.metadata == original.expected["metadata"].encode()
    assert snapshots.skipped == ()
    assert snapshots.db_path(255) == original.path / db_name_of(255)
    assert snapshots.db_path(255).read_bytes() == b"db" * 1000


def test_the_same_snapshots_give_the_same_files(original: Original, path: Path) -> None:
    """P15: Saving what the files of the original hold makes the same files, to the byte."""
    ours = Snapshotter(path)
    for name in original.expected["names"]:
        ours.save(load(original.path, int(name.partition(".")[0], 16)))
    with (original.path / db_name_of(255)).open("rb") as source:
        ours.save_db_from(source, 255)

    assert tree(path) == tree(original.path)


def test_reading_the_original_changes_nothing(original: Original) -> None:
    """P8: After every kind of reading the files have the same bytes, times and inodes."""
    before = untouched(original.path)
    snapshots = Snapshotter(original.path)
    snapshots.names()
    snapshots.load()
    snapshots.load_newest_available([SnapshotMarker(5)])
    snapshots.db_path(255)
    snapshots.is_intact(1)

    assert untouched(original.path) == before


# ------------------------------------------------------------------------------------------- save and load


@pytest.fixture(scope="module")
def round_trips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round-trips")


@given(
    snapshot=st.builds(
        SnapshotData, index=st.integers(1, MAX_INDEX), data=st.binary(max_size=300), metadata=st.binary(max_size=300)
    )
)
def test_round_trip(round_trips: Path, snapshot: SnapshotData) -> None:
    """P15: Whatever is saved is loaded again, and its file is the message that the format says, under its name."""
    file = Snapshotter(round_trips, fs=UNSYNCED).save(snapshot, replace=True)

    assert load(round_trips, snapshot.index) == snapshot
    assert file == round_trips / name_of(snapshot.index)
    assert file.read_bytes() == file_of(payload_of(snapshot))


def test_the_newest_is_loaded(path: Path) -> None:
    """The greatest index counts, not the last save."""
    snapshots = make(path, 256, 3, 40)

    assert snapshots.names() == [name_of(256), name_of(40), name_of(3)]
    assert snapshots.load() == sample(256)
    assert snapshots.is_intact(40)
    assert not snapshots.is_intact(41)


def test_a_large_snapshot_comes_back(path: Path) -> None:
    """A state of some megabytes is one file like any other."""
    snapshot = SnapshotData(1, random.Random(1).randbytes(5 * MEBIBYTE), b"metadata")
    Snapshotter(path).save(snapshot)

    assert Snapshotter(path).load() == snapshot


@pytest.mark.parametrize("index", [0, -1, MAX_INDEX + 1], ids=["0", "-1", "2^64"])
def test_an_index_that_cannot_be_is_refused(path: Path, index: int) -> None:
    """S6: Snapshot 0 is the state before everything; it, and no number at all, is an error before anything is made."""
    with pytest.raises(ValueError, match=str(index)):
        Snapshotter(path).save(SnapshotData(index, b"state"))
    with pytest.raises(ValueError, match=str(index)):
        Snapshotter(path).save_db_from(io.BytesIO(b"state"), index)

    assert not path.exists()


@pytest.mark.parametrize("metadata", [b"", b"members"], ids=["data only", "metadata"])
def test_a_checksum_of_zero_is_one(path: Path, metadata: bytes) -> None:
    """S4: One content in 2^32 has the checksum 0. The field is then left out, and the snapshot is as good as any."""
    snapshot = with_checksum_of_zero(7, b"state", metadata)
    file = Snapshotter(path).save(snapshot)

    assert file.read_bytes() == field(2, payload_of(snapshot))
    assert Snapshotter(path).load() == snapshot
    flip_bit(file, 8 * (file.stat().st_size - 10))
    with pytest.raises(wal.NoSnapshotError):
        Snapshotter(path).load()


def with_checksum_of_zero(index: int, data: bytes, metadata: bytes) -> SnapshotData:
    """Choose the last four bytes so that the checksum of the whole is 0."""
    last = "metadata" if metadata else "data"
    parts = {"data": data, "metadata": metadata}
    unfinished = payload_of(SnapshotData(index, **{**parts, last: parts[last] + bytes(4)}))
    register = extend(0, unfinished[:-4]) ^ 0xFFFFFFFF
    backwards = 0xFFFFFFFF  # the register in the end; take back 32 shifts
    for _ in range(32):
        backwards = (backwards ^ 0x82F63B78) << 1 | 1 if backwards >> 31 else backwards << 1
    snapshot = SnapshotData(index, **{**parts, last: parts[last] + (register ^ backwards).to_bytes(4, "little")})
    assert extend(0, payload_of(snapshot)) == 0
    return snapshot


def test_files_are_private(tmp_path: Path) -> None:
    """S10: Nobody else may read a snapshot, whatever the umask says."""
    directory = tmp_path / "new" / "snap"
    before = os.umask(0)
    try:
        snapshots = Snapshotter(directory)
        files = [snapshots.save(sample(1)), snapshots.save_db_from(io.BytesIO(b"state"), 1)]
    finally:
        os.umask(before)

    assert [oct(stat.S_IMODE(file.stat().st_mode)) for file in files] == ["0o600"] * 2
    assert [oct(stat.S_IMODE(made.stat().st_mode)) for made in (directory, directory.parent)] == ["0o700"] * 2


def test_the_path_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means what it meant when it was given, and a symbolic link its target."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    relative, linked = Snapshotter("real"), Snapshotter(Path("link"))
    monkeypatch.chdir("/")

    assert relative.path == linked.path == tmp_path / "real"
    assert relative.save(sample(1)) == tmp_path / "real" / name_of(1)
    assert linked.load() == sample(1)


# ------------------------------------------------------------------------------------------- which to load


@pytest.mark.parametrize(
    ("markers", "expected"),
    [
        pytest.param([1, 5, 9], 9, id="all are known"),
        pytest.param([9, 1, 5], 9, id="in any order"),
        pytest.param([1, 5], 5, id="the newest is not known"),
        pytest.param([5, 6, 7, 10], 5, id="markers without a file"),
        pytest.param([0, 1], 1, id="the marker of the beginning"),
        pytest.param([0], None, id="only the beginning"),
        pytest.param([2, 10], None, id="no file is known"),
        pytest.param([], None, id="no markers"),
    ],
)
def test_only_what_the_log_knows_is_available(path: Path, markers: list[int], expected: int | None) -> None:
    """P14, R46: A file without a marker is from a crash between the two, and not chosen, however new."""
    snapshots = make(path, 1, 5, 9)
    markers_of_the_log = (SnapshotMarker(index) for index in markers)

    if expected is None:
        with pytest.raises(wal.NoSnapshotError, match="no snapshot"):
            snapshots.load_newest_available(markers_of_the_log)
    else:
        assert snapshots.load_newest_available(markers_of_the_log) == sample(expected)


def test_markers_of_any_class_will_do(path: Path) -> None:
    """What counts is a marker's index."""
    snapshots = make(path, 1, 5)

    assert snapshots.load_newest_available([wal.etcd.Snapshot(index=1, term=3)]) == sample(1)


def test_a_damaged_one_is_not_available(path: Path) -> None:
    """P14: Of the snapshots that the log knows, the newest that is intact; others are not even read."""
    snapshots = make(path, 1, 5, 9)
    zero(path / name_of(5), 10, 12)
    zero(path / name_of(9), 10, 12)

    assert snapshots.load_newest_available([SnapshotMarker(1), SnapshotMarker(5)]) == sample(1)
    assert [error.path.name for error in snapshots.skipped] == [name_of(5)]


@pytest.mark.parametrize("make_directory", [False, True], ids=["no directory", "empty directory"])
def test_there_may_be_none(path: Path, make_directory: bool) -> None:
    """Looking for what is not there is a typed error or an empty list, and makes nothing."""
    if make_directory:
        path.mkdir()
    snapshots = Snapshotter(path)

    with pytest.raises(wal.NoSnapshotError, match=re.escape(str(path))):
        snapshots.load()
    with pytest.raises(wal.NoSnapshotError):
        snapshots.load_newest_available([SnapshotMarker(1)])
    with pytest.raises(wal.NoSnapshotError):
        snapshots.db_path(1)
    assert snapshots.skipped == ()
    assert not snapshots.is_intact(1)
    assert snapshots.names() == snapshots.sweep() == snapshots.release(9) == snapshots.release_dbs(9) == []
    assert path.exists() == make_directory


FOREIGN = [
    "db.tmp123456",
    "lost+found",
    "0.snap",
    "0000000000000009.SNAP",
    "000000000000000A.snap",
    "000000000000000g.snap",
    "0000000000000009.snap.broken",
    "0000000000000009.snap.1.broken",
    "0000000000000009.snap.tmp.old",
    "0000000000000009.snap~",
    "0000000000000009.snap\n",
    " 0000000000000009.snap",
    "00000000000000009.snap",
    "٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٩.snap",
    "0000000000000009.snap.db.broken",
    "tmp",
    "0000000000000001-0000000000000009.wal",
]


def test_foreign_files_are_left_alone(path: Path) -> None:
    """S5: What has no name of ours is not listed, not loaded and not deleted, by whatever is called."""
    snapshots = make(path, 1, 2)
    for name in FOREIGN:
        (path / name).write_bytes(file_of(payload_of(sample(9))))
    foreign = {name: seen for name, seen in untouched(path).items() if name in FOREIGN}
    assert len(foreign) == len(FOREIGN)

    assert snapshots.names() == [name_of(2), name_of(1)]
    assert snapshots.load() == sample(2)
    assert snapshots.skipped == ()
    assert snapshots.sweep() == []
    assert snapshots.release_dbs(MAX_INDEX) == []
    snapshots.save(sample(16))
    assert snapshots.release(MAX_INDEX) == [name_of(1), name_of(2), name_of(16)]
    assert untouched(path) == foreign


# ------------------------------------------------------------------------------------- damage is passed over

NEWEST = sample(2)
CONTENT = file_of(payload_of(NEWEST))


def image(newest: bytes, name: str = name_of(2)) -> Snapshotter:
    """A directory in memory, with an intact snapshot 1 and a newer file with this content."""
    return Snapshotter(HERE, fs=Image({name_of(1): file_of(payload_of(sample(1))), name: newest}))


def assert_passed_over(snapshots: Snapshotter, reason: str = "") -> None:
    """Check that the older snapshot is loaded, and the newer one is reported."""
    assert snapshots.load() == sample(1)
    (error,) = snapshots.skipped
    assert error.path == snapshots.path / snapshots.names()[0]
    assert error.offset == 0
    assert re.search(reason, error.reason)
    assert not snapshots.is_intact(int(error.path.name.partition(".")[0], 16))


def test_the_images_are_files_that_save_writes(path: Path) -> None:
    """The tests below damage what is intact to begin with."""
    assert Snapshotter(path).save(NEWEST).read_bytes() == CONTENT
    assert image(CONTENT).load() == NEWEST


def test_every_flipped_bit_is_seen() -> None:
    """P14: No bit of a file can flip without the file being passed over."""
    for bit in range(8 * len(CONTENT)):
        data = bytearray(CONTENT)
        data[bit // 8] ^= 1 << bit % 8
        assert_passed_over(image(bytes(data)))


def test_every_missing_end_is_seen() -> None:
    """P14: A file may be cut at any length, to nothing even."""
    for length in range(len(CONTENT)):
        assert_passed_over(image(CONTENT[:length]))


@given(garbage=st.binary(min_size=1, max_size=100))
def test_whatever_is_appended_is_seen(garbage: bytes) -> None:
    """P14: A file ends where its message does."""
    assert_passed_over(image(CONTENT + garbage))


@given(content=st.binary(max_size=60) | st.binary(max_size=60).map(file_of))
def test_a_file_may_hold_anything(content: bytes) -> None:
    """P14: Whatever stands in a file, it is a snapshot of its name's index or is passed over, and no other error."""
    snapshots = image(content)

    loaded = snapshots.load()

    if loaded != sample(1):
        assert loaded.index == 2
        assert snapshots.skipped == ()
    else:
        assert len(snapshots.skipped) == 1


def another_index(file: Path) -> None:
    file.write_bytes(file_of(payload_of(sample(3))))


def rewritten(content: bytes) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        file.write_bytes(content)

    return damage


PAYLOAD = payload_of(NEWEST)
DAMAGE: list[Any] = [
    pytest.param(lambda file: truncate(file, 0), "empty", id="R25: empty"),
    pytest.param(lambda file: truncate(file, 9), "not a snapshot", id="cut"),
    pytest.param(lambda file: zero(file, 0, len(CONTENT)), "not a snapshot", id="zeros"),
    pytest.param(lambda file: zero(file, 13, 17), "checksum", id="a hole"),
    pytest.param(lambda file: flip_bit(file, 8 * 20), "checksum", id="a flipped bit in the payload"),
    pytest.param(lambda file: flip_bit(file, 8 * 2), "checksum", id="a flipped bit in the checksum"),
    pytest.param(lambda file: append(file, b"\0"), "not a snapshot", id="a byte too many"),
    pytest.param(lambda file: append(file, CONTENT), "not a snapshot", id="twice the same"),
    pytest.param(lambda file: overwrite(file, 0, b"\x89PNG\r\n\x1a\n"), "not a snapshot", id="foreign"),
    pytest.param(another_index, "snapshot of index 3", id="another index"),
    pytest.param(rewritten(file_of(PAYLOAD, crc=0)), "checksum", id="S4: no checksum"),
    pytest.param(rewritten(file_of(PAYLOAD, crc=extend(0, PAYLOAD) ^ 1)), "checksum", id="another checksum"),
    pytest.param(rewritten(file_of(PAYLOAD, crc=extend(0, PAYLOAD) | 1 << 32)), "checksum", id="33 bits of checksum"),
    pytest.param(rewritten(file_of(PAYLOAD + field(4, 1))), "not a snapshot", id="an unknown field inside"),
    pytest.param(rewritten(CONTENT + field(3, 1)), "not a snapshot", id="an unknown field outside"),
    pytest.param(rewritten(file_of(b"x" * 40)), "not a snapshot", id="a checksum over something else"),
    pytest.param(rewritten(field(2, PAYLOAD) + field(1, extend(0, PAYLOAD))), "not a snapshot", id="out of order"),
    pytest.param(rewritten(PAYLOAD), "not a snapshot", id="the payload alone"),
    pytest.param(rewritten(field(2, b"\xff" * 2**20)), "not a snapshot", id="a megabyte of nonsense"),
    pytest.param(
        rewritten(field(1, 1) + b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
        "not a snapshot",
        id="P12: a length of 2^63",
    ),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
def test_damage_is_passed_over_and_left_alone(
    path: Path, damage: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S2, P8, P14: An older snapshot is loaded; the damaged file is reported, logged, and stays as it is."""
    make(path, 1, 2)
    damage(path / name_of(2))
    snapshots = Snapshotter(path)
    before = untouched(path)

    with caplog.at_level(logging.WARNING, "wal"):
        assert_passed_over(snapshots, reason)

    assert untouched(path) == before
    assert caplog.messages == [f"a damaged snapshot is passed over: {snapshots.skipped[0]}"]
    assert name_of(2) in caplog.text
    # It is out of the way for a new one of the same index, too.
    Snapshotter(path).save(NEWEST)
    assert snapshots.load() == NEWEST
    assert snapshots.skipped == ()


def test_a_wrong_checksum_says_which_one_is_right(path: Path) -> None:
    """The error has both values, to be compared with those of another copy."""
    snapshots = make(path, 1, 2)
    flip_bit(path / name_of(2), 8 * 20)
    damaged = (path / name_of(2)).read_bytes()

    snapshots.load()

    (error,) = snapshots.skipped
    assert isinstance(error, wal.CRCMismatchError)
    assert (error.expected, error.found) == (extend(0, damaged[-len(PAYLOAD) :]), extend(0, PAYLOAD))


@pytest.mark.parametrize(
    "content",
    [b"", file_of(b"\x08\x00"), file_of(field(2, b"state"))],
    ids=["empty", "a zero written out", "no index"],
)
def test_there_is_no_snapshot_of_index_0(path: Path, content: bytes) -> None:
    """S6: A file that says 0, or says nothing, is none, even under the name that would fit."""
    snapshots = make(path, 1)
    (path / name_of(1)).unlink()
    (path / name_of(0)).write_bytes(content)

    with pytest.raises(wal.NoSnapshotError):
        snapshots.load()

    assert [error.path.name for error in snapshots.skipped] == [name_of(0)]


def test_a_renamed_file_is_not_taken_for_another_snapshot(path: Path) -> None:
    """P14: The name says which index is wanted, the content which one it is; both must agree."""
    snapshots = make(path, 1, 2)
    (path / name_of(2)).rename(path / name_of(3))

    assert_passed_over(snapshots, "snapshot of index 2")


def test_all_that_is_passed_over_is_reported(path: Path) -> None:
    """What was skipped comes newest first, and is forgotten at the next load."""
    snapshots = make(path, 1, 2, 3, 4)
    for index in (2, 4):
        truncate(path / name_of(index), 9)

    assert snapshots.load() == sample(3)
    assert [error.path.name for error in snapshots.skipped] == [name_of(4)]
    (path / name_of(3)).unlink()
    assert snapshots.load() == sample(1)
    assert [error.path.name for error in snapshots.skipped] == [name_of(4), name_of(2)]
    (path / name_of(1)).unlink()
    with pytest.raises(wal.NoSnapshotError, match="2 are damaged"):
        snapshots.load()
    assert [error.path.name for error in snapshots.skipped] == [name_of(4), name_of(2)]
    snapshots.save(sample(5))
    assert snapshots.load() == sample(5)
    assert snapshots.skipped == ()


# ------------------------------------------------------------------------------- an error says nothing of a file


class ReadOnly(Disk):
    """A disk that is mounted read-only."""

    def __init__(self) -> None:
        super().__init__()
        for call in set(CALLS) - READING:
            self.fail(call, error=errno.EROFS, persistent=True)

    def open(self, path: Path, flags: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return super().open(path, flags)


def test_a_read_only_disk_is_read(path: Path) -> None:
    """P8: Reading needs no right to write anything."""
    make(path, 1, 2).save_db_from(io.BytesIO(b"state"), 1)
    truncate(path / name_of(2), 9)
    snapshots = Snapshotter(path, fs=ReadOnly())

    assert_passed_over(snapshots)
    assert snapshots.db_path(1) == path / db_name_of(1)
    with pytest.raises(OSError, match="Read-only"):
        snapshots.save(sample(3))


def load_all(snapshots: Snapshotter) -> None:
    snapshots.load_newest_available(map(SnapshotMarker, range(9)))


@pytest.mark.parametrize("damaged", [False, True], ids=["intact", "damaged"])
@pytest.mark.parametrize("code", ["EACCES", "EIO", "EMFILE", "ENFILE", "ENOMEM"])
@pytest.mark.parametrize(
    "read", [Snapshotter.load, load_all, lambda snapshots: snapshots.is_intact(2)], ids=["load", "newest", "is_intact"]
)
def test_a_file_that_cannot_be_read_is_not_damaged(
    path: Path, read: Callable[[Snapshotter], object], code: str, damaged: bool
) -> None:
    """S2, P8: An error of the system is raised as it is; nothing is renamed, passed over, or left open."""
    make(path, 1, 2)
    if damaged:
        truncate(path / name_of(2), 9)
    before = untouched(path)
    for number in count(1):
        fs = Disk()
        fs.fail("any", number=number, error=getattr(errno, code))
        try:
            read(Snapshotter(path, fs=fs))
        except OSError as error:
            assert type(error) is type(OSError(getattr(errno, code), ""))
            assert error.errno == getattr(errno, code)
            assert set(fs.trace) <= READING
            assert not fs.open_descriptors
        else:
            assert number > 4
            break
    assert untouched(path) == before


@pytest.mark.parametrize("prefix", [b"", b"\x08\x05\x12\x04", b"\x08\x05"], ids=["zeros", "header", "checksum"])
def test_a_file_is_not_read_beyond_what_it_says(path: Path, prefix: bytes) -> None:
    """P12: a damaged directory may give a file any length; one of a terabyte is refused at once."""
    snapshots = make(path, 1)
    with (path / name_of(2)).open("wb") as file:
        file.write(prefix)
        file.truncate(1 << 40)

    assert snapshots.load().index == 1

    (skipped,) = snapshots.skipped
    assert skipped.path == path / name_of(2)


@pytest.mark.parametrize("make_obstacle", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_what_is_no_file_is_not_renamed(path: Path, make_obstacle: Callable[[Path], None]) -> None:
    """S2: Something else under a snapshot's name is an error of the system, not damage; it does not hang."""
    snapshots = make(path, 1)
    make_obstacle(path / name_of(2))

    with pytest.raises(OSError, match=r"directory|seek"):
        snapshots.load()

    assert snapshots.names() == [name_of(2), name_of(1)]
    assert snapshots.skipped == ()


def test_a_file_that_vanishes_is_no_error(path: Path) -> None:
    """R43: One that was removed since it was listed is as if it had never been there."""
    make(path, 1, 2)
    fs = Disk()
    snapshots = Snapshotter(path, fs=fs)
    fs.fail("open", error=errno.ENOENT)

    assert snapshots.load() == sample(1)
    assert snapshots.skipped == ()


class Beside(Disk):
    """Lets something happen right before the n-th call."""

    def __init__(self, number: int, event: Callable[[], object]) -> None:
        super().__init__()
        self.number = number
        self.event = event

    def _run(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        self.number -= 1
        if self.number == 0:
            self.event()
        return super()._run(name, call, *args)


CHANGED = SnapshotData(5, b"another state")


@pytest.mark.parametrize(
    ("event", "outcomes"),
    [
        pytest.param(lambda beside: beside.release(9), [sample(5), None], id="all are released"),
        pytest.param(lambda beside: beside.release(5), [sample(5)], id="older ones are released"),
        pytest.param(lambda beside: beside.save(sample(8)), [sample(5), sample(8)], id="a newer one is saved"),
        pytest.param(lambda beside: beside.save(CHANGED, replace=True), [sample(5), CHANGED], id="it is replaced"),
        pytest.param(lambda beside: beside.set_aside(name_of(5)), [sample(5), sample(1)], id="it is set aside"),
    ],
)
def test_loading_works_beside_a_writer(
    tmp_path: Path, event: Callable[[Snapshotter], object], outcomes: list[SnapshotData | None]
) -> None:
    """R42, R43, P14: Whatever a writer does between any two calls of a reader, that one sees what is or was there."""
    seen: list[SnapshotData | None] = []
    for number in count(1):
        path = tmp_path / str(number)
        beside = make(path, 1, 5)
        fs = Beside(number, lambda beside=beside: event(beside))  # type: ignore[misc]
        snapshots = Snapshotter(path, fs=fs)
        try:
            seen.append(snapshots.load())
        except wal.NoSnapshotError:
            seen.append(None)
        assert snapshots.skipped == ()
        if fs.number > 0:
            break

    assert set(seen) == set(outcomes)
    assert len(seen) > 5


# ------------------------------------------------------------------------------------------- replacing another


@pytest.mark.parametrize("replace", [False, True], ids=["", "replace"])
@pytest.mark.parametrize(
    ("there", "conflict"),
    [
        pytest.param(None, False, id="nothing there"),
        pytest.param(CONTENT, False, id="the same"),
        pytest.param(CONTENT[:-1], False, id="damaged"),
        pytest.param(b"", False, id="empty"),
        pytest.param(file_of(payload_of(sample(3))), False, id="another one's content"),
        pytest.param(file_of(payload_of(SnapshotData(2, b"other", b"members"))), True, id="other data"),
        pytest.param(file_of(payload_of(SnapshotData(2, b"state at 2", b"other"))), True, id="other metadata"),
        pytest.param(file_of(payload_of(SnapshotData(2))), True, id="no data"),
    ],
)
def test_other_content_is_replaced_only_if_asked_for(
    path: Path, there: bytes | None, conflict: bool, replace: bool
) -> None:
    """S7: The name has the index only, so an intact snapshot with other content may be somebody else's."""
    snapshots = make(path, 1)
    if there is not None:
        (path / name_of(2)).write_bytes(there)
    before = untouched(path)

    if conflict and not replace:
        with pytest.raises(wal.WALExistsError, match="replace=True") as caught:
            snapshots.save(NEWEST)
        assert caught.value.path == path / name_of(2)
        assert untouched(path) == before
    else:
        assert snapshots.save(NEWEST, replace=replace) == path / name_of(2)
        assert snapshots.load() == NEWEST
        assert tree(path).keys() == {name_of(1), name_of(2)}


def test_what_cannot_be_read_is_not_replaced(path: Path) -> None:
    """S2, S7: An error of the system does not say that the file there is damaged."""
    make(path, 1)
    before = untouched(path)
    fs = Disk()
    fs.fail("pread", error=errno.EIO)

    with pytest.raises(OSError, match="Input/output"):
        Snapshotter(path, fs=fs).save(SnapshotData(1, b"other"))

    assert untouched(path) == before


@pytest.mark.parametrize(
    "stale", [pytest.param(b"x", id="short"), pytest.param(b"x" * 10_000, id="long"), pytest.param(b"", id="empty")]
)
def test_what_a_crash_left_is_not_built_upon(path: Path, stale: bytes) -> None:
    """R38: No byte of an older temporary gets into a new file."""
    snapshots = make(path, 1)
    for name in (name_of(2), db_name_of(2)):
        (path / f"{name}.tmp").write_bytes(stale)

    assert snapshots.save(NEWEST).read_bytes() == CONTENT
    assert snapshots.save_db_from(io.BytesIO(b"state"), 2).read_bytes() == b"state"
    assert tree(path).keys() == {name_of(1), name_of(2), db_name_of(2)}


# -------------------------------------------------------------------------------------------- order of calls


class Attempt(NamedTuple):
    """
    A save.

    Attributes:
        run: Makes it, on a directory with intact snapshots 1 and 5, a damaged 3 and a database snapshot 5.
        name: The file that it is about.
        content: What that holds afterwards.
    """

    run: Callable[[Snapshotter], Path]
    name: str
    content: bytes


def database() -> BinaryIO:
    return io.BytesIO(b"new database")


OTHER = SnapshotData(5, b"another state at 5")
ATTEMPTS: list[Any] = [
    pytest.param(
        Attempt(lambda snapshots: snapshots.save(sample(7)), name_of(7), file_of(payload_of(sample(7)))), id="new"
    ),
    pytest.param(
        Attempt(lambda snapshots: snapshots.save(OTHER, replace=True), name_of(5), file_of(payload_of(OTHER))),
        id="replace",
    ),
    pytest.param(
        Attempt(lambda snapshots: snapshots.save(sample(5)), name_of(5), file_of(payload_of(sample(5)))), id="again"
    ),
    pytest.param(
        Attempt(lambda snapshots: snapshots.save(sample(3)), name_of(3), file_of(payload_of(sample(3)))),
        id="over damage",
    ),
    pytest.param(
        Attempt(lambda snapshots: snapshots.save_db_from(database(), 7), db_name_of(7), b"new database"), id="new db"
    ),
    pytest.param(
        Attempt(lambda snapshots: snapshots.save_db_from(database(), 5), db_name_of(5), b"new database"),
        id="replace db",
    ),
]
each_save = pytest.mark.parametrize("attempt", ATTEMPTS)


def prepare(path: Path) -> dict[str, bytes | None]:
    """Make the directory that attempts work on; return its files."""
    make(path, 1, 3, 5).save_db_from(io.BytesIO(b"old database"), 5)
    truncate(path / name_of(3), 9)
    return tree(path)


@each_save
def test_a_file_is_durable_before_its_name_and_that_before_the_return(path: Path, attempt: Attempt) -> None:
    """S1, S3, R34: Write, sync, rename, sync the directory, in this order, for both kinds of files."""
    prepare(path)
    fs = Disk()
    snapshots = Snapshotter(path, fs=fs)
    snapshots.save(sample(8))
    fs.calls.clear()

    attempt.run(snapshots)

    temporary = str(path / f"{attempt.name}.tmp")
    assert fs.of("pwrite", "truncate", "allocate", "fsync", "fdatasync", "rename") == [
        ("pwrite", temporary),
        ("fsync", temporary),
        ("rename", temporary),
        ("fsync", str(path)),
    ]


def test_a_new_directory_is_durable_before_the_file(tmp_path: Path) -> None:
    """S3, R34: Each directory that is made is synced into its parent before the file gets its name."""
    fs = Disk()
    Snapshotter(tmp_path / "a" / "b", fs=fs).save(sample(1))

    calls = fs.of("mkdir", "fsync", "rename")
    renamed = calls.index(("rename", str(tmp_path / "a" / "b" / f"{name_of(1)}.tmp")))
    for made in (tmp_path / "a", tmp_path / "a" / "b"):
        assert ("fsync", str(made.parent)) in calls[calls.index(("mkdir", str(made))) : renamed]


def test_a_directory_of_unknown_durability_is_synced_into_its_parent(path: Path) -> None:
    """S3, R34: Whoever made the directory may have been killed before it was durable; the first save makes it so."""
    path.mkdir()
    fs = Disk()
    Snapshotter(path, fs=fs).save(sample(1))

    assert ("fsync", str(path.parent)) in fs.calls
    assert fs.calls.index(("fsync", str(path.parent))) < fs.calls.index(("rename", str(path / f"{name_of(1)}.tmp")))


def test_the_log_hears_of_a_snapshot_when_it_is_durable(tmp_path: Path) -> None:
    """S3, R34: In a storage, the marker is written after the directory of the snapshots was synced."""
    fs = Disk()
    storage, _ = wal.open_storage(tmp_path, segment_size=4096, fs=fs)
    with storage:
        storage.save(wal.CommitState(1), [wal.Entry(1)])
        fs.calls.clear()
        storage.save_snap(sample(1))
        calls = fs.of("pwrite", "fsync", "fdatasync", "rename")

    (segment,) = (tmp_path / "wal").iterdir()
    assert calls[-3:] == [("fsync", str(tmp_path / "snap")), ("pwrite", str(segment)), ("fdatasync", str(segment))]
    assert ("rename", str(tmp_path / "snap" / f"{name_of(1)}.tmp")) in calls[:-3]


def test_no_lock_is_taken(path: Path) -> None:
    """R42: A lock on a snapshot file would keep it from being removed, and there is nothing that it would protect."""
    fs = Disk()
    snapshots = Snapshotter(path, fs=fs)
    snapshots.save(sample(1))
    snapshots.save(sample(2))
    snapshots.save(sample(3))
    snapshots.save_db_from(io.BytesIO(b"state"), 1)
    snapshots.load()
    snapshots.db_path(1)
    snapshots.set_aside(name_of(1))
    snapshots.release(3)
    snapshots.release_dbs(3)
    snapshots.sweep()

    assert not {"lock", "unlock", "lock_directory", "unlock_directory"} & set(fs.trace)
    assert tree(path).keys() == {name_of(3), f"{name_of(1)}.broken"}


# --------------------------------------------------------------------------------------------- failing disks


def check_after_failure(path: Path, attempt: Attempt, before: dict[str, bytes | None], *, renamed: bool) -> None:
    """S1: everything is what it was, but for the saved file if it had got its name already; a new attempt works."""
    now = tree(path)
    now.pop(f"{attempt.name}.tmp", None)
    assert now == ({**before, attempt.name: attempt.content} if renamed else before)
    assert load(path, 1) == sample(1)
    if not (renamed and attempt.name == name_of(5)):
        assert load(path, 5) == sample(5)
    attempt.run(Snapshotter(path, fs=UNSYNCED))
    assert tree(path) == {**before, attempt.name: attempt.content}


@each_save
@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", ["EIO", "ENOSPC"])
def test_a_save_that_fails_harms_nothing(tmp_path: Path, attempt: Attempt, code: str, persistent: bool) -> None:
    """S1, S8, R25: Fail the i-th call of a save, until it runs clean; what was there still loads, nothing is left."""
    for number in count(1):
        path = tmp_path / str(number)
        before = prepare(path)
        fs = Disk()
        fs.fail("any", number=number, error=getattr(errno, code), persistent=persistent)
        try:
            attempt.run(Snapshotter(path, fs=fs))
        except OSError as error:
            assert error.errno == getattr(errno, code)
        else:
            assert number > 8
            assert tree(path) == {**before, attempt.name: attempt.content}
            break
        assert not fs.open_descriptors
        temporary = path / f"{attempt.name}.tmp"
        done = fs.calls[: number - 1]
        renamed = ("rename", str(temporary)) in done
        # A disk that fails for good does not let go of the temporary either.
        assert temporary.exists() == (persistent and not renamed and ("open", str(temporary)) in done)
        check_after_failure(path, attempt, before, renamed=renamed)


@each_save
@pytest.mark.parametrize("size", [1, 7])
def test_writes_may_be_short(path: Path, attempt: Attempt, size: int) -> None:
    """R25: A system that takes a few bytes at a time gets all of them."""
    before = prepare(path)
    fs = Disk()
    fs.short_writes = size

    assert attempt.run(Snapshotter(path, fs=fs)) == path / attempt.name
    assert tree(path) == {**before, attempt.name: attempt.content}


@each_save
def test_a_full_disk_harms_nothing(tmp_path: Path, attempt: Attempt) -> None:
    """S1, R25: The disk may be full after any byte."""
    for space in range(len(attempt.content)):
        path = tmp_path / str(space)
        before = prepare(path)
        with pytest.raises(OSError, match="No space") as caught:
            attempt.run(Snapshotter(path, fs=Full(space)))
        assert caught.value.errno == errno.ENOSPC
        assert tree(path) == before
        check_after_failure(path, attempt, before, renamed=False)


class Full(OperatingSystem):
    """A disk with so many bytes of space."""

    def __init__(self, space: int) -> None:
        self.space = space

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        written = super().pwrite(fd, data[: self.space], offset)
        self.space -= written
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def fsync(self, fd: int) -> None:
        pass


@each_save
def test_a_disk_that_takes_no_byte_is_an_error(path: Path, attempt: Attempt) -> None:
    """S1, R25: A write of no bytes is not tried for ever."""
    before = prepare(path)
    fs = Disk()
    fs.short_writes = 0

    with pytest.raises(OSError, match="took no byte"):
        attempt.run(Snapshotter(path, fs=fs))

    assert tree(path) == before
    assert not fs.open_descriptors


@pytest.mark.parametrize("attempt", [row for row in ATTEMPTS if row.id in ("new", "replace", "replace db")])
def test_an_interrupted_save_harms_nothing(tmp_path: Path, attempt: Attempt) -> None:
    """S1: A ``KeyboardInterrupt`` at any place leaves every file as it was, or the new one in its place."""
    for number in count(1):
        path = tmp_path / str(number)
        before = prepare(path)
        interrupt = Interrupt(number)
        try:
            with interrupt:
                attempt.run(Snapshotter(path, fs=UNSYNCED))
        except KeyboardInterrupt:
            pass
        if interrupt.missed:
            assert number > 20
            break
        renamed = tree(path).get(attempt.name) == attempt.content
        check_after_failure(path, attempt, before, renamed=renamed)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
def test_a_first_save_that_fails_leaves_no_directory(tmp_path: Path, persistent: bool) -> None:
    """P11: Directories that were made for a save go with it; if the system does not let go, the next save works."""
    for number in count(1):
        root = tmp_path / str(number)
        root.mkdir()
        fs = Disk()
        fs.fail("any", number=number, error=errno.EIO, persistent=persistent)
        try:
            Snapshotter(root / "a" / "b", fs=fs).save(sample(1))
        except OSError:
            assert not fs.open_descriptors
        else:
            assert number > 10
            break
        if not persistent and "rename" not in fs.trace[: number - 1]:
            assert tree(root) == {}
        snapshots = Snapshotter(root / "a" / "b", fs=UNSYNCED)
        snapshots.save(sample(1))
        assert snapshots.load() == sample(1)
        assert tree(root / "a" / "b").keys() == {name_of(1)}


# ------------------------------------------------------------------------------------------ database snapshots


class Source:
    """A large file that is made while it is read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.position = 0
        self.longest = 0

    def read(self, length: int) -> bytes:
        self.longest = max(self.longest, length)
        length = min(length, self.size - self.position)
        self.position += length
        return (b"%07d " % (self.position // MEBIBYTE)) * (length // 8)


def test_a_large_database_is_streamed(path: Path) -> None:
    """P12: 64 MiB go through in the memory of a few chunks, and the caller can watch them go."""
    source = Source(64 * MEBIBYTE)
    done: list[int] = []
    snapshots = Snapshotter(path, fs=UNSYNCED)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        file = snapshots.save_db_from(cast(BinaryIO, source), 9, progress=done.append)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak - before < 4 * MEBIBYTE
    assert source.longest <= MEBIBYTE
    assert done == sorted(set(done))
    assert len(done) >= 64
    assert done[-1] == file.stat().st_size == 64 * MEBIBYTE
    with file.open("rb") as written:
        again = Source(64 * MEBIBYTE)
        while chunk := written.read(MEBIBYTE):
            assert chunk == again.read(MEBIBYTE)


class Trickle(io.BytesIO):
    """A source that gives fewer bytes than it is asked for, as a socket does."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(self.tell() % 7 + 1, size or 0))


@given(data=st.binary(max_size=100))
def test_a_source_may_give_a_little_at_a_time(round_trips: Path, data: bytes) -> None:
    """What is read counts, not what was asked for; the end is where nothing comes any more."""
    done: list[int] = []
    snapshots = Snapshotter(round_trips, fs=UNSYNCED)
    snapshots.save_db_from(Trickle(data), 1, progress=done.append)

    assert snapshots.db_path(1).read_bytes() == data
    assert done == sorted(set(done))
    assert done[-1:] == ([len(data)] if data else [])


class Broken(io.BytesIO):
    """A source that fails in the middle."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__(b"half a database")
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        if data := super().read(size):
            return data
        if self.error is None:
            return cast(bytes, None)
        raise self.error


@pytest.mark.parametrize(
    ("source", "error"),
    [
        pytest.param(Broken(OSError(errno.ECONNRESET, "reset")), OSError, id="fails"),
        pytest.param(Broken(KeyboardInterrupt()), KeyboardInterrupt, id="is interrupted"),
        pytest.param(io.StringIO("text"), TypeError, id="gives text"),
        pytest.param(Broken(None), OSError, id="has nothing at the moment"),
    ],
)
def test_a_source_that_fails_leaves_nothing(path: Path, source: Any, error: type[BaseException]) -> None:
    """S1, S8: Half a database is none: the one that was there stays, and the error is the source's."""
    before = prepare(path)
    fs = Disk()

    with pytest.raises(error):
        Snapshotter(path, fs=fs).save_db_from(source, 5)

    assert tree(path) == before
    assert not fs.open_descriptors


def test_a_caller_may_end_a_stream(path: Path) -> None:
    """S1: What ``progress`` raises ends the save, and nothing is left of it."""
    before = prepare(path)

    def cancel(done: int) -> None:
        raise TimeoutError(f"after {done} bytes")

    with pytest.raises(TimeoutError, match="after 12 bytes"):
        Snapshotter(path).save_db_from(database(), 5, progress=cancel)

    assert tree(path) == before


def test_databases_are_found_by_their_index(path: Path) -> None:
    """A database snapshot is a file of its own, apart from the snapshot of the same index."""
    snapshots = make(path, 1)
    for index in (1, 2, 255):
        assert snapshots.save_db_from(io.BytesIO(b"database %d" % index), index) == path / db_name_of(index)

    assert [snapshots.db_path(index).read_bytes() for index in (1, 2, 255)] == (
        [b"database 1", b"database 2", b"database 255"]
    )
    with pytest.raises(wal.NoSnapshotError, match="index 3"):
        snapshots.db_path(3)
    assert snapshots.names() == [name_of(1)]
    assert snapshots.load() == sample(1)


# -------------------------------------------------------------------------------------------------- clean up


def release(snapshots: Snapshotter, index: int) -> list[str]:
    return snapshots.release(index)


def release_dbs(snapshots: Snapshotter, index: int) -> list[str]:
    return snapshots.release_dbs(index)


each_release = pytest.mark.parametrize(
    ("call", "name", "other"),
    [
        pytest.param(release, name_of, db_name_of, id="snapshots"),
        pytest.param(release_dbs, db_name_of, name_of, id="dbs"),
    ],
)
Release = Callable[[Snapshotter, int], list[str]]
Name = Callable[[int], str]


def make_both(path: Path, *indexes: int) -> None:
    snapshots = make(path, *indexes)
    for index in indexes:
        snapshots.save_db_from(database(), index)


@each_release
@pytest.mark.parametrize("index", [0, 1, 2, 5, 6, 300, MAX_INDEX])
def test_older_ones_are_released(path: Path, call: Release, name: Name, other: Name, index: int) -> None:
    """S9, P13: Those below the index go, oldest first; the one of the index, newer ones and other files stay."""
    indexes = [5, 1, 300, 2]
    make_both(path, *indexes)
    fs = Disk()

    removed = call(Snapshotter(path, fs=fs), index)

    assert removed == [name(old) for old in sorted(indexes) if old < index]
    assert [Path(file).name for _, file in fs.of("unlink")] == removed
    assert tree(path).keys() == {other(i) for i in indexes} | {name(i) for i in indexes if i >= index}


@each_release
def test_a_release_is_durable(path: Path, call: Release, name: Name, other: Name) -> None:
    """P13: The directory is synced once after the last removal, and left alone if there was none."""
    make_both(path, 1, 2, 3)
    fs = Disk()
    call(Snapshotter(path, fs=fs), 3)

    assert fs.of("unlink", "fsync")[-2:] == [("unlink", str(path / name(2))), ("fsync", str(path))]
    assert fs.trace.count("fsync") == 1
    assert call(Snapshotter(path, fs=fs), 3) == []
    assert fs.trace.count("fsync") == 1


@each_release
def test_two_may_release_at_once(path: Path, call: Release, name: Name, other: Name) -> None:
    """R43: A file that another one has removed meanwhile is no error, and not counted."""
    make_both(path, 1, 2, 3)
    fs = Disk()
    fs.fail("unlink", error=errno.ENOENT)

    assert call(Snapshotter(path, fs=fs), 3) == [name(2)]


@each_release
@pytest.mark.parametrize("code", ["EACCES", "EIO", "EROFS"])
def test_a_release_that_fails_says_so(path: Path, call: Release, name: Name, other: Name, code: str) -> None:
    """P13: An error of the system is raised; what is left are the newer ones, and the next release goes on."""
    make_both(path, 1, 2, 3, 4)
    for number in count(1):
        fs = Disk()
        fs.fail("any", number=number, error=getattr(errno, code))
        try:
            call(Snapshotter(path, fs=fs), 4)
        except OSError as error:
            assert error.errno == getattr(errno, code)
            assert not fs.open_descriptors
            left = sorted(file for file in tree(path) if file in {name(index) for index in range(5)})
            assert left == [name(index) for index in range(5 - len(left), 5)]
        else:
            break
    assert tree(path).keys() == {other(1), other(2), other(3), other(4), name(4)}


def test_a_damaged_file_is_set_aside(path: Path) -> None:
    """S2: Only an explicit call renames; the file keeps its bytes, and is not looked at any more."""
    snapshots = make(path, 1, 2)
    truncate(path / name_of(2), 9)
    snapshots.load()
    assert [error.path for error in snapshots.skipped] == [path / name_of(2)]

    aside = snapshots.set_aside(name_of(2))

    assert aside == path / f"{name_of(2)}.broken"
    assert aside.read_bytes() == CONTENT[:9]
    assert snapshots.names() == [name_of(1)]
    assert snapshots.load() == sample(1)
    assert snapshots.skipped == ()


def test_setting_aside_replaces_nothing(path: Path) -> None:
    """S2: Each file that is set aside stays, whatever its index."""
    snapshots = Snapshotter(path, fs=UNSYNCED)
    aside = []
    for number in range(4):
        snapshots.save(SnapshotData(1, b"%d" % number))
        aside.append(snapshots.set_aside(name_of(1)))

    assert [file.name.removeprefix(name_of(1)) for file in aside] == [".broken", ".1.broken", ".2.broken", ".3.broken"]
    assert [file.read_bytes() for file in aside] == (
        [file_of(payload_of(SnapshotData(1, b"%d" % number))) for number in range(4)]
    )


def test_setting_aside_is_durable(path: Path) -> None:
    """S3: The new name is synced."""
    make(path, 1)
    fs = Disk()
    Snapshotter(path, fs=fs).set_aside(name_of(1))

    assert fs.of("rename", "fsync") == [("rename", str(path / name_of(1))), ("fsync", str(path))]
    assert not fs.open_descriptors


@pytest.mark.parametrize(
    "name", ["", "1.snap", db_name_of(1), f"{name_of(1)}.broken", f"../{name_of(1)}", f"{name_of(1)}\n", "*"]
)
def test_only_snapshots_are_set_aside(path: Path, name: str) -> None:
    """A name that is not a snapshot's is refused, wherever it leads."""
    snapshots = make(path, 1)
    snapshots.save_db_from(database(), 1)
    before = untouched(path)

    with pytest.raises(ValueError, match=re.escape(repr(name))):
        snapshots.set_aside(name)

    assert untouched(path) == before


@pytest.mark.parametrize("make_directory", [False, True], ids=["no directory", "no file"])
def test_what_is_not_there_is_not_set_aside(path: Path, make_directory: bool) -> None:
    """A snapshot that is gone is an error of its own."""
    if make_directory:
        path.mkdir()
    with pytest.raises(FileNotFoundError):
        Snapshotter(path).set_aside(name_of(1))


def test_leftovers_are_swept(path: Path) -> None:
    """R50: What a crash left half-made goes, by our own names only."""
    snapshots = make(path, 1)
    foreign = {name for name in FOREIGN if not name.endswith("\n")} | {"1.snap.tmp", "x.tmp", f"{name_of(1)}.TMP"}
    own = {f"{name_of(7)}.tmp", f"{db_name_of(7)}.tmp", f"{name_of(MAX_INDEX)}.tmp"}
    for name in foreign | own:
        (path / name).write_bytes(b"left")
    fs = Disk()

    assert Snapshotter(path, fs=fs).sweep() == sorted(own)
    assert tree(path).keys() == foreign | {name_of(1)}
    assert fs.of("unlink", "fsync")[-1] == ("fsync", str(path))
    assert snapshots.sweep() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_saves_leave_one_file_at_most(path: Path) -> None:
    """R49, R50, S1: However often a process is killed while it saves, snapshots are whole, and one file is swept."""
    seed = random.randrange(1 << 32)
    print(f"seed of the random times: {seed}")  # noqa: T201
    times = random.Random(seed)
    acknowledged = 0
    swept = set()

    def save_until_killed(acknowledge: Callable[[int], None]) -> None:
        snapshots = Snapshotter(path)
        snapshots.sweep()
        for index in count(acknowledged + 1):
            snapshots.release(index - 1)
            snapshots.release_dbs(index - 1)
            snapshots.save(snapshot_of(index))
            snapshots.save_db_from(io.BytesIO(snapshot_of(index).data), index)
            acknowledge(index)

    for number in count():
        if number >= 40 and acknowledged >= 20:
            break
        saved = killed_after(times.uniform(0, 0.02 + number / 5000), save_until_killed)
        assert saved == list(range(acknowledged + 1, acknowledged + len(saved) + 1))
        acknowledged += len(saved)
        snapshots = Snapshotter(path)
        left = [file.name for file in path.glob("*.tmp")] if path.exists() else []
        assert len(left) <= 1
        swept |= {"".join(Path(file).suffixes) for file in left}
        if acknowledged:
            newest = snapshots.load()
            assert newest in (snapshot_of(acknowledged), snapshot_of(acknowledged + 1))
            assert snapshots.skipped == ()
            assert snapshots.db_path(acknowledged).read_bytes() == snapshot_of(acknowledged).data
            assert len(snapshots.names()) <= 2

    assert sorted(Snapshotter(path).sweep()) == sorted(left)
    assert not list(path.glob("*.tmp"))
    assert swept <= {".snap.tmp", ".snap.db.tmp"}


def snapshot_of(index: int) -> SnapshotData:
    return SnapshotData(index, b"%d" % index * 20_000)
