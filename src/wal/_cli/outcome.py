# SPDX-License-Identifier: Apache-2.0
"""How a command ends: every error becomes one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import typer

from wal import (
    CorruptionError,
    FencedError,
    NoSnapshotError,
    RecordDecodeError,
    TornWriteError,
    WALError,
    WALUsageError,
)

from .exits import Exit
from .terminal import complain

__all__ = ["ExtraMissingError", "UsageError", "complain_of", "described", "ending"]

_P = ParamSpec("_P")


class UsageError(Exception):
    """The command was wrong in a way that its parser cannot know."""


class ExtraMissingError(Exception):
    """The command needs an extra that is not installed."""


def ending(command: Callable[_P, Exit]) -> Callable[_P, None]:
    """Let a command end with the exit code that it returns, or with the one for what it raises."""

    @wraps(command)
    def ended(*args: _P.args, **kwargs: _P.kwargs) -> None:
        raise typer.Exit(_exit_of(lambda: command(*args, **kwargs)))

    return ended


def _exit_of(command: Callable[[], Exit]) -> Exit:
    try:
        exit = command()
        sys.stdout.flush()
        return exit
    except BrokenPipeError:
        _give_up_output()
        return Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except CorruptionError as error:
        complain_of(error)
        return Exit.DAMAGE
    except (UsageError, WALUsageError) as error:
        complain_of(error)
        return Exit.USAGE
    except ExtraMissingError as error:
        complain_of(error)
        return Exit.EXTRA_MISSING
    except (OSError, FencedError) as error:  # which those of the environment are, too
        complain_of(error)
        try:
            sys.stdout.flush()
        except OSError:
            _give_up_output()
        return Exit.ENVIRONMENT
    except typer.Exit:
        raise
    except Exception:
        complain("this is a bug of wal; please report it:\n" + traceback.format_exc().rstrip())
        return Exit.BUG


def _give_up_output() -> None:
    """The interpreter flushes once more when it ends: let there be something that takes it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def complain_of(error: Exception) -> None:
    """Write what is wrong to standard error, and what can be done about it."""
    if isinstance(error, TornWriteError):
        complain(f"torn: {error}")
    elif isinstance(error, CorruptionError | NoSnapshotError):
        complain(f"damaged: {error}")
    elif isinstance(error, RecordDecodeError):
        complain(f"{error}\n(name the log's record classes with --records, or pass --etcd for an etcd member's log)")
    else:
        complain(str(error))


def described(error: WALError) -> dict[str, Any]:
    """Return an error as JSON has it: its class, the place if it has one, and the reason."""
    place = {name: getattr(error, name) for name in ("path", "offset") if hasattr(error, name)}
    if "path" in place:
        place["path"] = str(place["path"])
    return {"error": type(error).__name__, **place, "reason": error.reason}
