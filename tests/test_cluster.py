"""A storage on an etcd cluster: the contract of all storages, on one member and on three, and what is its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import wal
from etcd_cluster import EtcdCluster
from wal import HardState, LogEntry, SnapshotData
from wal.testing import StorageConformance

pytest.importorskip("grpc", reason="no grpcio: pip install wal[etcd]")

import wal.cluster


class ClusterConformance(StorageConformance[SnapshotData]):
    """The contract of storages; a path names a storage of the cluster."""

    takes_over = True
    cluster: EtcdCluster
    options: dict[str, Any] = {}

    def open(self, path: Path) -> tuple[wal.Storage[SnapshotData], HardState, Sequence[LogEntry]]:
        storage, recovered = wal.cluster.open_storage(self.cluster.endpoints, str(path), **self.options)
        return storage, recovered.state, recovered.entries

    def snapshot(self, index: int) -> SnapshotData:
        return SnapshotData(index, b"state at %d" % index)


class TestOnOneMember(ClusterConformance):
    @pytest.fixture(autouse=True)
    def _cluster(self, etcd: EtcdCluster) -> None:
        self.cluster = etcd


class TestOnOneMemberThatKeepsEverything(TestOnOneMember):
    options = {"retention": None}


class TestOnOneMemberThatKeepsTheLeast(TestOnOneMember):
    options = {"retention": wal.Retention(snapshots=1)}


class TestOnOneMemberWithAnObjectStore(TestOnOneMember):
    @pytest.fixture(autouse=True)
    def _store(self) -> None:
        store = pytest.importorskip("obstore.store", reason="no obstore: pip install wal[archive]")
        self.options = {"snapshot_store": store.MemoryStore(), "max_snapshot_bytes": 0}


class TestOnThreeMembers(ClusterConformance):
    @pytest.fixture(autouse=True)
    def _cluster(self, etcd_of_three: EtcdCluster) -> None:
        self.cluster = etcd_of_three
