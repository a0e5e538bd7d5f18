"""
What type checkers refuse. Nobody runs this file.

Each comment is an expected error: a checker complains about one that is not needed.
"""

from __future__ import annotations

from inferred import OWN, Place, Put, Vote

import wal
import wal.aio


def registries() -> None:
    wal.RecordRegistry(entry=Vote)  # type: ignore[type-var]
    wal.RecordRegistry(state=Put)  # type: ignore[type-var]
    wal.RecordRegistry(Put)  # type: ignore[call-overload]
    puts: wal.RecordRegistry[wal.Entry] = OWN  # type: ignore[assignment]
    wal.WAL.create("log", registry=Put)  # type: ignore[arg-type]
    del puts


def saves(log: wal.WAL[Put, Vote, Place], any_log: wal.WAL) -> None:
    log.save(None, [wal.Entry(1)])  # type: ignore[list-item]
    log.save(wal.CommitState(1), None)  # type: ignore[arg-type]
    log.save(Put(1, "a"), None)  # type: ignore[arg-type]
    log.save(None, Put(1, "a"))  # type: ignore[arg-type]
    log.submit(None, [wal.Entry(1)])  # type: ignore[list-item]
    log.save_entry([Vote(1)])  # type: ignore[list-item]
    log.save_state(wal.CommitState(1))  # type: ignore[arg-type]
    log.save_snap(wal.SnapshotMarker(1))  # type: ignore[arg-type]
    any_log.save(None, [b"one"])  # type: ignore[list-item]
    any_log.save_state(wal.Entry(1))  # type: ignore[arg-type]
    puts: wal.WAL[Put] = any_log  # type: ignore[assignment]
    del puts


def reads(reader: wal.WALReader[Put], record: wal.LogRecord[Put]) -> None:
    str(reader.entry(1).value)  # type: ignore[attr-defined]
    str(record.value.key)  # type: ignore[union-attr]
    str(wal.read_wal("log").entries[0].key)  # type: ignore[attr-defined]


def storages(storage: wal.FileStorage[Put, Vote, Place], memory: wal.MemoryStorage[Put, Vote]) -> None:
    storage.save(None, [wal.Entry(1)])  # type: ignore[list-item]
    storage.save_state(wal.CommitState(1))  # type: ignore[arg-type]
    storage.save_snap(Place(1))  # type: ignore[arg-type]
    storage.save_snap(wal.SnapshotData(1), wal.SnapshotMarker(1))  # type: ignore[arg-type]
    memory.append([wal.Entry(1)])  # type: ignore[list-item]
    memory.set_hard_state(wal.CommitState(1))  # type: ignore[arg-type]
    of_entries: wal.Storage[wal.SnapshotData, wal.Entry] = storage  # type: ignore[assignment]
    of_any: wal.Storage[wal.SnapshotData] = storage  # type: ignore[assignment]
    # Nothing checks what is put into memory, so this stands for no other.
    memory_of_any: wal.MemoryStorage = memory  # type: ignore[assignment]
    source: wal.EntrySource[wal.Entry] = storage  # type: ignore[assignment]
    read_only: wal.Storage[wal.Snapshot] = wal.WALReader("log")  # type: ignore[assignment]
    del of_entries, of_any, memory_of_any, source, read_only


async def in_asyncio(log: wal.aio.AsyncWAL[Put, Vote, Place]) -> None:
    await log.save(None, [wal.Entry(1)])  # type: ignore[list-item]
    await log.save_state(wal.CommitState(1))  # type: ignore[arg-type]
    await log.save_snap(wal.SnapshotMarker(1))  # type: ignore[arg-type]
    log.save(None, [Put(1, "a")])  # type: ignore[unused-coroutine]
    await wal.aio.AsyncWAL.create("log", segment_bytes=4096)  # type: ignore[call-arg]
    await wal.aio.AsyncWAL.create("log", segment_size="4096")  # type: ignore[arg-type]
    await wal.aio.AsyncWAL.create("log", index_entries=True)  # type: ignore[call-arg]


def options() -> None:
    wal.WAL.create("log", b"", OWN)  # type: ignore[call-arg]
    wal.WAL.open("log", registry=OWN, index_entries="yes")  # type: ignore[arg-type]
    wal.WALReader("log", 7)  # type: ignore[arg-type]
    wal.purge("log", 7)  # type: ignore[arg-type]
    wal.Entry("1")  # type: ignore[arg-type]
    wal.etcd.Entry(1, 2)  # type: ignore[call-arg]
