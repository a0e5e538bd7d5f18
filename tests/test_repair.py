"""Repair: a torn end is cut and kept, damage that is not one is refused, and a crash in between is harmless."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import wal
from commands import SCENES
from damage import append, flip_bit, overwrite, truncate, unstamp, zero
from faults import FaultyFileSystem
from logs import Disk, frames, segments, tree, untouched
from unsynced import UNSYNCED
from wal import CommitState, Entry, SnapshotMarker

SIZE = 4096
ACKNOWLEDGED = [Entry(index, b"acknowledged %d" % index) for index in range(1, 6)]
LAST_SAVE = [Entry(index, b"torn %d" % index * 30) for index in range(6, 9)]


class Torn(NamedTuple):
    """
    A log with a last save, of which some kind of damage is about to leave a part.

    Attributes:
        path: The log's directory.
        segment: Its last segment.
        begin: Where the last save begins in it.
        end: Where it ends.
    """

    path: Path
    segment: Path
    begin: int
    end: int

    def entries(self) -> list[Any]:
        return wal.WALReader(self.path).read_all().entries


def used(path: Path) -> int:
    """Return where the last segment's saves end."""
    size: int = wal.verify(path).bytes - sum(segment.stat().st_size for segment in segments(path)[:-1])
    return size


def make(path: Path, *, in_segment: int = 0, save_marks: bool = True) -> Torn:
    """Make a log of five acknowledged saves and a last one of four records, which will be damaged."""
    with wal.WAL.create(path, b"node", segment_size=SIZE, save_marks=save_marks, fs=UNSYNCED) as log:
        for number in range(in_segment):
            log.save_entry([Entry(1, b"%d" % number * SIZE)])
        for entry in ACKNOWLEDGED:
            log.save(CommitState(entry.index), [entry])
        begin = used(path)
        log.save(CommitState(8), LAST_SAVE)
        end = used(path)
    segment = segments(path)[-1]
    assert len(segments(path)) == in_segment + 1
    if save_marks:
        unstamp(segment)
    return Torn(path, segment, begin, end)


Damage = Callable[[Torn], None]


def keep(size: int, fill: bytes = b"") -> Damage:
    """Keep the first ``size`` bytes of the last save; behind them comes ``fill``, then zeros."""

    def damage(log: Torn) -> None:
        zero(log.segment, log.begin + size, log.end)
        overwrite(log.segment, log.begin + size, fill)

    return damage


def end_after(size: int) -> Damage:
    """End the file after the first ``size`` bytes of the last save."""
    return lambda log: truncate(log.segment, log.begin + size)


TORN: list[Any] = [
    *[pytest.param(end_after(size), id=f"R05: the file ends {size} bytes into a frame") for size in range(1, 8)],
    pytest.param(end_after(8), id="R05: the file ends behind the length"),
    pytest.param(end_after(9), id="the file ends behind one byte of the record"),
    pytest.param(end_after(100), id="the file ends inside a payload"),
    pytest.param(end_after(360), id="the file ends between two records of the save"),
    pytest.param(keep(1), id="zeros behind the first byte"),
    pytest.param(keep(8), id="zeros behind the length"),
    pytest.param(keep(100), id="zeros inside a payload"),
    pytest.param(keep(100, b"\xa5" * 412), id="R12: garbage to the end of the sector"),
    pytest.param(keep(100, b"\xa5" * 2500), id="R12: garbage behind the save"),
    pytest.param(keep(100, b"\xff" * 2500), id="ones behind the save"),
    pytest.param(keep(0, b"\xa5" * 30), id="garbage instead of the save"),
    pytest.param(lambda log: zero(log.segment, log.begin, log.begin + 8), id="R02, F16: a zero length, then data"),
    pytest.param(lambda log: zero(log.segment, log.begin, log.begin + 32), id="R02, F16: a hole, then data"),
    pytest.param(lambda log: zero(log.segment, log.begin + 128, log.begin + 256), id="a hole inside the save"),
    pytest.param(lambda log: flip_bit(log.segment, 8 * (log.begin + 60)), id="a wrong checksum in the last save"),
    pytest.param(lambda log: zero(log.segment, log.end - 8, log.end), id="the last record is not complete"),
    pytest.param(
        lambda log: overwrite(log.segment, log.begin, (SIZE + 8).to_bytes(7, "little")),
        id="R07: a length beyond the end of the file",
    ),
    pytest.param(lambda log: overwrite(log.segment, log.begin, b"\xff" * 7), id="R09: the greatest length"),
]
torn_tails = pytest.mark.parametrize("damage", TORN)


