"""``wal.aio``: thousands of tasks save in one log, in the order of their calls, and none harms another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import wal
import wal.aio
from faults import FaultyFileSystem
from logs import HANG, SMALL, HeldDisk, read
from unsynced import UNSYNCED
from wal import CommitState, Entry, SnapshotMarker
from wal._files import OperatingSystem
from wal.aio import AsyncWAL


def entry(index: int, size: int = 5) -> Entry:
    return Entry(index, bytes([index % 256]) * size)


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine function to its end, in an event loop that complains of what is forgotten."""
    return asyncio.run(asyncio.wait_for(main(), HANG), debug=True)


async def begun(fs: HeldDisk) -> None:
    """Return when the disk is in the middle of a sync."""
    assert await asyncio.to_thread(fs.begun.wait, HANG)


# ------------------------------------------------------------------------------------------------- saves in order


def test_a_thousand_tasks_share_a_sync(path: Path) -> None:
    """All that come during a sync are one write, which the next sync makes durable."""
    fs = HeldDisk()

    async def main() -> None:
        index = 0

        async def task() -> None:
            nonlocal index
            index += 1
            mine = index
            await log.save(CommitState(mine), [entry(mine)])
            assert log.last_index >= mine

        async with await AsyncWAL.create(path, b"node", fs=fs) as log:
            assert log.log.metadata == b"node"
            fs.writes.clear()
            tasks = [asyncio.create_task(task()) for _ in range(1000)]
            await begun(fs)
            assert log.last_index == 0
            fs.go_on.set()
            await asyncio.gather(*tasks)
            assert log.last_index == 1000

    run(main)
    assert len(fs.writes) <= 3  # with the stamp
    assert read(path).entries == [entry(index) for index in range(1, 1001)]


def test_saves_take_effect_in_the_order_of_their_calls(path: Path) -> None:
    """Not in that of the awaiting, nor of the tasks: the call counts."""

    async def main() -> None:
        async with await AsyncWAL.create(path, fs=UNSYNCED) as log:
            first = log.save_entry([entry(1)])
            second = asyncio.create_task(log.save(CommitState(1), [entry(2)]))
            third = log.save_state(CommitState(2))
            fourth = log.save_snap(SnapshotMarker(2))
            fifth = log.save_entry([entry(3)])
            for call in (fifth, third, second, first, fourth):
                await call

    run(main)
    values = [record.value for record in wal.WALReader(path)]
    assert values[2:] == [entry(1), entry(2), CommitState(1), CommitState(2), SnapshotMarker(2), entry(3)]


def test_the_event_loop_goes_on_while_the_disk_works(path: Path) -> None:
    """A sync that does not end does not stop other tasks."""

    async def main() -> None:
        fs = HeldDisk()
        async with await AsyncWAL.create(path, fs=fs) as log:
            save = asyncio.create_task(log.save(None, [entry(1)]))
            await begun(fs)
            for _ in range(100):
                await asyncio.sleep(0)
            assert not save.done()
            fs.go_on.set()
            await save

    run(main)


def test_threads_may_save_beside(path: Path) -> None:
    """The underlying log is an ordinary one."""

    async def main() -> None:
        async with await AsyncWAL.create(path) as log:
            for index in range(1, 50, 2):
                await log.save(None, [entry(index)])
                await asyncio.to_thread(log.log.save, None, [entry(index + 1)])

    run(main)
    assert len(read(path).entries) == 50


def test_bytes_on_their_way_are_limited(path: Path) -> None:
    """While the limit is reached, later saves wait in their order; none is submitted, and none is lost."""
    count, size, limit = 200, 100, 1000

    async def main() -> None:
        fs = HeldDisk()
        async with AsyncWAL(wal.WAL.create(path, fs=fs), max_pending_bytes=limit) as log:
            saves = [asyncio.create_task(log.save(None, [entry(index, size)])) for index in range(1, count + 1)]
            await begun(fs)
            assert log.log.last_index == 0
            assert log.log._promised.last_index <= limit // size
            fs.go_on.set()
            await asyncio.gather(*saves)
        assert max(fs.writes[1:]) < 2 * limit

    run(main)
    assert read(path).entries == [entry(index, size) for index in range(1, count + 1)]


