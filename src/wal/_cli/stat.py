# SPDX-License-Identifier: Apache-2.0
"""``wal stat``: what a log consists of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from wal import LogSurvey, SegmentSurvey, survey

from .classes import registry_of
from .exits import Exit
from .options import AsJson, Etcd, LogPath, Records
from .outcome import complain_of, described, ending
from .place import Place, find
from .rendering import jsonable, shortened
from .terminal import Paint, progress_bar, say, visible

__all__ = ["stat"]


@ending
def stat(path: LogPath, as_json: AsJson = False, records: Records = None, etcd: Etcd = False) -> Exit:
    """
    Show the segments, snapshots and sizes of a log.

    And its metadata, its state, and how it ends. For each segment: the index with which it begins, the log's last index
    at its end, how many records it has and how many of them are entries, the bytes that they take, and the rest of the
    file, which is reserved for later saves or stands behind damage. "purgeable" are the segments that are wholly
    older than the newest snapshot; "other files" are those that belong to no log, such as the copies that a repair has
    kept.

    It takes no lock and changes nothing, so it works on a read-only disk and beside a writer. Of a log that is damaged
    it shows what is in front of the damage, with exit code 1.

    \b
    Examples:
      wal stat data/wal
      wal stat default.etcd --etcd --json | jq '.segments | length'
    """
    place = find(path, etcd=etcd)
    with progress_bar("reading") as progress:
        found = survey(place.log, registry=registry_of(records, etcd=etcd), progress=progress)
    seen = _Seen(place, found)
    damage = found.damage or found.tail
    if as_json:
        say(json.dumps(seen.as_json(), indent=2))
    else:
        seen.say()
    if damage is not None:
        complain_of(damage)
        return Exit.DAMAGE
    return Exit.FINE


_SHOWN = 10
"""Of so many snapshots or files the names are shown, to people."""


class _Seen:
    """A survey, and what the directory says besides."""

    def __init__(self, place: Place, found: LogSurvey) -> None:
        self.place = place
        self.found = found
        segments = found.segments
        self.newest = max((marker.index for marker in found.markers), default=0)
        needed = [at for at, segment in enumerate(segments) if segment.first_index <= self.newest]
        self.purgeable = segments[: needed[-1]] if needed and found.damage is None else ()
        known = {segment.path.name for segment in segments}
        self.others = _sizes(path for path in found.path.iterdir() if path.name not in known)
        self.snapshots = _sizes(place.snapshots.iterdir()) if place.snapshots is not None else None

    def say(self) -> None:
        found, paint = self.found, Paint()
        indexes = sorted({marker.index for marker in found.markers})
        rows = {
            "log": visible(str(found.path)),
            "metadata": shortened(repr(found.metadata)),
            "state": shortened(repr(found.state)),
            "last index": f"{found.last_index:,}",
            "snapshots": _some([f"{index:,}" for index in indexes if index]) or "none",
            "ends": "damaged" if found.damage else "torn" if found.tail else "in order",
            "rest": f"{sum(segment.size - segment.bytes for segment in found.segments if segment.read):,} bytes",
            "purgeable": _bytes_in([segment.size for segment in self.purgeable], "segment"),
            "other files": _bytes_in(list(self.others.values()), "file", list(self.others)),
        }
        if self.snapshots is not None:
            rows["snapshot files"] = _bytes_in(list(self.snapshots.values()), "file", list(self.snapshots))
        width = max(map(len, rows)) + 2
        for name, value in rows.items():
            say(paint(f"{name:<{width}}", "bold") + value)
        say()
        heads = ("segment", "from", "last", "records", "entries", "bytes", "rest")
        table = [heads, *map(_row, found.segments), _total(found.segments)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for at, row in enumerate(table):
            cells = [f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))]
            line = "  ".join(cells)
            say(paint(line, "bold") if at == 0 else line)

    def as_json(self) -> dict[str, Any]:
        found = self.found
        return {
            "path": str(found.path),
            "metadata": jsonable(found.metadata),
            "state": jsonable(found.state),
            "last_index": found.last_index,
            "snapshots": [jsonable(marker) for marker in found.markers],
            "segments": [
                {
                    "name": segment.path.name,
                    "from_index": segment.first_index,
                    "last_index": segment.last_index if segment.read else None,
                    "records": segment.records if segment.read else None,
                    "entries": segment.entries if segment.read else None,
                    "bytes": segment.bytes if segment.read else None,
                    "size": segment.size,
                }
                for segment in found.segments
            ],
            "rest_bytes": sum(segment.size - segment.bytes for segment in found.segments if segment.read),
            "purgeable_bytes": sum(segment.size for segment in self.purgeable),
            "other_files": self.others,
            **({} if self.snapshots is None else {"snapshot_files": self.snapshots}),
            "damage": [described(error) for error in (found.damage, found.tail) if error is not None],
        }


def _row(segment: SegmentSurvey) -> tuple[str, ...]:
    numbers: tuple[int, ...] = (segment.last_index, segment.records, segment.entries, segment.bytes)
    rest = segment.size - segment.bytes
    cells = [f"{number:,}" if segment.read else "?" for number in (*numbers, rest)]
    return segment.path.name, f"{segment.first_index:,}", *cells


def _total(segments: tuple[SegmentSurvey, ...]) -> tuple[str, ...]:
    read = [segment for segment in segments if segment.read]
    sums = (
        sum(segment.records for segment in read),
        sum(segment.entries for segment in read),
        sum(segment.bytes for segment in read),
        sum(segment.size - segment.bytes for segment in read),
    )
    return (f"{len(segments):,} in all", "", "", *(f"{number:,}" for number in sums))


def _sizes(paths: Iterable[Path]) -> dict[str, int]:
    sizes = {}
    for path in sorted(paths):
        with suppress(FileNotFoundError):
            sizes[path.name] = path.stat().st_size
    return sizes


def _bytes_in(sizes: list[int], noun: str, names: list[str] | None = None) -> str:
    if not sizes:
        return "none"
    named = ": " + _some([visible(name) for name in names]) if names else ""
    return f"{sum(sizes):,} bytes in {len(sizes):,} {noun if len(sizes) == 1 else noun + 's'}{named}"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[-_SHOWN:])
    return shown if len(names) <= _SHOWN else f"… {shown} ({len(names):,} in all)"
