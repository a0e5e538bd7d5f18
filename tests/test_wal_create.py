"""Creating a log: all or nothing, and nothing that was there before is touched."""

from __future__ import annotations

import errno
import gc
import logging
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Self

import pytest

import wal
from logs import SMALL, Disk, Interrupt, read, tree

OWN_TEMPORARY = "0000000000000000-0000000000000000.wal.tmp"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Nothing is taken from the modes that are asked for."""
    before = os.umask(0)
    yield
    os.umask(before)


# ------------------------------------------------------------------------------------------------ where it may be made


def test_a_new_log_makes_missing_parents(tmp_path: Path) -> None:
    """The directory is made with all its parents, and the log in it is empty and has its metadata."""
    path = tmp_path / "a" / "b" / "wal"

    wal.WAL.create(path, b"node-1", segment_size=SMALL).close()

    assert wal.exists(path)
    assert read(path) == (b"node-1", wal.CommitState(0), [], None)


def test_a_new_log_is_ready_for_appending_and_can_be_read(path: Path) -> None:
    """R56: a created log needs no reading before the first save, and reading it at any time is fine."""
    with wal.WAL.create(path, b"m", segment_size=SMALL) as log:
        assert log.read_all() == (b"m", wal.CommitState(0), [], None)

        log.save(wal.CommitState(1), [wal.Entry(1, b"a")])

        assert log.read_all() == (b"m", wal.CommitState(1), [wal.Entry(1, b"a")], None)


def test_other_files_in_the_directory_are_left_alone(path: Path) -> None:
    """R37: a fresh file system has a ``lost+found``; it and whatever else is there stays as it is."""
    (path / "lost+found" / "#12").mkdir(parents=True)
    (path / "notes.txt").write_text("mine")
    (path / "archive").mkdir()
    (path / "archive" / "0000000000000000-0000000000000000.wal").write_bytes(b"not a segment of this log")
    before = tree(path)

    wal.WAL.create(path, segment_size=SMALL).close()

    assert tree(path).items() >= before.items()
    assert len(tree(path)) == len(before) + 1


@pytest.mark.parametrize("name", ["x.tmp", "0.tmp", "1.tmp", "wal.tmp", "0-0.wal.tmp", OWN_TEMPORARY.upper()])
def test_files_of_others_with_temporary_names_are_neither_used_nor_removed(path: Path, name: str) -> None:
    """R38, F14, F43: only the exact name of a segment in preparation is ours."""
    path.mkdir()
    (path.with_name("wal.tmp")).mkdir()
    (path.with_name("wal.tmp") / "precious").write_bytes(b"keep")
    (path / name).write_bytes(b"\xff" * 9000)

    with wal.WAL.create(path, segment_size=SMALL) as log:
        for index in range(1, 5):
            log.save_entry([wal.Entry(index, bytes(SMALL))])

    assert (path / name).read_bytes() == b"\xff" * 9000
    assert (path.with_name("wal.tmp") / "precious").read_bytes() == b"keep"
    assert [entry.index for entry in read(path).entries] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", [OWN_TEMPORARY, "0000000000000007-000000000000002a.wal.tmp"])
def test_segments_in_preparation_of_a_killed_writer_are_swept(path: Path, name: str) -> None:
    """R38, F43: their garbage never becomes part of the new log."""
    path.mkdir()
    (path / name).write_bytes(b"\xff" * 9000)

    wal.WAL.create(path, segment_size=SMALL).close()

    assert [file.name for file in path.iterdir()] == ["0000000000000000-0000000000000000.wal"]
    assert read(path).entries == []


def test_a_file_in_the_place_of_the_next_segment_is_never_written_over(path: Path) -> None:
    """R38: what appears there while the log is open is not ours; the cut fails, and the log stops."""
    stranger = path / "0000000000000001-0000000000000002.wal.tmp"
    with wal.WAL.create(path, segment_size=SMALL) as log:
        log.save_entry([wal.Entry(1, bytes(SMALL))])
        stranger.write_bytes(b"\xff" * 9000)
        with pytest.raises(wal.WALFailedError):
            log.save_entry([wal.Entry(2)])

    assert stranger.read_bytes() == b"\xff" * 9000
    assert len(read(path).entries) == 1


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param(["0000000000000000-0000000000000000.wal"], id="whole log"),
        pytest.param(["0000000000000003-0000000000000015.wal"], id="log whose beginning was purged"),
        pytest.param(["0000000000000000-0000000000000000.wal", "0000000000000002-0000000000000009.wal"], id="gap"),
    ],
)
def test_an_existing_log_is_refused(path: Path, segments: list[str]) -> None:
    """A directory with any segment has a log, in whatever state; nothing in it is changed."""
    path.mkdir()
    for name in segments:
        (path / name).write_bytes(b"whatever")
    (path / OWN_TEMPORARY).write_bytes(b"half")
    before = tree(path)

    with pytest.raises(wal.WALExistsError) as caught:
        wal.WAL.create(path, segment_size=SMALL)

    assert isinstance(caught.value, FileExistsError)
    assert caught.value.path == path
    assert tree(path) == before


@pytest.mark.parametrize("below", [pytest.param("", id="the file itself"), pytest.param("wal", id="inside the file")])
def test_a_regular_file_is_refused_and_kept(tmp_path: Path, below: str) -> None:
    """F13: a file in the place of the directory, or of a parent, is never removed."""
    file = tmp_path / "data"
    file.write_bytes(b"precious")

    with pytest.raises(NotADirectoryError):
        wal.WAL.create(file / below, segment_size=SMALL)

    assert tree(tmp_path) == {"data": b"precious"}


def test_a_directory_that_cannot_be_listed_is_an_error_and_not_an_empty_one(path: Path) -> None:
    """F13: "I cannot see a log" is not "there is no log"; the one that is there survives."""
    with wal.WAL.create(path, segment_size=SMALL) as log:
        log.save_entry([wal.Entry(1, b"a")])
    before = tree(path)

    for number in count(1):
        fs = Disk()
        fs.fail("any", number=number, error=errno.EACCES)
        with pytest.raises((PermissionError, wal.WALExistsError)):
            wal.WAL.create(path, segment_size=SMALL, fs=fs)

        assert tree(path) == before
        assert not fs.open_descriptors
        if fs.faults:
            break


# ------------------------------------------------------------------------------------------------------ all or nothing


def nothing_there(root: Path) -> None:
    """The directory and its parent are missing."""


def empty_directory(root: Path) -> None:
    (root / "a" / "wal").mkdir(parents=True)


def foreign_files(root: Path) -> None:
    (root / "a" / "wal" / "lost+found").mkdir(parents=True)
    (root / "a" / "wal" / "0.tmp").write_bytes(b"mine")
    (root / "a" / "wal" / OWN_TEMPORARY).write_bytes(b"left by a killed writer")


SCENES = [nothing_there, empty_directory, foreign_files]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EAGAIN, errno.ENOENT], ids=os.strerror)
@pytest.mark.parametrize("scene", SCENES)
def test_a_create_that_fails_at_any_call_leaves_nothing(
    tmp_path: Path, scene: Callable[[Path], None], error: int
) -> None:
    """R30, R31, R32, R55, F38: fail the i-th call of any kind, until the create runs clean."""
    for number in count(1):
        root = tmp_path / str(number)
        root.mkdir()
        path = root / "a" / "wal"
        scene(root)
        before = tree(root)
        fs = Disk()
        fs.fail("any", number=number, error=error)
        try:
            log = wal.WAL.create(path, b"first", segment_size=SMALL, fs=fs)
        except OSError as refused:
            left = tree(root)
            assert not wal.exists(path)
            if isinstance(refused, wal.WALLockedError):  # somebody is at work in the directory: it must stay
                before |= {"a": None, "a/wal": None}
            assert {name for name in before if name not in left} <= {f"a/wal/{OWN_TEMPORARY}"}
            assert left.items() <= before.items()
            with wal.WAL.create(path, b"second", segment_size=SMALL) as log:
                log.save_entry([wal.Entry(1, b"a")])
            assert read(path).metadata == b"second"
            assert not fs.open_descriptors
        else:
            done = bool(fs.faults)
            fs.faults.clear()
            log.close()
            assert read(path).metadata == b"first"
            if done:
                assert number > 15
                break


@pytest.mark.parametrize("scene", SCENES)
def test_a_create_on_a_disk_that_stays_broken_leaves_no_half_log(tmp_path: Path, scene: Callable[[Path], None]) -> None:
    """R30, R55: if even cleaning up fails, what is left is no log, or a good empty one."""
    for number in count(1):
        root = tmp_path / str(number)
        root.mkdir()
        path = root / "a" / "wal"
        scene(root)
        fs = Disk()
        fs.fail("any", number=number, error=errno.EIO, persistent=True)
        try:
            log = wal.WAL.create(path, b"first", segment_size=SMALL, fs=fs)
        except OSError:
            assert not fs.open_descriptors
        else:
            fs.faults.clear()
            log.close()
            break
        if wal.exists(path):
            assert read(path) == (b"first", wal.CommitState(0), [], None)
        else:
            wal.WAL.create(path, b"second", segment_size=SMALL).close()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=repr)
def test_an_interrupted_create_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    """R30, R55: what is no ``OSError`` is cleaned up after just the same."""
    for number in count(1):
        fs = Disk()
        fs.fail("any", number=number, error=error)
        path = tmp_path / str(number) / "wal"
        try:
            log = wal.WAL.create(path, segment_size=SMALL, fs=fs)
        except type(error):
            assert tree(tmp_path) == {}
            assert not fs.open_descriptors
        else:
            fs.faults.clear()
            log.close()
            break


@pytest.mark.filterwarnings("ignore:.*dropped without close:ResourceWarning")
def test_a_create_that_is_interrupted_at_any_place_leaves_no_half_log(tmp_path: Path) -> None:
    """D2, P11: after Ctrl-C there is no log, or at the very end an empty one, and nobody is locked out."""
    for number in count(1):
        path = tmp_path / str(number) / "wal"
        try:
            with Interrupt(number) as interrupt:
                log = wal.WAL.create(path, b"first", segment_size=SMALL, fs=Disk())
        except KeyboardInterrupt:
            if wal.exists(path):
                log, *contents = wal.read_wal(path, fs=Disk())
                assert contents == [b"first", wal.CommitState(0), []]
            else:
                log = wal.WAL.create(path, b"second", segment_size=SMALL, fs=Disk())
            log.close()
            gc.collect(1)  # the log that nobody was given, if it came so far
        else:
            log.close()
            assert interrupt.missed
            assert number > 50
            break
    gc.collect()  # logs that were dropped unclosed warn here, where it is allowed


@pytest.mark.parametrize("call", ["allocate", "pwrite", "rename"])
def test_a_failed_create_does_not_warn_of_an_unclosed_log(path: Path, call: str) -> None:
    """R55: nobody was given a log that could have been closed."""
    fs = Disk()
    fs.fail(call)
    gc.collect()  # what other tests left
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(OSError):
            wal.WAL.create(path, segment_size=SMALL, fs=fs)
        gc.collect()

    assert [str(warning.message) for warning in warned] == []


# ----------------------------------------------------------------------------------------------------------- durability


def test_every_name_is_made_durable_in_order(tmp_path: Path) -> None:
    """F15: each new directory's parent is synced, and the segment before and its directory after the rename."""
    path = tmp_path / "a" / "wal"
    fs = Disk()

    with wal.WAL.create(path, segment_size=SMALL, fs=fs):
        calls = fs.of("mkdir", "fsync", "fdatasync", "pwrite", "rename")

    temporary = str(path / OWN_TEMPORARY)
    assert calls == [
        ("mkdir", str(path.parent)),
        ("fsync", str(tmp_path)),
        ("mkdir", str(path)),
        ("fsync", str(path.parent)),
        ("fsync", str(path.parent)),
        ("pwrite", temporary),
        ("fsync", temporary),
        ("rename", temporary),
        ("fsync", str(path)),
    ]


