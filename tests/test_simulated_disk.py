"""The simulated disk: it does as a real one does, and tells what a crash leaves."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import wal
from wal import CommitState, Entry
from wal._files import OPERATING_SYSTEM, READ, READ_WRITE, FileSystem
from wal.testing import Crash, SimulatedDisk

CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL
TOP = SimulatedDisk.top


def wrong_calls(top: Path) -> list[tuple[str, Callable[[FileSystem], object]]]:
    """Calls that must fail, on a disk with a file, a directory with a file in it, and an empty one."""
    return [
        ("open what is not there", lambda fs: fs.open(top / "nothing", READ)),
        ("open inside what is not there", lambda fs: fs.open(top / "nothing" / "file", CREATE)),
        ("create what is there", lambda fs: fs.open(top / "file", CREATE)),
        ("create a directory that is there", lambda fs: fs.mkdir(top / "empty")),
        ("create a directory in a file", lambda fs: fs.mkdir(top / "file" / "inside")),
        ("remove what is not there", lambda fs: fs.unlink(top / "nothing")),
        ("rename what is not there", lambda fs: fs.rename(top / "nothing", top / "new")),
        ("remove a directory that is not empty", lambda fs: fs.rmdir(top / "full")),
        ("remove a directory that is not there", lambda fs: fs.rmdir(top / "nothing")),
        ("list a file", lambda fs: fs.listdir(top / "file")),
        ("list what is not there", lambda fs: fs.listdir(top / "nothing")),
    ]


@pytest.mark.parametrize("number", range(11), ids=[name for name, _ in wrong_calls(TOP)])
def test_wrong_calls_fail_as_on_a_real_disk(tmp_path: Path, number: int) -> None:
    """The class of the error and its number are the same."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"")
    disk = SimulatedDisk({"file": b"", "empty": None, "full": None, "full/file": b""})

    with pytest.raises(OSError) as real:
        wrong_calls(tmp_path)[number][1](OPERATING_SYSTEM)
    with pytest.raises(OSError) as simulated:
        wrong_calls(TOP)[number][1](disk)

    assert type(simulated.value) is type(real.value)
    assert simulated.value.errno == real.value.errno


def test_a_lock_is_held_by_one_descriptor() -> None:
    """A second one is refused until the first unlocks, or closes."""
    disk = SimulatedDisk({"file": b""})
    for give_up in (disk.unlock, disk.close):
        first, second = disk.open(TOP / "file", READ_WRITE), disk.open(TOP / "file", READ_WRITE)
        disk.lock(first)
        with pytest.raises(BlockingIOError):
            disk.lock(second)
        assert disk.is_locked(TOP / "file")
        give_up(first)
        disk.lock(second)
        disk.close(second)


def left(disk: SimulatedDisk, name: str) -> set[bytes | None]:
    """Return what crashes leave of a file; ``None``: there is none."""
    return {crash.files.get(name, None) for crash in disk.crashes(random.Random(1), subsets=200)}


def test_what_was_synced_survives_every_crash() -> None:
    """The content when the file was synced, the name when the directory was."""
    disk = SimulatedDisk()
    directory = disk.open(TOP, READ)
    file = disk.open(TOP / "file", CREATE)
    disk.pwrite(file, b"abcd", 0)
    assert left(disk, "file") >= {None, b"", b"ab", b"\0\0cd", b"abcd", b"\xa5" * 4}
    disk.fsync(file)
    assert left(disk, "file") == {None, b"abcd"}
    disk.fsync(directory)
    assert left(disk, "file") == {b"abcd"}
    disk.rename(TOP / "file", TOP / "new")
    assert {frozenset(crash.files) for crash in disk.crashes(random.Random(1))} == {
        frozenset({"file"}),
        frozenset({"new"}),
    }


def test_a_write_is_torn_at_sectors_at_pages_and_anywhere() -> None:
    """Of a long write any sector may be there without its neighbours, with the old bytes, zeros or garbage between."""
    disk = SimulatedDisk({"file": b"o" * 8192})
    file = disk.open(TOP / "file", READ_WRITE)
    disk.pwrite(file, b"n" * 8192, 0)

    contents = [content for content in left(disk, "file") if content is not None]

    assert {set(content) <= set(b"no\0\xa5") for content in contents} == {True}
    assert any(content[:512] != content[512:1024] and content[512:1024] == b"n" * 512 for content in contents)
    assert any(content[:4096] == b"o" * 4096 and content[4096:] == b"n" * 4096 for content in contents)
    assert any(content.find(b"n") % 512 for content in contents)


def test_truncating_and_reserving_may_be_lost() -> None:
    """Like any other change."""
    disk = SimulatedDisk({"file": b"content"})
    file = disk.open(TOP / "file", READ_WRITE)
    disk.truncate(file, 3)
    disk.allocate(file, 6)
    assert disk.files() == {"file": b"con\0\0\0"}
    assert left(disk, "file") == {b"content", b"con", b"con\0\0\0"}


def test_a_killed_process_leaves_what_the_system_has() -> None:
    """Everything is there, nothing is locked, and what was not synced is still not."""
    disk = SimulatedDisk({"file": b"old"})
    file = disk.open(TOP / "file", READ_WRITE)
    disk.lock(file)
    disk.pwrite(file, b"new", 0)

    killed = disk.killed()

    assert killed.files() == {"file": b"new"}
    assert killed.synced_files() == {"file": b"old"}
    assert not killed.is_locked(TOP / "file")
    file = killed.open(TOP / "file", READ_WRITE)
    killed.fsync(file)
    assert killed.synced_files() == {"file": b"new"}
    assert disk.synced_files() == {"file": b"old"}


def test_a_log_is_recovered_from_every_crash_of_a_save() -> None:
    """How an application tries its own recovery: note the crashes of each moment, then recover from each."""
    disk = SimulatedDisk()
    crashes: list[Crash] = []
    with wal.WAL.create(disk.top / "log", segment_size=4096, fs=disk) as log:
        log.save(CommitState(1), [Entry(1, b"acknowledged")])
        disk.before_change = lambda _: crashes.extend(disk.crashes(random.Random(0)))
        log.save(CommitState(3), [Entry(2, b"second"), Entry(3, b"third")])
        disk.before_change = lambda _: None

    found = set()
    for _, files in crashes:
        log, _, state, entries = wal.read_wal(disk.top / "log", segment_size=4096, fs=SimulatedDisk(files))
        log.close()
        found.add((state.committed, len(entries)))
    assert found == {(1, 1), (3, 3)}
