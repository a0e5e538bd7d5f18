# SPDX-License-Identifier: Apache-2.0
"""
A local directory as a store whose objects are durable.

obstore's ``LocalStore`` creates an object in one step, but syncs nothing: after a power cut the object may be empty,
while the segment that it was to keep has been purged. So objects are created here, and everything else is left to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import randbits
from typing import Any

from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore

from wal._files import CREATE, OPERATING_SYSTEM, File, make_directories, real_path, sync_directory

__all__ = ["Directory"]


class Directory:
    """Objects in a directory, which is made when the first one is created."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = real_path(path)
        self._durable: set[Path] = set()

    def put(self, path: str, file: bytes, *, mode: str) -> None:
        """Create an object. When this returns, it is durable; if it raises, it is there as a whole or not at all."""
        assert mode == "create"
        fs, target = OPERATING_SYSTEM, self.path / path
        make_directories(fs, target.parent)
        if target.parent not in self._durable:
            # Whoever made them may have been killed before their names were durable.
            sync_directory(fs, self.path.parent)
            sync_directory(fs, target.parent.parent)
            self._durable.add(target.parent)
        # A number behind # is the mark of LocalStore for what is in the making: it does not list such files.
        temporary = target.with_name(f"{target.name}#{randbits(63)}")
        try:
            with File(fs, temporary, CREATE) as made:
                made.write(file, 0)
                fs.fsync(made.fd)
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise AlreadyExistsError(f"{target} exists") from None
        finally:
            # Its name may have become durable without this process: who finds it there must be able to rely on it.
            with suppress(FileNotFoundError):
                fs.unlink(temporary)
            sync_directory(fs, target.parent)

    def get(self, path: str) -> Any:
        """Return what ``LocalStore.get`` does."""
        return self._existing().get(path)

    def list(self, prefix: str | None = None) -> Iterable[Sequence[Mapping[str, Any]]]:
        """Yield what ``LocalStore.list`` does; nothing if there is no such directory."""
        if self.path.is_dir():
            yield from LocalStore(self.path).list(prefix)

    def delete(self, paths: str) -> None:
        """Remove an object."""
        self._existing().delete(paths)

    def _existing(self) -> LocalStore:
        if not self.path.is_dir():
            raise FileNotFoundError(f"there is no directory {self.path}")
        return LocalStore(self.path)
