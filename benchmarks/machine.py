"""On what a run was made."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["Others", "describe_machine", "system"]


class Others:
    """How much of the processors others take, from when this is made: a measure of how far a run can be trusted."""

    def __init__(self) -> None:
        self._busy, self._all = _processor_times()
        self._own = _own_time()

    def share(self) -> float:
        """Return their share of all processor time, from 0 to 1. Our processes that still run are others, too."""
        busy, all = _processor_times()
        return max(0.0, busy - self._busy - (_own_time() - self._own)) / max(all - self._all, 0.01)


def _processor_times() -> tuple[float, float]:
    """Return how many seconds the processors were busy, and how many there were; Linux alone tells."""
    try:
        ticks = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0, 0
    _, _, _, idle, waiting, *_ = ticks
    hertz = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - idle - waiting) / hertz, sum(ticks) / hertz


def _own_time() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def system() -> str:
    """Name the kernel, without what its builder added."""
    return f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"


def describe_machine(directory: Path) -> dict[str, Any]:
    """Say what a reader must know to compare figures; ``directory`` is on the disk that was measured."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": system(),
        "file system": _file_system(directory),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _file_system(directory: Path) -> str:
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    above = [mount for mount in mounts if directory.resolve().is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2]


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        said = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return said.stdout.strip() or "unknown"