def test_a_directory_that_was_there_has_its_parent_synced(path: Path) -> None:
    """F15: somebody may have made the directory a moment ago, and not synced its name."""
    path.mkdir()
    fs = Disk()

    wal.WAL.create(path, segment_size=SMALL, fs=fs).close()

    syncs = [target for _, target in fs.of("fsync")]
    assert syncs == [str(path.parent), str(path / OWN_TEMPORARY), str(path)]


def test_the_directory_is_locked_before_it_is_looked_at(path: Path) -> None:
    """R59: no other writer can come between the look for a log and the making of one."""
    fs = Disk()

    wal.WAL.create(path, segment_size=SMALL, fs=fs).close()

    assert fs.trace.index("lock_directory") < fs.trace.index("listdir")
    assert fs.trace.index("lock") < fs.trace.index("rename")


# ------------------------------------------------------------------------------------------------ files and their space


@pytest.mark.usefixtures("open_umask")
def test_files_and_directories_are_private(tmp_path: Path) -> None:
    """New directories have mode 0700 and new segments 0600, whatever the umask lets through."""
    path = tmp_path / "a" / "wal"
    with wal.WAL.create(path, segment_size=SMALL) as log:
        log.save_entry([wal.Entry(1, bytes(SMALL))])
        log.save_entry([wal.Entry(2)])

    assert [mode(path.parent), mode(path)] == [0o700, 0o700]
    assert [mode(file) for file in path.iterdir()] == [0o600, 0o600]


