# SPDX-License-Identifier: Apache-2.0
"""
Repair: cut a torn end off a log's last segment, and keep what is cut.

First a copy of the bytes under a name of its own, made durable; then the file is truncated, synced, and given
its zero-filled space back. Nothing is zeroed in place, so a crash in between leaves the same torn log and one
copy more. Whether an end is torn or corrupt is decided in ``_marks`` alone.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ._decoder import Decoder
from ._errors import CorruptionError
from ._files import CREATE, OPERATING_SYSTEM, File, FileSystem, real_path, sync_directory
from ._frame import aligned
from ._hold import Hold
from ._segments import segments_from

__all__ = ["RepairReport", "cut_tail", "repair"]

_logger = logging.getLogger("wal")

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RepairReport:
    """
    What a repair did.

    Attributes:
        path: The last segment.
        offset: Where it ends now, in bytes.
        bytes_cut: How many bytes were cut, not counting the zeros at the end; 0 if there was nothing to repair.
        backup: The file that keeps them, or ``None`` if nothing was cut.
        reason: What was wrong, in words.
    """

    path: Path
    offset: int
    bytes_cut: int
    backup: Path | None
    reason: str


def repair(path: str | os.PathLike[str], *, force: bool = False, fs: FileSystem = OPERATING_SYSTEM) -> RepairReport:
    """
    Cut a torn end off a log, keeping a copy; do nothing to a log that is in order.

    When this returns, the log can be opened, and the copy of what was cut is durable. It is named after the
    segment and the offset, ends in ``.broken``, and is never overwritten or removed. If this raises, the log is
    as it was, or cut already with the copy kept. Running it again, or after a crash in the middle, is harmless.
    No record class is needed.

    Args:
        path: The log's directory. It must not be open for writing.
        force: Cut at damage in the last segment even where later frames say that it had been synced, which
            means that acknowledged saves are cut too (into the copy), or that a payload contains frames of a
            log. Damage in an earlier segment or in a segment's head is never cut.
        fs: The file system to work on.

    Raises:
        CorruptionError: The log is damaged in a way that is not a torn write.
        WALLockedError: A writer has it open.
        WALNotFoundError: There is none.
    """
    directory = real_path(path)
    hold = Hold(fs, directory)
    try:
        names = segments_from(fs, directory, None)
        # Only the last one is written to. But etcd drops the lock of a segment that it has just begun for a moment,
        # and never that of the one before.
        hold.open_segments(names[-2:])
        decoder = Decoder(fs, directory, names)
        _, file = hold.tail
        damage: CorruptionError | None = None
        try:
            for _ in decoder:
                pass
            damage = decoder.tail
        except CorruptionError as error:
            if not (force and decoder.path == file.path and decoder.head_complete):
                raise
            damage = error
        offset = decoder.position.offset
        if damage is None:
            return RepairReport(file.path, offset, 0, None, "nothing to repair")
        report = cut_tail(file, offset, damage.reason)
        for _ in Decoder(fs, directory, names[-1:]):
            pass
        return report
    finally:
        hold.close()


def cut_tail(file: File, offset: int, reason: str) -> RepairReport:
    """Cut a segment at ``offset``, under the caller's lock; ``reason`` goes into the report and the log."""
    fs, size = file.fs, file.size()
    end = _used_bytes(file, offset, size)
    backup = _back_up(file, offset, end)
    fs.truncate(file.fd, offset)
    fs.fsync(file.fd)
    fs.allocate(file.fd, aligned(size))
    fs.fsync(file.fd)
    report = RepairReport(file.path, offset, end - offset, backup, reason)
    _logger.warning(
        "%s: cut %d bytes at byte %d and kept them in %s: %s", file.path, end - offset, offset, backup.name, reason
    )
    return report


def _used_bytes(file: File, start: int, size: int) -> int:
    """Return where the zeros at the end of the file begin."""
    while size > start:
        begin = max(start, size - CHUNK_BYTES)
        used = len(file.read(begin, size - begin).rstrip(b"\0"))
        if used:
            return begin + used
        size = begin
    return start


def _back_up(file: File, start: int, stop: int) -> Path:
    fs = file.fs
    with _new_backup(file, start) as backup:
        try:
            for offset in range(start, stop, CHUNK_BYTES):
                backup.write(file.read(offset, min(CHUNK_BYTES, stop - offset)), offset - start)
            fs.fsync(backup.fd)
            sync_directory(fs, file.path.parent)
        except BaseException:
            fs.unlink(backup.path)
            raise
        return backup.path


def _new_backup(file: File, offset: int) -> File:
    for number in count():
        suffix = f".{offset:016x}{f'.{number}' if number else ''}.broken"
        try:
            return File(file.fs, file.path.with_name(file.path.name + suffix), CREATE)
        except FileExistsError:
            continue
    raise AssertionError  # pragma: no cover - count() does not end