@pytest.fixture(params=[0, 2], ids=["first segment", "third segment"])
def log(request: pytest.FixtureRequest, path: Path) -> Torn:
    """A log whose damage is in its first segment, or (R06) in a later one."""
    return make(path, in_segment=request.param)


def assert_goes_on(path: Path, before: list[Any], **options: Any) -> None:
    """Check that a repaired log holds these entries, is appended to over two cuts, and is in order after it."""
    assert wal.WALReader(path).read_all().tail is None
    more = [Entry(before[-1].index + 1 + n, b"more" * n * 300) for n in range(4)]
    with wal.WAL.open(path, segment_size=SIZE, fs=UNSYNCED, **options) as log:
        assert log.read_all().entries == before
        for entry in more:
            log.save_entry([entry])
        log.save(CommitState(1), [more[0]])
    contents = wal.WALReader(path).read_all()
    assert contents == (b"node", CommitState(1), [*before, more[0]], None)


# ------------------------------------------------------------------------------------------------- what is cut


@torn_tails
def test_a_torn_end_is_cut_and_the_log_goes_on(log: Torn, damage: Damage) -> None:
    """R06: After the repair the log ends with the last whole save, is clean, and can be appended to."""
    damage(log)
    state = wal.WALReader(log.path).read_all().state

    report = wal.repair(log.path)

    assert (report.path, report.offset) == (log.segment, log.begin)
    assert log.entries() == ACKNOWLEDGED
    assert state == CommitState(5)
    assert_goes_on(log.path, ACKNOWLEDGED)


@torn_tails
def test_what_is_cut_is_kept(log: Torn, damage: Damage) -> None:
    """P10: The backup beside the segment has all bytes that were cut, up to the zeros at the end of the file."""
    damage(log)
    torn = log.segment.read_bytes()[log.begin :].rstrip(b"\0")

    report = wal.repair(log.path)

    assert report.backup is not None
    assert report.backup.parent == log.path
    assert report.backup.name.startswith(log.segment.name)
    assert report.backup.name.endswith(".broken")
    assert report.backup.read_bytes() == torn
    assert report.bytes_cut == len(torn) > 0
    assert report.reason
    assert sorted(log.path.iterdir()) == sorted([*segments(log.path), report.backup])


@torn_tails
def test_the_space_behind_the_cut_is_zeros_again(log: Torn, damage: Damage) -> None:
    """
    R02, F16: Nothing of the torn write is left behind the end of the log, and the reserved space is there again.

    A file that a crash left with an odd length gets whole words: etcd takes less than one for a torn frame.
    """
    damage(log)
    before = log.segment.read_bytes()

    wal.repair(log.path)

    after = log.segment.read_bytes()
    assert after[: log.begin] == before[: log.begin]
    assert after[log.begin :] == bytes(len(before) + -len(before) % 8 - log.begin)


def test_bytes_behind_the_last_save_are_cut(log: Torn) -> None:
    """F16: What is neither a save nor zeros is cut like a torn write, and no save with it."""
    append(log.segment, b"\0" * 40 + b"rubbish")

    report = wal.repair(log.path)

    assert report.offset == log.end
    assert report.backup is not None
    assert report.backup.read_bytes() == log.segment.read_bytes()[log.end : 4096] + b"\0" * 40 + b"rubbish"
    assert_goes_on(log.path, [*ACKNOWLEDGED, *LAST_SAVE])


def test_a_log_without_marks_is_cut_at_the_last_whole_record(path: Path) -> None:
    """Without marks each record stands alone, as in the Go original: those before the tear are kept."""
    log = make(path, save_marks=False)
    zero(log.segment, log.end - 40, log.end)

    report = wal.repair(path)

    assert report.offset > log.begin
    kept = len(log.entries()) - len(ACKNOWLEDGED)
    assert 0 < kept < len(LAST_SAVE)
    assert_goes_on(path, [*ACKNOWLEDGED, *LAST_SAVE[:kept]], save_marks=False)


