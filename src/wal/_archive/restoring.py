# SPDX-License-Identifier: Apache-2.0
"""
Restoring: a directory out of an archive, at its end or at any index.

It is built in a directory beside, under a name of its own, and gets its name when everything in it was checked and is
durable. So there is the whole log or nothing.

Behind the last segment a new one is begun, as behind a cut. So what was sealed stays sealed: damage to it is never
taken for a torn write, and the archive of a log that was restored to its end goes on.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from wal._codec import encode_group
from wal._decoder import Decoder
from wal._errors import CompactedError, CorruptionError, NoSnapshotError, WALExistsError
from wal._files import (
    CREATE,
    OPERATING_SYSTEM,
    READ,
    READ_WRITE,
    File,
    FileSystem,
    make_directories,
    real_path,
    remove_directories,
    sync_directory,
)
from wal._frame import Payload, RecordType
from wal._names import SegmentName, select
from wal._progress import Progress
from wal._reader import verify
from wal._records import DEFAULT_REGISTRY, RecordRegistry
from wal._segments import list_segments
from wal._snapshotter import Snapshotter

from .errors import ArchiveNotFoundError
from .manifest import SegmentObject, SnapshotObject
from .objects import ObjectStore, open_objects
from .reading import Archive, Counted, open_archive
from .target import Cut, Target
from .walking import SealedSegment

__all__ = ["RestoreReport", "restore"]

_CRC, _METADATA, _STATE, _SNAPSHOT = (
    RecordType.CRC.value,
    RecordType.METADATA.value,
    RecordType.STATE.value,
    RecordType.SNAPSHOT.value,
)


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """
    What was restored.

    Attributes:
        path: The directory.
        last_index: The log's last index now.
        snapshot: The index of the snapshot from which a storage is recovered; ``None`` if from the log alone.
        segments: How many segments were restored, without the new one at the end.
        bytes: How many bytes were read from the archive.
        orphans: The objects that the manifest does not name, and that were not looked at; see ``ArchiveVerifyReport``.
    """

    path: Path
    last_index: int
    snapshot: int | None
    segments: int
    bytes: int
    orphans: tuple[str, ...]


def restore(
    store: str | os.PathLike[str] | ObjectStore,
    path: str | os.PathLike[str],
    *,
    index: int | None = None,
    registry: RecordRegistry[Any, Any, Any] | None = None,
    progress: Progress | None = None,
    fs: FileSystem = OPERATING_SYSTEM,
) -> RestoreReport:
    """
    Make a log's directory, or a storage's, out of an archive.

    When this returns, the directory is durable, and everything in it was checked: each object's digest, the log's own
    chain of checksums, the snapshot's checksum, and then once more what is on the disk. If it raises, or the machine
    stops in the middle, there is nothing under this name.

    A storage is restored from the newest snapshot that it would be recovered from, and the segments from there on; a
    log alone with all its segments. Without ``index`` that is all that is archived. With it, entry ``index`` is the
    last one: the log is what it was before it was told of anything beyond, with the last state that was saved by then
    and commits no more than ``index``. Such a log goes on otherwise than its archive, so archive it to a new place.

    Args:
        store: As for ``Archiver``.
        path: The directory, which must not be there. Missing parents are made.
        index: The index to go back to, at least 1.
        registry: The record classes, which are needed with ``index`` alone; by default the process-wide ones.
        progress: Called with ``(bytes_done, bytes_total)`` after each object. What it raises ends the call.
        fs: The file system to write to.

    Raises:
        WALExistsError: There is something under this name.
        ArchiveNotFoundError: There is no archive, or nothing in it yet.
        ArchiveDamagedError: An object is missing, or is not what was uploaded.
        CompactedError: What is archived begins behind the index, or no snapshot in front of it was archived.
        UnavailableError: It ends in front of the index; or the entry was overruled, or covered by a snapshot.
        NoSnapshotError: The archive does not begin with the log's beginning, and has no snapshot.
        RecordDecodeError: The registry is not the one that the log was written with.
        ArchiveStoreError: The store did not answer, or refused.
    """
    if index is not None and index < 1:
        raise ValueError(f"index must be at least 1, not {index}")
    target = real_path(path)
    archive = open_archive(open_objects(store))
    if not archive.manifest.segments:
        raise ArchiveNotFoundError(archive.objects.place, "nothing is in this archive yet: no segment was sealed")
    with _under_construction(fs, target) as directory:
        building = _Building(archive, fs, directory, registry or DEFAULT_REGISTRY, progress)
        restored = building.to_the_end() if index is None else building.to(index)
        orphans = archive.orphans()
    return RestoreReport(
        path=target,
        last_index=restored.last_index,
        snapshot=None if restored.snapshot is None else restored.snapshot.index,
        segments=restored.segments,
        bytes=building.bytes,
        orphans=orphans,
    )


@contextmanager
def _under_construction(fs: FileSystem, target: Path) -> Iterator[Path]:
    """Give a directory to build in, which gets the target's name at the end; it vanishes if that is not reached."""
    _check_that_it_is_free(fs, target)
    directory = target.with_name(f".{target.name}.{secrets.token_hex(8)}.restoring")
    made = make_directories(fs, directory)
    try:
        yield directory
        _check_that_it_is_free(fs, target)
        fs.rename(directory, target)
    except BaseException:
        _remove(fs, directory)
        remove_directories(fs, made)
        raise
    sync_directory(fs, target.parent)


