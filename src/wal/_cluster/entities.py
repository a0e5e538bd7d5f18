# SPDX-License-Identifier: Apache-2.0
"""
What the small keys say: format, owner, tail and the manifests of snapshots.

All of them are JSON with a checksum, and made so that they tell something to whoever looks at them with ``etcdctl``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from wal._errors import CorruptionError

from .sealed import seal, unseal

__all__ = ["BEGINNING", "End", "Format", "Manifest", "Owner", "Tail", "path_of"]

FORMAT = 1


def path_of(key: bytes) -> Path:
    """Return a key as errors have it."""
    return Path(key.decode())


class End(NamedTuple):
    """
    Where a batch ends: all that reading or writing on from there depends on.

    Attributes:
        batch: Its number; 0 is in front of the first one.
        crc: The CRC chain behind it.
        entry: The index of the last entry.
        marker: The greatest index of a snapshot marker.
    """

    batch: int
    crc: int
    entry: int
    marker: int


BEGINNING = End(0, 0, 0, 0)


class Format(NamedTuple):
    """
    What was given when the storage was made.

    Attributes:
        metadata: The application's.
    """

    metadata: bytes

    def value(self) -> bytes:
        """Return what stands at the key."""
        return seal({"format": FORMAT, "metadata": _text(self.metadata)})

    @classmethod
    def of(cls, value: bytes, key: bytes) -> Self:
        """Read what stands at the key; ``CorruptionError`` if it is not that, or of a later version."""
        return _read(value, key, cls._of)

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Self:
        if fields["format"] != FORMAT:
            raise ValueError(
                f"the format {fields['format']!r} is not known; this version of the library knows {FORMAT}"
            )
        return cls(_bytes(fields["metadata"]))


class Owner(NamedTuple):
    """
    Who may write.

    Attributes:
        epoch: How many owners there have been.
        host: Where it runs.
        pid: Which process it is.
        token: Random, so that no two are equal.
    """

    epoch: int
    host: str
    pid: int
    token: str

    def value(self) -> bytes:
        """Return what stands at the key."""
        return seal(self._asdict())

    @classmethod
    def of(cls, value: bytes, key: bytes) -> Self:
        """Read what stands at the key; ``CorruptionError`` if it is not that."""
        return _read(value, key, cls._of)

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Self:
        return cls(_number(fields["epoch"]), str(fields["host"]), _number(fields["pid"]), str(fields["token"]))

    def __str__(self) -> str:
        return f"epoch {self.epoch}, process {self.pid} on {self.host}"


class Tail(NamedTuple):
    """
    Where the log ends, and what the last save said.

    Attributes:
        epoch: That of the owner who wrote it.
        end: Where the last batch ends.
        first: Where the batch ended in front of the first one that is there.
        state: The last hard state; ``None`` if none was saved.
    """

    epoch: int
    end: End
    first: End
    state: bytes | None

    def value(self) -> bytes:
        """Return what stands at the key."""
        state = None if self.state is None else _text(self.state)
        return seal({"epoch": self.epoch, **_fields(self.end), "state": state, "behind": _fields(self.first)})

    @classmethod
    def of(cls, value: bytes, key: bytes) -> Self:
        """Read what stands at the key; ``CorruptionError`` if it is not that."""
        return _read(value, key, cls._of)

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Self:
        state = None if fields["state"] is None else _bytes(fields["state"])
        return cls(_number(fields["epoch"]), _end(fields), _end(fields["behind"]), state)


class Manifest(NamedTuple):
    """
    A snapshot that the log knows.

    Attributes:
        covers: The index of the last entry that it covers.
        behind: Where the batch ended in front of the first one that reading from this snapshot on needs.
        upload: Whose chunks it consists of.
        chunks: How many there are; 0: it is in the object store.
        size: How many bytes it has.
    """

    covers: int
    behind: End
    upload: str
    chunks: int
    size: int

    def value(self) -> bytes:
        """Return what stands at the key."""
        return seal({**self._asdict(), "behind": _fields(self.behind)})

    @classmethod
    def of(cls, value: bytes, key: bytes) -> Self:
        """Read what stands at the key; ``CorruptionError`` if it is not that."""
        return _read(value, key, cls._of)

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Self:
        return cls(
            _number(fields["covers"]),
            _end(fields["behind"]),
            str(fields["upload"]),
            _number(fields["chunks"]),
            _number(fields["size"]),
        )


_T = TypeVar("_T")


def _read(value: bytes, key: bytes, make: Callable[[dict[str, Any]], _T]) -> _T:
    path = path_of(key)
    try:
        return make(unseal(value, path))
    except (LookupError, TypeError, ValueError) as error:
        raise CorruptionError(path, 0, f"this is intact, but not what stands here: {error}") from None


def _fields(end: End) -> dict[str, Any]:
    return {"batch": end.batch, "entry": end.entry, "marker": end.marker, "chain": f"{end.crc:08x}"}


def _end(fields: dict[str, Any]) -> End:
    return End(_number(fields["batch"]), int(fields["chain"], 16), _number(fields["entry"]), _number(fields["marker"]))


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a number")
    return value


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{text!r:.40} is not base64: {error}") from None
