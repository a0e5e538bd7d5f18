# SPDX-License-Identifier: Apache-2.0
"""
Objects: the few requests that an archive makes of a store, and what their failures are called.

An object is created once; nothing is ever replaced. Everything that a store reports becomes an error of this library
here, with the store's own as its cause.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from .directory import Directory
from .errors import ArchiveDamagedError, ArchiveStoreError

__all__ = ["ObjectStore", "Objects", "open_objects"]


@runtime_checkable
class ObjectStore(Protocol):
    """
    What an archive asks of a store; every store of obstore has it.

    A request that has returned is seen by every later one, of whatever client. Of several clients that create the same
    object at once, one succeeds. Errors are those of obstore.
    """

    def put(self, path: str, file: bytes, *, mode: Any) -> Any:
        """
        Create an object as a whole, durably; ``mode`` is ``"create"``.

        Raises:
            obstore.exceptions.AlreadyExistsError: There is one already.
        """

    def get(self, path: str) -> Any:
        """
        Return something whose ``meta["size"]`` is the object's length, and whose ``bytes()`` is its content.

        Raises:
            FileNotFoundError: There is no such object.
        """

    def list(self, prefix: str | None = None) -> Iterable[Sequence[Mapping[str, Any]]]:
        """Yield lists of the objects below a prefix, each with its ``path``."""

    def delete(self, paths: str) -> Any:
        """Remove an object. That there is none may be an error, or not."""


class Objects:
    """The objects of one archive; ``place`` says in messages where that is."""

    def __init__(self, store: ObjectStore, place: str) -> None:
        self._store = store
        self.place = place

    def create(self, name: str, data: bytes) -> bool:
        """Create an object; tell whether it was us, and not another one before."""
        with self._failures(f"creating {name}"):
            try:
                self._store.put(name, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def read(self, name: str, size: int | None = None) -> bytes | None:
        """
        Return an object's content; ``None`` if there is no such object.

        Raises:
            ArchiveDamagedError: It does not have ``size`` bytes. It is not read then.
        """
        with self._failures(f"reading {name}"):
            try:
                found = self._store.get(name)
                length = found.meta["size"]
                if size is None or length == size:
                    return bytes(found.bytes())
            except FileNotFoundError:
                return None
        raise ArchiveDamagedError(self.place, name, f"it has {length:,} bytes instead of {size:,}")

    def names(self, folder: str) -> set[str]:
        """Return the names of the objects in a folder."""
        with self._failures(f"listing {folder}/"):
            return {found["path"] for part in self._store.list(folder) for found in part}

    def uploaded(self) -> set[str]:
        """Return the names of all objects that a manifest is there to name."""
        return self.names("segments") | self.names("snapshots")

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self._failures(f"deleting {name}"):
            try:
                self._store.delete(name)
            except FileNotFoundError:
                return

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            first_line = str(error).partition("\n")[0]  # what follows is for whoever debugs the store's client
            raise ArchiveStoreError(self.place, f"{doing} failed: {first_line}") from error


def open_objects(store: str | os.PathLike[str] | ObjectStore) -> Objects:
    """
    Return the objects at a URL, in a local directory, or of a store.

    Raises:
        ArchiveStoreError: The URL is none, or not complete.
    """
    if isinstance(store, str) and "://" in store:
        parts = urlsplit(store)
        if parts.scheme != "file":
            try:
                return Objects(from_url(store), store)
            except (BaseError, ValueError, OSError) as error:
                first_line = str(error).partition("\n")[0]
                raise ArchiveStoreError(store, f"this is not a store's URL: {first_line}") from error
        return Objects(Directory(unquote(parts.path)), store)
    if isinstance(store, str | os.PathLike):
        return Objects(Directory(store), str(Path(store)))
    if isinstance(store, LocalStore):
        return Objects(Directory(store.prefix or "/"), repr(store))
    return Objects(store, repr(store))
