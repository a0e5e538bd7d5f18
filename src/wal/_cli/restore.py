# SPDX-License-Identifier: Apache-2.0
"""``wal restore``: a directory out of an archive."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .classes import registry_of
from .exits import Exit
from .extra import archive_module
from .options import ArchivePlace, AsJson, Etcd, Records
from .outcome import UsageError, ending
from .rendering import counted
from .terminal import progress_bar, say, visible

__all__ = ["restore"]


@ending
def restore(
    store: ArchivePlace,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="The directory to make, which must not be there.", show_default=False),
    ] = None,
    index: Annotated[
        int | None,
        typer.Option(
            "--index",
            metavar="INDEX",
            min=1,
            help="Go back to this entry: it is the last one then. By default all that is archived is restored.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only read and verify all of the archive. Nothing is written.")
    ] = False,
    as_json: AsJson = False,
    records: Records = None,
    etcd: Etcd = False,
) -> Exit:
    """
    Make a directory out of an archive.

    It is a log's, or a storage's, as it was archived. Everything is verified before the directory gets its name: if it
    is there, it is whole. The exit code is 1 if anything in the archive is damaged or missing. --index needs the log's
    record classes; see wal dump --help.

    A log that went back to an index goes on otherwise than its archive. Archive it to a new place. It needs the extra
    wal[archive].

    \b
    Examples:
      wal restore s3://bucket/node-1 data
      wal restore s3://bucket/node-1 data --index 120000
      wal restore s3://bucket/node-1 --dry-run
    """
    if path is None and not dry_run:
        raise UsageError("name the directory to make, or pass --dry-run")
    module = archive_module()
    registry = registry_of(records, etcd=etcd)
    if path is None or dry_run:
        with progress_bar("verifying") as progress:
            verified = module.verify(store, progress=progress)
        if as_json:
            say(json.dumps({"in_order": True, **asdict(verified)}, indent=2))
        else:
            held = f"{counted(verified.segments, 'segment')}, {counted(verified.snapshots, 'snapshot')}"
            say(
                f"{visible(store)}: in order: {held}, {verified.bytes:,} bytes, last index {verified.last_index:,},"
                f" owner number {verified.epoch:,}"
            )
            _say_orphans(verified.orphans)
        return Exit.FINE
    with progress_bar("restoring") as progress:
        report = module.restore(store, path, index=index, registry=registry, progress=progress)
    if as_json:
        say(json.dumps({**asdict(report), "path": str(report.path)}, indent=2))
    else:
        held = counted(report.segments, "segment")
        say(f"{visible(str(report.path))}: restored: {held}, last index {report.last_index:,}")
        if report.snapshot is not None:
            say(f"recovers from snapshot {report.snapshot:,} and the entries behind it")
        _say_orphans(report.orphans)
    return Exit.FINE


def _say_orphans(orphans: tuple[str, ...]) -> None:
    for name in orphans:
        say(f"not named by the manifest, and not looked at: {visible(name)}")
