"""Threads, processes, forks and purges beside each other: real files, real locks, and no luck needed."""

from __future__ import annotations

import ast
import contextlib
import itertools
import multiprocessing
import os
import queue
import random
import re
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import Any

import pytest

import wal
from damage import unstamp
from locks import directory_lock, go_lock, linux, lock_of_another
from logs import SMALL, Child, Disk, in_child, indexes, read, segments, tree, untouched
from unsynced import UNSYNCED, Unsynced
from wal import CommitState, Entry, RecordType, SnapshotData, SnapshotMarker
from wal._files import OperatingSystem

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

HANG = 120
"""Seconds after which what should have come to its end long ago is taken to hang."""

THREADS = 8


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    """The interpreter goes from one thread to another fifty times as often as it does by itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 50)
    yield
    sys.setswitchinterval(before)


def run_together(*works: Callable[[], object]) -> None:
    """Run each work in a thread of its own, all from one moment on; raise what the first one that failed raised."""
    begin = threading.Barrier(len(works))
    outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run(work: Callable[[], object]) -> None:
        try:
            begin.wait()
            work()
        except BaseException as error:
            outcomes.put(error)
        else:
            outcomes.put(None)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for _ in threads:
        error = outcomes.get(timeout=HANG)
        if error is not None:
            raise error
    for thread in threads:
        thread.join()


def started(work: Callable[[], object]) -> Child:
    """Start a forked process that tells on stderr why it failed, if it does."""

    def run() -> object:
        try:
            return work()
        except BaseException:
            traceback.print_exc()
            raise

    return Child(run)


def outcome_of(child: Child) -> str:
    """Wait for a child's outcome; ``hangs`` if there is none, and the child is killed."""
    outcomes: list[str] = []
    waiting = threading.Thread(target=lambda: outcomes.append(child.wait()))
    process = child.process
    waiting.start()
    waiting.join(HANG)
    if waiting.is_alive():
        os.kill(process, signal.SIGKILL)
        waiting.join()
        return "hangs"
    return outcomes[0]


def open_and_close(path: Path) -> None:
    wal.read_wal(path, fs=UNSYNCED).wal.close()


class Dying(Unsynced):
    """The process is gone in the middle of the next write, if it is to be."""

    taken = 0

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        if not self.taken:
            return super().pwrite(fd, data, offset)
        super().pwrite(fd, data[: self.taken], offset)
        os._exit(1)


def tear(path: Path) -> None:
    """Have a writer die in the middle of a save of two entries, behind the first one."""
    unstamp(segments(path)[-1])

    def save() -> None:
        fs = Dying()
        log = wal.read_wal(path, wal.valid_snapshots(path)[-1], segment_size=1 << 20, fs=fs).wal
        fs.taken = 600
        log.save_entry([Entry(log.last_index + i, b"x" * 500) for i in (1, 2)])

    assert in_child(save) == ""
    assert wal.verify(path).tail is not None


# ------------------------------------------------------------------------------------------------------- saving threads


@dataclass(frozen=True)
class Save:
    """What one thread gave to one call, from which all of its records can be told."""

    thread: int
    round: int

    @property
    def number(self) -> int:
        """A number that no other save has."""
        return 1 + self.thread + THREADS * self.round

    @property
    def entries(self) -> list[wal.LogEntry]:
        """Entries that take the place of all before, so that threads need not agree on an index."""
        count = self.number * 7 % 4
        return [
            Entry(1 + i, b"%d of %d in %d " % (i, count, self.number) * (1 + self.number % 9)) for i in range(count)
        ]

    def records(self, kind: str) -> list[tuple[RecordType, object]]:
        entries: list[tuple[RecordType, object]] = [(RecordType.ENTRY, entry) for entry in self.entries]
        state = (RecordType.STATE, CommitState(self.number))
        match kind:
            case "save":
                return [*entries, state]
            case "save_entry":
                return entries
            case "save_state":
                return [state]
        return [(RecordType.SNAPSHOT, SnapshotMarker(self.number))]

    def make(self, kind: str, log: wal.WAL) -> None:
        match kind:
            case "save":
                log.save(CommitState(self.number), self.entries)
            case "save_entry":
                log.save_entry(self.entries)
            case "save_state":
                log.save_state(CommitState(self.number))
            case "save_snap":
                log.save_snap(SnapshotMarker(self.number))


KINDS = ("save", "save_entry", "save_state", "save_snap")


@dataclass
class Acknowledged:
    """A save that returned, the records that it must have written, and when it was called and returned."""

    save: Save
    records: list[tuple[RecordType, object]]
    called: int
    returned: int


def written(path: Path) -> list[tuple[RecordType, object]]:
    """Return the records of a log as they were saved: without the heads of segments, which repeat what is known."""
    found: list[tuple[RecordType, object]] = []
    state: object = None
    head: Path | None = None
    for type, value, segment, _ in wal.WALReader(path):
        if type is RecordType.METADATA:
            head = segment
            continue
        if not (head == segment and (type, value) in [(RecordType.STATE, state), (RecordType.SNAPSHOT, BEGINNING)]):
            found.append((type, value))
        head = None
        if type is RecordType.STATE:
            state = value
    return found


BEGINNING = SnapshotMarker(0)


