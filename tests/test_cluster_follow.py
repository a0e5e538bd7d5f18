"""Followers see every record once, in order, whatever happens to the members and to the owner."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

import wal
from etcd_cluster import EtcdCluster, needs_etcd
from stored import Stored
from wal import CommitState, Entry, RecordType, SnapshotData, SnapshotMarker

pytest.importorskip("grpc", reason="no grpcio: pip install wal[etcd]")

import wal.cluster

NAMES = (f"follow/{number}" for number in itertools.count())


def opened(etcd: EtcdCluster, name: str, **options: Any) -> wal.cluster.EtcdStorage[Any, Any, Any]:
    return wal.cluster.open_storage(etcd.endpoints, name, b"meta", **options)[0]


BEGINNING = [b"meta", SnapshotMarker(0)]
"""What every log begins with."""


def take(records: Iterator[Any], count: int) -> list[Any]:
    return [record.value for record in itertools.islice(records, count)]


def test_from_the_beginning(etcd: EtcdCluster) -> None:
    """What is there comes first, then what is saved: every record with its key, as it was written."""
    name = next(NAMES)
    with opened(etcd, name) as storage:
        storage.save(CommitState(1), [Entry(1), Entry(2, b"old")])
        with wal.cluster.follow(etcd.endpoints, name, 1) as records:
            assert take(records, 5) == [*BEGINNING, Entry(1), Entry(2, b"old"), CommitState(1)]
            storage.save(CommitState(2), [Entry(2, b"new")])
            assert take(records, 2) == [Entry(2, b"new"), CommitState(2)]
            storage.save_snap(SnapshotData(2))
            record = next(records)
            assert (record.type, record.value) == (RecordType.SNAPSHOT, SnapshotMarker(2))
            assert str(record.path) == f"{name}/b/{4:020d}"
            assert record.offset > 0
            assert repr(records) == f"<EtcdFollower of {name!r} behind entry 2>"


def test_from_what_comes_next(etcd: EtcdCluster) -> None:
    """Without an index nothing of what is there is yielded."""
    name = next(NAMES)
    with opened(etcd, name) as storage:
        storage.save(CommitState(1), [Entry(1), Entry(2)])
        with wal.cluster.follow(etcd.endpoints, name) as records:
            storage.save_entry([Entry(2, b"new")])
            storage.save_entry([Entry(3)])
            assert take(records, 2) == [Entry(2, b"new"), Entry(3)]


@pytest.mark.parametrize("index", range(1, 13))
def test_from_any_index(etcd: EtcdCluster, index: int) -> None:
    """Also from one that is yet to come; what was released is an error."""
    name = next(NAMES)
    with opened(etcd, name, retention=wal.Retention(1)) as storage:
        for number in range(1, 9):
            storage.save(CommitState(number), [Entry(number)])
            if number in (3, 6):
                storage.save_snap(SnapshotData(number))
                if number == 3:
                    storage.release(SnapshotData(3))
        if index <= 3:
            with pytest.raises(wal.CompactedError):
                wal.cluster.follow(etcd.endpoints, name, index)
            return
        with wal.cluster.follow(etcd.endpoints, name, index) as records:
            for number in range(9, 14):
                storage.save_entry([Entry(number)])
            entries = (record for record in records if record.type is RecordType.ENTRY)
            assert take(entries, 14 - index) == [Entry(number) for number in range(index, 14)]


def test_a_save_is_seen_as_a_whole(etcd: EtcdCluster) -> None:
    """Under load, by several followers: no save is yielded in part, none is missing, none comes twice."""
    name = next(NAMES)

    def follow(count: int) -> list[int]:
        with wal.cluster.follow(etcd.endpoints, name, 1) as records:
            return [record.value.index for record in itertools.islice(entries_of(records), count)]

    with opened(etcd, name) as storage, ThreadPoolExecutor(3) as pool:
        followers = [pool.submit(follow, 600) for _ in range(3)]
        for first in range(1, 600, 3):
            storage.save(CommitState(first), [Entry(index) for index in range(first, first + 3)])
        assert [follower.result() for follower in followers] == [list(range(1, 601))] * 3


def entries_of(records: Iterator[Any]) -> Iterator[Any]:
    return (record for record in records if record.type is RecordType.ENTRY)


def test_it_goes_on_across_owners(etcd: EtcdCluster) -> None:
    """One log, whoever writes it."""
    name = next(NAMES)
    opened(etcd, name).close()
    with wal.cluster.follow(etcd.endpoints, name, 1) as records:
        for index in range(1, 5):
            with opened(etcd, name) as storage:
                storage.save_entry([Entry(index)])
            assert next(entries_of(records)).value == Entry(index)


def test_it_stops_when_asked(etcd: EtcdCluster) -> None:
    """While it waits, from another thread, and for ever; a second time does nothing."""
    name = next(NAMES)
    opened(etcd, name).close()
    for stop in ("stop", "close"):
        records = wal.cluster.follow(etcd.endpoints, name)
        ended = threading.Event()

        def wait(records: Any = records, ended: threading.Event = ended) -> None:
            assert list(records) == []
            ended.set()

        thread = threading.Thread(target=wait)
        thread.start()
        while records._stream is None and thread.is_alive():
            pass  # until it waits
        getattr(records, stop)()
        thread.join(60)
        assert ended.is_set()
        records.close()
        assert next(records, None) is None


def test_it_stops_between_records(etcd: EtcdCluster) -> None:
    """What was not yielded yet is not yielded any more."""
    name = next(NAMES)
    with opened(etcd, name) as storage:
        storage.save_entry([Entry(1), Entry(2)])
        records = wal.cluster.follow(etcd.endpoints, name, 1)
        assert next(entries_of(records)).value == Entry(1)
        records.stop()
        assert list(records) == []


def test_what_was_released_before_it_was_read_is_an_error(etcd: EtcdCluster) -> None:
    """A follower that is too slow is told, and stays so."""
    name = next(NAMES)
    with opened(etcd, name, retention=wal.Retention(1)) as storage:
        storage.save(CommitState(1), [Entry(1)])
        with wal.cluster.follow(etcd.endpoints, name, 1) as records:
            storage.save(CommitState(3), [Entry(2), Entry(3)])
            storage.save_snap(SnapshotData(3))
            storage.release(SnapshotData(3))
            for _ in range(2):
                with pytest.raises(wal.CompactedError) as caught:
                    next(records)
                assert caught.value.index == 1


def test_one_that_is_compacted_but_not_released_goes_on(etcd: EtcdCluster) -> None:
    """If etcd has forgotten what the watch had not come to, and the batches are there."""
    name = next(NAMES)
    with opened(etcd, name) as storage:
        storage.save_entry([Entry(1)])
        with wal.cluster.follow(etcd.endpoints, name, 1) as records:
            assert next(entries_of(records)).value == Entry(1)
            storage.save_entry([Entry(2)])
            storage.save_entry([Entry(3)])
            revision = etcd.post(0, "/v3/kv/range", {"key": "eA=="})["header"]["revision"]
            etcd.post(0, "/v3/kv/compaction", {"revision": revision})
            assert take(records, 2) == [Entry(2), Entry(3)]


@pytest.mark.parametrize("watching", [False, True], ids=["what is there", "what comes"])
def test_damage_is_told(etcd: EtcdCluster, watching: bool) -> None:
    """A batch that is damaged is not yielded, also not the good part of it, and the follower goes no further."""
    name = next(NAMES)
    stored = Stored(etcd, name)
    with opened(etcd, name) as storage:
        storage.save_entry([Entry(1)])
        if not watching:
            storage.save_entry([Entry(2), Entry(3)])
            batch = bytearray(stored.get(f"b/{3:020d}"))
            batch[-20] ^= 1
            stored.put(f"b/{3:020d}", bytes(batch))
        with wal.cluster.follow(etcd.endpoints, name, 1) as records:
            assert next(entries_of(records)).value == Entry(1)
            if watching:
                stored.put(f"b/{3:020d}", stored.get(f"b/{2:020d}"))
            for _ in range(2):
                with pytest.raises(wal.CorruptionError):
                    next(records)


def test_a_missing_batch_is_told(etcd: EtcdCluster) -> None:
    """Whether it is the last one or another."""
    for number in (2, 3):
        name = next(NAMES)
        with opened(etcd, name) as storage:
            storage.save_entry([Entry(1)])
            storage.save_entry([Entry(2)])
        Stored(etcd, name).delete(f"b/{number:020d}")
        with (
            wal.cluster.follow(etcd.endpoints, name, 1) as records,
            pytest.raises(wal.CorruptionError, match="missing"),
        ):
            list(records)


def test_a_storage_that_is_not_there(etcd: EtcdCluster) -> None:
    """It is an error at once, and so is one that is made anew."""
    name = next(NAMES)
    with pytest.raises(wal.WALNotFoundError):
        wal.cluster.follow(etcd.endpoints, name)
    with opened(etcd, name) as storage:
        storage.save_entry([Entry(1)])
    with wal.cluster.follow(etcd.endpoints, name, 1) as records:
        stored = Stored(etcd, name)
        for key in stored.all():
            stored.delete(key)
        with pytest.raises(wal.WALNotFoundError):
            next(records)
    with pytest.raises(ValueError, match="at least 1"):
        wal.cluster.follow(etcd.endpoints, name, 0)


def test_a_log_that_has_become_shorter_is_told(etcd: EtcdCluster) -> None:
    """Such as after a backup was restored."""
    name = next(NAMES)
    stored = Stored(etcd, name)
    with opened(etcd, name) as storage:
        storage.save_entry([Entry(1)])
        before = stored.all()
        storage.save_entry([Entry(2)])
    with wal.cluster.follow(etcd.endpoints, name, 1) as records:
        assert take(records, 4) == [*BEGINNING, Entry(1), Entry(2)]
        stored.restore(before)
        records._values = None  # as after a lost connection
        with pytest.raises(wal.CorruptionError, match="now the log ends at 2"):
            next(records)


class Nothing(wal.Entry):
    """An entry that there is none of."""

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        raise ValueError("there is no such entry")


def test_another_registry_is_told(etcd: EtcdCluster) -> None:
    """Records that the classes refuse."""
    name = next(NAMES)
    with opened(etcd, name) as storage:
        storage.save_entry([Entry(1, b"\xff" * 10, 7)])
    registry = wal.RecordRegistry(entry=Nothing)
    with wal.cluster.follow(etcd.endpoints, name, 1, registry=registry) as records:
        with pytest.raises(wal.RecordDecodeError):
            list(records)


@needs_etcd
def test_it_goes_on_across_leaders(tmp_path: Path) -> None:
    """Whichever member is killed or paused: every entry comes, once."""
    with EtcdCluster(tmp_path / "etcd", 3) as cluster:
        options: dict[str, Any] = {"request_timeout_s": 1.0}
        with (
            opened(cluster, "a", **options) as storage,
            wal.cluster.follow(cluster.endpoints, "a", 1, **options) as records,
        ):
            entries = entries_of(records)
            index = 0
            for number in range(3):
                for _ in range(5):
                    index += 1
                    storage.save_entry([Entry(index)])
                    assert next(entries).value == Entry(index)
                cluster.kill(number)
                for _ in range(5):
                    index += 1
                    storage.save_entry([Entry(index)])
                    assert next(entries).value == Entry(index)
                cluster.restart(number)
                cluster.wait_until_ready()


@needs_etcd
def test_when_nobody_answers_the_next_call_tries_again(tmp_path: Path) -> None:
    """A cluster that is gone is an error after a while, and no end."""
    with EtcdCluster(tmp_path / "etcd") as cluster:
        with opened(cluster, "a") as storage:
            storage.save_entry([Entry(1)])
        with wal.cluster.follow(cluster.endpoints, "a", 1, timeout_s=0.2) as records:
            assert next(entries_of(records)).value == Entry(1)
            cluster.kill(0)
            with pytest.raises(wal.ClusterUnavailableError):
                next(records)
            cluster.restart(0)
            cluster.wait_until_ready()
            with opened(cluster, "a") as storage:
                storage.save_entry([Entry(2)])
            assert next(records).value == Entry(2)
