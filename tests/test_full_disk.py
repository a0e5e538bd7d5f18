"""Real disks that are full, become read-only, or lose their power: small file systems, mounted for the test."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

import wal
from damage import overwrite
from logs import SMALL, segments, tree, untouched
from volumes import KIB, Ext4, Memory, PowerCut, Volume, why_not
from wal import CommitState, Entry, Retention, SnapshotData, SnapshotMarker

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"needs to mount file systems: {why_not()}")

Effort = Callable[..., int]

LEFT = [0, 1 * KIB, 2 * KIB, 3 * KIB, 5 * KIB, 8 * KIB, 12 * KIB]
"""The bytes that are left on a disk that is about to be full."""


@pytest.fixture(params=[Ext4, Memory], ids=["ext4", "tmpfs"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    with request.param(tmp_path / "volume") as mounted:
        yield mounted


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Ext4]:
    with Ext4(tmp_path / "volume") as mounted:
        yield mounted


def entry(index: int, size: int = 700) -> Entry:
    return Entry(index, (b"%d " % index * size)[:size])


def grow(log: wal.WAL | wal.FileStorage, stop: int) -> None:
    for index in range(log.last_index + 1, stop + 1):
        log.save(CommitState(index), [entry(index)])


def reopened(path: Path) -> list[wal.LogEntry]:
    """Open a log as its owner would, let it go on, and return the entries that it held."""
    log, _, _, entries = wal.read_wal(path, segment_size=SMALL)
    with log:
        grow(log, log.last_index + 20)
    assert wal.verify(path).tail is None
    return entries


# ----------------------------------------------------------------------------------------------------- a full disk


def to_the_end_of_the_segment(log: wal.WAL) -> None:
    """Save until the next save has to cut."""
    cuts = len(segments(log.path))
    while len(segments(log.path)) == cuts:
        grow(log, log.last_index + 1)
    while wal.verify(log.path).bytes - sum(s.stat().st_size for s in segments(log.path)[:-1]) < SMALL:
        grow(log, log.last_index + 1)


FILLING: dict[str, Callable[[wal.WAL], None]] = {
    "a long save": lambda log: log.save_entry([entry(log.last_index + 1, 64 * KIB)]),
    "a save of many": lambda log: log.save_entry([entry(log.last_index + 1 + n, 2000) for n in range(30)]),
    "saves until it is full": lambda log: grow(log, 10**6),
    "a save that cuts": lambda log: (to_the_end_of_the_segment(log), log.save_entry([entry(log.last_index + 1)])),  # type: ignore[func-returns-value]
    "a marker that cuts": lambda log: (to_the_end_of_the_segment(log), log.save_snap(SnapshotMarker(3))),  # type: ignore[func-returns-value]
}
