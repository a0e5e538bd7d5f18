# SPDX-License-Identifier: Apache-2.0
"""
The same storage on an etcd cluster. It needs the extra ``wal[etcd]``.

An application that has outgrown one disk changes the line that opens its storage, and nothing else::

    import wal.cluster

    storage, recovered = wal.cluster.open_storage(["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"], "ledger")

When a save returns, a majority of the members has it on disk. Whoever opens the storage is its owner from then on; a
former one is told by ``FencedError``, and can change nothing any more.

This is for logs that are small and must not be lost. A save goes over the network and to the disks of three machines,
and etcd holds a few gigabytes at most.
"""

from __future__ import annotations

from ._cluster.follower import EtcdFollower
from ._cluster.opening import follow, open_storage
from ._cluster.snapshots import SnapshotStore
from ._cluster.storage import EtcdStorage

__all__ = ["EtcdFollower", "EtcdStorage", "SnapshotStore", "follow", "open_storage"]

for _public in (EtcdFollower, EtcdStorage, SnapshotStore, follow, open_storage):
    _public.__module__ = __name__  # as in ``wal``
del _public