def test_a_repair_needs_no_record_class(log: Torn) -> None:
    """A log of an application's own records is repaired without them."""

    class Refusing(wal.Entry):
        @classmethod
        def unmarshal(cls, data: bytes) -> Refusing:
            raise AssertionError

    keep(100)(log)
    wal.register_record(wal.RecordType.ENTRY, Refusing)

    assert wal.repair(log.path).offset == log.begin


def test_a_repair_is_logged(log: Torn, caplog: pytest.LogCaptureFixture) -> None:
    """P10: A repair never goes unseen: a warning says what was cut and where it is kept."""
    keep(100)(log)

    with caplog.at_level(logging.WARNING, "wal"):
        report = wal.repair(log.path)

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("wal", logging.WARNING)
    for fact in (log.segment, report.bytes_cut, report.offset, report.reason):
        assert str(fact) in record.getMessage()
    assert report.backup is not None
    assert report.backup.name in record.getMessage()


def test_a_file_without_reserved_space_is_repaired(path: Path) -> None:
    """R04: A segment that ends with its last record, as some tools leave it, is appended to behind that record."""
    log = make(path)
    truncate(log.segment, log.end - 1)

    wal.repair(path)

    assert log.segment.stat().st_size == log.end
    assert_goes_on(path, ACKNOWLEDGED)


# ------------------------------------------------------------------------------------------------- the backup


def test_the_backup_is_private(log: Torn) -> None:
    """R14: Whatever the umask is, only the owner can read the copy."""
    keep(100)(log)
    umask = os.umask(0)
    try:
        report = wal.repair(log.path)
    finally:
        os.umask(umask)

    assert report.backup is not None
    assert report.backup.stat().st_mode & 0o777 == 0o600


def test_a_backup_is_never_overwritten(log: Torn) -> None:
    """F18: Each repair keeps its copy under a name of its own, also at the same place."""
    whole = log.segment.read_bytes()
    kept = {}
    for size in (100, 200, 300, 104):
        log.segment.write_bytes(whole)
        keep(size)(log)
        report = wal.repair(log.path)
        assert report.backup not in kept
        kept[report.backup] = whole[log.begin : log.begin + size].rstrip(b"\0")

    assert {path: path.read_bytes() for path in log.path.glob("*.broken")} == kept


@pytest.mark.parametrize("how", ["repair", "read_wal"])
def test_the_backup_is_durable_before_the_log_is_cut(log: Torn, how: str) -> None:
    """F18, P10: The order is: copy, sync the copy, sync its name, truncate, sync, reserve, sync."""
    keep(100)(log)
    disk = Disk()

    if how == "repair":
        wal.repair(log.path, fs=disk)
    else:
        with wal.read_wal(log.path, fs=disk).wal:
            disk.calls.append(("the log is open", ""))

    segment, directory = str(log.segment), str(log.path)
    (backup,) = map(str, log.path.glob("*.broken"))
    calls = disk.of("pwrite", "truncate", "allocate", "fsync", "rename", "unlink", "the log is open")
    end = calls.index(("the log is open", "")) if how == "read_wal" else len(calls)
    assert calls[calls.index(("pwrite", backup)) : end] == [
        ("pwrite", backup),
        ("fsync", backup),
        ("fsync", directory),
        ("truncate", segment),
        ("fsync", segment),
        ("allocate", segment),
        ("fsync", segment),
    ]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=errno.errorcode.__getitem__)
def test_a_disk_that_is_full_while_backing_up_changes_nothing(log: Torn, error: int) -> None:
    """R13: If the copy cannot be written to its last byte, the log is what it was, and no half copy is left."""
    keep(400)(log)
    before = untouched(log.path)

    for number in count(1):
        fs = FaultyFileSystem()
        fs.short_writes = 64
        fs.fail("pwrite", number=number, error=error)
        try:
            wal.repair(log.path, fs=fs)
        except OSError as raised:
            assert raised.errno == error
        else:
            break
        assert untouched(log.path) == before
        assert not fs.open_descriptors
    assert number > 6
    assert log.entries() == ACKNOWLEDGED


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_backup_that_does_not_become_durable_changes_nothing(log: Torn, call: str) -> None:
    """R13, P10: The log is not cut before the copy and its name are synced."""
    keep(400)(log)
    before = untouched(log.path)

    for number in count(1):
        disk = Disk()
        disk.fail(call, number=number)
        try:
            wal.repair(log.path, fs=disk)
        except OSError:
            pass
        else:
            break
        if not disk.of("truncate"):
            assert untouched(log.path) == before
        assert not disk.open_descriptors
    assert number > 2


