# SPDX-License-Identifier: Apache-2.0
"""P7: A log that one side holds is closed to the other, as long as it is held and not a moment longer."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import wal
from wal.etcd import HardState, Snapshot

from .exchange import REGISTRY, outcome, read
from .gowal import LOCKED, GoError, GoWAL
from .holder import Holder, numbered
from .model import Save

SMALL = 4096
LAST = 120
SNAPSHOT = Snapshot(index=70, term=1)

OPENINGS: dict[str, Callable[[Path], object]] = {
    "open": lambda path: wal.WAL.open(path, registry=REGISTRY),
    "open at a snapshot": lambda path: wal.WAL.open(path, SNAPSHOT, registry=REGISTRY),
    "read_wal": lambda path: wal.read_wal(path, registry=REGISTRY),
    "repair": wal.repair,
    "forced repair": lambda path: wal.repair(path, force=True),
}
each_opening = pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS)
each_start = pytest.mark.parametrize("start", [None, SNAPSHOT], ids=["at the beginning", "at a snapshot"])


def saves(first: int, last: int) -> Iterator[Save]:
    """Yield saves of entries, large enough for some cuts, with a snapshot's marker where it belongs."""
    for index in range(first, last + 1):
        yield Save(HardState(term=1, vote=1, commit=index), (numbered(index),))
        if index == SNAPSHOT.index:
            yield Save(marker=SNAPSHOT)


def append(log: wal.WAL, some: Iterable[Save]) -> None:
    for save in some:
        if save.marker:
            log.save_snap(save.marker)
        else:
            log.save(save.state, save.entries)


def write(path: Path) -> None:
    """Write a log of several segments, with a snapshot, and close it."""
    with wal.WAL.create(path, b"node", registry=REGISTRY, segment_size=SMALL) as log:
        append(log, saves(1, LAST))
    assert len(names(path)) > 10


def names(path: Path) -> list[str]:
    return sorted(segment.name for segment in path.glob("*.wal"))


def first_indexes(path: Path) -> dict[str, int]:
    return {name: int(name[17:33], 16) for name in names(path)}


def etcd_opens(go: GoWAL, path: Path, start: Snapshot | None = None) -> str:
    """Let etcd open and close a log; return the error, or nothing."""
    try:
        go.open(path, start, segment_size=SMALL)
    except GoError as error:
        return str(error)
    go.close(path)
    return ""


@pytest.fixture
def path(memory: Path) -> Path:
    return memory / "wal"


HOLDINGS: dict[str, Callable[[Path], wal.WAL]] = {
    "opened": lambda path: wal.read_wal(path, registry=REGISTRY, segment_size=SMALL).wal,
    "not read yet": lambda path: wal.WAL.open(path, registry=REGISTRY, segment_size=SMALL),
    "opened at a snapshot": lambda path: wal.read_wal(path, SNAPSHOT, registry=REGISTRY, segment_size=SMALL).wal,
}


# ----------------------------------------------------------------------------------------------------- wal holds


@each_start
@pytest.mark.parametrize("holding", HOLDINGS.values(), ids=HOLDINGS)
def test_etcd_cannot_open_what_wal_holds(
    go: GoWAL, path: Path, holding: Callable[[Path], wal.WAL], start: Snapshot | None
) -> None:
    """It is refused, also again, and can open the log as soon as it is closed."""
    write(path)

    with holding(path):
        assert [etcd_opens(go, path, start) for _ in range(3)] == [LOCKED] * 3
    assert etcd_opens(go, path, start) == ""


def test_etcd_cannot_make_a_log_where_wal_has_one(go: GoWAL, path: Path) -> None:
    """The log is seen, held or not."""
    with wal.WAL.create(path, b"node", registry=REGISTRY):
        with pytest.raises(GoError, match="file already exists"):
            go.create(path, b"other", segment_size=SMALL)
    with pytest.raises(GoError, match="file already exists"):
        go.create(path, b"other", segment_size=SMALL)


