# SPDX-License-Identifier: Apache-2.0
"""What a path on the command line may be: a log, a storage, or the data directory of an etcd member."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from wal import WALNotFoundError, exists

from .outcome import UsageError

__all__ = ["Place", "find"]


class Place(NamedTuple):
    """Where a log is, and the snapshots that ``open_storage`` keeps beside it, if it is in a storage."""

    log: Path
    snapshots: Path | None


def find(path: Path, *, etcd: bool = False) -> Place:
    """
    Find the log in a directory.

    That is the directory itself, the ``wal/`` in a storage's, or the ``member/wal/`` in an etcd member's.

    Raises:
        WALNotFoundError: There is none.
        UsageError: The path is something else, and it can be said what.
    """
    if path.is_file():
        raise UsageError(f"{path} is a file; a log is a directory" + _whose(path))
    if exists_in(path):
        return Place(path, None)
    if etcd:
        for log in (path / "member" / "wal", path / "wal"):
            if exists_in(log):
                return Place(log, None)
    elif exists_in(path / "wal"):
        snapshots = path / "snap"
        return Place(path / "wal", snapshots if snapshots.is_dir() else None)
    elif exists_in(path / "member" / "wal"):
        raise UsageError(f"{path} is the data directory of an etcd member; pass --etcd")
    if not path.exists():
        raise WALNotFoundError(path, "there is no such directory")
    raise WALNotFoundError(path, "there is no log in this directory")


def exists_in(path: Path) -> bool:
    """Tell whether a directory has a log; one that cannot be listed is an ``OSError``."""
    return path.is_dir() and exists(path)


def _whose(path: Path) -> str:
    return f": {path.parent}" if path.suffix == ".wal" else ""
