"""
Failing disks: the log stops at the first failure, says so, and loses nothing that was acknowledged.

Most tests run one workload and let the i-th call of the file system fail, for every i until the workload runs clean.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

import wal
from damage import overwrite, unstamp
from logs import SMALL, Disk, Interrupt, comes_to_its_end, frames, indexes, read, segments
from wal import CommitState, Entry, SnapshotMarker

WRITES = {"pwrite", "truncate", "allocate", "fsync", "fdatasync", "rename"}
"""The calls that a stopped log must not make: each could turn an unknown into a lie."""


class Acknowledged:
    """What saves returned for, and the one save that did not return."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.state = CommitState(0)
        self.markers = [SnapshotMarker(0)]
        self.unfinished: tuple[CommitState, list[Entry], list[SnapshotMarker]] | None = None

    def save(self, log: wal.WAL, committed: int, *entries: Entry) -> None:
        self.unfinished = (CommitState(committed), [*self.entries[: entries[0].index - 1], *entries], self.markers)
        log.save(CommitState(committed), entries)
        self.returned()

    def save_snap(self, log: wal.WAL, index: int) -> None:
        self.unfinished = (self.state, self.entries, [*self.markers, SnapshotMarker(index)])
        log.save_snap(SnapshotMarker(index))
        self.returned()

    def returned(self) -> None:
        """Count the unfinished save among those that returned."""
        assert self.unfinished is not None
        (self.state, self.entries, self.markers), self.unfinished = self.unfinished, None

    def check(self, path: Path) -> None:
        """P2: the log opens with all that was acknowledged, and the unfinished save as a whole or not at all."""
        log, metadata, state, found = wal.read_wal(path, segment_size=SMALL, fs=Disk())
        with log:
            markers = [record.value for record in log.replay() if record.type is wal.RecordType.SNAPSHOT]
            assert metadata == b"node"
            assert (state, found, markers) in ((self.state, self.entries, self.markers), self.unfinished)
            log.save_entry([Entry(log.last_index + 1, b"goes on")])
        assert read(path).entries == [*found, Entry(len(found) + 1, b"goes on")]


def create(path: Path, fs: Disk | None = None, *, sync: bool = True) -> wal.WAL:
    return wal.WAL.create(path, b"node", segment_size=SMALL, sync=sync, fs=fs or Disk())


def workload(log: wal.WAL, acknowledged: Acknowledged) -> None:
    """Saves of one and of many records, two cuts, entries that replace others, a marker and a sync."""
    acknowledged.save(log, 1, Entry(1, b"a"))
    acknowledged.save(log, 2, Entry(2, b"b" * 1000), Entry(3, b"c" * 2000), Entry(4, b"d" * 1500))
    acknowledged.save(log, 3, Entry(4, b"e" * 10))
    acknowledged.save_snap(log, 3)
    acknowledged.save(log, 4, Entry(4, b"f" * 5000), Entry(5, b"g"))
    log.sync()
    acknowledged.save(log, 5, Entry(6, b"h"))


LATER_CALLS: list[Callable[[wal.WAL], None]] = [
    lambda log: log.save(CommitState(9), [Entry(log.last_index + 1)]),
    lambda log: log.save(None, None),
    lambda log: log.save_entry([Entry(log.last_index + 1)]),
    lambda log: log.save_state(CommitState(9)),
    lambda log: log.save_snap(SnapshotMarker(0)),
    lambda log: log.sync(),
]


def check_that_it_has_stopped(log: wal.WAL, fs: Disk, cause: BaseException) -> None:
    """P5: every call that would write raises, with the first failure as its cause, and no such call is made."""
    fs.faults.clear()
    fs.trace.clear()
    for call in LATER_CALLS:
        with pytest.raises(wal.WALFailedError) as caught:
            call(log)
        assert caught.value.__cause__ is cause
        assert caught.value.path == log.path
    assert fs.trace == []


def check_that_close_frees_everything(log: wal.WAL, fs: Disk) -> None:
    """F25, R55: whatever happened, and once is enough."""
    fs.trace.clear()
    log.close()
    assert not fs.open_descriptors
    assert not WRITES & set(fs.trace), "a log that has stopped must not try a sync again"
    fs.trace.clear()
    log.close()
    assert fs.trace == []


