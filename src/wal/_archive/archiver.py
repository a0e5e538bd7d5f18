# SPDX-License-Identifier: Apache-2.0
"""
The archiver: uploads what is sealed, in the order of the log, and names it in the next manifest.

The order of things is what makes it safe. An object is there before a manifest names it; the manifest is confirmed to
be the newest before anybody is told that something is archived; and only then may a purge remove it. Wherever a crash
or a lost answer ends this, the next run finds out what is there: an object that exists already is read back, and is as
good as uploaded if it has the very bytes.

A snapshot is uploaded with the segment that has its marker. So each snapshot in the archive is known to the archived
log, and no marker that a power cut takes back was ever believed.
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wal._errors import CorruptionError, FencedError, WALClosedError, WALUsageError
from wal._files import OPERATING_SYSTEM, FileSystem
from wal._names import SegmentName
from wal._progress import Progress
from wal._records import RecordRegistry
from wal._snapshotter import decode_named_snapshot

from .errors import ArchiveConflictError
from .manifest import Manifest, Owner, SegmentObject, SnapshotObject, digest_of
from .objects import Objects, ObjectStore, open_objects
from .ownership import advance, fenced_by, newest_manifest, overlooked_manifest, take_over
from .source import Source
from .walking import SealedSegment, contents_of

__all__ = ["ArchiveReport", "Archiver"]

_SEGMENTS_PER_MANIFEST = 16
"""A manifest lists all segments, so one for each would be many bytes when a long log is archived for the first time."""


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """
    What one run of an archiver has done.

    Attributes:
        segments: The names of the segments that are new in the archive.
        snapshots: The names of the snapshot files that are.
        bytes: How many bytes they have.
        adopted: The objects among them that were there already, from a run that was interrupted, with the very bytes.
        damaged: Snapshots that were not uploaded because they are damaged.
        last_index: The log's last index at the end of all that is archived; 0 if nothing is.
    """

    segments: tuple[str, ...]
    snapshots: tuple[str, ...]
    bytes: int
    adopted: tuple[str, ...]
    damaged: tuple[CorruptionError, ...]
    last_index: int


class Archiver:
    """
    Uploads the sealed segments of a log, and the snapshots of a storage, to an object store.

    To make one takes over the archive: when this returns, every archiver that had it before is fenced, and fails with
    ``FencedError`` at its next manifest. It works from outside, beside the log's writer, in its process or in another,
    and changes nothing in the log's directory. Call ``run`` whenever there may be something new. Methods may be called
    from any thread; runs take place one after the other. It is a context manager that closes itself.

    Args:
        path: The log's directory, or that of a storage.
        store: A URL (``s3://bucket/path``, ``gs://…``, ``az://…``, ``file:///…``), a local directory, or a store of
            obstore. Credentials come from the environment, as obstore has it.
        registry: The record classes; by default the process-wide ones.
        fs: The file system to read from.

    Attributes:
        orphans: The objects that were found in the archive and that no manifest names: what an interrupted run has
            left. They are adopted when their turn comes, if they have the very bytes.

    Raises:
        WALNotFoundError: There is no log.
        ArchiveConflictError: The archive is that of another log, or of another course of this one. It was not taken
            over.
        ArchiveDamagedError: The newest manifest is damaged, or gone.
        ArchiveStoreError: The store did not answer, or refused.
        FencedError: Somebody else took over at the same moment.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        store: str | os.PathLike[str] | ObjectStore,
        *,
        registry: RecordRegistry[Any, Any, Any] | None = None,
        fs: FileSystem = OPERATING_SYSTEM,
    ) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._fenced: FencedError | None = None
        self._source = Source(path, registry, fs)
        self._objects: Objects = open_objects(store)
        self._owner = Owner(platform.node(), os.getpid(), secrets.token_hex(16))
        self.orphans: tuple[str, ...] = ()
        self._manifest = take_over(self._objects, self._owner, self._following)

    # ------------------------------------------------------------------------------------------ take over

    def _following(self, found: Manifest | None) -> Manifest:
        """Return the manifest with which this archiver takes over."""
        there = self._objects.uploaded()
        if found is None:
            found = overlooked_manifest(self._objects, there)
        digest, storage = digest_of(self._source.metadata), self._source.snapshots is not None
        if found is None:
            return Manifest(1, 1, self._owner, storage, digest)
        self.orphans = tuple(sorted(there - found.objects))
        if found.metadata_sha256 != digest:
            raise self._conflict("the archive is of a log with other metadata")
        if found.storage != storage:
            raise self._conflict(f"the archive is of a {'storage' if found.storage else 'log without snapshots'}")
        if found.segments:
            self._check_that_it_goes_on(found.segments[-1])
        return replace(found, number=found.number + 1, epoch=found.epoch + 1, owner=self._owner)

    def _check_that_it_goes_on(self, newest: SegmentObject) -> None:
        """Raise if the log does not go on from the newest archived segment."""
        names = self._source.names()
        sequence = newest.parsed.sequence
        same = next((name for name in names if name.sequence == sequence), None)
        if same is not None:
            if not self._source.is_same(same, newest):
                raise self._conflict(f"{newest.name} in the archive is not the segment {same} of this log")
        elif names[-1].sequence < sequence:
            raise self._conflict(f"the archive has {newest.name}, and the log ends in front of it, with {names[-1]}")
        elif names[0].sequence > sequence + 1:
            raise self._gap(newest, names[0])
        elif self._source.crc_before() != newest.crc_after:
            raise self._conflict(f"segment {names[0]} of this log does not follow {newest.name} in the archive")

    def _conflict(self, reason: str) -> ArchiveConflictError:
        return ArchiveConflictError(self._objects.place, f"{reason}; archive this log to a new place")

    def _gap(self, newest: SegmentObject, first: SegmentName) -> ArchiveConflictError:
        return self._conflict(
            f"the log begins with {first}, and the archive ends with {newest.name}: what is between was purged before"
            " it was archived"
        )

    # ------------------------------------------------------------------------------------------------ run

    def run(self, *, progress: Progress | None = None) -> ArchiveReport:
        """
        Upload everything that is sealed and not in the archive yet.

        When this returns, all of it is in the archive, durably, named by a manifest that counts. If it raises, what
        was uploaded so far is found by the next run, of this archiver or of another one. If nothing is new, no request
        is made.

        Args:
            progress: Called with ``(bytes_done, bytes_total)`` after each segment and snapshot. What it raises ends the
                run.

        Raises:
            CorruptionError: A segment is damaged; it was not uploaded, and nothing behind it was.
            RecordDecodeError: The registry is not the one that the log was written with.
            ArchiveConflictError: The log does not go on as the archive does.
            ArchiveStoreError: The store did not answer, or refused. Run it again.
            FencedError: Another archiver has taken over. This one has stopped for good.
            WALClosedError: It is closed.
        """
        with self._lock:
            if self._closed:
                raise WALClosedError("the archiver is closed")
            if self._fenced is not None:
                raise FencedError(self._fenced.reason)
            try:
                return self._run_locked(progress)
            except FencedError as error:
                self._fenced = error
                raise

    def _run_locked(self, progress: Progress | None) -> ArchiveReport:
        before = self._manifest
        batch = _Batch(progress)
        while names := self._sealed_and_new():
            self._source.sync()
            batch.expect(sum(map(self._source.size, names)))
            self._upload(names[:_SEGMENTS_PER_MANIFEST], batch)
        while late := list(self._upload_late_databases(batch)):
            self._name([], late)
        after = self._manifest
        segments, snapshots = after.segments[len(before.segments) :], after.snapshots[len(before.snapshots) :]
        return ArchiveReport(
            segments=tuple(segment.name for segment in segments),
            snapshots=tuple(snapshot.name for snapshot in snapshots),
            bytes=after.total_bytes - before.total_bytes,
            adopted=tuple(batch.adopted),
            damaged=tuple(batch.damaged),
            last_index=after.last_index,
        )

    def _sealed_and_new(self) -> list[SegmentName]:
        sealed = self._source.names()
        archived = self._manifest.segments
        if not archived:
            return sealed[:-1]
        newest = archived[-1]
        if sealed[0].sequence > newest.parsed.sequence + 1:
            raise self._gap(newest, sealed[0])
        return [name for name in sealed[:-1] if name.sequence > newest.parsed.sequence]

    def _upload(self, names: list[SegmentName], batch: _Batch) -> None:
        """
        Upload segments, each with its snapshots, and create the manifest that names them.

        If one of them is wrong, those in front of it are named all the same.
        """
        segments: list[SegmentObject] = []
        snapshots: list[SnapshotObject] = []
        try:
            self._upload_each(names, segments, snapshots, batch)
        except (CorruptionError, WALUsageError):
            self._name(segments, snapshots)
            raise
        self._name(segments, snapshots)

    def _name(self, segments: list[SegmentObject], snapshots: list[SnapshotObject]) -> None:
        if segments or snapshots:
            self._manifest = advance(self._objects, self._manifest.extended(tuple(segments), tuple(snapshots)))

    def _upload_each(
        self, names: list[SegmentName], segments: list[SegmentObject], snapshots: list[SnapshotObject], batch: _Batch
    ) -> None:
        following = dict(pairwise(self._source.names()))
        for name in names:
            newest = (*self._manifest.segments, *segments)[-1:]
            try:
                read = self._source.segment(name, None)
            except FileNotFoundError:
                if name in self._source.names():
                    raise
                break  # purged since it was listed
            if name not in following:
                break
            segment, markers = self._upload_segment(read, following[name], newest[0] if newest else None, batch)
            known = {held.name for held in (*self._manifest.snapshots, *snapshots)}
            snapshots += self._upload_snapshots(name, markers, known, batch)
            segments.append(segment)

    def _upload_segment(
        self, segment: SealedSegment, following: SegmentName, newest: SegmentObject | None, batch: _Batch
    ) -> tuple[SegmentObject, list[tuple[int, bytes]]]:
        contents = contents_of(segment, self._source.registry, self._source.metadata)
        if newest is not None and segment.crc_before != newest.crc_after:
            raise self._conflict(f"segment {segment.name} of this log does not follow {newest.name} in the archive")
        crc = segment.end.crc
        assert crc is not None, "a segment that was walked has a chain"
        data = segment.data[: segment.end.offset]
        archived = SegmentObject(
            name=str(segment.name),
            bytes=len(data),
            sha256=digest_of(data),
            crc_before=segment.crc_before,
            crc_after=crc,
            last_index=following.first_index - 1,
            lowest_index=contents.lowest_index,
            committed=contents.committed,
        )
        self._put(archived.object, data, batch)
        return archived, contents.markers

    def _upload_snapshots(
        self, segment: SegmentName, markers: list[tuple[int, bytes]], known: set[str], batch: _Batch
    ) -> Iterator[SnapshotObject]:
        for index, marker in dict(markers).items():
            for name in (f"{index:016x}.snap", f"{index:016x}.snap.db"):
                data = None if name in known else self._source.snapshot(name)
                if data is None or not (name.endswith(".db") or self._is_intact(name, data, batch)):
                    continue
                archived = SnapshotObject(name, len(data), digest_of(data), index, marker.hex(), segment.sequence)
                self._put(archived.object, data, batch)
                yield archived

    def _upload_late_databases(self, batch: _Batch) -> Iterator[SnapshotObject]:
        """Upload the databases that were saved after their snapshots had been archived."""
        known = {held.name for held in self._manifest.snapshots}
        for snapshot in self._manifest.snapshots:
            name = f"{snapshot.name}.db"
            data = None if snapshot.database or name in known else self._source.snapshot(name)
            if data is not None:
                archived = replace(snapshot, name=name, bytes=len(data), sha256=digest_of(data))
                self._put(archived.object, data, batch)
                yield archived

    def _is_intact(self, name: str, data: bytes, batch: _Batch) -> bool:
        assert self._source.snapshots is not None
        try:
            decode_named_snapshot(data, self._source.snapshots / name)
        except CorruptionError as error:
            batch.damaged.append(error)
            return False
        return True

    def _put(self, name: str, data: bytes, batch: _Batch) -> None:
        """Create an object, or find that it is there as it should be."""
        while not self._objects.create(name, data):
            there = self._objects.read(name)
            if there is None:
                continue  # removed meanwhile
            if there != data:
                newest = newest_manifest(self._objects)
                if newest is not None and newest.owner != self._owner:
                    raise fenced_by(self._objects, newest)
                raise ArchiveConflictError(
                    self._objects.place,
                    f"{name} is there with other content, and no manifest names it: another log, or another course of"
                    " this one, was archived here. Archive this log to a new place, or remove that object if you know"
                    " that it is of no use",
                )
            batch.adopted.append(name)
            break
        batch.done(len(data))

    # --------------------------------------------------------------------------------------------- archived

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """
        Tell whether a segment or snapshot file of this log is in the archive, so that it may be removed.

        No request is made. A segment is compared with the archived one's digest, so it takes the time to read it. When
        in doubt the answer is no. Pass this method as ``archived`` to ``wal.purge`` or ``wal.Retention``.

        Args:
            path: The file.
        """
        file, manifest = Path(path), self._manifest
        if file.parent == self._source.snapshots:
            return file.name in {held.name for held in manifest.snapshots}
        archived = next((held for held in manifest.segments if held.name == file.name), None)
        if file.parent != self._source.log or archived is None:
            return False
        try:
            return self._source.is_same(archived.parsed, archived)
        except FileNotFoundError:
            return False

    @property
    def last_index(self) -> int:
        """The log's last index at the end of all that is archived; 0 if nothing is."""
        return self._manifest.last_index

    @property
    def epoch(self) -> int:
        """How often the archive was taken over, this time included."""
        return self._manifest.epoch

    def close(self) -> None:
        """Take no more runs, once one that is under way has ended. A second call does nothing."""
        with self._lock:
            self._closed = True

    def __repr__(self) -> str:
        return f"<Archiver {str(self._source.log)!r} to {self._objects.place!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Batch:
    """What one run has come to, and how far it is."""

    def __init__(self, progress: Progress | None) -> None:
        self.adopted: list[str] = []
        self.damaged: list[CorruptionError] = []
        self._progress = progress
        self._done = 0
        self._total = 0

    def expect(self, more: int) -> None:
        """Say how many bytes are still to come, as far as is known."""
        self._total = max(self._total, self._done + more)

    def done(self, more: int) -> None:
        """Say that so many bytes are done."""
        self._done += more
        self._total = max(self._total, self._done)
        if self._progress is not None:
            self._progress(self._done, self._total)
