"""
Torn writes: one large save of which a crash leaves any part.

Nine saves were acknowledged before it. Whatever is left of it on the disk, a reader gives the nine, and either the
whole save or nothing of it; and nothing has to be refused.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import wal
from images import HERE, Files, load, read, store
from unsynced import UNSYNCED
from wal import CommitState, Entry, LogRecord

SECTOR, PAGE = 512, 4096


class Batch(NamedTuple):
    """
    A log with nine acknowledged saves, and one more whose bytes are at stake.

    Attributes:
        name: The segment's name.
        before: Its bytes before the last save.
        after: Its bytes after it.
        begin: Where the save begins.
        end: Where it ends.
        acknowledged: The records of the nine saves, with the head's.
        records: Those of all ten.
    """

    name: str
    before: bytes
    after: bytes
    begin: int
    end: int
    acknowledged: list[LogRecord]
    records: list[LogRecord]

    def check(self, data: bytes) -> str:
        """Read the log with these bytes; return "whole", "clean" or "torn"."""
        records, error = read({self.name: data})
        assert records in (self.acknowledged, self.records)
        if error is not None:
            assert isinstance(error, wal.TornWriteError)
            assert error.path == HERE / self.name
            assert error.offset == (self.end if records == self.records else self.begin)
        if records == self.records:
            return "whole"
        return "clean" if error is None else "torn"

    def prefix(self, size: int, fill: bytes = b"") -> bytes:
        """Return what is on the disk if only the first ``size`` bytes of the save and then ``fill`` arrived."""
        data = self.before[: self.begin] + self.after[self.begin : self.begin + size] + fill
        return data.ljust(len(self.before), b"\0")


def batch(path: Path, *, entries: int, size: int, save_marks: bool = True) -> Batch:
    with wal.WAL.create(path, b"node", segment_size=1 << 17, save_marks=save_marks, fs=UNSYNCED) as log:
        for index in range(1, 10):
            log.save(CommitState(index), [Entry(index, b"acknowledged %d" % index)])
        before, begin = load(path), wal.verify(path).bytes
        data = random.Random(size)
        log.save(CommitState(9 + entries), [Entry(10 + n, data.randbytes(size)) for n in range(entries)])
        after, end = load(path), wal.verify(path).bytes
    (name,) = before
    room = end + 2 * PAGE  # of the reserved space, so much is enough
    return Batch(name, before[name][:room], after[name][:room], begin, end, read(before)[0], read(after)[0])


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """A save of sixteen records that lies in thirteen sectors."""
    made = batch(tmp_path_factory.mktemp("torn") / "log", entries=15, size=390)
    assert made.end - made.begin >= 6000
    assert len(range(made.begin // SECTOR, -(-made.end // SECTOR))) == 13
    return made


def sectors(torn: Batch, chosen: int) -> bytes:
    """Return what is on the disk if only some sectors of the save arrived: those whose bit is set."""
    data = bytearray(torn.before)
    for number, at in enumerate(range(torn.begin // SECTOR * SECTOR, torn.end, SECTOR)):
        if chosen >> number & 1:
            data[at : at + SECTOR] = torn.after[at : at + SECTOR]
    return bytes(data)


def noise(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def to_next(multiple: int, place: int) -> int:
    """Return how many bytes are left up to the next multiple."""
    return -place % multiple


FILLS: list[Any] = [
    pytest.param(lambda torn, size: b"", id="zeros"),
    pytest.param(lambda torn, size: noise(to_next(SECTOR, torn.begin + size)), id="garbage to the end of the sector"),
    pytest.param(lambda torn, size: noise(to_next(PAGE, torn.begin + size)), id="garbage to the end of the page"),
    pytest.param(lambda torn, size: b"\xff" * (len(torn.before) - torn.begin - size), id="ones to the end of the file"),
]


def test_every_subset_of_sectors(torn: Batch) -> None:
    """R01, R02, F16, F17: Of 8,192 subsets of thirteen sectors, all are recovered, each to nine saves or to ten."""
    outcomes = Counter(torn.check(sectors(torn, chosen)) for chosen in range(1 << 13))

    assert outcomes == {"whole": 1, "clean": 1, "torn": (1 << 13) - 2}


@pytest.mark.parametrize("fill", FILLS)
def test_every_length_of_a_torn_write(torn: Batch, fill: Callable[[Batch, int], bytes]) -> None:
    """R05, R07, R12: Of more than 6,000 byte prefixes, whatever comes behind them, all are recovered."""
    # The Go original cannot repair 2,137 of 6,233 prefixes with zeros behind them, and 2,227 with garbage.
    outcomes = Counter(torn.check(torn.prefix(size, fill(torn, size))) for size in range(torn.end - torn.begin + 1))

    padding = outcomes["whole"] - 1
    assert 0 <= padding < 8  # what stands in the last record's padding does not matter
    assert outcomes["clean"] <= 1
    assert outcomes["torn"] > 6000


@pytest.mark.parametrize("fill", FILLS)
def test_every_length_of_the_file(torn: Batch, fill: Callable[[Batch, int], bytes]) -> None:
    """R04, R05: The same where no space was reserved, so that the file ends with what arrived."""
    for size in range(0, torn.end - torn.begin + 1, 7):
        data = torn.before[: torn.begin] + torn.after[torn.begin : torn.begin + size] + fill(torn, size)
        torn.check(data)


@pytest.mark.torture
def test_subsets_of_pages_of_a_large_write(tmp_path: Path, effort: Callable[..., int]) -> None:
    """R01: A save of 64 kB over seventeen pages is recovered, whichever of them arrived."""
    large = batch(tmp_path / "log", entries=64, size=1000)
    first, numbers = large.begin // PAGE * PAGE, random.Random(17)
    for _ in range(effort(quick=400, full=20_000, deep=65_536)):
        data = bytearray(large.before)
        for at in range(first, large.end, PAGE):
            data[at : at + PAGE] = numbers.choice(
                [large.before[at : at + PAGE], large.after[at : at + PAGE], large.after[at : at + PAGE]]
            )
        large.check(bytes(data))


def test_a_torn_write_without_marks_is_cut_at_a_record(tmp_path: Path) -> None:
    """R12, P2: In the format of Go a torn save is a prefix of its records: none is lost before it, none invented."""
    unmarked = batch(tmp_path / "log", entries=15, size=390, save_marks=False)
    for size, fill in prefixes(unmarked):
        records, error = read({unmarked.name: unmarked.prefix(size, fill)})
        assert len(unmarked.acknowledged) <= len(records)
        assert records == unmarked.records[: len(records)]
        assert error is None or isinstance(error, wal.TornWriteError)


def prefixes(torn: Batch) -> Iterator[tuple[int, bytes]]:
    for size in range(0, torn.end - torn.begin + 1, 5):
        for fill in (b"", noise(300), b"\xff" * 1000):
            yield size, fill


def test_lost_sectors_of_a_write_without_marks_are_refused_or_cut(tmp_path: Path) -> None:
    """R12, F17: In the format of Go a hole with good frames behind it may be rot: refused, and nothing is changed."""
    unmarked = batch(tmp_path / "log", entries=15, size=390, save_marks=False)
    outcomes: Counter[type | None] = Counter()
    for chosen in range(0, 1 << 13, 31):
        records, error = read({unmarked.name: sectors(unmarked, chosen)})
        assert len(unmarked.acknowledged) <= len(records)
        assert records == unmarked.records[: len(records)]
        outcomes[type(error)] += 1
        assert error is None or isinstance(error, wal.CorruptionError)
    assert outcomes[wal.TornWriteError] > 0
    assert sum(outcomes.values()) > outcomes[wal.TornWriteError] + outcomes[type(None)]


def test_torn_writes_are_repaired_on_the_disk(torn: Batch, path: Path) -> None:
    """R01, R02, R12, F16: After ``read_wal`` the log has the nine saves, or all ten, and goes on without a trace."""
    numbers = random.Random(3)
    images = chain(
        (sectors(torn, numbers.randrange(1 << 13)) for _ in range(150)),
        (torn.prefix(numbers.randrange(7000), noise(numbers.randrange(1000))) for _ in range(150)),
    )
    for data in images:
        files: Files = {torn.name: data}
        _, error = read(files)
        store(files, path)

        opened, metadata, state, entries = wal.read_wal(path, segment_size=1 << 17, fs=UNSYNCED)
        with opened:
            assert metadata == b"node"
            assert entries[:9] == [Entry(index, b"acknowledged %d" % index) for index in range(1, 10)]
            assert (len(entries), state) in [(9, CommitState(9)), (24, CommitState(24))]
            assert (opened.repaired is None) == (error is None)
            # A short save over the place of the torn one: nothing of that must come to light behind it.
            opened.save_entry([Entry(10, b"anew")])
        again = wal.WALReader(path).read_all()
        assert again.tail is None
        assert again.entries == [*entries[:9], Entry(10, b"anew")]


def test_two_torn_writes_one_after_the_other(torn: Batch, path: Path) -> None:
    """R02, R06: A log that crashes again where it had been repaired is repaired again."""
    store({torn.name: torn.prefix(3000, noise(100))}, path)
    with wal.read_wal(path, segment_size=1 << 17, fs=UNSYNCED).wal as opened:
        opened.save_entry([Entry(10, b"second")])
        second = wal.verify(path).bytes
        opened.save_entry([Entry(11 + n, bytes(100)) for n in range(20)])
    data = load(path)[torn.name]
    for size in range(0, 2000, 31):
        store({torn.name: data[: second + size].ljust(len(data), b"\0")}, path)
        with wal.read_wal(path, fs=UNSYNCED).wal as opened:
            assert opened.last_index == 10
            assert opened.repaired is None or opened.repaired.offset == second
        assert [entry.index for entry in wal.WALReader(path).read_all().entries] == list(range(1, 11))
