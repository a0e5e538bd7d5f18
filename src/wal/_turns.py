# SPDX-License-Identifier: Apache-2.0
"""
Turns: who comes while a group of saves is under way shares the next group.

A sync takes about as long for a hundred saves as for one. So a save is submitted to a queue first, and whoever has
the turn takes as much of the queue as fits, writes it by one call and makes it durable by one sync. There is no
thread for that: the turn is taken by a thread that waits for a save of its own. Nobody waits for others to come;
a save that finds nobody at work begins at once.

The turn is a plain lock, so it cannot be lost, however its owner ends. Those who have to wait sleep at a gate of
their own, not at the lock. When a group is done, one is woken who goes on with the next group, and one of those whose
saves are done; he wakes the next one of them before he leaves, and so on. Woken all at once, they would compete for
the interpreter with each other and with the one who has the turn.

Who has the turn may run code of others: an observer. If that asked for the turn it would wait for itself, so it is an
error there.

Whoever is woken may be interrupted by a signal just then, and wake nobody. So nobody sleeps for ever; who wakes up by
himself looks whether his save is done or the turn is free.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["PendingSave", "Turns"]

LONGEST_SLEEP_S = 1.0
"""After so long a sleeper looks by himself. It matters only if one who was to wake him was interrupted."""

_T = TypeVar("_T")


class PendingSave:
    """
    A save on its way to the disk; ``WAL.submit`` returns it.

    It is done together with the saves around it, by whichever thread waits for one of them, saves, syncs or closes
    the log. If nobody does, nothing happens.
    """

    __slots__ = ("_awake", "_gate", "_wait_for", "failure", "finished", "known", "records", "size")

    def __init__(self, wait_for: Callable[[PendingSave], None], records: list[tuple[int, bytes]], known: Any) -> None:
        self.records: list[tuple[int, bytes]] = records
        self.known: Any = known
        self.size: int = 0
        for _, data in records:
            self.size += len(data)
        self.finished: bool = not records
        self.failure: BaseException | None = None
        self._wait_for = wait_for
        self._gate: threading.Lock | None = None
        self._awake = True

    @property
    def done(self) -> bool:
        """Whether ``wait`` would return, or raise, at once."""
        return self.finished

    @property
    def slept_for(self) -> bool:
        """Whether a thread sleeps until it is finished, or did."""
        return self._gate is not None

    def wait(self) -> None:
        """
        Wait until the save is done. Any thread may call this, also several, and again.

        When this returns, the save is durable (with ``sync=False``: handed to the system). An interrupt ends the
        waiting, not the save: it takes effect in its turn, as later ones may build on it.

        Raises:
            WALFailedError: It failed; the log has stopped.
        """
        self._wait_for(self)

    def finish(self, failure: BaseException | None = None) -> None:
        """Note the outcome, for those who wait for it. They are woken by ``Turns.tell``."""
        self.failure = failure
        self.records = []
        self.finished = True

    def __repr__(self) -> str:
        return f"<PendingSave {'failed' if self.failure else 'done' if self.finished else 'pending'}>"


class Turns:
    """Lets one thread at a time work on the files of a log."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._asleep: deque[PendingSave] = deque()
        self._done: deque[PendingSave] = deque()
        self._in_code_of_others: int | None = None
        """The thread that has the turn, while it is there."""

    def take(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """
        Wait for the turn and do some work.

        Raises:
            RuntimeError: This thread has the turn, and is in the code of others.
        """
        self.check_that_it_can_come()
        return self._take(work, *arguments)

    def run_code_of_others(self, call: Callable[[], None]) -> None:
        """With the turn: make a call in which this thread must not ask for it."""
        self._in_code_of_others = threading.get_ident()
        try:
            call()
        finally:
            self._in_code_of_others = None

    def check_that_it_can_come(self) -> None:
        """Raise what ``take`` would raise."""
        if self._in_code_of_others == threading.get_ident() and self._turn.locked():
            raise RuntimeError("an observer, or a handler of logging, has called the log that it was told of")

    def _take(self, work: Callable[..., _T], *arguments: Any) -> _T:
        try:
            with self._turn:
                self._in_code_of_others = None  # an interrupt may have left it
                return work(*arguments)
        finally:
            if self._asleep:
                self._wake_next()

    def until_finished(self, save: PendingSave, work: Callable[[PendingSave], None]) -> None:
        """Wait until a save is finished, and do the work for it if nobody else is at work."""
        try:
            while not save.finished:
                if self._turn.locked():
                    self._sleep(save)
                else:
                    self._take(work, save)
        finally:
            if save._gate is not None:
                save._awake = True
                _open(save._gate)  # for another one who waits for the same save
                self._wake_one_done()

    def tell(self, saves: Iterable[PendingSave]) -> None:
        """Wake those who sleep until these saves are finished, which they are, one after the other."""
        self._done.extend([save for save in saves if save._gate is not None])
        self._wake_one_done()

    def _wake_one_done(self) -> None:
        while self._done:
            with suppress(IndexError):  # another thread was faster
                save = self._done.popleft()
                if not save._awake:  # else he has gone, and woken the next one if there was one then
                    assert save._gate is not None
                    _open(save._gate)
                    return

    def _sleep(self, save: PendingSave) -> None:
        self.check_that_it_can_come()
        gate = save._gate
        if gate is None:
            gate = threading.Lock()
            gate.acquire()
            save._gate = gate
        save._awake = False
        self._asleep.append(save)
        # Whoever has laid down the turn before we were in the line has not seen us; nor has a save's end.
        if self._turn.locked() and not save.finished:
            gate.acquire(timeout=LONGEST_SLEEP_S)

    def _wake_next(self) -> None:
        """Wake the first who sleeps and has something to do."""
        while self._asleep:
            with suppress(IndexError):  # another thread was faster
                save = self._asleep.popleft()
                if not save.finished:
                    assert save._gate is not None
                    _open(save._gate)
                    return


def _open(gate: threading.Lock) -> None:
    with suppress(RuntimeError):  # it is open
        gate.release()