# ----------------------------------------------------------------------------------------------------------- fail-stop


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", ["EIO", "ENOSPC"])
def test_the_log_stops_at_the_first_failure_of_any_call(
    tmp_path: Path, code: str, persistent: bool, sync: bool
) -> None:
    """P5, F1, R20, R22, R23: fail the i-th call after the create, until the workload runs clean."""
    for number in count(1):
        if run_with_a_fault(tmp_path / str(number), getattr(errno, code), number, persistent=persistent, sync=sync):
            assert number > 20, "the workload has as many calls"
            break


@pytest.mark.parametrize("code", ["EAGAIN", "EEXIST", "EINTR", "EMFILE", "ENOENT"])
def test_the_log_stops_at_any_kind_of_failure(tmp_path: Path, code: str) -> None:
    """P5: also at those errors that mean something else to other callers."""
    for number in count(1):
        if run_with_a_fault(tmp_path / str(number), getattr(errno, code), number, persistent=False, sync=True):
            break


def run_with_a_fault(path: Path, code: int, number: int, *, persistent: bool, sync: bool) -> bool:
    """Run the workload with one fault; return whether it ran clean."""
    fs = Disk()
    acknowledged = Acknowledged()
    log = create(path, fs, sync=sync)
    fs.trace.clear()
    fs.fail("any", number=number, error=code, persistent=persistent)
    try:
        workload(log, acknowledged)
    except wal.WALFailedError as error:
        cause = error.__cause__
        assert isinstance(cause, OSError)
        assert cause.errno == code
        assert not WRITES & set(fs.trace[number:]), fs.trace[number - 1 :]
        check_that_it_has_stopped(log, fs, cause)
        check_that_close_frees_everything(log, fs)
        clean = False
    else:
        clean = True
        fs.faults.clear()
        log.close()
    acknowledged.check(path)
    return clean


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
def test_a_close_that_fails_frees_everything_all_the_same(tmp_path: Path, persistent: bool, sync: bool) -> None:
    """F25, R55: the error is raised when nothing is held any more; the second close does nothing."""
    for number in count(1):
        path, fs, acknowledged = tmp_path / str(number), Disk(), Acknowledged()
        log = create(path, fs, sync=sync)
        workload(log, acknowledged)
        fs.trace.clear()
        fs.fail("any", number=number, error=errno.EIO, persistent=persistent)
        try:
            log.close()
        except (wal.WALFailedError, OSError):
            assert not fs.open_descriptors
            assert log.closed
            fs.trace.clear()
            log.close()
            assert fs.trace == []
        else:
            if fs.faults:
                break
            assert fs.trace[number - 1] in ("pwrite", "fdatasync"), "only the stamp may be missing"
        acknowledged.check(path)
    assert number > 5


def test_a_close_that_cannot_sync_says_so(path: Path) -> None:
    """F25, R23: what was saved without a sync may be lost, so the close raises; nothing is held afterwards."""
    fs = Disk()
    log = create(path, fs, sync=False)
    log.save_entry([Entry(1)])
    fs.fail("fdatasync", error=errno.EIO)

    with pytest.raises(wal.WALFailedError) as caught:
        log.close()

    assert isinstance(caught.value.__cause__, OSError)
    assert log.closed
    assert not fs.open_descriptors
    assert fs.trace.count("fdatasync") == 1
    log.close()
    wal.read_wal(path, fs=Disk()).wal.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=repr)
def test_an_interrupted_close_frees_everything(path: Path, error: BaseException) -> None:
    """F25: the interrupt goes on when nothing is held any more."""
    fs = Disk()
    log = create(path, fs, sync=False)
    log.save_entry([Entry(1)])
    fs.fail("fdatasync", error=error)

    with pytest.raises(type(error)):
        log.close()

    assert not fs.open_descriptors
    assert indexes(path) == [1]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_every_save_on_a_full_disk_raises_the_same(path: Path, call: str) -> None:
    """R20, R21: a hundred saves, and not one of them is acknowledged; space that comes back changes nothing."""
    fs = Disk()
    log = create(path, fs)
    log.save_entry([Entry(1, b"before")])
    fs.fail(call, error=errno.ENOSPC)
    for _ in range(100):
        with pytest.raises(wal.WALFailedError):
            log.save_entry([Entry(2, b"during")])
    log.close()

    log, _, _, found = wal.read_wal(path, fs=Disk())
    log.close()
    assert found in ([Entry(1, b"before")], [Entry(1, b"before"), Entry(2, b"during")])


