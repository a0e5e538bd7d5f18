"""
The calls of a real process to a real kernel, some of which are made to fail, to lie or to kill.

The process is a fork of this one, and strace is attached to it before it begins. Only calls about the given files
count, so that "the third ``fdatasync``" is the third of the log.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from logs import fork

Tell = Callable[..., None]
"""``tell(word, value)`` lets the parent know, at once, whatever happens to the child afterwards."""

# One name for what kernels and libraries of C call differently; a question mark lets strace not know it.
SYSCALLS = {
    "open": "?open,openat",
    "close": "close",
    "pread": "pread64",
    "pwrite": "pwrite64",
    "ftruncate": "ftruncate",
    "fallocate": "fallocate",
    "fdatasync": "fdatasync",
    "fsync": "fsync",
    "fcntl": "?fcntl64,fcntl",
    "flock": "flock",
    "rename": "?rename,?renameat,renameat2",
    "unlink": "?unlink,unlinkat",
    "mkdir": "?mkdir,mkdirat",
    "rmdir": "?rmdir",
    "list": "getdents64",
}
_NAMES = {name.strip("?"): ours for ours, names in SYSCALLS.items() for name in names.split(",")}
_LINE = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (.*)")


class Call(NamedTuple):
    """A call as strace saw it: what was asked, of what, and what came of it."""

    name: str
    arguments: str
    result: str

    @property
    def injected(self) -> bool:
        return "(INJECTED)" in self.result


@dataclass(frozen=True)
class Run:
    """
    What became of a process.

    Attributes:
        told: What it told, in order.
        calls: Its calls about the files, in order; the one at which it was killed has the result ``?``.
        killed: Whether it was killed.
    """

    told: list[tuple[str, Any]]
    calls: list[Call]
    killed: bool

    def of(self, word: str) -> list[Any]:
        """Return the values that it told with this word."""
        return [value for told, value in self.told if told == word]

    def after_the_fault(self) -> list[Call]:
        """Return the calls after the one that was tampered with; none at all if there was no such call."""
        place = next((place for place, call in enumerate(self.calls) if call.injected), len(self.calls))
        return self.calls[place + 1 :]


def traced(
    work: Callable[[Tell], None], files: Iterable[str], trace: Path, *, inject: str | None = None, call: str = ""
) -> Run:
    """
    Fork a process that does some work, under strace, and wait for its end.

    Args:
        work: What it does.
        files: The files and directories whose calls count.
        trace: Where strace writes to.
        inject: What strace does to ``call``, in its own words, such as ``error=EIO:when=3``.
        call: A key of ``SYSCALLS``.
    """
    go_reading, go_writing = os.pipe()
    told_reading, told_writing = os.pipe()
    child = fork()
    if child == 0:
        _work_and_exit(work, go_reading, told_writing)
    os.close(go_reading)
    os.close(told_writing)
    command = ["strace", "-f", "-p", str(child), "-y", "-s", "0", "-o", str(trace)]
    command += ["-e", f"trace={','.join(SYSCALLS.values())}"]
    command += [word for file in files for word in ("-P", file)]
    if inject is not None:
        command += ["-e", f"inject={SYSCALLS[call]}:{inject}"]
    with (
        os.fdopen(told_reading) as told,
        subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as strace,
    ):
        assert strace.stderr is not None
        first = strace.stderr.readline()
        if "attached" not in first:
            os.kill(child, signal.SIGKILL)
        os.write(go_writing, b"!")
        os.close(go_writing)
        lines = told.read().splitlines()
        strace.stderr.read()
    _, status = os.waitpid(child, 0)
    assert "attached" in first, first
    assert strace.returncode == 0
    return Run([tuple(json.loads(line)) for line in lines], _calls(trace), os.WIFSIGNALED(status))


def _work_and_exit(work: Callable[[Tell], None], go: int, told: int) -> None:
    def tell(word: str, value: Any = None) -> None:
        os.write(told, json.dumps([word, value]).encode() + b"\n")

    try:
        os.read(go, 1)
        work(tell)
    except BaseException as error:
        traceback.print_exc()
        tell("unexpected", repr(error))
    finally:
        os._exit(0)


def _calls(trace: Path) -> list[Call]:
    calls = []
    for line in trace.read_text().splitlines():
        match = _LINE.fullmatch(line)
        if match is not None:
            calls.append(Call(_NAMES[match[1]], match[2], match[3]))
    return calls


def _report_in(tell: Tell) -> None:
    tell("here")


@cache
def why_not() -> str:
    """Return why processes cannot be traced here; empty if they can."""
    if sys.platform != "linux":
        return "strace is for Linux"
    if shutil.which("strace") is None:
        return "strace is not installed"
    try:
        run = traced(_report_in, ["/dev/null"], Path("/dev/null"))
    except (AssertionError, OSError) as error:
        return f"strace cannot attach to a process: {error}"
    return "" if run.of("here") else "strace stopped the process that it was attached to"
