"""
Every call of the file system fails, in every way that is known of.

The lives in ``lives.py`` use all of the library. The i-th call of a life fails, for every i, once or from then on.
Then the writer has stopped or goes on, as it said; nothing is held, nothing outside is touched; and the directory,
on a disk that works again, has all that was acknowledged and goes on.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import random
import shutil
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import wal
from lives import CHANGES, LIVES, WRITES, Beginning, Life, beginnings
from logs import SMALL, Disk, logged, read
from wal import Entry, SnapshotMarker

pytestmark = pytest.mark.torture

ERRORS = [
    "EIO",
    "ENOSPC",
    "EDQUOT",
    "EROFS",
    "EACCES",
    "EMFILE",
    "ENFILE",
    "ENOMEM",
    "EINTR",
    "EAGAIN",
    "ENOENT",
    "ESTALE",
]
each_life = pytest.mark.parametrize("life", [pytest.param(life, id=life.__name__) for life in LIVES])


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Beginning]:
    """What each life begins with."""
    return dict(beginnings(tmp_path_factory.mktemp("lives")))


@dataclass(frozen=True)
class Case:
    """One way to fail: what happens, in words, and what makes a disk do so."""

    what: str
    arm: Callable[[Disk], object]


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def run(root: Path, beginning: Beginning, life: Callable[[Life], None], case: Case, *, whole: bool) -> Life:
    """Live a life on a disk that fails, look at what is left, and if ``whole`` live it once more without a failure."""
    before = threading.active_count(), descriptors()
    path = root / "storage"
    account = beginning.put(path)
    lived = Life(path, Disk(), account)
    case.arm(lived.fs)
    with logged() as lived.logged:
        lived.live(life)
    lived.fs.faults.clear()
    assert (threading.active_count(), descriptors()) == before, "nothing is left behind"
    account.check(path)
    if whole:
        again = Life(path, Disk(), account)
        assert again.live(life)
        assert not again.errors
        account.check(path)
    assert (threading.active_count(), descriptors()) == before
    assert os.listdir(root) in (["not ours", "storage"], ["storage", "not ours"])
    assert (root / "not ours").read_bytes() == b"untouched"
    shutil.rmtree(path)
    return lived


@pytest.fixture
def run_all(
    request: pytest.FixtureRequest, memory: Path, lives: dict[str, Beginning], life: Callable[[Life], None]
) -> Callable[..., Iterator[Life]]:
    """
    Run one case of ``every`` so many, each in a directory with a file of somebody else.

    Which of them is another one for each test, so that together they try all calls. Every sixth run ends with a whole
    life more.
    """
    (memory / "not ours").write_bytes(b"untouched")

    def run_some(cases: Iterable[Case], *, every: int) -> Iterator[Life]:
        chosen = list(cases)[zlib.crc32(request.node.name.encode()) % every :: every]
        for number, case in enumerate(chosen):
            try:
                yield run(memory, lives[life.__name__], life, case, whole=number % 6 == 0)
            except BaseException as error:
                error.add_note(f"in the life {life.__name__}, when {case.what}")
                raise

    return run_some


def check_nothing_was_swallowed(lived: Life) -> None:
    """P5: a call that should have changed the disk and failed is always told of."""
    failed = {lived.fs.trace[place] for place in lived.fs.failed}
    if any("could not be stamped" in message for message in lived.logged):
        return  # a close has nothing to fear from that, and says so
    assert lived.failure is not None or lived.errors or not WRITES & failed, failed


# ------------------------------------------------------------------------------------------------------------- refusals


@each_life
@pytest.mark.parametrize("code", ERRORS)
def test_any_call_may_fail(
    lives: dict[str, Beginning],
    life: Callable[[Life], None],
    run_all: Callable[..., Iterator[Life]],
    code: str,
    effort: Callable[..., int],
) -> None:
    """
    P2, P5, P6, P10, P13, P14, P16: the i-th call fails, once or with all that follow. What failed before it wrote
    anything may be done again, and everything after it succeeds; a log whose write failed has stopped.
    """

    def fail(disk: Disk, number: int, persistent: bool) -> None:
        disk.fail("any", number=number, error=getattr(errno, code), persistent=persistent)

    cases = [
        Case(
            f"call {number}, {call}, fails with {code} {'for ever' if persistent else 'once'}",
            functools.partial(fail, number=number, persistent=persistent),
        )
        for number, call in enumerate(lives[life.__name__].trace, 1)
        for persistent in (False, True)
    ]
    for lived in run_all(cases, every=effort(quick=41, full=2, deep=1)):
        assert lived.fs.failed
        check_nothing_was_swallowed(lived)
        if len(lived.fs.failed) == 1:
            assert len(lived.errors) <= 1, "what comes after a failure that did not stop the writer succeeds"


@each_life
@pytest.mark.parametrize("code", ["EIO", "EINTR"])
def test_a_call_that_fails_may_have_done_its_work(
    lives: dict[str, Beginning],
    life: Callable[[Life], None],
    run_all: Callable[..., Iterator[Life]],
    code: str,
    effort: Callable[..., int],
) -> None:
    """P2, P5, P14: an error says nothing of the disk: the rename has happened, the write is complete, the file gone."""

    def fail(disk: Disk, number: int) -> None:
        disk.fail("any", number=number, error=getattr(errno, code), done=True)

    changes = WRITES | CHANGES | {"open", "close", "lock", "unlock", "lock_directory", "unlock_directory"}
    cases = [
        Case(
            f"call {number}, {call}, is done and fails with {code} all the same", functools.partial(fail, number=number)
        )
        for number, call in enumerate(lives[life.__name__].trace, 1)
        if call in changes
    ]
    for lived in run_all(cases, every=effort(quick=17, full=1, deep=1)):
        check_nothing_was_swallowed(lived)


@each_life
@pytest.mark.parametrize(
    ("calls", "code"),
    [
        pytest.param({"pwrite", "allocate", "create", "mkdir"}, "ENOSPC", id="the disk is full"),
        pytest.param({"pwrite", "allocate", "create", "mkdir"}, "EDQUOT", id="the quota is used up"),
        pytest.param(
            {"pwrite", "allocate", "truncate", "create", "rename", "unlink", "mkdir", "rmdir"},
            "EROFS",
            id="the disk becomes read-only",
        ),
        pytest.param({"open"}, "EMFILE", id="no descriptor is left"),
        pytest.param({"fsync", "fdatasync"}, "EIO", id="no sync succeeds"),
        pytest.param({"unlink", "rmdir", "rename", "create"}, "EACCES", id="directories are not ours any more"),
    ],
)
def test_the_machine_may_be_in_trouble(
    lives: dict[str, Beginning],
    life: Callable[[Life], None],
    run_all: Callable[..., Iterator[Life]],
    calls: set[str],
    code: str,
    effort: Callable[..., int],
) -> None:
    """P2, P5, P14, R21, R23: from the i-th call on some calls fail and others succeed, as when the disk is full."""

    def fail(disk: Disk, number: int) -> None:
        disk.fail(calls, number=number, error=getattr(errno, code), persistent=True)

    concerned = [call for call in lives[life.__name__].trace if call in calls or ("create" in calls and call == "open")]
    cases = [
        Case(f"from the {number}. of {sorted(calls)} on all fail with {code}", functools.partial(fail, number=number))
        for number in range(1, len(concerned) + 1)
    ]
    for lived in run_all(cases, every=effort(quick=17, full=1, deep=1)):
        check_nothing_was_swallowed(lived)


# --------------------------------------------------------------------------------------------------------- short writes

TAKEN: dict[str, Callable[[int], int]] = {
    "no byte": lambda size: 0,
    "1 byte": lambda size: min(1, size),
    "7 bytes": lambda size: min(7, size),
    "8 bytes": lambda size: min(8, size),
    "511 bytes": lambda size: min(511, size),
    "half": lambda size: size // 2,
    "all but one": lambda size: size - 1,
}


@each_life
@pytest.mark.parametrize("then", ["it goes on", "the next one fails", "all others fail"])
@pytest.mark.parametrize("taken", TAKEN)
def test_any_write_may_be_short(
    lives: dict[str, Beginning],
    life: Callable[[Life], None],
    run_all: Callable[..., Iterator[Life]],
    taken: str,
    then: str,
    effort: Callable[..., int],
) -> None:
    """P2, P3, P5, R20: the i-th write takes a part of its bytes; the rest follows, or is refused."""

    def fail(disk: Disk, number: int) -> None:
        disk.fail("pwrite", number=number, taken=TAKEN[taken])
        if then != "it goes on":
            disk.fail("pwrite", number=number + 1, error=errno.ENOSPC, persistent=then == "all others fail")

    cases = [
        Case(f"write {number} takes {taken}, and {then}", functools.partial(fail, number=number))
        for number in range(1, lives[life.__name__].trace.count("pwrite") + 1)
    ]
    for lived in run_all(cases, every=effort(quick=17, full=1, deep=1)):
        check_nothing_was_swallowed(lived)
        if then == "it goes on" and taken != "no byte":
            assert lived.failure is None
            assert not lived.errors


# ---------------------------------------------------------------------------------------------- below the file system


@each_life
@pytest.mark.parametrize("code", ["EOPNOTSUPP", "EINVAL", "ENOSYS", "ENODEV"])
def test_a_disk_that_reserves_no_space_will_do(
    run_all: Callable[..., Iterator[Life]], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reserving space is a favour to later writes: without it everything works the same."""

    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    for lived in run_all([Case("no space can be reserved", lambda disk: None)], every=1):
        assert lived.failure is None
        assert not lived.errors


