# SPDX-License-Identifier: Apache-2.0
"""
What is archived: a log's directory, or a storage's, read from outside beside its writer.

A segment is sealed when it has a successor: then it was truncated to what it uses, and synced, and never changes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from wal._errors import WALNotFoundError
from wal._files import OPERATING_SYSTEM, READ, File, FileSystem, real_path, sync_directory
from wal._names import SegmentName
from wal._records import DEFAULT_REGISTRY, RecordRegistry
from wal._segments import exists, segments_from

from .manifest import SegmentObject, digest_of
from .walking import SealedSegment

__all__ = ["Source"]


class Source:
    """
    The directory of a log, or of a storage with ``wal/`` and ``snap/`` in it.

    Attributes:
        log: The log's directory.
        snapshots: That of the snapshots, which need not be there; ``None`` for a log alone.
        metadata: The log's metadata.

    Raises:
        WALNotFoundError: There is no log.
        CorruptionError: The head of its oldest segment is damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        registry: RecordRegistry[Any, Any, Any] | None,
        fs: FileSystem = OPERATING_SYSTEM,
    ) -> None:
        directory = real_path(path)
        self.fs = fs
        self.registry: RecordRegistry[Any, Any, Any] = registry or DEFAULT_REGISTRY
        self.log: Path = directory
        self.snapshots: Path | None = None
        if not exists(directory, fs=fs):
            self.log, self.snapshots = directory / "wal", directory / "snap"
            if not exists(self.log, fs=fs):
                raise WALNotFoundError(directory, "there is no log in this directory")
        self.metadata: bytes = self._head()[1]

    def names(self) -> list[SegmentName]:
        """Return all segments in their order; the last one is not sealed."""
        return segments_from(self.fs, self.log, None)

    def sync(self) -> None:
        """Make sure that what is sealed stays sealed: a successor might be seen before its name is durable."""
        sync_directory(self.fs, self.log)

    def segment(self, name: SegmentName, crc: int | None) -> SealedSegment:
        """Read a segment; ``FileNotFoundError`` if it was purged meanwhile."""
        path = self.log / str(name)
        return SealedSegment(path, name, self._content(path), crc)

    def snapshot(self, name: str) -> bytes | None:
        """Read a snapshot file; ``None`` if there is none, or not any more."""
        if self.snapshots is None:
            return None
        try:
            return self._content(self.snapshots / name)
        except FileNotFoundError:
            return None

    def size(self, name: SegmentName) -> int:
        """Return the length of a segment in bytes; 0 if it was purged meanwhile."""
        try:
            with File(self.fs, self.log / str(name), READ) as file:
                return file.size()
        except FileNotFoundError:
            return 0

    def is_same(self, name: SegmentName, archived: SegmentObject) -> bool:
        """Tell whether a segment is, byte for byte, the archived one."""
        if str(name) != archived.name:
            return False
        data = self._content(self.log / str(name))
        rest = len(data) - archived.bytes
        return digest_of(data[: archived.bytes]) == archived.sha256 and data.count(0, archived.bytes) == rest

    def crc_before(self) -> int:
        """Return the chain in front of the oldest segment that is there."""
        return self._head()[0]

    def _head(self) -> tuple[int, bytes]:
        """Return what the head of the oldest segment says: the chain in front of it, and the metadata."""
        missing: SegmentName | None = None
        while True:
            name = self.names()[0]
            try:
                segment = self.segment(name, None)
            except FileNotFoundError:
                if name == missing:
                    raise
                missing = name  # purged since it was listed
                continue
            head = next(segment.runs())  # raises if there is none
            return segment.crc_before, head.values[1]

    def _content(self, path: Path) -> bytes:
        with File(self.fs, path, READ) as file:
            return file.read(0, file.size())
