# SPDX-License-Identifier: Apache-2.0
"""``wal follow``: what is saved to a log, as it is saved."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from wal import LogRecord, RecordRegistry, TornWriteError, WALReader, raw_records

from .classes import registry_of
from .decoding import Decoding
from .exits import Exit
from .options import Etcd, LogPath, Records
from .outcome import ending
from .place import find
from .rendering import Lines, json_line
from .terminal import say

__all__ = ["follow"]


@ending
def follow(
    path: LogPath,
    first: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="INDEX",
            min=1,
            help="Begin with this entry; by default with the one that is saved next.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object per record and line.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Do not shorten long values.")] = False,
    records: Records = None,
    etcd: Etcd = False,
) -> Exit:
    """
    Show records as they are saved, until Control-C.

    It works beside a writer, also on a read-only disk, and goes on when the writer is started again. Each record is
    written at once, so the output can be piped. It ends with exit code 1 at damage, and with 130 at Control-C.

    \b
    Examples:
      wal follow data/wal
      wal follow data/wal --from 1 --json | jq .index
    """
    registry = registry_of(records, etcd=etcd)
    log = find(path, etcd=etcd).log
    lines = Lines(full=full)
    with _followed(log, registry, _next_index(log, registry) if first is None else first) as following:
        for record in following:
            if as_json:
                say(json_line(record))
            else:
                lines.write(record)
            sys.stdout.flush()
    return Exit.FINE


def _followed(log: Path, registry: RecordRegistry, index: int) -> AbstractContextManager[Iterator[LogRecord]]:
    reader: Any = WALReader(log, registry=registry)
    followed: AbstractContextManager[Iterator[LogRecord]] = reader.follow(index)
    return followed


def _next_index(log: Path, registry: RecordRegistry) -> int:
    """Return the index behind the log's last one, from the last segment alone."""
    decoding = Decoding(raw_records(log, from_index=sys.maxsize), registry, _stop)
    with suppress(TornWriteError):  # a save in the making
        for _ in decoding:
            pass
    return decoding.last_index + 1


def _stop(error: Exception) -> None:
    raise error
