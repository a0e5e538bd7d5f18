"""Zeros ahead of the end: written with a save from time to time, so that the syncs of the next ones are cheap."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wal
from logs import SMALL, read, segments
from wal import CommitState, Entry
from wal._files import OperatingSystem

AHEAD = 64 * 1024
SIZE = 1 << 20


class Writes(OperatingSystem):
    """Notes where each write began, how many of its bytes are up to the last that is not zero, and all of them."""

    def __init__(self, *, reserves: bool = True) -> None:
        self.writes: list[tuple[int, int, int]] = []
        self.reserves = reserves

    def allocate(self, fd: int, size: int) -> None:
        if self.reserves:
            super().allocate(fd, size)

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        self.writes.append((offset, len(bytes(data).rstrip(b"\0")), len(data)))
        return super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        pass

    def fsync(self, fd: int) -> None:
        pass


def save(log: wal.WAL, index: int, size: int = 100) -> None:
    log.save(CommitState(index), [Entry(index, b"x" * size)])


def test_zeros_are_ahead_of_each_save_and_written_in_few_of_them(path: Path) -> None:
    """A write begins in zeros that an earlier one left, or brings its own; one in hundreds does."""
    fs = Writes()
    with wal.WAL.create(path, segment_size=SIZE, zero_ahead_bytes=AHEAD, fs=fs) as log:
        for index in range(1, 3000):
            save(log, index)
        saves = fs.writes[:]
    zeroed = 0
    bringing = [(offset, total) for offset, used, total in saves if total - used >= 8]
    for offset, used, total in saves:
        if offset + used > zeroed:
            assert total > used
            assert offset + total - (offset + used) >= AHEAD - 8
        zeroed = max(zeroed, offset + total)
    assert 3 < len(bringing) < 10
    assert len(read(path).entries) == 2999


def test_zeros_end_where_the_reserved_space_ends(path: Path) -> None:
    """A segment does not grow because of them."""
    fs = Writes()
    with wal.WAL.create(path, segment_size=SMALL, zero_ahead_bytes=AHEAD, fs=fs) as log:
        for index in range(1, 10):
            save(log, index)
            assert segments(path)[-1].stat().st_size == SMALL
    assert max(offset + total for offset, _, total in fs.writes[:-1]) == SMALL


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"zero_ahead_bytes": 0}, id="turned off"),
        pytest.param({"sync": False}, id="no syncs that could gain"),
        pytest.param({"fs": Writes(reserves=False)}, id="no space is reserved"),
    ],
)
def test_no_zeros_are_written_without_use(path: Path, options: dict[str, object]) -> None:
    """What a save writes is its frames, to the byte."""
    fs = options.setdefault("fs", Writes())
    assert isinstance(fs, Writes)
    with wal.WAL.create(path, **options) as log:  # type: ignore[arg-type]
        for index in range(1, 20):
            save(log, index)
        assert {total - used for _, used, total in fs.writes} <= set(range(8))


def test_large_saves_bring_no_zeros(path: Path) -> None:
    """All that they write would be written twice; and small ones between them do."""
    fs = Writes()
    with wal.WAL.create(path, zero_ahead_bytes=AHEAD, fs=fs) as log:
        fs.writes.clear()
        for index in range(1, 40, 2):
            save(log, index, AHEAD)
            save(log, index + 1)
        saves = fs.writes[:]
    assert all(total - used < 8 for _, used, total in saves[::2])
    assert any(total - used >= AHEAD - 8 for _, used, total in saves[1::2])


def test_a_log_that_is_opened_writes_its_own_zeros(path: Path) -> None:
    """Whether those behind the end were ever written cannot be seen; a stamp among them is gone."""
    wal.WAL.create(path).close()
    fs = Writes()
    with wal.read_wal(path, zero_ahead_bytes=AHEAD, fs=fs).wal as log:
        save(log, 1)
        save(log, 2)
        frames, zeros = fs.writes[-2:]
    assert frames[2] - frames[1] >= AHEAD - 8
    assert zeros[2] - zeros[1] < 8
    assert len(read(path).entries) == 2


def test_a_negative_number_is_refused(path: Path) -> None:
    """Nothing is made."""
    with pytest.raises(ValueError, match="zero_ahead_bytes"):
        wal.WAL.create(path, zero_ahead_bytes=-1)
    assert not path.exists()


@given(sizes=st.lists(st.integers(0, 5000), max_size=20), ahead=st.integers(0, 20_000), cut=st.integers(0, 100))
def test_what_is_read_does_not_depend_on_zeros(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], ahead: int, cut: int
) -> None:
    """Nor where the end is, nor how a torn write in front of them is repaired."""
    root = tmp_path_factory.mktemp("zeros")
    found = []
    for number, zero_ahead in enumerate((0, ahead)):
        path = root / str(number)
        with wal.WAL.create(path, segment_size=SIZE, zero_ahead_bytes=zero_ahead, fs=Writes()) as log:
            for index, size in enumerate(sizes, 1):
                log.save(None, [Entry(index, b"x" * size)])
        end = wal.verify(path).bytes
        file = os.open(segments(path)[0], os.O_RDWR)
        os.pwrite(file, bytes(4096 * 2), end)  # the stamp: it was not closed
        os.pwrite(file, bytes(min(cut, 8 * len(sizes))), end - min(cut, 8 * len(sizes)))
        os.close(file)
        log, *held = wal.read_wal(path)
        log.close()
        found.append((held, log.repaired and log.repaired.offset, end))
        os.truncate(segments(path)[0], 0)
    assert found[0] == found[-1]


def test_a_disk_that_is_full_for_zeros_stops_the_log(path: Path) -> None:
    """P5: a write that was taken in part is one that failed, whichever part it is."""

    class Full(Writes):
        def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            if len(data) > AHEAD and offset:
                raise OSError(errno.ENOSPC, "no space")
            return super().pwrite(fd, data, offset)

    wal.WAL.create(path).close()
    with wal.read_wal(path, zero_ahead_bytes=AHEAD, fs=Full()).wal as log:
        with pytest.raises(wal.WALFailedError):
            save(log, 1)
        with pytest.raises(wal.WALFailedError):
            save(log, 1)
