"""Processes that are killed: what a save acknowledged is there as a whole, and at most one save more."""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

import wal
from logs import fork
from wal import CommitState, Entry, Retention, SnapshotData, SnapshotMarker

pytestmark = [pytest.mark.torture, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

Effort = Callable[..., int]
Acknowledge = Callable[[int], None]
MEMORY = "/dev/shm"
NUMBER = struct.Struct("<q")


def batch(first: int) -> list[wal.LogEntry]:
    """The entries of the save that begins with this index: one to five, of many sizes."""
    numbers = random.Random(first)
    sizes = numbers.choices([0, 5, 50, 700, 3000], k=numbers.randint(1, 5))
    return [Entry(index, numbers.randbytes(size)) for index, size in enumerate(sizes, first)]


class Worker:
    """
    A process that does some work and acknowledges it by numbers.

    It is a fork, so that it spends its time at work and not at starting an interpreter.
    """

    def __init__(self, work: Callable[[Acknowledge], None]) -> None:
        self._ours, theirs = os.pipe()
        self._child = fork()
        if self._child == 0:
            self._work_and_exit(work, theirs)
        os.close(theirs)
        self._received = b""

    @staticmethod
    def _work_and_exit(work: Callable[[Acknowledge], None], pipe: int) -> None:
        def acknowledge(number: int) -> None:
            os.write(pipe, NUMBER.pack(number))

        code = 1
        try:
            work(acknowledge)
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)

    def let_work(self, seconds: float) -> list[int]:
        """Wait so long; return the numbers that it has acknowledged until now."""
        deadline = time.monotonic() + seconds
        while select.select([self._ours], [], [], max(deadline - time.monotonic(), 0))[0]:
            chunk = os.read(self._ours, 1 << 16)
            if not chunk:
                break
            self._received += chunk
        return self.acknowledged

    def let_begin(self) -> None:
        """Wait until it has acknowledged something."""
        self._received += os.read(self._ours, 1 << 16)

    @property
    def acknowledged(self) -> list[int]:
        return [number for (number,) in NUMBER.iter_unpack(self._received)]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._child, number)

    def kill(self) -> list[int]:
        """Kill it, which must be its end; return the numbers that it acknowledged before."""
        self.signal(signal.SIGKILL)
        status = self._wait()
        assert os.WIFSIGNALED(status), "the child came to an end by itself"
        return self.acknowledged

    def wait(self) -> list[int]:
        """Wait for its end, which must be a good one; return the numbers that it acknowledged."""
        assert self._wait() == 0
        return self.acknowledged

    def _wait(self) -> int:
        _, status = os.waitpid(self._child, 0)
        self.let_work(0)
        os.close(self._ours)
        return status


def killed_after(seconds: float, work: Callable[[Acknowledge], None]) -> list[int]:
    """Let a process do some work and kill it; return the numbers that it acknowledged before."""
    worker = Worker(work)
    worker.let_work(seconds)
    return worker.kill()


@pytest.fixture
def times() -> random.Random:
    """Random times, the same in each run, though what they meet is not."""
    return random.Random(70)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory if there is one: what was written outlives its process there, too, and much faster."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="wal-", dir=MEMORY) as directory:
        yield Path(directory)


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
def test_acknowledged_saves_survive_a_kill(root: Path, sync: bool, times: random.Random, effort: Effort) -> None:
    """P1, P2, P18, R24: After each of many kills, every acknowledged save is there, and at most one more."""
    path = root / "log"
    wal.WAL.create(path, b"node", segment_size=4096).close()
    expected: list[wal.LogEntry] = []
    rounds = total = 0
    enough = effort(quick=70, full=100, deep=200)

    def save_until_killed(acknowledge: Acknowledge) -> None:
        log = wal.read_wal(path, segment_size=4096, sync=sync).wal
        while True:
            entries = batch(log.last_index + 1)
            log.save(CommitState(entries[-1].index), entries)
            acknowledge(entries[-1].index)

    while rounds < enough or total < enough:  # a loaded machine needs more rounds
        rounds += 1
        acknowledged = killed_after(times.uniform(0, 0.02), save_until_killed)
        total += len(acknowledged)
        for last in acknowledged:
            expected += batch(len(expected) + 1)
            assert len(expected) == last

        log, metadata, state, entries = wal.read_wal(path)
        log.close()

        if len(entries) > len(expected):
            expected += batch(len(expected) + 1)
        assert entries == expected
        assert state == CommitState(len(expected))
        assert metadata == b"node"
    report = wal.verify(path)
    assert report.tail is None
    assert report.segments > 10