def test_a_sync_that_failed_is_never_tried_again(path: Path) -> None:
    """R23: the system may have dropped what it could not write, and a second sync would say that all is well."""
    fs = Disk()
    log = create(path, fs)
    fs.fail("fdatasync", error=errno.EIO)
    with pytest.raises(wal.WALFailedError):
        log.save_entry([Entry(1)])
    fs.trace.clear()
    for call in (log.sync, lambda: log.save_entry([Entry(2)]), lambda: log.save_snap(SnapshotMarker(0))):
        with pytest.raises(wal.WALFailedError):
            call()
    log.close()

    assert not {"fdatasync", "fsync"} & set(fs.trace)


@pytest.mark.parametrize("call", ["truncate", "fsync", "open", "lock", "allocate", "pwrite", "rename"])
@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
def test_a_cut_that_fails_stops_the_log(path: Path, call: str, persistent: bool) -> None:
    """F1, R27: no save ever goes into a segment without a name; the directory opens with what was acknowledged."""
    fs = Disk()
    log = create(path, fs)
    log.save_entry([Entry(1, bytes(SMALL))])
    fs.fail(call, error=errno.EIO, persistent=persistent)
    for _ in range(5):
        with pytest.raises(wal.WALFailedError):
            log.save_entry([Entry(2)])
    fs.faults.clear()
    log.close()

    log, _, _, found = wal.read_wal(path, segment_size=SMALL, fs=Disk())
    with log:
        assert found == [Entry(1, bytes(SMALL))]
        log.save_entry([Entry(2)])
    assert indexes(path) == [1, 2]
    assert not list(path.glob("*.tmp"))


def test_a_failed_log_can_still_be_read(path: Path) -> None:
    """P5: what is on disk is no secret; only writing has stopped."""
    fs = Disk()
    with create(path, fs) as log:
        log.save(CommitState(1), [Entry(1)])
        fs.fail("pwrite", error=errno.EIO)
        with pytest.raises(wal.WALFailedError):
            log.save_entry([Entry(2)])

        assert log.read_all().entries == [Entry(1)]
        assert (log.last_index, log.state) == (1, CommitState(1))


def test_the_error_in_the_block_is_not_hidden_by_the_close(path: Path) -> None:
    """P5: leaving the block of a log that has stopped raises nothing new."""
    fs = Disk()
    with pytest.raises(wal.WALFailedError, match="No space left"), create(path, fs) as log:
        fs.fail("pwrite", error=errno.ENOSPC, persistent=True)
        log.save_entry([Entry(1)])

    assert not fs.open_descriptors


@pytest.mark.parametrize("call", ["unlock", "close"])
def test_a_release_that_fails_leaks_nothing(path: Path, call: str) -> None:
    """R55, R58: what could not be released is given back by the close at the latest."""
    fs = Disk()
    log = create(path, fs)
    for index in range(1, 6):
        log.save_entry([Entry(index, bytes(SMALL))])
    fs.fail(call, error=errno.EIO)
    with contextlib.suppress(OSError):
        log.release(SnapshotMarker(5))
    log.save_entry([Entry(6)])
    log.close()

    assert not fs.open_descriptors
    assert indexes(path) == [1, 2, 3, 4, 5, 6]


# --------------------------------------------------------------------------------------------------------- short writes


@pytest.mark.parametrize("taken", [1, 7, 8, 511])
def test_a_write_that_takes_some_bytes_is_continued(path: Path, taken: int) -> None:
    """A short write is no failure: the rest follows at its place, and the sync comes after all of it."""
    fs = Disk()
    fs.short_writes = taken
    acknowledged = Acknowledged()
    with create(path, fs) as log:
        workload(log, acknowledged)
        fs.trace.clear()
        log.save_entry([Entry(7, bytes(40))])
        assert fs.trace[-1] == "fdatasync"
        assert set(fs.trace[:-1]) == {"pwrite"}
        acknowledged.entries.append(Entry(7, bytes(40)))
    fs.short_writes = None

    acknowledged.check(path)


