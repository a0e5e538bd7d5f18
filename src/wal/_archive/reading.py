# SPDX-License-Identifier: Apache-2.0
"""Reading an archive: no object is believed that is not, byte for byte, the one that the manifest names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wal._errors import CorruptionError
from wal._progress import Progress
from wal._snapshotter import decode_named_snapshot

from .errors import ArchiveDamagedError, ArchiveNotFoundError
from .manifest import Manifest, SegmentObject, SnapshotObject, digest_of
from .objects import Objects
from .ownership import newest_manifest, overlooked_manifest
from .walking import SealedSegment

__all__ = ["Archive", "Counted", "open_archive"]


@dataclass(slots=True)
class Counted:
    """Tells how much of what is to be read was read."""

    total: int
    progress: Progress | None
    done: int = 0

    def add(self, more: int) -> None:
        """Say that so many bytes more were read."""
        self.done += more
        if self.progress is not None:
            self.progress(self.done, self.total)


@dataclass(frozen=True, slots=True)
class Archive:
    """
    An archive as its newest manifest says.

    Attributes:
        objects: Its objects.
        manifest: The manifest.
    """

    objects: Objects
    manifest: Manifest

    def segment(self, held: SegmentObject) -> SealedSegment:
        """
        Read a segment. That its records are right is seen when it is walked.

        Raises:
            ArchiveDamagedError: It is missing, or is not what was uploaded.
        """
        return SealedSegment(Path(held.object), held.parsed, self._content(held), held.crc_before)

    def check_walked(self, held: SegmentObject, segment: SealedSegment) -> None:
        """
        Check that a segment, which has been walked, ends as the manifest says, whose next one goes on from there.

        Raises:
            ArchiveDamagedError: It does not.
        """
        if (segment.end.offset, segment.end.crc) != (held.bytes, held.crc_after):
            raise ArchiveDamagedError(
                self.objects.place, held.object, "it does not end as the manifest says", offset=segment.end.offset
            )

    def snapshot(self, held: SnapshotObject) -> bytes:
        """
        Read a snapshot.

        Raises:
            ArchiveDamagedError: It is missing, or is not what was uploaded.
        """
        data = self._content(held)
        if not held.database:
            try:
                decode_named_snapshot(data, Path(held.name))
            except CorruptionError as error:
                raise ArchiveDamagedError(self.objects.place, held.object, error.reason) from error
        return data

    def _content(self, held: SegmentObject | SnapshotObject) -> bytes:
        data = self.objects.read(held.object, held.bytes)
        if data is None:
            raise ArchiveDamagedError(self.objects.place, held.object, "it is missing")
        if digest_of(data) != held.sha256:
            raise ArchiveDamagedError(self.objects.place, held.object, "its content is not what was uploaded")
        return data

    def orphans(self) -> tuple[str, ...]:
        """Return the objects that the manifest does not name."""
        return tuple(sorted(self.objects.uploaded() - self.manifest.objects))


def open_archive(objects: Objects) -> Archive:
    """
    Read the newest manifest.

    Raises:
        ArchiveNotFoundError: There is no archive.
        ArchiveDamagedError: The manifest is damaged, or there is none, but objects.
    """
    manifest = newest_manifest(objects) or overlooked_manifest(objects, objects.uploaded())
    if manifest is None:
        raise ArchiveNotFoundError(objects.place, "there is no archive here")
    return Archive(objects, manifest)
