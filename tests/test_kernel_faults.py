"""A real kernel that refuses, lies or kills at the n-th call: tried with strace, at every n."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import wal
from logs import logged
from scenes import SCENES, STEPS, Save, Scene, Snap, Step, Sync, as_read, held_after, save
from syscalls import Run, Tell, traced, why_not

pytestmark = [pytest.mark.torture, pytest.mark.skipif(bool(why_not()), reason=f"needs strace: {why_not()}")]

Effort = Callable[..., int]

WRITES = {"pwrite", "ftruncate", "fallocate", "fdatasync", "fsync", "rename"}
"""The calls that a stopped log must not make."""

NOTHING = "nothing was raised"


# ------------------------------------------------------------------------------------------------------- what is done


def kind_of(error: Exception) -> str:
    """Name an error of the contract; any other is an end of the process that the parent looks for."""
    if not isinstance(error, wal.WALError | OSError):
        raise error
    return type(error).__name__


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return kind_of(error)
    return NOTHING


def work(scene: Scene, path: Path) -> Callable[[Tell], None]:
    """
    Do the steps. Where one is refused without stopping the log, it is done again, and must not be refused twice.

    A log that has stopped is tried some more, then closed.
    """

    def run(tell: Tell) -> None:
        before = len(os.listdir("/proc/self/fd"))
        try:
            target = scene.open(path)
        except Exception as error:
            tell("not opened", kind_of(error))
            tell("descriptors", len(os.listdir("/proc/self/fd")) - before)
            return
        tell("opened")
        for number, step in enumerate(STEPS, 1):
            try:
                step.do(target)
            except wal.WALFailedError:
                tell("stopped", number)
                tell("afterwards", [outcome(lambda step=later: step.do(target)) for later in later_steps(number)])  # type: ignore[misc]
                break
            except (OSError, wal.WALError) as error:
                tell("refused", kind_of(error))
                step.do(target)
            tell("done", number)
        with logged() as messages:
            tell("closed", outcome(target.close))
        for message in messages:
            tell("logged", message)
        tell("closed again", outcome(target.close))
        tell("descriptors", len(os.listdir("/proc/self/fd")) - before)

    return run


def later_steps(number: int) -> Sequence[Step]:
    return [save(len(STEPS[:number]) + 1, 5), Save(99, ()), Snap(11), Sync(), STEPS[number - 1]]


# --------------------------------------------------------------------------------------------------- how it is played


@dataclass(frozen=True)
class Clean:
    """A scene without a fault: which files its calls are about, and how many there are of each kind."""

    files: tuple[str, ...]
    calls: Counter[str]


class Stage:
    """Plays scenes, each time in the same new directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "played"
        self._clean: dict[str, Clean] = {}

    def clean(self, name: str) -> Clean:
        """Return what a scene does if nothing goes wrong."""
        if name not in self._clean:
            names = re.compile(rf'"({re.escape(str(self.path))}[^"]*)"')
            arguments = "".join(call.arguments for call in self._play(SCENES[name], ()).calls)
            files = tuple(dict.fromkeys(names.findall(arguments)))
            run = self._play(SCENES[name], files)
            assert run.told[0] == ("opened", None)
            assert run.told[-3:] == [("closed", NOTHING), ("closed again", NOTHING), ("descriptors", 0)]
            assert run.of("done") == list(range(1, len(STEPS) + 1))
            assert SCENES[name].reopened(self.path) == as_read(SCENES[name], held_after(len(STEPS)))
            self._clean[name] = Clean(files, Counter(call.name for call in run.calls))
        return self._clean[name]

    def cases(
        self, call: str, fault: str, effort: Effort, *, names: Iterable[str] = ()
    ) -> Iterator[tuple[str, str, Run]]:
        """Play scenes with one fault each; yield what it was in words, the scene's name, and the run."""
        able = [name for name in names or SCENES if self.clean(name).calls[call]]
        few = effort(quick=1, full=len(able), deep=len(able))
        start = len(call + fault)  # so that not all faults are tried on the same scene if only one is
        for name in [able[(start + number) % len(able)] for number in range(few)]:
            count = self.clean(name).calls[call]
            for number in places(count, effort(quick=1, full=4, deep=10**6)):
                run = self._play(SCENES[name], self.clean(name).files, call, f"{fault}:when={number}")
                told = [f"{word} {value}" for word, value in run.told if word != "done"]
                case = f"{name}: {call} number {number} of {count} with {fault}: {', '.join(told)}"
                assert run.killed or [other.name for other in run.calls if other.injected] == [call], case
                print(case)  # noqa: T201 - shown if the test fails
                yield case, name, run

    def _play(self, scene: Scene, files: tuple[str, ...], call: str = "", inject: str | None = None) -> Run:
        shutil.rmtree(self.path, ignore_errors=True)
        scene.prepare(self.path)
        return traced(work(scene, self.path), files, self.root / "trace", call=call, inject=inject)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("stage"))


