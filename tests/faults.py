"""
A file system that fails on demand, around the real one.

It sees the same calls as a disk would, keeps a trace of them, and can make the n-th call of a kind fail once or
for ever, or take only a part of a write.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wal._files import OperatingSystem

CALLS = tuple(name for name in vars(OperatingSystem) if not name.startswith("_"))


@dataclass
class Fault:
    """The ``number``-th call of ``call`` raises ``error``, and so do all later ones if ``persistent``."""

    call: str
    number: int
    error: BaseException
    persistent: bool = False


class FaultyFileSystem(OperatingSystem):
    """
    A ``FileSystem`` that does what it is told to.

    Attributes:
        trace: The name of each call so far, in order.
        faults: What is to fail.
        short_writes: The most bytes that one ``pwrite`` takes, or ``None``.
    """

    def __init__(self, *faults: Fault) -> None:
        self.trace: list[str] = []
        self.faults = list(faults)
        self.short_writes: int | None = None
        self.open_descriptors: set[int] = set()

    def fail(self, call: str, *, number: int = 1, error: int | BaseException = 5, persistent: bool = False) -> None:
        """Make the ``number``-th call from now on fail, by default with EIO."""
        exception = OSError(error, os.strerror(error)) if isinstance(error, int) else error
        self.faults.append(Fault(call, number, exception, persistent))

    def _run(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        self.trace.append(name)
        for fault in list(self.faults):
            if fault.call not in (name, "any"):
                continue
            fault.number -= 1
            if fault.number <= 0:
                if not fault.persistent:
                    self.faults.remove(fault)
                raise fault.error
        if name == "pwrite" and self.short_writes is not None:
            fd, data, offset = args
            args = (fd, bytes(data)[: self.short_writes], offset)
        result = call(*args)
        if name == "open":
            self.open_descriptors.add(result)
        elif name == "close":
            self.open_descriptors.discard(args[0])
        return result


def _traced(name: str) -> Callable[..., Any]:
    real = getattr(OperatingSystem, name)

    def call(self: FaultyFileSystem, *args: Any) -> Any:
        return self._run(name, functools.partial(real, self), *args)

    return call


for _name in CALLS:
    setattr(FaultyFileSystem, _name, _traced(_name))
