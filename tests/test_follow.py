"""Followers: every record of every whole save, once, in its order, as it comes; and nothing else."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import wal
import wal._follow
import wal._watch
import wal.aio
from damage import flip_bit, overwrite, truncate
from logs import HANG, SMALL, Child, segments
from unsynced import UNSYNCED
from wal import CommitState, Entry, LogRecord, RecordType, SnapshotMarker, WALReader
from wal._live import LiveDecoder
from wal._watch import Watch

IMPATIENT = 0.01


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of a second without a change is long."""
    monkeypatch.setattr(wal._follow, "LOOK_ANYWAY_S", IMPATIENT)


@pytest.fixture(params=[True, False], ids=["told of changes", "by polling"])
def _told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's help, and as where it has none to give."""
    if not request.param:
        monkeypatch.setattr(wal._watch, "_begin_inotify", lambda directory: None)


def new(path: Path, **options: Any) -> wal.WAL:
    return wal.WAL.create(path, b"node", segment_size=SMALL, fs=UNSYNCED, **options)


def entry(index: int, size: int = 20) -> Entry:
    return Entry(index, bytes([index % 256]) * size)


def values(records: list[LogRecord]) -> list[object]:
    return [record.value for record in records]


class Following:
    """A thread that follows a log into a list."""

    def __init__(self, path: Path, index: int | None = None) -> None:
        self.records: list[LogRecord] = []
        self.error: BaseException | None = None
        self.follower = WALReader(path).follow(index)
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for record in self.follower:
                with self._came:
                    self.records.append(record)
                    self._came.notify()
        except BaseException as error:
            self.error = error
        with self._came:
            self._came.notify()

    def until(self, reached: Callable[[list[LogRecord]], bool]) -> list[LogRecord]:
        """Wait until the records so far are as wanted."""
        with self._came:
            assert self._came.wait_for(lambda: reached(self.records) or self.error is not None, HANG)
        if self.error is not None:
            raise self.error
        return self.records

    def until_entry(self, index: int) -> list[LogRecord]:
        """Wait until an entry has come."""
        return self.until(lambda records: bool(records) and getattr(records[-1].value, "index", None) == index)

    def stop(self) -> list[LogRecord]:
        self.follower.stop()
        self._thread.join(HANG)
        assert not self._thread.is_alive()
        self.follower.close()
        return self.records

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# ------------------------------------------------------------------------------------------------------- what comes


@pytest.mark.usefixtures("_told")
def test_records_come_as_they_are_saved(path: Path) -> None:
    """Those that are there, and each one that is saved later, in the order of writing, across cuts."""
    with new(path) as log:
        log.save(CommitState(1), [entry(1), entry(2)])
        with Following(path) as following:
            following.until(lambda records: len(records) == 5)
            for index in range(3, 400):
                log.save(None, [entry(index)])
                if index % 50 == 0:
                    log.save_snap(SnapshotMarker(index))
            following.until_entry(399)
            found = following.stop()
    assert len(segments(path)) > 3
    assert found == list(WALReader(path))


def test_a_save_comes_as_a_whole(path: Path) -> None:
    """However much of a save is on disk, none of it comes before all of it is there."""
    with new(path) as log:
        log.save(None, [entry(1)])
        (segment,) = segments(path)
        before = segment.read_bytes()
        log.save(CommitState(2), [entry(2), entry(3)])
        after = segment.read_bytes()
        end = len(after.rstrip(b"\0"))
        begin = next(at for at in range(len(before)) if before[at] != after[at])
        segment.write_bytes(before)
        with WALReader(path).follow() as follower:
            follower._look()
            for size in range(begin, end, 7):
                segment.write_bytes(after[:size] + bytes(len(after) - size))
                assert follower._look() == []
            segment.write_bytes(after)
            assert values(follower._look()) == [entry(2), entry(3), CommitState(2)]


