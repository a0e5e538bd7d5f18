# SPDX-License-Identifier: Apache-2.0
"""
The seam between the log and the operating system.

Everything that the library does to a disk goes through one ``FileSystem`` object of some twenty thin calls.
``OperatingSystem`` is the real one; a test puts another in its place to lose writes, fail calls or cut the power.
Nothing here decides anything about logs.

``File`` adds what every caller of those calls needs: whole reads and writes, and closing exactly once.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ._locks import lock_directory, lock_file, unlock_directory, unlock_file

__all__ = [
    "OPERATING_SYSTEM",
    "File",
    "FileSystem",
    "OperatingSystem",
    "make_directories",
    "open_directory",
    "real_path",
    "remove_directories",
    "sync_directory",
]

READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe in the place of a segment must not hang
READ_WRITE = os.O_RDWR
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL


class FileSystem(Protocol):
    """
    What a log asks of a file system. Calls raise ``OSError`` as those of ``os`` do.

    A write is durable after ``fdatasync`` or ``fsync`` of its file returned; a new, renamed or removed name is
    durable after ``fsync`` of its directory returned. ``rename`` replaces the target in one step.
    """

    def open(self, path: Path, flags: int) -> int:
        """Open a file, with mode 0600 if it is created, or a directory for reading; return its descriptor."""

    def close(self, fd: int) -> None:
        """Close a descriptor."""

    def size(self, fd: int) -> int:
        """Return the file's length in bytes."""

    def is_at(self, fd: int, path: Path) -> bool:
        """Tell whether ``path`` still names what ``fd`` has open."""

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Read up to ``length`` bytes; fewer are returned at the end of the file, or by chance."""

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write; return how many bytes were taken."""

    def truncate(self, fd: int, size: int) -> None:
        """Set the file's length."""

    def allocate(self, fd: int, size: int) -> None:
        """Reserve zero-filled space up to ``size`` bytes; do nothing where that cannot be done."""

    def fdatasync(self, fd: int) -> None:
        """Make the file's content durable."""

    def fsync(self, fd: int) -> None:
        """Make a file or the names in a directory durable."""

    def lock(self, fd: int) -> None:
        """Lock an open file for this descriptor alone; ``BlockingIOError`` at once if another has it."""

    def unlock(self, fd: int) -> None:
        """Drop the lock of an open file, also for a forked child that inherited the descriptor."""

    def lock_directory(self, fd: int) -> None:
        """Lock an open directory, as ``lock`` does a file."""

    def unlock_directory(self, fd: int) -> None:
        """Drop the lock of an open directory, as ``unlock`` does a file's."""

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, replacing what had it."""

    def unlink(self, path: Path) -> None:
        """Remove a file's name."""

    def mkdir(self, path: Path) -> None:
        """Make a directory with mode 0700."""

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""

    def is_directory(self, path: Path) -> bool:
        """Tell whether there is a directory."""

    def listdir(self, path: Path) -> list[str]:
        """Return the names in a directory, in any order."""


class OperatingSystem:
    """The file system of the machine."""

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)

    def close(self, fd: int) -> None:
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def is_at(self, fd: int, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(path))
        except FileNotFoundError:
            return False

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def allocate(self, fd: int, size: int) -> None:
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            # Preallocation is a favour to later writes; only a full disk is worth hearing of.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV):
                raise

    if sys.platform == "darwin":  # pragma: no cover - fsync on macOS leaves the data in the drive's cache

        def fdatasync(self, fd: int) -> None:
            self.fsync(fd)

        def fsync(self, fd: int) -> None:
            import fcntl

            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

    else:

        def fdatasync(self, fd: int) -> None:
            os.fdatasync(fd)

        def fsync(self, fd: int) -> None:
            os.fsync(fd)

    def lock(self, fd: int) -> None:
        lock_file(fd)

    def unlock(self, fd: int) -> None:
        unlock_file(fd)

    def lock_directory(self, fd: int) -> None:
        lock_directory(fd)

    def unlock_directory(self, fd: int) -> None:
        unlock_directory(fd)

    def rename(self, old: Path, new: Path) -> None:
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path, 0o700)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def is_directory(self, path: Path) -> bool:
        return path.is_dir()

    def listdir(self, path: Path) -> list[str]:
        return os.listdir(path)


OPERATING_SYSTEM: FileSystem = OperatingSystem()


class File:
    """One open file. ``path`` is the name it was opened by, or was renamed to."""

    def __init__(self, fs: FileSystem, path: Path, flags: int) -> None:
        self.fs = fs
        self.path = path
        self._fd: int | None = fs.open(path, flags)

    @property
    def fd(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path} is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd is None

    def size(self) -> int:
        return self.fs.size(self.fd)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on, fewer only at the end of the file."""
        data = self.fs.pread(self.fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        while data:
            offset += len(data)
            length -= len(data)
            data = self.fs.pread(self.fd, length, offset)
            parts.append(data)
        return b"".join(parts)

    def write(self, data: bytes, offset: int) -> None:
        """Write all of ``data``; ``OSError`` if the system stops taking bytes."""
        written = self.fs.pwrite(self.fd, data, offset)
        if written == len(data):
            return
        rest = memoryview(data)
        while written < len(rest):
            if written <= 0:
                raise OSError(errno.EIO, "the system took no byte of a write", str(self.path))
            rest, offset = rest[written:], offset + written
            written = self.fs.pwrite(self.fd, rest, offset)

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            self.fs.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def real_path(path: str | os.PathLike[str]) -> Path:
    """
    Return the absolute path behind all symbolic links.

    So a later ``chdir`` does no harm, and a directory's parent is the one whose sync makes its name durable.
    """
    return Path(os.path.realpath(path))


def open_directory(fs: FileSystem, path: Path) -> File:
    """Open a directory, to lock it or to sync the names in it."""
    return File(fs, path, READ | getattr(os, "O_DIRECTORY", 0))


def sync_directory(fs: FileSystem, path: Path) -> None:
    """Make the names in a directory durable."""
    with open_directory(fs, path) as directory:
        fs.fsync(directory.fd)


def make_directories(fs: FileSystem, path: Path) -> list[Path]:
    """Make a directory and its missing parents, durably; return those that were made, the outermost first."""
    missing = []
    while not fs.is_directory(path):
        missing.append(path)
        path = path.parent
    made: list[Path] = []
    try:
        for directory in reversed(missing):
            try:
                fs.mkdir(directory)
                made.append(directory)
            except FileExistsError:
                if not fs.is_directory(directory):
                    raise NotADirectoryError(f"{directory} is not a directory") from None
            sync_directory(fs, directory.parent)
    except BaseException:
        remove_directories(fs, made)
        raise
    return made


def remove_directories(fs: FileSystem, made: list[Path]) -> None:
    """Remove what ``make_directories`` made, as far as it is empty."""
    with suppress(OSError):
        for directory in reversed(made):
            fs.rmdir(directory)
