"""One contract for all storages, and proof that the tests for it can tell a storage that breaks it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

import wal
from logs import SMALL
from unsynced import UNSYNCED, Unsynced
from wal import FileStorage, HardState, LogEntry, SnapshotData, SnapshotMarker
from wal.testing import StorageConformance


def open_log(path: Path, **options: Any) -> tuple[wal.WAL, HardState, list[LogEntry]]:
    """Open a log as an application does that keeps its snapshots elsewhere: at the newest one that is committed."""
    options = {"segment_size": SMALL, "fs": UNSYNCED, **options}
    if not wal.exists(path):
        log = wal.WAL.create(path, **options)
        return log, log.state, []
    newest = max(wal.valid_snapshots(path), key=lambda marker: marker.index)
    log, _, state, entries = wal.read_wal(path, newest, **options)
    return log, state, entries


def open_storage(path: Path, **options: Any) -> tuple[FileStorage, HardState, list[LogEntry]]:
    storage, recovered = wal.open_storage(path, **{"segment_size": SMALL, "fs": UNSYNCED, **options})
    return storage, recovered.state, recovered.entries


class LogConformance(StorageConformance[wal.Snapshot]):
    """A ``WAL`` is a storage whose snapshots are markers."""

    def snapshot(self, index: int) -> wal.Snapshot:
        return SnapshotMarker(index)


class FileConformance(StorageConformance[SnapshotData]):
    """A ``FileStorage`` is a storage whose snapshots have data."""

    def snapshot(self, index: int) -> SnapshotData:
        return SnapshotData(index, b"state at %d" % index)


class TestWAL(LogConformance):
    def open(self, path: Path) -> tuple[wal.Storage[wal.Snapshot], HardState, Sequence[LogEntry]]:
        return open_log(path)


class TestWALWithoutMarksAndSyncs(LogConformance):
    def open(self, path: Path) -> tuple[wal.Storage[wal.Snapshot], HardState, Sequence[LogEntry]]:
        return open_log(path, save_marks=False, sync=False)


class TestFileStorage(FileConformance):
    def open(self, path: Path) -> tuple[wal.Storage[SnapshotData], HardState, Sequence[LogEntry]]:
        return open_storage(path)


class TestFileStorageThatKeepsEverything(FileConformance):
    def open(self, path: Path) -> tuple[wal.Storage[SnapshotData], HardState, Sequence[LogEntry]]:
        return open_storage(path, retention=None)


class TestFileStorageThatKeepsTheLeast(FileConformance):
    def open(self, path: Path) -> tuple[wal.Storage[SnapshotData], HardState, Sequence[LogEntry]]:
        return open_storage(path, retention=wal.Retention(snapshots=1), sync=False)


# ------------------------------------------------------------------------------------------------------- types


def test_the_type_parameter_is_what_save_snap_takes(tmp_path: Path) -> None:
    """A log takes markers and a file storage takes data; the type checker knows which, and refuses the other."""
    with wal.WAL.create(tmp_path / "log") as log, open_storage(tmp_path / "storage")[0] as file_storage:
        markers: wal.Storage[wal.Snapshot] = log
        marker: wal.Storage[SnapshotMarker] = log
        data: wal.Storage[SnapshotData] = file_storage
        assert all(isinstance(storage, wal.Storage) for storage in (markers, marker, data))

        wrong_data: wal.Storage[SnapshotData] = log  # type: ignore[assignment]
        wrong_marker: wal.Storage[wal.Snapshot] = file_storage  # type: ignore[assignment]
        with pytest.raises(wal.RecordTypeError):
            wrong_data.save_snap(SnapshotData(1))
        with pytest.raises(TypeError):
            wrong_marker.save_snap(SnapshotMarker(1))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(wal.MemoryStorage(), id="MemoryStorage"),
        pytest.param(wal.Snapshotter("snap"), id="Snapshotter"),
        pytest.param(wal.RecordRegistry(), id="RecordRegistry"),
    ],
)
def test_not_everything_is_a_storage(other: object) -> None:
    """What lacks one of the methods is none."""
    assert not isinstance(other, wal.Storage)


# -------------------------------------------------------------------------------- storages that break the contract


class Unlocked(Unsynced):
    """A file system without locks."""

    def lock(self, fd: int) -> None:
        pass

    def lock_directory(self, fd: int) -> None:
        pass


class Wrapper:
    """Passes everything on to a file storage; those below each get one thing wrong."""

    fs: wal.FileSystem = UNSYNCED

    def __init__(self, path: Path) -> None:
        self.inner, self.state, self.entries = open_storage(path, fs=self.fs)

    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        self.inner.save(state, entries)

    def save_state(self, state: HardState) -> None:
        self.save(state, None)

    def save_entry(self, entries: Iterable[LogEntry]) -> None:
        self.save(None, entries)

    def save_snap(self, snapshot: SnapshotData) -> None:
        self.inner.save_snap(snapshot)

    def release(self, snapshot: wal.Snapshot) -> None:
        self.inner.release(snapshot)

    def sync(self) -> None:
        self.inner.sync()

    def close(self) -> None:
        self.inner.close()


class Faithful(Wrapper):
    """Breaks nothing."""


class ForgetsStates(Wrapper):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        super().save(None, entries)


class ForgetsStatesThatStandAlone(Wrapper):
    def save_state(self, state: HardState) -> None:
        pass


class ForgetsLowerStates(Wrapper):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        if isinstance(state, HardState) and state.committed < self.inner.state.committed:
            state = None
        super().save(state, entries)


class ForgetsTheLastEntry(Wrapper):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        super().save(state, list(entries or ())[:-1])


class IgnoresOverwriting(Wrapper):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        new = [entry for entry in entries or () if not 0 < getattr(entry, "index", 0) <= self.inner.last_index]
        super().save(state, new)


class WalksEntriesTwice(Wrapper):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        for _ in entries or ():
            pass
        super().save(state, entries)


class NeedsEntries(Wrapper):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        if not entries:
            raise ValueError("nothing to save")
        super().save(state, entries)


class StripsData(Wrapper):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        new = [wal.Entry(e.index, e.data.strip(), e.type) if isinstance(e, wal.Entry) else e for e in entries or ()]
        super().save(state, new)


class KeepsHalfOfAWrongSave(Wrapper):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        if isinstance(state, HardState):
            self.inner.save_state(state)
        super().save(state, entries)


class KeepsTheBeginningOfAWrongSave(Wrapper):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        entries = list(entries or ())
        try:
            super().save(state, entries)
        except wal.WALUsageError:
            self.inner.save_entry(entries[:1])
            raise


class TakesGaps(Wrapper):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        try:
            super().save(state, entries)
        except wal.IndexOrderError:
            return


class ForgetsSnapshots(Wrapper):
    def save_snap(self, snapshot: SnapshotData) -> None:
        self.inner.log._check_usable()


class KeepsTheFirstSnapshotOnly(Wrapper):
    def save_snap(self, snapshot: SnapshotData) -> None:
        self.inner.log._check_usable()
        if not self.inner.snapshotter.names():
            super().save_snap(snapshot)


class RefusesSnapshotsFromElsewhere(Wrapper):
    def save_snap(self, snapshot: SnapshotData) -> None:
        if snapshot.index > self.inner.last_index:
            raise wal.UnavailableError(snapshot.index, "that entry is not here")
        super().save_snap(snapshot)


class ReleasesTooMuch(Wrapper):
    def release(self, snapshot: wal.Snapshot) -> None:
        super().release(snapshot)
        for file in (self.inner.log.path.parent / "snap").iterdir():
            file.unlink()


class ReleasesOnce(Wrapper):
    released: int | None = None

    def release(self, snapshot: wal.Snapshot) -> None:
        if self.released == snapshot.index:
            raise wal.SnapshotOutOfDateError(snapshot.index, "that was released already")
        super().release(snapshot)
        self.released = snapshot.index


class DoesNotLock(Wrapper):
    fs = Unlocked()


class LocksAtTheFirstSave(Wrapper):
    """Takes the lock late: opens, closes, and opens again when something is saved."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.inner.close()
        self.path: Path | None = path

    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        if self.path is not None:
            (self.inner, _, _), self.path = open_storage(self.path), None
        super().save(state, entries)

    def sync(self) -> None:
        if self.path is None:
            super().sync()