@pytest.mark.usefixtures("open_umask")
def test_the_mode_of_a_directory_that_was_there_is_kept(path: Path) -> None:
    """Only what create makes gets its modes."""
    path.mkdir(mode=0o755)

    wal.WAL.create(path, segment_size=SMALL).close()

    assert mode(path) == 0o755


def test_the_space_of_a_segment_is_reserved_at_once(path: Path) -> None:
    """A full disk is met when a segment is made, not in the middle of a save."""
    with wal.WAL.create(path, segment_size=3 * SMALL):
        (segment,) = path.iterdir()

        assert segment.stat().st_size == 3 * SMALL


@pytest.mark.parametrize("code", ["EOPNOTSUPP", "EINVAL", "ENOSYS"])
def test_a_file_system_without_preallocation_will_do(path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R26: reserving space is a favour; where it is not supported, segments grow as they are written."""

    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    check_that_it_works_without_preallocation(path)


def test_a_system_without_preallocation_will_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R26: there are systems without the call."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    check_that_it_works_without_preallocation(path)


def check_that_it_works_without_preallocation(path: Path) -> None:
    with wal.WAL.create(path, b"m", segment_size=SMALL) as log:
        assert sum(file.stat().st_size for file in path.iterdir()) < SMALL
        for index in range(1, 6):
            log.save(wal.CommitState(index), [wal.Entry(index, bytes(3000))])
    assert len(list(path.iterdir())) > 1
    log, _, state, entries = wal.read_wal(path, segment_size=SMALL)
    with log:
        assert state == wal.CommitState(5)
        assert [entry.index for entry in entries] == [1, 2, 3, 4, 5]
        log.save_entry([wal.Entry(6, b"x")])
    assert read(path).entries[-1] == wal.Entry(6, b"x")


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EIO"])
def test_a_full_disk_is_heard_of_at_once(tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R26: only "not supported" is passed over."""

    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)

    with pytest.raises(OSError) as caught:
        wal.WAL.create(tmp_path / "wal", segment_size=SMALL)

    assert caught.value.errno == getattr(errno, code)
    assert tree(tmp_path) == {}


