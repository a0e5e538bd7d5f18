"""
What type checkers know of the public API. They check this file, and ``test_typed.py`` runs it.

Each function is given the path of a directory that does not exist yet.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, assert_type

import wal
import wal.aio
import wal.cluster
import wal.testing


@dataclass(frozen=True, slots=True)
class Put(wal.LogEntry):
    """An entry of an application's own."""

    index: int
    key: str

    def marshal(self) -> bytes:
        return f"{self.index} {self.key}".encode()

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        index, _, key = data.decode().partition(" ")
        return cls(int(index), key)


class Vote(wal.CommitState):
    """A hard state of an application's own."""


class Place(wal.SnapshotMarker):
    """A snapshot marker of an application's own."""


PUTS = wal.RecordRegistry(entry=Put)
OWN = wal.RecordRegistry(entry=Put, state=Vote, snapshot=Place)


def registries(_: Path) -> None:
    """A registry knows the classes it is made with; without any, it is for those that are registered."""
    assert_type(PUTS, wal.RecordRegistry[Put, wal.CommitState, wal.SnapshotMarker])
    assert_type(OWN, wal.RecordRegistry[Put, Vote, Place])
    assert_type(wal.RecordRegistry(state=Vote), wal.RecordRegistry[wal.Entry, Vote, wal.SnapshotMarker])
    assert_type(wal.RecordRegistry(snapshot=Place), wal.RecordRegistry[wal.Entry, wal.CommitState, Place])
    assert_type(wal.RecordRegistry(), wal.RecordRegistry[wal.LogEntry, wal.HardState, wal.Snapshot])
    assert_type(wal.etcd.registry(), wal.RecordRegistry[wal.etcd.Entry, wal.etcd.HardState, wal.etcd.Snapshot])
    assert_type(OWN.copy(), wal.RecordRegistry[Put, Vote, Place])
    assert_type(OWN.entry, type[Put])
    assert_type(OWN.state, type[Vote])
    assert_type(OWN.snapshot, type[Place])

    registry = wal.RecordRegistry()
    assert_type(registry.register(wal.RecordType.ENTRY, Put), type[Put])

    @registry.register(wal.RecordType.STATE)
    class Decorated(wal.CommitState):
        pass

    assert_type(Decorated(), Decorated)


def default_records(path: Path) -> None:
    """Without a registry, records are what the process has registered: nothing more is known than their bases."""
    with wal.WAL.create(path) as log:
        assert_type(log, wal.WAL[wal.LogEntry, wal.HardState, wal.Snapshot])
        log.save(wal.CommitState(1), [wal.Entry(1, b"one")])
        assert_type(log.submit(None, (wal.Entry(index) for index in (2, 3))), wal.PendingSave)
        assert_type(log.state, wal.HardState)

    log, metadata, state, entries = wal.read_wal(path)
    with log:
        assert_type(metadata, bytes)
        assert_type(state, wal.HardState)
        assert_type(entries, list[wal.LogEntry])
        assert_type(log.entry(1), wal.LogEntry)
    assert_type(wal.WALReader(path), wal.WALReader[wal.LogEntry, wal.HardState, wal.Snapshot])
    assert_type(wal.valid_snapshots(path), list[wal.Snapshot])


def logs(path: Path) -> None:
    """A log takes, and gives back, the classes of its registry."""
    with wal.WAL.create(path, registry=OWN) as log:
        assert_type(log, wal.WAL[Put, Vote, Place])
        log.save(Vote(1), [Put(1, "a")])
        log.save(None, (Put(index, "b") for index in (2, 3)))
        log.save_entry([Put(4, "c")])
        log.save_state(Vote(4))
        log.save_snap(Place(4))
        log.release(Place(4))
        assert_type(log.state, Vote)
        assert_type(log.registry, wal.RecordRegistry[Put, Vote, Place])
        assert_type(log.entry(1), Put)
        assert_type(log.entries(1, 3), list[Put])
        assert_type(log.repaired, wal.RepairReport | None)

    with wal.WAL.open(path, registry=OWN) as log:
        assert_type(log, wal.WAL[Put, Vote, Place])
        contents = log.read_all()
        assert_type(contents, wal.LogContents[Put, Vote])
        assert_type(contents.entries[0].key, str)
        for record in log.replay():
            assert_type(record, wal.LogRecord[Put, Vote, Place])

    opened = wal.read_wal(path, Place(4), registry=OWN)
    with opened.wal:
        assert_type(opened, wal.ReadWAL[Put, Vote, Place])
        assert_type(opened.wal, wal.WAL[Put, Vote, Place])
        assert_type(opened.state, Vote)
        assert_type(opened.entries, list[Put])