@pytest.mark.parametrize("ending", ["sync", "close"])
def test_sync_and_close_come_after_all_that_has_begun(path: Path, ending: str) -> None:
    """Also after saves that wait for others before they are submitted."""

    async def main() -> None:
        log = AsyncWAL(wal.WAL.create(path, sync=False), max_pending_bytes=1)
        saves = [log.save(None, [entry(index)]) for index in range(1, 51)]
        await getattr(log, ending)()
        assert log.last_index == 50
        for save in saves:
            await save
        await log.close()
        await log.close()

    run(main)
    assert len(read(path).entries) == 50


# ----------------------------------------------------------------------------------------------- what goes wrong


def test_a_save_that_is_refused_harms_no_other(path: Path) -> None:
    """The error comes from awaiting it, also if it had to wait for its turn."""

    async def main(limit: int) -> None:
        async with AsyncWAL(wal.WAL.create(path / str(limit)), max_pending_bytes=limit) as log:
            good = asyncio.create_task(log.save(None, [entry(1)]))
            gap = log.save(None, [entry(3)])
            later = log.save(None, [entry(2)])
            with pytest.raises(wal.IndexOrderError):
                await gap
            with pytest.raises(wal.RecordTypeError):
                await log.save(None, ["no entry"])  # type: ignore[list-item]
            await later
            await good
            assert log.last_index == 2

    for limit in (1, 1000):
        asyncio.run(main(limit))


@pytest.mark.parametrize("limit", [1, 1000], ids=["before it is submitted", "when it is submitted"])
def test_a_cancelled_save_is_in_the_log_and_the_others_do_not_notice(path: Path, limit: int) -> None:
    """Later saves build on its index; so it is done in its turn."""

    async def main() -> None:
        fs = HeldDisk()
        async with AsyncWAL(wal.WAL.create(path, fs=fs), max_pending_bytes=limit) as log:
            saves = [asyncio.create_task(log.save(None, [entry(index)])) for index in range(1, 21)]
            await begun(fs)
            for save in saves[::3]:
                save.cancel()
            fs.go_on.set()
            outcomes = await asyncio.gather(*saves, return_exceptions=True)
            assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [
                number % 3 == 0 for number in range(20)
            ]

    run(main)
    assert read(path).entries == [entry(index) for index in range(1, 21)]


def test_a_cancelled_save_that_is_refused_later_harms_no_other(path: Path) -> None:
    """It waited to be submitted, is cancelled, and then turns out to be wrong: those behind it are done."""

    async def main() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        fs = HeldDisk()
        async with AsyncWAL(wal.WAL.create(path, fs=fs), max_pending_bytes=1) as log:
            first = asyncio.create_task(log.save(None, [entry(1)]))
            await begun(fs)
            gap = asyncio.create_task(log.save(None, [entry(7)]))
            last = asyncio.create_task(log.save(None, [entry(2)]))
            await asyncio.sleep(0)
            gap.cancel()
            fs.go_on.set()
            await first
            await last
            assert log.last_index == 2
        assert complaints == []

    run(main)


