"""etcd's limits are met before a byte is sent, and its own refusals are told and do no harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import wal
from etcd_cluster import EtcdCluster, needs_etcd
from lines import Line, over
from wal import CommitState, Entry, SnapshotData

pytest.importorskip("grpc", reason="no grpcio: pip install wal[etcd]")

import wal.cluster

pytestmark = needs_etcd

QUOTA_BYTES = 16 << 20
MAX_REQUEST_BYTES = 32 << 10


@pytest.fixture
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """A member with little space, and small requests."""
    directory = tmp_path_factory.mktemp("etcd")
    with EtcdCluster(directory, quota_bytes=QUOTA_BYTES, max_request_bytes=MAX_REQUEST_BYTES) as cluster:
        yield cluster


def reopened(etcd: EtcdCluster, **options: Any) -> wal.Recovered[Any, Any]:
    storage, recovered = wal.cluster.open_storage(etcd.endpoints, "a", **options)
    storage.close()
    return recovered


class TestRequests:
    @pytest.mark.parametrize("max_request_bytes", [16 << 10, 32 << 10])
    def test_a_save_that_does_not_fit_is_not_sent(self, tight: EtcdCluster, max_request_bytes: int) -> None:
        """The longest that is taken is taken by the member, too; one byte more is an error before anything is sent."""
        line = Line()
        with (
            over(line),
            wal.cluster.open_storage(tight.endpoints, "a", max_request_bytes=max_request_bytes)[0] as storage,
        ):
            fits, too_long = 0, max_request_bytes
            while too_long - fits > 1:  # by halves
                length = (fits + too_long) // 2
                before = line.count
                try:
                    storage.save(None, [Entry(storage.last_index + 1, bytes(length))])
                except wal.RequestTooLargeError as error:
                    assert error.limit == max_request_bytes < error.size
                    assert line.count == before
                    too_long = length
                else:
                    fits = length
            assert max_request_bytes - 3000 < fits < max_request_bytes
            storage.save_entry([Entry(1, b"and on it goes")])

        assert [entry.data for entry in reopened(tight).entries] == [b"and on it goes"]

    @pytest.mark.parametrize("records", [1, 2, 10, 100, 500])
    def test_the_count_is_of_the_most_that_it_can_be(self, tight: EtcdCluster, records: int) -> None:
        """Whatever a save consists of: what is taken fits."""
        with wal.cluster.open_storage(tight.endpoints, "a", max_request_bytes=MAX_REQUEST_BYTES)[0] as storage:
            taken = 0
            for length in range(0, MAX_REQUEST_BYTES // records, max(1, MAX_REQUEST_BYTES // records // 40)):
                first = storage.last_index + 1
                entries = [Entry(index, bytes(length)) for index in range(first, first + records)]
                try:
                    storage.save(CommitState(first), entries)
                except wal.RequestTooLargeError:
                    break
                taken += 1
            assert taken > 3

    def test_a_long_state_counts_twice(self, tight: EtcdCluster) -> None:
        """It stands in the batch and in the tail; a later save has it in the tail again."""
        options: dict[str, Any] = {
            "registry": wal.RecordRegistry(state=LongState),
            "max_request_bytes": MAX_REQUEST_BYTES,
        }
        with wal.cluster.open_storage(tight.endpoints, "a", **options)[0] as storage:
            storage.save_state(LongState(bytes(10_000)))
            storage.save_entry([Entry(1, bytes(10_000))])
            calls: list[Callable[[], object]] = [
                lambda: storage.save_state(LongState(bytes(14_000))),
                lambda: storage.save_entry([Entry(2, bytes(20_000))]),
            ]
            for call in calls:
                with pytest.raises(wal.RequestTooLargeError):
                    call()
        assert reopened(tight, **options).state == LongState(bytes(10_000))

    def test_a_member_that_takes_less_than_it_is_said_to(self, tight: EtcdCluster) -> None:
        """It refuses the save: an error, nothing is kept of it, and the storage goes on."""
        with wal.cluster.open_storage(tight.endpoints, "a")[0] as storage:
            storage.save_entry([Entry(1)])
            with pytest.raises(wal.WALEnvironmentError, match="too large"):
                storage.save(CommitState(2), [Entry(2, bytes(MAX_REQUEST_BYTES))])
            with pytest.raises(wal.WALEnvironmentError, match=r"too large|larger than max"):
                storage.save(CommitState(2), [Entry(2, bytes(1_000_000))])
            storage.save_entry([Entry(2)])

        assert (reopened(tight).state, reopened(tight).entries) == (CommitState(0), [Entry(1), Entry(2)])


class LongState(wal.HardState):
    """A state of any length."""

    committed: int

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.committed = 0

    def marshal(self) -> bytes:
        return self.data

    @classmethod
    def unmarshal(cls, data: bytes) -> LongState:
        return cls(data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LongState) and self.data == other.data

    __hash__ = None  # type: ignore[assignment]


class TestQuota:
    def fill(self, storage: wal.cluster.EtcdStorage[Any, Any, Any]) -> int:
        """Save until there is no space, and return how many saves were taken."""
        for number in range(10_000):
            try:
                storage.save(CommitState(storage.last_index), [Entry(storage.last_index + 1, bytes(20_000))])
            except wal.QuotaExceededError:
                return number
        raise AssertionError("it is never full")

    def defragment(self, etcd: EtcdCluster) -> None:
        """Defragment until the database is short: etcd compacts in the background, behind its answer."""
        for _ in range(1000):
            etcd.post(0, "/v3/maintenance/defragment", {}, timeout_s=30)
            if int(etcd.post(0, "/v3/maintenance/status", {})["dbSize"]) < QUOTA_BYTES // 4:
                return
        raise AssertionError("what was released still takes its space")

    def alarms(self, etcd: EtcdCluster) -> list[Any]:
        found: list[Any] = etcd.post(0, "/v3/maintenance/alarm", {"action": "GET"}).get("alarms", [])
        return found

    def test_a_storage_stops_in_front_of_it(self, tight: EtcdCluster) -> None:
        """
        No alarm is raised, and there is space left for a snapshot and for giving up what is older.

        When the member has defragmented, the storage goes on, with no other call.
        """
        options: dict[str, Any] = {
            "quota_bytes": QUOTA_BYTES,
            "max_request_bytes": MAX_REQUEST_BYTES,
            "max_snapshot_bytes": 1 << 20,
        }
        with wal.cluster.open_storage(tight.endpoints, "a", retention=wal.Retention(1), **options)[0] as storage:
            assert self.fill(storage) > 300
            last, state = storage.last_index, storage.state
            with pytest.raises(wal.QuotaExceededError, match="of 16,777,216 bytes"):
                storage.save_entry([Entry(last + 1, bytes(20_000))])
            assert (storage.last_index, storage.state) == (last, state)
            assert self.alarms(tight) == []

            snapshot = SnapshotData(storage.state.committed, bytes(1_000_000))
            storage.save_snap(snapshot)
            storage.release(snapshot)
            self.defragment(tight)
            assert self.fill(storage) > 300
            assert self.alarms(tight) == []

        assert len(reopened(tight, **options).entries) > 300

    def test_a_member_that_has_less_than_it_is_said_to(self, tight: EtcdCluster) -> None:
        """It refuses: the same error, and the storage goes on when there is room. Nothing is lost, nothing doubled."""
        with wal.cluster.open_storage(tight.endpoints, "a", max_request_bytes=MAX_REQUEST_BYTES)[0] as storage:
            assert self.fill(storage) > 300
            last = storage.last_index
            for _ in range(3):
                with pytest.raises(wal.QuotaExceededError, match="disarm"):
                    storage.save_entry([Entry(last + 1)])
            assert self.alarms(tight) != []
            with pytest.raises(wal.QuotaExceededError):
                reopened(tight, timeout_s=5.0)  # which has to write its name

            tight.kill(0)
            tight.restart(0, f"--quota-backend-bytes={4 * QUOTA_BYTES}")
            tight.wait_until_ready()
            for alarm in self.alarms(tight):
                tight.post(0, "/v3/maintenance/alarm", {"action": "DEACTIVATE", **alarm})
            storage.save_entry([Entry(last + 1)])

        assert [entry.index for entry in reopened(tight).entries] == list(range(1, last + 2))

    def test_the_members_are_asked_seldom(self, tight: EtcdCluster) -> None:
        """As long as there is much space, once."""
        line = Line()
        with over(line), wal.cluster.open_storage(tight.endpoints, "a")[0] as storage:
            before = line.count
            for index in range(1, 101):
                storage.save_entry([Entry(index)])
            assert line.count - before == 100
