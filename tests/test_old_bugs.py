"""Bugs of the logs that this one descends from, where no other test of the same rule names them."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wal
from damage import flip_bit
from logs import SMALL, Child, Disk, comes_to_its_end, frames, read, segments
from wal import CommitState, Entry
from wal._crc32c import extend

NO_LOCK = [pytest.param(errno.ENOLCK, id="no lock to be had"), pytest.param(errno.EBADF, id="not open for writing")]


@pytest.mark.parametrize("error", NO_LOCK)
@pytest.mark.parametrize("call", ["lock", "lock_directory"])
@pytest.mark.parametrize("use", [wal.WAL.open, wal.read_wal, wal.repair], ids=["open", "read_wal", "repair"])
def test_a_lock_that_fails_is_not_a_lock(path: Path, use: Callable[..., object], call: str, error: int) -> None:
    """R51, R53: a lock that cannot be taken, for whatever reason, opens nothing; the system's own error says why."""
    wal.WAL.create(path, segment_size=SMALL).close()
    fs = Disk()
    fs.fail(call, error=error)

    with pytest.raises(OSError) as refused:
        use(path, fs=fs)

    assert refused.value.errno == error
    assert not fs.open_descriptors


only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="which call locks a file depends on the system")


@only_on_linux
@pytest.mark.parametrize("error", NO_LOCK)
def test_the_system_says_why_a_lock_failed(path: Path, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """R51, R53: only "another one has it" is a locked log; the rest is an error of the system, as it is."""
    wal.WAL.create(path, segment_size=SMALL).close()
    refuse_fcntl(monkeypatch, "F_WRLCK", error)

    with pytest.raises(OSError) as refused:
        wal.read_wal(path)

    assert refused.value.errno == error
    assert not isinstance(refused.value, wal.WALLockedError)


@only_on_linux
def test_the_system_says_why_an_unlock_failed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R53, P16: so does a close, after everything was given back."""
    log = wal.WAL.create(path, segment_size=SMALL)
    refuse_fcntl(monkeypatch, "F_UNLCK", errno.ENOLCK)

    with pytest.raises(OSError) as failed:
        log.close()

    assert failed.value.errno == errno.ENOLCK
    monkeypatch.undo()
    wal.read_wal(path).wal.close()


def refuse_fcntl(monkeypatch: pytest.MonkeyPatch, kind: str, error: int) -> None:
    """Let the system refuse one kind of lock operation."""
    import fcntl

    real = fcntl.fcntl

    def refuse(fd: int, command: int, argument: Any = 0) -> Any:
        if command == fcntl.F_OFD_SETLK and argument.startswith(struct.pack("h", getattr(fcntl, kind))):
            raise OSError(error, os.strerror(error))
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)


@pytest.mark.parametrize(
    "use", [wal.WAL.create, wal.WAL.open, wal.read_wal, wal.repair], ids=["create", "open", "read_wal", "repair"]
)
def test_nobody_waits_for_a_lock(path: Path, use: Callable[..., object]) -> None:
    """F19: who comes second is refused while the first one still has the log, and does not hang."""
    refused: list[type[Exception]] = []

    def come_second() -> None:
        try:
            use(path)
        except wal.WALError as error:
            refused.append(type(error))

    with wal.WAL.create(path, segment_size=SMALL):
        assert comes_to_its_end(come_second)

    assert refused == [wal.WALLockedError]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_program_started_by_a_killed_writer_does_not_keep_the_lock(path: Path) -> None:
    """R52: descriptors are closed on exec, so that whoever runs on after the writer does not hold its log."""
    ends, runs_on = os.pipe()
    started, says_so = os.pipe()

    def write() -> None:
        log = wal.WAL.create(path, segment_size=SMALL)
        log.save_entry([Entry(1)])
        program = "import sys; print(flush=True); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", program], stdin=ends, stdout=says_so, close_fds=False):
            signal.pause()

    with Child(write):
        os.read(started, 1)
    with wal.read_wal(path).wal as log:
        assert log.last_index == 1
    for fd in (ends, runs_on, started, says_so):
        os.close(fd)


class Beside(Disk):
    """Lets another thread make a call, and gives it time, in the middle of one call of the first thread."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self.call = call
        self.other: threading.Thread | None = None
        self.meanwhile: list[str] = []
        """What the other thread did to the disk before the last thing that the first one did."""
        self._others: list[str] = []

    def during(self, work: Callable[[], None], other: Callable[[], None]) -> None:
        self.other = threading.Thread(target=other)
        work()
        self.other.join()
        self.other = None

    def _run(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        if threading.current_thread() is self.other:
            self._others.append(name)
        elif self.other is not None:
            self.meanwhile = self._others.copy()
            if name == self.call and self.other.ident is None:
                self.other.start()
                self.other.join(timeout=0.2)
        return super()._run(name, call, *args)


def test_what_a_save_builds_upon_is_looked_up_under_the_mutex(path: Path) -> None:
    """F30: a save that begins in the middle of another one does not forget what that one has done."""
    fs = Beside("pwrite")
    with wal.WAL.create(path, segment_size=SMALL, fs=fs) as log:
        fs.during(lambda: log.save_entry([Entry(1)]), lambda: log.save_state(CommitState(1)))

        assert (log.last_index, log.state) == (1, CommitState(1))
        log.save_entry([Entry(2)])

    assert read(path)[1:3] == (CommitState(1), [Entry(1), Entry(2)])


def test_a_sync_beside_a_cut_waits_for_it(path: Path) -> None:
    """F31: a sync never goes to a segment that is being left, nor to one that is not in use yet."""
    fs = Beside("rename")
    with wal.WAL.create(path, segment_size=SMALL, sync=False, fs=fs) as log:
        log.save_entry([Entry(1, bytes(SMALL))])
        fs.during(lambda: log.save_entry([Entry(2)]), log.sync)

        assert fs.meanwhile == []
        assert len(segments(path)) == 2
        assert fs.of("fdatasync")[-1][1] == str(segments(path)[-1])


def test_each_log_has_its_own_segment_size(tmp_path: Path) -> None:
    """F40: two logs that are open at once are cut at different sizes."""
    with (
        wal.WAL.create(tmp_path / "small", segment_size=SMALL) as small,
        wal.WAL.create(tmp_path / "large", segment_size=4 * SMALL) as large,
    ):
        for index in range(1, 8):
            small.save_entry([Entry(index, bytes(SMALL))])
            large.save_entry([Entry(index, bytes(SMALL))])

    assert (len(segments(tmp_path / "small")), len(segments(tmp_path / "large"))) == (7, 2)


def test_a_cut_needs_nothing_that_runs_in_the_background(path: Path) -> None:
    """F2: the next segment is made when it is needed: there is no thread whose earlier failure could be met."""
    threads = threading.active_count()
    with wal.WAL.create(path, segment_size=SMALL, fs=Disk()) as log:
        for index in range(1, 6):
            log.save_entry([Entry(index, bytes(SMALL))])
            assert threading.active_count() == threads

    assert len(segments(path)) == 5


def test_the_checksum_chain_counts_what_was_written(path: Path) -> None:
    """F33: a save that is refused before its first byte does not move the chain."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        with pytest.raises(wal.IndexOrderError):
            log.save_entry([Entry(7, b"never")])
        log.save_entry([Entry(1, b"first")])

    crc = 0
    for frame in frames(segments(path)[0]):
        crc = extend(crc, frame.data)
        assert frame.crc == crc


@pytest.mark.parametrize("length", range(33))
def test_padding_is_zeros(path: Path, length: int) -> None:
    """F34: what fills a frame up to a whole word is nothing that lay in memory."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        log.save_entry([Entry(1, b"\xff" * length)])

    last = frames(segments(path)[0])[-1]
    data = segments(path)[0].read_bytes()[last.offset : last.offset + last.length]
    assert data.rstrip(b"\0").endswith(last.data)
    assert len(data) % 8 == 0


def test_a_damaged_log_is_an_error_and_not_the_end_of_the_process(path: Path) -> None:
    """F42: what cannot be opened is raised, and only a torn write is repaired, whatever class the error is of."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        for index in range(1, 4):
            log.save_entry([Entry(index, b"data")])
    flip_bit(segments(path)[0], 8 * segments(path)[0].read_bytes().index(b"data"))

    with pytest.raises(wal.CorruptionError) as damage:
        wal.read_wal(path)

    assert not isinstance(damage.value, wal.TornWriteError)
    assert not list(path.glob("*.broken"))


@pytest.mark.parametrize("term", [0, 1, 7])
def test_a_snapshot_is_found_by_its_index(path: Path, term: int) -> None:
    """A caller who knows a snapshot by its index alone opens the log there; other fields of the marker do not count."""
    registry = wal.etcd.registry()
    with wal.WAL.create(path, registry=registry, segment_size=SMALL) as log:
        log.save(wal.etcd.HardState(term=7, commit=2), [wal.etcd.Entry(index=index, term=7) for index in (1, 2, 3)])
        log.save_snap(wal.etcd.Snapshot(index=2, term=7))
    snapshot = wal.etcd.Snapshot(index=2, term=term)

    opened = wal.read_wal(path, snapshot, registry=registry)
    opened.wal.close()

    assert opened.entries == read(path, snapshot, registry).entries == [wal.etcd.Entry(index=3, term=7)]


def test_a_state_is_not_judged(path: Path) -> None:
    """What a state commits is for the application to say, also more than the log has, and less than it once did."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        log.save(CommitState(100), [Entry(1)])
        assert log.state == CommitState(100)
        log.save_state(CommitState(1))

    opened = wal.read_wal(path)
    opened.wal.close()

    assert (opened.state, opened.entries) == (CommitState(1), [Entry(1)])
