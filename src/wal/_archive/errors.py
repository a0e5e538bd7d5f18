# SPDX-License-Identifier: Apache-2.0
"""The errors of an archive: misuse and damage as in the library, and what is the matter with a store."""

from __future__ import annotations

import errno
from pathlib import Path

from wal._errors import CorruptionError, WALError, WALUsageError

__all__ = ["ArchiveConflictError", "ArchiveDamagedError", "ArchiveNotFoundError", "ArchiveStoreError"]


class ArchiveConflictError(WALUsageError):
    """
    The archive is that of another log, or of another course of this one.

    A log that was restored to an earlier index, or from an older copy, goes on otherwise than its archive. Archive it
    to a new place. Nothing in the archive was replaced.

    Attributes:
        archive: The archive's place.
    """

    def __init__(self, archive: str, reason: str) -> None:
        super().__init__(reason)
        self.archive = archive

    def __str__(self) -> str:
        return f"{self.archive}: {self.reason}"


class ArchiveDamagedError(CorruptionError):
    """
    An object of the archive is missing, or is not what was uploaded.

    ``path`` is the object's name, and ``offset`` the byte in it.

    Attributes:
        archive: The archive's place.
    """

    def __init__(self, archive: str, name: str, reason: str, *, offset: int = 0) -> None:
        super().__init__(Path(name), offset, reason)
        self.archive = archive

    def __str__(self) -> str:
        place = f" at byte {self.offset:,}" if self.offset else ""
        return f"{self.archive}: {self.path.as_posix()}{place}: {self.reason}"


class ArchiveNotFoundError(WALError, FileNotFoundError):
    """
    There is no archive at this place, or nothing in it yet.

    Attributes:
        archive: The archive's place.
    """

    errno: int = errno.ENOENT

    def __init__(self, archive: str, reason: str) -> None:
        super().__init__(reason)
        self.archive = archive

    def __str__(self) -> str:
        return f"{self.archive}: {self.reason}"


class ArchiveStoreError(WALError, OSError):
    """
    The store did not answer, or refused. What it answered is the ``__cause__``.

    A request that failed may have been carried out all the same. The next try finds out, and does nothing twice.

    Attributes:
        archive: The archive's place.
    """

    errno: int = errno.EIO

    def __init__(self, archive: str, reason: str) -> None:
        super().__init__(reason)
        self.archive = archive

    def __str__(self) -> str:
        return f"{self.archive}: {self.reason}"