@pytest.mark.skipif(sys.platform != "linux", reason="the locks of other systems are portalocker's own")
@each_life
@pytest.mark.parametrize("code", ["EAGAIN", "EACCES", "ENOLCK", "EIO"])
@pytest.mark.parametrize("locks", ["segments", "directories"])
def test_any_lock_may_fail(
    lives: dict[str, Beginning],
    life: Callable[[Life], None],
    run_all: Callable[..., Iterator[Life]],
    locks: str,
    code: str,
    effort: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P7, R51, R53: the i-th system call that locks or unlocks fails; nothing comes out but ours and ``OSError``."""
    import fcntl

    from portalocker.portalocker import FlockLocker

    left, disk = 0, Disk()

    def failing(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                disk.failed.append(len(disk.trace) - 1)
                raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
            return real(*args)

        return call

    if locks == "segments":
        calls = {"lock", "unlock"}
        monkeypatch.setattr(fcntl, "fcntl", failing(fcntl.fcntl))
    else:
        calls = {"lock_directory", "unlock_directory"}
        monkeypatch.setattr(FlockLocker, "_locker", staticmethod(failing(fcntl.flock)))

    def fail(concerned: Disk, number: int) -> None:
        nonlocal left, disk
        left, disk = number, concerned

    concerned = [call for call in lives[life.__name__].trace if call in calls]
    cases = [
        Case(f"{call}, number {number} of these, fails with {code}", functools.partial(fail, number=number))
        for number, call in enumerate(concerned, 1)
    ]
    for lived in run_all(cases, every=effort(quick=7, full=1, deep=1)):
        assert left <= 0
        assert len(lived.errors) <= 1


# -------------------------------------------------------------------------------------------------------- two failures


@each_life
def test_two_calls_may_fail(
    lives: dict[str, Beginning],
    life: Callable[[Life], None],
    run_all: Callable[..., Iterator[Life]],
    effort: Callable[..., int],
) -> None:
    """P2, P5: one call fails, and a later one fails while the first failure is dealt with."""
    calls = len(lives[life.__name__].trace)
    chance = random.Random(life.__name__)

    def fail(disk: Disk, first: int, second: int, done: bool) -> None:
        disk.fail("any", number=first, error=errno.EIO, done=done)
        disk.fail("any", number=first + second, error=errno.ENOSPC)

    cases = []
    for _ in range(effort(quick=8, full=150, deep=5000)):
        first, second, done = chance.randint(1, calls), chance.randint(1, 9), chance.random() < 0.5
        cases.append(
            Case(
                f"call {first} fails{' when it is done' if done else ''}, and the {second}. after it",
                functools.partial(fail, first=first, second=second, done=done),
            )
        )
    for lived in run_all(cases, every=1):
        check_nothing_was_swallowed(lived)


# ------------------------------------------------------------------------------- what is not there, and is all the same


@pytest.mark.parametrize("call", ["open", "lock", "is_at", "unlink"])
def test_a_purge_leaves_no_gap_behind_a_segment_that_seems_to_be_gone(path: Path, call: str) -> None:
    """P13: a name that a call does not find, and that is listed, was not removed by another purge; the purge ends."""
    with wal.WAL.create(path, segment_size=SMALL, fs=Disk()) as log:
        for index in range(1, 5):
            log.save_entry([Entry(index, bytes(SMALL))])
        log.save_snap(SnapshotMarker(4))
    fs = Disk()
    purge_calls = Disk()
    copy = shutil.copytree(path, path.with_name("copy"))
    assert len(wal.purge(copy, SnapshotMarker(4), fs=purge_calls)) == 3
    for number in range(1, purge_calls.trace.count(call) + 1):
        purged = shutil.copytree(path, path.with_name(f"{call} {number}"))
        fs = Disk()
        fs.fail(call, number=number, error=errno.ENOENT)
        with contextlib.suppress(OSError):
            wal.purge(purged, SnapshotMarker(4), fs=fs)
        assert fs.failed
        assert wal.verify(purged).last_index == 4


def test_a_log_is_not_made_over_one_that_a_listing_does_not_find(path: Path) -> None:
    """P11: a listing that fails, however it does, is no empty directory."""
    with wal.WAL.create(path, b"first", fs=Disk()) as log:
        log.save_entry([Entry(1, b"kept")])
    for number in range(1, 4):
        fs = Disk()
        fs.fail("listdir", number=number, error=errno.ENOENT)
        with pytest.raises((wal.WALExistsError, OSError)):
            wal.WAL.create(path, b"second", fs=fs).close()

    assert read(path)[::2] == (b"first", [Entry(1, b"kept")])