# ---------------------------------------------------------------------------------------- crash in the middle


def repair(path: Path, fs: FaultyFileSystem) -> None:
    wal.repair(path, fs=fs)


def read_and_close(path: Path, fs: FaultyFileSystem) -> None:
    log = wal.read_wal(path, fs=fs).wal
    fs.faults.clear()
    log.close()


HOW = [pytest.param(repair, id="repair"), pytest.param(read_and_close, id="read_wal")]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("persistent", [False, True], ids=["an error", "a crash"])
def test_a_repair_that_fails_at_any_call_can_be_repeated(
    log: Torn, how: Callable[[Path, FaultyFileSystem], None], persistent: bool
) -> None:
    """P10: Whatever call fails, once or with all that follow, no save is lost, and a second repair ends the same."""
    keep(400)(log)
    torn = log.segment.read_bytes()
    shutil.copytree(log.path, log.path.with_name("torn"))

    for number in count(1):
        shutil.rmtree(log.path)
        shutil.copytree(log.path.with_name("torn"), log.path)
        disk = Disk()
        disk.short_writes = 150
        disk.fail("any", number=number, persistent=persistent)
        try:
            how(log.path, disk)
        except OSError:
            assert not disk.open_descriptors
        else:
            break

        assert log.entries() == ACKNOWLEDGED
        wal.repair(log.path)
        assert log.entries() == ACKNOWLEDGED
        assert log.segment.read_bytes()[: log.begin] == torn[: log.begin]
        assert frames(log.segment)[-1].offset < log.begin
        assert torn[log.begin : log.end].rstrip(b"\0") in [file.read_bytes() for file in log.path.glob("*.broken")]
        assert not persistent or len(list(log.path.glob("*.broken"))) <= 2
    assert number > 20
    assert_goes_on(log.path, ACKNOWLEDGED)


@pytest.mark.parametrize("how", HOW)
def test_a_repair_that_is_interrupted_lets_go_of_everything(
    log: Torn, how: Callable[[Path, FaultyFileSystem], None]
) -> None:
    """R55: Also an interrupt leaves no descriptor, no lock and no half copy behind."""
    keep(400)(log)

    for number in count(1):
        fs = FaultyFileSystem()
        fs.fail("pwrite", number=number, error=KeyboardInterrupt())
        fs.short_writes = 100
        try:
            how(log.path, fs)
        except KeyboardInterrupt:
            assert not fs.open_descriptors
            assert not list(log.path.glob("*.broken"))
        else:
            break
    assert number > 3
    assert log.entries() == ACKNOWLEDGED


# --------------------------------------------------------------------------------------------- what is refused


def make_five(path: Path) -> list[Path]:
    """Make a log of five segments with about ten saves each."""
    with wal.WAL.create(path, b"node", segment_size=SIZE, fs=UNSYNCED) as log:
        for index in range(1, 49):
            log.save(CommitState(index), [Entry(index, b"%02d" % index * 175)])
    assert len(segments(path)) == 5
    return segments(path)


REFUSED: list[Any] = [
    pytest.param(lambda files: flip_bit(files[1], 8 * 1000), id="R15: rot in the second segment"),
    pytest.param(lambda files: truncate(files[1], 3000), id="R16: the second segment is torn"),
    pytest.param(lambda files: truncate(files[3], files[3].stat().st_size - 8), id="R16: the last but one is torn"),
    pytest.param(lambda files: zero(files[1], 0, 8), id="the head of the second segment is lost"),
    pytest.param(lambda files: truncate(files[2], 0), id="the third segment is empty"),
    pytest.param(lambda files: append(files[1], b"rubbish!"), id="bytes behind the second segment"),
    pytest.param(lambda files: files[2].unlink(), id="the third segment is missing"),
    pytest.param(lambda files: flip_bit(files[4], 8 * 20), id="rot in the head of the last segment"),
    pytest.param(lambda files: truncate(files[4], 0), id="the last segment is empty"),
    pytest.param(lambda files: truncate(files[4], 20), id="the head of the last segment is torn"),
    pytest.param(lambda files: flip_bit(files[0], 8 * 20), id="rot in the first head"),
]
CUT_BY_FORCE: list[Any] = [
    pytest.param(lambda files: flip_bit(files[4], 8 * 500), id="rot in the last segment"),
    pytest.param(lambda files: zero(files[4], 512, 1024), id="R12, F17: a lost sector in the last segment"),
]


