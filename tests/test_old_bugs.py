"""Bugs of the logs that this one descends from, where no other test of the same rule names them."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import wal
from damage import flip_bit
from logs import SMALL, Disk, frames, read, segments
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
