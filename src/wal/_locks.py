# SPDX-License-Identifier: Apache-2.0
"""
The locks that keep a second writer out.

A writer locks each segment that it holds, and the directory. On Linux a segment's lock is an *open file
description* lock (``F_OFD_SETLK``), because that is what etcd takes, and because it does not see ``flock``:
with ``flock`` a Go process and this one would both be granted the same log. It is also the only kind that is
dropped neither when another descriptor of the file is closed in this process, nor by a ``fork``.
The directory's own lock is a ``flock`` on its descriptor, which makes no file and orders our writers among
themselves, also while there is no segment yet. Other systems have portalocker's default for both.

Locks are never waited for.
"""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Callable
from typing import Any

import portalocker
from portalocker import LockFlags

__all__ = ["lock_directory", "lock_file", "unlock_directory", "unlock_file"]

_AT_ONCE = LockFlags.EXCLUSIVE | LockFlags.NON_BLOCKING
if sys.platform == "linux":
    import fcntl

    from portalocker.portalocker import FlockLocker, PosixLocker

    def _open_file_description(fd: int, flags: int) -> None:
        kind = fcntl.F_UNLCK if flags & LockFlags.UNBLOCK else fcntl.F_WRLCK
        # struct flock: type, whence, start, length (0: to the end, however the file grows), process (must be 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, 0, 0, 0))

    class _OpenFileDescriptionLocker(PosixLocker):
        @property
        def locker(self) -> Callable[[Any, int], Any]:
            return _open_file_description

    _files, _directories = _OpenFileDescriptionLocker(), FlockLocker()
    _lock_file, _unlock_file = _files.lock, _files.unlock
    _lock_directory, _unlock_directory = _directories.lock, _directories.unlock
else:  # pragma: no cover - CI runs on Linux
    _lock_file = _lock_directory = portalocker.lock
    _unlock_file = _unlock_directory = portalocker.unlock


def _run(call: Callable[..., None], *arguments: Any) -> None:
    try:
        call(*arguments)
    except portalocker.AlreadyLocked:
        raise BlockingIOError(errno.EAGAIN, "another writer holds the lock") from None
    except portalocker.LockException as error:
        # portalocker wraps the OSError of the system call; callers of the file seam expect the OSError itself.
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise OSError(errno.ENOLCK, f"the lock operation failed: {error}") from error


def lock_file(fd: int) -> None:
    """Lock a segment for this open descriptor; ``BlockingIOError`` if another one holds it."""
    _run(_lock_file, fd, _AT_ONCE)


def unlock_file(fd: int) -> None:
    """Drop the lock of a segment, also for descriptors that a forked child has inherited."""
    _run(_unlock_file, fd)


def lock_directory(fd: int) -> None:
    """Lock a directory for this open descriptor; ``BlockingIOError`` if another one holds it."""
    _run(_lock_directory, fd, _AT_ONCE)


def unlock_directory(fd: int) -> None:
    """Drop the lock of a directory, also for descriptors that a forked child has inherited."""
    _run(_unlock_directory, fd)
