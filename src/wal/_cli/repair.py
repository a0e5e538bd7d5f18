# SPDX-License-Identifier: Apache-2.0
"""``wal repair``: cut off a torn end, after a look at it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wal import CorruptionError, RepairPlan, plan_repair
from wal import repair as repair_log

from .exits import Exit
from .options import Etcd, LogPath
from .outcome import complain_of, ending
from .place import find
from .terminal import Bar, complain, progress_bar, say, visible

__all__ = ["repair"]


@ending
def repair(
    path: LogPath,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Cut without asking.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only show what would be cut. Takes no lock and changes nothing.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Cut at damage in the last segment, too, even if saves behind it had been acknowledged."
        ),
    ] = False,
    etcd: Etcd = False,
) -> Exit:
    """
    Cut a torn write off the end of a log.

    What is cut is kept in a copy. It shows the place, how much would be cut and where the copy would be, and asks. The
    log stays locked meanwhile, so it must not be open for writing. A log that is in order is left alone. wal.read_wal
    does the same by itself for a torn write; no harm is done if it was not acknowledged.

    Damage that is not a torn write is refused: it is in data that had been acknowledged. Restore them from elsewhere.
    If that cannot be done, --force cuts all the same if the damage is in the last segment, and everything behind it is
    gone from the log. See first what can be saved: wal dump --keep-going.

    The exit code is 0 if the log is in order now, and 1 if it is not.

    \b
    Examples:
      wal repair data/wal
      wal repair data/wal --dry-run
      wal repair data/wal --yes
    """
    log = find(path, etcd=etcd).log
    try:
        if dry_run:
            with progress_bar("reading") as progress:
                plan = plan_repair(log, force=force, progress=progress)
            if plan.backup is None:
                say("nothing to repair")
                return Exit.FINE
            _show(plan)
            say("nothing was changed")
            return Exit.DAMAGE
        with progress_bar("reading") as progress:
            report = repair_log(log, force=force, confirm=lambda plan: _confirm(plan, progress, yes), progress=progress)
    except CorruptionError as error:
        complain_of(error)
        if not force and _in_last_segment(error, log):
            complain("this is not a torn write; see wal repair --help for --force")
        return Exit.DAMAGE
    if report.backup is not None:
        say(f"cut {report.bytes_cut:,} bytes; the copy is {visible(str(report.backup))}")
    elif report.reason.startswith("not confirmed"):
        say("nothing was changed")
        return Exit.DAMAGE
    else:
        say("nothing to repair")
    return Exit.FINE


def _show(plan: RepairPlan) -> None:
    say(f"{'torn' if plan.torn else 'damaged'}: {plan.reason}")
    say(f"  segment  {visible(str(plan.path))}")
    say(f"  cut at   byte {plan.offset:,}")
    say(f"  bytes    {plan.bytes_cut:,}")
    say(f"  records  {plan.records_cut:,} that can still be told")
    say(f"  copy     {visible(str(plan.backup))}")
    if not plan.torn:
        say("What is cut had been acknowledged, or may have been.")


def _confirm(plan: RepairPlan, progress: Bar | None, yes: bool) -> bool:
    if progress is not None:
        progress.stop()
    _show(plan)
    if yes:
        return True
    sys.stdout.flush()
    sys.stderr.write("Cut it off? [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    if not answer:
        complain("there is nobody to ask; pass --yes")
    return answer.strip().lower() in ("y", "yes")


def _in_last_segment(error: CorruptionError, log: Path) -> bool:
    return error.path.name == max((path.name for path in log.glob("*.wal")), default=None)
