# SPDX-License-Identifier: Apache-2.0
"""The exit codes. Scripts rely on them: one that was given out keeps its meaning."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Exit"]


class Exit(IntEnum):
    """What the program says by its exit code; ``docs/cli.md`` has the same in a table."""

    FINE = 0
    """It was done, and the log is in order as far as it was read."""

    DAMAGE = 1
    """The log is torn or damaged, and still is."""

    USAGE = 2
    """The command was wrong: an option, the record classes, a snapshot that the log does not know."""

    ENVIRONMENT = 3
    """There is no log, another writer has it, or the system refused."""

    GAPS = 4
    """``dump --keep-going`` went past damage: all that it wrote is intact, and something is missing between."""

    EXTRA_MISSING = 5
    """What the command needs is not installed."""

    BUG = 70
    """A bug of this program; there is a traceback."""

    INTERRUPTED = 130
    """Control-C."""

    BROKEN_PIPE = 141
    """Whoever read the output has gone, as in ``wal dump log | head``."""