@pytest.mark.parametrize("damage", REFUSED + CUT_BY_FORCE)
def test_damage_that_is_not_a_torn_end_is_refused(path: Path, damage: Callable[[list[Path]], None]) -> None:
    """R15, R16, F17: Damage with later saves behind it is an error, and every segment stays what it is."""
    damage(make_five(path))
    before = untouched(path)

    with pytest.raises(wal.CorruptionError) as caught:
        wal.repair(path)

    assert not isinstance(caught.value, wal.TornWriteError)
    assert untouched(path) == before
    with pytest.raises(wal.CorruptionError):
        wal.read_wal(path)
    assert untouched(path) == before


@pytest.mark.parametrize("damage", REFUSED)
def test_force_does_not_cut_heads_or_earlier_segments(path: Path, damage: Callable[[list[Path]], None]) -> None:
    """P10: Not even ``force`` cuts where whole segments would be lost."""
    damage(make_five(path))
    before = untouched(path)

    with pytest.raises(wal.CorruptionError):
        wal.repair(path, force=True)

    assert untouched(path) == before


@pytest.mark.parametrize("damage", CUT_BY_FORCE)
def test_force_cuts_the_last_segment_at_the_damage(path: Path, damage: Callable[[list[Path]], None]) -> None:
    """P10: With ``force`` the last segment is cut at its first damage, and what was acknowledged goes to the copy."""
    last = make_five(path)[-1]
    damage([*segments(path)])
    before = last.read_bytes()
    good = wal.WALReader(path)
    with pytest.raises(wal.CorruptionError) as caught:
        good.read_all()

    report = wal.repair(path, force=True)

    assert report.path == last
    assert report.offset <= caught.value.offset
    assert report.backup is not None
    assert report.backup.read_bytes() == before[report.offset :].rstrip(b"\0")
    assert last.read_bytes() == before[: report.offset].ljust(len(before), b"\0")
    assert good.read_all().entries == list(caught.value.entries)
    assert 40 < len(caught.value.entries) < 48
    assert_goes_on(path, list(caught.value.entries))


def test_force_cuts_a_torn_end_as_any_repair_does(log: Torn) -> None:
    """``force`` makes no difference to a torn write."""
    keep(100)(log)

    assert wal.repair(log.path, force=True).offset == log.begin
    assert_goes_on(log.path, ACKNOWLEDGED)


def test_force_cuts_the_torn_end_of_a_log_without_marks(path: Path) -> None:
    """Without marks a hole in the last batch cannot be told from rot: it is refused, and cut by ``force``."""
    log = make(path, save_marks=False)
    zero(log.segment, log.begin, log.begin + 16)
    with pytest.raises(wal.CorruptionError):
        wal.repair(path)

    assert wal.repair(path, force=True).offset == log.begin
    assert_goes_on(path, ACKNOWLEDGED, save_marks=False)


def test_a_log_that_is_in_order_is_left_alone(log: Torn) -> None:
    """F20: With nothing to repair, the report says so and nothing is written."""
    before = untouched(log.path)
    disk = Disk()

    report = wal.repair(log.path, fs=disk)

    assert (report.path, report.offset, report.bytes_cut, report.backup) == (log.segment, log.end, 0, None)
    assert untouched(log.path) == before
    assert not disk.of("pwrite", "truncate", "allocate", "rename", "unlink")
    assert wal.repair(log.path, force=True) == report


def test_a_second_repair_has_nothing_to_do(log: Torn) -> None:
    """P10: Repairing what was repaired changes nothing."""
    keep(100)(log)
    first = wal.repair(log.path)
    before = untouched(log.path)

    second = wal.repair(log.path)

    assert (second.offset, second.bytes_cut, second.backup) == (first.offset, 0, None)
    assert untouched(log.path) == before


def test_a_log_that_is_open_is_not_repaired(log: Torn) -> None:
    """F19: Repair does not wait for the writer, and does not change the log under its hands."""
    keep(100)(log)
    before = untouched(log.path)

    with wal.WAL.open(log.path):
        for force in (False, True):
            with pytest.raises(wal.WALLockedError):
                wal.repair(log.path, force=force)

    assert untouched(log.path) == before
    assert wal.repair(log.path).bytes_cut > 0


