"""What the worker needs of a store to measure it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sized
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any

__all__ = ["MissingError", "Payloads", "Store"]

Payloads = list[bytes]


class MissingError(Exception):
    """A store, or one of its abilities, is not there. The message says why, and the row goes on without it."""


def _nothing_to_wait_for() -> None:
    return


class Store(ABC):
    """
    A log, or what is used as one: it is made anew at a path, saves batches of entries, and is read back.

    Args:
        path: Where to make it. Nothing is there yet.
        sync: Whether each save must be durable when it returns.
        most_bytes: More than this will not be saved; for those that reserve space.
    """

    @abstractmethod
    def __init__(self, path: Path, *, sync: bool, most_bytes: int) -> None: ...

    @staticmethod
    @abstractmethod
    def describe() -> dict[str, Any]:
        """Return the ``version`` of what is measured, and what else a reader must know of it."""

    @staticmethod
    @abstractmethod
    def batch(first: int, payloads: Payloads) -> Any:
        """Return what ``save`` takes for entries with indexes from ``first`` on. It is made before the clock starts."""

    @abstractmethod
    def save(self, batch: Any) -> None:
        """Save a batch. When this returns, it is durable."""

    def submit(self, batch: Any) -> Callable[[], None]:
        """
        Take a batch from one of several threads, which hold a lock for this, so that indexes come in order.

        What is returned is called without the lock; when that returns, the batch is durable.
        """
        self.save(batch)
        return _nothing_to_wait_for

    def for_tasks(self) -> AbstractAsyncContextManager[Callable[[Any], Awaitable[None]]]:
        """Have ``save`` as a coroutine function, and the store closed behind it."""
        raise MissingError("it has no asyncio interface")

    @abstractmethod
    def close(self) -> None: ...

    @classmethod
    def read_all(cls, path: Path) -> Sized:
        """Open the log there, and return all entries at once."""
        raise MissingError("it does not read")

    @classmethod
    def stream(cls, path: Path) -> int:
        """Open the log there, look at one entry after the other, and return how many there are."""
        raise MissingError("it does not stream")

    @classmethod
    def by_index(cls, path: Path) -> AbstractContextManager[Callable[[int], Any]]:
        """Open the log there, and give what returns the entry with an index."""
        raise MissingError("it has no entries by index")

    @classmethod
    def follow(cls, path: Path) -> AbstractContextManager[Iterator[Any]]:
        """Give an iterator over the entries there that waits for those to come, until the block is left."""
        raise MissingError("it cannot be followed")

    @classmethod
    def open(cls, path: Path) -> tuple[int, Callable[[], None]]:
        """Open the log there for appending, with all checks; return how many entries it has, and what closes it."""
        raise MissingError("it has no log to open")