def test_all_fail_together(path: Path) -> None:
    """P5: after a failed sync no task is told of success, now or later, and each is told the cause."""

    async def main() -> None:
        fs = FaultyFileSystem()
        async with AsyncWAL(wal.WAL.create(path, fs=fs), max_pending_bytes=60) as log:
            await log.save(None, [entry(1)])
            fs.fail("fdatasync")
            saves = [log.save(None, [entry(index)]) for index in range(2, 40)]
            outcomes = await asyncio.gather(*saves, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {wal.WALFailedError}
            with pytest.raises(wal.WALFailedError):
                await log.save(None, [entry(2)])
            with pytest.raises(wal.WALFailedError):
                await log.sync()

    run(main)


def test_after_close_everything_is_refused(path: Path) -> None:
    """As with the underlying log; a second close does nothing, also at the same time."""

    async def main() -> None:
        log = await AsyncWAL.create(path)
        await asyncio.gather(log.close(), log.close())
        await log.close()
        for call in (log.save(None, [entry(1)]), log.sync(), log.release(SnapshotMarker())):
            with pytest.raises(wal.WALClosedError):
                await call

    run(main)


def test_a_cancelled_close_closes_all_the_same(path: Path) -> None:
    """The saves that had begun are done, and the lock is free."""

    async def main() -> None:
        fs = HeldDisk()
        log = AsyncWAL(wal.WAL.create(path, fs=fs))
        save = asyncio.create_task(log.save(None, [entry(1)]))
        await begun(fs)
        closing = asyncio.create_task(log.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        fs.go_on.set()
        await save
        await log.close()
        assert log.log.closed

    run(main)
    wal.read_wal(path).wal.close()


def test_it_belongs_to_one_event_loop(path: Path) -> None:
    """Another one is refused; but what is closed may be closed anywhere."""

    async def save(index: int) -> None:
        await log.save(None, [entry(index)])

    log = run(lambda: AsyncWAL.create(path))
    run(lambda: save(1))
    for call in (lambda: save(2), log.sync, log.close):
        with pytest.raises(RuntimeError, match="another event loop"):
            run(call)
    assert repr(log) == f"<AsyncWAL {str(path)!r}>"
    log.log.close()


def test_a_limit_must_be_positive(path: Path) -> None:
    """Nothing could be saved otherwise."""
    with wal.WAL.create(path) as log, pytest.raises(ValueError, match="max_pending_bytes"):
        AsyncWAL(log, max_pending_bytes=0)


# -------------------------------------------------------------------------------------------------------- opening


def test_read_wal_opens_reads_and_repairs(path: Path) -> None:
    """As ``wal.read_wal`` does, and the log goes on."""
    with wal.WAL.create(path, b"node", segment_size=SMALL) as log:
        log.save(CommitState(1), [entry(1)])
        log.save(CommitState(2), [entry(2)])

    async def main() -> None:
        log, metadata, state, entries = await wal.aio.read_wal(path, max_pending_bytes=100)
        async with log:
            assert (metadata, state, entries) == (b"node", CommitState(2), [entry(1), entry(2)])
            await log.save(CommitState(3), [entry(3)])
            await log.release(SnapshotMarker())
        with pytest.raises(wal.SnapshotNotFoundError):
            await wal.aio.read_wal(path, SnapshotMarker(2))

    run(main)
    assert read(path).state == CommitState(3)


class Slow(OperatingSystem):
    """A disk on which locking a directory waits until it is let go; it tells when the directory is free again."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.free = threading.Event()

    def lock_directory(self, fd: int) -> None:
        self.begun.set()
        assert self.go_on.wait(HANG)
        super().lock_directory(fd)

    def unlock_directory(self, fd: int) -> None:
        super().unlock_directory(fd)
        self.free.set()


@pytest.mark.parametrize("opening", ["create", "read_wal"])
def test_an_opening_that_is_cancelled_leaves_no_log_open(path: Path, opening: str) -> None:
    """The lock is free as soon as the work that had begun is done."""
    if opening == "read_wal":
        wal.WAL.create(path).close()

    async def main() -> None:
        fs = Slow()
        call = AsyncWAL.create if opening == "create" else wal.aio.read_wal
        task = asyncio.create_task(call(path, fs=fs))
        assert await asyncio.to_thread(fs.begun.wait, HANG)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        fs.go_on.set()
        assert await asyncio.to_thread(fs.free.wait, HANG)
        wal.read_wal(path).wal.close()

    run(main)
