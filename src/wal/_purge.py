# SPDX-License-Identifier: Apache-2.0
"""
Purge: remove the segments that no snapshot needs any more.

It works from outside, also beside the writer: a segment whose lock cannot be taken is still in use, and the purge
ends there. Segments go oldest first, so that whatever is left is a log without a gap, wherever a crash, another
purge or an error ends it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from ._errors import WALNotFoundError
from ._events import log_segment_in_use
from ._files import OPERATING_SYSTEM, READ, READ_WRITE, File, FileSystem, real_path, sync_directory
from ._names import select
from ._records import RecordRegistry, Snapshot
from ._replay import Replay, beside_a_purge
from ._segments import list_segments

__all__ = ["Archived", "purge", "remove_segments"]

Archived = Callable[[Path], bool]
"""``archived(path)`` tells whether this segment or snapshot file is in an archive, so that it may be removed."""


def purge(
    path: str | os.PathLike[str],
    snapshot: Snapshot,
    *,
    keep: int = 0,
    archived: Archived | None = None,
    registry: RecordRegistry | None = None,
    fs: FileSystem = OPERATING_SYSTEM,
) -> list[str]:
    """
    Remove the segments that are wholly older than a snapshot, oldest first, if nobody holds them.

    When this returns, the removal is durable, and the log can be opened at ``snapshot`` and everything later, but
    no longer at what is before. It may be called beside the log's writer (once that has released the segments),
    readers, and other purges. If this raises, some of the segments may be gone; what is left is in order.

    Args:
        path: The log's directory.
        snapshot: A snapshot whose marker is in the log, and which is durable.
        keep: How many of these segments to keep all the same, the newest ones.
        archived: Asked of each segment, by its path, whether it is in an archive. The first one that is not, and those
            behind it, are kept. What it raises ends the purge. By default nothing is asked.
        registry: The record classes; by default the process-wide ones.
        fs: The file system to work on.

    Returns:
        The names of the removed files. They end early at a segment that is locked, which is logged, or that is not
        archived.

    Raises:
        SnapshotNotFoundError: The log does not know the snapshot; nothing was removed.
        WALNotFoundError: There is no log.
        CorruptionError: The log is damaged behind the snapshot; nothing was removed.
    """
    if keep < 0:
        raise ValueError(f"keep must be 0 or more, not {keep}")
    directory = real_path(path)
    beside_a_purge(lambda: _make_durable(fs, directory, snapshot, registry))
    return remove_segments(fs, directory, snapshot.index, keep=keep, archived=archived)


def _make_durable(fs: FileSystem, directory: Path, snapshot: Snapshot, registry: RecordRegistry | None) -> None:
    """Make sure that the log has the snapshot's marker, and that it and all behind it will not vanish."""
    replay = Replay(fs, directory, snapshot.index, registry)
    for _ in replay.skim():
        pass  # it raises if the marker is not met
    for name in replay.names:
        try:
            file = File(fs, directory / str(name), READ)
        except FileNotFoundError:
            raise WALNotFoundError(directory / str(name), "the segment was purged meanwhile") from None
        with file:
            fs.fdatasync(file.fd)
    sync_directory(fs, directory)


def remove_segments(fs: FileSystem, directory: Path, index: int, *, keep: int, archived: Archived | None) -> list[str]:
    """Remove the segments that reading from snapshot ``index`` on does not need, but for the newest ``keep``."""
    names = list_segments(fs, directory)
    count = (select(names, index) or 0) - keep
    removed: list[str] = []
    for name in names[: max(count, 0)]:
        if archived is not None and not archived(directory / str(name)):
            break
        try:
            if _remove(fs, directory / str(name)):
                removed.append(str(name))
            elif name in list_segments(fs, directory):
                # Without it, those behind it would be a log with a gap.
                raise FileNotFoundError(
                    errno.ENOENT, "a segment that is listed is not found", str(directory / str(name))
                )
        except BlockingIOError:
            log_segment_in_use(directory, str(name))
            break
        # One by one, also behind another purge: a power cut that kept an older segment and took a later one would
        # leave a gap.
        sync_directory(fs, directory)
    return removed


def _remove(fs: FileSystem, path: Path) -> bool:
    """Remove a segment that nobody holds; tell whether it was us and not another purge."""
    try:
        with File(fs, path, READ_WRITE) as file:
            fs.lock(file.fd)
            try:
                if not fs.is_at(file.fd, path):
                    return False
                fs.unlink(path)
            finally:
                fs.unlock(file.fd)  # a forked child may have the descriptor
    except FileNotFoundError:
        return False
    return True
