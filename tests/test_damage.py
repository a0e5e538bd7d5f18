"""
Exhaustive damage to small logs, and every torn form of one large write.

Whatever happens to its bytes, a log gives the same records; or fewer whole saves, where the damage may be a crash; or
a typed error that says where. The logs are read from memory, so that each case is one walk over a few frames.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import wal
from images import HERE, Files, load, read, store
from logs import Frame, frames, segments
from unsynced import UNSYNCED
from wal import CommitState, Entry, LogRecord, RecordType, SnapshotMarker

SECTOR = 512

# ------------------------------------------------------------------------------------------------- sample logs

Step = list[Entry | CommitState | SnapshotMarker]
STEPS: list[Step] = [
    [Entry(1, b"one")],
    [Entry(2, b"two"), Entry(3, b"three"), CommitState(2)],
    [CommitState(3)],
    [SnapshotMarker(2)],
    [Entry(4, bytes(24))],
    [Entry(5, b"five"), Entry(6, b"six"), Entry(7, b"seven", 7), CommitState(5)],
    [Entry(6, b"six again"), Entry(7, b"seven again")],
    [SnapshotMarker(5)],
    [Entry(8)],
    [Entry(9, b"\xff" * 50), CommitState(300)],
    [CommitState(9)],
    [Entry(10, b"ten"), Entry(11, b"eleven"), Entry(12, b"twelve")],
    [SnapshotMarker(9)],
    [Entry(13, b"thirteen"), CommitState(13)],
    [Entry(14, b"fourteen"), Entry(15, b"fifteen")],
    [Entry(16, b"sixteen"), Entry(17, b"seventeen"), CommitState(15)],
]


class Place(NamedTuple):
    """An offset in a segment. Places sort as the bytes of the log do."""

    segment: str
    offset: int


class Sample(NamedTuple):
    """
    An intact log, and what is known of it from the calls that made it.

    Attributes:
        files: Its segments; the last one has a sector of reserved space behind its end.
        records: What a reader yields.
        ends: Where each whole save ends, a head being one too, with the number of records up to there.
        groups: Where each group of saves begins: what was written after a sync of all before it.
        frames: Where each frame begins.
        heads: Where each of those in a segment's head does.
        save_marks: Whether the frames say what belongs together. If not, each stands alone.
    """

    files: Files
    records: list[LogRecord]
    ends: dict[Place, int]
    groups: list[Place]
    frames: list[Place]
    heads: list[Place]
    save_marks: bool

    @property
    def last(self) -> str:
        return max(self.files)

    @property
    def end(self) -> int:
        """Where the last segment's saves end."""
        return max(self.ends).offset

    def head(self, name: str) -> int:
        """Where a segment's head ends."""
        return min(place for place in self.ends if place.segment == name).offset


