"""Logs as bytes in memory, to read thousands of damaged ones in a second."""

from __future__ import annotations

from pathlib import Path

import wal
from wal import LogRecord
from wal._files import OperatingSystem

HERE = Path("/log")
"""Where every such log seems to be."""

Files = dict[str, bytes]


class Image(OperatingSystem):
    """A directory of files that can only be read."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.opened: list[bytes] = []

    def listdir(self, path: Path) -> list[str]:
        return list(self.files)

    def open(self, path: Path, flags: int) -> int:
        self.opened.append(self.files[path.name])
        return len(self.opened) - 1

    def close(self, fd: int) -> None:
        self.opened[fd] = b""

    def size(self, fd: int) -> int:
        return len(self.opened[fd])

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return self.opened[fd][offset : offset + length]


def read(files: Files) -> tuple[list[LogRecord], wal.WALError | None]:
    """Return the records that a reader yields, and the error or the torn end that stops it."""
    reader = wal.WALReader(HERE, fs=Image(files))
    records: list[LogRecord] = []
    try:
        for record in reader:
            records.append(record)  # noqa: PERF402 - those before an error are wanted
    except wal.WALError as error:
        return records, error
    return records, reader.tail


def load(path: Path) -> Files:
    """Return the segments of a log on disk."""
    return {file.name: file.read_bytes() for file in sorted(path.glob("*.wal"))}


def store(files: Files, path: Path) -> Path:
    """Write the segments of a log to a new directory, or over those of an old one."""
    path.mkdir(exist_ok=True)
    for file in path.iterdir():
        file.unlink()
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path
