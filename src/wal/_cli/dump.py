# SPDX-License-Identifier: Apache-2.0
"""``wal dump``: what is in a log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated

import typer

from wal import CorruptionError, LogRecord, RawRecord, RecordDecodeError, RecordType, raw_records

from .classes import registry_of
from .decoding import Decoding
from .exits import Exit
from .options import AsRaw, Etcd, LogPath, Records
from .outcome import UsageError, complain_of, ending
from .place import find
from .reading import watched
from .rendering import Lines, index_of, json_line
from .terminal import complain, is_terminal, progress_bar, say

__all__ = ["dump"]


class Type(StrEnum):
    """The types of records, as they are written on the command line."""

    METADATA = "metadata"
    ENTRY = "entry"
    STATE = "state"
    SNAPSHOT = "snapshot"


@ending
def dump(
    path: LogPath,
    first: Annotated[
        int | None,
        typer.Option("--from", metavar="INDEX", min=0, help="Leave out smaller indexes.", show_default=False),
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", metavar="INDEX", min=0, help="Leave out greater indexes.", show_default=False)
    ] = None,
    types: Annotated[
        list[Type] | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            case_sensitive=False,
            help="Show these records only: metadata, entry, state or snapshot. May be given several times.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object per record and line.")] = False,
    raw: AsRaw = False,
    full: Annotated[bool, typer.Option("--full", help="Do not shorten long values.")] = False,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Report damage, and go on with what is certain to be intact behind it."),
    ] = False,
    records: Records = None,
    etcd: Etcd = False,
) -> Exit:
    """
    Show the records of a log.

    They come in the order in which they were saved. An entry takes the place of every entry before it with the same
    index or a greater one; all of them are shown. With --from or --to, only entries and snapshot markers are, which
    have an index; and segments in which the log has smaller indexes only are not even read.

    It takes no lock and changes nothing, so it works on a read-only disk and beside a writer. At damage it ends, with
    exit code 1. With --keep-going it reports the damage on standard error and goes on with the next save, in this
    segment or a later one, whose checksum can be trusted; then the exit code is 4.

    \b
    Examples:
      wal dump data/wal
      wal dump data/wal --from 100 --to 199
      wal dump data/wal --type entry --json | jq -r '.value.data | @base64d'
      wal dump default.etcd --etcd --type snapshot
      wal dump data/wal --records myapp.records:REGISTRY
      wal dump damaged/wal --keep-going --raw --json > rescued.jsonl
    """
    registry = registry_of(records, etcd=etcd)
    log = find(path, etcd=etcd).log
    if first is not None and last is not None and first > last:
        raise UsageError(f"there is nothing from {first} to {last}")
    past = _Past()
    with progress_bar("reading", shown=not is_terminal()) as progress:
        stored = raw_records(log, from_index=first or 0, on_damage=past.lost if keep_going else None)
        stored = past.going_on(watched(stored, progress))
        lines = Lines(full=full)
        wanted = {RecordType[type.name] for type in types or Type}
        if raw and first is None and last is None:
            shown: Iterator[RawRecord | LogRecord] = (record for record in stored if record.type in wanted)
        else:
            decoding = Decoding(stored, registry, past.noted if keep_going else _stop)
            past.decoding = decoding
            chosen = (pair for pair in decoding if pair[1].type in wanted and _within(pair[1], first, last))
            shown = (bytes if raw else decoded for bytes, decoded in chosen)
        for record in shown:
            if as_json:
                say(json_line(record))
            else:
                lines.write(record)
    return past.exit()


def _within(record: LogRecord, first: int | None, last: int | None) -> bool:
    if first is None and last is None:
        return True
    index = index_of(record)
    return index is not None and (first is None or first <= index) and (last is None or index <= last)


def _stop(error: Exception) -> None:
    raise error


class _Past:
    """Reports damage, and where reading goes on behind it."""

    def __init__(self) -> None:
        self.decoding: Decoding | None = None
        self._damages = 0
        self._behind = False

    def lost(self, error: CorruptionError) -> None:
        """Take notice of damage that hides what is there."""
        complain_of(error)
        self._damages += 1
        self._behind = True
        if self.decoding is not None:
            self.decoding.gap()

    def noted(self, error: CorruptionError | RecordDecodeError) -> None:
        """Take notice of a record that is intact, and not what it should be."""
        complain(str(error))
        self._damages += 1

    def going_on(self, records: Iterable[RawRecord]) -> Iterator[RawRecord]:
        for record in records:
            if self._behind:
                complain(f"going on at {record.path} byte {record.offset:,}")
                self._behind = False
            yield record

    def exit(self) -> Exit:
        if not self._damages:
            return Exit.FINE
        places = "one place" if self._damages == 1 else f"{self._damages:,} places"
        complain(f"something is wrong in {places}; everything that is shown is intact")
        return Exit.GAPS
