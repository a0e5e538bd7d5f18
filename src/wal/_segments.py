# SPDX-License-Identifier: Apache-2.0
"""
The directory of a log: which segments it has.

A log is the files with a segment's name; every other file in the directory belongs to somebody else and is left
alone. Sequence numbers without a gap are a log, whatever the first one is: old segments may have been purged.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

from ._errors import SegmentGapError, SnapshotNotFoundError, WALNotFoundError
from ._events import log_foreign_name
from ._files import OPERATING_SYSTEM, FileSystem
from ._names import SegmentName, select

__all__ = ["exists", "list_segments", "segments_among", "segments_from"]


def list_segments(fs: FileSystem, path: Path) -> list[SegmentName]:
    """Return the segments of a directory in their order; none if there is no such directory."""
    try:
        return segments_among(path, fs.listdir(path))
    except FileNotFoundError:
        return []


def segments_among(path: Path, names: list[str]) -> list[SegmentName]:
    """Return the segments among the names in a directory, in their order."""
    segments = []
    for name in names:
        segment = SegmentName.parse(name)
        if segment is not None:
            segments.append(segment)
        elif name.lower().endswith(".wal"):
            log_foreign_name(path, name)
    return sorted(segments)


def _gaps(names: list[SegmentName]) -> list[tuple[SegmentName, SegmentName]]:
    """Return the segments before and behind each gap."""
    return [(before, after) for before, after in pairwise(names) if after.sequence != before.sequence + 1]


def segments_from(fs: FileSystem, path: Path, index: int | None) -> list[SegmentName]:
    """
    Return the segments that hold everything after entry ``index``; ``None``: all that are there.

    Raises:
        WALNotFoundError: There is no log.
        SnapshotNotFoundError: The log begins later.
        SegmentGapError: A segment is missing among them.
    """
    names = list_segments(fs, path)
    gaps = _gaps(names)
    while gaps:
        # A large directory is listed in parts, which beside a cut or a purge are of different moments. What is
        # missing is what is missing twice.
        names, first_look = list_segments(fs, path), gaps
        gaps = _gaps(names)
        if set(first_look) & set(gaps):
            break
    if not names:
        raise WALNotFoundError(path, "there is no log in this directory")
    if index is not None:
        first = select(names, index)
        if first is None:
            what = "beginning" if index == 0 else f"part behind snapshot {index}"
            raise SnapshotNotFoundError(
                index,
                f"{path}: the log's {what} has been purged; what is left begins at entry {names[0].first_index}."
                " Open it at a snapshot from valid_snapshots()",
            )
        names = names[first:]
    for before, after in _gaps(names):
        raise SegmentGapError(path, 0, f"segment {after} follows {before}: what was between them is missing")
    return names


def exists(path: str | os.PathLike[str], *, fs: FileSystem = OPERATING_SYSTEM) -> bool:
    """
    Tell whether a directory has a log.

    Only files with a segment's name count. A directory that cannot be read is an ``OSError``, not a no.
    """
    return bool(list_segments(fs, Path(path)))
