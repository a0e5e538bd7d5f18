"""
Make the inputs that fuzzing begins with: ``python fuzz/seeds.py``. They are in the repository as ``corpus/*/seed-*``.

They are small logs and snapshots as the library writes them, and as the Go original and etcd do. What fuzzing has
found stands beside them under other names.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import wal
from archive import FIRST, pack
from crashes import TOP, SimulatedDisk
from wal import CommitState, Entry, SnapshotData, SnapshotMarker

__all__ = ["CORPUS", "seeds"]

CORPUS = Path(__file__).resolve().parent / "corpus"
DATA = Path(__file__).resolve().parents[1] / "tests" / "data"

MOST_BYTES = 12_000


def shortened(segment: bytes) -> bytes:
    """Return a segment with only a little of the space that is reserved in it."""
    used = len(segment.rstrip(b"\0"))
    return segment[: used + -used % 8 + 64]


def content(disk: SimulatedDisk) -> dict[str, bytes]:
    """Return the segments of the only log of a disk."""
    tree = disk.files().items()
    return {PurePosixPath(name).name: shortened(data) for name, data in tree if data is not None}


def logs() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield logs in all forms, each with a name."""
    options: list[tuple[str, dict[str, Any]]] = [
        ("", {}),
        (" without marks", {"save_marks": False}),
        (" without sync", {"sync": False}),
    ]
    for name, option in options:
        disk = SimulatedDisk()
        with wal.WAL.create(TOP / "log", b"node", segment_size=4096, fs=disk, **option) as log:
            log.save(CommitState(1), [Entry(1, b"one"), Entry(2, b"two", 2)])
            log.save_entry([Entry(3)])
            log.save_snap(SnapshotMarker(2))
            log.save(CommitState(3), [Entry(2, bytes(20)), Entry(3, b"\xff" * 30)])
            small = content(disk)
        yield f"log{name}", small
    yield from torn(small)
    disk = SimulatedDisk()
    with wal.WAL.create(TOP / "log", fs=disk, segment_size=4096):
        yield "empty log", content(disk)
    yield "segments", segments()
    disk = SimulatedDisk()
    with wal.WAL.create(TOP / "log", b"etcd", fs=disk, registry=wal.etcd.registry(), segment_size=4096) as log:
        log.save(wal.etcd.HardState(term=1, vote=7, commit=1), [wal.etcd.Entry(term=1, index=1, data=b"one")])
        log.save_snap(wal.etcd.Snapshot(index=1, term=1, conf_state=b"members"))
        yield "records of etcd", content(disk)
    disk = SimulatedDisk()
    with wal.WAL.create(TOP / "log", fs=disk, segment_size=4096) as log:
        log.save_snap(SnapshotMarker(2**64 - 4))
        log.save(CommitState(2**64 - 3), [Entry(2**64 - 3), Entry(2**64 - 2)])
        yield "greatest indexes", content(disk)
    yield "nothing", {FIRST: b""}
    yield "not a segment", {"0-0.wal": b"", "lost+found": b"", f"{FIRST}.tmp": b"\0" * 8}


def torn(files: dict[str, bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield what crashes leave of a log of which the last save is not synced."""
    ((name, data),) = files.items()
    used = len(data.rstrip(b"\0"))
    yield "half a frame", {name: data[: used - 20]}
    yield "half a save", {name: data[: used - 100] + bytes(200)}
    yield "a hole in the last save", {name: data[: used - 120] + bytes(32) + data[used - 88 :]}
    yield "damage before a sync", {name: data[:96] + b"\xff" + data[97:]}


def segments() -> dict[str, bytes]:
    """Return a log of several segments, of which the oldest was purged, with a backup beside them."""
    disk = SimulatedDisk()
    with wal.WAL.create(TOP / "log", b"node", segment_size=4096, fs=disk) as log:
        for index in range(1, 8):
            log.save(CommitState(index), [Entry(index, bytes([index]) * 1500)])
            if index % 2:
                log.save_snap(SnapshotMarker(index))
        log.release(SnapshotMarker(5))
        wal.purge(TOP / "log", SnapshotMarker(5), fs=disk)
        return content(disk) | {f"{FIRST}.{64:016x}.broken": b"cut"}


def go_logs() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the smallest of the directories that Go programs left."""
    for archive in sorted(DATA.glob("*/dirs.tar.xz")):
        found: dict[str, dict[str, bytes]] = {}
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None and member.name.endswith((".wal", ".snap")):
                    path = PurePosixPath(member.name)
                    data = file.read()
                    if path.suffix == ".wal":
                        data = shortened(data)
                    found.setdefault(str(path.parent), {})[path.name] = data
        for directory, files in sorted(found.items()):
            if sum(map(len, files.values())) <= MOST_BYTES:
                yield f"{archive.parent.name} {directory.replace('/', ' ')}", files


def snapshots() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield directories of snapshots."""
    disk = SimulatedDisk()
    snapshotter = wal.Snapshotter(TOP / "snap", fs=disk)
    snapshotter.save(SnapshotData(1))
    snapshotter.save(SnapshotData(300, b"state", b"members"))
    snapshotter.save(SnapshotData(2**64 - 1, bytes(40)))
    files = {name.removeprefix("snap/"): data for name, data in disk.files().items() if data is not None}
    yield "three snapshots", files
    newest = max(files)
    yield "the newest is damaged", files | {newest: files[newest][:-1] + b"x"}
    yield "the newest is empty", files | {newest: b""}
    yield "another name", {f"{301:016x}.snap": files[f"{300:016x}.snap"]}
    yield "zeros written out", {f"{1:016x}.snap": bytes.fromhex("08 9dc9f8c20c 12 06 0801 1200 1a00")}


def records() -> Iterator[tuple[str, bytes]]:
    """Yield records of all classes; the number of the class comes first."""
    for name, number, record in [
        ("entry", 0, wal.Entry(300, b"data", 2)),
        ("state", 1, wal.CommitState(2**64 - 1)),
        ("marker", 2, wal.SnapshotMarker(7)),
        ("entry of etcd", 3, wal.etcd.Entry(term=1, index=2**32, data=b"data")),
        ("state of etcd", 4, wal.etcd.HardState(term=3, vote=2**63, commit=4)),
        ("marker of etcd", 5, wal.etcd.Snapshot(index=4, term=3, conf_state=b"\x08\x01")),
    ]:
        yield name, bytes((number,)) + record.marshal()


def seeds() -> Iterator[tuple[str, bytes]]:
    """Yield the path of each input below the corpus, and its bytes."""
    for name, data in _seeds():
        yield name.replace(" ", "-"), data


def _seeds() -> Iterator[tuple[str, bytes]]:
    all_logs = [*logs(), *(made for made in go_logs() if "snap" not in made[0])]
    for name, files in all_logs:
        yield f"directory/seed {name}", pack(files)
        yield f"repair/seed {name}", pack(files)
        yield f"frames/seed {name}", files[max(files)]
    for name, files in [*snapshots(), *(made for made in go_logs() if "snap" in made[0])]:
        yield f"snapshot/seed {name}", pack(files)
    for name, data in records():
        yield f"records/seed {name}", data


if __name__ == "__main__":
    for old in CORPUS.glob("*/seed-*"):
        old.unlink()
    for name, data in seeds():
        path = CORPUS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