def readers(path: Path) -> None:
    """So does a reader, and whoever follows it."""
    with wal.WAL.create(path, registry=OWN) as log:
        log.save(Vote(1), [Put(1, "a")])

    reader = wal.WALReader(path, registry=OWN)
    assert_type(reader, wal.WALReader[Put, Vote, Place])
    assert_type(iter(reader), Iterator[wal.LogRecord[Put, Vote, Place]])
    assert_type(reader.read_all(), wal.LogContents[Put, Vote])
    assert_type(reader.entry(1), Put)
    assert_type(reader.entries(1, 2), list[Put])
    assert_type(wal.valid_snapshots(path, registry=OWN), list[Place])
    assert_type(wal.verify(path, registry=OWN), wal.VerifyReport)
    with reader.follow() as records:
        assert_type(records, wal.Follower[Put, Vote, Place])
        record = next(records)
        assert_type(record, wal.LogRecord[Put, Vote, Place])
        assert_type(record.value, bytes | Put | Vote | Place)
        if isinstance(record.value, Put):
            assert_type(record.value.key, str)


def storages(path: Path) -> None:
    """So does a storage."""
    storage, recovered = wal.open_storage(path, registry=OWN)
    with storage:
        assert_type(storage, wal.FileStorage[Put, Vote, Place])
        assert_type(recovered, wal.Recovered[Put, Vote])
        assert_type(recovered.entries, list[Put])
        assert_type(recovered.snapshot, wal.SnapshotData | None)
        storage.save(Vote(1), [Put(1, "a")])
        storage.save_snap(wal.SnapshotData(1), Place(1))
        assert_type(storage.log, wal.WAL[Put, Vote, Place])
        assert_type(storage.state, Vote)
        assert_type(storage.entry(1), Put)
        assert_type(storage.entries(1, 2), list[Put])

    storage_of_any, recovered_any = wal.open_storage(path.with_name("other"))
    with storage_of_any:
        assert_type(storage_of_any, wal.FileStorage[wal.LogEntry, wal.HardState, wal.Snapshot])
        assert_type(recovered_any, wal.Recovered[wal.LogEntry, wal.HardState])


def on_a_cluster(endpoints: list[str]) -> None:
    """And one on a cluster; it can stand where one in files does."""
    storage, recovered = wal.cluster.open_storage(endpoints, "name", registry=OWN)
    with storage:
        assert_type(storage, wal.cluster.EtcdStorage[Put, Vote, Place])
        assert_type(recovered, wal.Recovered[Put, Vote])
        storage.save(Vote(1), [Put(1, "a")])
        storage.save_snap(wal.SnapshotData(1), Place(1))
        assert_type(storage.submit(None, [Put(2, "b")]), wal.PendingSave)
        assert_type(storage.state, Vote)
        anywhere: wal.Storage[wal.SnapshotData, Put, Vote] = storage
        anywhere.save_entry([Put(3, "c")])
    with wal.cluster.follow(endpoints, "name", registry=OWN) as records:
        assert_type(records, wal.cluster.EtcdFollower[Put, Vote, Place])
        assert_type(next(records), wal.LogRecord[Put, Vote, Place])

    of_any, recovered_any = wal.cluster.open_storage(endpoints, "name")
    with of_any:
        assert_type(of_any, wal.cluster.EtcdStorage[wal.LogEntry, wal.HardState, wal.Snapshot])
        assert_type(recovered_any, wal.Recovered[wal.LogEntry, wal.HardState])


def memory(_: Path) -> None:
    """So does a storage in memory."""
    storage = wal.MemoryStorage(registry=OWN)
    assert_type(storage, wal.MemoryStorage[Put, Vote])
    storage.append([Put(1, "a")])
    storage.set_hard_state(Vote(1))
    assert_type(storage.hard_state, Vote)
    assert_type(storage.entry(1), Put)
    assert_type(storage.entries(1, 2), list[Put])
    assert_type(wal.MemoryStorage(), wal.MemoryStorage[wal.LogEntry, wal.HardState])


async def in_asyncio(path: Path) -> None:
    """So do the same things for asyncio."""
    async with await wal.aio.AsyncWAL.create(path, registry=OWN, segment_size=4096) as log:
        assert_type(log, wal.aio.AsyncWAL[Put, Vote, Place])
        assert_type(log.log, wal.WAL[Put, Vote, Place])
        await assert_type(log.save(Vote(1), [Put(1, "a")]), Coroutine[Any, Any, None])
        await log.save_entry([Put(2, "b")])
        await log.save_state(Vote(2))
        await log.save_snap(Place(2))

    opened = await wal.aio.read_wal(path, registry=OWN, index_entries=True)
    assert_type(opened, wal.aio.AsyncReadWAL[Put, Vote, Place])
    async with opened.wal:
        assert_type(opened.wal, wal.aio.AsyncWAL[Put, Vote, Place])
        assert_type(opened.state, Vote)
        assert_type(opened.entries, list[Put])

    async with wal.aio.follow(wal.WALReader(path, registry=OWN)) as records:
        assert_type(records, wal.aio.AsyncFollower[Put, Vote, Place])
        async for record in records:
            assert_type(record, wal.LogRecord[Put, Vote, Place])
            records.stop()

    async with await wal.aio.AsyncWAL.create(path.with_name("other")) as other:
        assert_type(other, wal.aio.AsyncWAL[wal.LogEntry, wal.HardState, wal.Snapshot])


