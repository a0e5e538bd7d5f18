"""
A file system that fails on demand, around the real one.

It sees the same calls as a disk would, keeps a trace of them, and can make the n-th call of a kind fail once or
for ever, fail after it did its work, or take only a part of a write.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from wal._files import OperatingSystem

CALLS = tuple(name for name in vars(OperatingSystem) if not name.startswith("_"))


@dataclass
class Fault:
    """
    The ``number``-th call of ``call`` raises ``error``, and so do all later ones if ``persistent``.

    Attributes:
        call: The name of the call, or several; ``any`` is each of them, ``create`` an ``open`` that makes a file.
        done: Whether the call does its work all the same, and raises behind it.
        taken: How many bytes a ``pwrite`` of so many bytes takes. It raises nothing then.
    """

    call: str | Collection[str]
    number: int
    error: BaseException
    persistent: bool = False
    done: bool = False
    taken: Callable[[int], int] | None = None

    def is_about(self, name: str, args: tuple[Any, ...]) -> bool:
        calls = {self.call} if isinstance(self.call, str) else self.call
        return name in calls or "any" in calls or ("create" in calls and name == "open" and args[1] & os.O_CREAT != 0)

    def fresh_error(self) -> BaseException:
        """Return the error; one that is raised many times is made anew, so that its tracebacks do not add up."""
        return type(self.error)(*self.error.args) if self.persistent else self.error


class FaultyFileSystem(OperatingSystem):
    """
    A ``FileSystem`` that does what it is told to.

    Attributes:
        trace: The name of each call so far, in order.
        faults: What is to fail.
        failed: Which of the calls failed because of that: their places in the trace.
        short_writes: The most bytes that one ``pwrite`` takes, or ``None``.
    """

    def __init__(self, *faults: Fault) -> None:
        self.trace: list[str] = []
        self.faults = list(faults)
        self.failed: list[int] = []
        self.short_writes: int | None = None
        self.open_descriptors: set[int] = set()

    def fail(
        self,
        call: str | Collection[str],
        *,
        number: int = 1,
        error: int | BaseException = 5,
        persistent: bool = False,
        done: bool = False,
        taken: Callable[[int], int] | None = None,
    ) -> None:
        """Make the ``number``-th call from now on fail, by default with EIO; see ``Fault``."""
        exception = OSError(error, os.strerror(error)) if isinstance(error, int) else error
        self.faults.append(Fault(call, number, exception, persistent, done, taken))

    def _run(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        self.trace.append(name)
        failure: BaseException | None = None
        for fault in list(self.faults):
            if failure is not None or not fault.is_about(name, args):
                continue
            fault.number -= 1
            if fault.number > 0:
                continue
            if not fault.persistent:
                self.faults.remove(fault)
            if fault.taken is not None:
                fd, data, offset = args
                args = (fd, bytes(data)[: fault.taken(len(data))], offset)
                if not args[1]:
                    self.failed.append(len(self.trace) - 1)  # a write that takes nothing has no other way to say so
                continue
            failure = fault.fresh_error()
            if not fault.done:
                self.failed.append(len(self.trace) - 1)
                raise failure
        if name == "pwrite" and self.short_writes is not None:
            fd, data, offset = args
            args = (fd, bytes(data)[: self.short_writes], offset)
        result = call(*args)  # if it fails by itself, that is what the caller is told
        if name == "open":
            if failure is not None:
                os.close(result)
                self.failed.append(len(self.trace) - 1)
                raise failure
            self.open_descriptors.add(result)
        elif name == "close":
            self.open_descriptors.discard(args[0])
        if failure is not None:
            self.failed.append(len(self.trace) - 1)
            raise failure
        return result


def _traced(name: str) -> Callable[..., Any]:
    real = getattr(OperatingSystem, name)

    def call(self: FaultyFileSystem, *args: Any) -> Any:
        return self._run(name, functools.partial(real, self), *args)

    return call


for _name in CALLS:
    setattr(FaultyFileSystem, _name, _traced(_name))