def test_a_new_log_is_held_from_its_first_moment(go: GoWAL, path: Path) -> None:
    """Between making and the first save, too."""
    with wal.WAL.create(path, b"node", registry=REGISTRY):
        assert go.lockable(path) == []
        assert etcd_opens(go, path) == LOCKED


def test_etcd_reads_what_wal_holds(go: GoWAL, path: Path) -> None:
    """Reading and verifying take no lock."""
    with wal.WAL.create(path, b"node", registry=REGISTRY, segment_size=SMALL) as log:
        append(log, saves(1, LAST))

        assert go.read(path) == outcome(path)
        assert go.verify(path) == ""
        assert [entry.index for entry in go.read(path).entries] == list(range(1, LAST + 1))


def test_every_segment_of_wal_is_held(go: GoWAL, path: Path) -> None:
    """No lock of any of them is granted to etcd; all are when the log is closed."""
    write(path)

    with wal.read_wal(path, registry=REGISTRY, segment_size=SMALL).wal as log:
        assert go.lockable(path) == []
        append(log, saves(LAST + 1, LAST + 40))
        assert go.lockable(path) == []
    assert go.lockable(path) == names(path)


def test_wal_releases_what_a_snapshot_does_not_need(go: GoWAL, path: Path) -> None:
    """Those segments are free for etcd's purge; the others are not, and so nobody can open the log."""
    write(path)
    indexes = first_indexes(path)
    needed = max(index for index in indexes.values() if index <= SNAPSHOT.index)

    with wal.read_wal(path, registry=REGISTRY, segment_size=SMALL).wal as log:
        log.release(SNAPSHOT)

        assert go.lockable(path) == [name for name, index in indexes.items() if index < needed]
        assert go.lockable(path) != []
        assert etcd_opens(go, path) == LOCKED
        assert etcd_opens(go, path, SNAPSHOT) == LOCKED
        append(log, saves(LAST + 1, LAST + 40))
        assert etcd_opens(go, path, SNAPSHOT) == LOCKED
    assert etcd_opens(go, path) == ""


def waits_for(file: Path) -> bool:
    """Tell whether somebody waits for a lock of this file."""
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return str(file.stat().st_ino) in [fields[-3].rpartition(":")[2] for fields in waiting]


@pytest.mark.skipif(not os.access("/proc/locks", os.R_OK), reason="the kernel does not tell who waits for locks")
def test_a_repair_by_etcd_waits_for_wal(gowal: Path, path: Path) -> None:
    """It begins when the log is closed, and finds all that was saved until then."""
    write(path)
    with GoWAL(gowal) as go:
        with wal.read_wal(path, registry=REGISTRY, segment_size=64_000).wal as log:
            go.send("repair", path)
            while not waits_for(path / names(path)[-1]):
                os.sched_yield()
            append(log, saves(LAST + 1, LAST + 2))
        assert go.answer()["repaired"]
        assert [entry.index for entry in go.read(path).entries] == list(range(1, LAST + 3))


# ---------------------------------------------------------------------------------------------------- etcd holds


def tree(path: Path) -> dict[str, tuple[int, int]]:
    return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in path.glob("*.wal")}


@each_opening
@each_start
def test_wal_cannot_open_what_etcd_holds(
    go: GoWAL, path: Path, opening: Callable[[Path], object], start: Snapshot | None
) -> None:
    """It is refused at once, changes nothing, and disturbs nobody; when etcd closes the log, it is granted."""
    write(path)
    go.open(path, start, segment_size=SMALL)
    before = tree(path)

    for _ in range(3):
        with pytest.raises(wal.WALLockedError):
            opening(path)
    assert tree(path) == before
    go.append(path, saves(LAST + 1, LAST + 40))
    with pytest.raises(wal.WALLockedError):
        opening(path)
    go.close(path)
    opened = wal.read_wal(path, registry=REGISTRY)
    opened.wal.close()
    assert [entry.index for entry in opened.entries] == list(range(1, LAST + 41))


