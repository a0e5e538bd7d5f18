# SPDX-License-Identifier: Apache-2.0
"""The program ``wal``, also as ``python -m wal``. What it takes besides the library is the extra ``wal[cli]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

EXTRA_MISSING = 5
"""The exit code if the extra is not installed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; ``docs/cli.md`` has them all."""
    try:
        import rich  # noqa: F401 - only to see whether it is there
        import typer  # noqa: F401
    except ImportError:
        sys.stderr.write("wal: the command line needs the extra wal[cli]: pip install 'wal[cli]'\n")
        return EXTRA_MISSING
    from ._cli import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