class ClosesOnce(Wrapper):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise wal.WALClosedError("closed already")
        self.closed = True
        super().close()


class NeverCloses(Wrapper):
    def close(self) -> None:
        self.inner.sync()


class IgnoresCallsAfterClose(Wrapper):
    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()

    def sync(self) -> None:
        if not self.closed:
            super().sync()


class HasNoSync(Wrapper):
    sync = None  # type: ignore[assignment]


class IsNotEmpty(Wrapper):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if not self.entries:
            self.inner.save_entry([wal.Entry(1)])


# ------------------------------------------------------------------------------ storages that are taken over


class Owned:
    """
    Passes everything on to a file storage that all owners share; whoever opens it takes it over.

    Those below each get one thing wrong about it.
    """

    shared: ClassVar[dict[Path, tuple[FileStorage, list[Owned]]]] = {}

    def __init__(self, path: Path) -> None:
        if path not in self.shared:
            self.shared[path] = open_storage(path)[0], []
        self.path = path
        self.inner, owners = self.shared[path]
        owners.append(self)
        self.owners = owners
        self.closed = self.has_saved = False
        contents = wal.WALReader(path / "wal").read_all()
        marker = max((m.index for m in wal.valid_snapshots(path / "wal")), default=0)
        self.state: HardState = contents.state
        self.entries = [entry for entry in contents.entries if entry.index > marker]

    def check(self) -> None:
        if self.closed:
            raise wal.WALClosedError("closed")
        if self.is_fenced():
            raise wal.FencedError("another one has taken it over")

    def is_fenced(self) -> bool:
        return self.owners[-1] is not self

    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        self.check()
        self.inner.save(state, entries)

    def save_state(self, state: HardState) -> None:
        self.save(state, None)

    def save_entry(self, entries: Iterable[LogEntry]) -> None:
        self.save(None, entries)

    def save_snap(self, snapshot: SnapshotData) -> None:
        self.check()
        self.inner.save_snap(snapshot)

    def release(self, snapshot: wal.Snapshot) -> None:
        self.check()

    def sync(self) -> None:
        self.check()

    def close(self) -> None:
        self.closed = True