@pytest.mark.parametrize("there", ["nothing", "directory"])
def test_a_log_that_is_missing_is_not_repaired(path: Path, there: str) -> None:
    """Nothing is made where there is no log."""
    if there == "directory":
        path.mkdir()

    with pytest.raises(wal.WALNotFoundError):
        wal.repair(path)

    assert path.exists() == (there == "directory")
    assert tree(path.parent) == ({"wal": None} if path.exists() else {})


# ----------------------------------------------------------------------------------------------------- read_wal


@torn_tails
def test_read_wal_repairs_and_goes_on(log: Torn, damage: Damage, caplog: pytest.LogCaptureFixture) -> None:
    """A torn end is cut under the lock that is held anyway, kept, reported, and the log is ready for appending."""
    damage(log)
    before = log.segment.read_bytes()

    with caplog.at_level(logging.WARNING, "wal"):
        opened, metadata, state, entries = wal.read_wal(log.path, segment_size=SIZE)

    with opened:
        assert (metadata, state, entries) == (b"node", CommitState(5), ACKNOWLEDGED)
        report = opened.repaired
        assert report is not None
        assert (report.path, report.offset) == (log.segment, log.begin)
        assert report.backup is not None
        assert report.backup.read_bytes() == before[log.begin :].rstrip(b"\0")
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert report.backup.name in caplog.text
        assert opened.last_index == 5
        with pytest.raises(wal.WALLockedError):
            wal.repair(log.path)
        opened.save(CommitState(6), [Entry(6, b"anew")])
    assert wal.verify(log.path).tail is None
    assert_goes_on(log.path, [*ACKNOWLEDGED, Entry(6, b"anew")])


def test_read_wal_does_not_repair_what_is_whole(log: Torn, caplog: pytest.LogCaptureFixture) -> None:
    """``repaired`` is ``None`` if nothing was wrong, and nothing is logged."""
    with wal.read_wal(log.path).wal as opened:
        assert opened.repaired is None
    assert not caplog.records
    assert not list(log.path.glob("*.broken"))


def test_read_wal_repairs_at_a_snapshot(log: Torn) -> None:
    """A torn end is repaired wherever reading starts."""
    with wal.read_wal(log.path, segment_size=1 << 20).wal as opened:
        opened.save_snap(SnapshotMarker(7))
        end = used(log.path)
        opened.save_entry([Entry(9, b"torn" * 10)])
    unstamp(log.segment)
    zero(log.segment, used(log.path) - 8, used(log.path))

    opened, _, _, entries = wal.read_wal(log.path, SnapshotMarker(7))
    with opened:
        assert entries == LAST_SAVE[-1:]
        assert opened.repaired is not None
        assert opened.repaired.offset == end


def test_read_wal_repairs_at_most_once(log: Torn) -> None:
    """A disk on which the cut does not show is an error, not a loop."""

    class Stubborn(FaultyFileSystem):
        def truncate(self, fd: int, size: int) -> None:
            self.trace.append("truncate")

    keep(100)(log)
    fs = Stubborn()

    with pytest.raises(wal.TornWriteError):
        wal.read_wal(log.path, fs=fs)
    assert fs.trace.count("truncate") == 1
    assert not fs.open_descriptors


def decode_error(log: Torn) -> None:
    class Refusing(wal.Entry):
        @classmethod
        def unmarshal(cls, data: bytes) -> Refusing:
            raise ValueError("not mine")

    wal.register_record(wal.RecordType.ENTRY, Refusing)


@pytest.mark.parametrize(
    ("damage", "start", "error"),
    [
        pytest.param(lambda log: flip_bit(log.segment, 8 * 100), 0, wal.CorruptionError, id="corruption"),
        pytest.param(lambda log: truncate(log.segment, 9), 0, wal.CorruptionError, id="torn head"),
        pytest.param(lambda log: None, 3, wal.SnapshotNotFoundError, id="unknown snapshot"),
        pytest.param(keep(100), 3, wal.SnapshotNotFoundError, id="unknown snapshot and torn end"),
        pytest.param(decode_error, 0, wal.RecordDecodeError, id="other record class"),
        pytest.param(lambda log: shutil.rmtree(log.path), 0, wal.WALNotFoundError, id="no log"),
    ],
)
def test_read_wal_that_fails_leaves_nothing_open(
    path: Path, damage: Damage, start: int, error: type[wal.WALError]
) -> None:
    """R55: After an error nothing is open or locked, and the log is what it was."""
    log = make(path)
    damage(log)
    before = untouched(path) if path.exists() else None
    fs = FaultyFileSystem()

    with pytest.raises(error):
        wal.read_wal(path, SnapshotMarker(start), fs=fs)

    assert not fs.open_descriptors
    if before is not None:
        assert untouched(path) == before
        wal.WAL.open(path).close()


