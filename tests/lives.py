"""
The lives of a log: short programs that use all of the library, and know what they were promised.

A life begins with an open and ends with a close. It says for each call whether it was acknowledged, and after a
failure whether the writer may go on. Whatever fails, ``Account.check`` then looks at what is left on a disk that works.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import wal
from logs import SMALL, Disk
from wal import CommitState, Entry, FileStorage, Retention, SnapshotData, SnapshotMarker, Snapshotter

METADATA = b"node"
WRITES = frozenset({"pwrite", "truncate", "allocate", "fsync", "fdatasync", "rename"})
"""The calls that a stopped log must not make: each could turn an unknown into a lie."""
CHANGES = frozenset({"rename", "unlink", "mkdir", "rmdir"})
RETENTION = Retention(snapshots=2)


@dataclass(frozen=True)
class Contents:
    """All that was ever saved and not replaced: also the entries whose segments were purged since."""

    entries: tuple[Entry, ...] = ()
    state: CommitState = field(default_factory=lambda: CommitState(0))
    snapshots: tuple[SnapshotData, ...] = ()

    @property
    def newest(self) -> int:
        """The index of the newest snapshot."""
        return self.snapshots[-1].index if self.snapshots else 0

    @property
    def last_index(self) -> int:
        return max(len(self.entries), self.newest)


class Account:
    """
    What the lives of one directory were promised.

    Attributes:
        contents: What was acknowledged.
        unfinished: What there may be instead, because one save did not return.
        kept: No snapshot or entry behind this index was ever given up.
        databases: The database snapshots that were acknowledged.
        torn: The bytes of a torn write, which a repair must keep.
    """

    def __init__(self) -> None:
        self.contents = Contents()
        self.unfinished: Contents | None = None
        self.kept = 0
        self.databases: dict[int, bytes] = {}
        self.unfinished_database: int | None = None
        self.torn = b""
        self._attempts = 0

    def copy(self) -> Account:
        account = Account()
        vars(account).update(vars(self))
        account.databases = dict(self.databases)
        return account

    def new_entries(self, *sizes: int, back: int = 0) -> list[Entry]:
        """Return entries of these sizes that no other save had, from so many entries before the end on."""
        self._attempts += 1
        first = self.contents.last_index - back + 1
        return [
            Entry(index, (b"entry %d of save %d;" % (index, self._attempts) * (size // 8))[:size])
            for index, size in enumerate(sizes, first)
        ]

    def settle(self) -> None:
        """Take the unfinished save as done."""
        assert self.unfinished is not None
        self.contents, self.unfinished = self.unfinished, None

    # ------------------------------------------------------------------------------------------ what is on disk

    def check_recovered(self, recovered: wal.Recovered) -> None:
        """P2: all that was acknowledged, in order, then the unfinished save as a whole or not at all."""
        held = (recovered.snapshot, recovered.state, tuple(recovered.entries))
        possible = [self.contents] if self.unfinished is None else [self.unfinished, self.contents]
        for contents in possible:
            newest = contents.snapshots[-1] if contents.snapshots else None
            if held == (newest, contents.state, contents.entries[contents.newest :]):
                self.contents, self.unfinished = contents, None
                break
        else:
            pytest.fail(f"recovered {held!r:.2000}, and not what was acknowledged: {possible!r:.4000}")
        assert recovered.metadata == METADATA
        assert recovered.skipped == ()

    def check(self, path: Path) -> None:
        """P2, P13, P14: on a disk that works, the storage opens and holds what it must; no file is half there."""
        storage, recovered = open_storage(path, Disk())
        with storage:
            self.check_recovered(recovered)
            self.check_files(path)
            entries = self.new_entries(9)
            storage.save_entry(entries)
            self.contents = replace(self.contents, entries=(*self.contents.entries, *entries))
        found = wal.WALReader(path / "wal", SnapshotMarker(self.contents.newest)).read_all().entries
        assert tuple(found) == self.contents.entries[self.contents.newest :], "it goes on"

    def check_files(self, path: Path) -> None:
        """P10, P13, P14: each kept snapshot is intact and the log can be read from it on; what was cut is kept."""
        snapshotter, log = Snapshotter(path / "snap"), path / "wal"
        entries = self.contents.entries
        for snapshot in self.contents.snapshots:
            if snapshot.index >= self.kept:
                marker = SnapshotMarker(snapshot.index)
                assert snapshotter.load_newest_available([marker]) == snapshot
                found = wal.WALReader(log, marker).read_all()
                assert tuple(found.entries) == entries[snapshot.index :]
                assert (found.state, found.metadata, found.tail) == (self.contents.state, METADATA, None)
        if not self.kept:
            assert tuple(wal.WALReader(log).read_all().entries) == entries
        report = wal.verify(log)
        assert (report.last_index, report.tail) == (self.contents.last_index, None)
        for index, content in self.databases.items():
            if index >= self.kept and index != self.unfinished_database:
                assert snapshotter.db_path(index).read_bytes() == content
        for name in set(snapshotter.names()) - {DAMAGED.name}:
            assert snapshotter.is_intact(int(name[:16], 16)), name
        assert not [name for name in os.listdir(path) + os.listdir(log) if name.endswith(".tmp")]
        if self.torn:
            assert self.torn in [backup.read_bytes() for backup in log.glob("*.broken")]


def open_storage(path: Path, fs: Disk, **options: Any) -> tuple[FileStorage, wal.Recovered]:
    return wal.open_storage(path, METADATA, segment_size=SMALL, retention=RETENTION, fs=fs, **options)


class StoppedError(Exception):
    """The life has ended early, and rightly so."""


class Life:
    """
    One life of a storage, or of a log alone.

    Attributes:
        path: The storage's directory; the log is in ``wal``.
        fs: The disk that fails.
        account: What was promised.
        errors: What calls raised after which the writer went on, or was closed.
        failure: What the writer stopped at.
        logged: What the library logged meanwhile.
    """

    def __init__(self, path: Path, fs: Disk, account: Account) -> None:
        self.path = path
        self.fs = fs
        self.account = account
        self.errors: list[BaseException] = []
        self.failure: wal.WALFailedError | None = None
        self.logged: list[str] = []
        self.opened = False

    def attempt(self, call: Callable[[], object], *, unfinished: Contents | None = None) -> bool:
        """
        Make one call; return whether it succeeded.

        It may raise ``OSError`` or ``WALError``, and nothing else. The writer stops at a ``WALFailedError``; after
        anything else the call has left nothing that counts.
        """
        before = len(self.fs.trace)
        self.account.unfinished = unfinished
        try:
            call()
        except wal.WALFailedError as error:
            self.stopped(error, before)
            raise StoppedError from error
        except (OSError, wal.WALError) as error:
            self.account.unfinished = None
            self.errors.append(error)
            return False
        if unfinished is not None:
            self.account.settle()
        return True

    # --------------------------------------------------------------------------------------------- a storage

    def open(self, **options: Any) -> None:
        def call() -> None:
            self.storage, recovered = open_storage(self.path, self.fs, **options)
            self.recovered(recovered)

        self.writer: FileStorage | wal.WAL
        if not self.attempt(call):
            assert not self.fs.open_descriptors, "a failed open holds nothing"
            raise StoppedError
        self.writer, self.opened = self.storage, True

    def recovered(self, recovered: wal.Recovered) -> None:
        """
        What was recovered while a call failed is in order, too.

        A file that the system says is not there has been removed by somebody: an older snapshot will do, if the log
        has what comes behind it.
        """
        contents = self.account.contents
        index = 0 if recovered.snapshot is None else recovered.snapshot.index
        if self.fs.failed:
            assert recovered.snapshot is None or recovered.snapshot in contents.snapshots
            assert (recovered.state, tuple(recovered.entries)) == (contents.state, contents.entries[index:])
        else:
            self.account.check_recovered(recovered)

    def save(self, *sizes: int, back: int = 0, commit: bool = False) -> None:
        """Save entries of these sizes; with ``commit``, and the state that all of them are committed."""
        entries = self.account.new_entries(*sizes, back=back)
        contents = self.account.contents
        after = replace(contents, entries=(*contents.entries[: entries[0].index - 1], *entries))
        if commit:
            after = replace(after, state=CommitState(entries[-1].index))
        self.attempt(lambda: self.writer.save(after.state if commit else None, entries), unfinished=after)

    def save_state(self) -> None:
        """Save the state that all entries are committed."""
        contents = self.account.contents
        after = replace(contents, state=CommitState(contents.last_index))
        self.attempt(lambda: self.writer.save_state(after.state), unfinished=after)

    def save_wrongly(self) -> None:
        """P6: what is refused for its arguments writes nothing, and stops nothing."""
        before = len(self.fs.trace)
        with pytest.raises(wal.IndexOrderError):
            self.writer.save_entry([Entry(self.writer.last_index + 2)])
        assert len(self.fs.trace) == before

    def snapshot(self) -> None:
        """Save a snapshot of all that is committed, if there is not yet one."""
        contents = self.account.contents
        index = contents.state.committed
        if index == contents.newest:
            return
        snapshot = SnapshotData(index, b"machine at %d;" % index * 9, b"members")
        after = replace(contents, snapshots=(*contents.snapshots, snapshot))
        self.attempt(lambda: self.storage.save_snap(snapshot), unfinished=after)

    def snapshot_again(self) -> None:
        """P14: write the file of the newest snapshot once more; it is there and whole all the time."""
        snapshots = self.account.contents.snapshots
        if snapshots:
            self.attempt(lambda: self.storage.snapshotter.save(snapshots[-1]))

    def database(self) -> None:
        """Save a database snapshot."""
        index, account = self.account.contents.state.committed, self.account
        content = b"table at %d;" % index * 500
        account.unfinished_database = index if account.databases.get(index) != content else None
        if self.attempt(lambda: self.storage.snapshotter.save_db_from(io.BytesIO(content), index)):
            account.databases[index] = content
            account.unfinished_database = None

    def release(self) -> None:
        """Give up what is older than the newest two snapshots."""
        contents = self.account.contents
        if contents.snapshots:
            self.account.kept = contents.snapshots[-2:][0].index
            self.attempt(lambda: self.storage.release(contents.snapshots[-1]))

    def sync(self) -> None:
        self.attempt(self.writer.sync)

    def close(self) -> None:
        """Close the writer; whatever it raises, nothing is held afterwards, and once more does nothing."""
        self.opened = False
        before = len(self.fs.trace)
        try:
            self.writer.close()
        except wal.WALFailedError as error:
            self.errors.append(error)
            assert not WRITES & set(self.after_the_failure(before))
        except OSError as error:
            self.errors.append(error)
        assert not self.fs.open_descriptors
        before = len(self.fs.trace)
        self.writer.close()
        assert len(self.fs.trace) == before

    # ------------------------------------------------------------------------------------------- a log alone

    @property
    def log_path(self) -> Path:
        return self.path / "wal"

    def create(self) -> None:
        self._open_log(lambda: wal.WAL.create(self.log_path, METADATA, segment_size=SMALL, fs=self.fs))

    def open_log(self) -> None:
        def opened() -> wal.WAL:
            log = wal.WAL.open(self.log_path, self.marker(), segment_size=SMALL, fs=self.fs)
            try:
                contents = log.read_all()
            except BaseException:
                with pytest.raises((wal.NotReadError, wal.WALFailedError)):
                    log.save_entry([Entry(1)])
                self.close_unread(log)
                raise
            self.check_read(contents)
            return log

        self._open_log(opened)

    def close_unread(self, log: wal.WAL) -> None:
        try:
            log.close()
        except OSError as error:
            self.errors.append(error)
        assert not self.fs.open_descriptors

    def read_log(self) -> None:
        """Open the log by ``wal.read_wal``."""

        def opened() -> wal.WAL:
            log, metadata, state, entries = wal.read_wal(self.log_path, self.marker(), segment_size=SMALL, fs=self.fs)
            self.check_read(wal.LogContents(metadata, state, entries, None))
            return log

        self._open_log(opened)

    def _open_log(self, call: Callable[[], wal.WAL]) -> None:
        def opened() -> None:
            self.writer = self.log = call()

        if not self.attempt(opened):
            assert not self.fs.open_descriptors, "a failed open holds nothing"
            raise StoppedError
        self.opened = True

    def check_read(self, found: wal.LogContents) -> None:
        """P2, P9: whoever reads gets all of it, or an error."""
        contents = self.account.contents
        marker = self.marker()
        assert found[:2] == (METADATA, contents.state)
        assert tuple(found.entries) == contents.entries[marker.index if marker else 0 :]

    def marker(self) -> SnapshotMarker | None:
        """The oldest marker that no purge has given up; ``None`` is the very beginning."""
        kept = self.account.kept
        return SnapshotMarker(kept) if kept else None

    def mark(self) -> None:
        """Save the marker of a snapshot of all that is committed, with its file."""
        contents = self.account.contents
        index = contents.state.committed
        if index == contents.newest:
            return
        snapshot = SnapshotData(index, b"machine at %d;" % index)
        if self.attempt(lambda: Snapshotter(self.path / "snap", fs=self.fs).save(snapshot, replace=True)):
            after = replace(contents, snapshots=(*contents.snapshots, snapshot))
            self.attempt(lambda: self.log.save_snap(SnapshotMarker(index)), unfinished=after)

    def release_log(self) -> None:
        self.attempt(lambda: self.log.release(SnapshotMarker(self.account.contents.newest)))

    def purge(self) -> None:
        """Remove the segments that the newest snapshot does not need."""
        newest = self.account.contents.newest
        if newest:
            self.account.kept = newest
            self.attempt(lambda: wal.purge(self.log_path, SnapshotMarker(newest), fs=self.fs))

    def repair(self) -> bool:
        """Repair the log; return whether that succeeded."""

        def call() -> None:
            report = wal.repair(self.log_path, fs=self.fs)
            assert (report.backup is None) == (report.bytes_cut == 0)

        repaired = self.attempt(call)
        assert not self.fs.open_descriptors
        return repaired

    def look(self) -> None:
        """P8: read by every way there is; each gives what is there, or an error, and holds and changes nothing."""
        contents, path, fs = self.account.contents, self.log_path, self.fs
        held = set(fs.open_descriptors)

        def verify() -> None:
            report = wal.verify(path, self.marker(), fs=fs)
            assert report.last_index == contents.last_index

        def read() -> None:
            self.check_read(wal.WALReader(path, self.marker(), fs=fs).read_all())

        def iterate() -> None:
            values = [record.value for record in wal.WALReader(path, self.marker(), fs=fs)]
            assert contents.entries[-1] in values

        def markers() -> None:
            found = [marker.index for marker in wal.valid_snapshots(path, fs=fs)]
            assert found[-1:] == [contents.newest]

        def load() -> None:
            known = [SnapshotMarker(snapshot.index) for snapshot in contents.snapshots]
            snapshot = Snapshotter(self.path / "snap", fs=fs).load_newest_available(known)
            assert snapshot == contents.snapshots[-1] or fs.failed

        before = len(fs.trace)
        for call in (verify, read, iterate, markers, load, lambda: wal.exists(path, fs=fs)):
            self.attempt(call)
            assert fs.open_descriptors == held
        assert not (WRITES | CHANGES) & set(fs.trace[before:])

    def create_again(self) -> None:
        """P11: a log that is there is never replaced."""
        with pytest.raises((wal.WALExistsError, OSError)):
            wal.WAL.create(self.log_path, b"another", segment_size=SMALL, fs=self.fs)
        assert not self.fs.open_descriptors

    def set_aside(self) -> None:
        """Move the damaged snapshot out of the way, and sweep up."""
        snapshotter = Snapshotter(self.path / "snap", fs=self.fs)
        name = DAMAGED.name
        if (self.path / "snap" / name).exists():
            self.attempt(lambda: snapshotter.set_aside(name))
        self.attempt(snapshotter.sweep)

    # ------------------------------------------------------------------------------------------ after a failure

    def after_the_failure(self, before: int) -> list[str]:
        """The calls behind the first one that failed of those from ``before`` on."""
        failed = [place for place in self.fs.failed if place >= before]
        return self.fs.trace[failed[0] + 1 :] if failed else self.fs.trace[before:]

    def stopped(self, error: wal.WALFailedError, before: int) -> None:
        """P5: the failed call wrote nothing more; every later one raises with the same cause and calls nothing."""
        self.failure = error
        cause = error.__cause__
        assert isinstance(cause, OSError)
        assert not WRITES & set(self.after_the_failure(before)), self.fs.trace[before:]
        trace = len(self.fs.trace)
        writer, last = self.writer, self.writer.last_index
        state, entries = CommitState(last + 1), [Entry(last + 1)]
        later: list[Callable[[], None]] = [
            lambda: writer.save(state, entries),
            lambda: writer.save(None, None),
            lambda: writer.save_entry(entries),
            lambda: writer.save_state(state),
            writer.sync,
        ]
        if isinstance(writer, FileStorage):
            committed = SnapshotData(self.account.contents.state.committed + 1)
            later += [lambda: writer.save_snap(committed), lambda: writer.release(committed)]
        else:
            later += [lambda: writer.save_snap(SnapshotMarker(last + 1))]
        for call in later:
            with pytest.raises(wal.WALFailedError) as caught:
                call()
            assert caught.value.__cause__ is cause
        assert len(self.fs.trace) == trace
        self.close()
        assert not WRITES & set(self.fs.trace[trace:]), "a log that has stopped must not try a sync again"

    def live(self, life: Callable[[Life], None]) -> bool:
        """Live it; return whether it came to its end."""
        try:
            life(self)
        except StoppedError:
            ended = False
        else:
            ended = True
        assert not self.opened
        assert not self.fs.open_descriptors
        outside = [
            path
            for call, path in self.fs.calls
            if call in CHANGES and self.path not in (Path(path), *Path(path).parents)
        ]
        assert not outside
        return ended


# ---------------------------------------------------------------------------------------------------------- the lives


def first_use(life: Life) -> None:
    """A storage is made, and grows by two segments."""
    life.open()
    life.save(20)
    life.save(500, 0, 700, commit=True)
    life.save_wrongly()
    life.save(3000, commit=True)
    life.snapshot()
    life.save(1, 2, 3)
    life.save(60, 70, back=2, commit=True)
    life.database()
    life.database()
    life.save(5000)
    life.snapshot_again()
    life.close()


def growth(life: Life) -> None:
    """Snapshots, cuts, and segments that go."""
    life.open()
    life.save(1500, 2600, commit=True)
    life.snapshot()
    life.save(4100)
    life.save(10, 20)
    life.save_state()
    life.database()
    life.snapshot()
    life.release()
    life.save(7, back=0)
    life.sync()
    life.save(4096, commit=True)
    life.snapshot()
    life.release()
    life.save(40)
    life.close()


def after_a_torn_write(life: Life) -> None:
    """The last life ended in the middle of a save: it is cut, and kept in a backup."""
    life.open()
    life.save(100, commit=True)
    life.save(200, 300)
    life.save(400, back=2)
    life.save(2000, 2000, commit=True)
    life.snapshot()
    life.save(50)
    life.release()
    life.close()


def without_sync(life: Life) -> None:
    """Each save is handed to the system only; the sync comes now and then, at the cuts, and at the close."""
    life.open(sync=False)
    for _ in range(3):
        life.save(300)
    life.sync()
    life.save(900, 900, commit=True)
    life.save(2500)
    life.save(10)
    life.snapshot()
    life.save(20, 30)
    life.save_state()
    life.close()


def without_marks(life: Life) -> None:
    """Frames as Go programs write them. A save is one record, because only then it is whole or not there."""
    life.open(save_marks=False)
    life.save(100)
    life.save_state()
    life.save(4000)
    life.save(200)
    life.snapshot()
    life.save(300)
    life.close()


def a_log_alone(life: Life) -> None:
    """``WAL`` and ``purge`` without a storage."""
    if life.log_path.exists() and list(life.log_path.glob("*.wal")):
        life.open_log()
    else:
        life.create()
    life.save(900, commit=True)
    life.mark()
    life.save(3300, 40)
    life.save(4096, 11, commit=True)
    life.save(12)
    life.mark()
    life.save(4000, back=1)
    life.look()
    life.release_log()
    life.purge()
    life.save_state()
    life.close()


def the_functions(life: Life) -> None:
    """Readers, repair, purge and the opening calls on a torn log, and a damaged snapshot."""
    life.look()
    life.create_again()
    repaired = life.repair()
    life.set_aside()
    if repaired:
        life.open_log()
    else:
        life.read_log()
    life.save(10, 20, commit=True)
    life.mark()
    life.close()
    life.purge()
    life.read_log()
    life.save(30)
    life.close()


LIVES: list[Callable[[Life], None]] = [
    first_use,
    growth,
    after_a_torn_write,
    without_sync,
    without_marks,
    a_log_alone,
    the_functions,
]


# -------------------------------------------------------------------------------------------- what a life begins with


@dataclass(frozen=True)
class Beginning:
    """A directory as a life finds it, what was promised of it, and the calls that the life makes if none fails."""

    files: dict[str, bytes | None]
    account: Account
    trace: list[str]

    def put(self, path: Path) -> Account:
        """Write the directory; return what was promised."""
        if self.files:
            path.mkdir()
        for name, content in self.files.items():
            if content is None:
                os.mkdir(path / name)
            else:
                fd = os.open(path / name, os.O_WRONLY | os.O_CREAT, 0o600)
                os.write(fd, content)
                os.close(fd)
        return self.account.copy()


DAMAGED = Path("snap/00000000000000ff.snap")


def tear(path: Path, account: Account) -> None:
    """Let the disk fill up in the middle of a save; the next one finds a torn write."""
    fs = Disk()
    newest = SnapshotMarker(account.kept) if account.kept else None
    log = wal.read_wal(path / "wal", newest, zero_ahead_bytes=0, fs=fs).wal
    fs.fail("pwrite", number=2, taken=lambda size: size // 2)  # the first one takes the stamp away
    fs.fail("pwrite", number=3, error=28)
    with log, pytest.raises(wal.WALFailedError):
        log.save_entry(account.new_entries(300, 400, 500))
    tail = wal.verify(path / "wal").tail
    assert tail is not None
    account.torn = tail.path.read_bytes()[tail.offset :].rstrip(b"\0")
    assert len(account.torn) > 100


def damage_a_snapshot(path: Path, account: Account) -> None:
    (path / DAMAGED).write_bytes(b"no snapshot")
    (path / "snap" / "0000000000000001.snap.tmp").write_bytes(b"half")


BEFORE: dict[str, tuple[str | None, list[Callable[[Path, Account], None]]]] = {
    "first_use": (None, []),
    "growth": ("first_use", []),
    "after_a_torn_write": ("growth", [tear]),
    "without_sync": ("after_a_torn_write", []),
    "without_marks": ("growth", []),
    "a_log_alone": (None, []),
    "the_functions": ("a_log_alone", [tear, damage_a_snapshot]),
}
"""Which life comes before each, and what happens in between."""


def beginnings(path: Path) -> Iterator[tuple[str, Beginning]]:
    """Live every life on a disk that works, and yield what each begins with."""
    ends: dict[str | None, tuple[dict[str, bytes | None], Account]] = {None: ({}, Account())}
    for life in LIVES:
        name = life.__name__
        before, between = BEFORE[name]
        files, account = ends[before]
        place = path / name
        account = Beginning(files, account, []).put(place)
        for happen in between:
            happen(place, account)
        files, promised = _files(place), account.copy()
        rehearsal = Life(place, Disk(), account)
        assert rehearsal.live(life)
        assert not rehearsal.errors
        yield name, Beginning(files, promised, rehearsal.fs.trace)
        account.check(place)
        ends[name] = (_files(place), account)


def _files(path: Path) -> dict[str, bytes | None]:
    if not path.exists():
        return {}
    return {
        str(file.relative_to(path)): None if file.is_dir() else file.read_bytes() for file in sorted(path.rglob("*"))
    }
