# SPDX-License-Identifier: Apache-2.0
"""How storages are opened and followed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from wal._crc32c import warn_if_slow
from wal._errors import RequestTooLargeError
from wal._file_storage import Recovered, Retention
from wal._marshal import Marshaller
from wal._records import EntryT, RecordRegistry, SnapshotT, StateT

from .batches import encode_batch
from .client import Client, Credentials
from .entities import End, Format
from .follower import EtcdFollower
from .keys import Keys
from .ownership import take
from .quota import DEFAULT_QUOTA_BYTES, Quota
from .recovery import recover
from .snapshots import SnapshotBytes, SnapshotStore
from .storage import EtcdStorage, request_overhead

__all__ = ["follow", "open_storage"]

TIMEOUT_S = 30.0
REQUEST_TIMEOUT_S = 3.0
MAX_REQUEST_BYTES = 3 << 19
"""etcd's own default of --max-request-bytes."""

MIN_REQUEST_BYTES = 16 << 10
MAX_SNAPSHOT_BYTES = 16 << 20
RETENTION = Retention()

_METADATA = 1
_ANY_LENGTH = 1 << 40
"""Whether a record fits into a request is asked of the whole save."""


def open_storage(
    endpoints: Iterable[str],
    name: str,
    metadata: bytes = b"",
    *,
    registry: RecordRegistry[EntryT, StateT, SnapshotT] | None = None,
    retention: Retention | None = RETENTION,
    timeout_s: float = TIMEOUT_S,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    quota_bytes: int = DEFAULT_QUOTA_BYTES,
    max_snapshot_bytes: int = MAX_SNAPSHOT_BYTES,
    snapshot_store: SnapshotStore | None = None,
    compact: bool = True,
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    user: str | None = None,
    password: str | None = None,
) -> tuple[EtcdStorage[EntryT, StateT, SnapshotT], Recovered[EntryT, StateT]]:
    """
    Open a storage on an etcd cluster after whatever happened to it, or make it.

    When this returns, this process is the storage's owner: whoever was it before can change nothing any more, and is
    told so by ``FencedError`` at the next save. The storage is ready for saving, and holds everything that was
    acknowledged.

    Args:
        endpoints: Addresses of members, best of all: ``host:port``, ``http://host:port`` or ``https://host:port``.
        name: What the storage's keys begin with, in front of a ``/``.
        metadata: Bytes to be kept in a new storage; not looked at if there is one.
        registry: The record classes; by default the process-wide ones.
        retention: What ``EtcdStorage.release`` keeps; ``None``: everything. There are no segments here to keep.
        timeout_s: How long to try what was not answered, in seconds.
        request_timeout_s: How long to wait for one member before the next one is asked.
        max_request_bytes: The servers' ``--max-request-bytes``.
        quota_bytes: The servers' ``--quota-backend-bytes``.
        max_snapshot_bytes: Snapshots of more bytes go into the object store.
        snapshot_store: An object store of obstore, or ``None``.
        compact: Whether ``release`` tells etcd to forget the history of what was released. It then forgets that of all
            keys of the cluster; let it be ``False`` if others need it.
        ca_file: Certificates, as PEM, of those who sign the members' ones; with TLS and none the system's are taken.
        cert_file: A certificate for this process, as PEM.
        key_file: The private key that belongs to it.
        user: The name of a user of etcd.
        password: And the password.

    Returns:
        The storage, and what it holds.

    Raises:
        CorruptionError: The storage is damaged. Nothing was changed but the owner.
        NoSnapshotError: No snapshot that the log knows is intact, or what is left behind the newest intact one does
            not reach up to the one that is damaged.
        FencedError: Somebody else has taken it over meanwhile.
        QuotaExceededError: The cluster's database is full.
        ClusterUnavailableError: No member has answered in time. Whether the storage was taken over is not known.
        WALEnvironmentError: The cluster has refused something else.
        OSError: A file could not be read, or the object store has refused something.
    """
    warn_if_slow()
    if retention is not None and retention.segments:
        raise ValueError(f"a storage on a cluster has no segments to keep, and retention is {retention}")
    if max_request_bytes < MIN_REQUEST_BYTES:
        raise ValueError(f"max_request_bytes must be at least {MIN_REQUEST_BYTES}, not {max_request_bytes}")
    marshaller: Marshaller = Marshaller(registry, _ANY_LENGTH)
    keys = Keys.of(name)
    head = [(_METADATA, marshaller.metadata(metadata)), marshaller.empty_snapshot()]
    value, crc = encode_batch(1, 0, [], head)
    format = Format(head[0][1])
    size = len(value) + len(format.value()) + request_overhead(name)
    if size > max_request_bytes:
        raise RequestTooLargeError(size, max_request_bytes)
    client = _client(
        endpoints,
        keys,
        timeout_s=timeout_s,
        request_timeout_s=request_timeout_s,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        user=user,
        password=password,
    )
    try:
        quota = Quota(client, quota_bytes, timeout_s=timeout_s)
        quota.check(size)
        taken = take(client, keys, (format, value, End(1, crc, 0, 0)), timeout_s=timeout_s)
        snapshots = SnapshotBytes(
            taken.ownership,
            snapshot_store,
            max_bytes=max_snapshot_bytes,
            max_request_bytes=max_request_bytes,
            timeout_s=timeout_s,
        )
        holdings = recover(taken, snapshots, marshaller.registry, timeout_s=timeout_s)
        storage: EtcdStorage[EntryT, StateT, SnapshotT] = EtcdStorage(
            taken.ownership,
            holdings,
            marshaller,
            quota,
            snapshots,
            retention=retention,
            max_request_bytes=max_request_bytes,
            compact=compact,
        )
    except BaseException:
        client.close()
        raise
    return storage, holdings.recovered