class Application:
    """Annotations need no type parameters, or some of them."""

    log: wal.WAL
    puts: wal.WAL[Put]
    reader: wal.WALReader
    storage: wal.FileStorage[Put, Vote]
    registry: wal.RecordRegistry
    source: wal.EntrySource
    memory: wal.MemoryStorage
    contents: wal.LogContents
    records: list[wal.LogRecord]
    follower: wal.Follower
    async_log: wal.aio.AsyncWAL

    def __init__(self, log: wal.WAL) -> None:
        self.log = log
        assert_type(self.log, wal.WAL[wal.LogEntry, wal.HardState, wal.Snapshot])

    def of_some_parameters(self) -> None:
        assert_type(self.puts, wal.WAL[Put, wal.HardState, wal.Snapshot])
        assert_type(self.storage, wal.FileStorage[Put, Vote, wal.Snapshot])


def exact_for_any(path: Path) -> None:
    """What is of some classes can stand where what is of any is asked for."""
    with wal.WAL.create(path, registry=OWN) as log:
        Application(log)
        any_log: wal.WAL = log
        puts: wal.WAL[Put] = log
        storage: wal.Storage[Place, Put, Vote] = log
        storage.save(Vote(1), [Put(1, "a")])
        sources: list[wal.EntrySource] = [any_log, puts, log, wal.WALReader(path, registry=OWN)]
        for source in sources:
            assert_type(source.entry(1), wal.LogEntry)
            assert_type(source.entries(1, 2), Sequence[wal.LogEntry])
        exact: wal.EntrySource[Put] = log
        assert_type(exact.entry(1), Put)
    first_of_any(wal.WALReader(path, registry=OWN))
    read_as_any(OWN, path)


def first_of_any(reader: wal.WALReader) -> None:
    with reader.follow() as records:
        assert_type(next(records), wal.LogRecord[wal.LogEntry, wal.HardState, wal.Snapshot])


def read_as_any(registry: wal.RecordRegistry, path: Path) -> None:
    assert_type(wal.WALReader(path, registry=registry), wal.WALReader[wal.LogEntry, wal.HardState, wal.Snapshot])


def protocols(path: Path) -> None:
    """Logs and storages are storages of any records, or of those that they are known to have."""
    with wal.WAL.create(path / "log") as log, wal.open_storage(path / "storage")[0] as file_storage:
        markers: wal.Storage[wal.Snapshot] = log
        snapshots: wal.Storage[wal.SnapshotData] = file_storage
        markers.save(wal.CommitState(1), [wal.Entry(1)])
        snapshots.save_snap(wal.SnapshotData(1))
        sources: list[wal.EntrySource] = [log, file_storage, wal.MemoryStorage(), wal.WALReader(path / "log")]
        assert_type(sources[0].entry(1), wal.LogEntry)
    with wal.open_storage(path / "own", registry=OWN)[0] as own:
        puts: wal.Storage[wal.SnapshotData, Put, Vote] = own
        puts.save(Vote(1), [Put(1, "a")])


def perhaps_a_registry(path: Path, registry: wal.RecordRegistry[Put, Vote, Place] | None = OWN) -> None:
    """An optional registry may be passed on."""
    with wal.WAL.create(path, registry=registry) as log:
        assert_type(log, wal.WAL[Put, Vote, Place])


class Conformance(wal.testing.StorageConformance[wal.SnapshotMarker]):
    """The claims on storages are for those of the default records."""

    def open(self, path: Path) -> tuple[wal.Storage[wal.SnapshotMarker], wal.HardState, Sequence[wal.LogEntry]]:
        if not wal.exists(path):
            wal.WAL.create(path).close()
        log, _, state, entries = wal.read_wal(path)
        return log, state, entries

    def snapshot(self, index: int) -> wal.SnapshotMarker:
        return wal.SnapshotMarker(index)


class ExactConformance(wal.testing.StorageConformance[wal.SnapshotMarker]):
    """Also if these are known to be them."""

    def open(
        self, path: Path
    ) -> tuple[wal.Storage[wal.SnapshotMarker, wal.Entry, wal.CommitState], wal.HardState, Sequence[wal.LogEntry]]:
        return wal.WAL.create(path, registry=wal.RecordRegistry(entry=wal.Entry)), wal.CommitState(), []

    def snapshot(self, index: int) -> wal.SnapshotMarker:
        return wal.SnapshotMarker(index)


async def entries_of(reader: wal.WALReader[Put]) -> AsyncGenerator[Put]:
    """Yield entries as they come."""
    async with wal.aio.follow(reader) as records:
        async for record in records:
            if isinstance(record.value, Put):
                yield record.value


async def in_a_generator(path: Path) -> None:
    """Types go through users' own functions."""
    async with await wal.aio.AsyncWAL.create(path, registry=OWN) as log:
        await log.save_entry([Put(1, "a")])
        async with aclosing(entries_of(wal.WALReader(path, registry=OWN))) as entries:
            async for entry in entries:
                assert_type(entry, Put)
                break
