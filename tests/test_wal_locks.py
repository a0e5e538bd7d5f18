"""One writer: whoever else tries, from wherever, is refused at once, and nothing is changed by the attempt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import portalocker.portalocker
import pytest

import wal
from locks import go_lock, linux, lock_of_another, old_lock
from logs import SMALL, Child, Disk, in_child, indexes, read, segments, tree, untouched
from wal import CommitState, Entry, SnapshotMarker
from wal._locks import lock_directory

OPENINGS: list[Callable[[Path], object]] = [
    wal.WAL.open,
    wal.read_wal,
    wal.repair,
    lambda path: wal.repair(path, force=True),
    lambda path: wal.WAL.create(path, segment_size=SMALL),
]
NAMES = ["open", "read_wal", "repair", "forced repair", "create"]


def open_and_close(path: Path) -> None:
    wal.read_wal(path, fs=Disk()).wal.close()


def run_in_thread(call: Callable[[], object]) -> object:
    """Return what a call returns, or raises, in another thread."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcome[0]


@pytest.fixture
def log(path: Path) -> Iterator[wal.WAL]:
    """An open log with three segments."""
    with wal.WAL.create(path, b"node", segment_size=SMALL, fs=Disk()) as log:
        for index in (1, 2):
            log.save(CommitState(index), [Entry(index, bytes(SMALL))])
        log.save_entry([Entry(3)])
        yield log


# ---------------------------------------------------------------------------------------------------- a second writer


