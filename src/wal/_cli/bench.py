# SPDX-License-Identifier: Apache-2.0
"""
``wal bench``: how long this disk takes to make a small write durable.

That is the time of a save, but for some microseconds. It is measured with the calls that a log makes: a write behind
the one before, and an ``fdatasync``. Into blocks that were never written, that takes one more transaction of the file
system than into blocks that have been written with zeros; a log writes zeros ahead for that reason.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from wal._files import OPERATING_SYSTEM

from .exits import Exit
from .histogram import bars, duration, quantile
from .options import AsJson
from .outcome import UsageError, ending
from .terminal import progress_bar, say, visible

__all__ = ["bench"]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
"""Those that are shown, besides the greatest value."""

RESERVE = 4_000_000
"""So many bytes of a file are made ready at once, while the clock stands still."""

TURN = 16
"""So many writes are made to one kind of blocks before it is the other's turn."""


@ending
def bench(
    path: Annotated[
        Path,
        typer.Argument(metavar="DIRECTORY", help="A directory on the disk that is to be measured.", show_default=False),
    ],
    writes: Annotated[
        int, typer.Option("--writes", min=1, max=1_000_000, help="How many writes to make into each kind of blocks.")
    ] = 1000,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=0.01, help="Stop after this time, whatever --writes says.", show_default=False),
    ] = None,
    size: Annotated[int, typer.Option("--bytes", min=1, max=1_000_000, help="How long each write is.")] = 512,
    as_json: AsJson = False,
) -> Exit:
    """
    Measure how long a disk takes to sync.

    That is how long a save takes, but for some microseconds. In a new directory inside of DIRECTORY it writes two
    files, one write behind the other, each followed by fdatasync: one into blocks that are reserved but were never
    written, one into blocks that have been filled with zeros, as a log does ahead of its saves. Only the fdatasync is
    timed. The files are removed at the end, also by Control-C.

    Nothing is quicker than the disk: if p50 is 2 ms, one thread saves 500 times a second. Threads that save at once
    share a sync.

    \b
    Examples:
      wal bench /var/lib/myapp
      wal bench . --seconds 10 --bytes 4096
      wal bench . --json | jq .zeroed.p99
    """
    if not path.is_dir():
        raise UsageError(f"{path} is not a directory")
    with _interrupted_by_sigterm(), tempfile.TemporaryDirectory(prefix="wal-bench-", dir=path) as directory:
        times = _measure(Path(directory), writes, seconds, size)
    if as_json:
        shown = {kind: _figures(kind_times) for kind, kind_times in times.items()}
        say(json.dumps({"path": str(path), "bytes": size, **shown}, indent=2))
        return Exit.FINE
    say(f"fdatasync behind writes of {size:,} bytes in {visible(str(path))}")
    for kind, kind_times in times.items():
        figures = _figures(kind_times)
        quantiles = "   ".join(f"{name} {duration(figures[name])}" for name in (*QUANTILES, "max"))
        say()
        say(f"{kind} blocks: {len(kind_times):,} writes   {quantiles}")
        for line in bars(kind_times):
            say(line)
    return Exit.FINE


def _measure(directory: Path, writes: int, seconds: float | None, size: int) -> dict[str, list[float]]:
    """Return the time of each sync, by the kind of blocks."""
    times: dict[str, list[float]] = {"fresh": [], "zeroed": []}
    with _Blocks(directory / "fresh", zeroed=False) as fresh, _Blocks(directory / "zeroed", zeroed=True) as zeroed:
        data = b"\xff" * size
        with progress_bar("syncing", unit="writes") as progress:
            begin = perf_counter()
            while (left := writes - len(times["zeroed"])) and (seconds is None or perf_counter() - begin < seconds):
                for kind, blocks in (("fresh", fresh), ("zeroed", zeroed)):
                    times[kind] += [blocks.write(data) for _ in range(min(TURN, left))]
                if progress is not None:
                    progress(len(times["zeroed"]), writes)
    return times


def _figures(times: list[float]) -> dict[str, Any]:
    ordered = sorted(times)
    quantiles = {name: quantile(ordered, part) for name, part in QUANTILES.items()}
    return {"writes": len(ordered), **quantiles, "max": ordered[-1], "mean": sum(ordered) / len(ordered)}


class _Blocks:
    """A file that is written from its beginning on."""

    def __init__(self, path: Path, *, zeroed: bool) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._zeroed = zeroed
        self._end = 0
        self._ready = 0

    def write(self, data: bytes) -> float:
        """Write behind what is written and sync; return how many seconds the sync took."""
        if self._end + len(data) > self._ready:
            self._prepare()
        os.pwrite(self._fd, data, self._end)
        self._end += len(data)
        begin = perf_counter()
        OPERATING_SYSTEM.fdatasync(self._fd)
        return perf_counter() - begin

    def _prepare(self) -> None:
        self._ready += RESERVE
        OPERATING_SYSTEM.allocate(self._fd, self._ready)
        if self._zeroed:
            os.pwrite(self._fd, bytes(self._ready - self._end), self._end)
        OPERATING_SYSTEM.fsync(self._fd)

    def __enter__(self) -> _Blocks:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this as Control-C does, so that the files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
