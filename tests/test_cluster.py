"""A storage on an etcd cluster: the contract of all storages, on one member and on three, and what is its own."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import select
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import wal
from etcd_cluster import EtcdCluster, needs_etcd
from lines import Line, over
from stored import Stored
from wal import CommitState, Entry, HardState, LogEntry, SnapshotData
from wal.testing import StorageConformance

pytest.importorskip("grpc", reason="no grpcio: pip install wal[etcd]")

import wal.cluster
from wal._cluster import client, pages
from wal._cluster.messages import RANGE


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


# ------------------------------------------------------------------------------------------ what is its own

RECEIVE = "grpc.max_receive_message_length"
NAMES = (f"own/{number}" for number in itertools.count())


def reopened(etcd: EtcdCluster, name: str, **options: Any) -> wal.Recovered[Any, Any]:
    storage, recovered = wal.cluster.open_storage(etcd.endpoints, name, **options)
    storage.close()
    return recovered


class TestSaves:
    def test_a_group_of_saves_is_one_batch(self, etcd: EtcdCluster) -> None:
        """What was submitted before somebody waits goes in one transaction; order and all-or-nothing are kept."""
        name = next(NAMES)
        with wal.cluster.open_storage(etcd.endpoints, name)[0] as storage:
            pending = [storage.submit(CommitState(index), [Entry(index)]) for index in range(1, 51)]
            assert not any(save.done for save in pending)
            pending[-1].wait()
            assert all(save.done for save in pending)
            assert storage.last_index == 50

        assert [key for key in Stored(etcd, name).all() if key.startswith("b/")] == [
            f"b/{number:020d}" for number in (1, 2)
        ]
        assert reopened(etcd, name).entries == [Entry(index) for index in range(1, 51)]

    def test_a_group_fits_into_a_request(self, etcd: EtcdCluster) -> None:
        """A queue that does not is sent as several batches."""
        name = next(NAMES)
        options: dict[str, Any] = {"max_request_bytes": 16384}
        with wal.cluster.open_storage(etcd.endpoints, name, **options)[0] as storage:
            pending = [storage.submit(None, [Entry(index, bytes(3000))]) for index in range(1, 21)]
            storage.sync()
            assert all(save.done for save in pending)

        sizes = [len(value) for key, value in Stored(etcd, name).all().items() if key.startswith("b/")]
        assert 5 < len(sizes) < 15
        assert max(sizes) < 16384
        assert reopened(etcd, name).entries == [Entry(index, bytes(3000)) for index in range(1, 21)]

    def test_many_threads_save_at_once(self, etcd: EtcdCluster) -> None:
        """Each save is there when its thread goes on, and all of them are one log."""
        name = next(NAMES)
        numbering = threading.Lock()
        numbers = iter(range(1, 1000))
        with wal.cluster.open_storage(etcd.endpoints, name)[0] as storage:

            def save(data: bytes) -> int:
                with numbering:
                    index = next(numbers)
                    pending = storage.submit(None, [Entry(index, data)])
                pending.wait()
                assert storage.last_index >= index
                return index

            with ThreadPoolExecutor(16) as pool:
                assert sorted(pool.map(save, [b"x"] * 300)) == list(range(1, 301))

        assert reopened(etcd, name).entries == [Entry(index, b"x") for index in range(1, 301)]
        assert len([key for key in Stored(etcd, name).all() if key.startswith("b/")]) < 250

    def test_close_finishes_what_was_submitted(self, etcd: EtcdCluster) -> None:
        """Also if nobody waits for it."""
        name = next(NAMES)
        storage, _ = wal.cluster.open_storage(etcd.endpoints, name)
        pending = storage.submit(CommitState(1), [Entry(1, b"a")])
        storage.close()

        assert pending.done
        assert reopened(etcd, name).entries == [Entry(1, b"a")]

    def test_records_of_ones_own(self, etcd: EtcdCluster) -> None:
        """A registry's classes come back, and others are refused."""
        name = next(NAMES)
        registry = wal.etcd.registry()
        with wal.cluster.open_storage(etcd.endpoints, name, registry=registry)[0] as storage:
            storage.save(wal.etcd.HardState(term=1, vote=2, commit=1), [wal.etcd.Entry(term=1, index=1, data=b"a")])
            storage.save_snap(SnapshotData(1), wal.etcd.Snapshot(index=1, term=1))
            storage.save(None, [wal.etcd.Entry(term=1, index=2, data=b"b")])
            with pytest.raises(wal.RecordTypeError):
                storage.save_entry([Entry(3)])  # type: ignore[list-item]
            with pytest.raises(wal.RecordTypeError):
                storage.save_snap(SnapshotData(2), wal.etcd.Snapshot(index=1, term=1))

        recovered = reopened(etcd, name, registry=registry)
        assert recovered.state == wal.etcd.HardState(term=1, vote=2, commit=1)
        assert recovered.entries == [wal.etcd.Entry(term=1, index=2, data=b"b")]

    def test_a_large_log_is_read_in_pages(self, etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many batches, some of them long, come back in order whatever the size of a page."""
        name = next(NAMES)
        entries = [Entry(index, bytes(300_000 if index % 40 == 0 else 10)) for index in range(1, 301)]
        with wal.cluster.open_storage(etcd.endpoints, name)[0] as storage:
            for entry in entries:
                storage.save(None, [entry])
        assert reopened(etcd, name).entries == entries

        for page_bytes in (1, 100_000):
            monkeypatch.setattr(pages, "PAGE_BYTES", page_bytes)
            assert reopened(etcd, name).entries == entries

    def test_a_page_that_is_too_long_is_asked_for_in_parts(
        self, etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If values become longer than expected, fewer of them are asked for at once."""
        name = next(NAMES)
        entries = [Entry(index, bytes(200_000)) for index in range(1, 21)]
        with wal.cluster.open_storage(etcd.endpoints, name)[0] as storage:
            for entry in entries:
                storage.save(None, [entry])
        options = dict(client._OPTIONS)
        for most, readable in ((500_000, True), (100_000, False)):
            monkeypatch.setattr(client, "_OPTIONS", list({**options, RECEIVE: most}.items()))
            if readable:
                assert reopened(etcd, name).entries == entries
            else:
                with pytest.raises(wal.WALEnvironmentError, match="larger than max"):
                    reopened(etcd, name)

    @pytest.mark.parametrize("taken_over", [False, True])
    def test_a_compaction_while_it_is_read(self, etcd: EtcdCluster, taken_over: bool) -> None:
        """The owner reads on, since nobody else has written; one that was taken over meanwhile is told."""
        name = next(NAMES)
        with wal.cluster.open_storage(etcd.endpoints, name)[0] as storage:
            for index in range(1, 21):
                storage.save(CommitState(index), [Entry(index)])

        class Compacting(Line):
            def send(self, call: Any, message: Any, send: Any) -> Any:
                if call is RANGE and message.key.startswith(f"{name}/b/".encode()) and not self.count:
                    self.count = 1
                    if taken_over:
                        reopened_beside.append(wal.cluster.open_storage(etcd.endpoints, name)[0])
                    Stored(etcd, "elsewhere").put("key", b"value")
                    revision = etcd.post(0, "/v3/kv/range", {"key": "eA=="})["header"]["revision"]
                    etcd.post(0, "/v3/kv/compaction", {"revision": revision})
                return send()

        reopened_beside: list[Any] = []
        line = Compacting()
        with over(line):
            try:
                if taken_over:
                    with pytest.raises(wal.FencedError):
                        reopened(etcd, name)
                else:
                    assert reopened(etcd, name).entries == [Entry(index) for index in range(1, 21)]
                assert line.count == 1
            finally:
                for storage in reopened_beside:
                    storage.close()

    def test_it_speaks(self, etcd: EtcdCluster) -> None:
        """Its properties say what it is, and its name is told from others that begin alike."""
        name = next(NAMES)
        with (
            wal.cluster.open_storage(etcd.endpoints, name, b"meta")[0] as storage,
            wal.cluster.open_storage(etcd.endpoints, f"{name}0", b"other")[0] as other,
        ):
            storage.save(CommitState(1), [Entry(1)])
            assert (storage.name, storage.epoch, storage.metadata) == (name, 1, b"meta")
            assert (storage.first_index, storage.last_index, storage.state) == (1, 1, CommitState(1))
            assert storage.registry == wal.RecordRegistry()
            assert repr(storage) == f"<EtcdStorage {name!r} epoch 1 open>"
            assert other.last_index == 0
            reopened(etcd, name)
            assert not storage.closed
            with pytest.raises(wal.FencedError, match=rf"epoch 2, process {os.getpid()} on .* has taken it over"):
                storage.save_entry([Entry(2)])
            assert repr(storage).endswith("fenced>")
        assert repr(storage).endswith("closed>")
        assert storage.closed

    def test_it_does_not_pickle(self, etcd: EtcdCluster) -> None:
        """An open one is an owner, and there is one."""
        with wal.cluster.open_storage(etcd.endpoints, next(NAMES))[0] as storage:
            with pytest.raises(TypeError, match="pass its name"):
                pickle.dumps(storage)

    def test_one_that_is_dropped_warns(self, etcd: EtcdCluster) -> None:
        """Like a log in files."""
        storage, _ = wal.cluster.open_storage(etcd.endpoints, next(NAMES))
        with pytest.warns(ResourceWarning, match="dropped without close"):
            del storage
            gc.collect()

    def test_a_forked_child_cannot_use_it(self, etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        """It says so, and closing it there leaves the parent's as it is."""
        with wal.cluster.open_storage(etcd.endpoints, next(NAMES))[0] as storage:
            pid = os.getpid()
            monkeypatch.setattr(os, "getpid", lambda: pid + 1)
            calls: list[Callable[[], object]] = [
                lambda: storage.save_entry([Entry(1)]),
                storage.sync,
                lambda: storage.release(SnapshotData(1)),
            ]
            for call in calls:
                with pytest.raises(wal.WALClosedError, match="forked child"):
                    call()
            monkeypatch.undo()
            storage.save_entry([Entry(1)])


class TestSnapshots:
    def test_they_are_cut_into_chunks(self, etcd: EtcdCluster) -> None:
        """Each of which fits into a request."""
        name = next(NAMES)
        data = os.urandom(100_000)
        with wal.cluster.open_storage(etcd.endpoints, name, max_request_bytes=20_000)[0] as storage:
            storage.save(CommitState(1), [Entry(1)])
            storage.save_snap(SnapshotData(1, data, b"metadata"))

        assert len([key for key in Stored(etcd, name).all() if key.startswith("s/")]) == 7
        assert reopened(etcd, name).snapshot == SnapshotData(1, data, b"metadata")

    def test_one_that_is_too_large_is_refused(self, etcd: EtcdCluster) -> None:
        """Before anything is sent, and the storage goes on."""
        name = next(NAMES)
        with wal.cluster.open_storage(etcd.endpoints, name, max_snapshot_bytes=1000)[0] as storage:
            storage.save(CommitState(1), [Entry(1)])
            before = Stored(etcd, name).all()
            with pytest.raises(wal.SnapshotTooLargeError) as caught:
                storage.save_snap(SnapshotData(1, bytes(1000)))
            assert (caught.value.size > 1000, caught.value.limit) == (True, 1000)
            assert Stored(etcd, name).all() == before
            storage.save_snap(SnapshotData(1, bytes(900)))

        assert reopened(etcd, name).snapshot == SnapshotData(1, bytes(900))

    def test_large_ones_go_to_the_object_store(self, etcd: EtcdCluster) -> None:
        """The cluster has their manifests; releasing removes them in both places, and what a crash has left there."""
        stores = pytest.importorskip("obstore.store", reason="no obstore: pip install wal[archive]")
        store, name = stores.MemoryStore(), next(NAMES)
        options: dict[str, Any] = {"snapshot_store": store, "max_snapshot_bytes": 1000}

        def objects() -> list[str]:
            return sorted(meta["path"] for listed in store.list() for meta in listed)

        store.put(f"{name}/00000000000000000001-left.snap", b"left")
        store.put(f"{name}/readme", b"somebody else's")
        with wal.cluster.open_storage(etcd.endpoints, name, **options)[0] as storage:
            for index in range(1, 5):
                storage.save(CommitState(index), [Entry(index)])
                storage.save_snap(SnapshotData(index, bytes(5000 if index != 2 else 10)))
                storage.release(SnapshotData(index))
            assert [path.removeprefix(f"{name}/")[:21] for path in objects()] == [
                "00000000000000000003-",
                "00000000000000000004-",
                "readme",
            ]

        assert reopened(etcd, name, **options).snapshot == SnapshotData(4, bytes(5000))
        store.delete(objects()[1])
        recovered = reopened(etcd, name, **options)
        assert recovered.snapshot == SnapshotData(3, bytes(5000))
        assert "does not have it" in recovered.skipped[0].reason
        with pytest.raises(wal.NoSnapshotError):
            reopened(etcd, name)  # without the object store

    def test_a_fenced_one_leaves_no_snapshot(self, etcd: EtcdCluster) -> None:
        """Neither in the cluster nor in the object store."""
        stores = pytest.importorskip("obstore.store", reason="no obstore: pip install wal[archive]")
        store, name = stores.MemoryStore(), next(NAMES)
        options: dict[str, Any] = {"snapshot_store": store, "max_snapshot_bytes": 1000}
        with wal.cluster.open_storage(etcd.endpoints, name, **options)[0] as storage:
            storage.save(CommitState(2), [Entry(1), Entry(2)])
            reopened(etcd, name, **options)
            before = Stored(etcd, name).all()
            for size in (10, 5000):
                with pytest.raises(wal.FencedError):
                    storage.save_snap(SnapshotData(1, bytes(size)))
            with pytest.raises(wal.FencedError):
                storage.release(SnapshotData(1))
            assert Stored(etcd, name).all() == before
            assert list(store.list()) == []

    @pytest.mark.parametrize(
        ("index", "error"),
        [
            pytest.param(0, wal.SnapshotOutOfDateError, id="the one before any"),
            pytest.param(1, wal.SnapshotOutOfDateError, id="an older one"),
            pytest.param(2, wal.SnapshotOutOfDateError, id="the same"),
            pytest.param(4, wal.IndexOrderError, id="one that is not committed"),
        ],
    )
    def test_claims_are_those_of_a_file_storage(self, etcd: EtcdCluster, index: int, error: type[Exception]) -> None:
        """A snapshot is newer than the last, and of what is committed."""
        name = next(NAMES)
        with wal.cluster.open_storage(etcd.endpoints, name)[0] as storage:
            storage.save(CommitState(3), [Entry(index) for index in range(1, 6)])
            storage.save_snap(SnapshotData(2))
            with pytest.raises(error):
                storage.save_snap(SnapshotData(index))
            with pytest.raises(wal.RecordTypeError):
                storage.save_snap(wal.SnapshotMarker(3))  # type: ignore[arg-type]
            with pytest.raises(wal.IndexOrderError):
                storage.save_state(CommitState(1))
            storage.save_snap(SnapshotData(3))

    @pytest.mark.parametrize("kept", [1, 2, 3])
    def test_release_deletes_what_no_kept_snapshot_needs(self, etcd: EtcdCluster, kept: int) -> None:
        """The older snapshots, and the batches in front of the oldest that is kept; and so it stays small."""
        name = next(NAMES)
        stored = Stored(etcd, name)
        sizes = []
        with wal.cluster.open_storage(etcd.endpoints, name, retention=wal.Retention(kept))[0] as storage:
            for index in range(1, 101):
                storage.save(CommitState(index), [Entry(index, bytes(100))])
                if index % 10 == 0:
                    storage.save_snap(SnapshotData(index, b"state"))
                    storage.release(wal.SnapshotMarker(index))
                    sizes.append(len(stored.all()))
            assert storage.first_index == 100 - 10 * (kept - 1) + 1
        keys = list(stored.all())

        assert [key for key in keys if key.startswith("m/")] == [f"m/{n:020d}" for n in range(110 - 10 * kept, 101, 10)]
        assert len([key for key in keys if key.startswith("b/")]) == 11 * (kept - 1) + 1
        assert sizes[kept:] == [sizes[-1]] * len(sizes[kept:])
        assert reopened(etcd, name).snapshot == SnapshotData(100, b"state")

    def test_release_without_retention_keeps_everything(self, etcd: EtcdCluster) -> None:
        """And so does that of a snapshot that is not there."""
        for retention, index in ((None, 3), (wal.Retention(1), 0)):
            name = next(NAMES)
            with wal.cluster.open_storage(etcd.endpoints, name, retention=retention)[0] as storage:
                storage.save(CommitState(3), [Entry(index) for index in range(1, 4)])
                storage.save_snap(SnapshotData(2))
                before = Stored(etcd, name).all()
                storage.release(wal.SnapshotMarker(index))
                assert Stored(etcd, name).all() == before

    def test_release_compacts(self, etcd: EtcdCluster) -> None:
        """What was released is forgotten by etcd, unless that is not wanted."""

        def revision_is_there(revision: int) -> bool:
            try:
                etcd.post(0, "/v3/kv/range", {"key": "eA==", "revision": revision})
            except urllib.error.HTTPError:
                return False
            return True

        for compact in (False, True):
            with wal.cluster.open_storage(etcd.endpoints, next(NAMES), compact=compact)[0] as storage:
                storage.save(CommitState(1), [Entry(1)])
                revision = int(etcd.post(0, "/v3/kv/range", {"key": "eA=="})["header"]["revision"])
                assert revision_is_there(revision)
                storage.save_snap(SnapshotData(1))
                storage.release(SnapshotData(1))
                assert revision_is_there(revision) is not compact

    def test_entries_that_a_snapshot_does_not_cover_are_kept(self, etcd: EtcdCluster) -> None:
        """Also those that were saved long before its marker, and those that were overruled in between."""
        name = next(NAMES)
        with wal.cluster.open_storage(etcd.endpoints, name, retention=wal.Retention(1))[0] as storage:
            storage.save(CommitState(1), [Entry(1)])
            storage.save(CommitState(2), [Entry(index, b"old") for index in range(2, 8)])
            storage.save(None, [Entry(5, b"new")])
            storage.save(None, [Entry(6, b"new")])
            storage.save_snap(SnapshotData(2))
            storage.release(SnapshotData(2))

        assert reopened(etcd, name).entries == [
            Entry(3, b"old"),
            Entry(4, b"old"),
            Entry(5, b"new"),
            Entry(6, b"new"),
        ]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param({"name": ""}, ValueError, id="no name"),
        pytest.param({"name": "/"}, ValueError, id="a name of nothing but a slash"),
        pytest.param({"name": "a/"}, ValueError, id="a name that ends with a slash"),
        pytest.param({"name": "a\0b"}, ValueError, id="a name with a zero"),
        pytest.param({"name": b"a"}, ValueError, id="bytes"),
        pytest.param({"endpoints": []}, ValueError, id="no endpoints"),
        pytest.param({"endpoints": "127.0.0.1:2379"}, TypeError, id="one endpoint that is a string"),
        pytest.param({"endpoints": ["ftp://a:1"]}, ValueError, id="another scheme"),
        pytest.param({"endpoints": ["http://"]}, ValueError, id="no address"),
        pytest.param({"endpoints": ["http://a:1/b"]}, ValueError, id="an address with a path"),
        pytest.param({"timeout_s": 0}, ValueError, id="no time"),
        pytest.param({"request_timeout_s": -1}, ValueError, id="negative time"),
        pytest.param({"max_request_bytes": 1000}, ValueError, id="requests that are too small"),
        pytest.param({"quota_bytes": 0}, ValueError, id="no quota"),
        pytest.param({"retention": wal.Retention(1, segments=1)}, ValueError, id="segments"),
        pytest.param({"metadata": "text"}, wal.RecordTypeError, id="metadata that is no bytes"),
        pytest.param({"metadata": bytes(2_000_000)}, wal.RequestTooLargeError, id="too much metadata"),
        pytest.param({"cert_file": "a"}, ValueError, id="a certificate without a key"),
        pytest.param({"ca_file": "/nowhere"}, FileNotFoundError, id="a file that is not there"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    """Before anybody is asked."""
    with pytest.raises(error):
        wal.cluster.open_storage(**{"endpoints": ["127.0.0.1:1"], "name": "a", **options})


def test_a_negative_snapshot_size_is_refused(etcd: EtcdCluster) -> None:
    """Nothing is smaller."""
    with pytest.raises(ValueError, match="max_snapshot_bytes"):
        wal.cluster.open_storage(etcd.endpoints, next(NAMES), max_snapshot_bytes=-1)


def test_a_cluster_that_is_not_there_is_an_error() -> None:
    """In the time that was given, and with the addresses."""
    with pytest.raises(wal.ClusterUnavailableError, match=r"127\.0\.0\.1:1\b"):
        wal.cluster.open_storage(["127.0.0.1:1"], "a", timeout_s=0.2)
    with pytest.raises(wal.ClusterUnavailableError):
        wal.cluster.follow(["127.0.0.1:1"], "a", timeout_s=0.2)


def test_the_next_endpoint_is_asked(etcd: EtcdCluster) -> None:
    """If the first does not answer."""
    with wal.cluster.open_storage(["127.0.0.1:1", *etcd.endpoints], next(NAMES))[0] as storage:
        storage.save_entry([Entry(1)])


@needs_etcd
class TestMembers:
    """What members may do, with a cluster for each test."""

    def test_a_leader_that_is_killed_and_one_that_is_paused(self, tmp_path: Path) -> None:
        """Saves wait for the next leader, and each that returned is there, once."""
        with EtcdCluster(tmp_path / "etcd", 3) as cluster:
            with wal.cluster.open_storage(cluster.endpoints, "a", request_timeout_s=1.0)[0] as storage:
                index = 0
                for torment, end_of_it in ((cluster.kill, cluster.restart), (cluster.pause, cluster.resume)):
                    for _ in range(20):
                        index += 1
                        storage.save(CommitState(index), [Entry(index)])
                    leader = cluster.leader()
                    torment(leader)
                    for _ in range(20):
                        index += 1
                        storage.save(CommitState(index), [Entry(index)])
                    end_of_it(leader)
                    cluster.wait_until_ready()

            assert reopened(cluster, "a").entries == [Entry(index) for index in range(1, 81)]

    def test_without_a_majority_nothing_is_saved(self, tmp_path: Path) -> None:
        """The storage stops, and what it does not know is told by the next one."""
        with EtcdCluster(tmp_path / "etcd", 3) as cluster:
            with wal.cluster.open_storage(cluster.endpoints, "a", timeout_s=2.0, request_timeout_s=0.5)[0] as storage:
                storage.save_entry([Entry(1)])
                follower = (cluster.leader() + 1) % 3
                cluster.kill((follower + 1) % 3)
                cluster.kill((follower + 2) % 3)
                with pytest.raises(wal.WALFailedError) as caught:
                    storage.save_entry([Entry(2)])
                assert isinstance(caught.value.__cause__, wal.ClusterUnavailableError)
            cluster.restart((follower + 1) % 3)
            recovered = reopened(cluster, "a")
            assert recovered.entries in ([Entry(1)], [Entry(1), Entry(2)])


@needs_etcd
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system cannot tell when another's child has ended")
def test_members_end_with_the_tests(tmp_path: Path) -> None:
    """Also when those are killed: no member is left, not even one that is paused."""
    code = """
import sys, time
from pathlib import Path
from etcd_cluster import EtcdCluster

with EtcdCluster(Path(sys.argv[1]), 2) as cluster:
    cluster.pause(1)
    print(*cluster.pids, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    ) as tests:
        assert tests.stdout is not None
        pids = [int(pid) for pid in tests.stdout.readline().split()]
        descriptors = [os.pidfd_open(pid) for pid in pids]
        tests.kill()
    try:
        assert len(pids) == 2
        for descriptor in descriptors:
            assert select.select([descriptor], [], [], 60)[0], "a member is left"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
import wal
try:
    import wal.cluster
except ModuleNotFoundError as error:
    print(str(error).partition("; ")[2])
"""


@pytest.mark.parametrize("module", ["grpc", "google.protobuf.descriptor_pb2"])
def test_without_the_client_only_this_module_is_missing(module: str) -> None:
    """The error says what to install."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, module], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.endswith("install wal[etcd]\n")
