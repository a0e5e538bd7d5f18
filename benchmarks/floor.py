"""
The floor: one ``write`` and one ``fdatasync`` of as many bytes as this library writes. No log in any language that
keeps its promise on this disk does with less.

There are two of them, because an ``fdatasync`` into blocks that were never written must also commit to the journal of
the file system that they now are: ``fresh`` has its blocks reserved (``posix_fallocate``), as etcd does; ``zeroed``
has had zeros written to them, and synced, before the clock starts.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import wal
from machine import system
from store import Payloads, Store

__all__ = ["FreshFloor", "ZeroedFloor"]

_BLOCK = 1 << 20


@cache
def bytes_of_save(entries: int, payload_bytes: int) -> int:
    """Return how many bytes this library writes for a save like this."""
    with tempfile.TemporaryDirectory() as directory, wal.WAL.create(Path(directory, "log"), sync=False) as log:
        sizes = []
        for _ in range(2):
            first = log.last_index + 1
            log.save(None, [wal.Entry(first + i, bytes(payload_bytes)) for i in range(entries)])
            sizes.append(wal.verify(log.path).bytes)
        return sizes[1] - sizes[0]


class FreshFloor(Store):
    def __init__(self, path: Path, *, sync: bool, most_bytes: int) -> None:
        path.mkdir()
        self._sync = sync
        self._offset = 0
        self._file = os.open(path / "floor", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._reserve(most_bytes)
        os.fsync(self._file)

    def _reserve(self, most_bytes: int) -> None:
        os.posix_fallocate(self._file, 0, most_bytes)

    @staticmethod
    def describe() -> dict[str, Any]:
        return {"version": system()}

    @staticmethod
    def batch(first: int, payloads: Payloads) -> bytes:
        return b"\xff" * bytes_of_save(len(payloads), len(payloads[0]))

    def save(self, batch: bytes) -> None:
        self._offset += os.pwrite(self._file, batch, self._offset)
        if self._sync:
            os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


class ZeroedFloor(FreshFloor):
    def _reserve(self, most_bytes: int) -> None:
        zeros = bytes(_BLOCK)
        for offset in range(0, most_bytes, _BLOCK):
            os.pwrite(self._file, zeros, offset)