@pytest.mark.parametrize("index", [1, 2, 30, 99, 100, 101])
def test_it_starts_at_any_retained_entry(path: Path, index: int) -> None:
    """Without a snapshot there; also at the next one that is to come."""
    with new(path) as log:
        for number in range(1, 101):
            log.save(CommitState(number), [entry(number)])
        with WALReader(path).follow(index) as follower:
            log.save(CommitState(101), [entry(101)])
            found = [record for record in islice(follower, 2 * (102 - index)) if record.type is RecordType.ENTRY]
    assert values(found)[:1] == [entry(index)]
    assert values(found) == [entry(number) for number in range(index, index + len(found))]


def test_a_state_behind_the_last_entry_comes_before_the_next_entry(path: Path) -> None:
    """Who goes on behind entry 1 is told at once that it is committed, and not what was committed before."""
    with new(path) as log:
        log.save(CommitState(0), [entry(1)])
        with WALReader(path).follow(2) as follower:
            log.save_state(CommitState(1))
            assert next(follower).value == CommitState(1)


def test_what_is_purged_cannot_be_followed(path: Path) -> None:
    """The entry is not there any more, which is not damage."""
    with new(path) as log:
        for index in range(1, 101):
            log.save(CommitState(index), [entry(index)])
        log.save_snap(SnapshotMarker(100))
        with WALReader(path).follow(1) as late, WALReader(path).follow(100) as follower:
            log.release(SnapshotMarker(100))
            assert wal.purge(path, SnapshotMarker(100), fs=UNSYNCED)
            with pytest.raises(wal.CompactedError) as caught:
                list(islice(late, 1000))
            assert caught.value.index <= 100
            with pytest.raises(wal.CompactedError):
                list(late)  # and not less the second time
            with pytest.raises(wal.CompactedError):
                WALReader(path, SnapshotMarker(100)).follow(1)
            assert next(record.value for record in follower if record.type is RecordType.ENTRY) == entry(100)


def test_it_goes_on_across_restarts_of_the_writer(path: Path) -> None:
    """Closed, reopened, or killed in the middle of a save that is cut off: it yields what readers see, each once."""
    new(path).close()
    with Following(path) as following:
        for index in range(1, 40, 2):
            with wal.read_wal(path, segment_size=SMALL, fs=UNSYNCED).wal as log:
                log.save(CommitState(index), [entry(index)])
                torn = segments(path)[-1]
                at = log._saved_up_to[1]
            overwrite(torn, at, bytes.fromhex("1f000000000000d8"))  # half a save, as a killed writer leaves it
            with wal.read_wal(path, segment_size=SMALL, fs=UNSYNCED).wal as log:
                assert log.repaired
                log.save(None, [entry(index + 1)])
        following.until_entry(40)
        found = following.stop()
    assert found == list(WALReader(path))


def test_it_goes_on_while_writers_are_killed(path: Path) -> None:
    """With real kills: what was followed is what is read in the end, but for a last save that nobody waited for."""
    new(path).close()
    times = random.Random(3)

    def write() -> None:
        log = wal.read_wal(path, segment_size=SMALL, fs=UNSYNCED).wal
        while True:
            log.save(CommitState(log.last_index), [entry(log.last_index + 1), entry(log.last_index + 2)])

    with Following(path) as following:
        for _ in range(8):
            begun = len(following.records)
            with Child(write):
                following.until(lambda records, begun=begun: len(records) > begun + times.randrange(60))  # type: ignore[misc]
        with wal.read_wal(path, segment_size=SMALL, fs=UNSYNCED).wal as log:
            log.save(None, [entry(log.last_index + 1)])
            last = log.last_index
        following.until_entry(last)
        found = following.stop()
    assert found == list(WALReader(path))