def follow(
    endpoints: Iterable[str],
    name: str,
    index: int | None = None,
    *,
    registry: RecordRegistry[EntryT, StateT, SnapshotT] | None = None,
    timeout_s: float = TIMEOUT_S,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    user: str | None = None,
    password: str | None = None,
) -> EtcdFollower[EntryT, StateT, SnapshotT]:
    """
    Return an iterator over a storage's records that waits for those to come; see ``EtcdFollower``.

    It takes nothing over, and goes on across changes of the leader and of the owner.

    Args:
        endpoints: As for ``open_storage``.
        name: As for ``open_storage``.
        index: Start at this entry, which may be one that is yet to come: what was written before, up to the entry in
            front of it, is left out. By default with what is saved from now on.
        registry: The record classes; by default the process-wide ones.
        timeout_s: As for ``open_storage``.
        request_timeout_s: As for ``open_storage``.
        ca_file: As for ``open_storage``.
        cert_file: As for ``open_storage``.
        key_file: As for ``open_storage``.
        user: As for ``open_storage``.
        password: As for ``open_storage``.

    Raises:
        CompactedError: The entry at ``index`` is not there any more.
        WALNotFoundError: There is no storage of this name.
        CorruptionError: The storage is damaged.
        ClusterUnavailableError: No member has answered in time.
        WALEnvironmentError: The cluster has refused something.
    """
    if index is not None and index < 1:
        raise ValueError(f"index must be at least 1, not {index}")
    keys = Keys.of(name)
    client = _client(
        endpoints,
        keys,
        timeout_s=timeout_s,
        request_timeout_s=request_timeout_s,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        user=user,
        password=password,
    )
    try:
        return EtcdFollower(client, keys, index, registry, timeout_s=timeout_s)
    except BaseException:
        client.close()
        raise


def _client(
    endpoints: Iterable[str],
    keys: Keys,
    *,
    timeout_s: float,
    request_timeout_s: float,
    ca_file: str | os.PathLike[str] | None,
    cert_file: str | os.PathLike[str] | None,
    key_file: str | os.PathLike[str] | None,
    user: str | None,
    password: str | None,
) -> Client:
    if not timeout_s > 0:
        raise ValueError(f"timeout_s must be greater than 0, not {timeout_s}")
    if (cert_file is None) != (key_file is None):
        raise ValueError("cert_file and key_file belong together")
    ca, certificate, key = (
        None if file is None else Path(file).read_bytes() for file in (ca_file, cert_file, key_file)
    )
    credentials = Credentials(ca, certificate, key, user, password)
    return Client(endpoints, credentials, request_timeout_s=request_timeout_s, name=keys.name)
