"""The library itself, as the worker measures it."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import wal
from store import Payloads, Store
from wal.aio import AsyncWAL

__all__ = ["Ours", "OursUnzeroed"]

Batch = list[wal.Entry]


class Ours(Store):
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, path: Path, *, sync: bool, most_bytes: int) -> None:
        self._log = wal.WAL.create(path, sync=sync, **self.options)

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
        return [wal.Entry(first + i, payload) for i, payload in enumerate(payloads)]

    def save(self, batch: Batch) -> None:
        self._log.save(None, batch)

    def submit(self, batch: Batch) -> Callable[[], None]:
        return self._log.submit(None, batch).wait

    @asynccontextmanager
    async def for_tasks(self) -> AsyncIterator[Callable[[Batch], Awaitable[None]]]:
        async with AsyncWAL(self._log) as log:
            yield lambda batch: log.save(None, batch)

    def close(self) -> None:
        self._log.close()

    @classmethod
    def read_all(cls, path: Path) -> list[wal.LogEntry]:
        return wal.WALReader(path).read_all().entries

    @classmethod
    def stream(cls, path: Path) -> int:
        return _entries_among(wal.WALReader(path))

    @classmethod
    @contextmanager
    def by_index(cls, path: Path) -> Iterator[Callable[[int], Any]]:
        reader = wal.WALReader(path)
        assert reader.last_index
        yield reader.entry

    @classmethod
    @contextmanager
    def follow(cls, path: Path) -> Iterator[Iterator[Any]]:
        with wal.WALReader(path).follow() as records:
            yield (record for record in records if record.type is wal.RecordType.ENTRY)

    @classmethod
    def open(cls, path: Path) -> tuple[int, Callable[[], None]]:
        log = wal.WAL.open(path)
        return _entries_among(log.replay()), log.close


class OursUnzeroed(Ours):
    """Without zeros ahead of the end."""

    options: ClassVar[dict[str, Any]] = {"zero_ahead_bytes": 0}


def _entries_among(records: Iterable[wal.LogRecord]) -> int:
    return sum(1 for record in records if record.type is wal.RecordType.ENTRY)