def test_a_write_that_takes_no_byte_is_a_failure(path: Path) -> None:
    """A disk that says 0 for ever is not waited for."""
    fs = Disk()
    acknowledged = Acknowledged()
    log = create(path, fs)
    acknowledged.save(log, 1, Entry(1))
    fs.short_writes = 0
    fs.fail("pwrite", number=100, error=AssertionError("it is waited for"))
    with pytest.raises(wal.WALFailedError) as caught:
        acknowledged.save(log, 2, Entry(2))
    assert fs.trace[-1] == "pwrite"
    fs.short_writes = None
    cause = caught.value.__cause__
    assert cause is not None
    check_that_it_has_stopped(log, fs, cause)
    check_that_close_frees_everything(log, fs)

    acknowledged.check(path)


@pytest.mark.parametrize("taken", [24, 511])
def test_a_save_of_which_a_part_was_written_is_cut_or_whole(tmp_path: Path, taken: int) -> None:
    """P2, P3, R20: the n-th part of a write fails, for every n; a save of many records never comes back in part."""
    for number in count(1):
        path, fs, acknowledged = tmp_path / str(number), Disk(), Acknowledged()
        log = create(path, fs)
        acknowledged.save(log, 1, Entry(1, b"a"), Entry(2, b"b"))
        fs.short_writes = taken
        fs.fail("pwrite", number=number, error=errno.ENOSPC)
        try:
            acknowledged.save(log, 2, *(Entry(index, b"x" * 100) for index in range(3, 9)))
        except wal.WALFailedError:
            log.close()
            acknowledged.check(path)
        else:
            fs.faults.clear()
            log.close()
            assert number > 1
            break


# -------------------------------------------------------------------------------------------------------------- opening


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "EAGAIN", "ENOENT"])
def test_an_open_that_fails_at_any_call_can_be_tried_again(
    tmp_path: Path, code: str, persistent: bool, torn: bool
) -> None:
    """R13, R55: nothing is held, nothing acknowledged is lost, and a torn write is repaired by the next one."""
    acknowledged = Acknowledged()
    with create(tmp_path / "wal") as log:
        workload(log, acknowledged)
    if torn:
        *_, last = frames(segments(tmp_path / "wal")[-1])
        unstamp(segments(tmp_path / "wal")[-1])
        overwrite(segments(tmp_path / "wal")[-1], last.offset + last.length, b"\x55" * 99)
    for number in count(1):
        path = shutil.copytree(tmp_path / "wal", tmp_path / str(number))
        fs = Disk()
        fs.fail("any", number=number, error=getattr(errno, code), persistent=persistent)
        try:
            log = wal.read_wal(path, fs=fs).wal
        except (OSError, wal.WALError):
            assert not fs.open_descriptors
        else:
            clean = bool(fs.faults)
            fs.faults.clear()
            log.close()
            if clean:
                assert number > 20
                break
        acknowledged.check(path)


# ----------------------------------------------------------------------------------------------------------- interrupts


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=repr)
def test_an_interrupt_in_any_call_stops_the_log_and_goes_on(tmp_path: Path, error: BaseException) -> None:
    """D2: an interrupted call has done its work, or not, or half; the interrupt itself reaches the caller."""
    for number in count(1):
        path, fs, acknowledged = tmp_path / str(number), Disk(), Acknowledged()
        log = create(path, fs)
        fs.trace.clear()
        fs.fail("any", number=number, error=error)
        try:
            workload(log, acknowledged)
        except type(error) as raised:
            assert raised is error
            assert not WRITES & set(fs.trace[number:])
            check_that_it_has_stopped(log, fs, error)
            check_that_close_frees_everything(log, fs)
            error.__traceback__ = None
        else:
            fs.faults.clear()
            log.close()
            acknowledged.check(path)
            break
        acknowledged.check(path)


@pytest.mark.parametrize("cut", [False, True], ids=["in one segment", "over a cut"])
def test_an_interrupt_at_any_place_leaves_the_log_as_it_was_or_stopped(tmp_path: Path, cut: bool) -> None:
    """D2: after Ctrl-C the log either knows exactly what it did, or has stopped; and it can be closed right away."""
    for number in count(1):
        path, acknowledged = tmp_path / str(number), Acknowledged()
        log = create(path)
        acknowledged.save(log, 1, Entry(1, bytes(SMALL if cut else 10)))
        try:
            with Interrupt(number) as interrupt:
                acknowledged.save(log, 2, Entry(2, b"b"), Entry(3, b"c"))
        except KeyboardInterrupt:
            assert log.last_index in (1, 3)
            if log.last_index == 3:
                acknowledged.returned()
            # The traceback is alive here, as it is when a ``with`` block is left: what it refers to is not freed.
            assert comes_to_its_end(log.close), f"close() hangs after an interrupt at {interrupt.places[-1]}"
            acknowledged.check(path)
        else:
            log.close()
            assert interrupt.missed
            assert number > 40
            break


