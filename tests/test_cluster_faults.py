"""Whatever happens to requests and answers: nothing acknowledged is lost, doubled or out of order."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

import wal
from etcd_cluster import EtcdCluster
from lines import Fault, Line, over
from wal import CommitState, Entry, FencedError, SnapshotData

pytest.importorskip("grpc", reason="no grpcio: pip install wal[etcd]")

import wal.cluster

NAMES = (f"faults/{number}" for number in itertools.count())

Kept = tuple[int, int, dict[int, bytes]]
"""The newest snapshot's index, the committed index, and the entries."""


class Life:
    """A storage's life, and what of it must be there afterwards."""

    def __init__(self, etcd: EtcdCluster, name: str, **options: Any) -> None:
        self.etcd = etcd
        self.name = name
        self.options = {"timeout_s": 10.0, "max_request_bytes": 16384, **options}
        self.kept: Kept = (0, 0, {})
        self.unsure: list[Kept] = []
        """What may be there instead, if nobody knows whether something was kept."""
        self.number = 0

    def open(self) -> wal.cluster.EtcdStorage[Entry, CommitState]:
        storage, recovered = wal.cluster.open_storage(self.etcd.endpoints, self.name, b"life", **self.options)
        found = found_in(recovered)
        try:
            assert recovered.metadata == b"life"
            assert found in (behind_the_snapshot(kept) for kept in [self.kept, *self.unsure])
        except BaseException:
            storage.close()
            raise
        if found != behind_the_snapshot(self.kept):
            (self.kept,) = (kept for kept in self.unsure if behind_the_snapshot(kept) == found)
        self.unsure = []
        return storage

    def run(self) -> None:
        """Open, save, overwrite, take snapshots, release, close; all of it twice. Saves that are refused are none."""
        for _ in range(2):
            with self.open() as storage:
                self.save(storage, 2)
                self.save(storage, 1, replacing=1)
                self.snap(storage)
                self.save(storage, 1, state=False)
                self.save(storage, 1)
                self.snap(storage)
                self.act(lambda: storage.release(SnapshotData(self.kept[0])), self.kept)
                self.save(storage, 1)

    def save(self, storage: Any, count: int, *, replacing: int = 0, state: bool = True) -> None:
        snapshot, committed, entries = self.kept
        first = storage.last_index + 1 - (replacing if storage.last_index > snapshot else 0)
        new = {}
        for index in range(first, first + count):
            self.number += 1
            new[index] = b"%d" % self.number
        left = {index: data for index, data in entries.items() if index < first}
        after = (snapshot, max(first + count - 2, committed) if state else committed, {**left, **new})
        self.act(
            lambda: storage.save(
                CommitState(after[1]) if state else None, [Entry(index, data) for index, data in new.items()]
            ),
            after,
        )

    def snap(self, storage: Any) -> None:
        snapshot, committed, entries = self.kept
        if committed > snapshot:
            data = b"x" * 20000  # two chunks
            self.act(lambda: storage.save_snap(SnapshotData(committed, data)), (committed, committed, entries))

    def act(self, action: Callable[[], None], after: Kept) -> None:
        try:
            action()
        except (wal.QuotaExceededError, wal.ClusterUnavailableError):
            return
        except (wal.WALFailedError, FencedError):
            self.unsure = [after]
            raise
        self.kept = after


def found_in(recovered: wal.Recovered[Any, Any]) -> Kept:
    entries = [(entry.index, entry.data) for entry in recovered.entries]
    assert len(dict(entries)) == len(entries)
    assert [index for index, _ in entries] == sorted(index for index, _ in entries)
    return recovered.snapshot.index if recovered.snapshot else 0, recovered.state.committed, dict(entries)


def behind_the_snapshot(kept: Kept) -> Kept:
    snapshot, committed, entries = kept
    return snapshot, committed, {index: data for index, data in entries.items() if index > snapshot}


@pytest.fixture(scope="module")
def healthy(etcd: EtcdCluster) -> Line:
    """What a life asks for, if nothing goes wrong."""
    line = Line()
    with over(line):
        life = Life(etcd, next(NAMES))
        life.run()
        life.open().close()
    assert line.count > 40
    return line


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
def test_one_fault_at_any_request_does_no_harm(etcd: EtcdCluster, healthy: Line, fault: Fault) -> None:
    """A life goes on to its end, whichever request it is, and what it has kept is there."""
    for number in range(healthy.count):
        if fault in (Fault.FULL, Fault.FULL_BUT_DONE) and not healthy.writing[number]:
            continue
        line = Line({number: fault})
        with over(line):
            life = Life(etcd, next(NAMES))
            try:
                life.run()
            except wal.QuotaExceededError:
                assert fault is Fault.FULL  # at opening, where it is not a save that is refused
            line.faults.clear()
            line.deliver()
            life.open().close()


