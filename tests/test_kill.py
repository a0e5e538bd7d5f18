"""Processes that are killed: what a save acknowledged is there as a whole, and at most one save more."""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import time
import traceback
import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

import wal
from wal import CommitState, Entry

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

ROUNDS = 70
NUMBER = struct.Struct("<q")


def batch(first: int) -> list[wal.LogEntry]:
    """The entries of the save that begins with this index: one to five, of many sizes."""
    numbers = random.Random(first)
    sizes = numbers.choices([0, 5, 50, 700, 3000], k=numbers.randint(1, 5))
    return [Entry(index, numbers.randbytes(size)) for index, size in enumerate(sizes, first)]


def killed_after(seconds: float, work: Callable[[Callable[[int], None]], None]) -> list[int]:
    """
    Let a child do some work and kill it; return the numbers that it acknowledged before.

    The child is a fork, so that it spends its time at work and not at starting an interpreter.
    """
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which the child does not use
        child = os.fork()
    if child == 0:

        def acknowledge(number: int) -> None:
            os.write(theirs, NUMBER.pack(number))

        try:
            work(acknowledge)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(theirs)
    deadline = time.monotonic() + seconds
    received = b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([ours], [], [], left)[0]:
            received += (chunk := os.read(ours, 1 << 16))
            if not chunk:
                break
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while chunk := os.read(ours, 1 << 16):
        received += chunk
    os.close(ours)
    assert os.WIFSIGNALED(status), "the child came to an end by itself"
    return [number for (number,) in NUMBER.iter_unpack(received)]


@pytest.fixture
def times() -> random.Random:
    """Random times; a failing test shows their seed."""
    seed = random.randrange(1 << 32)
    print(f"seed of the random times: {seed}")  # noqa: T201
    return random.Random(seed)


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
def test_acknowledged_saves_survive_a_kill(path: Path, sync: bool, times: random.Random) -> None:
    """P1, P2, P18, R24: After each of many kills, every acknowledged save is there, and at most one more."""
    wal.WAL.create(path, b"node", segment_size=4096).close()
    expected: list[wal.LogEntry] = []
    rounds = total = 0

    def save_until_killed(acknowledge: Callable[[int], None]) -> None:
        log = wal.read_wal(path, segment_size=4096, sync=sync).wal
        while True:
            entries = batch(log.last_index + 1)
            log.save(CommitState(entries[-1].index), entries)
            acknowledge(entries[-1].index)

    while rounds < ROUNDS or total < ROUNDS:  # a loaded machine needs more rounds, and longer ones
        rounds += 1
        acknowledged = killed_after(times.uniform(0, 0.03 + rounds / 2000), save_until_killed)
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


def test_a_killed_create_leaves_a_whole_log_or_none(tmp_path: Path, times: random.Random) -> None:
    """P11, R30, R35, R39: Whenever ``create`` is killed, there is a log that opens, or none, and it can be repeated."""
    made = 0

    def create_until_killed(acknowledge: Callable[[int], None]) -> None:
        for number in count(made):
            wal.WAL.create(tmp_path / str(number), b"node", segment_size=4096).close()
            acknowledge(number)

    while made < 60:
        acknowledged = killed_after(times.uniform(0, 0.04), create_until_killed)
        assert acknowledged == list(range(made, made + len(acknowledged)))
        for number in acknowledged:
            assert wal.WALReader(tmp_path / str(number)).read_all() == (b"node", CommitState(0), [], None)
        made += len(acknowledged)
        unfinished = tmp_path / str(made)
        if not wal.exists(unfinished):
            wal.WAL.create(unfinished, b"node", segment_size=4096).close()
        with wal.read_wal(unfinished).wal as log:
            assert log.metadata == b"node"
            log.save_entry([Entry(1)])
        assert [file.suffix for file in unfinished.iterdir()] == [".wal"]
        made += 1