# ------------------------------------------------------------------------------------------------------------ arguments


class NotEmpty(wal.SnapshotMarker):
    """A marker whose "nothing yet" claims to be something."""

    __slots__ = ()

    @classmethod
    def empty(cls) -> Self:
        return cls(7)


def registry_with(snapshot: type[wal.Snapshot]) -> wal.RecordRegistry:
    registry = wal.RecordRegistry()
    registry.register(wal.RecordType.SNAPSHOT, snapshot)
    return registry


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"segment_size": SMALL - 1}, ValueError, id="segment below the minimum"),
        pytest.param({"segment_size": 0}, ValueError, id="segment of nothing"),
        pytest.param({"segment_size": -1}, ValueError, id="negative segment"),
        pytest.param({"segment_size": True}, (ValueError, TypeError), id="bool segment"),
        pytest.param({"segment_size": "4096"}, TypeError, id="segment as text"),
        pytest.param({"segment_size": 4096.0}, TypeError, id="segment as float"),
        pytest.param({"segment_size": float("nan")}, (ValueError, TypeError), id="segment not a number"),
        pytest.param({"segment_size": 2**63}, (ValueError, OverflowError), id="segment longer than any file"),
        pytest.param({"segment_size": None}, TypeError, id="segment of None"),
        pytest.param({"max_record_bytes": 0}, ValueError, id="no record allowed"),
        pytest.param({"max_record_bytes": -1}, ValueError, id="negative record"),
        pytest.param({"max_record_bytes": "1"}, TypeError, id="record limit as text"),
        pytest.param({"max_record_bytes": 1.5}, TypeError, id="record limit as float"),
        pytest.param({"max_record_bytes": None}, TypeError, id="record limit of None"),
        pytest.param({"metadata": "node"}, wal.RecordTypeError, id="metadata as text"),
        pytest.param({"metadata": None}, wal.RecordTypeError, id="metadata of None"),
        pytest.param({"metadata": 8}, wal.RecordTypeError, id="metadata as int"),
        pytest.param({"metadata": bytes(10_000_001)}, wal.EntryTooLargeError, id="metadata over the default limit"),
        pytest.param(
            {"metadata": b"1234", "max_record_bytes": 3}, wal.EntryTooLargeError, id="metadata over the limit"
        ),
        pytest.param({"registry": registry_with(NotEmpty)}, wal.RecordTypeError, id="empty snapshot with an index"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(
    tmp_path: Path, arguments: dict[str, Any], error: type[BaseException] | tuple[type[BaseException], ...]
) -> None:
    """P6: an argument error reaches no disk."""
    fs = Disk()

    with pytest.raises(error):
        wal.WAL.create(tmp_path / "a" / "wal", fs=fs, **arguments)

    assert fs.trace == []
    assert tree(tmp_path) == {}


class Refusing(wal.SnapshotMarker):
    """A marker that cannot be marshalled."""

    __slots__ = ()

    def marshal(self) -> bytes:
        raise ValueError("no")


class Textual(wal.SnapshotMarker):
    """A marker that marshals into text."""

    __slots__ = ()

    def marshal(self) -> bytes:
        return "text"  # type: ignore[return-value]


@pytest.mark.parametrize(("snapshot", "error"), [(Refusing, ValueError), (Textual, wal.RecordTypeError)])
def test_a_record_class_that_fails_leaves_nothing(
    tmp_path: Path, snapshot: type[wal.Snapshot], error: type[Exception]
) -> None:
    """P11: the first marker comes from the application's class, which may do what it likes."""
    fs = Disk()

    with pytest.raises(error):
        wal.WAL.create(tmp_path / "wal", registry=registry_with(snapshot), fs=fs)

    assert tree(tmp_path) == {}
    assert not fs.open_descriptors


@pytest.mark.parametrize(
    "metadata",
    [b"", b"node", bytearray(b"node"), memoryview(b"node"), bytes(3 * SMALL)],
    ids=lambda m: type(m).__name__,
)
def test_metadata_is_any_bytes(path: Path, metadata: Any) -> None:
    """Also none at all, and more than a segment takes."""
    with wal.WAL.create(path, metadata, segment_size=SMALL) as log:
        assert log.metadata == bytes(metadata)
        log.save_entry([wal.Entry(1)])
        log.save_entry([wal.Entry(2)])

    assert read(path).metadata == bytes(metadata)
    assert len(read(path).entries) == 2


def test_metadata_is_copied(path: Path) -> None:
    """A buffer that its owner goes on using changes nothing."""
    metadata = bytearray(b"node")
    with wal.WAL.create(path, metadata, segment_size=SMALL) as log:  # type: ignore[arg-type]  # a bytes-like object
        metadata[:] = b"evil"
        log.save_entry([wal.Entry(1, bytes(SMALL))])
        log.save_entry([wal.Entry(2)])

    assert read(path).metadata == b"node"


# ---------------------------------------------------------------------------------------------------------------- paths


class Here:
    """A path-like object that is no ``Path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("kind", [str, Path, Here])
def test_a_path_may_be_anything_path_like(path: Path, kind: Callable[[Path], str | os.PathLike[str]]) -> None:
    """``str``, ``Path`` and everything with ``__fspath__``; the log's own ``path`` is a ``Path``."""
    with wal.WAL.create(kind(path), segment_size=SMALL) as log:
        assert log.path == path

    assert wal.exists(kind(path))


@pytest.mark.parametrize("bad", [7, b"bytes", None])
def test_what_is_no_path_is_a_type_error(tmp_path: Path, bad: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(TypeError):
        wal.WAL.create(bad, segment_size=SMALL)

    assert tree(tmp_path) == {}


def test_a_relative_path_stays_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D9: a later ``chdir`` moves neither the log nor the segments that come."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with wal.WAL.create("data/wal", segment_size=SMALL) as log:
        monkeypatch.chdir(tmp_path / "elsewhere")
        for index in range(1, 4):
            log.save_entry([wal.Entry(index, bytes(SMALL))])

        assert log.path == tmp_path / "data" / "wal"

    assert tree(tmp_path / "elsewhere") == {}
    assert len(list((tmp_path / "data" / "wal").iterdir())) == 3
    assert len(read(tmp_path / "data" / "wal").entries) == 3


@pytest.mark.parametrize("there", [True, False], ids=["link to a directory", "link to nothing"])
def test_a_symbolic_link_is_followed_once(tmp_path: Path, there: bool) -> None:
    """D9: the real directory gets the log, and its real parent is synced; the link may go elsewhere later."""
    real, link = tmp_path / "disk" / "wal", tmp_path / "link"
    (real if there else real.parent).mkdir(parents=True)
    link.symlink_to(real)
    fs = Disk()
    with wal.WAL.create(link, segment_size=SMALL, fs=fs) as log:
        link.unlink()
        log.save_entry([wal.Entry(1, bytes(SMALL))])
        log.save_entry([wal.Entry(2)])

        assert log.path == real

    assert ("fsync", str(real.parent)) in fs.calls
    assert len(read(real).entries) == 2


def test_a_symbolic_link_in_a_circle_is_an_error(tmp_path: Path) -> None:
    """Nothing is made, and nothing hangs."""
    link = tmp_path / "link"
    link.symlink_to(link)

    with pytest.raises(OSError):
        wal.WAL.create(link, segment_size=SMALL)

    assert [path.name for path in tmp_path.iterdir()] == ["link"]


# ------------------------------------------------------------------------------------------------------------- registry


class Loud(wal.Entry):
    """An entry class of an application."""

    __slots__ = ()


def test_the_registry_option_says_which_classes_come_back(path: Path) -> None:
    """A log with its own registry takes entries of that class only."""
    registry = wal.RecordRegistry()
    registry.register(wal.RecordType.ENTRY, Loud)
    with wal.WAL.create(path, registry=registry, segment_size=SMALL) as log:
        log.save_entry([Loud(1, b"a")])
        with pytest.raises(wal.RecordTypeError):
            log.save_entry([wal.Entry(2, b"b")])

        (entry,) = log.read_all().entries

    assert type(entry) is Loud


def test_without_a_registry_the_process_wide_one_counts(path: Path) -> None:
    """``register_record`` before the create is enough."""
    wal.register_record(wal.RecordType.ENTRY, Loud)
    with wal.WAL.create(path, segment_size=SMALL) as log:
        log.save_entry([Loud(1, b"a")])

        assert type(log.read_all().entries[0]) is Loud


def test_registering_later_does_not_change_an_open_log(path: Path) -> None:
    """F39: a log takes over the classes when it is made."""
    registry = wal.RecordRegistry()
    with wal.WAL.create(path, registry=registry, segment_size=SMALL) as log:
        registry.register(wal.RecordType.ENTRY, Loud)
        log.save_entry([wal.Entry(1, b"a")])

        assert type(log.read_all().entries[0]) is wal.Entry


def test_a_foreign_file_with_a_similar_name_is_warned_about(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F29: ``1-2.wal`` is no segment; whoever put it there is told that it is ignored."""
    path.mkdir()
    (path / "1-2.wal").write_bytes(b"foreign")
    with caplog.at_level(logging.WARNING, "wal"):
        assert not wal.exists(path)

    assert "1-2.wal" in caplog.text
