"""Scenes of a log's life, step by step, and what is held after each step: for disks and kernels that fail in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import wal
from damage import overwrite, unstamp
from logs import SMALL
from wal import CommitState, Entry, Retention, SnapshotData, SnapshotMarker
from wal._files import OPERATING_SYSTEM


@dataclass(frozen=True)
class Held:
    """What is read from a log or a storage."""

    state: wal.HardState = CommitState()  # noqa: RUF009 - nobody changes it
    entries: tuple[wal.LogEntry, ...] = ()
    snapshot: int = 0
    """The index of the newest snapshot."""

    def and_saved(self, committed: int, *entries: Entry) -> Held:
        kept = tuple(entry for entry in self.entries if not entries or entry.index < entries[0].index)
        return replace(self, state=CommitState(committed), entries=kept + entries)


@dataclass(frozen=True)
class Save:
    """A save of a state and entries."""

    committed: int
    entries: tuple[Entry, ...]

    def do(self, target: Target) -> None:
        target.save(CommitState(self.committed), self.entries)

    def done(self, held: Held) -> Held:
        return held.and_saved(self.committed, *self.entries)


@dataclass(frozen=True)
class Snap:
    """A snapshot: its marker, and in a storage its file as well."""

    index: int

    def do(self, target: Target) -> None:
        if isinstance(target, wal.WAL):
            target.save_snap(SnapshotMarker(self.index))
        else:
            target.save_snap(snapshot(self.index))

    def done(self, held: Held) -> Held:
        return replace(held, snapshot=self.index)


@dataclass(frozen=True)
class Release:
    """What a snapshot makes superfluous goes."""

    index: int

    def do(self, target: Target) -> None:
        target.release(SnapshotMarker(self.index))

    def done(self, held: Held) -> Held:
        return held


@dataclass(frozen=True)
class Sync:
    """Everything becomes durable."""

    def do(self, target: Target) -> None:
        target.sync()

    def done(self, held: Held) -> Held:
        return held


Step = Save | Snap | Release | Sync
Target = wal.WAL | wal.FileStorage


def snapshot(index: int) -> SnapshotData:
    return SnapshotData(index, b"the state at %d" % index)


def save(first: int, *sizes: int) -> Save:
    """A save of entries of these sizes from an index on; the state commits all of them."""
    entries = tuple(Entry(index, b"%d" % (index % 10) * size) for index, size in enumerate(sizes, first))
    return Save(first + len(sizes) - 1, entries)


STEPS: tuple[Step, ...] = (
    save(1, 10),
    save(2, 1000, 2000, 1500),
    save(5, 20),  # in the second segment
    Snap(4),
    save(6, 4000),
    save(6, 10, 20),  # in the third, and in the place of another
    Sync(),
    Snap(7),
    save(8, 2500),
    save(9, 3000),
    Release(7),
    save(10, 700),  # in the fourth
    save(11, 5000),
    Snap(11),
    save(12, 1),  # in the fifth
    Release(11),
    save(13, 1),
)


def held_after(steps: int) -> Held:
    """Return what is there when so many of the steps are done."""
    held = Held()
    for step in STEPS[:steps]:
        held = step.done(held)
    return held


class Log:
    """A log, opened and written to."""

    def __init__(self, *, sync: bool = True) -> None:
        self.sync = sync

    def prepare(self, path: Path) -> None:
        wal.WAL.create(path, b"node", segment_size=SMALL).close()

    def open(self, path: Path, fs: wal.FileSystem = OPERATING_SYSTEM) -> Target:
        return wal.read_wal(path, segment_size=SMALL, sync=self.sync, fs=fs).wal

    def reopened(self, path: Path) -> Held:
        """Open it again as its owner would, and return what it holds; it can then be written to."""
        log, metadata, state, entries = wal.read_wal(path, segment_size=SMALL)
        with log:
            markers = [record.value.index for record in log.replay() if isinstance(record.value, wal.Snapshot)]
            assert metadata == b"node"
            log.save_entry([Entry(log.last_index + 1, b"goes on")])
        assert wal.WALReader(path).read_all().entries[:-1] == entries
        return Held(state, tuple(entries), max(markers))


class NewLog(Log):
    """A log that is made, and written to."""

    def prepare(self, path: Path) -> None:
        pass

    def open(self, path: Path, fs: wal.FileSystem = OPERATING_SYSTEM) -> Target:
        return wal.WAL.create(path, b"node", segment_size=SMALL, fs=fs)

    def reopened(self, path: Path) -> Held:
        if not wal.exists(path):
            super().prepare(path)
        return super().reopened(path)


class TornLog(Log):
    """A log that ends in a torn write, and beside it the segment that its killed writer was preparing."""

    def prepare(self, path: Path) -> None:
        super().prepare(path)
        (segment,) = path.iterdir()
        unstamp(segment)
        overwrite(segment, wal.verify(path).bytes, TORN)
        (path / f"{1:016x}-{1:016x}.wal.tmp").write_bytes(b"half a head")

    def reopened(self, path: Path) -> Held:
        held = super().reopened(path)
        kept = [file.read_bytes() for file in path.glob("*.broken")]
        assert TORN in kept, "P10: what a repair cuts is kept"
        return held


TORN = b"\xff" * 40


class Storage:
    """A log with its snapshots, which also purges."""

    def prepare(self, path: Path) -> None:
        self.open(path).close()

    def open(self, path: Path, fs: wal.FileSystem = OPERATING_SYSTEM) -> Target:
        return wal.open_storage(path, b"node", segment_size=SMALL, retention=Retention(snapshots=1), fs=fs)[0]

    def reopened(self, path: Path) -> Held:
        storage, recovered = wal.open_storage(path, b"node", segment_size=SMALL)
        with storage:
            storage.save_entry([Entry(storage.last_index + 1, b"goes on")])
        found = recovered.snapshot
        assert found is None or found == snapshot(found.index)
        return Held(recovered.state, tuple(recovered.entries), found.index if found else 0)


class NewStorage(Storage):
    """A storage that is made, and written to."""

    def prepare(self, path: Path) -> None:
        pass


Scene = Log | Storage
SCENES: dict[str, Scene] = {
    "log": Log(),
    "log without sync": Log(sync=False),
    "new log": NewLog(),
    "torn log": TornLog(),
    "storage": Storage(),
    "new storage": NewStorage(),
}


def as_read(scene: Scene, held: Held) -> Held:
    """Return what a reopened log or storage shows of what is there: a storage leaves out what its snapshot covers."""
    if isinstance(scene, Storage):
        return replace(held, entries=tuple(entry for entry in held.entries if entry.index > held.snapshot))
    return held
