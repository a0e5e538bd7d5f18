# SPDX-License-Identifier: Apache-2.0
"""P15: Byte by byte this library writes what etcd writes; and where the two are known to differ, this is how."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import wal
from wal.etcd import Entry, HardState, Snapshot

from .exchange import REGISTRY, outcome, read
from .gowal import GoError, GoWAL
from .model import Contents, Model, Save, difference

DATA = Path(__file__).parent.parent / "tests" / "data"
LARGE_SEGMENT = 1 << 22
SMALL = 4096


def write(path: Path, saves: list[Save], *, segment_size: int = SMALL, save_marks: bool = True) -> Path:
    with wal.WAL.create(path, b"node", registry=REGISTRY, segment_size=segment_size, save_marks=save_marks) as log:
        for save in saves:
            if save.marker:
                log.save_snap(save.marker)
            else:
                log.save(save.state, save.entries)
    return path


def frames(path: Path) -> Iterator[bytes]:
    """Yield the frames of a log of one segment."""
    [segment] = path.glob("*.wal")
    data, at = segment.read_bytes(), 0
    while at < len(data) and (size := int.from_bytes(data[at : at + 7], "little")):
        end = at + 8 + size + -size % 8
        yield data[at:end]
        at = end


def without_mark(frame: bytes) -> bytes:
    return frame[:7] + bytes((frame[7] & 0x87,)) + frame[8:]


def test_the_same_saves_give_the_same_bytes(
    go: GoWAL, memory: Path, effort: Callable[..., int], count: Callable[..., None]
) -> None:
    """Behind the first frame a log without marks has etcd's bytes; one with marks differs in those four bits alone."""
    logs = effort(quick=50, full=500, deep=5000)
    compared = 0
    for number in range(logs):
        rng = random.Random(number)
        saves = [
            # Empty data may be a field in etcd's frame, and never are in ours.
            replace(save, entries=tuple(replace(entry, data=entry.data or b"-") for entry in save.entries))
            for save in Model(b"").next_saves(rng, 20)
        ]
        theirs, plain, marked = (memory / f"{number}-{name}" for name in ("etcd", "plain", "marked"))
        go.create(theirs, b"node", segment_size=LARGE_SEGMENT)
        go.append(theirs, saves)
        go.close(theirs)
        write(plain, saves, segment_size=LARGE_SEGMENT, save_marks=False)
        write(marked, saves, segment_size=LARGE_SEGMENT)

        assert list(frames(plain))[1:] == list(frames(theirs))[1:]
        assert [without_mark(frame) for frame in frames(marked)] == list(frames(plain))
        compared += len(list(frames(plain)))
        for path in (theirs, plain, marked):
            next(path.glob("*.wal")).unlink()

    count(**{"frames equal byte by byte": compared})


