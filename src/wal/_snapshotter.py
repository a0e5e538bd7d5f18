# SPDX-License-Identifier: Apache-2.0
"""
Snapshot files: the state of a machine at an index, whole or not at all.

::

    %016x.snap      protobuf {1: crc, 2: data}, crc = CRC-32C of data, data = {1: index, 2: data, 3: metadata}
    %016x.snap.db   a database, as it came
    ….tmp           either of them in the making

A file is written under its temporary name, synced, renamed, and the directory synced. So a save that fails, or a
crash, leaves what was there before. Loading changes nothing: a damaged file is passed over with its reason, and
only ``set_aside`` renames it. An ``OSError`` says nothing about a file's content and is never taken for damage.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ._crc32c import extend, warn_if_slow
from ._errors import CorruptionError, CRCMismatchError, NoSnapshotError, RecordTypeError, WALExistsError
from ._events import log_damaged_snapshot
from ._files import (
    CREATE,
    OPERATING_SYSTEM,
    READ,
    File,
    FileSystem,
    make_directories,
    real_path,
    remove_directories,
    sync_directory,
)
from ._notices import Notices
from ._observer import Observer, SnapshotSave, checked
from ._protobuf import BYTES, UINT, bytes_field, decode_message, read_varint, uint_field
from ._records import Snapshot

__all__ = ["SnapshotData", "Snapshotter", "decode_named_snapshot", "decode_snapshot", "encode_snapshot"]

_NAME = re.compile(r"([0-9a-f]{16})\.snap", re.ASCII)
_DATABASE = re.compile(r"([0-9a-f]{16})\.snap\.db", re.ASCII)
_TEMPORARY = re.compile(r"[0-9a-f]{16}\.snap(\.db)?\.tmp", re.ASCII)

CHUNK_BYTES = 1 << 20
_PREFIX_BYTES = 22  # tag and CRC, tag and length


def _declared_bytes(prefix: bytes) -> int:
    """Return how long a snapshot file that begins so says it is."""
    at = 0
    if prefix.startswith(b"\x08"):
        _, at = read_varint(prefix, 1, len(prefix))
    if prefix[at : at + 1] != b"\x12":
        return at
    length, at = read_varint(prefix, at + 1, len(prefix))
    return at + length


@dataclass(frozen=True, slots=True)
class SnapshotData:
    """
    A snapshot of a state machine.

    Attributes:
        index: The index of the last entry that it covers, at least 1; 0 is the snapshot before any.
        data: The state, in the application's own form.
        metadata: Whatever else belongs to it, such as the membership of a cluster.
    """

    index: int
    data: bytes = b""
    metadata: bytes = b""


def encode_snapshot(snapshot: SnapshotData) -> bytes:
    """Return the content of a snapshot's file."""
    payload = uint_field(1, snapshot.index) + bytes_field(2, snapshot.data) + bytes_field(3, snapshot.metadata)
    return uint_field(1, extend(0, payload)) + bytes_field(2, payload)


def decode_snapshot(content: bytes, path: Path) -> SnapshotData:
    """Return the snapshot that a file holds; ``CorruptionError``, about ``path``, if it is none or damaged."""
    try:
        crc, payload = decode_message(content, (UINT, BYTES))
        index, data, metadata = decode_message(payload, (UINT, BYTES, BYTES))
    except ValueError as error:
        raise CorruptionError(path, 0, f"this is not a snapshot: {error}") from None
    actual = extend(0, payload)
    if crc != actual:
        raise CRCMismatchError(path, 0, "the checksum is wrong", expected=actual, found=crc)
    if index == 0:
        raise CorruptionError(path, 0, "this is not a snapshot: it has no index")
    return SnapshotData(index, data, metadata)


def decode_named_snapshot(content: bytes, path: Path) -> SnapshotData:
    """Return the snapshot that the file ``path`` holds; ``CorruptionError`` also if the name is another one's."""
    snapshot = decode_snapshot(content, path)
    if path.name != f"{snapshot.index:016x}.snap":
        raise CorruptionError(path, 0, f"this is the snapshot of index {snapshot.index}, under another's name")
    return snapshot