def test_saves_go_on_after_an_interrupt_that_did_not_stop_the_log(tmp_path: Path) -> None:
    """D2: if the log takes the next save, then that one and all that the log says it has are read back."""
    went_on = stopped = 0
    for number in count(1):
        path, saved = tmp_path / str(number), [Entry(1, b"a"), Entry(2, b"b")]
        with create(path) as log:
            with contextlib.suppress(KeyboardInterrupt), Interrupt(number) as interrupt:
                log.save(CommitState(2), saved)
            last = log.last_index
            assert last in (0, 2)
            assert log.state == CommitState(last)
            try:
                log.save(CommitState(3), [Entry(last + 1, b"next")])
            except wal.WALFailedError as error:
                assert error.__cause__ is not None
                stopped += 1
            else:
                assert log.read_all()[1:3] == (CommitState(3), [*saved[:last], Entry(last + 1, b"next")])
                went_on += 1
        if interrupt.missed:
            break
    assert went_on > 10
    assert stopped > 10


def test_a_second_interrupt_cannot_undo_the_stop(tmp_path: Path) -> None:
    """D2, P5: Ctrl-C in the middle of a write, and once more while the first one is dealt with; the log has stopped."""

    class Interrupted(Disk):
        def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            if second.places:
                return super().pwrite(fd, data, offset)
            super().pwrite(fd, bytes(data)[:10], offset)
            second.start()
            raise KeyboardInterrupt

    for number in count(1):
        path, second = tmp_path / str(number), Interrupt(number)
        create(path).close()
        with wal.read_wal(path, fs=Interrupted()).wal as log:
            try:
                log.save_entry([Entry(1, b"a")])
            except KeyboardInterrupt:
                second.stop()
            with pytest.raises(wal.WALFailedError):
                log.save_state(CommitState(9))
        if second.missed:
            break


@pytest.mark.filterwarnings("ignore:.*dropped without close:ResourceWarning")
def test_an_interrupted_open_can_be_tried_again(tmp_path: Path) -> None:
    """D2, R55: Ctrl-C at any place of opening, reading and repairing leaves no lock behind, and loses nothing."""
    acknowledged = Acknowledged()
    with create(tmp_path / "wal") as log:
        acknowledged.save(log, 1, Entry(1, bytes(SMALL)))
        acknowledged.save(log, 2, Entry(2))
    *_, last = frames(segments(tmp_path / "wal")[-1])
    overwrite(segments(tmp_path / "wal")[-1], last.offset + last.length, b"\x55" * 99)
    with Interrupt(0) as rehearsal:
        log = wal.read_wal(shutil.copytree(tmp_path / "wal", tmp_path / "0"), fs=Disk()).wal
    log.close()
    assert len(rehearsal.different) > 100
    for number in rehearsal.different:
        path = shutil.copytree(tmp_path / "wal", tmp_path / str(number))
        try:
            with Interrupt(number):
                wal.read_wal(path, fs=Disk())
        except KeyboardInterrupt:
            acknowledged.check(path)
        gc.collect(1)  # the log that nobody was given
    gc.collect()  # logs that were dropped unclosed warn here, where it is allowed


@pytest.mark.filterwarnings("ignore:.*dropped without close:ResourceWarning")
@pytest.mark.parametrize("sync", [True, False])
def test_a_log_whose_close_was_interrupted_can_be_opened(tmp_path: Path, sync: bool) -> None:
    """D2, R55: Ctrl-C at any place of a close; at the latest when the log is dropped, it holds nothing."""
    for number in count(1):
        path, acknowledged = tmp_path / str(number), Acknowledged()
        log = create(path, sync=sync)
        acknowledged.save(log, 1, Entry(1, bytes(SMALL)))
        acknowledged.save(log, 2, Entry(2))
        try:
            with Interrupt(number) as interrupt:
                log.close()
        except KeyboardInterrupt:
            pass
        del log
        gc.collect(1)
        acknowledged.check(path)
        if interrupt.missed:
            break
    gc.collect()  # logs that were dropped unclosed warn here, where it is allowed
