# SPDX-License-Identifier: Apache-2.0
"""Standard output and standard error: colour and progress on terminals alone, and nothing that could harm one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from time import perf_counter

from rich.color import ColorSystem
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.style import Style

__all__ = ["Bar", "Paint", "complain", "is_terminal", "progress_bar", "say", "visible"]


_SYSTEMS = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
    "windows": ColorSystem.WINDOWS,
}


class Paint:
    """Colours words, if the stream is a terminal and the user has nothing against it (``NO_COLOR``, ``TERM``)."""

    def __init__(self, *, stderr: bool = False) -> None:
        console = Console(stderr=stderr)
        self._system = None if console.no_color else _SYSTEMS.get(console.color_system or "")

    def __call__(self, text: str, style: str) -> str:
        if self._system is None:
            return text
        return Style.parse(style).render(text, color_system=self._system)


def say(line: str = "") -> None:
    """Write a line to standard output."""
    sys.stdout.write(line + "\n")


def complain(words: str) -> None:
    """Write to standard error what is wrong, behind what is on standard output so far."""
    with suppress(OSError):  # whose turn comes at the end
        sys.stdout.flush()
    sys.stderr.write(f"{Paint(stderr=True)('wal:', 'bold red')} {words}\n")
    sys.stderr.flush()


def is_terminal() -> bool:
    """Tell whether somebody looks at standard output."""
    return sys.stdout.isatty()


def visible(text: str) -> str:
    """Replace what a terminal would obey: a log may hold anything."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


PATIENCE_S = 0.5
"""What takes no longer needs no bar."""


class Bar:
    """A progress bar; call it with how much is done, and how much there is. It comes if the work takes its time."""

    def __init__(self, progress: Progress, doing: str) -> None:
        self._progress = progress
        self._task = progress.add_task(doing, total=None)
        self._begin = perf_counter()
        self._started = False

    def __call__(self, done: int, total: int) -> None:
        if not self._started and perf_counter() - self._begin > PATIENCE_S:
            self._started = True
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        """Take it away."""
        if self._started:
            self._progress.stop()
        self._begin = inf


@contextmanager
def progress_bar(doing: str, *, unit: str = "bytes", shown: bool = True) -> Iterator[Bar | None]:
    """Show how far long work is, on standard error and only if that is a terminal; give ``None`` if it is not."""
    console = Console(stderr=True)
    if not (shown and sys.stderr.isatty()):  # the console takes FORCE_COLOR for a terminal
        yield None
        return
    size = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn("{task.description}"), BarColumn(), *size, TimeRemainingColumn())
    bar = Bar(Progress(*columns, console=console, transient=True), doing)
    try:
        yield bar
    finally:
        bar.stop()
