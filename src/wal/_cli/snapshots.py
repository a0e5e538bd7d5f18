# SPDX-License-Identifier: Apache-2.0
"""
The snapshot files of a storage: which of them are whole, and what the storage would be recovered from.

The rules are those of ``wal.open_storage``: from the newest snapshot that is intact and that the log knows, if the log
has every entry behind it; or from the log alone, if that still has its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wal import (
    CorruptionError,
    LogEntry,
    LogSurvey,
    NoSnapshotError,
    RecordRegistry,
    SnapshotMarker,
    Snapshotter,
    WALError,
    WALReader,
)

__all__ = ["Recovery", "SnapshotFile", "look_at"]


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A snapshot file: its index, its length, whether the log has its marker, and what is wrong with it."""

    path: Path
    index: int
    size: int
    known: bool
    damage: CorruptionError | None


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a storage's snapshots are good for."""

    files: list[SnapshotFile]
    """The newest first."""
    start: int | None
    """The index of the snapshot that it would be recovered from; 0: the log's beginning; ``None``: it would not be."""
    problem: WALError | None
    """Why it would not be."""


def look_at(directory: Path, found: LogSurvey, registry: RecordRegistry) -> Recovery:
    """Read the snapshots in a directory, and compare them with what was found in the log."""
    markers = {marker.index: marker for marker in found.markers}
    files = _files(directory, set(markers))
    start = next((file.index for file in files if file.known and file.damage is None), 0)
    newest = max(markers, default=0)
    if start == newest or found.damage is not None:
        return Recovery(files, start if found.damage is None else None, None)
    if start == 0 and 0 not in markers:
        return Recovery(files, None, NoSnapshotError(f"{directory} has no snapshot that is intact and wanted"))
    reached = start
    for record in WALReader(found.path, markers[start], registry=registry):
        if isinstance(record.value, LogEntry):
            reached = record.value.index
    if reached < newest:
        problem = NoSnapshotError(
            f"snapshot {newest} in {directory} is missing or damaged, and the log has no entries behind {reached} to"
            " make up for it"
        )
        return Recovery(files, None, problem)
    return Recovery(files, start, None)


def _files(directory: Path, known: set[int]) -> list[SnapshotFile]:
    snapshotter = Snapshotter(directory)
    files = []
    for name in snapshotter.names():
        path = snapshotter.path / name
        index = int(path.stem, 16)
        try:
            size = path.stat().st_size
            damage = None
            snapshotter.load_newest_available([SnapshotMarker(index)])
        except NoSnapshotError:
            if not snapshotter.skipped:
                continue  # removed since it was listed
            damage = snapshotter.skipped[0]
        except FileNotFoundError:
            continue
        files.append(SnapshotFile(path, index, size, index in known, damage))
    return files
