"""Crashes: looking, before each change of a disk, at everything that a crash at this moment would leave."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from typing import Generic, Self, TypeVar

from wal.testing import Crash, SimulatedDisk

__all__ = ["KILL", "TOP", "SimulatedDisk", "Watch"]

TOP = SimulatedDisk.top
KILL = "a kill"

T = TypeVar("T")


class Watch(Generic[T]):
    """
    Looks, before each change of a disk, at what a crash at this moment would leave.

    Args:
        disk: The disk that is about to be used.
        check: Raises if none of the given values is what a crashed disk holds.
        limit: The number of complaints after which it stops looking.
        subsets: How many random parts of the unsynced changes to try at each moment.
        seed: Chooses them.

    Attributes:
        complaints: What ``check`` raised, and at which moment the crash was.
        crashes: How many different crashes there were.
        moments: How many changes there were.
    """

    def __init__(
        self,
        disk: SimulatedDisk,
        check: Callable[[SimulatedDisk, Sequence[T]], object],
        *,
        limit: int = 10,
        subsets: int = 2,
        seed: int = 0,
    ) -> None:
        self.disk = disk
        self.check = check
        self.limit = limit
        self.complaints: list[str] = []
        self.crashes = 0
        self.moments = 0
        self._random = random.Random(seed)
        self._subsets = subsets
        self._after_kill: Sequence[T] = ()
        self._after_power_cut: Sequence[T] = ()
        self._seen: set[Hashable] = set()

    def expect(self, after_kill: Sequence[T], after_power_cut: Sequence[T] | None = None) -> None:
        """Say what a disk may hold if it crashes from now on."""
        self._after_kill = after_kill
        self._after_power_cut = after_kill if after_power_cut is None else after_power_cut
        self._seen = set()

    def look(self, what: str) -> None:
        """Check every crash that may happen now."""
        self.moments += 1
        kill = Crash(KILL, self.disk.files())
        for crash in chain([kill], self.disk.crashes(self._random, subsets=self._subsets)):
            if len(self.complaints) >= self.limit:
                return
            self._try(crash, what)

    def _try(self, crash: Crash, what: str) -> None:
        name, files = crash
        key = (name == KILL, frozenset(files.items()))
        if key in self._seen:
            return
        self._seen.add(key)
        self.crashes += 1
        try:
            if name == KILL:
                self.check(self.disk.killed(), self._after_kill)
            else:
                self.check(SimulatedDisk(files), self._after_power_cut)
        except Exception as error:
            self.complaints.append(f"{name}, before change {self.moments} ({what}): {error!r}")

    def __enter__(self) -> Self:
        self.disk.before_change = self.look
        return self

    def __exit__(self, *_: object) -> None:
        self.disk.before_change = lambda _: None
