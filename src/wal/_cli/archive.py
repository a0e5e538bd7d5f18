# SPDX-License-Identifier: Apache-2.0
"""``wal archive``: upload what is sealed to an object store."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from threading import Event
from typing import Annotated, Any

import typer

from .classes import registry_of
from .exits import Exit
from .extra import archive_module
from .options import ArchivePlace, AsJson, Etcd, LogPath, Records
from .outcome import complain_of, described, ending
from .place import find
from .rendering import counted
from .terminal import progress_bar, say, visible

__all__ = ["archive"]


@ending
def archive(
    path: LogPath,
    store: ArchivePlace,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on, and upload what is sealed from now on, until Control-C.")
    ] = False,
    interval_s: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.01, help="With --follow: how often to look.")
    ] = 10.0,
    as_json: AsJson = False,
    records: Records = None,
    etcd: Etcd = False,
) -> Exit:
    """
    Upload what is sealed to an object store.

    That is S3, Google Cloud Storage, Azure, or a local directory. Sealed are all segments but the last, and the
    snapshots whose markers they have. What is there already is not uploaded again. It works beside the log's writer,
    and changes nothing in its directory. Each segment is verified before. Credentials come from the environment, such
    as AWS_ACCESS_KEY_ID.

    An archive has one archiver. This command takes it over: one that is still at work elsewhere ends with exit code 3.
    With --follow, a store that does not answer is asked again after the interval. It needs the extra wal[archive].

    \b
    Examples:
      wal archive data s3://bucket/node-1
      wal archive data s3://bucket/node-1 --follow --interval 60
      wal archive data/wal /mnt/backup/node-1 --json
    """
    module = archive_module()
    place = find(path, etcd=etcd)
    source = place.log if etcd else path
    with module.Archiver(source, store, registry=registry_of(records, etcd=etcd)) as archiver:
        for name in archiver.orphans:
            sys.stderr.write(f"not named by a manifest, from an upload that was interrupted: {visible(name)}\n")
        if not follow:
            return _run(archiver, as_json=as_json)
        never = Event()
        while True:
            try:
                if _run(archiver, as_json=as_json, quiet=True) is not Exit.FINE:
                    return Exit.DAMAGE
            except module.ArchiveStoreError as error:
                complain_of(error)
            sys.stdout.flush()
            never.wait(interval_s)


def _run(archiver: Any, *, as_json: bool, quiet: bool = False) -> Exit:
    with progress_bar("uploading") as progress:
        report = archiver.run(progress=progress)
    for error in report.damaged:
        complain_of(error)
    new = report.segments or report.snapshots
    if as_json and (new or not quiet):
        shown = {**asdict(report), "damaged": [described(error) for error in report.damaged]}
        say(json.dumps(shown, indent=None if quiet else 2))
    elif new:
        say(
            f"archived {counted(len(report.segments), 'segment')}, {counted(len(report.snapshots), 'snapshot')},"
            f" {report.bytes:,} bytes; the archive ends with index {report.last_index:,}"
        )
    elif not quiet:
        say(f"nothing new is sealed; the archive ends with index {report.last_index:,}")
    return Exit.DAMAGE if report.damaged else Exit.FINE