@pytest.mark.torture
def test_many_faults_do_no_harm(etcd: EtcdCluster, effort: Callable[..., int]) -> None:
    """Several faults, also one after the other, and what arrives in the end changes nothing."""
    chance = random.Random(7)
    faults = [fault for fault in Fault if fault not in (Fault.FULL, Fault.FULL_BUT_DONE)]
    for _ in range(effort(quick=40, full=1500, deep=20000)):
        line = Line({number: chance.choice(faults) for number in range(120) if chance.random() < 0.2})
        with over(line):
            life = Life(etcd, next(NAMES))
            life.run()
            life.open().close()
            line.deliver()
            life.open().close()


def test_when_there_is_no_time_left_the_storage_stops(etcd: EtcdCluster, healthy: Line) -> None:
    """
    From any request on nothing arrives: the storage stops. The next owner finds what was acknowledged, and maybe what
    was not. What then arrives after all changes nothing.
    """
    outcomes = set()
    for cut in range(healthy.count):
        line = Line(cut=cut)
        with over(line):
            life = Life(etcd, next(NAMES))
            life.options["timeout_s"] = 0.01
            try:
                life.run()
            except wal.WALError as error:
                outcomes.add(type(error))
            line.cut = None
            life.options["timeout_s"] = 10.0
            if cut % 2:
                line.deliver()  # before there is another owner
            with life.open() as storage:
                line.deliver()
                life.save(storage, 1)
            line.deliver()
            life.open().close()

    assert outcomes == {wal.ClusterUnavailableError, wal.WALFailedError}


def test_a_storage_that_has_stopped_stays_so(etcd: EtcdCluster) -> None:
    """Every call raises, even when the cluster is there again, and closing does not."""
    line = Line()
    with over(line):
        storage, _ = wal.cluster.open_storage(etcd.endpoints, next(NAMES), timeout_s=0.05)
        line.cut = line.count
        pending = [storage.submit(None, [Entry(index)]) for index in (1, 2)]
        with pytest.raises(wal.WALFailedError, match="not known"):
            pending[1].wait()
        line.cut = None
        calls: list[Callable[[], object]] = [
            lambda: storage.save_entry([Entry(1)]),
            lambda: storage.save_snap(SnapshotData(1)),
            lambda: storage.release(SnapshotData(1)),
            storage.sync,
            pending[0].wait,
        ]
        for call in calls:
            with pytest.raises(wal.WALFailedError):
                call()
        assert repr(storage).endswith("stopped>")
        storage.close()


def test_a_refusal_takes_back_what_was_promised(etcd: EtcdCluster) -> None:
    """All that is queued fails with it, and the next index is what it was before."""
    line = Line()
    with over(line):
        storage, _ = wal.cluster.open_storage(etcd.endpoints, next(NAMES))
        with storage:
            storage.save(CommitState(1), [Entry(1)])
            line.faults[line.count] = Fault.FULL
            pending = [storage.submit(CommitState(index), [Entry(index)]) for index in (2, 3, 4)]
            for save in pending:
                with pytest.raises(wal.QuotaExceededError, match="space"):
                    save.wait()
            assert (storage.last_index, storage.state) == (1, CommitState(1))
            with pytest.raises(wal.IndexOrderError):
                storage.save_entry([Entry(3)])
            storage.save_entry([Entry(2, b"again")])


@pytest.mark.parametrize("late", [Fault.MUCH_LATER, Fault.NEXT, Fault.LOST], ids=lambda fault: fault.name.lower())
def test_a_refusal_is_final_only_if_nothing_is_on_its_way(etcd: EtcdCluster, late: Fault) -> None:
    """The first request is late, and the second one refused: that says nothing about the first."""
    line, name = Line(), next(NAMES)
    with over(line):
        with wal.cluster.open_storage(etcd.endpoints, name)[0] as storage:
            number = line.count
            line.faults = {number: late, number + 2: Fault.FULL}
            storage.save_entry([Entry(1)])
            storage.save_entry([Entry(2)])
        line.deliver()

    assert entries_of(etcd, name) == [b"", b""]


@pytest.mark.parametrize("kept", [False, True])
def test_who_is_fenced_before_the_answer_is_found_is_told_so(etcd: EtcdCluster, kept: bool) -> None:
    """The answer is lost, and somebody else takes over before the storage can look: the save may be kept or not."""
    name = next(NAMES)

    class TakenOver(Line):
        number = -1

        def send(self, call: Any, message: Any, send: Callable[[], Any]) -> Any:
            if self.count == self.number:
                self.number = -1
                others.append(wal.cluster.open_storage(etcd.endpoints, name))
            return super().send(call, message, send)

    others: list[Any] = []
    line = TakenOver()
    with over(line), wal.cluster.open_storage(etcd.endpoints, name)[0] as storage:
        line.faults = {line.count: Fault.ANSWER_LOST if kept else Fault.LOST}
        line.number = line.count + 1
        with pytest.raises(FencedError, match="may have been kept"):
            storage.save_entry([Entry(1, b"perhaps")])
        ((other, recovered),) = others
        other.close()

    assert recovered.entries == ([Entry(1, b"perhaps")] if kept else [])


