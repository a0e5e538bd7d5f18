# SPDX-License-Identifier: Apache-2.0
"""The log of a real etcd server: read beside it and after it was killed, and written for it to go on with."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import wal
from wal.etcd import Entry, HardState, Snapshot

from .exchange import REGISTRY, read
from .gowal import GoWAL
from .model import Contents, difference
from .server import Client, Server, Work, raft_request

SMALL, LARGE = 300, 5_000_000
"""Lengths of values. Some dozen large ones fill a segment."""


def tree(path: Path) -> dict[str, tuple[int, int]]:
    return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in path.iterdir()}


def clients_of(server: Server, count: int) -> list[Client]:
    return [Client(server, f"client-{number}") for number in range(count)]


def missing(entries: list[Entry], clients: list[Client]) -> list[bytes]:
    """Return what was acknowledged, and is not in the entries in each client's order."""
    everything = b"\0".join(entry.data for entry in entries)
    missing = []
    for client in clients:
        at = 0
        for request in client.acknowledged:
            found = everything.find(request, at)
            if found < 0:
                missing.append(request)
            else:
                at = found + 1
    return missing


def read_in_every_way(path: Path, go: GoWAL, scratch: Path) -> Contents:
    """
    Read a log that nobody holds by both sides, from its beginning and from each of its snapshots, without touching it
    and opened for writing, on a copy. All must agree. Return what it holds.
    """
    before = tree(path)
    markers = go.snapshots(path)
    assert wal.valid_snapshots(path, registry=REGISTRY) == markers
    starts = [None, *markers[1:]]
    found = {start: read(path, start) for start in starts}
    for start in starts:
        assert difference(found[start], go.outcome(path, start)) is None
        assert go.verify(path, start) == ""
        wal.verify(path, start, registry=REGISTRY)
    assert tree(path) == before

    copy = scratch / "copy"
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("*.tmp"))
    for start in starts:
        opened = wal.read_wal(copy, start, registry=REGISTRY)
        opened.wal.close()
        assert difference(Contents(opened.metadata, *opened[2:]), found[start]) is None
    assert difference(go.open(copy), found[None]) is None
    go.close(copy)
    shutil.rmtree(copy)
    return found[None]


@pytest.mark.parametrize("longest", [SMALL, LARGE], ids=["small values", "large values"])
def test_what_etcd_acknowledged_before_a_kill_is_read(
    etcd_program: str,
    go: GoWAL,
    tmp_path: Path,
    memory: Path,
    longest: int,
    effort: Callable[..., int],
    count: Callable[..., None],
) -> None:
    """
    etcd is killed in the middle of writing, again and again. Each time both sides read the same in every way there is,
    every request that was acknowledged until then is among it, and etcd goes on with it.
    """
    large = longest == LARGE
    servers, kills = effort(quick=1, full=8, deep=80), 5
    if large:
        servers, kills = effort(quick=1, full=2, deep=8), effort(quick=2, full=6, deep=6)
    times = random.Random(longest)
    for number in range(servers):
        server = Server(etcd_program, tmp_path / f"etcd-{number}", snapshot_count=20 if large else 100)
        clients = clients_of(server, 4)
        torn = 0
        for round in range(kills):
            server.start()
            with Work(server, clients, seed=round, longest=longest) as work:
                work.wait_for(times.randint(8, 12) if large else times.randint(1, 200))
                work.go_on(times.uniform(0, 0.05))
            contents = read_in_every_way(server.log, go, memory)
            assert missing(contents.entries, clients) == []
            assert [entry.index for entry in contents.entries] == list(range(1, len(contents.entries) + 1))
            torn += wal.verify(server.log, registry=REGISTRY).tail is not None

        report = wal.verify(server.log, registry=REGISTRY)
        markers = len(go.snapshots(server.log)) - 1
        assert markers > 0
        assert report.segments > (large and kills > 2)
        count(
            **{
                "kills of an etcd server": kills,
                "of them that left a torn end": torn,
                "requests acknowledged by etcd, all found": sum(len(client.acknowledged) for client in clients),
                "records of its logs": report.records,
                "segments of its logs": report.segments,
                "snapshots in its logs": markers,
            }
        )
        shutil.rmtree(server.data)