# ----------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.usefixtures("_impatient", "_told")
def test_damage_is_told_when_nothing_comes(path: Path) -> None:
    """A first look may be too early; damage that stays is raised, with its place, and again at each further step."""
    with new(path) as log:
        for index in range(1, 10):
            log.save(CommitState(index), [entry(index)])
        records = list(WALReader(path))
    place = records[-4]
    flip_bit(place.path, 8 * (place.offset + 30))
    with WALReader(path).follow() as follower:
        assert list(islice(follower, len(records) - 4)) == records[:-4]
        with pytest.raises(wal.CorruptionError) as caught:
            next(follower)
        assert (caught.value.path, caught.value.offset) == (place.path, place.offset)
        with pytest.raises(wal.CorruptionError):
            next(follower)


def test_looking_for_damage_takes_one_part_in_a_hundred(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may read all the rest of a segment, so a writer that pauses often does not make a follower busy."""
    now, looking, check = 0.0, 0.0, LiveDecoder.check
    saved = 0

    def wait(watch: Watch, timeout_s: float) -> bool:
        """A second passes; every third one brings an entry."""
        nonlocal now, saved
        now += 1
        if now % 3 < 1:
            saved += 1
            log.save(None, [entry(saved)])
        if now > 1000:
            follower.stop()
        return True

    def slow_check(live: LiveDecoder) -> None:
        nonlocal now, looking
        now, looking = now + 0.5, looking + 0.5
        check(live)

    clock = SimpleNamespace(monotonic=lambda: now, sleep=lambda seconds: None)
    monkeypatch.setattr(wal._follow, "time", clock)
    monkeypatch.setattr(Watch, "wait", wait)
    monkeypatch.setattr(LiveDecoder, "check", slow_check)
    with new(path) as log, WALReader(path).follow() as follower:
        assert len([record for record in follower if record.type is RecordType.ENTRY]) >= saved - 1

    assert saved > 300
    assert 0.004 * now < looking < 0.011 * now


def test_a_segment_that_has_a_successor_must_end_well(path: Path) -> None:
    """What it lacks now, it will always lack."""
    with new(path) as log:
        for index in range(1, 100):
            log.save(None, [entry(index)])
    first, *_ = segments(path)
    truncate(first, first.stat().st_size - 8)
    with WALReader(path).follow() as follower, pytest.raises(wal.CorruptionError) as caught:
        list(follower)
    assert caught.value.path == first


def test_a_log_that_is_cut_behind_what_was_followed_is_corrupt(path: Path) -> None:
    """Nobody may take back what a follower has seen, but by force."""
    with new(path) as log:
        log.save(None, [entry(1)])
    with WALReader(path).follow() as follower:
        *_, last = islice(follower, 3)
        truncate(last.path, last.offset)
        with pytest.raises(wal.CorruptionError):
            next(follower)


@pytest.mark.usefixtures("_impatient")
def test_a_log_that_is_gone_is_not_found(path: Path) -> None:
    """The directory was removed: there is nothing to wait for."""
    new(path).close()
    with WALReader(path).follow() as follower:
        list(islice(follower, 2))
        shutil.rmtree(path)
        with pytest.raises(wal.WALNotFoundError):
            next(follower)


# ----------------------------------------------------------------------------------------------------------- its end


@pytest.mark.usefixtures("_told")
def test_it_stops_when_asked(path: Path) -> None:
    """From another thread, while it waits; before it has begun; and in the middle of what is there."""
    with new(path) as log:
        log.save(None, [entry(1), entry(2)])
        with Following(path) as following:
            following.until_entry(2)
            assert len(following.stop()) == 4
        follower = WALReader(path).follow()
        next(follower)
        follower.stop()
        assert list(follower) == []
        follower.close()
        follower.close()
        follower.stop()
        assert list(follower) == []


def test_a_signal_handler_may_stop_it(path: Path) -> None:
    """As ``Ctrl-C`` does in a program that ends in order."""
    new(path).close()
    with WALReader(path).follow() as follower:
        before = signal.signal(signal.SIGUSR1, lambda *_: follower.stop())
        try:
            list(islice(follower, 2))
            main = threading.main_thread().ident
            assert main is not None
            threading.Timer(0, signal.pthread_kill, (main, signal.SIGUSR1)).start()
            assert list(follower) == []
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_an_interrupt_loses_nothing_unnoticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted while it reads, it does not go on as if nothing had been."""
    with new(path) as log:
        log.save(None, [entry(1)])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with WALReader(path).follow() as follower:
        with monkeypatch.context() as patch:
            patch.setattr(wal._replay.Replay, "_other", interrupted)
            with pytest.raises(KeyboardInterrupt):
                next(follower)
        with pytest.raises(InterruptedError):
            next(follower)


def test_nothing_is_left_open(path: Path) -> None:
    """Not by one that is closed, nor by one that is dropped."""
    new(path).close()
    before = sorted(Path("/dev/fd").iterdir())
    with WALReader(path).follow() as follower:
        next(follower)
    next(WALReader(path).follow())
    assert sorted(Path("/dev/fd").iterdir()) == before


def test_an_idle_one_sleeps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system tells of changes, nothing is done between them."""
    watch = Watch(path.parent)
    told = watch.told
    watch.close()
    if not told:
        pytest.skip("this system does not tell of changes")
    monkeypatch.setattr(wal._follow, "LOOK_ANYWAY_S", HANG)
    looks = []
    look = wal.Follower._look

    def counted(follower: wal.Follower) -> list[LogRecord]:
        looks.append(follower)
        return look(follower)

    monkeypatch.setattr(wal.Follower, "_look", counted)
    with new(path) as log, Following(path) as following:
        following.until(lambda records: len(records) == 2)
        for index in range(1, 11):
            log.save(None, [entry(index)])
            following.until_entry(index)
    assert len(looks) <= 40


# ------------------------------------------------------------------------------------------------------------ asyncio


def run(main: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), HANG))


@pytest.mark.usefixtures("_told")
def test_tasks_follow_what_tasks_save(path: Path) -> None:
    """The asynchronous form yields the same, also across cuts, and several may follow at once."""

    async def main() -> None:
        async with await wal.aio.AsyncWAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:

            async def follow() -> list[LogRecord]:
                found = []
                async with wal.aio.follow(WALReader(path)) as records:
                    async for record in records:
                        found.append(record)
                        if record.value == entry(200):
                            break
                return found

            following = [asyncio.create_task(follow()) for _ in range(3)]
            for index in range(1, 201):
                await log.save(None, [entry(index)])
            for task in following:
                assert await task == list(WALReader(path))

    run(main)


def test_a_step_that_is_cancelled_loses_no_record(path: Path) -> None:
    """Steps are given up again and again; in the end every record has come, once."""

    async def main() -> None:
        async with await wal.aio.AsyncWAL.create(path, fs=UNSYNCED) as log, wal.aio.follow(WALReader(path)) as records:
            found: list[LogRecord] = []
            for index in range(1, 51):
                await log.save(None, [entry(index)])
                step = asyncio.ensure_future(anext(records))
                for _ in range(index % 4):
                    await asyncio.sleep(0)
                step.cancel()
                (outcome,) = await asyncio.gather(step, return_exceptions=True)
                if isinstance(outcome, LogRecord):
                    found.append(outcome)
            while len(found) < 52:
                found.append(await anext(records))
            assert found == list(WALReader(path))

    run(main)


def test_a_task_that_waits_is_stopped(path: Path) -> None:
    """By another task, or by being cancelled; no thread waits for it."""

    async def main() -> None:
        new(path).close()
        async with wal.aio.follow(WALReader(path)) as records:

            async def follow() -> int:
                return len([record async for record in records])

            task = asyncio.create_task(follow())
            await asyncio.sleep(0)
            records.stop()
            assert await task <= 2
            await records.close()
            assert [record async for record in records] == []

    run(main)


def test_what_is_wrong_reaches_the_task(path: Path) -> None:
    """As it does with the form for threads."""

    async def main() -> None:
        new(path).close()
        async with wal.aio.follow(WALReader(path), 0) as records:
            with pytest.raises(ValueError, match="at least 1"):
                await anext(records)

    run(main)