def sample(path: Path, *, save_marks: bool, segment_size: int, group: int) -> Sample:
    """Make the steps, with a sync after each ``group`` of them, and note what must be there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wal._wal.MIN_SEGMENT_SIZE", 1)  # so small that all bits of several segments can be tried
        with wal.WAL.create(
            path, b"node", segment_size=segment_size, save_marks=save_marks, sync=group == 1, fs=UNSYNCED
        ) as log:
            for number, step in enumerate(STEPS, 1):
                save(log, step)
                if number % group == 0:
                    log.sync()

    files = load(path)
    ends: dict[Place, int] = {}
    groups: list[Place] = []
    places: list[Place] = []
    heads: list[Place] = []
    steps = iter(enumerate(STEPS))
    total = 0
    for file in segments(path):
        walk = iter(frames(file))
        head = [next(walk) for _ in range(3)]  # CRC, METADATA, and the empty marker or the last state
        heads += [Place(file.name, frame.offset) for frame in head]
        places += heads[-3:]
        if total and not save_marks:
            ends[Place(file.name, end_of(head[1]))] = total + 1  # the state, which is known anyway, stands alone
        total += 2
        ends[Place(file.name, end_of(head[2]))] = total
        head_synced = True
        for first in walk:
            number, step = next(steps)
            whole = [first, *(next(walk) for _ in step[1:])]
            assert [frame.data for frame in whole] == [record.marshal() for record in step]
            for frame in whole:
                if not save_marks or (frame is first and (head_synced or number % group == 0)):
                    groups.append(Place(file.name, frame.offset))
                places.append(Place(file.name, frame.offset))
                total += 1
                if not save_marks or frame is whole[-1]:
                    ends[Place(file.name, end_of(frame))] = total
            head_synced = False
    assert next(steps, None) is None
    last = max(files)
    files[last] = files[last][: max(ends).offset].ljust(max(ends).offset + SECTOR, b"\0")
    records, error = read(files)
    assert error is None
    assert len(records) == total
    return Sample(files, records, ends, groups, places, heads, save_marks)


def save(log: wal.WAL, step: Step) -> None:
    first, last = step[0], step[-1]
    if isinstance(first, SnapshotMarker):
        log.save_snap(first)
    else:
        state = last if isinstance(last, CommitState) else None
        log.save(state, [record for record in step if isinstance(record, Entry)])


def end_of(frame: Frame) -> int:
    return frame.offset + frame.length


SAMPLES: dict[str, dict[str, Any]] = {
    "one segment": {"save_marks": True, "segment_size": 4096, "group": 1},
    "three segments": {"save_marks": True, "segment_size": 400, "group": 1},
    "groups of saves": {"save_marks": True, "segment_size": 4096, "group": 4},
    "one segment without marks": {"save_marks": False, "segment_size": 4096, "group": 1},
    "three segments without marks": {"save_marks": False, "segment_size": 400, "group": 1},
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    made = {}
    for name, options in SAMPLES.items():
        made[name] = sample(tmp_path_factory.mktemp("sample") / "log", **options)
        assert len(made[name].files) == (3 if name.startswith("three") else 1)
    return made


@pytest.fixture(params=SAMPLES)
def log(request: pytest.FixtureRequest, samples: dict[str, Sample]) -> Sample:
    return samples[request.param]


def test_a_sample_is_read_as_it_was_made(log: Sample) -> None:
    """The yielded records are those of the steps, behind the heads."""
    behind = [record.value for record in log.records if (record.path.name, record.offset) not in log.heads]
    assert behind == [record for step in STEPS for record in step]
    assert [record.value for record in log.records[:2]] == [b"node", SnapshotMarker(0)]


# ------------------------------------------------------------------------------------------------- the rule


def check(log: Sample, name: str, data: bytes, start: int, stop: int) -> str:
    """
    Read the log with ``data`` in the place of a segment, which was damaged from ``start`` up to ``stop``.

    Returns:
        "same", "cut" or "refused".
    """
    damaged = {**log.files, name: data}
    records, error = read(damaged)
    case = f"{name} from {start} to {stop}: {error!r} after {len(records)} of {len(log.records)} records"

    assert records == log.records[: len(records)], f"a wrong record: {case}"
    if error is not None and not isinstance(error, wal.TornWriteError):
        assert isinstance(error, wal.CorruptionError), case
        assert error.path.parent == HERE, case
        place = Place(error.path.name, error.offset)
        assert 0 <= error.offset <= len(damaged[error.path.name]), case
        assert place >= max((p for p in log.frames if p <= (name, start)), default=place), f"too early: {case}"
        assert error.reason, case
        return "refused"

    end = max((place for place, count in log.ends.items() if count == len(records)), default=None)
    assert end is not None, f"not whole saves: {case}"
    assert end.segment == log.last, f"a segment was left out: {case}"
    assert all(place <= end for place in log.ends if place <= (name, start)), f"cut before the damage: {case}"
    if error is None:
        assert not any(damaged[end.segment][end.offset :]), f"cut without a word: {case}"
    else:
        assert (error.path.name, error.offset) == end, f"another end: {case}"
    if len(records) == len(log.records):
        return "same"
    assert not any(place >= (name, stop) for place in log.groups), f"later groups were cut: {case}"
    assert start >= log.head(name), f"cut in a head: {case}"
    return "cut"


def replaced(data: bytes, start: int, new: bytes) -> bytes:
    return data[:start] + new + data[start + len(new) :]


def places(log: Sample, step: int, beyond: int = 64) -> Iterator[tuple[str, bytes, int]]:
    """Yield each segment with each offset, also a few behind the end of the last one."""
    for name, data in log.files.items():
        size = log.end + beyond if name == log.last else len(data)
        for offset in range(0, size, step):
            yield name, data, offset


# ------------------------------------------------------------------------------------------------- damage


def test_the_samples_have_enough_bits(samples: dict[str, Sample]) -> None:
    """The next test turns over more than 40,000 bits."""
    assert sum(8 for log in samples.values() for _ in places(log, 1)) > 40_000


def test_every_flipped_bit(log: Sample) -> None:
    """P9, F22, F36, F37: No single flipped bit gives a wrong record, loses acknowledged saves, or panics."""
    # Of 10,368 flips in a log of 1,296 bytes, the Go original panics at 205, takes 15 for other records without a
    # word, and would cut acknowledged records at 676.
    outcomes: Counter[str] = Counter()
    for name, data, offset in places(log, 1):
        for bit in range(8):
            flipped = replaced(data, offset, bytes([data[offset] ^ 1 << bit]))
            if not log.save_marks and is_type(log, name, offset):
                outcomes[type_flipped(log, name, flipped, offset)] += 1
            else:
                outcome = check(log, name, flipped, offset, offset + 1)
                outcomes[outcome] += 1
                if (name, offset - 7) in log.frames and 3 <= bit <= 6:
                    assert outcome == "refused"  # a crash loses sectors; it does not alter a save mark alone

    assert outcomes["refused"] > outcomes["same"] > 0  # in paddings and behind the end
    assert outcomes["cut"] > 0  # in the last group
    assert log.save_marks == (outcomes["taken for another"] == 0)


def is_type(log: Sample, name: str, offset: int) -> bool:
    """Tell whether this is the byte behind a frame's ``08``, which says the record's type."""
    return (name, offset - 9) in log.frames


def type_flipped(log: Sample, name: str, data: bytes, offset: int) -> str:
    """
    Check what one flipped bit of a type does where no mark vouches for it.

    The formats of Go have no checksum over the type. A payload that reads as one of the other type is then taken
    for it: a state of one field for an entry. If it does not, the registered class refuses it, or the index does.
    """
    records, error = read({**log.files, name: data})
    good = (
        [(record.path.name, record.offset) for record in log.records].index((name, offset - 9))
        if (error is None or records[: len(log.records)] != log.records[: len(records)])
        else -1
    )
    if error is None:
        assert records[:good] == log.records[:good]
        assert log.files[name][offset] == RecordType.STATE
        assert records[good].type is RecordType.ENTRY
        return "taken for another"
    assert isinstance(error, (wal.CorruptionError, wal.RecordDecodeError))
    return "refused"


@pytest.mark.parametrize("value", [0x00, 0xFF])
def test_every_byte_lost(log: Sample, value: int) -> None:
    """P9: No byte that becomes 00 or FF gives a wrong record or loses acknowledged saves."""
    outcomes = Counter(
        check(log, name, replaced(data, offset, bytes([value])), offset, offset + 1)
        for name, data, offset in places(log, 1)
    )
    assert outcomes["refused"] > outcomes["cut"] > 0


@pytest.mark.parametrize("fill", [0x00, 0xFF, 0xA5])
def test_every_word_lost(log: Sample, fill: int) -> None:
    """P9, F17: No 8 bytes that become something else give a wrong record or lose acknowledged saves."""
    outcomes = Counter(
        check(log, name, replaced(data, offset, bytes([fill]) * 8), offset, offset + 8)
        for name, data, offset in places(log, 8)
    )
    assert outcomes["refused"] > outcomes["cut"] > 0


def test_every_range_zeroed(log: Sample) -> None:
    """P9, F16, F17: No range of zeros, from any word on, is taken for the end if a later group is intact."""
    outcomes: Counter[str] = Counter()
    for name, data, start in places(log, 8, beyond=0):
        for stop in range(start + 8, len(data), 56):
            outcomes[check(log, name, replaced(data, start, bytes(stop - start)), start, stop)] += 1
    assert outcomes["refused"] > 0 < outcomes["cut"]


def test_every_sector_lost_or_misplaced(log: Sample) -> None:
    """F17: A sector that is zeroed, or holds what belongs elsewhere, gives no wrong record."""
    everything = [data[at : at + SECTOR] for data in log.files.values() for at in range(0, len(data) - SECTOR, SECTOR)]
    for name, data, start in places(log, SECTOR, beyond=0):
        for other in [bytes(SECTOR), *everything]:
            stop = min(start + SECTOR, len(data))
            check(log, name, replaced(data, start, other[: stop - start]), start, stop)


def test_every_length_of_file(log: Sample) -> None:
    """R05, R16: A file that ends anywhere gives its whole saves, or is refused where a segment follows."""
    for name, data, size in places(log, 1, beyond=SECTOR):
        outcome = check(log, name, data[:size], size, len(data))
        if name != log.last or size < log.head(name):
            assert outcome == "refused"
        else:
            assert outcome == ("same" if size >= log.end else "cut")
            _, error = read({**log.files, name: data[:size]})
            assert (error is None) == (Place(name, size) in log.ends or size > log.end)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(bytes, id="zeros"),
        pytest.param(lambda n: b"\xa5" * n, id="garbage"),
        pytest.param(lambda n: bytes(n) + b"\x01", id="zeros, then a byte"),
        pytest.param(lambda n: random.Random(n).randbytes(n), id="noise"),
    ],
)
def test_bytes_appended(log: Sample, more: Callable[[int], bytes]) -> None:
    """R02, F16: Bytes behind the end lose nothing; what is not zeros is a torn write, or damage before others."""
    for name, data in log.files.items():
        for length in range(1, 65):
            rest = more(length)
            outcome = check(log, name, data + rest, len(data), len(data) + length)
            assert outcome == ("same" if name == log.last or not any(rest) else "refused")
            if name == log.last:
                behind = replaced(data, log.end, rest)
                assert check(log, name, behind, log.end, log.end + length) == "same"


# ------------------------------------------------------------------------------------------------- on the disk


def test_a_writer_does_what_a_reader_says(log: Sample, path: Path) -> None:
    """P9, P10: ``read_wal`` refuses what a reader refuses, and cuts, keeps and reports exactly its torn tail."""
    numbers = random.Random(1)
    outcomes: Counter[str] = Counter()
    for _ in range(60):
        name = numbers.choice([*log.files, log.last])
        data = log.files[name]
        start = numbers.randrange(len(data))
        stop = min(len(data), start + numbers.choice([1, 1, 8, 100]))
        new = numbers.choice([bytes(stop - start), numbers.randbytes(stop - start), b""])
        damaged = {**log.files, name: replaced(data, start, new) if new else data[:start]}
        store(damaged, path)
        records, error = read(damaged)

        if error is not None and not isinstance(error, wal.TornWriteError):
            with pytest.raises(type(error)) as caught:
                wal.read_wal(path, fs=UNSYNCED)
            assert str(caught.value) == str(error).replace(str(HERE), str(path))
            assert load(path) == damaged
            assert not list(path.glob("*.broken"))
            outcomes["refused"] += 1
            continue

        opened, _, _, entries = wal.read_wal(path, fs=UNSYNCED, save_marks=log.save_marks)
        with opened:
            assert entries == folded(records)
            assert (opened.repaired is None) == (error is None)
            if error is not None:
                assert opened.repaired is not None
                assert opened.repaired.offset == error.offset
                assert opened.repaired.reason == error.reason
                assert opened.repaired.backup is not None
                kept = damaged[log.last][error.offset :].rstrip(b"\0")
                assert opened.repaired.backup.read_bytes() == kept
            more = Entry(opened.last_index + 1, b"more")
            opened.save_entry([more])
        assert wal.WALReader(path).read_all()[2:] == ([*entries, more], None)
        outcomes["cut" if error else "whole"] += 1
    assert outcomes["refused"] > 0 < outcomes["cut"]


def folded(records: list[LogRecord]) -> list[Entry]:
    """Return the entries that no later one replaced."""
    entries: list[Entry] = []
    for record in records:
        if isinstance(record.value, Entry):
            entries[record.value.index - 1 :] = [record.value]
    return entries