def _check_that_it_is_free(fs: FileSystem, target: Path) -> None:
    with suppress(FileNotFoundError):
        if target.name in fs.listdir(target.parent):
            raise WALExistsError(target, "there is something under this name already; restore to a new one")


def _remove(fs: FileSystem, path: Path) -> None:
    """Remove a directory and all that is in it, as far as the system still allows to."""
    with suppress(OSError):
        for name in fs.listdir(path):
            if fs.is_directory(path / name):
                _remove(fs, path / name)
            else:
                fs.unlink(path / name)
        fs.rmdir(path)


class _Restored(NamedTuple):
    last_index: int
    snapshot: SnapshotObject | None
    segments: int


class _Start(NamedTuple):
    """Where to begin: a snapshot, or the archive's beginning, and the segments from there on."""

    snapshot: SnapshotObject | None
    segments: tuple[SegmentObject, ...]


class _Building:
    """Builds the content of one directory."""

    def __init__(
        self,
        archive: Archive,
        fs: FileSystem,
        directory: Path,
        registry: RecordRegistry[Any, Any, Any],
        progress: Progress | None,
    ) -> None:
        self._archive = archive
        self._manifest = archive.manifest
        self._fs = fs
        self._log = directory / "wal" if self._manifest.storage else directory
        self._snapshots = directory / "snap" if self._manifest.storage else None
        self._registry = registry
        self._progress = progress
        self.bytes = 0
        for made in (self._log, self._snapshots):
            if made is not None and made != directory:
                make_directories(fs, made)

    # ------------------------------------------------------------------------------------------- to the end

    def to_the_end(self) -> _Restored:
        """Build all that is archived."""
        start = self._start_at_the_end()
        counted = self._counted(start)
        metadata, state = b"", None
        for held in start.segments:
            segment = self._fetch(held, counted)
            for run in segment.runs():
                for _, (type, data, _) in run.others():
                    if type == _METADATA:
                        metadata = data
                    elif type == _STATE:
                        state = data
            self._archive.check_walked(held, segment)
            self._write(self._log / held.name, segment.data)
        last = start.segments[-1]
        self._begin_next(last.parsed, last.crc_after, last.last_index, metadata, state)
        self._add_snapshot(start.snapshot, counted)
        decoder = Decoder(self._fs, self._log, list_segments(self._fs, self._log))
        for _ in decoder:
            pass
        if decoder.tail is not None:
            raise decoder.tail
        return _Restored(last.last_index, start.snapshot, len(start.segments))

    def _start_at_the_end(self) -> _Start:
        committed = self._manifest.segments[-1].committed
        for start in self._starts():
            if committed is None or start.snapshot is None or start.snapshot.index <= committed:
                return start
        raise NoSnapshotError(
            f"{self._archive.objects.place}: the archive does not begin with the log's beginning, and has no snapshot"
        )

    def _starts(self) -> Iterator[_Start]:
        """Yield where one could begin, the latest first."""
        segments = self._manifest.segments
        names = [held.parsed for held in segments]
        for snapshot in sorted(self._manifest.snapshots, key=lambda held: held.index, reverse=True):
            first = None if snapshot.database else select(names, snapshot.index)
            if first is not None:
                first = min(first, snapshot.segment - names[0].sequence)  # so that its marker is met
                yield _Start(snapshot, segments[first:])
        if names[0].sequence == 0 or not self._manifest.storage:
            yield _Start(None, segments)

    # ------------------------------------------------------------------------------------------ to an index

    def to(self, index: int) -> _Restored:
        """Build the log as it was when entry ``index`` was the last one."""
        for start in self._starts():
            if start.snapshot is None or start.snapshot.index <= index:
                restored = self._try(index, start)
                if restored is not None:
                    return restored
        raise CompactedError(
            index,
            f"{self._archive.objects.place}: the archive does not begin with the log's beginning, and has no snapshot"
            f" that was there at entry {index}",
        )

    def _try(self, index: int, start: _Start) -> _Restored | None:
        """Build it from a snapshot, or from the beginning; ``None`` if the log did not have that snapshot by then."""
        counted = self._counted(start)
        target = Target(index, self._registry)
        number = -1
        for number, held in enumerate(start.segments):
            segment = self._fetch(held, counted)
            target.walk(number, segment)
            self._archive.check_walked(held, segment)
            self._write(self._log / held.name, segment.data)
            behind = start.segments[number + 1 :]
            if target.passed and all(s.lowest_index is None or s.lowest_index > index for s in behind):
                break  # nothing there changes anything up to the index
        cut = target.outcome()
        if start.snapshot is not None and cut.committed is not None and start.snapshot.index > cut.committed:
            self._remove_behind(None)
            return None
        last, crc = self._cut(cut, start, number)
        self._remove_behind(last)
        first = start.segments[0]
        head = next(self._written(first).runs())
        self._begin_next(last, crc, index, head.values[1], cut.state)
        self._add_snapshot(start.snapshot, counted)
        report = verify(self._log, registry=self._registry, fs=self._fs)
        if report.tail is not None or report.last_index != index:
            raise CorruptionError(self._log, 0, f"the log that was restored to {index} is wrong: {report}")
        return _Restored(index, start.snapshot, last.sequence - first.parsed.sequence + 1)

    def _cut(self, cut: Cut, start: _Start, number: int) -> tuple[SegmentName, int]:
        """Cut the log, and write what belongs behind the cut; return the last segment and the chain at its end."""
        held = start.segments[number]
        offset, crc = held.bytes, held.crc_after
        records: list[Payload] = []
        if cut.place is not None:
            held = start.segments[cut.place.segment]
            segment = self._written(held)
            position = segment.before(cut.place.offset)
            if position.offset:
                assert position.crc is not None, "what was walked has a chain"
                offset, crc = position.offset, position.crc
                records = [
                    (type, data)
                    for run in segment.runs()
                    for type, data, at in run
                    if offset <= at < cut.place.offset and type not in (_CRC, _METADATA)
                ]
            else:  # in its head, which repeats the state before
                held = start.segments[cut.place.segment - 1]
                offset, crc = held.bytes, held.crc_after
        records += [(_SNAPSHOT, marker) for marker in cut.markers]
        if start.snapshot is not None and start.snapshot.index not in cut.known:
            records.append((_SNAPSHOT, bytes.fromhex(start.snapshot.marker)))  # it came later, and is as true before
        with File(self._fs, self._log / held.name, READ_WRITE) as file:
            self._fs.truncate(file.fd, offset)
            if records:
                frames, crc = encode_group([records], crc, synced=True, save_marks=True)
                file.write(frames, offset)
            self._fs.fsync(file.fd)
        return held.parsed, crc

    def _remove_behind(self, last: SegmentName | None) -> None:
        for name in list_segments(self._fs, self._log):
            if last is None or name > last:
                self._fs.unlink(self._log / str(name))

    # -------------------------------------------------------------------------------------------- its parts

    def _counted(self, start: _Start) -> Counted:
        total = sum(held.bytes for held in start.segments)
        return Counted(total + sum(held.bytes for held in self._files_of(start.snapshot)), self._progress)

    def _files_of(self, snapshot: SnapshotObject | None) -> list[SnapshotObject]:
        """Return a snapshot, and its database if it has one."""
        return [held for held in self._manifest.snapshots if snapshot is not None and held.index == snapshot.index]

    def _fetch(self, held: SegmentObject, counted: Counted) -> SealedSegment:
        segment = self._archive.segment(held)
        self.bytes += held.bytes
        counted.add(held.bytes)
        return segment

    def _written(self, held: SegmentObject) -> SealedSegment:
        """Return a segment as it was written here, and not cut yet."""
        path = self._log / held.name
        with File(self._fs, path, READ) as file:
            return SealedSegment(path, held.parsed, file.read(0, held.bytes), held.crc_before)

    def _begin_next(self, last: SegmentName, crc: int, last_index: int, metadata: bytes, state: bytes | None) -> None:
        """Begin the segment behind the last one, as a cut does."""
        head: list[Payload] = [(_CRC, b""), (_METADATA, metadata)]
        if state is not None:
            head.append((_STATE, state))
        frames, _ = encode_group([head], crc, synced=True, save_marks=True)
        self._write(self._log / str(SegmentName(last.sequence + 1, last_index + 1)), frames)
        sync_directory(self._fs, self._log)

    def _add_snapshot(self, snapshot: SnapshotObject | None, counted: Counted) -> None:
        if self._snapshots is None:
            return
        for held in self._files_of(snapshot):
            self._write(self._snapshots / held.name, self._archive.snapshot(held))
            self.bytes += held.bytes
            counted.add(held.bytes)
        sync_directory(self._fs, self._snapshots)
        if snapshot is not None:
            Snapshotter(self._snapshots, fs=self._fs).load()  # raises if the disk gives back something else

    def _write(self, path: Path, data: bytes) -> None:
        with File(self._fs, path, CREATE) as file:
            file.write(data, 0)
            self._fs.fsync(file.fd)
