# SPDX-License-Identifier: Apache-2.0
"""
Repair: cut a torn end off a log's last segment, and keep what is cut.

First a copy of the bytes under a name of its own, made durable; then the file is truncated, synced, and given
its zero-filled space back. Nothing is zeroed in place, so a crash in between leaves the same torn log and one
copy more. Whether an end is torn or corrupt is decided in ``_marks`` alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ._decoder import Decoder
from ._errors import CorruptionError, TornWriteError
from ._events import log_repaired
from ._files import CREATE, OPERATING_SYSTEM, READ, File, FileSystem, real_path, sync_directory
from ._frame import aligned
from ._hold import Hold
from ._names import SegmentName
from ._observer import RepairReport
from ._progress import Progress, watched
from ._replay import beside_a_purge
from ._salvage import count_frames
from ._segments import segments_from

__all__ = ["RepairPlan", "cut_tail", "plan_repair", "repair"]

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """
    What a repair would do.

    Attributes:
        path: The last segment.
        offset: Where it would end, in bytes.
        bytes_cut: How many bytes would be cut, not counting the zeros at the end; 0 if there is nothing to repair.
        records_cut: How many records can still be told in them. Those of a torn write are parts of saves that were not
            finished; with ``force`` they may be records that were acknowledged.
        backup: The file that would keep them, or ``None`` if there is nothing to repair.
        torn: Whether it is a torn write that would be cut. If not, it is damage that only ``force`` cuts.
        reason: What is wrong, in words.
    """

    path: Path
    offset: int
    bytes_cut: int
    records_cut: int
    backup: Path | None
    torn: bool
    reason: str


def plan_repair(
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress | None = None,
    fs: FileSystem = OPERATING_SYSTEM,
) -> RepairPlan:
    """
    Say what ``repair`` would cut off a log as it is now.

    It takes no lock and changes nothing, so it works on a read-only disk; beside a live writer it may take a save in
    the making for a torn one, which ``repair`` would refuse to cut, since the log is locked.

    Args:
        path: The log's directory.
        force: As for ``repair``.
        progress: Called with ``(bytes_done, bytes_total)`` as the segments are read, some times per megabyte. What
            it raises ends the call.
        fs: The file system to read from.

    Raises:
        CorruptionError: The log is damaged in a way that ``repair`` would not cut.
        WALNotFoundError: There is none.
    """

    def plan() -> RepairPlan:
        names = segments_from(fs, directory, None)
        last = directory / str(names[-1])
        offset, damage = _diagnose(watched(fs, directory, None, progress), directory, names, last, force=force)
        with File(fs, last, READ) as file:
            return _plan(file, offset, damage)

    directory = real_path(path)
    return beside_a_purge(plan)


def repair(
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    confirm: Callable[[RepairPlan], bool] | None = None,
    progress: Progress | None = None,
    fs: FileSystem = OPERATING_SYSTEM,
) -> RepairReport:
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
        confirm: Called with what is about to be cut, before anything is changed and with the log locked, so that
            just this will be cut. If it returns ``False``, or raises, the log stays as it is. It is not called if
            there is nothing to repair.
        progress: Called with ``(bytes_done, bytes_total)`` as the segments are read, some times per megabyte. What
            it raises ends the call.
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
        _, file = hold.tail
        offset, damage = _diagnose(watched(fs, directory, None, progress), directory, names, file.path, force=force)
        if damage is None:
            return RepairReport(file.path, offset, 0, None, "nothing to repair")
        if confirm is not None and not confirm(_plan(file, offset, damage)):
            return RepairReport(file.path, offset, 0, None, f"not confirmed: {damage.reason}")
        report = cut_tail(file, offset, damage.reason)
        for _ in Decoder(fs, directory, names[-1:]):
            pass
        return report
    finally:
        hold.close()


def _diagnose(
    fs: FileSystem, directory: Path, names: list[SegmentName], last: Path, *, force: bool
) -> tuple[int, CorruptionError | None]:
    """Return where the last whole save ends, and what is to be cut behind it; raise what must not be cut."""
    decoder = Decoder(fs, directory, names)
    damage: CorruptionError | None = None
    try:
        for _ in decoder:
            pass
        damage = decoder.tail
    except CorruptionError as error:
        if not (force and decoder.path == last and decoder.head_complete):
            raise
        damage = error
    return decoder.position.offset, damage


def _plan(file: File, offset: int, damage: CorruptionError | None) -> RepairPlan:
    if damage is None:
        return RepairPlan(file.path, offset, 0, 0, None, torn=False, reason="nothing to repair")
    size = file.size()
    end = _used_bytes(file, offset, size)
    taken = set(file.fs.listdir(file.path.parent))
    backup = next(path for number in count() if (path := _backup_path(file, offset, number)).name not in taken)
    records = count_frames(file.read, offset, size)  # the last one may end with zeros
    torn = isinstance(damage, TornWriteError)
    return RepairPlan(file.path, offset, end - offset, records, backup, torn, damage.reason)


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
    log_repaired(file.path, offset, end - offset, backup, reason)
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
        try:
            return File(file.fs, _backup_path(file, offset, number), CREATE)
        except FileExistsError:
            continue
    raise AssertionError  # pragma: no cover - the names do not end


def _backup_path(file: File, offset: int, number: int) -> Path:
    """Return a name for the copy of what is cut; that of number 0 is the first choice."""
    suffix = f".{offset:016x}{f'.{number}' if number else ''}.broken"
    return file.path.with_name(file.path.name + suffix)
