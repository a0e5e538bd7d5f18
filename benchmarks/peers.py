"""
What people in Python use today where they need a log, each set up for the fastest durable save it can do.

A key is the entry's index, so that reading gives the entries in order. Where a store lets threads save at once, they
do, outside of the lock under which indexes are given out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from store import Payloads, Store

__all__ = ["PEERS"]

Pairs = list[tuple[bytes, bytes]]


def _pairs(first: int, payloads: Payloads) -> Pairs:
    return [(_key(index), payload) for index, payload in zip(count(first), payloads)]


def _key(index: int) -> bytes:
    return index.to_bytes(8, "big")


class Scanned(Store):
    """A store that is read by a scan from its first entry to its last."""

    _store: Any

    @classmethod
    def _scan(cls, path: Path, use: Callable[[Iterable[Any]], Any]) -> Any:
        """Open the store, use its entries, and close it."""
        raise NotImplementedError

    @classmethod
    def read_all(cls, path: Path) -> list[Any]:
        return list(cls._scan(path, list))

    @classmethod
    def stream(cls, path: Path) -> int:
        return int(cls._scan(path, lambda entries: sum(1 for _ in entries)))

    def close(self) -> None:
        self._store.close()


class SQLite(Scanned):
    def __init__(self, path: Path, *, sync: bool, most_bytes: int) -> None:
        path.mkdir()
        self._store = self._connect(path)
        self._store.execute("PRAGMA journal_mode = WAL")
        self._store.execute(f"PRAGMA synchronous = {'FULL' if sync else 'OFF'}")
        self._store.execute("CREATE TABLE log (entry INTEGER PRIMARY KEY, data BLOB NOT NULL)")

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path / "log.sqlite", isolation_level=None, check_same_thread=False)

    @staticmethod
    def describe() -> dict[str, Any]:
        return {"version": sqlite3.sqlite_version}

    @staticmethod
    def batch(first: int, payloads: Payloads) -> list[tuple[int, bytes]]:
        return list(zip(count(first), payloads))

    def save(self, batch: list[tuple[int, bytes]]) -> None:
        self._store.execute("BEGIN IMMEDIATE")
        self._store.executemany("INSERT INTO log VALUES (?, ?)", batch)
        self._store.execute("COMMIT")

    @classmethod
    def _scan(cls, path: Path, use: Callable[[Iterable[Any]], Any]) -> Any:
        with closing(cls._connect(path)) as database:
            return use(database.execute("SELECT entry, data FROM log ORDER BY entry"))

    @classmethod
    @contextmanager
    def by_index(cls, path: Path) -> Iterator[Callable[[int], Any]]:
        with closing(cls._connect(path)) as database:
            yield lambda index: database.execute("SELECT data FROM log WHERE entry = ?", (index,)).fetchone()[0]


class LMDB(Scanned):
    def __init__(self, path: Path, *, sync: bool, most_bytes: int) -> None:
        import lmdb

        self._store = lmdb.open(str(path), map_size=4 << 30, sync=sync, metasync=sync)

    @staticmethod
    def describe() -> dict[str, Any]:
        return {"version": version("lmdb")}

    batch = staticmethod(_pairs)

    def save(self, batch: Pairs) -> None:
        with self._store.begin(write=True) as transaction:
            transaction.cursor().putmulti(batch, append=True)

    @classmethod
    def _scan(cls, path: Path, use: Callable[[Iterable[Any]], Any]) -> Any:
        import lmdb

        with lmdb.open(str(path), map_size=4 << 30) as store, store.begin() as transaction:
            return use(transaction.cursor())

    @classmethod
    @contextmanager
    def by_index(cls, path: Path) -> Iterator[Callable[[int], Any]]:
        import lmdb

        with lmdb.open(str(path), map_size=4 << 30) as store, store.begin() as transaction:
            yield lambda index: transaction.get(_key(index))


class LogStructured(Scanned):
    """LevelDB and RocksDB let threads save at once."""

    batch = staticmethod(_pairs)

    def submit(self, batch: Pairs) -> Callable[[], None]:
        return partial(self.save, batch)


class Plyvel(LogStructured):
    def __init__(self, path: Path, *, sync: bool, most_bytes: int) -> None:
        import plyvel

        self._store = plyvel.DB(str(path), create_if_missing=True)
        self._sync = sync

    @staticmethod
    def describe() -> dict[str, Any]:
        return {"version": version("plyvel")}

    def save(self, batch: Pairs) -> None:
        with self._store.write_batch(sync=self._sync) as changes:
            for key, payload in batch:
                changes.put(key, payload)

    @classmethod
    def _scan(cls, path: Path, use: Callable[[Iterable[Any]], Any]) -> Any:
        import plyvel

        with closing(plyvel.DB(str(path))) as store:
            return use(store)

    @classmethod
    @contextmanager
    def by_index(cls, path: Path) -> Iterator[Callable[[int], Any]]:
        import plyvel

        with closing(plyvel.DB(str(path))) as store:
            yield lambda index: store.get(_key(index))


class RocksDict(LogStructured):
    def __init__(self, path: Path, *, sync: bool, most_bytes: int) -> None:
        import rocksdict

        self._new_batch = partial(rocksdict.WriteBatch, raw_mode=True)
        self._store = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
        self._options = rocksdict.WriteOptions()
        self._options.sync = sync

    @staticmethod
    def describe() -> dict[str, Any]:
        return {"version": version("rocksdict")}

    def save(self, batch: Pairs) -> None:
        changes = self._new_batch()
        for key, payload in batch:
            changes.put(key, payload)
        self._store.write(changes, write_opt=self._options)

    @classmethod
    def _scan(cls, path: Path, use: Callable[[Iterable[Any]], Any]) -> Any:
        import rocksdict

        with closing(rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))) as store:
            return use(store.items())

    @classmethod
    @contextmanager
    def by_index(cls, path: Path) -> Iterator[Callable[[int], Any]]:
        import rocksdict

        with closing(rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))) as store:
            yield lambda index: store.get(_key(index))


class PySyncObj(Store):
    """The journal that a PySyncObj node keeps; a save ends with ``flush``, which the node itself does not call."""

    def __init__(self, path: Path, *, sync: bool, most_bytes: int) -> None:
        from pysyncobj.journal import FileJournal

        path.mkdir()
        self._journal = FileJournal(str(path / "journal"))
        self._sync = sync

    @staticmethod
    def describe() -> dict[str, Any]:
        return {"version": version("pysyncobj")}

    @staticmethod
    def batch(first: int, payloads: Payloads) -> list[tuple[int, bytes]]:
        return list(zip(count(first), payloads))

    def save(self, batch: list[tuple[int, bytes]]) -> None:
        for index, payload in batch:
            self._journal.add(payload, index, 1)
        if self._sync:
            self._journal.flush()

    def close(self) -> None:
        self._journal._destroy()

    @classmethod
    def read_all(cls, path: Path) -> Any:
        from pysyncobj.journal import FileJournal

        journal = FileJournal(str(path / "journal"))
        journal._destroy()
        return journal


PEERS: dict[str, type[Store]] = {
    "sqlite3": SQLite,
    "lmdb": LMDB,
    "plyvel": Plyvel,
    "rocksdict": RocksDict,
    "PySyncObj": PySyncObj,
}
