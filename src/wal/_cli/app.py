# SPDX-License-Identifier: Apache-2.0
"""The program: its commands, and the options in front of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from wal import __compiled__, crc_backend

from .archive import archive
from .bench import bench
from .dump import dump
from .exits import Exit
from .follow import follow
from .repair import repair
from .restore import restore
from .stat import stat
from .terminal import say
from .verify import verify

__all__ = ["app", "main"]

app = typer.Typer(
    name="wal",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (dump, verify, stat, follow, repair, archive, restore, bench):
    app.command()(_command)


def _say_version(wanted: bool) -> None:
    if wanted:
        compiled = "compiled" if __compiled__ else "pure Python"
        say(f"wal {version('wal')} ({compiled}, checksums by {crc_backend()})")
        raise typer.Exit


@app.callback()
def _wal(
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """
    Look into write-ahead logs, check them, repair them, and archive them.

    All commands but repair, restore and bench take no lock and change nothing in a log's directory. They work on a
    read-only disk, and beside a writer that is at work.

    \b
    Exit codes:
      0    it was done, and the log is in order as far as it was read
      1    the log is torn or damaged
      2    the command was wrong
      3    there is no log, another writer or archiver has it, or the system or the store refused
      4    dump --keep-going went past damage
      5    the extra wal[cli], or wal[archive], is not installed
      70   a bug of this program
      130  Control-C
      141  whoever read the output has gone, as in: wal dump log | head
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    if sys.stderr is None:  # closed by the caller; the next file that is opened would be taken for it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    if sys.stdout is None:
        sys.stderr.write("wal: standard output is closed\n")
        return Exit.ENVIRONMENT
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a path may have bytes that are no text
    try:
        app(args=None if arguments is None else list(arguments), prog_name="wal")
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else Exit.FINE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return Exit.FINE