class Snapshotter:
    """
    A directory of snapshot files.

    One writer at a time: hold the log's lock, as ``FileStorage`` does. Any number of readers may load meanwhile.

    Args:
        path: The directory, made at the first save if needed.
        observer: Who is told of the snapshots that have become durable, or ``None``.
        fs: The file system to work on.

    Attributes:
        path: The directory.
        fs: The file system it works on.
        skipped: What the last ``load`` passed over as damaged, newest first, with path and reason.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, observer: Observer | None = None, fs: FileSystem = OPERATING_SYSTEM
    ) -> None:
        self.path: Path = real_path(path)
        self._observer = checked(observer)
        self._notices = Notices(self.path)
        self.skipped: tuple[CorruptionError, ...] = ()
        self.fs = fs
        self._durable = False  # whether the directory's own name is known to be

    # ---------------------------------------------------------------------------------------------- save

    def save(self, snapshot: SnapshotData, *, replace: bool = False) -> Path:
        """
        Write a snapshot file.

        When this returns, the snapshot is durable. If it raises, each file is what it was, or the new one as a
        whole.

        Args:
            snapshot: What to save; its index must be at least 1.
            replace: Whether to take the place of an intact file with the same index and other content. A damaged
                one, and one with the same content, is always replaced.

        Returns:
            The file.

        Raises:
            WALExistsError: There is an intact snapshot of this index with other content.
            OSError: The system refused.
        """
        if not isinstance(snapshot, SnapshotData):
            raise RecordTypeError(f"{snapshot!r} is not a SnapshotData")
        path = self._new_path(snapshot.index, ".snap")
        data = encode_snapshot(snapshot)
        if not replace and self._intact(path) not in (None, snapshot):
            raise WALExistsError(path, "there is another snapshot of this index; pass replace=True to replace it")

        def write(file: File) -> int:
            file.write(data, 0)
            return len(data)

        self._write(path, write, database=False)
        return path

    def save_db_from(self, source: BinaryIO, index: int, *, progress: Callable[[int], None] | None = None) -> Path:
        """
        Write a database snapshot, streamed from an open file in bounded memory.

        When this returns, it is durable under ``db_path(index)``, in the place of one that was there.

        Args:
            source: Read until its end.
            index: The index of the last entry that the database covers.
            progress: Called after each chunk with the number of bytes so far.

        Returns:
            The file.
        """
        path = self._new_path(index, ".snap.db")

        def copy(file: File) -> int:
            offset = 0
            while chunk := source.read(CHUNK_BYTES):
                file.write(chunk, offset)
                offset += len(chunk)
                if progress is not None:
                    progress(offset)
            if chunk is None:
                raise BlockingIOError(errno.EAGAIN, "the source has nothing to read at the moment; make it blocking")
            return offset

        self._write(path, copy, database=True)
        return path

    def _new_path(self, index: int, suffix: str) -> Path:
        if not 1 <= index < 1 << 64:
            raise ValueError(f"a snapshot covers entry 1 at least and has an index of 64 bits, not {index}")
        return self.path / f"{index:016x}{suffix}"

    def _write(self, path: Path, fill: Callable[[File], int], *, database: bool) -> None:
        """Write a file as ``fill`` does it, which returns the number of bytes."""
        fs = self.fs
        started = time.perf_counter()
        temporary = path.with_name(path.name + ".tmp")
        made = make_directories(fs, self.path)
        try:
            if not self._durable:
                # Whoever made the directory may have been killed before its name was durable.
                sync_directory(fs, self.path.parent)
                self._durable = True
            with suppress(FileNotFoundError):
                fs.unlink(temporary)
            with File(fs, temporary, CREATE) as file:
                length = fill(file)
                sync_started = time.perf_counter()
                fs.fsync(file.fd)
                sync_s = time.perf_counter() - sync_started
            fs.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                fs.unlink(temporary)
            remove_directories(fs, made)
            raise
        sync_directory(fs, self.path)
        if self._observer is not None:
            seconds = time.perf_counter() - started
            self._notices.tell_now(self._observer.saved_snapshot, SnapshotSave(path, length, database, sync_s, seconds))

    # ---------------------------------------------------------------------------------------------- load

    def names(self) -> list[str]:
        """Return the names of the snapshot files, newest first; none if there is no directory."""
        return [f"{index:016x}.snap" for index in self._indexes(_NAME)]

    def load(self) -> SnapshotData:
        """
        Return the newest snapshot that is intact. Nothing is changed; ``skipped`` tells what was passed over.

        Raises:
            NoSnapshotError: There is none.
            OSError: A file could not be read; that says nothing about its content.
        """
        return self._load(None)

    def load_newest_available(self, markers: Iterable[Snapshot]) -> SnapshotData:
        """
        Return the newest intact snapshot that the log knows: of the index of one of ``markers``.

        Args:
            markers: What ``wal.valid_snapshots`` returned.

        Raises:
            NoSnapshotError: There is none.
            OSError: A file could not be read; that says nothing about its content.
        """
        known = {marker.index for marker in markers}
        return self._load(known)

    def _load(self, wanted: set[int] | None) -> SnapshotData:
        warn_if_slow()
        skipped: list[CorruptionError] = []
        try:
            for index in self._indexes(_NAME):
                if wanted is not None and index not in wanted:
                    continue
                try:
                    return self._read(self._snapshot_path(index))
                except FileNotFoundError:
                    continue  # removed since it was listed
                except CorruptionError as error:
                    log_damaged_snapshot(error.path, error.offset, error.reason, error)
                    skipped.append(error)
        finally:
            self.skipped = tuple(skipped)
        raise NoSnapshotError(f"{self.path} has no snapshot that is intact and wanted ({len(skipped)} are damaged)")

    def _snapshot_path(self, index: int) -> Path:
        return self.path / f"{index:016x}.snap"

    def _read(self, path: Path) -> SnapshotData:
        with File(self.fs, path, READ) as file:
            prefix, size = file.read(0, _PREFIX_BYTES), file.size()
            if not prefix:
                raise CorruptionError(path, 0, "this is not a snapshot: the file is empty")
            try:
                declared = _declared_bytes(prefix)
            except ValueError as error:
                raise CorruptionError(path, 0, f"this is not a snapshot: {error}") from None
            if declared != size:
                # Not read into memory: it may be as long as a damaged file system says.
                raise CorruptionError(path, 0, f"this is not a snapshot: it has {size:,} bytes instead of {declared:,}")
            return decode_named_snapshot(file.read(0, size), path)

    def _indexes(self, pattern: re.Pattern[str]) -> list[int]:
        try:
            names = self.fs.listdir(self.path)
        except FileNotFoundError:
            return []
        matches = (pattern.fullmatch(name) for name in names)
        return sorted((int(match[1], 16) for match in matches if match), reverse=True)

    # ------------------------------------------------------------------------------------------ databases

    def db_path(self, index: int) -> Path:
        """
        Return the file of the database snapshot of ``index``.

        Raises:
            NoSnapshotError: There is none.
        """
        if index not in self._indexes(_DATABASE):
            raise NoSnapshotError(f"{self.path} has no database snapshot of index {index}")
        return self.path / f"{index:016x}.snap.db"

    def release_dbs(self, index: int) -> list[str]:
        """
        Remove the database snapshots that are older than ``index``; return their names.

        When this returns, the removal is durable.
        """
        return self._remove([f"{i:016x}.snap.db" for i in reversed(self._indexes(_DATABASE)) if i < index])

    # -------------------------------------------------------------------------------------------- clean up

    def release(self, index: int) -> list[str]:
        """
        Remove the snapshot files that are older than ``index``, oldest first; return their names.

        When this returns, the removal is durable.
        """
        return self._remove([f"{i:016x}.snap" for i in reversed(self._indexes(_NAME)) if i < index])

    def _files_before(self, index: int) -> list[Path]:
        """Return the files of the snapshots and databases that are older than ``index``, in any order."""
        names = [f"{i:016x}.snap" for i in self._indexes(_NAME) if i < index]
        names += [f"{i:016x}.snap.db" for i in self._indexes(_DATABASE) if i < index]
        return [self.path / name for name in names]

    def is_intact(self, index: int) -> bool:
        """Tell whether there is a snapshot of ``index`` and it is whole, by reading it."""
        return self._intact(self._snapshot_path(index)) is not None

    def _intact(self, path: Path) -> SnapshotData | None:
        try:
            return self._read(path)
        except (FileNotFoundError, CorruptionError):
            return None

    def set_aside(self, name: str) -> Path:
        """
        Rename a damaged snapshot file, so that it is no longer looked at: ``.broken`` is appended.

        When this returns, the new name is durable. An existing file is not replaced; a number is put between.

        Args:
            name: One of ``names()``.

        Returns:
            The file under its new name.

        Raises:
            ValueError: That is not the name of a snapshot file.
            FileNotFoundError: There is no such file.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a snapshot file")
        taken = set(self.fs.listdir(self.path))
        number = 0
        broken = f"{name}.broken"
        while broken in taken:
            number += 1
            broken = f"{name}.{number}.broken"
        self.fs.rename(self.path / name, self.path / broken)
        sync_directory(self.fs, self.path)
        return self.path / broken

    def sweep(self) -> list[str]:
        """Remove what a crash left half-made, by this class's own names only; return the names."""
        try:
            names = self.fs.listdir(self.path)
        except FileNotFoundError:
            return []
        return self._remove(sorted(name for name in names if _TEMPORARY.fullmatch(name)))

    def _remove(self, names: list[str]) -> list[str]:
        removed = []
        for name in names:
            try:
                self.fs.unlink(self.path / name)
            except FileNotFoundError:
                continue  # another one was here
            removed.append(name)
        if removed:
            sync_directory(self.fs, self.path)
        return removed
