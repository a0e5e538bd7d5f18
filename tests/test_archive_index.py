"""Back to any index: what the log is then, for every history and index, in other words than the library's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wal
from unsynced import UNSYNCED

pytest.importorskip("obstore", reason="pip install 'wal[archive]'")

from obstore.store import MemoryStore

from wal.archive import Archiver, restore

SIZE = 4096
PADDING = bytes(900)
"""Four entries or so make a segment."""


@pytest.fixture
def tmp_path(memory: Path) -> Path:
    """Nothing here depends on the disk."""
    return memory


AHEAD = {9}
"""The markers in the histories that are ahead of the entries."""


class Save(NamedTuple):
    """One call of ``save``, or of ``save_snap``."""

    entries: list[int]
    committed: int | None = None
    marker: int | None = None


def write(path: Path, saves: list[Save]) -> None:
    """Write a log; each entry says in which save it was written. What is behind its end is only there to seal it."""
    with wal.WAL.create(path, b"node", segment_size=SIZE, fs=UNSYNCED) as log:
        for number, save in enumerate(saves):
            if save.marker is not None:
                log.save_snap(wal.SnapshotMarker(save.marker))
            else:
                entries = [wal.Entry(index, b"%d " % number + PADDING) for index in save.entries]
                log.save(None if save.committed is None else wal.CommitState(save.committed), entries)
        log.save(None, [wal.Entry(log.last_index + 1, bytes(SIZE))])
        log.save(None, [wal.Entry(log.last_index + 1, b"")])


class Record(NamedTuple):
    kind: str
    number: int
    save: int


def saved_in(entry: wal.LogEntry) -> int:
    """Return the number of the save in which an entry was written; -1 for those that only seal."""
    assert isinstance(entry, wal.Entry)
    return int(entry.data.split(b" ")[0]) if entry.data[:1].isdigit() else -1


def records_of(path: Path) -> list[Record]:
    """Return all records, in their order."""
    found = []
    for type, value, _, _ in wal.WALReader(path):
        if isinstance(value, wal.Entry):
            found.append(Record("entry", value.index, saved_in(value)))
        elif isinstance(value, wal.CommitState):
            found.append(Record("state", value.committed, 0))
        elif isinstance(value, wal.SnapshotMarker):
            found.append(Record("marker", value.index, 0))
        else:
            assert type is wal.RecordType.METADATA
    return found


class Expected(NamedTuple):
    entries: list[tuple[int, int]]
    committed: int | None
    markers: list[int]


def expected(records: list[Record], index: int) -> Expected | None:
    """Return what the log is at an index, or ``None`` if it cannot go back there."""
    places = [at for at, record in enumerate(records) if record[:2] == ("entry", index)]
    if not places:
        # A snapshot may have taken the place of entries that the log never had.
        places = [at for at, record in enumerate(records) if record[:2] == ("marker", index)][:1]
        if not places or any(record.kind == "entry" and record.number > index for record in records[: places[0]]):
            return None
    reached = places[-1]
    if any(record.kind == "entry" and record.number < index for record in records[reached:]):
        return None  # it was overruled
    if any(record.kind == "marker" and record.number > index for record in records[:reached]):
        return None
    beyond = [at for at in range(reached + 1, len(records)) if records[at].kind == "entry"]
    told = records[: beyond[0] if beyond else len(records)]
    entries: list[tuple[int, int]] = []
    for record in told:
        if record.kind == "entry":
            entries = [entry for entry in entries if entry[0] < record.number] + [(record.number, record.save)]
    states = [record.number for record in told if record.kind == "state"]
    right = [number for number in states if number <= index]
    committed = right[-1] if right else 0 if states else None
    limit = index if committed is None else committed
    return Expected(
        entries, committed, [record.number for record in told if record.kind == "marker" and record.number <= limit]
    )


def check(saves: list[Save], here: Path) -> int:
    """Restore a history at every index; return at how many that could be done."""
    write(here / "log", saves)
    store = MemoryStore()
    with Archiver(here / "log", store, fs=UNSYNCED) as archiver:
        last = archiver.run().last_index
    records = records_of(here / "log")
    done = 0
    for index in range(1, max(last, *(record.number for record in records)) + 1):
        wanted = expected(records, index) if index <= last else None
        if wanted is None:
            with pytest.raises(wal.UnavailableError):
                restore(store, here / "restored", index=index, fs=UNSYNCED)
            assert not (here / "restored").exists()
            continue
        target = here / f"restored-{index}"
        report = restore(store, target, index=index, fs=UNSYNCED)
        assert report.last_index == index
        assert wal.verify(target).last_index == index
        markers = [marker.index for marker in wal.valid_snapshots(target)]
        assert markers == wanted.markers
        restored = records_of(target)
        reached = max((at for at, record in enumerate(restored) if record[:2] == ("entry", index)), default=0)
        assert all(record.number <= index for record in restored[reached:])  # it is told of nothing beyond
        ahead = max((save.marker or 0 for save in saves if save.marker in AHEAD), default=0)
        start = wal.SnapshotMarker(ahead if ("marker", ahead, 0) in restored else 0)
        contents = wal.WALReader(target, start).read_all()
        found = [(entry.index, saved_in(entry)) for entry in contents.entries]
        assert found == [entry for entry in wanted.entries if entry[0] > start.index]
        has_state = any(record.type is wal.RecordType.STATE for record in wal.WALReader(target))
        assert (contents.state.committed if has_state else None) == wanted.committed
        log, _, state, _ = wal.read_wal(target, start, segment_size=SIZE, fs=UNSYNCED)
        with log:  # and it goes on
            log.save(state, [wal.Entry(index + 1, b"next")])
        assert wal.WALReader(target).last_index == index + 1
        done += 1
    return done


HISTORIES = {
    "entries, one by one": [Save([index], index) for index in range(1, 12)],
    "many in one save": [Save(list(range(1, 13)), 12)],
    "commits come one save later": [Save([index], index - 1) for index in range(1, 12)],
    "commits of their own": [save for index in range(1, 10) for save in (Save([index]), Save([], index))],
    "no state at all": [Save([index, index + 1]) for index in range(1, 14, 2)],
    "states that commit what is still to come": [Save([], 10), *(Save([index]) for index in range(1, 11))],
    "an end that is overruled": [Save([1, 2, 3], 1), Save([4, 5, 6]), Save([4]), Save([5], 5)],
    "overruled again and again": [Save(list(range(1, 8))), Save([3, 4]), Save([2, 3, 4, 5]), Save([5, 6, 7, 8], 8)],
    "markers": [Save([1, 2, 3], 3), Save([], None, 2), Save([4, 5], 5), Save([], None, 5), Save([6, 7], 7)],
    "a marker behind the next entry": [Save([1, 2, 3], 2), Save([4]), Save([], 3), Save([], None, 3), Save([5])],
    "a marker behind a state that commits more": [Save([1, 2, 3, 4], 3), Save([], 9), Save([], None, 4), Save([5, 6])],
    "a marker of one less": [Save([1, 2, 3, 4]), Save([], None, 9), Save([], None, 3), Save([10, 11])],
    "an end that is gone": [Save(list(range(1, 21)), 1), Save([4]), Save([5, 6], 5)],
    "a marker ahead of entries that follow all the same": [Save([1, 2], 2), Save([], None, 9), Save([3, 4, 5], 3)],
    "a marker ahead of the entries": [Save([1, 2], 2), Save([], 9), Save([], None, 9), Save([10, 11], 11)],
    "large saves": [Save(list(range(first, first + 9)), first) for first in (1, 10, 19)],
}


@pytest.mark.parametrize("name", HISTORIES)
def test_every_index(name: str, tmp_path: Path) -> None:
    """Each history, at each of its indexes."""
    assert check(HISTORIES[name], tmp_path) >= (2 if "ahead" in name else 5)


@st.composite
def histories(draw: st.DrawFn) -> list[Save]:
    """Saves of some entries each, of which the first may be a lower one than the last; states and markers between."""
    saves = []
    last = committed = marker = 0
    for _ in range(draw(st.integers(1, 12))):
        what = draw(st.sampled_from(["entries", "entries", "entries", "state", "marker"]))
        if what == "entries":
            first = draw(st.integers(min(max(committed, marker) + 1, last + 1), last + 1))
            last = first + draw(st.integers(0, 5))
            state = draw(st.one_of(st.none(), st.integers(committed, last)))
            saves.append(Save(list(range(first, last + 1)), state))
            committed = max(committed, state or 0)
        elif what == "state":
            committed = draw(st.integers(committed, last))
            saves.append(Save([], committed))
        elif committed > marker:
            marker = draw(st.integers(marker + 1, committed))
            saves.append(Save([], None, marker))
    return saves


@settings(max_examples=40)
@given(saves=histories())
def test_any_history(saves: list[Save]) -> None:
    """What a Raft node may write, and what comes back of it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as here:
        check(saves, Path(here))