@each_opening
def test_wal_cannot_open_what_etcd_has_just_made(go: GoWAL, path: Path, opening: Callable[[Path], object]) -> None:
    """From its first moment a log of etcd is held, and a second one is not made over it."""
    go.create(path, b"node", segment_size=SMALL)
    go.append(path, saves(1, SNAPSHOT.index))

    with pytest.raises(wal.WALLockedError):
        opening(path)
    with pytest.raises(wal.WALExistsError):
        wal.WAL.create(path, registry=REGISTRY)
    assert outcome(path) == go.read(path)


def test_wal_purges_nothing_that_etcd_holds(go: GoWAL, path: Path) -> None:
    """What etcd releases for a snapshot may go, segment by segment; what it holds stays."""
    write(path)
    all_of_them = names(path)
    go.open(path, segment_size=SMALL)

    assert wal.purge(path, SNAPSHOT, registry=REGISTRY) == []
    go.release(path, SNAPSHOT.index)
    free = go.lockable(path)
    assert free == [name for name in all_of_them if name not in names(path)[len(free) :]] != []
    assert wal.purge(path, SNAPSHOT, registry=REGISTRY) == free
    assert names(path) == all_of_them[len(free) :]
    with pytest.raises(wal.WALLockedError):
        wal.read_wal(path, SNAPSHOT, registry=REGISTRY)
    go.append(path, saves(LAST + 1, LAST + 40))
    go.close(path)
    opened = wal.read_wal(path, SNAPSHOT, registry=REGISTRY)
    opened.wal.close()
    assert [entry.index for entry in opened.entries] == list(range(SNAPSHOT.index + 1, LAST + 41))


# -------------------------------------------------------------------------------------- while the holder goes on


def test_etcd_does_not_get_in_while_wal_cuts(
    go: GoWAL, path: Path, effort: Callable[..., int], count: Callable[..., None]
) -> None:
    """Hundreds of cuts, and attempts all the while: none is granted, and no save is disturbed."""
    write(path)
    with wal.read_wal(path, registry=REGISTRY, segment_size=SMALL).wal as log:
        enough = len(names(path)) + effort(quick=100, full=500, deep=2000)

        def cut() -> None:
            while len(names(path)) < enough:
                append(log, saves(log.last_index + 1, log.last_index + 10))

        thread = threading.Thread(target=cut)
        thread.start()
        tried: Counter[str] = Counter()
        while thread.is_alive():
            tried[etcd_opens(go, path)] += 1
            tried[etcd_opens(go, path, SNAPSHOT)] += 1
        thread.join()
        last = log.last_index

    assert set(tried) == {LOCKED}
    assert [entry.index for entry in go.read(path).entries] == list(range(1, last + 1))
    count(**{"attempts by etcd while wal cut": tried.total()})


def test_wal_does_not_get_in_while_etcd_cuts(
    go: GoWAL, path: Path, effort: Callable[..., int], count: Callable[..., None]
) -> None:
    """
    The same the other way round, though etcd drops the lock of its newest segment for a moment: that of the one before
    is held.
    """
    write(path)
    tried = 0
    last = len(go.open(path, segment_size=SMALL).entries)
    enough = len(names(path)) + effort(quick=30, full=200, deep=1000)
    while len(names(path)) < enough:
        go.append_on(path, saves(last + 1, last + 40))
        for _, _ in zip(range(40), saved := go.acknowledged(), strict=False):
            for opening in OPENINGS.values():
                with pytest.raises(wal.WALLockedError):
                    opening(path)
                tried += 1
        assert next(saved) == 40
        last += 40
    go.close(path)

    assert [entry.index for entry in read(path).entries] == list(range(1, last + 1))
    count(**{"attempts by wal while etcd cut": tried})


