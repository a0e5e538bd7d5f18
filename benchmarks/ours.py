"""The library itself, as the worker measures it."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import wal
from store import MissingError, Payloads, Store

__all__ = ["Ours"]

Batch = tuple[wal.CommitState, list[wal.Entry]]


class Ours(Store):
    def __init__(self, path: Path, *, sync: bool, most_bytes: int) -> None:
        self._log: Any = wal.WAL.create(path, sync=sync)

    @staticmethod
    def describe() -> dict[str, Any]:
        try:
            release = version("wal")
        except PackageNotFoundError:
            release = "not installed, run from its source"
        return {
            "version": release,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "crc_backend": wal.crc_backend(),
            "compiled": getattr(wal, "__compiled__", False),
        }

    @staticmethod
    def batch(first: int, payloads: Payloads) -> Batch:
        entries = [wal.Entry(first + i, payload) for i, payload in enumerate(payloads)]
        return wal.CommitState(entries[-1].index), entries

    def save(self, batch: Batch) -> None:
        self._log.save(*batch)

    def submit(self, batch: Batch) -> Callable[[], None]:
        _, entries = batch
        if not hasattr(self._log, "submit"):
            raise MissingError("this version of the library has no WAL.submit")
        wait: Callable[[], None] = self._log.submit(None, entries).wait
        return wait

    def for_tasks(self) -> Callable[[Batch], Awaitable[None]]:
        try:
            log = import_module("wal.aio").AsyncWAL(self._log)
        except ImportError:
            raise MissingError("this version of the library has no wal.aio") from None

        def save(batch: Batch) -> Awaitable[None]:
            saved: Awaitable[None] = log.save(None, batch[1])
            return saved

        return save

    def close(self) -> None:
        self._log.close()

    @classmethod
    def read_all(cls, path: Path) -> list[wal.LogEntry]:
        return wal.WALReader(path).read_all().entries

    @classmethod
    def stream(cls, path: Path) -> int:
        return _entries_among(wal.WALReader(path))

    @classmethod
    def open(cls, path: Path) -> tuple[int, Callable[[], None]]:
        log = wal.WAL.open(path)
        return _entries_among(log.replay()), log.close


def _entries_among(records: Iterable[wal.LogRecord]) -> int:
    return sum(1 for record in records if record.type is wal.RecordType.ENTRY)
