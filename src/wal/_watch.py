# SPDX-License-Identifier: Apache-2.0
"""
Waiting until something changes in a directory, without asking again and again.

On Linux the kernel tells (inotify), within microseconds and at no cost while nothing happens. It does not tell what
another machine does on a shared disk, and elsewhere the standard library has nothing of the kind; so whoever waits
gives a time after which to look all the same.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

__all__ = ["Watch"]

_MODIFIED, _MOVED_TO, _CREATED, _DELETED = 0x2, 0x80, 0x100, 0x200
_INTERESTING = _MODIFIED | _MOVED_TO | _CREATED | _DELETED


class Watch:
    """
    Waits for changes in a directory, or for ``wake``. What changes from here on ends the next waiting.

    Attributes:
        told: Whether the system tells of changes.
    """

    def __init__(self, directory: Path) -> None:
        # Reentrant: a signal handler that wakes may interrupt what holds it.
        self._lock = threading.RLock()
        self._waking, self._woken = socket.socketpair()
        self._changes: int | None = None
        try:
            self._changes = _begin_inotify(directory)
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._woken, selectors.EVENT_READ)
            if self._changes is not None:
                self._selector.register(self._changes, selectors.EVENT_READ)
        except BaseException:
            self.close()
            raise
        self.told: bool = self._changes is not None

    def wait(self, timeout_s: float) -> bool:
        """
        Wait until something has changed since the last call, or ``wake`` is called, or so many seconds have passed.

        Returns:
            Whether it was before the time.
        """
        ready = self._selector.select(timeout_s)
        if self._changes is not None:
            with suppress(BlockingIOError):
                while os.read(self._changes, 1 << 16):
                    pass
        return bool(ready)

    def wake(self) -> None:
        """End the waiting, now and from now on. Any thread may call this, also late, and a signal handler."""
        with self._lock, suppress(OSError):
            self._waking.send(b"!")

    def fileno(self) -> int:
        """Return a descriptor that can be read when ``wait`` would return at once."""
        return self._selector.fileno()

    def close(self) -> None:
        """Give everything back to the system. A second call does nothing."""
        with self._lock:
            selector = self.__dict__.pop("_selector", None)
            if selector is not None:
                selector.close()
            self._waking.close()
            self._woken.close()
            changes, self._changes = self._changes, None
            if changes is not None:
                os.close(changes)

    def __del__(self) -> None:
        if hasattr(self, "_changes"):
            self.close()


def _begin_inotify(directory: Path) -> int | None:
    """Return a descriptor that can be read when something changes in a directory; ``None`` where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        libc = ctypes.CDLL(None)
        begin, add = libc.inotify_init1, libc.inotify_add_watch
    except (ImportError, OSError, AttributeError):
        return None
    add.argtypes = ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32
    fd: int = begin(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return None  # this user has as many as are allowed
    if add(fd, os.fsencode(directory), _INTERESTING) < 0:
        os.close(fd)
        return None
    return fd