def places(count: int, most: int) -> list[int]:
    """Return at most so many of the numbers from 1 to ``count``, evenly spread; if it is one, one in the middle."""
    if most == 1:
        return [(count + 1) // 2]
    most = min(most, count)
    return [1 + number * (count - 1) // max(most - 1, 1) for number in range(most)]


def check_what_is_left(name: str, stage: Stage, run: Run, *, unfinished: int = 1) -> None:
    """P1, P2: all that was acknowledged is there, the step that was not finished as a whole or not at all."""
    done = max(run.of("done"), default=0)
    possible = [as_read(SCENES[name], held_after(steps)) for steps in range(done, done + unfinished + 1)]
    assert SCENES[name].reopened(stage.path) in possible


def check_that_it_stopped(run: Run) -> None:
    """P5: after the fault every call that writes raised the same, and none of them reached the kernel."""
    assert set(run.of("afterwards")[0]) == {"WALFailedError"}
    assert run.of("closed") == [NOTHING]
    later = [call for call in run.after_the_fault() if call.name in WRITES]
    assert later == [], "R23: a log that has stopped must not try a sync again"


def check_that_nothing_is_held(run: Run, fault: str) -> None:
    """R55: no descriptor is left, but for one that the kernel was made not to close."""
    assert run.of("unexpected") == []
    assert run.of("closed again") in ([NOTHING], [])
    assert run.of("descriptors")[0] <= (fault == "close")


# --------------------------------------------------------------------------------------------------------- refusals

ERRORS = [
    ("fdatasync", "EIO"),
    ("fdatasync", "ENOSPC"),
    ("fsync", "EIO"),
    ("pwrite", "EIO"),
    ("pwrite", "ENOSPC"),
    ("ftruncate", "EIO"),
    ("fallocate", "ENOSPC"),
    ("rename", "EIO"),
    ("rename", "ENOSPC"),
    ("unlink", "EACCES"),
    ("fcntl", "ENOLCK"),
    ("fcntl", "EIO"),
    ("flock", "ENOLCK"),
    ("close", "EIO"),
    ("open", "EMFILE"),
    ("pread", "EIO"),
    ("list", "EIO"),
    ("mkdir", "ENOSPC"),
]
MUST_BE_HEARD_OF = {"fdatasync", "fsync", "pwrite", "ftruncate", "fallocate", "rename", "fcntl", "flock", "mkdir"}
"""A refusal of these is never passed over. (Others may be part of cleaning up, or of a listing by the interpreter.)"""


@pytest.mark.parametrize(("call", "error"), ERRORS, ids=[f"{call} {error}" for call, error in ERRORS])
def test_what_the_kernel_refuses_stops_the_log_and_costs_nothing(
    stage: Stage, effort: Effort, call: str, error: str
) -> None:
    """P1, P2, P5, P16, F1, R22, R23, R55: the n-th call is refused, once, wherever it stands in any scene."""
    for case, name, run in stage.cases(call, f"error={error}", effort):
        check_that_nothing_is_held(run, call)
        if call in MUST_BE_HEARD_OF:
            heard = [run.of(word) for word in ("stopped", "refused", "not opened", "logged")]
            assert any(heard) or run.of("closed") != [NOTHING], case
        if run.of("stopped"):
            check_that_it_stopped(run)
        check_what_is_left(name, stage, run)


PASSED_OVER = [
    ("fallocate", "EOPNOTSUPP"),
    ("fallocate", "ENOSYS"),
    ("fallocate", "EINVAL"),
    ("fallocate", "ENODEV"),
    ("fallocate", "EINTR"),
    ("fdatasync", "EINTR"),
    ("fsync", "EINTR"),
    ("pwrite", "EINTR"),
    ("pread", "EINTR"),
    ("ftruncate", "EINTR"),
    ("fcntl", "EINTR"),
    ("flock", "EINTR"),
]


@pytest.mark.parametrize(("call", "error"), PASSED_OVER, ids=[f"{call} {error}" for call, error in PASSED_OVER])
def test_what_is_no_failure_is_not_taken_for_one(stage: Stage, effort: Effort, call: str, error: str) -> None:
    """R26: a file system without preallocation, or a signal at the wrong moment, is nobody's trouble."""
    for case, name, run in stage.cases(call, f"error={error}", effort):
        check_that_nothing_is_held(run, call)
        assert run.of("done") == list(range(1, len(STEPS) + 1)), case
        assert not run.of("refused"), case
        assert run.of("closed") == [NOTHING], case
        check_what_is_left(name, stage, run, unfinished=0)


# ------------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize(
    "call", ["open", "pwrite", "fdatasync", "fsync", "ftruncate", "fallocate", "rename", "unlink", "fcntl", "close"]
)
def test_a_kill_at_any_call_costs_nothing_that_was_acknowledged(stage: Stage, effort: Effort, call: str) -> None:
    """P1, P2, P10, P11, P18, R30, R35: the process is killed when it is about to make the n-th call."""
    for case, name, run in stage.cases(call, "signal=KILL", effort):
        assert run.killed, case
        check_what_is_left(name, stage, run)


# -------------------------------------------------------------------------------------------------------------- lies


@pytest.mark.parametrize("call", ["fdatasync", "fsync", "ftruncate", "fallocate", "fcntl", "flock", "close", "unlink"])
def test_a_call_that_only_seems_to_be_made_changes_no_data(stage: Stage, effort: Effort, call: str) -> None:
    """P9: as long as the power is on, a sync, a lock or a length that is not what it seems leaves every record."""
    for case, name, run in stage.cases(call, "retval=0", effort):
        assert run.of("unexpected") == [], case
        if run.of("not opened"):  # a torn write that only seems to be cut is still there
            assert (name, call, run.of("not opened")) == ("torn log", "ftruncate", ["TornWriteError"]), case
        else:
            assert run.of("done") == list(range(1, len(STEPS) + 1)), case
        check_what_is_left(name, stage, run, unfinished=0)


@pytest.mark.parametrize("taken", [0, 1, 7, 8, 24, 100, 511, 10**6])
def test_a_write_that_only_seems_to_be_made_is_found(stage: Stage, effort: Effort, taken: int) -> None:
    """
    P9: the system says that it took bytes, and did not. Wherever a save follows, reading is an error.

    Where none follows, nothing tells the lie from a save that was never finished.
    """
    for case, name, run in stage.cases(
        "pwrite", f"retval={taken}", effort, names=["log", "log without sync", "new log"]
    ):
        assert run.of("unexpected") == [], case
        if taken == 0:
            assert run.of("stopped") or run.of("not opened") or run.of("logged"), case
            check_what_is_left(name, stage, run)
            continue
        assert run.of("done") == list(range(1, len(STEPS) + 1)), case
        try:
            found = SCENES[name].reopened(stage.path)
        except wal.CorruptionError as error:
            assert not isinstance(error, wal.TornWriteError), case
            continue
        followed = range(len(STEPS) + 1) if name == "log without sync" else [len(STEPS) - 1, len(STEPS)]
        assert found in [held_after(steps) for steps in followed], case


def test_a_rename_that_only_seems_to_be_made_gives_no_wrong_data(stage: Stage, effort: Effort) -> None:
    """P9: a segment that is not there is missed, as soon as there is a later one."""
    for case, name, run in stage.cases("rename", "retval=0", effort, names=["log", "log without sync", "new log"]):
        assert run.of("unexpected") == [], case
        done = max(run.of("done"))
        last_rename = not any(call.name == "rename" for call in run.after_the_fault())
        try:
            found = SCENES[name].reopened(stage.path)
        except (wal.SegmentGapError, wal.SnapshotNotFoundError):
            assert not last_rename, case
            continue
        assert last_rename, case
        assert found in [held_after(steps) for steps in range(done)], case
