"""
A key-value store that keeps its word, and a test of that by killing it.

``KeyValueStore`` is all that an application needs: a dictionary in memory, and a log that is written before the
dictionary is. Run this file to see it tried: a child process writes and acknowledges each write, is killed with
SIGKILL in the middle, and the store is opened again. Then every acknowledged write must be there.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import wal

# ---------------------------------------------------------------------------------------------------- the store

REGISTRY = wal.RecordRegistry()


@REGISTRY.register(wal.RecordType.ENTRY)
@dataclass(frozen=True, slots=True)
class Put(wal.LogEntry):
    """One entry of the log: a key is set to a value."""

    index: int
    key: str
    value: str

    def marshal(self) -> bytes:
        return json.dumps([self.index, self.key, self.value]).encode()

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        return cls(*json.loads(data))


class KeyValueStore:
    """A dictionary in a directory. What ``put`` has returned from survives the crash."""

    def __init__(self, path: Path, *, segment_size: int = 64_000_000) -> None:
        self.values: dict[str, str] = {}
        if not wal.exists(path):
            self.log = wal.WAL.create(path, registry=REGISTRY, segment_size=segment_size)
            return
        self.log, _, _, entries = wal.read_wal(path, registry=REGISTRY, segment_size=segment_size)
        for entry in entries:
            assert isinstance(entry, Put)
            self.values[entry.key] = entry.value

    def put(self, values: Mapping[str, str]) -> None:
        """Set all of these keys, or, if the process or the machine dies meanwhile, none of them."""
        first = self.log.last_index + 1
        self.log.save_entry(Put(index, key, value) for index, (key, value) in enumerate(values.items(), first))
        self.values.update(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.log.close()


# ----------------------------------------------------------------------------------------------- the trial of it

SEGMENT_SIZE = 1_000_000  # small, so that the log goes from segment to segment while it is being killed
KEYS_PER_WRITE = 20


def batch(number: int) -> dict[str, str]:
    """Return the keys and values of write ``number``, always the same."""
    chosen = random.Random(number)
    return {f"{number}/{key}": chosen.randbytes(chosen.randrange(5_000)).hex() for key in range(KEYS_PER_WRITE)}


def write(path: Path) -> None:
    """Write without end. A line on the standard output, which is a pipe, acknowledges each write."""
    with KeyValueStore(path, segment_size=SEGMENT_SIZE) as store:
        number = len(store.values) // KEYS_PER_WRITE
        while True:
            number += 1
            store.put(batch(number))
            print(number, flush=True)


def write_and_kill(path: Path) -> int:
    """Let a child process write, kill it at some moment, and return the last write that it acknowledged."""
    command = [sys.executable, __file__, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(random.randint(5, 30))]
        time.sleep(random.uniform(0, 0.01))
        child.kill()
        acknowledged += map(int, child.stdout)  # those that were still in the pipe
    return acknowledged[-1]


def complaint(acknowledged: int, values: Mapping[str, str]) -> str | None:
    """Say what is wrong with the recovered values if writes up to ``acknowledged`` must be in them."""
    writes = len(values) // KEYS_PER_WRITE
    if writes < acknowledged:
        return f"{acknowledged - writes} acknowledged writes are lost"
    if writes > acknowledged + 1:
        return f"{writes - acknowledged - 1} writes are there that nobody made"
    if values != {key: value for number in range(1, writes + 1) for key, value in batch(number).items()}:
        return "a write is there in part, or with other values"
    return None


def main(rounds: int = 5) -> int:
    """Write, kill and recover; return 0 if the store kept its word each time."""
    print(f"A store is written by a process that is killed with SIGKILL, {rounds} times. Then it is opened again.\n")
    print("round  acknowledged  recovered  segments  torn write      opened in")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "wal")
        for number in range(1, rounds + 1):
            acknowledged = write_and_kill(path)
            started = time.perf_counter()
            with KeyValueStore(path, segment_size=SEGMENT_SIZE) as store:
                seconds = time.perf_counter() - started
            recovered, cut = len(store.values) // KEYS_PER_WRITE, store.log.repaired
            torn = f"{cut.bytes_cut:,} bytes cut" if cut else "none"
            segments = len(list(path.glob("*.wal")))
            print(f"{number:5}  {acknowledged:12}  {recovered:9}  {segments:8}  {torn:16} {seconds * 1000:6.1f} ms")
            if problem := complaint(acknowledged, store.values):
                print(f"\nFAILED: {problem}.")
                return 1
    print(f"\nAll {acknowledged} acknowledged writes of {KEYS_PER_WRITE} keys are there, and no write in part.")
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write(Path(sys.argv[1]))
    sys.exit(main())
