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


REGISTRY = wal.RecordRegistry(entry=Put)


class KeyValueStore:
    """A dictionary in a directory. What ``put`` has returned from survives the crash."""

    def __init__(self, path: Path, *, segment_size: int = 64_000_000) -> None:
        self.values: dict[str, str] = {}
        if not wal.exists(path):
            self.log = wal.WAL.create(path, registry=REGISTRY, segment_size=segment_size)
            return
        self.log, _, _, entries = wal.read_wal(path, registry=REGISTRY, segment_size=segment_size)
        for entry in entries:
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
KEYS_PER_WRITE = 10


def batch(number: int) -> dict[str, str]:
    """Return the keys and values of write ``number``, always the same: 100 kB on average."""
    chosen = random.Random(number)
    return {f"{number}.{key}": chosen.choice("abcdef") * chosen.randrange(20_000) for key in range(KEYS_PER_WRITE)}


def writes_in(store: KeyValueStore) -> int:
    """Return how many writes the store holds."""
    return len(store.values) // KEYS_PER_WRITE


def write_until_killed(path: Path) -> None:
    """Write without end. A line on the standard output, which is a pipe, acknowledges each write."""
    with KeyValueStore(path, segment_size=SEGMENT_SIZE) as store:
        while True:
            number = writes_in(store) + 1
            store.put(batch(number))
            print(number, flush=True)


def write_and_kill(path: Path) -> int:
    """Let a child process write, kill it at some moment, and return the last write that it acknowledged."""
    with subprocess.Popen([sys.executable, __file__, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = int(child.stdout.readline())
        time.sleep(random.uniform(0, 0.15))
        child.kill()
        for line in child.stdout:  # what was in the pipe by then
            acknowledged = int(line)
    return acknowledged


def write_and_cut_power(path: Path) -> int:
    """
    Leave half a write behind, as a power cut does, and return the last write that was acknowledged.

    A kill seldom does that: it must hit the moment in which the system takes over the bytes.
    """
    with KeyValueStore(path, segment_size=SEGMENT_SIZE) as store:
        acknowledged = writes_in(store)
        store.put(batch(acknowledged + 1))  # nobody is told
    *_, last = wal.WALReader(path, registry=REGISTRY)
    with last.path.open("r+b") as segment:
        segment.truncate(last.offset + 10)
    return acknowledged


def complaint(acknowledged: int, store: KeyValueStore) -> str | None:
    """Say what is wrong with a recovered store if writes up to ``acknowledged`` must be in it."""
    writes = writes_in(store)
    if writes < acknowledged:
        return f"acknowledged writes lost: {acknowledged - writes}"
    if writes > acknowledged + 1:
        return f"writes that nobody made: {writes - acknowledged - 1}"
    if store.values != {key: value for number in range(writes) for key, value in batch(number + 1).items()}:
        return "a write is there in part, or with other values"
    return None


def main(kills: int = 5) -> int:
    """Crash and recover, again and again; return 0 if the store kept its word each time."""
    print("A store is written to until the crash, and opened again. Acknowledged writes must be there.\n")
    print("crash      acknowledged  recovered  segments  torn write          opened in")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "store")
        acknowledged = 0
        for crash in [*["SIGKILL"] * kills, "power cut"]:
            acknowledged = write_and_kill(path) if crash == "SIGKILL" else write_and_cut_power(path)
            started = time.perf_counter()
            with KeyValueStore(path, segment_size=SEGMENT_SIZE) as store:
                milliseconds = (time.perf_counter() - started) * 1000
            repaired, segments = store.log.repaired, len(list(path.glob("*.wal")))
            torn = f"{repaired.bytes_cut:,} bytes cut" if repaired else "none"
            print(
                f"{crash:9}  {acknowledged:12}  {writes_in(store):9}  {segments:8}  {torn:18}  {milliseconds:6.1f} ms"
            )
            if problem := complaint(acknowledged, store):
                print(f"\nFAILED: {problem}.")
                return 1
    print(f"\nAll {acknowledged} acknowledged writes of {KEYS_PER_WRITE} keys are there, and no write in part.")
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write_until_killed(Path(sys.argv[1]))
    sys.exit(main())
