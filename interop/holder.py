# SPDX-License-Identifier: Apache-2.0
"""A process of this library that holds a log and saves to it until it is killed; it counts what it has saved."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import wal
from wal.etcd import Entry, HardState

from .exchange import REGISTRY

__all__ = ["Holder", "numbered", "saves_on"]


def numbered(index: int) -> Entry:
    """Return the entry with this index, the same whoever writes it."""
    return Entry(term=1, index=index, data=b"entry %d " % index * (1 + index % 150))


def saves_on(log: wal.WAL, first: int) -> None:
    """Save entries from ``first`` on for ever, two at a time, and say the number of each that is saved."""
    for index in count(first, 2):
        log.save(HardState(term=1, vote=1, commit=index), [numbered(index), numbered(index + 1)])
        sys.stdout.write(f"{index + 1}\n")
        sys.stdout.flush()


class Holder:
    """That process, at work. It is killed at the latest at the end of the ``with`` block."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "interop.holder", str(directory)]
        self.last = 0
        """The last entry that it has saved, and said so."""
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)

    def acknowledged(self) -> int:
        """Wait for the next entry that is saved."""
        assert self._process.stdout
        self.last = int(self._process.stdout.readline())
        return self.last

    def kill(self) -> int:
        """Kill it at once; return the last entry that it had saved, and said so."""
        assert self._process.stdout
        self._process.kill()
        whole_lines = self._process.stdout.read().split(b"\n")[:-1]
        self._process.wait()
        self._process.stdout.close()
        if whole_lines:
            self.last = int(whole_lines[-1])
        return self.last

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.kill()


def main(directory: str) -> None:
    opened = wal.read_wal(directory, registry=REGISTRY, segment_size=4096)
    with opened.wal as log:
        saves_on(log, log.last_index + 1)


if __name__ == "__main__":
    main(sys.argv[1])
