# SPDX-License-Identifier: Apache-2.0
"""
Progress: how far the segments of a log have been read, seen from below.

Every read of a log goes through a ``FileSystem``. One that counts what passes tells how far a long read is, and the
code that reads need not know of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from ._files import READ, File, FileSystem
from ._segments import segments_from

__all__ = ["Progress", "watched"]

Progress = Callable[[int, int], None]
"""``progress(bytes_done, bytes_total)``"""


def watched(fs: FileSystem, directory: Path, index: int | None, progress: Progress | None) -> FileSystem:
    """
    Return a file system that calls ``progress`` after each read of one of the segments behind entry ``index``.

    The total is the length of the segments now, the reserved space behind their ends included. What is read twice
    counts once, and bytes that are appended meanwhile do not count: the numbers grow, and the total stays.
    """
    if progress is None:
        return fs
    sizes: dict[Path, int] = {}
    for name in segments_from(fs, directory, index):
        try:
            with File(fs, directory / str(name), READ) as file:
                sizes[file.path] = file.size()
        except FileNotFoundError:
            continue  # purged since it was listed
    return cast(FileSystem, _Watched(fs, sizes, progress))


class _Watched:
    """Passes every call on, and looks at what is read."""

    def __init__(self, fs: FileSystem, sizes: dict[Path, int], progress: Progress) -> None:
        self._fs = fs
        self._sizes = sizes
        self._progress = progress
        self._paths: dict[int, Path] = {}
        self._read: dict[Path, int] = {}
        self._total = sum(sizes.values())
        self._done = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def open(self, path: Path, flags: int) -> int:
        fd = self._fs.open(path, flags)
        self._paths[fd] = path
        return fd

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        data = self._fs.pread(fd, length, offset)
        path = self._paths[fd]
        before = self._read.get(path, 0)
        reached = min(offset + len(data), self._sizes.get(path, 0))
        if reached > before:
            self._read[path] = reached
            self._done += reached - before
            self._progress(self._done, self._total)
        return data
