"""A disk that needs no sync, for tests in which the power stays on."""

from __future__ import annotations

from wal._files import OperatingSystem


class Unsynced(OperatingSystem):
    """Does as the machine does, but what was written counts as durable: quick, and the same bytes."""

    def fsync(self, fd: int) -> None:
        pass

    def fdatasync(self, fd: int) -> None:
        pass


UNSYNCED = Unsynced()