OPENINGS: dict[str, Callable[[Path], object]] = {
    "open": lambda path: wal.WAL.open(path, registry=REGISTRY),
    "read_wal": lambda path: wal.read_wal(path, registry=REGISTRY),
    "repair": wal.repair,
    "forced repair": lambda path: wal.repair(path, force=True),
}


def test_the_log_of_a_living_etcd_is_read_and_not_written(
    etcd_program: str, tmp_path: Path, effort: Callable[..., int], count: Callable[..., None]
) -> None:
    """
    P7, P8: Beside a writing etcd each read finds what was acknowledged before it began, and what the read before it
    found; all that opens for writing is refused, and etcd does not notice.
    """
    reads = torn = grown = 0
    for round in range(effort(quick=1, full=10, deep=100)):
        server = Server(etcd_program, tmp_path / f"etcd-{round}", snapshot_count=50)
        clients = clients_of(server, 4)
        server.start()
        with Work(server, clients, seed=round, longest=SMALL) as work:
            work.wait_for(60)
            earlier: list[Entry] = []
            for opening in 5 * list(OPENINGS.values()):
                before = [Client(server, client.name, client.acknowledged.copy()) for client in clients]
                reader = wal.WALReader(server.log, registry=REGISTRY)
                entries = [record.value for record in reader if isinstance(record.value, Entry)]
                assert missing(entries, before) == []
                assert entries[: len(earlier)] == earlier
                assert wal.verify(server.log, registry=REGISTRY).entries >= len(entries)
                newest = wal.valid_snapshots(server.log, registry=REGISTRY)[-1]
                behind = read(server.log, newest).entries
                assert read(server.log).entries[newest.index :][: len(behind)] == behind
                with pytest.raises(wal.WALLockedError):
                    opening(server.log)
                reads += 1
                torn += reader.tail is not None
                grown += len(entries) > len(earlier)
                earlier = entries
            with pytest.raises(wal.WALExistsError):
                wal.WAL.create(server.log, registry=REGISTRY)
            assert newest.index > 0
            assert wal.purge(server.log, newest, registry=REGISTRY) == []
            work.wait_for(work.done + 10)
        entries = read(server.log).entries
        assert missing(entries, clients) == []
        assert entries[: len(earlier)] == earlier

    assert grown > reads // 2
    count(**{"reads beside a writing etcd": reads, "of them that met half a write": torn})


# --------------------------------------------------------------------------- etcd goes on with what we wrote


def append_puts(server: Server, puts: dict[bytes, bytes], rng: random.Random, *, save_marks: bool) -> None:
    """Append entries to an etcd's log that put these keys, and say that they are committed."""
    newest = wal.valid_snapshots(server.log, registry=REGISTRY)[-1]
    opened = wal.read_wal(server.log, newest, registry=REGISTRY, save_marks=save_marks)
    with opened.wal as log:
        assert isinstance(opened.state, HardState)
        term, vote = opened.state.term, opened.state.vote
        left = list(puts.items())
        while left:
            group = [left.pop(0) for _ in range(min(len(left), rng.randint(1, 4)))]
            entries = [
                Entry(term=term, index=index, data=raft_request(rng.getrandbits(63), key, value))
                for index, (key, value) in enumerate(group, log.last_index + 1)
            ]
            log.save(HardState(term=term, vote=vote, commit=entries[-1].index), entries)


