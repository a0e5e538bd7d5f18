"""Locks as other programs take them."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="open file description locks are Linux's")


def go_lock(fd: int) -> None:
    """Take the lock that programs in Go take: exclusive, on the whole file, for this open file description."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


def old_lock(fd: int) -> None:
    """Take the lock that belongs to a process and a file."""
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def directory_lock(fd: int) -> None:
    """Take the lock of an open directory."""
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_of_another(path: Path, lock: Callable[[int], None]) -> bool:
    """Tell whether a program that opens this file or directory anew is granted the lock."""
    fd = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        lock(fd)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