@pytest.mark.torture
@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
def test_what_many_threads_save_is_there_in_the_order_of_their_calls(
    path: Path, sync: bool, effort: Callable[..., int]
) -> None:
    """
    P1, R57, F30, F31: 8 threads save whatever they like, and one of them closes the log in the end. Every call that
    returned is in the log as a whole, behind every call that had returned before it was made, and no other is.
    """
    rounds = effort(quick=100, full=2_000, deep=20_000)
    log = wal.WAL.create(path, b"node", segment_size=4 * SMALL, sync=sync)
    acknowledged: list[Acknowledged] = []
    refused: list[str] = []
    clock = itertools.count()
    nearly_done = threading.Semaphore(0)
    closed = threading.Event()

    def work(thread: int) -> None:
        numbers = random.Random(thread)
        for round in range(rounds):
            if round == rounds * 9 // 10:
                nearly_done.release()
            if round == rounds - 1:
                assert closed.wait(HANG)
            save = Save(thread, round)
            kind = numbers.choices(KINDS, [6, 3, 2, 1])[0]
            called = next(clock)
            try:
                save.make(kind, log)
                acknowledged.append(Acknowledged(save, save.records(kind), called, next(clock)))
                match numbers.randrange(12):
                    case 0:
                        log.sync()
                    case 1:
                        log.release(SnapshotMarker(numbers.randrange(save.number)))
                    case 2 if round % 10 == 0:
                        assert log.read_all().metadata == b"node"
                    case 3:
                        log.save(None, [])
            except wal.WALClosedError:
                refused.append(kind)
            # Properties may be asked for at any time, also when the log is closed.
            assert log.metadata == b"node"
            assert 0 <= log.last_index <= THREADS * rounds
            assert isinstance(log.state, CommitState)
            assert log.first_index >= 1
            assert log.has_state or log.state == CommitState(0)
            assert "WAL" in repr(log)

    def close() -> None:
        for _ in range(THREADS // 2):
            nearly_done.acquire()
        log.close()
        assert log.closed
        closed.set()

    run_together(close, *(partial(work, thread) for thread in range(THREADS)))

    assert len(refused) >= THREADS
    by_number = {a.save.number: a for a in acknowledged}
    found = written(path)
    order: list[Acknowledged] = []
    at = 0
    while at < len(found):
        a = by_number.pop(number_of(found[at]))
        assert found[at : at + len(a.records)] == a.records
        at += len(a.records)
        order.append(a)
    assert not [a for a in by_number.values() if a.records]
    latest_call = -1
    for a in order:
        assert a.returned > latest_call, f"{a.save} had returned before one that stands before it was made"
        latest_call = max(latest_call, a.called)
    assert wal.verify(path).tail is None
    assert len(acknowledged) + len(refused) >= THREADS * rounds


def number_of(record: tuple[RecordType, object]) -> int:
    """Return the number of the save that a record belongs to."""
    match record[1]:
        case Entry(data=data):
            return int(re.match(rb"\d+ of \d+ in (\d+) ", data)[1])  # type: ignore[index]
        case CommitState(committed=number) | SnapshotMarker(index=number):
            return number
    raise AssertionError(record)


@pytest.mark.torture
def test_threads_that_agree_on_indexes_save_one_sequence(path: Path, effort: Callable[..., int]) -> None:
    """R57, F30, F31: whose turn it is takes the next index; all else runs side by side, and each save counts."""
    rounds = effort(quick=100, full=2_000, deep=20_000)
    acknowledged: list[wal.LogEntry] = []
    turn = threading.Lock()

    def work(number: int) -> None:
        for round in range(rounds):
            with turn:
                index = log.last_index + 1
                entry = Entry(index, b"%d %d" % (number, round))
                log.save(CommitState(index), [entry])
                acknowledged.append(entry)
                assert (log.last_index, log.state) == (index, CommitState(index))
            match (round + number) % 10:
                case 0:
                    log.sync()
                case 1:
                    with turn:  # elsewhere it might put a newer state back
                        log.save_state(CommitState(log.last_index))
                case 2:
                    log.save_snap(SnapshotMarker(0))
                case 3:
                    log.release(SnapshotMarker(0))
                case 4:
                    assert log.first_index == 1
                case 5 if round % (rounds // 4) < 10:
                    assert len(log.read_all().entries) >= index

    with wal.WAL.create(path, segment_size=4 * SMALL, fs=UNSYNCED) as log:
        run_together(*(partial(work, number) for number in range(THREADS)))

    assert read(path).entries == acknowledged
    assert len(acknowledged) == THREADS * rounds
    assert wal.verify(path).tail is None


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
def test_a_close_beside_saves_loses_nothing_that_was_acknowledged(tmp_path: Path, sync: bool) -> None:
    """R57: each thread's saves return until one says that the log is closed, and none of them is torn."""
    for round in range(10):
        path = tmp_path / str(round)
        log = wal.WAL.create(path, segment_size=SMALL, sync=sync, fs=UNSYNCED)
        returned: list[int] = []
        enough = threading.Event()

        def work(log: wal.WAL = log, returned: list[int] = returned, enough: threading.Event = enough) -> None:
            with pytest.raises(wal.WALClosedError):
                while True:
                    log.save(None, [Entry(1, bytes(100))])
                    returned.append(1)
                    if len(returned) >= 50:
                        enough.set()

        def close(log: wal.WAL = log, enough: threading.Event = enough) -> None:
            assert enough.wait(HANG)
            log.close()

        run_together(close, *[work] * THREADS)

        report = wal.verify(path)
        assert report.entries == len(returned)
        assert report.tail is None


def test_closing_in_many_threads_closes_once(path: Path) -> None:
    """F25: whoever comes second finds nothing to do."""
    fs = Disk()
    log = wal.WAL.create(path, segment_size=SMALL, sync=False, fs=fs)
    log.save_entry([Entry(1)])
    fs.trace.clear()

    run_together(*[log.close] * THREADS)

    assert fs.trace.count("fdatasync") == 2  # of the save, and of the stamp
    assert fs.trace.count("close") == 2
    assert tree(path).keys() == {segments(path)[0].name}


class Witness(OperatingSystem):
    """
    Knows which entries are durable: those of a write that was done before a sync began which has come to its end.

    Attributes:
        fail_at: The number of the ``fdatasync`` that fails, counted from now on; 0: none.
        syncs: How many there were.
        durable: The data of the entries.
        problems: What no writer may do.
    """

    ENTRY = re.compile(rb"<[0-9]+ [0-9]+>")

    def __init__(self) -> None:
        self.fail_at = 0
        self.syncs = 0
        self.durable: set[bytes] = set()
        self.problems: list[str] = []
        self._written: dict[int, set[bytes]] = {}
        self._syncing: set[int] = set()
        self._writing: set[int] = set()
        self._lock = threading.Lock()

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        entries = set(self.ENTRY.findall(data))
        with self._lock:
            if entries and fd in self._syncing:
                self.problems.append("a save was written while a sync was in flight")
            if entries and fd in self._writing:
                self.problems.append("two saves were written at once")
            if entries and self.fail_at < 0:
                self.problems.append("a save was written after a sync had failed")
            self._writing.add(fd)
        try:
            taken = super().pwrite(fd, data, offset)
        finally:
            with self._lock:
                self._writing.discard(fd)
        with self._lock:
            self._written.setdefault(fd, set()).update(entries)
        return taken

    def fdatasync(self, fd: int) -> None:
        self._sync(fd, super().fdatasync)

    def fsync(self, fd: int) -> None:
        self._sync(fd, super().fsync)

    def _sync(self, fd: int, sync: Callable[[int], None]) -> None:
        with self._lock:
            self.syncs += 1
            if self.fail_at < 0:
                self.problems.append("a sync was tried after one had failed")
            before = self._written.get(fd, set()).copy()
            self._syncing.add(fd)
            fails = self.fail_at > 0 and self.syncs == self.fail_at
            if fails:
                self.fail_at = -1
        try:
            if fails:
                raise OSError(5, "the disk gives up")
            sync(fd)
            with self._lock:
                self.durable |= before
        finally:
            with self._lock:
                self._syncing.discard(fd)


@pytest.mark.torture
def test_no_thread_is_told_of_success_before_its_own_save_is_durable(path: Path, effort: Callable[..., int]) -> None:
    """P1, R57: whichever thread's sync it was, it had begun after the save was written; nothing is written in it."""
    rounds = effort(quick=60, full=1_000, deep=10_000)
    fs = Witness()

    def work(thread: int) -> None:
        for round in range(rounds):
            data = b"<%d %d>" % (thread, round)
            log.save_entry([Entry(1, data)])
            assert data in fs.durable

    with wal.WAL.create(path, segment_size=SMALL, fs=fs) as log:
        run_together(*(partial(work, thread) for thread in range(THREADS)))

    assert fs.problems == []
    assert wal.verify(path).entries == THREADS * rounds


@pytest.mark.torture
def test_after_a_failed_sync_no_thread_is_told_of_success(tmp_path: Path, effort: Callable[..., int]) -> None:
    """P5, R23, R57: neither whose sync it was, nor who had written before it, nor who comes later."""
    for number in range(1, 1 + effort(quick=10, full=100, deep=2_000)):
        path = tmp_path / str(number)
        fs = Witness()
        acknowledged: set[bytes] = set()

        def work(
            thread: int,
            log: wal.WAL,
            fs: Witness = fs,
            acknowledged: set[bytes] = acknowledged,
        ) -> None:
            with pytest.raises(wal.WALFailedError):
                for round in range(1_000):
                    data = b"<%d %d>" % (thread, round)
                    log.save_entry([Entry(1, data)])
                    assert data in fs.durable
                    acknowledged.add(data)

        with wal.WAL.create(path, segment_size=SMALL, fs=fs) as log:
            fs.syncs = 0
            fs.fail_at = 1 + number * 3 % 100
            run_together(*(partial(work, thread, log) for thread in range(THREADS)))

        assert fs.problems == []
        found = {value.data for _, value, _, _ in wal.WALReader(path) if isinstance(value, Entry)}
        assert acknowledged <= found
        shutil.rmtree(path)


# --------------------------------------------------------------------------------------------------- racing for one log

RACERS = 20

Opening = Callable[[Path], wal.WAL]


def create(path: Path) -> wal.WAL:
    return wal.WAL.create(path, b"node", segment_size=SMALL)


def reopen(path: Path) -> wal.WAL:
    return wal.read_wal(path, segment_size=SMALL).wal


def race(openings: list[Opening], paths: list[Path], *, stay: bool) -> list[list[str]]:
    """
    Let processes go for one log after the other, all from one moment on; return what each of them got in each round.

    Who wins saves its number. With ``stay`` it keeps the log until all have had their answer; without, it closes
    the log at once. In between it holds a file that nobody else may hold.
    """
    gate = multiprocessing.get_context("fork").Barrier(len(openings))

    def run(number: int) -> list[str]:
        outcomes = []
        for path in paths:
            token = path.with_name(f"{path.name} has an owner")
            log = None
            gate.wait(HANG)
            try:
                log = openings[number](path)
            except (wal.WALError, OSError) as error:
                outcomes.append(type(error).__name__)
            else:
                outcomes.append("won")
                try:
                    os.close(os.open(token, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    outcomes[-1] = "won what another one has"
                log.save_entry([Entry(log.last_index + 1, b"%d" % number)])
            if stay:
                gate.wait(HANG)
            if log is not None:
                token.unlink(missing_ok=True)
                log.close()
        return outcomes

    def run_or_abort(number: int) -> list[str]:
        try:
            return run(number)
        except BaseException:
            gate.abort()  # the others need not wait for this one
            raise

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(started(partial(run_or_abort, number))) for number in range(len(openings))]
        answers = [child.wait() for child in children]
    assert all(answer.startswith("[") for answer in answers), answers
    return [list(outcomes) for outcomes in zip(*map(ast.literal_eval, answers), strict=True)]


def numbers_in(path: Path) -> list[int]:
    """Return the winners, in the order in which they had the log."""
    return [int(entry.data) for entry in read(path).entries if isinstance(entry, Entry)]


@pytest.mark.torture
@pytest.mark.parametrize("opening", [create, reopen])
def test_of_many_at_once_exactly_one_wins(tmp_path: Path, opening: Opening, effort: Callable[..., int]) -> None:
    """P7, R59, F13: 20 processes; each loser is told at once, and neither leaves nor takes anything."""
    paths = [tmp_path / str(number) / "wal" for number in range(effort(quick=10, full=200, deep=2_000))]
    for path in paths:
        if opening is reopen:
            wal.WAL.create(path, b"node", segment_size=SMALL, fs=UNSYNCED).close()
        elif path.parent.name > "5":
            path.parent.mkdir()  # in the other rounds they make that, too

    for path, outcomes in zip(paths, race([opening] * RACERS, paths, stay=True), strict=True):
        assert outcomes.count("won") == 1
        assert outcomes.count("WALLockedError") == RACERS - 1
        assert numbers_in(path) == [outcomes.index("won")]
        assert read(path).metadata == b"node"
        assert [*tree(path.parent)] == ["wal", f"wal/{segments(path)[0].name}"]


@pytest.mark.torture
def test_of_many_creators_exactly_one_wins_even_if_it_has_gone(tmp_path: Path, effort: Callable[..., int]) -> None:
    """P7, P11, R59, F13: who comes late finds the log locked, or there; nobody makes it anew."""
    paths = [tmp_path / str(number) / "wal" for number in range(effort(quick=10, full=200, deep=2_000))]

    for path, outcomes in zip(paths, race([create] * RACERS, paths, stay=False), strict=True):
        assert outcomes.count("won") == 1
        assert set(outcomes) <= {"won", "WALLockedError", "WALExistsError"}
        assert numbers_in(path) == [outcomes.index("won")]
        assert [*tree(path.parent)] == ["wal", f"wal/{segments(path)[0].name}"]


@pytest.mark.torture
def test_many_that_open_and_close_are_never_two_at_a_time(tmp_path: Path, effort: Callable[..., int]) -> None:
    """P7, R59: one after the other may have the log, and each finds what the ones before have saved."""
    rounds = effort(quick=10, full=200, deep=2_000)
    paths = [tmp_path / "wal"] * rounds
    create(paths[0]).close()

    winners = []
    for outcomes in race([reopen] * RACERS, paths, stay=False):
        won = [number for number, outcome in enumerate(outcomes) if outcome == "won"]
        assert len(won) >= 1
        assert set(outcomes) <= {"won", "WALLockedError"}
        winners += won

    assert sorted(numbers_in(paths[0])) == sorted(winners)


@pytest.mark.torture
def test_of_creators_and_openers_at_once_no_two_win(tmp_path: Path, effort: Callable[..., int]) -> None:
    """P7, R59: an opener that comes too early may stand in a creator's way, but never beside it."""
    paths = [tmp_path / str(number) for number in range(effort(quick=10, full=200, deep=2_000))]

    for path, outcomes in zip(paths, race([create, reopen] * (RACERS // 2), paths, stay=True), strict=True):
        won = [number for number, outcome in enumerate(outcomes) if outcome == "won"]
        assert len(won) <= 1
        assert set(outcomes) <= {"won", "WALLockedError", "WALExistsError", "WALNotFoundError"}
        assert wal.exists(path) == bool(won)
        assert not won or numbers_in(path) == won


# --------------------------------------------------------------------------------------------------- never without lock


def is_granted(path: Path, opening: Callable[[Path], object]) -> bool:
    """Tell whether a writer is let in."""
    try:
        opening(path)
    except wal.WALLockedError:
        return False
    return True


LOOKS: list[Any] = [
    pytest.param(lambda path: any(lock_of_another(s, go_lock) for s in segments(path)), id="segments", marks=linux),
    pytest.param(lambda path: lock_of_another(segments(path)[-1], go_lock), id="newest segment", marks=linux),
    pytest.param(lambda path: lock_of_another(path, directory_lock), id="directory", marks=linux),
    pytest.param(lambda path: is_granted(path, lambda path: wal.WAL.open(path).close()), id="open"),
    pytest.param(lambda path: is_granted(path, wal.repair), id="repair"),
    pytest.param(lambda path: bool(wal.purge(path, SnapshotMarker(20))), id="purge"),
]


class Prober(Child):
    """
    A process that tries the lock in a tight loop. It answers questions between two tries, so that who asks knows
    that it has tried since.
    """

    def __init__(self, path: Path, look: Callable[[Path], bool]) -> None:
        self.questions, asked = os.pipe(), os.pipe()
        self.answers = asked
        super().__init__(partial(self._loop, path, look))
        os.close(self.questions[0])
        os.close(self.answers[1])

    def __enter__(self) -> Prober:
        return self

    def _loop(self, path: Path, look: Callable[[Path], bool]) -> tuple[int, int]:
        os.close(self.questions[1])
        os.set_blocking(self.questions[0], False)
        granted = tries = 0
        while True:
            granted += look(path)
            tries += 1
            try:
                if not os.read(self.questions[0], 1):
                    return granted, tries
                os.write(self.answers[1], b".")
            except BlockingIOError:
                pass

    def has_tried(self) -> None:
        """Return when it has tried again."""
        os.write(self.questions[1], b"?")
        assert os.read(self.answers[0], 1) == b".", "the prober is gone"

    def outcome(self) -> tuple[int, int]:
        """Return how often it was granted the lock, and how often it has tried."""
        os.close(self.questions[1])
        os.close(self.answers[0])
        granted, tries = ast.literal_eval(self.wait())
        return granted, tries


@pytest.mark.torture
@pytest.mark.parametrize("look", LOOKS)
def test_the_lock_is_never_dropped_in_a_cut(
    path: Path, look: Callable[[Path], bool], effort: Callable[..., int]
) -> None:
    """P7, R52, F32: a process that tries all the time, by whatever way in, is not let in once."""
    cuts = effort(quick=100, full=1_000, deep=10_000)
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        for index in range(1, 31):
            log.save_entry([Entry(index)])
        log.save_snap(SnapshotMarker(20))
        log.save_entry([Entry(31, bytes(SMALL))])
        with Prober(path, look) as prober:
            for number in range(cuts):
                log.save_entry([Entry(log.last_index + 1, bytes(SMALL))])
                if number % (cuts // 10) == 0:
                    prober.has_tried()
            granted, tries = prober.outcome()

    assert granted == 0
    assert tries >= 10
    assert len(segments(path)) > cuts


class Probed(Unsynced):
    """Another one tries all locks before and after each call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.watching = False
        self.released: set[Path] = set()
        self.tries = 0

    def __getattribute__(self, name: str) -> Any:
        call = super().__getattribute__(name)
        if name.startswith("_") or name in vars(self) or name == "probe":
            return call

        def probed(*arguments: Any) -> Any:
            self.probe()
            result = call(*arguments)
            self.probe()
            return result

        return probed

    def probe(self) -> None:
        if self.watching:
            self.tries += 1
            for segment in segments(self.path):
                assert segment in self.released or not lock_of_another(segment, go_lock), segment
            assert not lock_of_another(self.path, directory_lock)


@linux
@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
def test_there_is_no_step_without_all_locks(path: Path, sync: bool) -> None:
    """P7, R52, F32: between any two calls of saves, syncs, cuts and releases, every held segment is locked."""
    fs = Probed(path)
    with wal.WAL.create(path, segment_size=SMALL, sync=sync, fs=fs) as log:
        fs.watching = True
        for index in range(1, 4):
            log.save(CommitState(index), [Entry(index, bytes(SMALL))])
        log.save_snap(SnapshotMarker(3))
        log.sync()
        fs.released = set(segments(path)[:2])
        log.release(SnapshotMarker(2))
        log.save_entry([Entry(4, bytes(SMALL))])
        log.save_entry([Entry(5)])
        fs.watching = False

    assert fs.tries > 50
    assert len(segments(path)) == 5


@linux
@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(lambda path: is_granted(path, wal.WAL.open), id="open"),
        pytest.param(lambda path: is_granted(path, wal.read_wal), id="read_wal"),
        pytest.param(lambda path: is_granted(path, wal.repair), id="repair"),
        pytest.param(lambda path: is_granted(path, partial(wal.repair, force=True)), id="forced repair"),
        pytest.param(lambda path: bool(wal.purge(path, SnapshotMarker(2))), id="purge"),
    ],
)
@pytest.mark.parametrize("in_other_process", [False, True], ids=["here", "in a process"])
def test_who_locks_as_programs_in_go_do_keeps_everybody_out(
    path: Path, refused: Callable[[Path], bool], in_other_process: bool
) -> None:
    """P7: a peer with all segments locked, as Go programs lock them, is not written, repaired or purged under."""
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        for index in range(1, 4):
            log.save_entry([Entry(index, bytes(SMALL))])
        log.save_snap(SnapshotMarker(2))
    tear(path)
    before = untouched(path)
    ready, go_on = os.pipe(), os.pipe()

    def hold() -> None:
        for segment in segments(path):
            go_lock(os.open(segment, os.O_RDWR))
        os.write(ready[1], b".")
        os.read(go_on[0], 1)

    def hold_here() -> Iterator[None]:
        fds = [os.open(segment, os.O_RDWR) for segment in segments(path)]
        for fd in fds:
            go_lock(fd)
        yield
        for fd in fds:
            os.close(fd)

    if in_other_process:
        with started(hold):
            os.read(ready[0], 1)
            assert not refused(path)
            assert untouched(path) == before
    else:
        with contextlib.contextmanager(hold_here)():
            assert not refused(path)
            assert untouched(path) == before
    for fd in ready + go_on:
        os.close(fd)
    open_and_close(path)
    assert indexes(path) == [1, 2, 3]


# ---------------------------------------------------------------------------------------------- readers beside a writer


class ReadOnly(OperatingSystem):
    """A machine on which nothing can be changed, locked or synced."""

    def open(self, path: Path, flags: int) -> int:
        assert flags & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC) == os.O_RDONLY, f"{path} is opened with {flags:#x}"
        return super().open(path, flags)

    def __getattribute__(self, name: str) -> Any:
        allowed = ("open", "close", "size", "is_at", "pread", "is_directory", "listdir")
        assert name.startswith("_") or name in allowed, f"a reader calls {name}"
        return super().__getattribute__(name)


READ_ONLY = ReadOnly()


class Shared:
    """A number that a forked writer and its parent share."""

    def __set_name__(self, _: type, name: str) -> None:
        self._at = ["begun", "saved", "marked", "purged"].index(name)

    def __get__(self, progress: Progress, _: type) -> int:
        return progress.numbers[self._at]

    def __set__(self, progress: Progress, number: int) -> None:
        progress.numbers[self._at] = number


class Progress:
    """
    How far a forked writer is.

    Attributes:
        begun: The last index of the save that was called last.
        saved: The last index of the save that returned last.
        marked: The snapshot whose marker was saved last.
        purged: How many purges have begun, and have ended, together: odd while there is one.
    """

    begun, saved, marked, purged = Shared(), Shared(), Shared(), Shared()

    def __init__(self) -> None:
        self.numbers = memoryview(mmap(-1, 4096)).cast("q")


def batch(first: int) -> list[wal.LogEntry]:
    """Return the entries of the save that begins with this index."""
    numbers = random.Random(first)
    return [Entry(index, b"%d " % index * numbers.randrange(80)) for index in range(first, first + first % 3 + 1)]


class Writer:
    """
    A process that saves, cuts, snapshots, releases and purges. It makes ``AHEAD`` steps of some saves each on its own
    account and then one for each that is asked for.
    """

    AHEAD = 4
    SAVES = 10

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps
        self.progress = Progress()
        self._asked, self._done = os.pipe(), os.pipe()
        self._open = 0
        wal.WAL.create(path, b"node", segment_size=SMALL, fs=UNSYNCED).close()
        self.child = started(self._write)
        os.close(self._asked[0])
        os.close(self._done[1])
        for _ in range(self.AHEAD):
            self.ask()
        assert self.step_is_done()
        self.ask()

    def _write(self) -> int:
        os.close(self._asked[1])
        progress = self.progress
        path = self.path
        with wal.read_wal(path, segment_size=SMALL, fs=UNSYNCED).wal as log:
            for step in range(self.steps):
                if not os.read(self._asked[0], 1):
                    break
                for _ in range(self.SAVES):
                    entries = batch(log.last_index + 1)
                    progress.begun = entries[-1].index
                    log.save(CommitState(entries[-1].index), entries)
                    progress.saved = entries[-1].index
                marker = SnapshotMarker(progress.saved - step % 7)
                log.save_snap(marker)
                progress.marked = marker.index
                if step % 5 == 4:
                    log.release(marker)
                    progress.purged += 1
                    wal.purge(path, marker, keep=step % 2, fs=UNSYNCED)
                    progress.purged += 1
                os.write(self._done[1], b".")
            return log.last_index

    def ask(self) -> None:
        """Have one more step made."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._asked[1], b".")
        self._open += 1

    def step_is_done(self) -> bool:
        """Return when one more step is done; ``False`` when all are."""
        self._open -= 1
        return os.read(self._done[0], 1) == b"."

    def stands_still(self) -> bool:
        """Return when all steps that were asked for are done."""
        while self._open:
            if not self.step_is_done():
                return False
        return True

    def end(self) -> int:
        """Wait for the end; return the last index."""
        os.close(self._asked[1])
        os.close(self._done[0])
        return int(self.child.wait())


def read_verify(path: Path, _: Progress) -> int:
    return wal.verify(path, fs=READ_ONLY).last_index


def read_records(path: Path, _: Progress) -> int:
    """Iterate from the newest snapshot on; each save is a whole one, and all are in order."""
    marker = wal.valid_snapshots(path, fs=READ_ONLY)[-1]
    reader = wal.WALReader(path, marker, fs=READ_ONLY)
    last = marker.index
    for record in reader:
        match record.value:
            case Entry(index=index):
                assert index == last + 1
                last = index
            case CommitState(committed=committed):
                assert committed >= marker.index or last == marker.index
                assert committed <= last or last == marker.index
            case SnapshotMarker(index=index):
                assert index <= last
            case _:
                assert record.type is RecordType.METADATA
                assert record.value == b"node"
    return last


def read_contents(path: Path, progress: Progress) -> int:
    """Read all from the newest snapshot on; the entries are those that were saved."""
    marked = progress.marked
    marker = wal.valid_snapshots(path, fs=READ_ONLY)[-1]
    assert marker.index >= marked
    metadata, state, entries, _ = wal.WALReader(path, marker, fs=READ_ONLY).read_all()
    assert metadata == b"node"
    last = entries[-1].index if entries else marker.index
    if state.committed > marker.index:
        assert state.committed == last
    assert entries == entries_between(marker.index, last)
    return last


def entries_between(start: int, last: int) -> list[wal.LogEntry]:
    """Return the entries behind ``start`` up to ``last``, which ends a save."""
    entries: list[wal.LogEntry] = []
    first = FIRSTS.before(start + 1)
    while first <= last:
        save = batch(first)
        entries += save
        first += len(save)
    assert first == last + 1, "a part of a save was read"
    return [entry for entry in entries if entry.index > start]


class Firsts:
    """The first indexes of all saves, as far as they were asked for."""

    def __init__(self) -> None:
        self._of: list[int] = [1, 1]

    def before(self, index: int) -> int:
        """Return the first index of the save that has ``index``."""
        while len(self._of) <= index:
            first = len(self._of) if self._of[-1] + len(batch(self._of[-1])) == len(self._of) else self._of[-1]
            self._of.append(first)
        return self._of[index]


FIRSTS = Firsts()

READS = {"verify": read_verify, "iteration": read_records, "read_all": read_contents}


@dataclass
class Tally:
    """How often each way of reading gave a result, and how often it was too late."""

    done: dict[str, int] = field(default_factory=lambda: dict.fromkeys(READS, 0))
    late: dict[str, int] = field(default_factory=lambda: dict.fromkeys(READS, 0))


def read_beside(writer: Writer, tally: Tally) -> None:
    """Read once in each way; what is read is a prefix that is neither too short nor too long."""
    progress = writer.progress
    for name, look in READS.items():
        saved, purged = progress.saved, progress.purged
        try:
            last = look(writer.path, progress)
        except (wal.SnapshotNotFoundError, wal.WALNotFoundError):
            assert purged % 2 or progress.purged > purged, "nothing was purged meanwhile"
            tally.late[name] += 1
        else:
            assert saved <= last <= progress.begun, name
            tally.done[name] += 1


@pytest.mark.torture
def test_readers_beside_a_writer_see_a_prefix_and_change_nothing(path: Path, effort: Callable[..., int]) -> None:
    """
    P2, P8, R40, R43, R44, R54: all that was acknowledged before the read, nothing that was begun after it, whole saves,
    and no error but that a segment was purged meanwhile. Where the writer stands still, so does every inode.
    """
    steps = effort(quick=120, full=4_000, deep=100_000)
    writer = Writer(path, steps)
    tally = Tally()

    for step in itertools.count():
        read_beside(writer, tally)
        if not writer.step_is_done():
            break
        if step % 20 == 0 and writer.stands_still():
            before = untouched(path)
            for look in READS.values():
                assert look(path, writer.progress) == writer.progress.saved
            assert untouched(path) == before
            for _ in range(writer.AHEAD - 1):
                writer.ask()
        writer.ask()

    last = writer.end()
    assert last >= steps * writer.SAVES
    assert wal.verify(path).last_index == last
    assert min(tally.done.values()) > steps // 2, tally
    assert len(segments(path)) < 40


class HalfListed(Unsynced):
    """A directory is listed in two parts, as large ones are, and something happens between them, once."""

    def __init__(self, first: Callable[[list[str]], list[str]], meanwhile: Callable[[], object]) -> None:
        self.first = first
        self.meanwhile: Callable[[], object] | None = meanwhile

    def listdir(self, path: Path) -> list[str]:
        names = sorted(os.listdir(path))
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is None:
            return names
        first = self.first(names)
        meanwhile()
        return [*first, *(name for name in os.listdir(path) if name not in first)]


LISTED: list[Any] = [
    pytest.param(lambda path, fs: wal.verify(path, fs=fs).last_index, id="verify"),
    pytest.param(
        lambda path, fs: wal.WALReader(path, SnapshotMarker(4), fs=fs).read_all().entries[-1].index, id="read"
    ),
    pytest.param(lambda path, fs: wal.valid_snapshots(path, fs=fs)[-1].index + 1, id="valid_snapshots"),
    pytest.param(lambda path, fs: len(wal.purge(path, SnapshotMarker(5), fs=fs)) * 0 + 6, id="purge"),
]


@pytest.mark.parametrize("look", LISTED)
def test_a_purge_in_the_middle_of_a_listing_is_no_gap(path: Path, look: Callable[[Path, wal.FileSystem], int]) -> None:
    """R44: the oldest segment is listed, it and the next one are removed, the rest is listed: the log is in order."""
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        for index in range(1, 7):
            log.save(CommitState(index), [Entry(index, bytes(SMALL))])
        log.save_snap(SnapshotMarker(5))
        log.save_snap(SnapshotMarker(4))
        log.save_snap(SnapshotMarker(5))
        log.release(SnapshotMarker(3))
        fs = HalfListed(lambda names: names[:1], lambda: wal.purge(path, SnapshotMarker(4), keep=1, fs=UNSYNCED))

        assert look(path, fs) == 6


@pytest.mark.parametrize("look", LISTED)
def test_a_cut_in_the_middle_of_a_listing_is_no_gap(path: Path, look: Callable[[Path, wal.FileSystem], int]) -> None:
    """R54: of two new segments the later one is listed and the earlier one is not: the log is in order."""
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        for index in range(1, 5):
            log.save(CommitState(index), [Entry(index, bytes(SMALL))])
        log.save_snap(SnapshotMarker(4))

        def cut() -> None:
            for index in (5, 6):
                log.save(CommitState(index), [Entry(index, bytes(SMALL))])
            log.save_snap(SnapshotMarker(5))

        class Listed(HalfListed):
            def listdir(self, path: Path) -> list[str]:
                first = self.meanwhile is not None
                names = sorted(super().listdir(path))
                return [name for name in names if not (first and name.startswith(f"{5:016x}-"))]

        assert look(path, Listed(lambda names: names, cut)) in (4, 5, 6)


def test_a_gap_that_the_next_listing_does_not_have_is_none(path: Path) -> None:
    """R44, R54: two listings in parts miss different segments, the third is whole: what is missing is missing twice."""
    listings = [[0, 2, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3, 4]]

    class InParts(Unsynced):
        def listdir(self, path: Path) -> list[str]:
            names = sorted(os.listdir(path))
            return [names[number] for number in listings.pop(0)] if listings else names

    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        for index in range(1, 6):
            log.save_entry([Entry(index, bytes(SMALL))])

    assert wal.verify(path, fs=InParts()).last_index == 5
    assert listings == []


@pytest.mark.torture
def test_a_log_of_many_segments_has_no_gap_beside_its_writer(path: Path, effort: Callable[..., int]) -> None:
    """R54: the system lists some five hundred names at once; what is cut between two parts may be listed in part."""
    cuts = effort(quick=1_000, full=4_000, deep=10_000)
    go_on = os.pipe()

    def write() -> None:
        with wal.read_wal(path, segment_size=SMALL, fs=UNSYNCED).wal as log:
            while os.read(go_on[0], 1):
                for _ in range(10):
                    log.save_entry([Entry(log.last_index + 1, bytes(SMALL))])

    wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED).close()
    os.set_blocking(go_on[1], True)
    os.write(go_on[1], b"." * 60)
    with started(write):
        for _ in range(cuts // 10 - 60):
            os.write(go_on[1], b".")
            wal.WALReader(path, fs=READ_ONLY)
            wal.WALReader(path, fs=READ_ONLY)
        os.close(go_on[1])
        os.close(go_on[0])


def test_a_repair_and_a_cut_between_two_looks_of_a_reader_is_no_damage(path: Path) -> None:
    """
    R54: the reader has seen half of a save; before it looks for later segments, its writer is found dead, the log is
    repaired at once, and the next save begins a segment. What was torn is gone, and all else was in order.
    """
    with wal.WAL.create(path, segment_size=1 << 20, fs=UNSYNCED) as log:
        log.save_entry([Entry(1, bytes(SMALL))])
    tear(path)
    torn = wal.verify(path).tail
    assert torn is not None

    class Late(Unsynced):
        listings = 0

        def listdir(self, path: Path) -> list[str]:
            self.listings += 1
            if self.listings == 2:
                with wal.read_wal(path, segment_size=SMALL, fs=UNSYNCED).wal as log:
                    log.save_entry([Entry(2)])
            return super().listdir(path)

    report = wal.verify(path, fs=Late())

    assert report.last_index in (1, 2)
    assert report.tail is None or report.tail.offset == torn.offset
    assert indexes(path) == [1, 2]


# ---------------------------------------------------------------------------------------------------------------- forks


class Before(Unsynced):
    """Something happens before the n-th call. ``call`` is the name of that one."""

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.left, self.action, self.call = number, action, ""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in ("left", "action", "call"):
            self.left -= 1
            if self.left == 0:
                self.call = name
                self.action()
        return super().__getattribute__(name)


def three_segments(path: Path) -> None:
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        for index in (1, 2, 3):
            log.save(CommitState(index), [Entry(index, bytes(SMALL))])
        log.save_snap(SnapshotMarker(2))


def torn(path: Path) -> None:
    three_segments(path)
    tear(path)


def nothing(path: Path) -> None:
    """Prepare nothing."""


def write(path: Path, fs: wal.FileSystem) -> None:
    with wal.read_wal(path, segment_size=SMALL, fs=fs).wal as log:
        for index in (4, 5):
            log.save(CommitState(index), [Entry(index, bytes(SMALL))])
        log.save_snap(SnapshotMarker(4))
        log.release(SnapshotMarker(2))


LIFE: list[Any] = [
    pytest.param(nothing, lambda path, fs: wal.WAL.create(path, segment_size=SMALL, fs=fs).close(), id="create"),
    pytest.param(three_segments, write, id="write"),
    pytest.param(three_segments, lambda path, fs: wal.purge(path, SnapshotMarker(2), fs=fs), id="purge"),
    pytest.param(torn, lambda path, fs: wal.repair(path, fs=fs), id="repair"),
    pytest.param(torn, lambda path, fs: wal.read_wal(path, fs=fs).wal.close(), id="open"),
]


@pytest.mark.torture
@pytest.mark.parametrize("fails", [False, True], ids=["goes on", "fails there"])
@pytest.mark.parametrize(("prepare", "work"), LIFE)
def test_a_child_forked_at_any_step_keeps_no_lock(
    tmp_path: Path,
    prepare: Callable[[Path], None],
    work: Callable[[Path, wal.FileSystem], None],
    fails: bool,
    effort: Callable[..., int],
) -> None:
    """
    D3: a child forked before any call to the system lives on with all descriptors. As soon as the parent is done,
    because it has come to its end or because this very call fails (but for an unlock), the log is free.
    """
    template = tmp_path / "template"
    prepare(template)
    kept: list[str] = []
    for number in itertools.count(1, effort(quick=5, full=1, deep=1)):
        path = tmp_path / str(number)
        if template.exists():
            shutil.copytree(template, path)
        with contextlib.ExitStack() as children:

            def fork(children: contextlib.ExitStack = children) -> None:
                children.enter_context(Child(signal.pause))
                if fails:
                    raise OSError(5, "the disk fails")

            fs = Before(number, fork)
            with contextlib.suppress(*[OSError, wal.WALError] * fails):
                work(path, fs)
            if fs.left > 0:
                break
            if not fs.call.startswith("unlock") * fails and not is_granted(path, a_new_writer):
                kept.append(f"{number} {fs.call}")
        shutil.rmtree(path, ignore_errors=True)

    assert number > 5
    assert kept == [], "a child forked before one of these calls keeps a lock"


def a_new_writer(path: Path) -> None:
    """Open a log, with all of its segments, or make one."""
    if not wal.exists(path):
        wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED).close()
    if min(segments(path)).name.startswith(f"{0:016x}-"):
        open_and_close(path)
    else:
        wal.read_wal(path, SnapshotMarker(2), fs=UNSYNCED).wal.close()


@linux
def test_a_lock_is_not_a_matter_of_copies_of_descriptors(path: Path) -> None:
    """D4: closing copies drops no lock, and keeping copies keeps none."""
    fs = Disk()
    with wal.WAL.create(path, segment_size=SMALL, fs=fs) as log:
        log.save_entry([Entry(1, bytes(SMALL))])
        log.save_entry([Entry(2)])
        for fd in fs.open_descriptors:
            os.close(os.dup(fd))
        assert not any(lock_of_another(segment, go_lock) for segment in segments(path))
        assert not lock_of_another(path, directory_lock)
        assert in_child(lambda: wal.WAL.open(path)) == "WALLockedError"
        copies = [os.dup(fd) for fd in fs.open_descriptors]

    assert len(copies) == 3
    assert all(lock_of_another(segment, go_lock) for segment in segments(path))
    open_and_close(path)
    assert in_child(partial(open_and_close, path)) == "None"
    for fd in copies:
        os.close(fd)


@pytest.mark.torture
def test_children_forked_while_threads_save_do_no_harm(path: Path, effort: Callable[..., int]) -> None:
    """
    D3, R57: a child refuses every call, can close, leave and drop the log, and neither hangs, nor writes, nor
    unlocks, wherever the threads of the parent were at the fork.
    """
    forks = effort(quick=8, full=300, deep=3_000)
    done = threading.Event()
    acknowledged = [0]

    def save() -> None:
        while not done.is_set():
            with turn:
                log.save(CommitState(log.last_index + 1), [Entry(log.last_index + 1, bytes(300))])
                acknowledged[0] = log.last_index
            log.save_state(log.state)

    def use() -> list[str]:
        refused = []
        for call in (
            lambda: log.save_entry([Entry(1)]),
            lambda: log.save_snap(SnapshotMarker(0)),
            lambda: log.release(SnapshotMarker(1)),
            log.sync,
            log.read_all,
        ):
            with contextlib.suppress(wal.WALClosedError):
                call()
                refused.append("not refused")
        assert log.last_index >= 0
        with log:
            pass
        log.close()
        log.__del__()
        return refused

    def fork() -> None:
        try:
            for _ in range(forks):
                assert outcome_of(started(use)) == "[]"
                assert in_child(partial(wal.WAL.open, path)) == "WALLockedError"
                if sys.platform == "linux":
                    assert not lock_of_another(path, directory_lock)
                    assert not any(lock_of_another(segment, go_lock) for segment in segments(path))
        finally:
            done.set()

    turn = threading.Lock()
    with wal.WAL.create(path, segment_size=8 * SMALL) as log:
        run_together(save, save, save, fork)

    assert indexes(path) == list(range(1, acknowledged[0] + 1))


# --------------------------------------------------------------------------------------------------------------- purges


@pytest.mark.torture
def test_the_newest_snapshot_opens_beside_purgers(path: Path, effort: Callable[..., int]) -> None:
    """
    P13, R40, R43, R44: in each of 1,000 lives of a log, two purging processes, and a third one at the moment of the
    close: the next one opens at the newest snapshot, and the purgers meet no error but that they came too late.
    """
    lives = effort(quick=30, full=1_000, deep=10_000)
    stop = os.pipe()
    wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED).close()

    def purge_once() -> int:
        with contextlib.suppress(wal.SnapshotNotFoundError, wal.WALNotFoundError):  # the other one was faster
            return len(wal.purge(path, wal.valid_snapshots(path)[-1], fs=UNSYNCED))
        return 0

    def purge_until_told() -> int:
        os.close(stop[1])
        os.set_blocking(stop[0], False)
        removed = 0
        while True:
            removed += purge_once()
            with contextlib.suppress(BlockingIOError):
                os.read(stop[0], 1)
                return removed

    removed = 0
    marker = SnapshotMarker(0)
    with started(purge_until_told) as one, started(purge_until_told) as other:
        for _ in range(lives):
            log, _, _, entries = wal.read_wal(path, marker, segment_size=SMALL, fs=UNSYNCED)
            with log:
                assert entries == entries_between(marker.index, log.last_index)
                for _ in range(12):
                    save = batch(log.last_index + 1)
                    log.save_entry([Entry(entry.index, entry.data * 20) for entry in save])  # type: ignore[attr-defined]
                    log.save(CommitState(log.last_index), save)
                marker = SnapshotMarker(log.last_index)
                log.save_snap(marker)
                log.release(marker)
                run_together(log.close, purge_once, *[log.close, purge_once] * 2)
        os.close(stop[1])
        removed += int(one.wait()) + int(other.wait())
    os.close(stop[0])

    assert removed > 0
    wal.purge(path, marker)
    assert len(segments(path)) <= 2


# ------------------------------------------------------------------------------------------------- a storage in threads


def snapshot(index: int) -> SnapshotData:
    return SnapshotData(index, b"the state at %d" % index)


def storage_of(path: Path, fs: wal.FileSystem = UNSYNCED) -> tuple[wal.FileStorage, wal.Recovered]:
    return wal.open_storage(path, b"node", segment_size=SMALL, fs=fs)


class Paused(Unsynced):
    """Stands still before a snapshot file gets its name, until it is told to go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def rename(self, old: Path, new: Path) -> None:
        if new.suffix == ".snap":
            self.reached.set()
            assert self.go_on.wait(HANG)
        super().rename(old, new)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda storage: storage.save(CommitState(3), [Entry(4)]), id="save"),
        pytest.param(lambda storage: storage.save_snap(snapshot(3)), id="save_snap"),
        pytest.param(lambda storage: storage.release(snapshot(2)), id="release"),
        pytest.param(lambda storage: storage.sync(), id="sync"),
    ],
)
def test_a_child_forked_while_a_snapshot_is_saved_does_not_hang(
    path: Path, call: Callable[[wal.FileStorage], object]
) -> None:
    """D3: the thread that saves it does not exist in the child, so nothing that it holds may be waited for."""
    fs = Paused()
    storage, _ = storage_of(path, fs)
    with storage:
        storage.save(CommitState(3), [Entry(index) for index in (1, 2, 3)])

        def fork() -> None:
            assert fs.reached.wait(HANG)
            try:
                assert outcome_of(Child(lambda: call(storage))) == "WALClosedError"
                assert outcome_of(Child(storage.close)) == "None"
            finally:
                fs.go_on.set()

        run_together(lambda: storage.save_snap(snapshot(2)), fork)

    storage, recovered = storage_of(path)
    storage.close()
    assert recovered.snapshot == snapshot(2)
    assert recovered.entries == [Entry(3)]


def meanwhile(call: Callable[[], object]) -> None:
    """Make a call in another thread; return when it is done, or when it seems to wait for us."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except wal.WALError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(1)


class Hooked(CommitState):
    """A state during whose marshalling something happens, once."""

    hook: Callable[[], object] | None = None

    def marshal(self) -> bytes:
        hook, Hooked.hook = Hooked.hook, None
        if hook is not None:
            hook()
        return super().marshal()


@pytest.mark.parametrize("first", [True, False], ids=["the first state", "a later state"])
def test_a_state_in_the_making_does_not_go_behind_a_snapshot(path: Path, first: bool) -> None:
    """
    P14, R46: one thread saves a state that commits less than the snapshot that another thread saves meanwhile. One
    of both is refused: or else the snapshot would be acknowledged, and never again be found.
    """
    registry = wal.RecordRegistry()
    registry.register(RecordType.STATE, Hooked)
    storage, _ = wal.open_storage(path, registry=registry, segment_size=SMALL, fs=UNSYNCED)
    outcomes: list[str] = []
    with storage:
        storage.save(None if first else Hooked(10), [Entry(index) for index in range(1, 11)])

        def save_snap() -> None:
            storage.save_snap(snapshot(8))
            outcomes.append("snapshot")

        Hooked.hook = partial(meanwhile, save_snap)
        try:
            storage.save_state(Hooked(5))
            outcomes.append("state")
        except wal.IndexOrderError:
            pass
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(HANG)

    storage, recovered = wal.open_storage(path, registry=registry, fs=UNSYNCED)
    storage.close()
    assert len(outcomes) == 1
    assert recovered.snapshot == (snapshot(8) if outcomes == ["snapshot"] else None)


def test_a_state_saved_behind_the_check_of_a_snapshot_does_not_lose_it(path: Path) -> None:
    """P14, R46: the same, with the state saved between the check of the snapshot's index and its marker."""

    class Renaming(Unsynced):
        def rename(self, old: Path, new: Path) -> None:
            if new.suffix == ".snap":
                meanwhile(save_state)
            super().rename(old, new)

    outcomes: list[str] = []

    def save_state() -> None:
        storage.save_state(CommitState(5))
        outcomes.append("state")

    storage, _ = storage_of(path, Renaming())
    with storage:
        storage.save(CommitState(10), [Entry(index) for index in range(1, 11)])
        with contextlib.suppress(wal.IndexOrderError):
            storage.save_snap(snapshot(8))
            outcomes.append("snapshot")

    storage, recovered = storage_of(path)
    storage.close()
    assert len(outcomes) == 1
    assert recovered.snapshot == (snapshot(8) if outcomes == ["snapshot"] else None)


def test_who_is_refused_takes_no_directory_away(path: Path) -> None:
    """P7, P11: of two first users, the one that made the directories is too late, and leaves them to the other one."""
    rivals: list[wal.FileStorage] = []

    class Overtaken(Unsynced):
        def lock_directory(self, fd: int) -> None:
            if not rivals:
                rivals.append(storage_of(path)[0])
                rivals[0].save(CommitState(1), [Entry(1)])
                before.update(tree(path))
            super().lock_directory(fd)

    before: dict[str, bytes | None] = {}
    with pytest.raises(wal.WALLockedError):
        storage_of(path, Overtaken())

    after = tree(path)
    with rivals[0] as rival:
        rival.save_snap(snapshot(1))
    assert after == before


@pytest.mark.torture
def test_threads_that_save_snapshot_and_release_lose_nothing(path: Path, effort: Callable[..., int]) -> None:
    """
    P13, P14, R46, R57: in each of many lives of a storage, threads save, snapshot, release, sync and purge until
    one of them closes it. The next life has every acknowledged save, and the newest acknowledged snapshot.
    """
    lives = effort(quick=6, full=100, deep=3_000)
    acknowledged = newest = 0

    for _ in range(lives):
        storage, recovered = storage_of(path)
        start = 0 if recovered.snapshot is None else recovered.snapshot.index
        assert recovered.snapshot is None or recovered.snapshot == snapshot(start)
        assert start >= newest
        assert recovered.skipped == ()
        last = storage.last_index
        assert last >= acknowledged
        assert recovered.entries == entries_between(start, last)
        assert recovered.state == CommitState(last)
        saved, snapped = [last], [start]
        turn = threading.Lock()
        enough = threading.Event()
        snapshots = threading.Event()

        def save(
            storage: wal.FileStorage = storage,
            saved: list[int] = saved,
            turn: threading.Lock = turn,
            enough: threading.Event = enough,
            snapshots: threading.Event = snapshots,
            last: int = last,
        ) -> None:
            while True:
                with turn:
                    entries = batch(storage.last_index + 1)
                    storage.save(CommitState(entries[-1].index), entries)
                    saved.append(entries[-1].index)
                if saved[-1] > last + 100:
                    enough.set()
                    assert snapshots.wait(HANG)

        def snap(
            storage: wal.FileStorage = storage,
            snapped: list[int] = snapped,
            snapshots: threading.Event = snapshots,
        ) -> None:
            while True:
                with contextlib.suppress(wal.SnapshotOutOfDateError):
                    index = storage.state.committed
                    if index:
                        storage.save_snap(snapshot(index))
                        snapped.append(index)
                        snapshots.set()
                storage.sync()

        def release(storage: wal.FileStorage = storage, snapped: list[int] = snapped) -> None:
            while True:
                storage.release(snapshot(snapped[-1]))

        def purge(storage: wal.FileStorage = storage) -> None:
            while not storage.log.closed:
                with contextlib.suppress(wal.SnapshotNotFoundError, wal.WALNotFoundError):
                    wal.purge(path / "wal", wal.valid_snapshots(path / "wal")[0], keep=50, fs=UNSYNCED)

        def close(
            storage: wal.FileStorage = storage,
            enough: threading.Event = enough,
            snapshots: threading.Event = snapshots,
        ) -> None:
            assert enough.wait(HANG)
            assert snapshots.wait(HANG)
            storage.close()

        run_together(close, purge, *(partial(ends_closed, work) for work in (save, save, snap, snap, release)))
        acknowledged, newest = max(saved), max(snapped)
        assert newest > start

    assert not wal.exists(path / "wal") or segments(path / "wal")[0].name > f"{1:016x}", "nothing was ever purged"
    storage, recovered = storage_of(path)
    storage.close()
    assert recovered.snapshot is not None
    assert recovered.snapshot.index >= newest  # the close may have come between a marker and its acknowledgement


def ends_closed(work: Callable[[], None]) -> None:
    with pytest.raises(wal.WALClosedError):
        work()
