# SPDX-License-Identifier: Apache-2.0
"""Standard output and standard error: colour and progress on terminals alone, and nothing that could harm one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

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


class Paint:
    """Colours words, if the stream is a terminal and the user has nothing against it (``NO_COLOR``, ``TERM``)."""

    def __init__(self, *, stderr: bool = False) -> None:
        name = Console(stderr=stderr).color_system
        self._system = None if name is None else ColorSystem[name.upper()] if name != "256" else ColorSystem.EIGHT_BIT

    def __call__(self, text: str, style: str) -> str:
        if self._system is None:
            return text
        return Style.parse(style).render(text, color_system=self._system)


def say(line: str = "") -> None:
    """Write a line to standard output."""
    sys.stdout.write(line + "\n")


def complain(words: str) -> None:
    """Write to standard error what is wrong, behind what is on standard output so far."""
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


class Bar:
    """A progress bar; call it with how much is done, and how much there is."""

    def __init__(self, progress: Progress, doing: str) -> None:
        self._progress = progress
        self._task = progress.add_task(doing, total=None)

    def __call__(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        """Take it away, before something is asked."""
        self._progress.stop()


@contextmanager
def progress_bar(doing: str, *, unit: str = "bytes", shown: bool = True) -> Iterator[Bar | None]:
    """Show how far long work is, on standard error and only if that is a terminal; give ``None`` if it is not."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield None
        return
    size = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn("{task.description}"), BarColumn(), *size, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, doing)