def test_both_sides_read_the_log_of_an_old_member(go: GoWAL, tmp_path: Path) -> None:
    """The log of an etcd that was killed long ago, which other tests compare with what was noted then."""
    with tarfile.open(DATA / "etcd" / "dirs.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    path = tmp_path / "etcd" / "member" / "wal"

    markers = go.snapshots(path)
    assert len(markers) > 1
    assert markers == wal.valid_snapshots(path, registry=REGISTRY)
    for start in (None, *markers[1:]):
        assert difference(read(path, start), go.read(path, start)) is None
    assert len(read(path).entries) > 10


# ------------------------------------------------------------------------------------------------------- edges


def test_the_greatest_numbers_are_exchanged(go: GoWAL, memory: Path) -> None:
    """Terms, votes and indexes up to 2**64 - 1."""
    term, index = 2**64 - 1, 2**64 - 20
    path = write(
        memory / "log",
        [
            Save(HardState(term=term, vote=term, commit=index)),
            Save(marker=Snapshot(index=index, term=term)),
            *(Save(entries=(Entry(term=term, index=index + n, type=2, data=bytes(3000)),)) for n in range(1, 6)),
        ],
    )

    start = Snapshot(index=index, term=term)
    assert len(read(path, start).entries) == 5
    assert difference(read(path, start), go.read(path, start)) is None
    assert len(list(path.glob("*.wal"))) > 2


def test_etcd_reads_the_longest_record_that_is_written_by_default(go: GoWAL, memory: Path) -> None:
    """A byte more is refused by us. (etcd's own limit is a little higher; it writes records that it cannot read.)"""
    longest = 10_000_000 - len(Entry(term=1, index=1, data=bytes(10_000_000)).marshal()) + 10_000_000
    path = memory / "log"
    with wal.WAL.create(path, b"node", registry=REGISTRY) as log:
        log.save(None, [Entry(term=1, index=1, data=bytes(longest))])
        with pytest.raises(wal.EntryTooLargeError):
            log.save(None, [Entry(term=1, index=2, data=bytes(longest + 1))])

    assert difference(read(path), go.read(path)) is None

    with wal.read_wal(path, registry=REGISTRY, max_record_bytes=20_000_000).wal as log:
        log.save(None, [Entry(term=1, index=2, data=bytes(11_000_000))])
    with pytest.raises(GoError, match="max entry size limit exceeded"):
        go.read(path)
    assert len(read(path).entries) == 2


# ------------------------------------------------------------------------------------------ known differences


def entry(index: int, term: int = 1) -> Save:
    return Save(entries=(Entry(term=term, index=index, data=b"data"),))


def marker(index: int) -> Save:
    return Save(marker=Snapshot(index=index, term=1))


def committed(index: int) -> Save:
    return Save(HardState(term=1, vote=1, commit=index))


def test_without_a_state_etcd_lists_no_snapshot(go: GoWAL, memory: Path) -> None:
    """It takes a log without any state for one that commits nothing; we take it for one that does not use states."""
    path = write(memory / "log", [entry(1), marker(1)])

    assert [snapshot.index for snapshot in go.snapshots(path)] == [0]
    assert [snapshot.index for snapshot in wal.valid_snapshots(path, registry=REGISTRY)] == [0, 1]


def test_etcd_compares_the_term_of_a_snapshot(go: GoWAL, memory: Path) -> None:
    """We know a snapshot by its index."""
    path = write(memory / "log", [entry(1), marker(1), entry(2), committed(1)])

    assert go.outcome(path, Snapshot(index=1, term=7)) == "wal: snapshot mismatch"
    assert len(read(path, Snapshot(index=1, term=7)).entries) == 1


def test_etcd_opens_a_log_at_a_snapshot_that_it_does_not_have(go: GoWAL, memory: Path) -> None:
    """Reading, it says that there is none, as we do; writing, it forgets to."""
    path = write(memory / "log", [entry(1), entry(2), committed(2)])
    unknown = Snapshot(index=1, term=1)

    assert go.outcome(path, unknown) == outcome(path, unknown) == "no snapshot"
    assert len(go.open(path, unknown).entries) == 1
    go.close(path)
    with pytest.raises(wal.SnapshotNotFoundError):
        wal.read_wal(path, unknown, registry=REGISTRY)


def test_etcd_gives_back_what_was_overruled_below_the_snapshot(go: GoWAL, memory: Path) -> None:
    """P19: An entry below the snapshot overrules those behind it, too. etcd does not look at it, we do."""
    path = write(memory / "log", [entry(1), entry(2), marker(2), entry(3), entry(4), entry(2, term=2), committed(2)])
    start = Snapshot(index=2, term=1)

    assert [entry.index for entry in read(path).entries] == [1, 2]
    assert difference(read(path), go.read(path)) is None
    assert read(path, start).entries == []
    assert [(entry.index, entry.term) for entry in go.read(path, start).entries] == [(3, 1), (4, 1)]


def test_etcd_names_a_segment_wrongly_if_no_entry_follows_a_snapshot(go: GoWAL, memory: Path) -> None:
    """
    etcd that was opened at a snapshot from elsewhere, with no entry behind it, names its next segment after an older
    entry. Neither side finds the snapshot then; we say so also when opening for writing.
    """
    path = memory / "log"
    start = Snapshot(index=20, term=1)
    go.create(path, b"node", segment_size=SMALL)
    go.append(path, [entry(1), committed(1), marker(20)])
    go.close(path)
    go.open(path, start, segment_size=SMALL)
    go.append(path, [Save(HardState(term=1, vote=vote, commit=20)) for vote in range(400)])
    go.append(path, [entry(21)])
    go.close(path)

    assert [int(name.name[17:33], 16) for name in sorted(path.glob("*.wal"))][:3] == [0, 2, 2]
    assert go.outcome(path, start) == outcome(path, start) == "no snapshot"
    with pytest.raises(wal.SnapshotNotFoundError):
        wal.read_wal(path, start, registry=REGISTRY)


def test_etcd_does_not_repeat_a_state_that_it_has_read(go: GoWAL, memory: Path) -> None:
    """
    Its segments begin with the state, but not those that it cuts after opening, until it saves another one. Who begins
    to read there, at a snapshot beyond what was committed, finds no state. That is so for both sides.
    """
    path = memory / "log"
    go.create(path, b"node", segment_size=SMALL)
    go.append(path, [entry(1), committed(1)])
    go.close(path)
    go.open(path, segment_size=SMALL)
    go.append(path, [Save(entries=(Entry(term=1, index=2, data=bytes(5000)),)), entry(3), entry(4), marker(4)])
    go.close(path)

    start = Snapshot(index=4, term=1)
    assert read(path).state == HardState(term=1, vote=1, commit=1)
    assert read(path, start) == go.read(path, start) == Contents(b"node", HardState(), [])