# ---------------------------------------------------------------------------------------------- two owners


class Owner:
    """Opens a storage at a time and saves to it; notes what became of it."""

    def __init__(self, etcd: EtcdCluster, name: str, letter: str) -> None:
        self.etcd, self.name, self.letter = etcd, name, letter
        self.storage: Any = None
        self.acknowledged: list[bytes] = []
        self.refused: list[bytes] = []
        self.number = 0

    def open(self) -> None:
        self.close()
        self.storage, _ = wal.cluster.open_storage(self.etcd.endpoints, self.name)

    def save(self) -> None:
        if self.storage is None:
            return
        self.number += 1
        data = f"{self.letter}{self.number}".encode()
        try:
            self.storage.save(None, [Entry(self.storage.last_index + 1, data)])
        except FencedError:
            self.refused.append(data)
        else:
            assert not self.refused, "who was fenced once is fenced for ever"
            self.acknowledged.append(data)

    def close(self) -> None:
        if self.storage is not None:
            self.storage.close()
            self.storage, self.refused = None, []


def entries_of(etcd: EtcdCluster, name: str) -> list[bytes]:
    storage, recovered = wal.cluster.open_storage(etcd.endpoints, name)
    storage.close()
    return [entry.data for entry in recovered.entries if isinstance(entry, Entry)]


@pytest.mark.torture
def test_only_the_last_owner_saves(etcd: EtcdCluster, effort: Callable[..., int]) -> None:
    """Two owners, and every sequence of their opening and saving: a save is kept exactly if nobody opened since."""
    length = effort(quick=4, full=6, deep=7)
    for steps in itertools.product(("a opens", "a saves", "b opens", "b saves"), repeat=length):
        if steps[0].endswith("saves"):
            continue
        name = next(NAMES)
        owners = {letter: Owner(etcd, name, letter) for letter in "ab"}
        holder, expected = "", []
        for step in steps:
            letter = step[0]
            if step.endswith("opens"):
                owners[letter].open()
                holder = letter
            else:
                owners[letter].save()
                if holder == letter:
                    expected.append(f"{letter}{owners[letter].number}".encode())
        for owner in owners.values():
            owner.close()

        assert entries_of(etcd, name) == expected
        assert sorted(owners["a"].acknowledged + owners["b"].acknowledged) == sorted(expected)


class Schedule(Line):
    """Lets the requests of several threads through in a given order."""

    def __init__(self, order: list[str]) -> None:
        super().__init__()
        self._order = order
        self._gone: set[str] = set()
        self._change = threading.Condition()

    def send(self, call: Any, message: Any, send: Callable[[], Any]) -> Any:
        name = threading.current_thread().name
        with self._change:
            self._change.wait_for(lambda: self._next() in (name, None))
            try:
                return super().send(call, message, send)
            finally:
                if self._order and self._order[0] == name:
                    del self._order[0]
                self._change.notify_all()

    def _next(self) -> str | None:
        while self._order and self._order[0] in self._gone:
            del self._order[0]
        return self._order[0] if self._order else None

    def leave(self) -> None:
        with self._change:
            self._gone.add(threading.current_thread().name)
            self._change.notify_all()


@pytest.mark.torture
def test_requests_of_two_owners_in_any_order(etcd: EtcdCluster, effort: Callable[..., int]) -> None:
    """However the requests of two owners who open and save fall between each other: what one was told is true."""
    chance = random.Random(11)
    fenced = 0
    for _ in range(effort(quick=60, full=2000, deep=20000)):
        name = next(NAMES)
        owners = [Owner(etcd, name, letter) for letter in "ab"]
        schedule = Schedule([chance.choice("ab") for _ in range(60)])
        errors: list[BaseException] = []

        def live(owner: Owner, schedule: Schedule = schedule, errors: list[BaseException] = errors) -> None:
            try:
                for _ in range(2):
                    try:
                        owner.open()
                    except FencedError:
                        owner.storage = None  # while it was reading
                    owner.save()
                    owner.save()
            except BaseException as error:
                errors.append(error)
            finally:
                schedule.leave()

        with over(schedule):
            threads = [threading.Thread(target=live, args=[owner], name=owner.letter) for owner in owners]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for owner in owners:
                owner.close()

        assert errors == []
        found = entries_of(etcd, name)
        assert sorted(found) == sorted(owners[0].acknowledged + owners[1].acknowledged)
        for owner in owners:
            assert [data for data in found if data.startswith(owner.letter.encode())] == owner.acknowledged
        fenced += sum(owner.number for owner in owners) - len(found)
    assert fenced > 10