class Fences(Owned):
    """Breaks nothing."""


class NeverFences(Owned):
    def is_fenced(self) -> bool:
        return False


class FencesOnce(Owned):
    told = False

    def is_fenced(self) -> bool:
        fenced = super().is_fenced() and not self.told
        self.told = self.told or fenced
        return fenced


class FencesAfterWriting(Owned):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        if not self.closed:
            self.inner.save(state, entries)
        self.check()


class FencesWhenTheOwnerHasSaved(Owned):
    def is_fenced(self) -> bool:
        return super().is_fenced() and self.owners[-1].has_saved

    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        super().save(state, entries)
        self.has_saved = True


class FencesEntriesOnly(Owned):
    def save(self, state: HardState | None, entries: Iterable[LogEntry] | None) -> None:
        if entries is None and not self.closed:
            self.inner.save(state, None)
        else:
            super().save(state, entries)


class DoesNotFenceSnapshots(Owned):
    def save_snap(self, snapshot: SnapshotData) -> None:
        if self.closed:
            raise wal.WALClosedError("closed")
        self.inner.save_snap(snapshot)


class FencesTheOwner(Owned):
    def is_fenced(self) -> bool:
        return len(self.owners) > 1


class SaysThatItIsLocked(Owned):
    def check(self) -> None:
        if self.is_fenced() and not self.closed:
            raise wal.WALLockedError(self.path, "another one has it")
        super().check()


class DoesNotCloseWhenFenced(Owned):
    def close(self) -> None:
        if not self.closed:
            self.check()
        super().close()


class RefusesToTakeOver(Owned):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if any(not owner.closed for owner in self.owners[:-1]):
            self.owners.pop()
            raise wal.WALLockedError(path, "it has an owner")


TAKEN_OVER: dict[type[Owned], bool] = {
    Fences: True,
    NeverFences: False,
    FencesOnce: False,
    FencesAfterWriting: False,
    FencesWhenTheOwnerHasSaved: False,
    FencesEntriesOnly: False,
    DoesNotFenceSnapshots: False,
    FencesTheOwner: False,
    SaysThatItIsLocked: False,
    DoesNotCloseWhenFenced: False,
    RefusesToTakeOver: False,
}
"""Which of them pass."""


class TakeOverAttempt(FileConformance):
    """Runs the test of ownership against one of them."""

    takes_over = True

    def __init__(self, storage: type[Owned]) -> None:
        self.storage = storage

    def open(self, path: Path) -> tuple[wal.Storage[SnapshotData], HardState, Sequence[LogEntry]]:
        storage = self.storage(path)
        return storage, storage.state, storage.entries


@pytest.mark.parametrize("storage", TAKEN_OVER, ids=lambda storage: storage.__name__)
def test_a_storage_that_does_not_fence_fails(tmp_path: Path, storage: type[Owned]) -> None:
    """Each way to get the ownership wrong is seen, and the right one passes."""
    try:
        TakeOverAttempt(storage).test_there_is_one_writer(tmp_path)
    except Exception:
        passed = False
    else:
        passed = True
    finally:
        for path in [path for path in Owned.shared if path.is_relative_to(tmp_path)]:
            Owned.shared.pop(path)[0].close()

    assert passed == TAKEN_OVER[storage]


def test_a_storage_that_is_taken_over_is_not_one_that_is_locked(tmp_path: Path) -> None:
    """Without ``takes_over`` a storage that lets a second one in fails, and with it one that does not."""
    attempts = TakeOverAttempt(Fences)
    attempts.takes_over = False
    with pytest.raises(AssertionError):
        attempts.test_there_is_one_writer(tmp_path)
    for path in [path for path in Owned.shared if path.is_relative_to(tmp_path)]:
        Owned.shared.pop(path)[0].close()