def test_etcd_goes_on_with_what_wal_appended(
    etcd_program: str, go: GoWAL, tmp_path: Path, memory: Path, effort: Callable[..., int], count: Callable[..., None]
) -> None:
    """
    etcd and this library write one member's log in turns, etcd killed each time. etcd takes the entries that it finds
    for its own: it serves the keys that they put, and what it served before.
    """
    server = Server(etcd_program, tmp_path / "etcd", snapshot_count=50)
    clients = clients_of(server, 2)
    rng = random.Random(5)
    puts: dict[bytes, bytes] = {}
    turns = effort(quick=3, full=20, deep=200)
    for turn in range(turns):
        server.start()
        with closing(Client(server, "asks")) as client:
            assert {key: client.get(key) for key in puts} == puts
        with Work(server, clients, seed=turn, longest=SMALL) as work:
            work.wait_for(rng.randint(1, 60))
        new = {f"wal-{turn}-{number}".encode(): rng.randbytes(rng.randint(1, 200)) for number in range(20)}
        append_puts(server, new, rng, save_marks=turn % 2 == 0)
        puts |= new
        assert missing(read_in_every_way(server.log, go, memory).entries, clients) == []

    count(**{"turns of etcd and wal on one member's log": turns, "keys put by wal, all served by etcd": len(puts)})


def test_etcd_recovers_from_a_save_of_wal_that_was_torn(
    etcd_program: str, tmp_path: Path, effort: Callable[..., int], count: Callable[..., None]
) -> None:
    """
    A save of ours that a crash cut off anywhere does not keep etcd from starting, or from serving what was saved before
    it. (Of the torn save etcd takes over the entries that are whole.)
    """
    server = Server(etcd_program, tmp_path / "etcd", snapshot_count=50)
    clients = clients_of(server, 2)
    rng = random.Random(6)
    puts: dict[bytes, bytes] = {}
    turns = effort(quick=2, full=10, deep=100)
    for turn in range(turns):
        server.start()
        with Work(server, clients, seed=turn, longest=SMALL) as work:
            work.wait_for(10)
        whole = {f"whole-{turn}-{number}".encode(): rng.randbytes(100) for number in range(3)}
        append_puts(server, whole, rng, save_marks=True)
        puts |= whole
        last = max(server.log.glob("*.wal"))
        begin = wal.verify(server.log, registry=REGISTRY).bytes
        append_puts(
            server, {f"torn-{turn}-{number}".encode(): rng.randbytes(700) for number in range(4)}, rng, save_marks=True
        )
        end = wal.verify(server.log, registry=REGISTRY).bytes
        with last.open("r+b") as file:
            file.truncate(rng.randrange(begin, end))
        with server, closing(Client(server, "asks")) as client:
            assert {key: client.get(key) for key in puts} == puts

    assert missing(read(server.log).entries, clients) == []
    count(**{"torn saves of wal that etcd recovered from": turns})


def test_etcd_runs_on_a_log_that_wal_wrote_from_the_first_byte(
    etcd_program: str, go: GoWAL, tmp_path: Path, memory: Path, count: Callable[..., None]
) -> None:
    """A member's log is written anew, record by record, in small segments with save marks: etcd serves what it had."""
    server = Server(etcd_program, tmp_path / "etcd", snapshot_count=50)
    clients = clients_of(server, 2)
    server.start()
    with closing(Client(server, "asks")) as client:
        client.put(b"before", b"by etcd")
    with Work(server, clients, seed=0, longest=SMALL) as work:
        work.wait_for(300)

    contents = read(server.log)
    records = list(wal.WALReader(server.log, registry=REGISTRY))
    ours = server.log.with_name("ours")
    with wal.WAL.create(ours, contents.metadata, registry=REGISTRY, segment_size=4096) as log:
        for record in records:
            if isinstance(record.value, Entry):
                log.save_entry([record.value])
            elif isinstance(record.value, HardState):
                log.save_state(record.value)
            elif isinstance(record.value, Snapshot) and record.value.index:
                log.save_snap(record.value)
    shutil.rmtree(server.log)
    ours.rename(server.log)

    segments = wal.verify(server.log, registry=REGISTRY).segments
    assert segments > 5
    assert difference(read_in_every_way(server.log, go, memory), contents) is None
    with server, closing(Client(server, "asks")) as client:
        assert client.get(b"before") == b"by etcd"
        client.put(b"after", b"by etcd")
    with server, closing(Client(server, "asks")) as client:
        assert client.get(b"after") == b"by etcd"
    assert missing(read_in_every_way(server.log, go, memory).entries, clients) == []
    count(**{"segments that wal wrote for a member": segments})
