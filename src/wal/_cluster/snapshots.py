# SPDX-License-Identifier: Apache-2.0
"""
The bytes of snapshots: in chunks in the cluster, or as one object in an object store.

They are those of a snapshot's file, with its checksum. An upload has a name of its own, and nothing refers to it before
the log's marker and the manifest are written, in one transaction. What an upload that did not come so far has left is
removed when the storage is opened the next time, or released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from wal._errors import CorruptionError, SnapshotTooLargeError
from wal._snapshotter import SnapshotData, decode_snapshot, encode_snapshot

from .entities import Manifest, path_of
from .messages import delete_op, put_op
from .ownership import Ownership
from .pages import read_range

__all__ = ["SnapshotBytes", "SnapshotStore", "Upload"]

CHUNK_BYTES = 1 << 20
CHUNK_OVERHEAD = 4096
"""What a request takes besides the chunk, and the names."""


class SnapshotStore(Protocol):
    """What is needed of an object store; those of obstore have it."""

    def put(self, path: str, file: bytes) -> object:
        """Keep an object."""

    def get(self, path: str) -> Any:
        """Return an object, whose ``bytes()`` are its bytes; ``FileNotFoundError`` if there is none."""

    def delete(self, paths: Sequence[str]) -> object:
        """Remove objects."""

    def list(self, prefix: str) -> Iterable[Sequence[Any]]:
        """Return what is known of the objects below a prefix; the ``"path"`` of each is looked at."""


class Upload(NamedTuple):
    """Bytes of a snapshot that nothing refers to yet; see ``Manifest``."""

    name: str
    chunks: int
    size: int


class SnapshotBytes:
    """
    Puts and gets the bytes of one storage's snapshots. One thread at a time may call it.

    Args:
        ownership: What makes sure that only the owner writes.
        store: Where large ones go, or ``None``.
        max_bytes: Larger ones go there.
        max_request_bytes: A chunk fits into a request of so many bytes.
        timeout_s: How long each request is tried, in seconds.
    """

    def __init__(
        self,
        ownership: Ownership,
        store: SnapshotStore | None,
        *,
        max_bytes: int,
        max_request_bytes: int,
        timeout_s: float,
    ) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_snapshot_bytes must be 0 or more, not {max_bytes}")
        self._ownership = ownership
        self._store = store
        self.max_bytes = max_bytes
        self._chunk_bytes = max(1, min(CHUNK_BYTES, max_request_bytes - CHUNK_OVERHEAD - 4 * len(ownership.keys.name)))
        self._timeout_s = timeout_s
        self._uploads = 0

    def upload(self, snapshot: SnapshotData, check_space: Callable[[int], None]) -> Upload:
        """
        Put the bytes. When this returns, they are durable.

        Args:
            snapshot: Whose.
            check_space: Called with the number of bytes before each request; raises if they do not fit.

        Raises:
            SnapshotTooLargeError: There is no place for so large a one. Nothing was sent.
            WALError: As ``Ownership.write_beside``.
        """
        data = encode_snapshot(snapshot)
        size = len(data)
        owner = self._ownership.owner
        if size > self.max_bytes and self._store is None:
            raise SnapshotTooLargeError(size, self.max_bytes)
        self._uploads += 1
        name = f"{owner.epoch}-{owner.token}-{self._uploads}"
        if size > self.max_bytes:
            assert self._store is not None
            self._ownership.check()  # whoever is not the owner any more leaves nothing there, either
            self._store.put(self._object(snapshot.index, name), data)
            return Upload(name, 0, size)
        check_space(size)
        count = 0
        for begin in range(0, size, self._chunk_bytes):
            key = self._ownership.keys.chunk(snapshot.index, name, count)
            self._ownership.write_beside([put_op(key, data[begin : begin + self._chunk_bytes])])
            count += 1
        return Upload(name, count, size)

    def load(self, manifest: Manifest, revision: int) -> SnapshotData:
        """
        Return a snapshot, as it is at a revision.

        Raises:
            CorruptionError: It is damaged, or not there.
            WALError: As ``read_range``.
        """
        if manifest.chunks:
            path = path_of(self._ownership.keys.chunks(manifest.covers, manifest.upload))
            data = self._chunks(manifest, revision)
        else:
            path = Path(self._object(manifest.covers, manifest.upload))
            data = self._stored(path)
        if len(data) != manifest.size:
            raise CorruptionError(path, 0, f"it has {len(data):,} bytes instead of {manifest.size:,}")
        snapshot = decode_snapshot(data, path)
        if snapshot.index != manifest.covers:
            raise CorruptionError(path, 0, f"this is the snapshot of index {snapshot.index}, under another's name")
        return snapshot

    def _chunks(self, manifest: Manifest, revision: int) -> bytes:
        ownership = self._ownership
        begin = ownership.keys.chunks(manifest.covers, manifest.upload)
        chunks = read_range(
            ownership.client,
            begin,
            begin[:-1] + b"0",
            revision=revision,
            renew=ownership.check,
            timeout_s=self._timeout_s,
        )
        pieces: list[bytes] = []
        for kv in chunks:
            if kv.key != ownership.keys.chunk(manifest.covers, manifest.upload, len(pieces)):
                raise CorruptionError(path_of(kv.key), 0, f"chunk {len(pieces)} of the snapshot is missing")
            pieces.append(kv.value)
            if len(pieces) > manifest.chunks:
                raise CorruptionError(
                    path_of(kv.key), 0, f"the snapshot has {manifest.chunks} chunks, and not this one"
                )
        if len(pieces) < manifest.chunks:
            raise CorruptionError(path_of(begin), 0, f"{len(pieces)} of {manifest.chunks} chunks are there")
        return b"".join(pieces)

    def _stored(self, path: Path) -> bytes:
        if self._store is None:
            raise CorruptionError(path, 0, "this is in an object store, and none was given as snapshot_store")
        try:
            return bytes(self._store.get(str(path)).bytes())
        except FileNotFoundError:
            raise CorruptionError(path, 0, "the object store does not have it") from None

    def _object(self, index: int, upload: str) -> str:
        return f"{self._ownership.keys.name.lstrip('/')}/{index:020d}-{upload}.snap"

    def removal(self, oldest: int) -> list[Any]:
        """Return the operations that remove what is older than a snapshot from the cluster."""
        keys = self._ownership.keys
        return [
            delete_op(keys.manifest(0), keys.manifest(oldest)),
            delete_op(keys.chunks(0)[: -len("/")], keys.chunks(oldest)),
        ]

    def remove_objects(self, oldest: int) -> None:
        """Remove what is older than a snapshot from the object store, after the cluster has forgotten it."""
        if self._store is None:
            return
        prefix = f"{self._ownership.keys.name.lstrip('/')}/"
        old = []
        for listed in self._store.list(prefix):
            for meta in listed:
                with suppress(ValueError):  # somebody else's
                    if int(meta["path"].removeprefix(prefix).partition("-")[0]) < oldest:
                        old.append(meta["path"])
        for path in old:
            self._store.delete([path])

    def sweep(self, known: set[tuple[int, str]], revision: int) -> None:
        """Remove the chunks of uploads to which nothing refers."""
        ownership = self._ownership
        keys = ownership.keys
        found = read_range(
            ownership.client,
            keys.chunks(0)[: -len("/")],
            keys.chunks_end,
            revision=revision,
            renew=ownership.check,
            timeout_s=self._timeout_s,
            keys_only=True,
        )
        left: set[tuple[int, str]] = set()
        for kv in found:
            with suppress(ValueError):  # not one of ours
                left.add(keys.upload_of(kv.key))
        for index, upload in sorted(left - known):
            begin = keys.chunks(index, upload)
            ownership.write_beside([delete_op(begin, begin[:-1] + b"0")])
