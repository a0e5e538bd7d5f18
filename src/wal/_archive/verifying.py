# SPDX-License-Identifier: Apache-2.0
"""Verifying an archive: every object is read."""

from __future__ import annotations

import os
from dataclasses import dataclass

from wal._progress import Progress

from .objects import ObjectStore, open_objects
from .reading import Counted, open_archive

__all__ = ["ArchiveVerifyReport", "verify"]


@dataclass(frozen=True, slots=True)
class ArchiveVerifyReport:
    """
    What an archive that is in order consists of.

    Attributes:
        segments: How many segments it has.
        snapshots: How many snapshot files.
        bytes: How many bytes they have.
        first_index: The index with which its first segment begins, as the segment's name says.
        last_index: The log's last index at the end of the last one; 0 if there is none.
        epoch: How often the archive was taken over.
        owner: Who has it, in words.
        orphans: The objects that the manifest does not name. They are being uploaded at this moment, or an upload was
            interrupted; or a newer manifest is gone.
    """

    segments: int
    snapshots: int
    bytes: int
    first_index: int
    last_index: int
    epoch: int
    owner: str
    orphans: tuple[str, ...]


def verify(store: str | os.PathLike[str] | ObjectStore, *, progress: Progress | None = None) -> ArchiveVerifyReport:
    """
    Read all of an archive and say what it consists of, or raise what is wrong with it.

    Every object is compared with its digest; the log's own chain is followed over all segments, and each snapshot's
    checksum is looked at. Nothing is written, no record class is needed, and an archiver may be at work meanwhile.
    Memory is bounded by the largest object.

    Args:
        store: As for ``Archiver``.
        progress: Called with ``(bytes_done, bytes_total)`` after each object. What it raises ends the call.

    Raises:
        ArchiveDamagedError: An object is missing, or is not what was uploaded.
        CorruptionError: A segment is as it was uploaded, but not in order.
        ArchiveNotFoundError: There is no archive.
        ArchiveStoreError: The store did not answer, or refused.
    """
    archive = open_archive(open_objects(store))
    manifest = archive.manifest
    counted = Counted(manifest.total_bytes, progress)
    for held in manifest.segments:
        segment = archive.segment(held)
        for _ in segment.runs():
            pass
        archive.check_walked(held, segment)
        counted.add(held.bytes)
    for snapshot in manifest.snapshots:
        archive.snapshot(snapshot)
        counted.add(snapshot.bytes)
    return ArchiveVerifyReport(
        segments=len(manifest.segments),
        snapshots=len(manifest.snapshots),
        bytes=counted.total,
        first_index=manifest.segments[0].parsed.first_index if manifest.segments else 0,
        last_index=manifest.last_index,
        epoch=manifest.epoch,
        owner=str(manifest.owner),
        orphans=archive.orphans(),
    )
