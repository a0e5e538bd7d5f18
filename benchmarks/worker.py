"""
The process in which one subject lives: ``python benchmarks/worker.py SUBJECT``.

It reads tasks as JSON, one a line, and answers each with one line, so that rounds of several subjects can take turns,
and a subject can live in another Python environment. A task is named by ``task``; its other keys are the arguments.
An answer has what was measured, or ``missing`` with the reason why it cannot be, or ``error``. ``etcdwal.go`` speaks
the same language.

    describe  version; for this library also python, crc_backend and compiled
    save      saves one after the other                 p50, p99, most: seconds per save; per_second: entries
    threads   saves of one entry by threads at once     the same
    tasks     saves of one entry by asyncio tasks       the same
    write     a log to be read, without syncs           entries
    read_all  open, and have all entries at once        seconds, entries; grown: by how much the peak of memory rose
    stream    open, and see one after the other         the same
    open      open for appending, everything checked    the same
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from store import MissingError, Store

Answer = dict[str, Any]

BACKENDS = ("crc32c", "google-crc32c", "crcmod")
UNZEROED = "no zeros ahead"
"""Variants of this library."""

WARM_UP = 10
MOST_FRAME_BYTES = 64
"""More than a frame has beside its payload."""

MOST_BYTES_AT_ONCE = 64_000_000

Span = tuple[int, int]
"""When a save began and ended."""

clock = time.perf_counter_ns


class Window:
    """
    The time in which saves by many at once count: so many seconds, after half as many in which all get going.

    A save counts if it ends in the window, however long ago it began.
    """

    def __init__(self, seconds: float) -> None:
        self.begin = clock() + round(seconds * 0.5e9)
        self.end = self.begin + round(seconds * 1e9)

    def summary(self, spans: list[Span]) -> Answer:
        times = [end - begin for begin, end in spans if self.begin <= end < self.end]
        if not times:
            raise MissingError("no save was done within the time")
        return summary(times, self.end - self.begin, len(times))


def payloads(bytes: int) -> list[bytes]:
    """Return the data of entries: a few blocks of noise, used in turn."""
    noise = random.Random(1)
    return [noise.randbytes(bytes) for _ in range(64)]


def save(store: type[Store], path: Path, *, entries: int, bytes: int, saves: int, sync: bool) -> Answer:
    blocks = payloads(bytes)
    batches = [
        store.batch(1 + i * entries, [blocks[(i * entries + j) % len(blocks)] for j in range(entries)])
        for i in range(WARM_UP + saves)
    ]
    gc.freeze()  # what is not the store's is not its garbage collector's work
    most_bytes = len(batches) * (entries + 1) * (bytes + MOST_FRAME_BYTES)
    with closing(store(path, sync=sync, most_bytes=most_bytes)) as log:
        for batch in batches[:WARM_UP]:
            log.save(batch)
        times = []
        begun = clock()
        for batch in batches[WARM_UP:]:
            started = clock()
            log.save(batch)
            times.append(clock() - started)
        total = clock() - begun
    return summary(times, total, entries * saves)


def threads(store: type[Store], path: Path, *, bytes: int, savers: int, seconds: float) -> Answer:
    payload = payloads(bytes)[:1]
    turn, start = threading.Lock(), threading.Event()
    index, window = 0, Window(0)

    def saver() -> list[Span]:
        nonlocal index
        spans = []
        start.wait()
        while (started := clock()) < window.end:
            # Indexes must follow each other, so they are given out where the order is made.
            with turn:
                index += 1
                wait = log.submit(log.batch(index, payload))
            wait()
            spans.append((started, clock()))
        return spans

    with closing(store(path, sync=True, most_bytes=MOST_BYTES_AT_ONCE)) as log, ThreadPoolExecutor(savers) as pool:
        running = [pool.submit(saver) for _ in range(savers)]
        window = Window(seconds)
        start.set()
        spans = [span for each in running for span in each.result()]
    return window.summary(spans)


def tasks(store: type[Store], path: Path, *, bytes: int, savers: int, seconds: float) -> Answer:
    payload = payloads(bytes)[:1]
    index = 0
    spans: list[Span] = []

    async def saver(save: Callable[[Any], Any], window: Window) -> None:
        nonlocal index
        while (started := clock()) < window.end:
            index += 1
            await save(log.batch(index, payload))
            spans.append((started, clock()))

    async def all_savers() -> Window:
        async with log.for_tasks() as save:
            window = Window(seconds)
            await asyncio.gather(*(saver(save, window) for _ in range(savers)))
        return window

    with closing(store(path, sync=True, most_bytes=MOST_BYTES_AT_ONCE)) as log:
        window = asyncio.run(all_savers())
    return window.summary(spans)


def write(store: type[Store], path: Path, *, entries: int, bytes: int) -> Answer:
    blocks = payloads(bytes)
    with closing(store(path, sync=False, most_bytes=2 * entries * (bytes + MOST_FRAME_BYTES))) as log:
        for first in range(1, entries + 1, 1000):
            some = range(first, min(first + 1000, entries + 1))
            log.save(log.batch(first, [blocks[index % len(blocks)] for index in some]))
    return {"entries": entries}


def read(how: Callable[[Path], Any], path: Path) -> Answer:
    before = memory("VmRSS")
    begun = clock()
    found = how(path)
    seconds = (clock() - begun) / 1e9
    grown = memory("VmHWM") - before
    if isinstance(found, tuple):
        found, close = found
        close()
    return {"seconds": seconds, "entries": found if isinstance(found, int) else len(found), "grown": grown}


def by_index(store: type[Store], path: Path, *, entries: int, reads: int) -> Answer:
    numbers = random.Random(1)
    with store.by_index(path) as entry:
        times = []
        begun = clock()
        for index in numbers.choices(range(1, entries + 1), k=reads):
            started = clock()
            found = entry(index)
            times.append(clock() - started)
            assert found is not None
        total = clock() - begun
    return summary(times, total, reads)


def follow(store: type[Store], path: Path, *, bytes: int, saves: int) -> Answer:
    """Measure how long after a save returned a follower in another thread has its entry."""
    payload = payloads(bytes)[:1]
    done, seen = [], []
    with closing(store(path, sync=True, most_bytes=MOST_BYTES_AT_ONCE)) as log, store.follow(path) as entries:

        def watch() -> None:
            for _ in range(saves):
                next(entries)
                seen.append(clock())

        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(watch)
            for index in range(1, saves + 1):
                log.save(log.batch(index, payload))
                done.append(clock())
                time.sleep(0.002)  # a writer that is not always busy, or the follower would only wait for the processor
            watching.result()
    return summary([max(after - before, 0) for before, after in zip(done, seen, strict=True)], 1, 0)


def idle(store: type[Store], path: Path, *, bytes: int, seconds: float) -> Answer:
    """Measure how many seconds of the processor a follower takes in each second in which nothing is written."""
    with closing(store(path, sync=True, most_bytes=MOST_BYTES_AT_ONCE)) as log, store.follow(path) as entries:
        log.save(log.batch(1, payloads(bytes)[:1]))
        next(entries)
        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(next, entries)
            before = time.process_time()
            time.sleep(seconds)
            taken = time.process_time() - before
            log.save(log.batch(2, payloads(bytes)[:1]))
            watching.result()
    return {"seconds": taken / seconds, "entries": 0}


def summary(times: list[int], nanoseconds: int, entries: int) -> Answer:
    """Return the percentiles by nearest rank."""
    times.sort()
    return {
        "p50": times[(len(times) * 50 + 99) // 100 - 1] / 1e9,
        "p99": times[(len(times) * 99 + 99) // 100 - 1] / 1e9,
        "most": times[-1] / 1e9,
        "per_second": entries * 1e9 / nanoseconds,
    }


def memory(name: str) -> int:
    """Return what Linux says of this process, in bytes; 0 elsewhere."""
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


TASKS: dict[str, Callable[..., Answer]] = {
    "describe": lambda store: store.describe(),
    "save": save,
    "threads": threads,
    "tasks": tasks,
    "write": write,
    "by_index": by_index,
    "follow": follow,
    "idle": idle,
    "read_all": lambda store, path: read(store.read_all, path),
    "stream": lambda store, path: read(store.stream, path),
    "open": lambda store, path: read(store.open, path),
}


def find_store(subject: str) -> type[Store]:
    """Import the store of that name: a peer, a floor, ``wal``, or a variant of that."""
    family, _, kind = subject.partition("/")
    if family == "wal":
        if kind in BACKENDS:
            for backend in BACKENDS[: BACKENDS.index(kind)]:  # the library takes the first that can be imported
                sys.modules[backend.replace("-", "_")] = None  # type: ignore[assignment]  # so this one cannot
        import ours

        return ours.OursUnzeroed if kind == UNZEROED else ours.Ours
    if family == "floor":
        import floor

        return {"fresh": floor.FreshFloor, "zeroed": floor.ZeroedFloor}[kind]
    from peers import PEERS

    return PEERS[subject]


def answer(store: type[Store], *, task: str, path: str | None = None, **arguments: Any) -> Answer:
    try:
        return TASKS[task](store, *([] if path is None else [Path(path)]), **arguments)
    except (MissingError, ImportError) as error:
        return {"missing": str(error)}
    except Exception:
        return {"error": traceback.format_exc()}
    finally:
        gc.unfreeze()
        gc.collect()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a store prints is no answer
    store = find_store(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(answer(store, **json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