def test_a_killed_create_leaves_a_whole_log_or_none(root: Path, times: random.Random) -> None:
    """P11, R30, R35, R39: Whenever ``create`` is killed, there is a log that opens, or none, and it can be repeated."""
    made = 0

    def create_until_killed(acknowledge: Acknowledge) -> None:
        for number in count(made):
            wal.WAL.create(root / str(number), b"node", segment_size=4096).close()
            acknowledge(number)

    while made < 60:
        acknowledged = killed_after(times.uniform(0, 0.04), create_until_killed)
        assert acknowledged == list(range(made, made + len(acknowledged)))
        for number in acknowledged:
            assert wal.WALReader(root / str(number)).read_all() == (b"node", CommitState(0), [], None)
        made += len(acknowledged)
        unfinished = root / str(made)
        if not wal.exists(unfinished):
            wal.WAL.create(unfinished, b"node", segment_size=4096).close()
        with wal.read_wal(unfinished).wal as log:
            assert log.metadata == b"node"
            log.save_entry([Entry(1)])
        assert [file.suffix for file in unfinished.iterdir()] == [".wal"]
        made += 1


# ------------------------------------------------------------------------------------------ a storage with a long life


class Life:
    """
    One storage that lives through all the rounds: it is cut, snapped, purged, closed and opened again.

    A save is acknowledged by the last index, a snapshot by its index below zero.

    Attributes:
        last: The last index that was found.
        snapshot: The index of the newest snapshot that was found.
    """

    def __init__(self, path: Path, *, sync: bool) -> None:
        self.path = path
        self.sync = sync
        self.last = self.snapshot = self.rounds = 0

    def open(self) -> tuple[wal.FileStorage, wal.Recovered]:
        return wal.open_storage(
            self.path, b"node", segment_size=4096, retention=Retention(snapshots=2, segments=1), sync=self.sync
        )

    def go_on(self, acknowledge: Acknowledge) -> None:
        """Work, in sessions of some saves each, until something ends it."""
        while True:
            with self.open()[0] as storage:
                for _ in range(25):
                    self.save(storage, acknowledge)

    def go_on_until_told(self, acknowledge: Acknowledge) -> None:
        """Work until SIGTERM, which comes again while the storage is closed."""
        ready, told = [True], []

        def leave(*_: object) -> None:
            told.append(True)  # what is raised while an object is freed goes nowhere
            if ready:
                ready.clear()
                raise SystemExit

        storage, _ = self.open()
        with suppress(SystemExit):
            signal.signal(signal.SIGTERM, leave)
            while not told:
                self.save(storage, acknowledge)
        closed = False
        while not closed:
            with suppress(SystemExit):
                ready.append(True)
                storage.close()
                ready.clear()
                closed = True
        self.open()[0].close()  # nothing is held any more, however often the close was interrupted

    def save(self, storage: wal.FileStorage, acknowledge: Acknowledge) -> None:
        entries = batch(storage.last_index + 1)
        last = entries[-1].index
        storage.save(CommitState(last), entries)
        acknowledge(last)
        if self.is_snapped(last):
            storage.save_snap(SnapshotData(last, b"the state at %d" % last))
            acknowledge(-last)
            storage.release(SnapshotMarker(last))

    @staticmethod
    def is_snapped(last: int) -> bool:
        return last % 7 == 0

    def check(self, acknowledged: list[int]) -> None:
        """P1, P2, P13, P14: all that was acknowledged is there, at most one step more, and nothing else."""
        last = max([self.last, *acknowledged])
        snapped = max([self.snapshot, *(-number for number in acknowledged)])
        storage, recovered = self.open()
        with storage:
            assert recovered.metadata == b"node"
            self.last = recovered.state.committed
            assert self.last in (last, batch(last + 1)[-1].index)
            self.snapshot = recovered.snapshot.index if recovered.snapshot else 0
            assert self.snapshot == snapped or (self.snapshot == last and self.is_snapped(last))
            assert recovered.snapshot in (None, SnapshotData(self.snapshot, b"the state at %d" % self.snapshot))
            assert [entry.index for entry in recovered.entries] == list(range(self.snapshot + 1, self.last + 1))
            assert recovered.entries == self.expected(self.snapshot)
            assert recovered.skipped == ()
            assert storage.last_index == self.last
            self.rounds += 1
            if self.rounds % 10 == 0:
                self.check_that_it_does_not_grow(storage)

    def expected(self, snapshot: int) -> list[wal.LogEntry]:
        """Return the entries behind a snapshot, with which a save has ended."""
        entries: list[wal.LogEntry] = []
        while (first := snapshot + 1 + len(entries)) <= self.last:
            entries += batch(first)
        return entries

    def check_that_it_does_not_grow(self, storage: wal.FileStorage) -> None:
        """R49, R50, F41: what many crashes have left goes with the next release."""
        storage.release(SnapshotMarker(self.snapshot))
        snapped = {int(name[:16], 16) for name in storage.snapshotter.names()}
        known = [marker.index for marker in wal.valid_snapshots(storage.log.path) if marker.index in snapped]
        assert len(set(known)) <= 2
        begins = [int(segment.stem[-16:], 16) for segment in storage.log.path.glob("*.wal")]
        assert sum(begin <= min(known, default=0) for begin in begins) <= 2, "the one that is needed, and one besides"
        files = [file for part in ("wal", "snap") for file in (self.path / part).iterdir()]
        assert {file.suffix for file in files} <= {".snap", ".wal", ".broken"}


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
def test_a_storage_lives_through_kills(root: Path, sync: bool, times: random.Random, effort: Effort) -> None:
    """P1, P2, P13, P14, P18, R40, R46, R49: killed again and again, at work, in opening, in purging and in closing."""
    life = Life(root, sync=sync)
    for _ in range(effort(quick=50, full=1000, deep=10_000)):
        life.check(killed_after(times.uniform(0, 0.02), life.go_on))
    assert life.snapshot > 0


