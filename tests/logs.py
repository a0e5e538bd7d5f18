"""Logs on disk, as the tests of the writer look at them."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import wal
from faults import FaultyFileSystem
from wal._files import OperatingSystem
from wal._frame import HEADER, MAX_RECORD_BYTES, RecordType, frame_bytes, parse_record
from wal._marks import Mark, mark_of
from wal._stamp import STAMP_BYTES, find_stamps

SMALL = 4096
"""The smallest segment size."""

HANG = 60
"""Seconds after which what should have come to its end long ago is taken to hang."""


def _nothing(fd: int) -> None:
    """Sync nothing."""


class Disk(FaultyFileSystem):
    """
    Keeps which file each call was about. A ``close`` that fails has closed all the same, as on Linux. Syncs are noted
    and left out, which makes no difference as long as the power is on.

    Attributes:
        calls: The name of each call so far, and the path that it was about.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []
        self._paths: dict[int, str] = {}

    def _run(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        target = args[0]
        path = self._paths[target] if isinstance(target, int) else str(target)
        self.calls.append((name, path))
        if name in ("fsync", "fdatasync"):
            call = _nothing
        result = super()._run(name, call, *args)
        if name == "open":
            self._paths[result] = path
        elif name == "rename":
            self._paths = {fd: str(args[1]) if old == path else old for fd, old in self._paths.items()}
        return result

    def close(self, fd: int) -> None:
        try:
            super().close(fd)
        finally:
            if fd in self.open_descriptors:
                self.open_descriptors.remove(fd)
                with contextlib.suppress(OSError):
                    os.close(fd)

    def of(self, *names: str) -> list[tuple[str, str]]:
        """Return the calls with one of these names."""
        return [call for call in self.calls if call[0] in names]


class HeldDisk(OperatingSystem):
    """
    A disk whose ``fdatasync`` waits until it is let go.

    Attributes:
        begun: Whether a sync has begun.
        go_on: Set it, and no sync waits any more.
        writes: How many bytes each write had so far.
    """

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.writes: list[int] = []

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        self.writes.append(len(data))
        return super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        self.begun.set()
        assert self.go_on.wait(HANG)


def tree(root: Path) -> dict[str, bytes | None]:
    """Return everything below a directory: the bytes of files, ``None`` for directories."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }


def untouched(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return what any change to the files of a directory would change: inodes, times of change, bytes."""
    return {
        file.name: (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) for file in sorted(root.iterdir())
    }


def segments(path: Path) -> list[Path]:
    """Return the segments of a log in their order."""
    return sorted(path.glob("*.wal"))


def read(
    path: Path, snapshot: wal.Snapshot | None = None, registry: wal.RecordRegistry | None = None
) -> wal.LogContents:
    """Return the ``LogContents`` of a log that nobody has to close."""
    return wal.WALReader(path, snapshot, registry=registry).read_all()


def indexes(path: Path) -> list[int]:
    """Return the indexes of a log's entries."""
    return [entry.index for entry in read(path).entries]


class Frame(NamedTuple):
    """A frame as it stands in a segment."""

    type: RecordType
    mark: Mark
    crc: int
    data: bytes
    offset: int
    length: int


def frames(segment: Path) -> list[Frame]:
    """Return the frames of an intact segment, behind which there is nothing but a stamp."""
    data = segment.read_bytes()
    for place, _ in find_stamps(data, 0):
        data = data[:place] + bytes(STAMP_BYTES) + data[place + STAMP_BYTES :]
    found = []
    at = 0
    while at < len(data) and (header := HEADER.unpack_from(data, at)[0]):
        stop = at + HEADER.size + (header & MAX_RECORD_BYTES)
        record = parse_record(data, at + HEADER.size, stop)
        assert record is not None
        type, crc, begin = record
        length = frame_bytes(header)
        found.append(Frame(RecordType(type), Mark(mark_of(type, header)), crc, data[begin:stop], at, length))
        at += length
    assert not any(data[at:])
    return found


def types(segment: Path) -> list[RecordType]:
    """Return the record types of a segment's frames."""
    return [frame.type for frame in frames(segment)]


INTERRUPTED_FILES = (str(Path(wal.__file__).parent), contextlib.__file__)


class Interrupt:
    """
    Raises ``KeyboardInterrupt`` at the n-th place where a signal could have it raised in this package; 0: never.

    The interpreter looks for signals where a Python function begins and behind each call into C. A profiler is
    called at the same places, and may raise.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.places: list[str] = []

    def start(self) -> None:
        gc.disable()  # what is raised while garbage is collected goes nowhere
        sys.setprofile(self._profile)

    def stop(self) -> None:
        sys.setprofile(None)
        gc.enable()

    def __enter__(self) -> Interrupt:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event not in ("call", "c_return") or not code.co_filename.startswith(INTERRUPTED_FILES):
            return
        if code.co_name in ("__del__", "<genexpr>"):  # nor does what is raised while an object is freed
            return
        self.places.append(f"{event} {code.co_filename}:{frame.f_lineno}")
        if len(self.places) == self.number:
            raise KeyboardInterrupt

    @property
    def missed(self) -> bool:
        """Whether there were fewer places."""
        return len(self.places) < self.number

    @property
    def different(self) -> list[int]:
        """The numbers at which a place was reached for the first time: what a loop repeats is left out."""
        return [number for number, place in enumerate(self.places, 1) if place not in self.places[: number - 1]]


def fork() -> int:
    """
    ``os.fork()``, without its warning about threads, of which the child has none.

    The child is not measured by coverage: nobody would read what it measured, and coverage hangs behind a signal
    whose handler raises in the middle of its own code, with a lock taken.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        sys.settrace(None)
    return child


class Child:
    """
    A forked process that makes one call. It holds what the parent has open.

    Without ``wait()`` it is killed when the block is left.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        reading, writing = os.pipe()
        self.process = fork()
        if self.process == 0:
            outcome = "nothing"
            try:
                outcome = repr(call())
            except BaseException as error:
                outcome = type(error).__name__
            finally:
                os.write(writing, outcome.encode())
                os._exit(0)
        os.close(writing)
        self._reading = reading

    def wait(self) -> str:
        """Return the ``repr`` of what the call returned or the name of the exception; empty if it was killed."""
        with os.fdopen(self._reading) as pipe:
            outcome = pipe.read()
        os.waitpid(self.process, 0)
        self.process = 0
        return outcome

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            self.wait()


def in_child(call: Callable[[], object]) -> str:
    """Make a call in a forked child and wait for its outcome, as ``Child.wait`` gives it."""
    with Child(call) as child:
        return child.wait()


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """Collect what the library logs."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("wal")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def comes_to_its_end(call: Callable[[], None]) -> bool:
    """Run a call in another thread; return whether it does not hang."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout=HANG)
    return not thread.is_alive()