@pytest.mark.parametrize("opening", OPENINGS, ids=NAMES)
def test_a_second_writer_in_the_same_thread_is_refused(
    log: wal.WAL, path: Path, opening: Callable[[Path], object]
) -> None:
    """P7, F19: at once, with nothing read, written, renamed or removed; the first one goes on."""
    (path / "0000000000000009-0000000000000009.wal.tmp").write_bytes(b"swept by who holds the lock")
    before = untouched(path)

    with pytest.raises(wal.WALLockedError) as caught:
        opening(path)

    assert isinstance(caught.value, BlockingIOError)
    assert caught.value.path == path
    assert untouched(path) == before
    log.save_entry([Entry(4)])
    assert indexes(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("opening", OPENINGS, ids=NAMES)
def test_a_second_writer_in_another_thread_is_refused(
    log: wal.WAL, path: Path, opening: Callable[[Path], object]
) -> None:
    """P7, F19: threads do not share a log by opening it twice."""
    before = untouched(path)

    assert isinstance(run_in_thread(lambda: opening(path)), wal.WALLockedError)
    assert untouched(path) == before


@pytest.mark.parametrize("opening", OPENINGS, ids=NAMES)
def test_a_second_writer_in_another_process_is_refused(
    log: wal.WAL, path: Path, opening: Callable[[Path], object]
) -> None:
    """P7, F19: be it a child, which has inherited all that is open."""
    before = untouched(path)

    assert in_child(lambda: opening(path)) == "WALLockedError"
    assert untouched(path) == before


def test_a_second_writer_through_another_name_is_refused(log: wal.WAL, path: Path) -> None:
    """P7: a symbolic link leads to the same lock."""
    (path.parent / "link").symlink_to(path)

    with pytest.raises(wal.WALLockedError):
        wal.read_wal(path.parent / "link")


def test_a_refused_writer_holds_nothing(log: wal.WAL, path: Path) -> None:
    """R55: the loser has no descriptor left, and stands in nobody's way afterwards."""
    fs = Disk()
    for _ in range(3):
        with pytest.raises(wal.WALLockedError):
            wal.WAL.open(path, fs=fs)
        assert not fs.open_descriptors
    log.close()

    open_and_close(path)


@pytest.mark.parametrize(
    "given_up",
    [
        pytest.param(wal.WAL.close, id="closed"),
        pytest.param(lambda log: log.__exit__(None, None, None), id="left"),
    ],
)
def test_the_next_writer_may_open_when_the_first_is_done(
    log: wal.WAL, path: Path, given_up: Callable[[wal.WAL], None]
) -> None:
    """P7: in this process and in another one."""
    given_up(log)

    open_and_close(path)
    assert in_child(partial(open_and_close, path)) == "None"


def test_readers_need_no_lock(log: wal.WAL, path: Path) -> None:
    """P8, R54: they read beside the writer, and the writer does not notice."""
    for _ in range(2):
        assert [entry.index for entry in read(path).entries] == [1, 2, 3]
        assert wal.verify(path).last_index == 3
        assert len(wal.valid_snapshots(path)) == 1
        assert in_child(partial(indexes, path)) == "[1, 2, 3]"
    log.save_entry([Entry(4)])


# -------------------------------------------------------------------------------------------- programs in other tongues


@linux
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_lock_of_a_program_in_go_keeps_writers_out(log: wal.WAL, path: Path, which: int) -> None:
    """P7: on whichever segment it is; nothing is changed or held."""
    log.close()
    before = untouched(path)
    fd = os.open(segments(path)[which], os.O_RDWR)
    fs = Disk()
    try:
        go_lock(fd)
        with pytest.raises(wal.WALLockedError) as caught:
            wal.read_wal(path, fs=fs)
        assert caught.value.path == segments(path)[which]
        assert in_child(lambda: wal.WAL.open(path)) == "WALLockedError"
    finally:
        os.close(fd)
    assert not fs.open_descriptors
    assert untouched(path) == before
    open_and_close(path)


@linux
@pytest.mark.parametrize("force", [False, True], ids=["plain", "forced"])
def test_a_repair_is_kept_out_while_a_program_in_go_cuts(log: wal.WAL, path: Path, force: bool) -> None:
    """P7: etcd drops the lock of a segment that it has just begun for a moment; it holds that of the one before."""
    log.close()
    before = untouched(path)
    fd = os.open(segments(path)[-2], os.O_RDWR)
    fs = Disk()
    try:
        go_lock(fd)
        with pytest.raises(wal.WALLockedError):
            wal.repair(path, force=force, fs=fs)
    finally:
        os.close(fd)
    assert not fs.open_descriptors
    assert untouched(path) == before


@linux
def test_a_lock_held_by_a_process_in_go_keeps_writers_out(log: wal.WAL, path: Path) -> None:
    """P7: the same, with the lock in another process, and as long as that lives."""
    log.close()
    reading, writing = os.pipe()

    def hold() -> None:
        go_lock(os.open(segments(path)[-1], os.O_RDWR))
        os.write(writing, b"held")
        signal.pause()

    with Child(hold):
        os.read(reading, 4)
        with pytest.raises(wal.WALLockedError):
            wal.read_wal(path)
    os.close(reading)
    os.close(writing)
    open_and_close(path)


@linux
@pytest.mark.parametrize("opened", [False, True], ids=["created", "opened"])
def test_a_program_in_go_is_kept_out_of_every_segment(log: wal.WAL, path: Path, opened: bool) -> None:
    """P7: it would be refused at any segment, in this process or in another, until the log is closed."""
    if opened:
        log.close()
        log = wal.WAL.open(path)
    for segment in segments(path):
        assert not lock_of_another(segment, go_lock)
        assert in_child(partial(lock_of_another, segment, go_lock)) == "False"
        assert in_child(partial(lock_of_another, segment, old_lock)) == "False"
    log.close()
    assert all(lock_of_another(segment, go_lock) for segment in segments(path))


@pytest.mark.parametrize(
    "reading",
    [
        pytest.param(lambda path: wal.WALReader(path).read_all(), id="read_all"),
        pytest.param(lambda path: list(wal.WALReader(path)), id="iteration"),
        pytest.param(wal.verify, id="verify"),
        pytest.param(lambda path: [segment.read_bytes() for segment in segments(path)], id="any program"),
        pytest.param(lambda path: os.close(os.open(path, os.O_RDONLY)), id="the directory"),
    ],
)
def test_a_reader_that_closes_does_not_drop_the_lock(
    log: wal.WAL, path: Path, reading: Callable[[Path], object]
) -> None:
    """D4: the old kind of lock is gone when any descriptor of the file is closed in the process; this one is not."""
    reading(path)

    assert in_child(lambda: wal.WAL.open(path)) == "WALLockedError"
    if sys.platform == "linux":
        for segment in segments(path):
            assert not lock_of_another(segment, go_lock)


def test_portalocker_is_left_as_it_was(path: Path) -> None:
    """P16: which kind of lock other parts of a program take is none of our business."""
    before = {name: getattr(portalocker.portalocker, name) for name in ("LOCKER", "lock", "unlock")}
    with wal.WAL.create(path, segment_size=SMALL) as log:
        log.save_entry([Entry(1, bytes(SMALL))])
        log.save_entry([Entry(2)])
        with pytest.raises(wal.WALLockedError):
            wal.read_wal(path)
        during = {name: getattr(portalocker.portalocker, name) for name in before}
    after = {name: getattr(portalocker.portalocker, name) for name in before}

    assert before == during == after
    if os.name == "posix":  # earlier tests may have changed it before, in this very process
        assert before["LOCKER"].__name__ == "flock"


# ------------------------------------------------------------------------------------------ in the middle of an opening


class Raced(Disk):
    """Lets somebody else do something between the opening of the directory and its lock, once."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] | None = meanwhile

    def lock_directory(self, fd: int) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        super().lock_directory(fd)


def test_a_creator_that_comes_second_does_not_remove_the_directory_that_it_made(path: Path) -> None:
    """R59, F13: it made the directory, but the other one has locked it, and is about to make a log in it."""
    locked: list[int] = []

    def overtake() -> None:
        locked.append(os.open(path, os.O_RDONLY))
        lock_directory(locked[0])

    with pytest.raises(wal.WALLockedError):
        wal.WAL.create(path, segment_size=SMALL, fs=Raced(overtake))

    assert path.is_dir()
    os.close(locked[0])
    wal.WAL.create(path, segment_size=SMALL).close()


def test_a_create_that_fails_removes_the_directory_before_it_gives_up_the_lock(path: Path) -> None:
    """R59: or else it would be removed from under the next creator, who has the lock by then."""
    seen: list[bool] = []

    class Watched(Disk):
        def unlock_directory(self, fd: int) -> None:
            super().unlock_directory(fd)
            seen.append(path.exists())

    fs = Watched()
    fs.fail("rename")
    with pytest.raises(OSError):
        wal.WAL.create(path, segment_size=SMALL, fs=fs)

    assert seen == [False]
    assert not path.exists()


@pytest.mark.parametrize("opening", [wal.WAL.create, wal.WAL.open, wal.repair], ids=lambda f: f.__name__)
def test_a_lock_on_a_directory_that_is_gone_is_worth_nothing(path: Path, opening: Callable[..., object]) -> None:
    """R59: another creator made the directory, failed and removed it, and a third one has made it anew."""
    path.mkdir()

    def replace() -> None:
        path.rename(path.with_name("gone"))
        path.mkdir()

    fs = Raced(replace)
    with pytest.raises(wal.WALLockedError):
        opening(path, fs=fs)

    assert tree(path) == {}
    assert not fs.open_descriptors


# ---------------------------------------------------------------------------------------------------------------- forks


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda log: log.save(CommitState(9), [Entry(4)]), id="save"),
        pytest.param(lambda log: log.save(None, None), id="save of nothing"),
        pytest.param(lambda log: log.save_entry([Entry(4)]), id="save_entry"),
        pytest.param(lambda log: log.save_state(CommitState(9)), id="save_state"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(3)), id="save_snap"),
        pytest.param(lambda log: log.sync(), id="sync"),
        pytest.param(lambda log: log.release(SnapshotMarker(3)), id="release"),
        pytest.param(lambda log: log.read_all(), id="read_all"),
        pytest.param(lambda log: list(log.replay()), id="replay"),
    ],
)
def test_a_forked_child_cannot_use_the_log(log: wal.WAL, path: Path, call: Callable[[wal.WAL], object]) -> None:
    """D3: the log belongs to the process that opened it; the child's call changes nothing."""
    before = untouched(path)

    assert in_child(lambda: call(log)) == "WALClosedError"

    assert untouched(path) == before
    log.save_entry([Entry(4)])
    assert indexes(path) == [1, 2, 3, 4]


class Paused(Disk):
    """Stands still in the next sync until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.armed = False

    def fdatasync(self, fd: int) -> None:
        if self.armed:
            self.reached.set()
            self.go_on.wait()
        super().fdatasync(fd)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda log: log.save(None, [Entry(1)]), id="save"),
        pytest.param(lambda log: log.save_snap(SnapshotMarker(3)), id="save_snap"),
        pytest.param(lambda log: log.sync(), id="sync"),
        pytest.param(lambda log: log.release(SnapshotMarker(3)), id="release"),
        pytest.param(lambda log: log.read_all(), id="read_all"),
        pytest.param(lambda log: list(log.replay()), id="replay"),
        pytest.param(lambda log: log.close(), id="close"),
        pytest.param(lambda log: log.first_index, id="first_index"),
    ],
)
def test_a_child_forked_in_the_middle_of_a_save_does_not_hang(path: Path, call: Callable[[wal.WAL], object]) -> None:
    """D3: the mutex that a thread held at the fork is never released in the child, so it must not be waited for."""
    fs = Paused()
    with wal.WAL.create(path, segment_size=SMALL, fs=fs) as log:
        fs.armed = True
        saving = threading.Thread(target=log.save_entry, args=([Entry(1)],))
        saving.start()
        fs.reached.wait()
        with Child(lambda: call(log)) as child:
            fs.go_on.set()
            saving.join()
            waiting = threading.Thread(target=child.wait)
            waiting.start()
            waiting.join(timeout=10)
            hangs = waiting.is_alive()
            if hangs:
                os.kill(child.process, 9)
                waiting.join()
        assert not hangs
    assert indexes(path) == [1]


def test_a_forked_child_may_look_at_the_properties(log: wal.WAL) -> None:
    """D3: they need no disk and no lock."""
    assert in_child(lambda: (log.last_index, log.metadata, log.state.committed, log.closed)) == "(3, b'node', 2, False)"


@pytest.mark.parametrize("sync", [True, False])
def test_a_close_in_a_forked_child_changes_nothing_for_the_parent(path: Path, sync: bool) -> None:
    """D3: the child neither syncs nor unlocks, and the parent goes on behind the same lock."""
    fs = Disk()
    with wal.WAL.create(path, segment_size=SMALL, sync=sync, fs=fs) as log:
        log.save_entry([Entry(1)])

        def close() -> list[str]:
            fs.trace.clear()
            log.close()
            log.close()
            return sorted(set(fs.trace))

        assert in_child(close) == "['close']"

        assert in_child(lambda: wal.WAL.open(path)) == "WALLockedError"
        assert isinstance(run_in_thread(lambda: wal.WAL.open(path)), wal.WALLockedError)
        if sys.platform == "linux":
            assert not lock_of_another(segments(path)[0], go_lock)
        log.save_entry([Entry(2)])
    assert indexes(path) == [1, 2]


def test_a_log_dropped_in_a_forked_child_says_nothing(path: Path) -> None:
    """D3: there is no warning, and nothing is unlocked: the log was never the child's to close."""
    logs = [wal.WAL.create(path, segment_size=SMALL)]

    assert in_child(logs.clear) == "None"

    assert in_child(lambda: wal.WAL.open(path)) == "WALLockedError"
    logs[0].close()


def test_a_forked_child_leaving_the_block_changes_nothing(path: Path) -> None:
    """D3: the ``with`` statement around the fork ends in both processes."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        assert in_child(lambda: log.__exit__(None, None, None)) == "None"
        assert in_child(lambda: wal.WAL.open(path)) == "WALLockedError"
        log.save_entry([Entry(1)])
    assert indexes(path) == [1]


@pytest.mark.parametrize("forked", ["after the create", "after a cut"])
def test_the_parent_can_reopen_while_a_forked_child_lives(path: Path, forked: str) -> None:
    """D3: the child's copies of the descriptors would keep the locks, so a close unlocks by name."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        log.save_entry([Entry(1, bytes(SMALL))])
        if forked == "after a cut":
            log.save_entry([Entry(2, bytes(SMALL))])
        with Child(signal.pause):
            log.save_entry([Entry(log.last_index + 1)])
            last = log.last_index
            log.close()

            with wal.read_wal(path, segment_size=SMALL).wal as again:
                again.save_entry([Entry(last + 1)])
                assert isinstance(run_in_thread(lambda: wal.WAL.open(path)), wal.WALLockedError)
            assert in_child(partial(open_and_close, path)) == "None"
    assert indexes(path) == list(range(1, last + 2))


def test_released_segments_are_free_while_a_forked_child_lives(path: Path) -> None:
    """D3, R58: a release unlocks by name, too."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        for index in range(1, 4):
            log.save_entry([Entry(index, bytes(SMALL))])
        with Child(signal.pause):
            log.release(SnapshotMarker(3))
            if sys.platform == "linux":
                assert [lock_of_another(segment, go_lock) for segment in segments(path)] == [True, True, False]


def test_a_killed_writer_leaves_no_lock(path: Path) -> None:
    """P7: locks live in the kernel, so there is no stale one to clean up."""
    reading, writing = os.pipe()

    def write() -> None:
        log = wal.WAL.create(path, segment_size=SMALL)
        log.save_entry([Entry(1)])
        os.write(writing, b"held")
        signal.pause()

    with Child(write):
        os.read(reading, 4)
        with pytest.raises(wal.WALLockedError):
            wal.read_wal(path)
    os.close(reading)
    os.close(writing)
    with wal.read_wal(path).wal as log:
        assert log.last_index == 1


def test_programs_started_by_this_one_do_not_inherit_the_log(log: wal.WAL, path: Path) -> None:
    """R52: descriptors are closed on exec, so a long-lived helper program does not keep the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        log.close()
        open_and_close(path)
        program.communicate()