class TestStorages:
    """Back to an index of a storage: with the snapshot that it had by then."""

    def archived(
        self, path: Path, count: int, *, release: bool = False, batches: int = 1, behind: int = 0
    ) -> MemoryStore:
        storage, _ = wal.open_storage(path, b"node", segment_size=SIZE, fs=UNSYNCED)
        store = MemoryStore()
        with storage:
            for first in range(1, count + 1, batches):
                last = first + batches - 1
                storage.save(wal.CommitState(last), [wal.Entry(i, b"x" + PADDING) for i in range(first, last + 1)])
                if last % 10 == 0 or behind:
                    snapshot = wal.SnapshotData(last - behind, b"state %d" % (last - behind))
                    storage.save_snap(snapshot)
                    if release:
                        storage.release(snapshot)
            with Archiver(path, store, fs=UNSYNCED) as archiver:
                archiver.run()
        return store

    def recovered(self, path: Path) -> tuple[int, int, int]:
        """Return the snapshot's index, the last index, and what is committed."""
        storage, recovered = wal.open_storage(path, segment_size=SIZE, fs=UNSYNCED)
        with storage:
            snapshot = recovered.snapshot.index if recovered.snapshot else 0
            assert recovered.snapshot is None or recovered.snapshot.data == b"state %d" % snapshot
            assert [entry.index for entry in recovered.entries] == list(range(snapshot + 1, storage.last_index + 1))
            storage.save(None, [wal.Entry(storage.last_index + 1)])
            return snapshot, storage.last_index - 1, recovered.state.committed

    def test_the_newest_snapshot_up_to_the_index(self, tmp_path: Path) -> None:
        """And only the segments from there on."""
        store = self.archived(tmp_path / "storage", 60)
        for index in range(1, 55):
            report = restore(store, tmp_path / f"{index}", index=index, fs=UNSYNCED)
            assert self.recovered(tmp_path / f"{index}") == (index // 10 * 10, index, index)
            assert report.snapshot == (index // 10 * 10 or None)
            assert report.segments <= 5

    def test_an_archive_that_was_begun_late(self, tmp_path: Path) -> None:
        """It goes back as far as its oldest snapshot, and no further."""
        store = self.archived(tmp_path / "storage", 60, release=True)
        for index in range(1, 40):
            with pytest.raises(wal.CompactedError):
                restore(store, tmp_path / "never", index=index, fs=UNSYNCED)
        assert not (tmp_path / "never").exists()
        assert restore(store, tmp_path / "50", index=50, fs=UNSYNCED).snapshot == 50
        assert self.recovered(tmp_path / "50") == (50, 50, 50)

    def test_a_snapshot_that_was_not_committed_by_then(self, tmp_path: Path) -> None:
        """A save of five entries commits all five at its end, so in the middle of one less is committed."""
        store = self.archived(tmp_path / "storage", 60, batches=5)
        for index in range(1, 55):
            restore(store, tmp_path / f"{index}", index=index, fs=UNSYNCED)
            committed = index // 5 * 5
            assert self.recovered(tmp_path / f"{index}") == (committed // 10 * 10, index, committed)

    def test_a_snapshot_within_a_save(self, tmp_path: Path) -> None:
        """It is no snapshot of the log at an index at which only less had been committed."""
        store = self.archived(tmp_path / "storage", 70, batches=7, behind=4)
        for index in range(1, 60):
            restore(store, tmp_path / f"{index}", index=index, fs=UNSYNCED)
            committed = index // 7 * 7
            # As long as no state was saved, every snapshot counts.
            newest = committed - 4 if committed else 3 if index >= 3 else 0
            assert self.recovered(tmp_path / f"{index}") == (newest, index, committed)

    def test_a_marker_that_came_later(self, tmp_path: Path) -> None:
        """A snapshot whose marker was saved behind the next entries is as good in front of them."""
        storage, _ = wal.open_storage(tmp_path / "storage", b"node", segment_size=SIZE, fs=UNSYNCED)
        store = MemoryStore()
        with storage:
            for index in range(1, 70):
                storage.save(wal.CommitState(index), [wal.Entry(index, b"x" + PADDING)])
                if index > 20 and index % 10 == 5:
                    storage.save_snap(wal.SnapshotData(index - 15, b"state %d" % (index - 15)))
            with Archiver(tmp_path / "storage", store, fs=UNSYNCED) as archiver:
                archiver.run()
        for index in range(1, 50):
            restore(store, tmp_path / f"{index}", index=index, fs=UNSYNCED)
            newest = index // 10 * 10 if index < 40 else 40
            assert self.recovered(tmp_path / f"{index}") == (newest, index, index)

    @pytest.mark.parametrize("index", [0, -1])
    def test_there_is_no_such_index(self, index: int, tmp_path: Path) -> None:
        """An index is at least 1."""
        with pytest.raises(ValueError, match="at least 1"):
            restore(MemoryStore(), tmp_path / "never", index=index)

    def test_an_index_beyond_the_end(self, tmp_path: Path) -> None:
        """What is not sealed is not archived."""
        store = self.archived(tmp_path / "storage", 60)
        with pytest.raises(wal.UnavailableError, match="which ends with"):
            restore(store, tmp_path / "never", index=61, fs=UNSYNCED)

    def test_what_comes_meanwhile_stays(self, tmp_path: Path) -> None:
        """A directory that is made while another one is built beside."""
        store = self.archived(tmp_path / "storage", 60)
        target = tmp_path / "there"

        with pytest.raises(wal.WALExistsError):
            restore(store, target, fs=UNSYNCED, progress=lambda done, total: target.mkdir(exist_ok=True))

        assert sorted(path.name for path in tmp_path.iterdir()) == ["storage", "there"]

    @pytest.mark.parametrize("what", ["directory", "file", "empty directory"])
    def test_what_is_there_stays(self, what: str, tmp_path: Path) -> None:
        """Whatever has the name already is not touched."""
        store = self.archived(tmp_path / "storage", 60)
        target = tmp_path / "there"
        if what == "file":
            target.write_text("something")
        else:
            target.mkdir()
            if what == "directory":
                (target / "file").write_text("something")

        def nothing_is_read(done: int, total: int) -> None:
            raise AssertionError

        with pytest.raises(wal.WALExistsError):
            restore(store, target, fs=UNSYNCED, progress=nothing_is_read)

        assert sorted(path.name for path in tmp_path.iterdir()) == ["storage", "there"]
        assert what != "file" or target.read_text() == "something"
