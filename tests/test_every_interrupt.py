"""
A signal arrives anywhere, and its handler raises; or there is no memory left.

Whatever a handler raises, the storage is afterwards what it was or what it should become, or it has stopped and says
so; it can be closed right away; and what is on disk is read back like after any other failure.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import gc
import importlib
import os
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import wal
from lives import METADATA, RETENTION, Account, Beginning, beginnings
from logs import INTERRUPTED_FILES, SMALL, comes_to_its_end, in_child
from unsynced import UNSYNCED
from wal import CommitState, FileStorage, SnapshotData

pytestmark = pytest.mark.torture


class Arrival:
    """
    Lets a signal arrive at the n-th line, or instruction, that is run in this package; 0: never.

    The handler raises where the interpreter looks for signals next: where a Python function begins, behind a call into
    C, where a loop goes back.

    Attributes:
        places: The lines or instructions that were run before the signal came.
        arrived_in: The function in which it came.
        handled_in: The function that was interrupted, if the handler ran.
    """

    def __init__(self, number: int, error: Callable[[], BaseException], *, instructions: bool = False) -> None:
        self.number = number
        self.error = error
        self.places: list[tuple[str, int, int]] = []
        self.arrived_in = ""
        self.handled_in = ""
        self._event = "opcode" if instructions else "line"
        # A subscription is the one call into C behind which the interpreter does not look for signals: the handler
        # runs in the traced code, not here.
        self._signal: dict[str, object] = defaultdict(functools.partial(_thread.interrupt_main, signal.SIGUSR1))

    def __enter__(self) -> Arrival:
        self._handler, self._tracer = signal.signal(signal.SIGUSR1, self._handle), sys.gettrace()
        gc.disable()  # what is raised while garbage is collected goes nowhere
        sys._getframe().f_trace_opcodes = True  # CPython 3.12 looks for one such frame when tracing begins
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._tracer)
        gc.enable()
        signal.signal(signal.SIGUSR1, self._handler)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(INTERRUPTED_FILES):
            return None
        frame.f_trace_opcodes = self._event == "opcode"
        if event == self._event:
            self.places.append((code.co_filename, frame.f_lineno, frame.f_lasti))
            if len(self.places) == self.number:
                sys.settrace(None)
                self.arrived_in = code.co_qualname
                self._signal["now"]
        return self._trace

    def _handle(self, _: int, frame: FrameType | None) -> None:
        assert frame is not None
        self.handled_in = frame.f_code.co_qualname
        if frame.f_code is not Arrival.__exit__.__code__:  # by then the call has returned, and the exit must be whole
            raise self.error()

    @property
    def different(self) -> list[int]:
        """The numbers at which a place was reached for the first time: what a loop repeats is left out."""
        first: dict[tuple[str, int, int], int] = {}
        for number, place in enumerate(self.places, 1):
            first.setdefault(place, number)
        return list(first.values())


@pytest.fixture(autouse=True, scope="module")
def _coverage_goes_on() -> Iterator[None]:
    """Coverage does not find its way back behind a trace function that was taken away in the middle of a call."""
    yield
    measuring = sys.modules.get("coverage")
    current = measuring.Coverage.current() if measuring else None
    if current is not None:
        current.stop()
        current.start()


class Interrupted:
    """A storage, and what it was promised, around a call that a signal interrupts."""

    def __init__(self, path: Path, account: Account) -> None:
        self.path = path
        self.account = account
        self.sync = True
        self.observer: wal.Observer | None = None

    def open(self) -> None:
        self.storage: FileStorage
        self.storage, _ = wal.open_storage(
            self.path,
            METADATA,
            segment_size=SMALL,
            retention=RETENTION,
            sync=self.sync,
            slow_sync_s=None if self.observer is None else 0,
            observer=self.observer,
            fs=UNSYNCED,
        )

    def save(self, *sizes: int) -> None:
        entries = self.account.new_entries(*sizes)
        contents = self.account.contents
        self.account.unfinished = replace(
            contents, entries=(*contents.entries, *entries), state=CommitState(entries[-1].index)
        )
        self.storage.save(self.account.unfinished.state, entries)
        self.account.settle()

    def save_snap(self) -> None:
        contents = self.account.contents
        snapshot = SnapshotData(contents.state.committed, b"machine" * 99)
        self.account.unfinished = replace(contents, snapshots=(*contents.snapshots, snapshot))
        with contextlib.suppress(wal.SnapshotOutOfDateError):  # it was saved, and only the return was interrupted
            self.storage.save_snap(snapshot)
        self.account.settle()

    def release(self) -> None:
        snapshots = self.account.contents.snapshots
        self.account.kept = snapshots[-2].index
        self.storage.release(snapshots[-1])

    def settle(self) -> None:
        """Ask the storage whether the interrupted save is done; a snapshot is saved again."""
        after, self.account.unfinished = self.account.unfinished, None
        if after is not None and after.snapshots != self.account.contents.snapshots:
            self.save_snap()
        elif after is not None and self.storage.last_index == after.last_index:
            assert self.storage.state == after.state
            self.account.contents = after
        else:
            assert self.storage.last_index == self.account.contents.last_index
            assert self.storage.state == self.account.contents.state

    def goes_on(self) -> bool:
        """Save once more; return whether the storage still does. If not, every call says so."""
        unfinished = self.account.unfinished
        try:
            self.storage.save(None, None)
        except wal.WALFailedError:
            for call in (self.storage.sync, lambda: self.storage.save_state(CommitState(999)), self.release):
                with pytest.raises(wal.WALFailedError):
                    call()
            assert self.account.unfinished is unfinished
            return False
        self.settle()
        self.save(8)
        return True


@dataclass(frozen=True)
class Call:
    """What is interrupted, and what comes before it."""

    before: Callable[[Interrupted], object]
    call: Callable[[Interrupted], object]
    lines: int
    """How many different lines it has at least."""


def _without_sync(storage: Interrupted) -> None:
    storage.storage.close()
    storage.sync = False
    storage.open()
    storage.save(10)


def _with_an_observer(storage: Interrupted) -> None:
    """And all syncs are slow, so that there is much to be told."""
    storage.storage.close()
    storage.observer = wal.Observer()
    storage.open()
    storage.save(SMALL)


def _three_snapshots(storage: Interrupted) -> None:
    for _ in range(3):
        storage.save(SMALL)
        storage.save_snap()


CALLS = {
    "save": Call(lambda _: None, lambda storage: storage.save(30, 40, 50), 60),
    "save over a cut": Call(lambda storage: storage.save(SMALL), lambda storage: storage.save(30, 40), 110),
    "save with an observer": Call(_with_an_observer, lambda storage: storage.save(30, 40), 140),
    "sync": Call(_without_sync, lambda storage: storage.storage.sync(), 15),
    "save_snap": Call(lambda storage: storage.save(SMALL, 5), lambda storage: storage.save_snap(), 150),
    "release": Call(
        _three_snapshots,
        lambda storage: storage.release(),
        100,
    ),
    "close": Call(_without_sync, lambda storage: storage.storage.close(), 40),
}


OPENING = {"OperatingSystem.open", "File.__init__", "File.__enter__"}
CLOSING = {"File.__exit__", "File.close", "OperatingSystem.close"}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Beginning:
    """A storage with some segments and snapshots."""
    return dict(beginnings(tmp_path_factory.mktemp("lives")))["without_marks"]


def open_descriptors() -> set[int]:
    found = set()
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.add(int(name))
    return found


@pytest.mark.parametrize("instructions", [False, True], ids=["line", "instruction"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
@pytest.mark.parametrize("name", CALLS)
def test_a_signal_at_any(
    memory: Path,
    grown: Beginning,
    name: str,
    error: type[BaseException],
    instructions: bool,
    effort: Callable[..., int],
) -> None:
    """
    D2, P2, P5, F25, R55: after an interrupt the storage goes on and knows what it did, or has stopped; it closes, also
    at a second try; it leaves nothing open, and on disk is what it says. ``TimeoutError`` is what handlers of alarms
    raise; it is an ``OSError``, as a failing disk raises.

    Three moments cannot be mended in Python, and cost a descriptor, but neither a lock nor data: the system has opened
    a file, and the handler raises before something that is closed refers to it; a ``with`` block has ended, and the
    handler raises before the file's exit has begun; the number has been taken out of the object that holds it, and the
    handler raises before the file is closed. (The other way round, the number could be closed twice, and would by then
    be another thread's file. A ``__del__`` would mend the first two, and swallow interrupts that come while it runs.)
    """
    interrupted, case = Interrupted(memory / "storage", grown.account.copy()), CALLS[name]
    grown.put(interrupted.path)
    interrupted.open()
    case.before(interrupted)
    with Arrival(0, error, instructions=instructions) as rehearsal:
        case.call(interrupted)
    interrupted.storage.close()
    assert len(rehearsal.different) > case.lines * (6 if instructions else 1)
    every = effort(quick=31 if instructions else 1 if error is KeyboardInterrupt else 3, full=1, deep=1)
    went_on = stopped = 0
    for number in rehearsal.different[::every]:
        shutil.rmtree(memory / "storage")
        before = open_descriptors()
        interrupted = Interrupted(memory / "storage", grown.account.copy())
        grown.put(interrupted.path)
        interrupted.open()
        case.before(interrupted)
        try:
            with Arrival(number, error, instructions=instructions) as arrival:
                case.call(interrupted)
        except (error, wal.WALFailedError) as raised:
            # Here the traceback is alive, as it is when a ``with`` block is left: what it refers to is not freed.
            where = f"{arrival.places[-1]}, in {arrival.handled_in}"
            assert isinstance(raised, error) or isinstance(raised.__cause__, error), where
            if name != "close":
                if interrupted.goes_on():
                    went_on += 1
                else:
                    stopped += 1
            assert comes_to_its_end(interrupted.storage.close), f"close() hangs after an interrupt at {where}"
        else:
            where = "the end"
            interrupted.storage.close()
        left = open_descriptors() - before
        if left:
            assert {arrival.arrived_in, arrival.handled_in} & (OPENING | CLOSING), where
            assert len(left) == 1
            os.close(left.pop())
        try:
            interrupted.account.check(interrupted.path)
        except BaseException as failure:
            failure.add_note(f"after an interrupt at {where}")
            raise
    if name not in ("close", "release") and every == 1:
        assert went_on
        assert stopped


# ------------------------------------------------------------------------------------------------------------ no memory


def _save_without_memory(path: Path, number: int, failing: int) -> str:
    """Save while so many allocations from the ``number``-th on fail; return what the storage says of it."""
    signal.alarm(10)
    testcapi: Any = importlib.import_module("_testcapi")
    storage, _ = wal.open_storage(path, METADATA, segment_size=SMALL, retention=RETENTION, fs=UNSYNCED)
    last = storage.last_index
    entries, state = [wal.Entry(last + 1, b"x" * 600), wal.Entry(last + 2, b"y" * 600)], CommitState(last + 2)
    save = storage.save
    outcome = "saved"
    try:
        testcapi.set_nomemory(number, number + failing)
        try:
            save(state, entries)
        finally:
            testcapi.remove_mem_hooks()
    except MemoryError:
        outcome = "refused"
    try:
        storage.save(None, None)
    except wal.WALFailedError:
        outcome = "stopped"
    else:
        assert storage.last_index == (last + 2 if outcome == "saved" else last)
    storage.close()
    return outcome


@pytest.mark.parametrize("failing", [1, 30], ids=["one", "thirty in a row"])
def test_memory_may_be_short_at_any_allocation(
    memory: Path, grown: Beginning, failing: int, effort: Callable[..., int]
) -> None:
    """
    D2, P2, P5: in a child, because the interpreter itself may not survive it; what is on disk must. (Memory that
    never comes back is not tried: CPython 3.11 then looks for its exception handler for ever.)
    """
    numbers = effort(quick=0, full=0, deep=600)
    if not numbers:
        pytest.skip("one process for each allocation takes minutes; run with --effort deep")
    pytest.importorskip("_testcapi", reason="this Python comes without _testcapi, which makes allocations fail")
    outcomes = []
    for number in range(numbers):
        path = memory / str(number)
        account = grown.put(path)
        last = account.contents.last_index
        account.unfinished = replace(
            account.contents,
            entries=(*account.contents.entries, wal.Entry(last + 1, b"x" * 600), wal.Entry(last + 2, b"y" * 600)),
            state=CommitState(last + 2),
        )
        outcome = in_child(lambda path=path, number=number: _save_without_memory(path, number, failing))  # type: ignore[misc]
        assert outcome in ("'saved'", "'refused'", "'stopped'", ""), f"allocation {number}: {outcome}"
        if outcome == "'saved'":
            account.settle()
        elif outcome == "'refused'":
            account.unfinished = None
        account.check(path)
        shutil.rmtree(path)
        outcomes.append(outcome)
    assert {"'saved'", "'refused'", "'stopped'"} <= set(outcomes)
    assert outcomes.count("") < numbers // 10, "the interpreter survives nearly always"