REOPENED = "test_what_was_saved_is_there_after_reopening"
EMPTY = "test_a_new_one_is_empty"
LAST_STATE = "test_the_last_state_counts"
BYTES = "test_bytes_come_back_as_they_are"
GOES_ON = "test_saving_goes_on_after_reopening"
NOTHING = "test_nothing_to_save_is_no_error"
GENERATOR = "test_entries_may_come_from_a_generator"
OVERWRITTEN = "test_an_entry_takes_the_place_of_those_from_its_index_on"
WRONG_SAVE = "test_a_wrong_save_leaves_no_trace"
SNAPSHOT = "test_a_snapshot_is_where_reading_begins"
NEWEST = "test_the_newest_snapshot_counts"
NOT_BACK = "test_a_snapshot_does_not_bring_back_what_was_replaced"
BEYOND = "test_a_snapshot_may_lie_beyond_the_entries"
RELEASE = "test_release_keeps_what_is_behind_the_snapshot"
ONE_WRITER = "test_there_is_one_writer"
CLOSED = "test_a_closed_one_refuses_and_closes_again"
METHODS = "test_it_is_a_storage"
EVERYTHING = {name for name in dir(StorageConformance) if name.startswith("test_")}

BROKEN: dict[type[Wrapper], set[str]] = {
    Faithful: set(),
    ForgetsStates: {CLOSED, NOT_BACK, SNAPSHOT, BEYOND, WRONG_SAVE, RELEASE, GOES_ON, LAST_STATE, NEWEST, REOPENED},
    ForgetsStatesThatStandAlone: {CLOSED, BEYOND, LAST_STATE, REOPENED},
    ForgetsLowerStates: {LAST_STATE},
    ForgetsTheLastEntry: {
        CLOSED,
        SNAPSHOT,
        BEYOND,
        WRONG_SAVE,
        OVERWRITTEN,
        BYTES,
        GENERATOR,
        RELEASE,
        GOES_ON,
        LAST_STATE,
        ONE_WRITER,
        REOPENED,
    },
    IgnoresOverwriting: {NOT_BACK, OVERWRITTEN},
    WalksEntriesTwice: {GENERATOR},
    NeedsEntries: {CLOSED, BEYOND, WRONG_SAVE, NOTHING, LAST_STATE, REOPENED},
    StripsData: {BYTES},
    KeepsHalfOfAWrongSave: {WRONG_SAVE},
    KeepsTheBeginningOfAWrongSave: {WRONG_SAVE},
    TakesGaps: {WRONG_SAVE},
    ForgetsSnapshots: {NOT_BACK, SNAPSHOT, BEYOND, RELEASE, NEWEST},
    KeepsTheFirstSnapshotOnly: {RELEASE, NEWEST},
    RefusesSnapshotsFromElsewhere: {BEYOND},
    ReleasesTooMuch: {RELEASE},
    ReleasesOnce: {RELEASE},
    DoesNotLock: {ONE_WRITER},
    LocksAtTheFirstSave: {ONE_WRITER},
    ClosesOnce: {CLOSED},
    NeverCloses: EVERYTHING - {METHODS},
    IgnoresCallsAfterClose: {CLOSED},
    HasNoSync: {CLOSED, METHODS, NOTHING},
    IsNotEmpty: {EMPTY, NOTHING},
}
"""Which tests each of them fails, and no other."""


class Attempts(FileConformance):
    """Runs the tests of the contract against a broken storage, and keeps what it opens."""

    def __init__(self, storage: type[Wrapper]) -> None:
        self.storage = storage
        self.storages: list[Wrapper] = []

    def open(self, path: Path) -> tuple[wal.Storage[SnapshotData], HardState, Sequence[LogEntry]]:
        storage = self.storage(path)
        self.storages.append(storage)
        return storage, storage.state, storage.entries

    def failures(self, tmp_path: Path) -> set[str]:
        """Return the names of the tests that fail."""
        failed = set()
        for name in EVERYTHING:
            (tmp_path / name).mkdir()
            try:
                getattr(self, name)(tmp_path / name)
            except Exception:
                failed.add(name)
            for storage in self.storages:
                storage.inner.close()
        return failed


@pytest.mark.parametrize("storage", BROKEN, ids=lambda storage: storage.__name__)
def test_a_broken_storage_fails(tmp_path: Path, storage: type[Wrapper]) -> None:
    """Each way to break the contract is seen by the tests that name it; one that keeps it passes all of them."""
    assert Attempts(storage).failures(tmp_path) == BROKEN[storage]


def test_every_test_of_the_contract_can_fail() -> None:
    """There is no claim that nothing can break, and no way to break it that nothing sees."""
    assert set().union(*BROKEN.values()) == EVERYTHING
    assert [storage.__name__ for storage, failed in BROKEN.items() if not failed] == ["Faithful"]
    assert set(BROKEN) == set(Wrapper.__subclasses__())
    assert set(TAKEN_OVER) == set(Owned.__subclasses__())
