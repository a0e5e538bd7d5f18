"""Threads, processes, forks and purges beside each other: real files, real locks, and no luck needed."""

from __future__ import annotations

import ast
import contextlib
import itertools
import multiprocessing
import os
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
from locks import directory_lock, go_lock, linux, lock_of_another
from logs import SMALL, Child, Disk, in_child, indexes, read, segments, tree, untouched
from unsynced import UNSYNCED, Unsynced
from wal import CommitState, Entry, RecordType, SnapshotData, SnapshotMarker
from wal._files import OPERATING_SYSTEM, OperatingSystem

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
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            begin.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


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
    waiting.join(10)
    if waiting.is_alive():
        os.kill(process, signal.SIGKILL)
        waiting.join()
        return "hangs"
    return outcomes[0]


def open_and_close(path: Path) -> None:
    wal.read_wal(path, fs=UNSYNCED).wal.close()


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
    """R57, F30, F31: whose turn it is takes the next index; all else runs side by side with it, and each save counts."""
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
                    log.save_state(CommitState(index))
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

    assert fs.trace.count("fdatasync") == 1
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
    for number in range(1, 1 + effort(quick=15, full=200, deep=2_000)):
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
                for round in itertools.count():
                    data = b"<%d %d>" % (thread, round)
                    log.save_entry([Entry(1, data)])
                    assert data in fs.durable
                    acknowledged.add(data)

        with wal.WAL.create(path, segment_size=SMALL, fs=fs) as log:
            fs.syncs = 0
            fs.fail_at = number * 3
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
                os.close(os.open(token, os.O_CREAT | os.O_EXCL))
                log.save_entry([Entry(log.last_index + 1, b"%d" % number)])
            if stay:
                gate.wait(HANG)
            if log is not None:
                token.unlink()
                log.close()
        return outcomes

    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(started(partial(run, number))) for number in range(len(openings))]
        answers = [child.wait() for child in children]
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
                if number % 10 == 0:
                    prober.has_tried()
            granted, tries = prober.outcome()

    assert granted == 0
    assert tries > cuts // 10
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
    with segments(path)[-1].open("r+b") as tail:  # a torn write at the end, for repair to cut
        tail.seek(wal.verify(path).bytes - sum(s.stat().st_size for s in segments(path)[:-1]))
        tail.write(b"\x41")
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


# ------------------------------------------------------------------------------------------------ readers beside a writer


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


class Progress:
    """Four numbers that a forked writer and its parent share."""

    def __init__(self) -> None:
        self._numbers = memoryview(mmap(-1, 4096)).cast("q")

    def _get(self, at: int) -> int:
        return self._numbers[at]

    def _set(self, at: int, number: int) -> None:
        self._numbers[at] = number

    begun = property(lambda self: self._get(0), lambda self, number: self._set(0, number))
    """The last index of the save that was called last."""
    saved = property(lambda self: self._get(1), lambda self, number: self._set(1, number))
    """The last index of the save that returned last."""
    marked = property(lambda self: self._get(2), lambda self, number: self._set(2, number))
    """The snapshot whose marker was saved last."""
    purged = property(lambda self: self._get(3), lambda self, number: self._set(3, number))
    """The snapshot to which a purge was begun last."""


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
        progress, path = self.progress, self.path
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
                    progress.purged = marker.index
                    log.release(marker)
                    wal.purge(path, marker, keep=step % 2, fs=UNSYNCED)
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
    for type, value, _, _ in reader:
        match value:
            case Entry(index=index):
                assert index == last + 1
                last = index
            case CommitState(committed=committed):
                assert committed >= marker.index or last == marker.index
                assert committed <= last or last == marker.index
            case SnapshotMarker(index=index):
                assert index <= last
            case _:
                assert type is RecordType.METADATA
                assert value == b"node"
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
    for name, read in READS.items():
        saved, purged = progress.saved, progress.purged
        try:
            last = read(writer.path, progress)
        except (wal.SnapshotNotFoundError, wal.WALNotFoundError):
            assert progress.purged > purged, "nothing was purged meanwhile"
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
            for read in READS.values():
                assert read(path, writer.progress) == writer.progress.saved
            assert untouched(path) == before
            for _ in range(writer.AHEAD - 1):
                writer.ask()
        writer.ask()

    last = writer.end()
    assert last >= steps * writer.SAVES
    assert wal.verify(path).last_index == last
    assert min(tally.done.values()) > steps // 2, tally
    assert len(segments(path)) < 40
