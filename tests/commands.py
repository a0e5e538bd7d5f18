"""The program ``wal``, run in this process or in one of its own, and logs for it to look at."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import wal
from damage import overwrite, unstamp, zero
from logs import frames, segments
from unsynced import UNSYNCED
from wal.__main__ import main
from wal._crc32c import extend
from wal._frame import encode_frame
from wal._marks import CODES, Mark

DATA = Path(__file__).parent / "data"
SIZE = 4096


class Ended(NamedTuple):
    """How a command ended."""

    exit: int
    out: str
    err: str


def run(*arguments: str | Path, stdin: str = "", here: Path | None = None) -> Ended:
    """Run a command in this process, in the directory ``here``."""
    out, err = io.StringIO(), io.StringIO()
    paths, modules = sys.path.copy(), set(sys.modules)
    before, sys.stdin = sys.stdin, io.StringIO(stdin)
    try:
        with redirect_stdout(out), redirect_stderr(err), chdir(here or Path.cwd()):
            code = main([str(argument) for argument in arguments])
    finally:
        sys.stdin, sys.path[:] = before, paths
        for module in set(sys.modules) - modules:
            if module in ("shop", "shopping"):
                del sys.modules[module]
    return Ended(code, out.getvalue(), err.getvalue())


PROGRAM = [sys.executable, "-W", "error", "-m", "wal"]


def environment(**changes: str) -> dict[str, str]:
    """Return the environment, without what changes the look of things."""
    left_out = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **changes}


def start(*arguments: str | Path, here: Path) -> subprocess.Popen[str]:
    """Start a command in a process of its own, with pipes. It heeds Control-C, also if these tests do not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell's background ignores is inherited
    try:
        return subprocess.Popen(
            [*PROGRAM, *map(str, arguments)],
            cwd=here,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------------------------ logs


def intact(path: Path) -> None:
    """Three segments, with states, a marker, a long entry, and entries that take the place of others."""
    with wal.WAL.create(path, b"node-1", segment_size=SIZE, fs=UNSYNCED) as log:
        for index in range(1, 6):
            log.save(wal.CommitState(index), [wal.Entry(index, b"value %d" % index)])
        log.save_entry([wal.Entry(6, b"l" * SIZE), wal.Entry(7, b"overruled"), wal.Entry(8, b"overruled")])
        log.save_entry([wal.Entry(7, b"in its place", type=3)])
        log.save_snap(wal.SnapshotMarker(5))
        log.save_entry([wal.Entry(8, b"\x1b[31mred\n" + bytes(SIZE))])
        log.save(wal.CommitState(9), [wal.Entry(9, "größer".encode())])


def new(path: Path) -> None:
    """A log to which nothing was saved yet."""
    wal.WAL.create(path, segment_size=SIZE, fs=UNSYNCED).close()


def torn(path: Path) -> None:
    """The last save did not reach the disk as a whole, and the writer was killed."""
    intact(path)
    segment = segments(path)[-1]
    unstamp(segment)
    last = frames(segment)[-1]
    zero(segment, last.offset + 8, last.offset + last.length)


def damaged(path: Path) -> None:
    """Rot in the first segment: in the payload of the third entry."""
    intact(path)
    segment = segments(path)[0]
    overwrite(segment, segment.read_bytes().index(b"value 3"), b"VALUE")


def damaged_end(path: Path) -> None:
    """Rot in the last segment, in front of a save that was made after a sync."""
    intact(path)
    segment = segments(path)[-1]
    overwrite(segment, [frame for frame in frames(segment) if frame.mark is Mark.FIRST][-1].offset + 20, b"\xff\xff")


def unknown(path: Path) -> None:
    """A record of a type that is not known, with its checksum right, and one more save behind it."""
    intact(path)
    segment = segments(path)[-1]
    unstamp(segment)
    last = frames(segment)[-1]
    crc = extend(last.crc, b"from the future")
    behind = wal.Entry(10, b"behind it").marshal()
    overwrite(
        segment,
        last.offset + last.length,
        encode_frame(9, crc, b"from the future", 0) + encode_frame(2, extend(crc, behind), behind, 0),
    )


def gap(path: Path) -> None:
    """The segment in the middle is gone."""
    intact(path)
    segments(path)[1].unlink()


def skipped_index(path: Path) -> None:
    """All checksums are right, but there is no entry 3."""
    with wal.WAL.create(path, b"node-1", segment_size=SIZE, save_marks=False, fs=UNSYNCED) as log:
        log.save_entry([wal.Entry(1), wal.Entry(2)])
    (segment,) = segments(path)
    last = frames(segment)[-1]
    entry = wal.Entry(4, b"behind a gap").marshal()
    overwrite(segment, last.offset + last.length, encode_frame(2, extend(last.crc, entry), entry, 0))


def other_metadata(path: Path) -> None:
    """All checksums are right, but the second segment begins with another log's metadata."""
    with wal.WAL.create(path, b"node-1", segment_size=SIZE, fs=UNSYNCED) as log:
        log.save_entry([wal.Entry(1, bytes(SIZE))])
        log.save_entry([wal.Entry(2)])
    first, second = segments(path)
    crc = frames(second)[0].crc
    head = encode_frame(4, crc, b"", CODES[4][Mark.FIRST])
    second.write_bytes(
        (head + encode_frame(1, extend(crc, b"node-2"), b"node-2", CODES[1][Mark.LAST])).ljust(SIZE, b"\0")
    )
    assert first.exists()


def etcd_like(path: Path) -> None:
    """A log with etcd's record types, where etcd has it."""
    options = {"registry": wal.etcd.registry(), "segment_size": SIZE}
    with wal.WAL.create(path / "member" / "wal", fs=UNSYNCED, **options) as log:  # type: ignore[arg-type]
        log.save(
            wal.etcd.HardState(term=2, vote=1, commit=1),
            [wal.etcd.Entry(term=2, index=1), wal.etcd.Entry(term=2, index=2, data=b"put")],
        )


def storage(path: Path) -> None:
    """A storage with three snapshots, of which the oldest is kept by the log alone."""
    made, _ = wal.open_storage(path, b"node-1", segment_size=SIZE, fs=UNSYNCED)
    with made:
        for index in range(1, 32):
            made.save(wal.CommitState(index), [wal.Entry(index, b"+1")])
            if index % 10 == 0:
                made.save_snap(wal.SnapshotData(index, b"state %d" % index))
                made.release(wal.SnapshotData(index))


def storage_with_damaged_snapshot(path: Path) -> None:
    """The newest snapshot is damaged; the one before, and the log behind that, make up for it."""
    storage(path)
    overwrite(path / "snap" / f"{30:016x}.snap", 12, b"\xff")


def storage_without_snapshot(path: Path) -> None:
    """No snapshot is left, and the log has lost its beginning."""
    made, _ = wal.open_storage(path, b"node-1", segment_size=SIZE, fs=UNSYNCED)
    with made:
        for index in range(1, 4):
            made.save(wal.CommitState(index), [wal.Entry(index, bytes(SIZE))])
            made.save_snap(wal.SnapshotData(index, b"state"))
            made.release(wal.SnapshotData(index))
    shutil.rmtree(path / "snap")
    (path / "snap").mkdir()


@dataclass
class Put(wal.LogEntry):
    """An application's own entry."""

    index: int
    key: str
    value: float

    def marshal(self) -> bytes:
        return json.dumps([self.index, self.key, self.value]).encode()

    @classmethod
    def unmarshal(cls, data: bytes) -> Put:
        return cls(*json.loads(data))


REGISTRY = wal.RecordRegistry()
REGISTRY.register(wal.RecordType.ENTRY, Put)

SHOP = """
from commands import REGISTRY


def registry():
    return REGISTRY


def refusing():
    raise RuntimeError("not today")


class records:
    REGISTRY = REGISTRY


NUMBER = 7
"""

SHOPPING = """
import wal
from commands import Put

wal.register_record(wal.RecordType.ENTRY, Put)
"""


def custom(path: Path) -> None:
    """A log of an application's own records; the module ``shop`` beside it has the classes."""
    path.with_name("shop.py").write_text(SHOP)
    path.with_name("shopping.py").write_text(SHOPPING)
    with wal.WAL.create(path, registry=REGISTRY, segment_size=SIZE, fs=UNSYNCED) as log:
        log.save_entry([Put(1, "colour", 1.5), Put(2, "shape", float("inf"))])


def fixtures(path: Path) -> None:
    """All directories of the archives."""
    for archive in DATA.glob("*/dirs.tar.xz"):
        with tarfile.open(archive) as tar:
            tar.extractall(path, filter="data")


def archived(path: Path) -> None:
    """A storage in ``data``, of which most is in the archive in ``archive``."""
    from wal.archive import Archiver

    made, _ = wal.open_storage(path / "data", b"node-1", segment_size=SIZE, fs=UNSYNCED)
    with made:
        for index in range(1, 61):
            made.save(wal.CommitState(index), [wal.Entry(index, b"value %d " % index * 30)])
            if index % 20 == 0:
                made.save_snap(wal.SnapshotData(index, b"state %d" % index))
            if index == 40:
                with Archiver(path / "data", path / "archive", fs=UNSYNCED) as archiver:
                    archiver.run()


def damaged_archive(path: Path) -> None:
    """An archive of which one segment has rotted."""
    archived(path)
    segment = segments(path / "archive" / "segments")[1]
    overwrite(segment, 2000, b"\xff")


def empty(path: Path) -> None:
    """A directory without a log."""
    path.mkdir()


SCENES: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        intact,
        new,
        torn,
        damaged,
        damaged_end,
        unknown,
        gap,
        skipped_index,
        other_metadata,
        etcd_like,
        storage,
        storage_with_damaged_snapshot,
        storage_without_snapshot,
        custom,
        fixtures,
        archived,
        damaged_archive,
        empty,
    )
}
