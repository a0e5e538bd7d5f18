# SPDX-License-Identifier: Apache-2.0
"""
Notices: what has happened to a log, and is still to be told to those who listen.

Who listens is code of others: an observer, or the handlers and filters of ``logging``. It may fail, and take its time.
So what happens is only noted while the log is at work, and told when that is done and everybody who waited for it has
been told to go on. What a listener raises ends here, but for what is not an ``Exception``: that is an interrupt, and
goes on to whoever called the log, which is in order by then. A notice that was interrupted is not told again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ._events import log_listener_failed
from ._turns import PendingSave

__all__ = ["SLOW_SYNC_S", "Notices"]

SLOW_SYNC_S = 1.0
"""A sync that takes longer is logged; etcd warns from the same time on."""


class Notices:
    """
    What is to be told of the log, or of the snapshots, in a directory.

    Args:
        path: The directory.
        slow_sync_s: Syncs that take longer are to be told of; ``None``: none of them.

    Attributes:
        slow_sync_s: As above; infinite for ``None``.
        untold: The calls to make, in their order; and for each the save without which it would not be true.
    """

    __slots__ = ("_complained", "_path", "slow_sync_s", "untold")

    def __init__(self, path: Path, slow_sync_s: float | None = None) -> None:
        self._path = path
        self._complained: set[str] = set()
        self.slow_sync_s: float = math.inf if slow_sync_s is None else slow_sync_s
        self.untold: deque[tuple[Callable[..., object], tuple[Any, ...], PendingSave | None]] = deque()

    def note(self, listener: Callable[..., object], *arguments: Any, after: PendingSave | None = None) -> None:
        """Keep a call for ``tell``; it is not made if the save ``after`` which it is to be made has failed by then."""
        self.untold.append((listener, arguments, after))

    def tell(self) -> None:
        """Make the calls that were noted."""
        while self.untold:
            listener, arguments, after = self.untold.popleft()
            if after is None or (after.finished and after.failure is None):
                self.tell_now(listener, *arguments)

    def tell_now(self, listener: Callable[..., object], *arguments: Any) -> None:
        """Make a call, and log the first error that this listener raises."""
        try:
            listener(*arguments)
        except Exception as error:
            name = getattr(listener, "__qualname__", repr(listener))
            if name in self._complained:
                return
            self._complained.add(name)
            with suppress(Exception):  # it may be logging that has failed
                log_listener_failed(self._path, name, error)
