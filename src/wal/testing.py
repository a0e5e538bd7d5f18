# SPDX-License-Identifier: Apache-2.0
"""
For the tests of those who use this library, or implement or wrap a ``wal.Storage``.

``SimulatedDisk`` is a file system to be given as ``fs=`` that knows what each crash would leave of it, so that an
application can try its recovery for all of them, in memory.

``StorageConformance`` states what every storage must do, one claim a method. Subclass it in a test module and say
how your storage is opened, and what its ``save_snap`` takes; pytest (or any runner that calls each ``test_`` method
of a new instance with a fresh directory as ``tmp_path``) does the rest::

    class TestMyStorage(StorageConformance[wal.SnapshotData]):
        def open(self, path):
            storage, recovered = my_package.open_storage(path)
            return storage, recovered.state, recovered.entries

        def snapshot(self, index):
            return wal.SnapshotData(index, b"state")

A storage that is taken over by whoever opens it, such as one on a cluster, says so by ``takes_over = True``.

A claim that does not hold is an ``AssertionError``, or the error that the storage raised where it should not. What
takes a crash, a full disk or a damaged file to be seen is not tried here; only the storage's author knows how to
make one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from ._errors import FencedError, IndexOrderError, RecordTypeError, WALClosedError, WALLockedError
from ._records import CommitState, Entry, HardState, LogEntry, SnapshotMarker
from ._simulated_disk import Crash, SimulatedDisk
from ._storage import Storage

__all__ = ["Crash", "SimulatedDisk", "StorageConformance"]

_SnapshotT = TypeVar("_SnapshotT")


class StorageConformance(ABC, Generic[_SnapshotT]):
    """
    What every storage must do, tried with the default record types.

    The type parameter is that of the storage: what its ``save_snap`` takes.

    Attributes:
        takes_over: Whether opening takes a storage from its owner instead of being refused. Such a storage must fence
            the former owner, who learns of it at the next save.
    """

    takes_over: bool = False

    @abstractmethod
    def open(self, path: Path) -> tuple[Storage[_SnapshotT, Entry, CommitState], HardState, Sequence[LogEntry]]:
        """
        Open the storage in ``path``, or make it there if there is none.

        It is called again for the same path to see what a storage has kept, and must not hide anything: no retrying
        while the storage is locked, and no copy of what was saved besides the storage's own.

        Returns:
            The storage, ready for saving; the state it holds; and its entries behind the newest snapshot.
        """

    @abstractmethod
    def snapshot(self, index: int) -> _SnapshotT:
        """Return something for ``save_snap`` that covers the entries up to ``index``."""

    @contextmanager
    def opened(self, path: Path) -> Iterator[Storage[_SnapshotT, Entry, CommitState]]:
        """Open the storage for a block and close it behind that, also if a claim in the block does not hold."""
        storage, _, _ = self.open(path)
        with closing(storage):
            yield storage

    def kept(self, path: Path) -> tuple[HardState, list[LogEntry]]:
        """Open the storage and close it again; return the state and the entries that it held."""
        storage, state, entries = self.open(path)
        with closing(storage):
            return state, list(entries)

    # ----------------------------------------------------------------------------------------- what is kept

    def test_it_is_a_storage(self, tmp_path: Path) -> None:
        """It has all methods of the protocol."""
        with self.opened(tmp_path / "storage") as storage:
            assert isinstance(storage, Storage)

    def test_a_new_one_is_empty(self, tmp_path: Path) -> None:
        """Before the first save there is the empty state and no entry, also after reopening."""
        assert self.kept(tmp_path / "storage") == (CommitState.empty(), [])
        assert self.kept(tmp_path / "storage") == (CommitState.empty(), [])

    def test_what_was_saved_is_there_after_reopening(self, tmp_path: Path) -> None:
        """Entries come back in order, by whatever method they were saved."""
        with self.opened(tmp_path / "storage") as storage:
            storage.save(CommitState(1), [Entry(1, b"a"), Entry(2, b"b")])
            storage.save_entry([Entry(3, b"c", 1)])
            storage.save_state(CommitState(3))

        assert self.kept(tmp_path / "storage") == (
            CommitState(3),
            [Entry(1, b"a"), Entry(2, b"b"), Entry(3, b"c", 1)],
        )

    def test_the_last_state_counts(self, tmp_path: Path) -> None:
        """A state takes the place of the one before, whichever is the greater; entries without one leave it."""
        with self.opened(tmp_path / "storage") as storage:
            storage.save(CommitState(1), [Entry(1), Entry(2)])
            storage.save(CommitState(2), None)
            storage.save_state(CommitState(1))
            storage.save_entry([Entry(3)])

        assert self.kept(tmp_path / "storage") == (CommitState(1), [Entry(1), Entry(2), Entry(3)])

    def test_bytes_come_back_as_they_are(self, tmp_path: Path) -> None:
        """Data may be empty, long, or any bytes at all."""
        entries = [
            Entry(1),
            Entry(2, bytes(range(256)), 2**63),
            Entry(3, bytes(5000)),
            Entry(4, b"\xff" * 5000),
            Entry(5, bytes(range(256)) * 4000),
            Entry(6, b"\n"),
        ]
        with self.opened(tmp_path / "storage") as storage:
            storage.save(None, entries)

        assert self.kept(tmp_path / "storage")[1] == entries

    def test_saving_goes_on_after_reopening(self, tmp_path: Path) -> None:
        """What is saved in several lives is one log."""
        for index in range(1, 6):
            storage, state, entries = self.open(tmp_path / "storage")
            with closing(storage):
                assert state == CommitState(index - 1)
                assert [entry.index for entry in entries] == list(range(1, index))
                storage.save(CommitState(index), [Entry(index)])

        assert self.kept(tmp_path / "storage") == (CommitState(5), [Entry(index) for index in range(1, 6)])

    def test_nothing_to_save_is_no_error(self, tmp_path: Path) -> None:
        """Neither a state nor entries leave everything as it was."""
        with self.opened(tmp_path / "storage") as storage:
            storage.save(None, None)
            storage.save(None, [])
            storage.save_entry(iter(()))
            storage.sync()

        assert self.kept(tmp_path / "storage") == (CommitState.empty(), [])

    def test_entries_may_come_from_a_generator(self, tmp_path: Path) -> None:
        """Any iterable of entries will do, and it is walked once."""
        with self.opened(tmp_path / "storage") as storage:
            storage.save(None, (Entry(index) for index in (1, 2, 3)))
            storage.save_entry(Entry(index) for index in (4, 5))

        assert self.kept(tmp_path / "storage")[1] == [Entry(index) for index in range(1, 6)]

    def test_an_entry_takes_the_place_of_those_from_its_index_on(self, tmp_path: Path) -> None:
        """A lower index overrules what was saved before."""
        with self.opened(tmp_path / "storage") as storage:
            storage.save(None, [Entry(index, b"old") for index in range(1, 6)])
            storage.save(None, [Entry(3, b"new"), Entry(4, b"new")])

        assert self.kept(tmp_path / "storage")[1] == [
            Entry(1, b"old"),
            Entry(2, b"old"),
            Entry(3, b"new"),
            Entry(4, b"new"),
        ]

    def test_a_wrong_save_leaves_no_trace(self, tmp_path: Path) -> None:
        """A gap, or a record of another kind, is an error; nothing of that save is kept, and the storage works on."""
        wrong: list[tuple[type[Exception], Any, Any]] = [
            (IndexOrderError, CommitState(9), [Entry(3, b"wrong")]),
            (IndexOrderError, CommitState(9), [Entry(2, b"wrong"), Entry(4, b"wrong")]),
            (IndexOrderError, CommitState(9), [Entry(0, b"wrong")]),
            (RecordTypeError, CommitState(9), [Entry(2, b"wrong"), CommitState(2)]),
            (RecordTypeError, Entry(2), [Entry(2, b"wrong")]),
        ]
        for more in ([], [Entry(2)]):
            path = tmp_path / f"storage-{len(more)}"
            with self.opened(path) as storage:
                storage.save(CommitState(1), [Entry(1)])
                for error, state, entries in wrong:
                    _expect(error, storage.save, state, entries)
                storage.save_entry(more)

            assert self.kept(path) == (CommitState(1), [Entry(1), *more])

    # -------------------------------------------------------------------------------------------- snapshots

    def test_a_snapshot_is_where_reading_begins(self, tmp_path: Path) -> None:
        """After a snapshot the entries behind it come back, with the state."""
        with self.opened(tmp_path / "storage") as storage:
            storage.save(CommitState(5), [Entry(index) for index in range(1, 8)])
            storage.save_snap(self.snapshot(5))
            storage.save(None, [Entry(8)])

        assert self.kept(tmp_path / "storage") == (CommitState(5), [Entry(6), Entry(7), Entry(8)])

    def test_the_newest_snapshot_counts(self, tmp_path: Path) -> None:
        """There may be several; all of the entries may be covered."""
        with self.opened(tmp_path / "storage") as storage:
            storage.save(CommitState(5), [Entry(index) for index in range(1, 6)])
            for index in (1, 3, 5):
                storage.save_snap(self.snapshot(index))

        assert self.kept(tmp_path / "storage") == (CommitState(5), [])

    def test_a_snapshot_does_not_bring_back_what_was_replaced(self, tmp_path: Path) -> None:
        """Entries that were overruled before the snapshot stay so, also those behind its index."""
        with self.opened(tmp_path / "storage") as storage:
            storage.save(None, [Entry(index, b"old") for index in range(1, 6)])
            storage.save(CommitState(4), [Entry(3, b"new"), Entry(4, b"new")])
            storage.save_snap(self.snapshot(4))

        assert self.kept(tmp_path / "storage") == (CommitState(4), [])

    def test_a_snapshot_may_lie_beyond_the_entries(self, tmp_path: Path) -> None:
        """One that was received from another node covers entries that were never here; the log goes on behind it."""
        with self.opened(tmp_path / "storage") as storage:
            storage.save(CommitState(2), [Entry(1), Entry(2), Entry(3)])
            storage.save_state(CommitState(10))
            storage.save_snap(self.snapshot(10))
            storage.save(CommitState(11), [Entry(11)])

        assert self.kept(tmp_path / "storage") == (CommitState(11), [Entry(11)])

    def test_release_keeps_what_is_behind_the_snapshot(self, tmp_path: Path) -> None:
        """Giving up what is older than a snapshot takes nothing from what is newer, however often it is done."""
        with self.opened(tmp_path / "storage") as storage:
            for index in range(1, 101):
                storage.save(CommitState(index), [Entry(index, bytes(1000))])
                if index % 20 == 0:
                    storage.save_snap(self.snapshot(index))
                    storage.release(SnapshotMarker(index))
            storage.release(SnapshotMarker(100))
            storage.save(None, [Entry(101)])

        assert self.kept(tmp_path / "storage") == (CommitState(100), [Entry(101)])

    # -------------------------------------------------------------------------------------------- ownership

    def test_there_is_one_writer(self, tmp_path: Path) -> None:
        """
        A second one is refused at once, and harms nothing; when the first is closed, the next may open.

        If opening takes over, the second one is the writer: the first one cannot save any more, whatever it is that it
        saves and however often it tries, leaves no trace, and is closed without an error.
        """
        if self.takes_over:
            self._check_that_it_is_taken_over(tmp_path / "storage")
            return
        with self.opened(tmp_path / "storage") as storage:
            _expect(WALLockedError, self.kept, tmp_path / "storage")
            storage.save(None, [Entry(1)])
            _expect(WALLockedError, self.kept, tmp_path / "storage")

        assert self.kept(tmp_path / "storage")[1] == [Entry(1)]

    def _check_that_it_is_taken_over(self, path: Path) -> None:
        with self.opened(path) as former:
            former.save(CommitState(1), [Entry(1), Entry(2)])
            owner, state, entries = self.open(path)
            with closing(owner):
                assert (state, list(entries)) == (CommitState(1), [Entry(1), Entry(2)])
                for _ in range(2):
                    _expect(FencedError, former.save, CommitState(2), [Entry(3, b"former")])
                    _expect(FencedError, former.save_entry, [Entry(1, b"former")])
                    _expect(FencedError, former.save_state, CommitState(2))
                    _expect(FencedError, former.save_snap, self.snapshot(1))
                owner.save(CommitState(2), [Entry(3, b"owner")])
                _expect(FencedError, former.save, None, [Entry(4, b"former")])
                owner.save_entry([Entry(4, b"owner")])

        kept = [Entry(1), Entry(2), Entry(3, b"owner"), Entry(4, b"owner")]
        assert self.kept(path) == (CommitState(2), kept)
        with self.opened(path) as idle:
            assert self.kept(path) == (CommitState(2), kept)  # who only opens has taken it over, too
            _expect(FencedError, idle.save_entry, [Entry(5, b"former")])
        assert self.kept(path) == (CommitState(2), kept)

    def test_a_closed_one_refuses_and_closes_again(self, tmp_path: Path) -> None:
        """After close every other method raises, nothing is kept of it, and another close does nothing."""
        storage, _, _ = self.open(tmp_path / "storage")
        storage.save(CommitState(1), [Entry(1)])
        storage.close()
        storage.close()

        _expect(WALClosedError, storage.save, None, [Entry(2)])
        _expect(WALClosedError, storage.save_entry, [Entry(2)])
        _expect(WALClosedError, storage.save_state, CommitState(2))
        _expect(WALClosedError, storage.save_snap, self.snapshot(1))
        _expect(WALClosedError, storage.release, SnapshotMarker(1))
        _expect(WALClosedError, storage.sync)
        assert self.kept(tmp_path / "storage") == (CommitState(1), [Entry(1)])


def _expect(error: type[Exception], call: Callable[..., object], *args: object) -> None:
    try:
        call(*args)
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised by {getattr(call, '__qualname__', call)}{args}")