def test_a_torn_end_that_was_read_as_a_reader_sees_it_is_what_is_cut(log: Torn) -> None:
    """F21: ``repair`` cuts exactly at the tail that ``WALReader`` and ``verify`` report."""
    keep(100)(log)
    tail = wal.WALReader(log.path).read_all().tail
    report = wal.verify(log.path)
    assert tail is not None
    assert report.tail is not None

    repaired = wal.repair(log.path)

    assert (repaired.path, repaired.offset, repaired.reason) == (tail.path, tail.offset, tail.reason)
    assert (report.tail.path, report.tail.offset) == (tail.path, tail.offset)
    assert used(log.path) == tail.offset


class TestPlan:
    """``plan_repair`` says what ``repair`` does."""

    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize("name", ["intact", "new", "torn", "damaged", "damaged_end", "unknown", "gap"])
    def test_a_plan_is_what_is_done(self, name: str, force: bool, path: Path) -> None:
        """The same place, bytes, copy and reason; or the same refusal. The plan itself changes nothing."""
        SCENES[name](path)
        before = tree(path)
        try:
            plan = wal.plan_repair(path, force=force)
        except wal.CorruptionError as refused:
            assert tree(path) == before
            with pytest.raises(type(refused)) as raised:
                wal.repair(path, force=force)
            assert str(raised.value) == str(refused)
            return
        assert tree(path) == before

        report = wal.repair(path, force=force)

        assert (plan.path, plan.offset, plan.bytes_cut, plan.backup, plan.reason) == (
            report.path,
            report.offset,
            report.bytes_cut,
            report.backup,
            report.reason,
        )
        assert plan.torn == (name == "torn")

    def test_records_are_counted(self, path: Path) -> None:
        """Of a last save that lost its third record, the three others can be told."""
        torn = make(path)
        third = [frame for frame in frames(torn.segment) if frame.offset >= torn.begin][2]
        zero(torn.segment, third.offset, third.offset + third.length)

        assert wal.plan_repair(path).records_cut == 3

    def test_the_name_of_the_copy_is_a_new_one(self, path: Path) -> None:
        """A copy of an earlier repair at the same place is kept, and the plan knows it."""
        torn = make(path)
        data = torn.segment.read_bytes()
        zero(torn.segment, torn.begin + 8, torn.end)
        first = wal.repair(path).backup
        torn.segment.write_bytes(data)
        zero(torn.segment, torn.begin + 8, torn.end)

        plan = wal.plan_repair(path)

        assert first is not None
        assert plan.backup not in (None, first)
        assert wal.repair(path).backup == plan.backup

    @pytest.mark.parametrize("cut", [True, False])
    def test_confirm_decides(self, cut: bool, path: Path) -> None:
        """It is asked once, under the lock, with the plan; a no changes nothing."""
        torn = make(path)
        zero(torn.segment, torn.begin + 8, torn.end)
        before = tree(path)
        expected = wal.plan_repair(path)
        asked: list[wal.RepairPlan] = []

        def confirm(plan: wal.RepairPlan) -> bool:
            asked.append(plan)
            with pytest.raises(wal.WALLockedError):
                wal.repair(path)
            assert tree(path) == before
            return cut

        report = wal.repair(path, confirm=confirm)

        assert asked == [expected]
        assert (report.backup is not None) == cut
        assert (tree(path) == before) == (not cut)

    def test_confirm_may_raise(self, path: Path) -> None:
        """Then the log is as it was, and not locked."""
        torn = make(path)
        zero(torn.segment, torn.begin + 8, torn.end)
        before = tree(path)

        def confirm(plan: wal.RepairPlan) -> bool:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            wal.repair(path, confirm=confirm)

        assert tree(path) == before
        assert wal.repair(path).backup is not None

    def test_a_log_in_order_is_no_question(self, path: Path) -> None:
        """``confirm`` is asked about cuts alone."""
        make(path)

        assert wal.repair(path, confirm=lambda plan: bool(1 / 0)).backup is None