def test_a_storage_lives_through_stops(root: Path, times: random.Random, effort: Effort) -> None:
    """P7, P8, R54: a stopped process keeps its lock, and its log can be read; it goes on as if nothing had been."""
    life = Life(root, sync=True)
    life.open()[0].close()
    for _ in range(effort(quick=15, full=200, deep=3000)):
        worker = Worker(life.go_on)
        worker.let_work(times.uniform(0, 0.01))
        worker.signal(signal.SIGSTOP)
        acknowledged = worker.let_work(0)
        report = wal.verify(root / "wal")
        assert report.last_index >= max([life.last, *acknowledged])
        assert report.last_index <= batch(max([life.last, *acknowledged]) + 1)[-1].index
        worker.signal(signal.SIGCONT)
        worker.let_work(times.uniform(0, 0.01))
        life.check(worker.kill())


def test_a_storage_is_closed_by_a_signal(root: Path, times: random.Random, effort: Effort) -> None:
    """P2, P5, F25, R57: SIGTERM ends the work at any moment; it comes again while the storage is closed."""
    life = Life(root, sync=False)
    life.open()[0].close()
    for _ in range(effort(quick=15, full=200, deep=3000)):
        worker = Worker(life.go_on_until_told)
        worker.let_begin()
        worker.let_work(times.uniform(0, 0.01))
        for _ in range(3):
            worker.signal(signal.SIGTERM)
            worker.let_work(times.uniform(0, 0.0005))
        life.check(worker.wait())
