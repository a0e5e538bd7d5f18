"""P12: What is read is bounded: by a chunk and the largest save, whatever the log or the damage in it says."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

import wal
from damage import overwrite, unstamp
from unsynced import UNSYNCED
from wal import CommitState, Entry

MEBIBYTE = 1 << 20
ENTRIES = 1_000_000

READ = """
import resource, sys, wal
from pathlib import Path

def peak():
    try:  # unlike getrusage, this does not count what the parent had before the interpreter began
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def read(path):
    entries = bytes = last = 0
    for record in wal.WALReader(path):
        if record.type is wal.RecordType.ENTRY:
            entries += 1
            bytes += len(record.value.data)
            last = record.value.index
    return entries, bytes, last

small, large = sys.argv[1:]
read(small)
before = peak()
print(*read(large), peak() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A log of a million entries of 100 bytes, in saves of ten thousand."""
    path = tmp_path_factory.mktemp("memory") / "large"
    with wal.WAL.create(path, sync=False, fs=UNSYNCED) as log:
        for first in range(1, ENTRIES, 10_000):
            log.save(CommitState(first), [Entry(index, b"%0100d" % index) for index in range(first, first + 10_000)])
    yield path
    shutil.rmtree(path)


@pytest.fixture
def small(path: Path) -> Path:
    with wal.WAL.create(path, segment_size=4096) as log:
        log.save(CommitState(1), [Entry(index, b"%0100d" % index) for index in range(1, 10)])
    return path


def test_a_million_entries_stream_through_a_reader(large: Path, small: Path) -> None:
    """P12: Iterating over 120 MB of log takes at most 64 MiB more than iterating over a small one."""
    result = subprocess.run([sys.executable, "-c", READ, small, large], check=True, capture_output=True, text=True)
    entries, bytes, last, grown = map(int, result.stdout.split())

    assert (entries, bytes, last) == (ENTRIES, 100 * ENTRIES, ENTRIES)
    assert grown < 64 * MEBIBYTE


def refusal(path: Path) -> wal.CorruptionError | None:
    """Return what is wrong with a log, raised or as its tail."""
    try:
        return wal.verify(path).tail
    except wal.CorruptionError as error:
        return error


@pytest.mark.parametrize("size", [4096, 64_000_000], ids=["small segment", "large segment"])
@pytest.mark.parametrize("damaged", ["last save", "earlier save"])
def test_a_corrupt_length_is_not_believed(path: Path, size: int, damaged: str) -> None:
    """R09, P12: Whatever power of two a frame's length becomes, refusing it costs less than 1 MiB."""
    with wal.WAL.create(path, segment_size=size) as log:
        log.save_entry([Entry(1, b"one")])
        offset = wal.verify(path).bytes
        log.save_entry([Entry(2, b"two")])
        if damaged == "earlier save":
            log.save_entry([Entry(3, b"three")])
    (segment,) = path.iterdir()
    unstamp(segment)

    costs = {}
    tracemalloc.start()
    try:
        for bit in range(64):
            overwrite(segment, offset, (1 << bit).to_bytes(8, "little"))
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            error = refusal(path)
            _, peak = tracemalloc.get_traced_memory()
            costs[bit] = peak - before
            assert error is not None
            assert isinstance(error, wal.TornWriteError) == (damaged == "last save")
            assert (error.path, error.offset) == (segment, offset)
    finally:
        tracemalloc.stop()
    assert {bit: cost for bit, cost in costs.items() if cost >= MEBIBYTE} == {}