def test_of_both_at_once_one_wins(
    go: GoWAL, path: Path, effort: Callable[..., int], count: Callable[..., None]
) -> None:
    """Both open the log at the same moment, many times: one holds it, and the other is told that it is locked."""
    write(path)
    winners: Counter[str] = Counter()
    for _ in range(effort(quick=300, full=2000, deep=20_000)):
        go.send("open", path, segment_size=SMALL)
        mine, log = "", None
        try:
            log = wal.WAL.open(path, registry=REGISTRY)
        except wal.WALLockedError:
            mine = LOCKED
        try:
            go.answer()
            theirs = ""
            go.close(path)
        except GoError as error:
            theirs = str(error)
        if log is not None:
            log.close()
        assert sorted([mine, theirs]) == ["", LOCKED]
        winners["wal" if theirs else "etcd"] += 1

    assert set(winners) == {"wal", "etcd"}
    count(**{f"races for a log, won by {who}": number for who, number in winners.items()})


def test_both_make_a_log_at_once(
    go: GoWAL, memory: Path, effort: Callable[..., int], count: Callable[..., None]
) -> None:
    """
    P7, a limit: etcd looks for a log before it makes one, takes no lock, and then removes what is in its place. So of
    two that make a log at the same moment both may be told that they did. There is one whole log all the same, and it
    is etcd's unless etcd says that it failed.
    """
    outcomes: Counter[str] = Counter()
    for round in range(effort(quick=100, full=1000, deep=10_000)):
        path = memory / str(round)
        go.send("create", path, segment_size=SMALL)
        log = None
        try:
            log = wal.WAL.create(path, registry=REGISTRY, segment_size=SMALL)
            append(log, saves(1, 1))
            mine = "made it"
        except (wal.WALError, OSError):
            mine = "refused"
        try:
            go.answer()
            theirs = "made it"
            go.close(path)
        except GoError:
            theirs = "refused"
        if log is not None:
            log.close()
        entries = read(path).entries
        assert entries in ([], [numbered(1)])
        assert "made it" in (mine, theirs)
        if theirs == "refused":
            assert entries == [numbered(1)]
        elif mine == "refused":
            assert entries == []
        outcomes[f"wal {mine}, etcd {theirs}"] += 1

    count(**{f"logs made at once: {what}": number for what, number in outcomes.items()})


# ------------------------------------------------------------------------------------------- after a kill -9


def test_a_kill_frees_the_log(gowal: Path, path: Path, effort: Callable[..., int], count: Callable[..., None]) -> None:
    """
    Each side is killed in the middle of saving, in turns, on the same log: until then the other is kept out, at once
    after it is let in, and finds every entry that was acknowledged.
    """
    wal.WAL.create(path, b"node", registry=REGISTRY, segment_size=SMALL).close()
    last = kills = 0
    for round in range(effort(quick=5, full=40, deep=400)):
        with Holder(path) as holder, GoWAL(gowal) as go:
            holder.acknowledged()
            assert etcd_opens(go, path) == LOCKED
            for _ in range(round):
                holder.acknowledged()
            last = holder.kill()
            found = go.open(path, segment_size=SMALL)
            assert found.entries == [numbered(index) for index in range(1, len(found.entries) + 1)]
            assert len(found.entries) >= last
            last = len(found.entries)

            with pytest.raises(wal.WALLockedError):
                wal.read_wal(path, registry=REGISTRY)
            go.append_on(path, saves(last + 1, last + 2000))
            acknowledged = 0
            for acknowledged in go.acknowledged():
                if acknowledged == 10 + round:
                    break
            go.process.kill()
            acknowledged = max([acknowledged, *go.acknowledged()])
            opened = wal.read_wal(path, registry=REGISTRY, segment_size=SMALL)
            opened.wal.close()
            assert opened.entries == [numbered(index) for index in range(1, len(opened.entries) + 1)]
            assert len(opened.entries) >= last + acknowledged
            last = len(opened.entries)
            kills += 2

    count(**{"holders killed": kills, "entries acknowledged before a kill": last})
