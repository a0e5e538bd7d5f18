"""A clock that stands still but for what a disk does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from logs import Disk
from wal import _encoder, _snapshotter, _wal


class TimedDisk(Disk):
    """
    A disk whose calls take as long as they are said to.

    Attributes:
        now: The time, in seconds.
        takes: How long a call of each name takes, in seconds; by default nothing.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **takes: float) -> None:
        super().__init__()
        self.now = 1000.0
        self.takes = takes
        for module in (_encoder, _snapshotter, _wal):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def _run(self, name: str, *args: Any) -> Any:
        self.now += self.takes.get(name, 0.0)
        return super()._run(name, *args)
