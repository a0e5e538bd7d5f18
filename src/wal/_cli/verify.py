# SPDX-License-Identifier: Apache-2.0
"""``wal verify``: whether a log, a storage or an etcd member's log is in order."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from wal import CorruptionError, LogSurvey, RecordRegistry, RecordType, WALError, raw_records, survey

from .classes import registry_of
from .exits import Exit
from .options import AsJson, AsRaw, Etcd, LogPath, Records
from .outcome import complain_of, described, ending
from .place import find
from .reading import watched
from .snapshots import Recovery, look_at
from .terminal import progress_bar, say, visible

__all__ = ["verify"]


@ending
def verify(
    path: LogPath, as_json: AsJson = False, raw: AsRaw = False, records: Records = None, etcd: Etcd = False
) -> Exit:
    """
    Read all of a log and say whether it is in order.

    Every checksum is looked at, that the records are of their classes, and that no entry and no segment is missing. Of
    a storage, which wal.open_storage has made, the snapshot files are read, too, and whether it would be recovered.
    With --raw only what needs no classes is looked at: the checksums, and that no segment is missing.

    It takes no lock and changes nothing, so it works on a read-only disk and beside a writer; there, a torn end may be
    a save in the making. The exit code is 0 if all is well, and 1 if anything is torn or damaged.

    \b
    Examples:
      wal verify data/wal
      wal verify data --json | jq .last_index
      wal verify default.etcd --etcd
    """
    place = find(path, etcd=etcd)
    findings: list[WALError] = []
    recovery: Recovery | None = None
    if raw:
        figures = _checksums(place.log, findings)
    else:
        registry = registry_of(records, etcd=etcd)
        found, recovery = _look(place.log, place.snapshots, registry)
        findings += [error for error in (found.damage, found.tail) if error is not None]
        figures = _figures(found)
        if recovery is not None:
            findings += [file.damage for file in recovery.files if file.damage is not None]
            findings += [recovery.problem] if recovery.problem is not None else []
    for error in findings:
        complain_of(error)
    if as_json:
        say(json.dumps(_as_json(place.log, figures, recovery, findings), indent=2))
    else:
        state = "NOT in order" if findings else "in order"
        say(f"{visible(str(place.log))}: {state}: " + ", ".join(_words(*figure) for figure in figures.items()))
        if recovery is not None:
            _say_recovery(recovery)
    return Exit.DAMAGE if findings else Exit.FINE


def _look(log: Path, snapshots: Path | None, registry: RecordRegistry) -> tuple[LogSurvey, Recovery | None]:
    attempts = 3
    while True:
        with progress_bar("verifying") as progress:
            found = survey(log, registry=registry, progress=progress)
            recovery = None if snapshots is None else look_at(snapshots, found, registry)
        attempts -= 1
        newest = max((marker.index for marker in found.markers), default=0)
        if recovery is None or recovery.start == newest or not attempts:
            return found, recovery
        if not any(file.index > newest and file.damage is None for file in recovery.files):
            return found, recovery
        # While the log was read, a writer has saved newer snapshots, and released those that the log knew.


def _checksums(log: Path, findings: list[WALError]) -> dict[str, int]:
    types: Counter[RecordType] = Counter()
    try:
        with progress_bar("verifying") as progress:
            for record in watched(raw_records(log), progress):
                types[record.type] += 1
    except CorruptionError as error:
        findings.append(error)
    return {"records": types.total(), "entries": types[RecordType.ENTRY]}


def _figures(found: LogSurvey) -> dict[str, int]:
    return {
        "segments": len(found.segments),
        "records": sum(segment.records for segment in found.segments),
        "entries": sum(segment.entries for segment in found.segments),
        "bytes": sum(segment.bytes for segment in found.segments),
        "last_index": found.last_index,
    }


def _words(name: str, number: int) -> str:
    if name == "last_index":
        return f"last index {number:,}"
    return f"{number:,} {name[:-1] if number == 1 and name != 'entries' else 'entry' if number == 1 else name}"


def _say_recovery(recovery: Recovery) -> None:
    for file in recovery.files:
        state = "damaged" if file.damage else "intact" if file.known else "intact, but the log does not know it"
        say(f"{visible(str(file.path))}: {state}, {file.size:,} bytes")
    if recovery.start:
        say(f"recovers from snapshot {recovery.start:,} and the entries behind it")
    elif recovery.start == 0:
        say("recovers from the log alone")
    else:
        say("does NOT recover")


def _as_json(log: Path, figures: dict[str, int], recovery: Recovery | None, findings: list[WALError]) -> dict[str, Any]:
    shown: dict[str, Any] = {"path": str(log), "in_order": not findings, **figures}
    if recovery is not None:
        shown["snapshots"] = [
            {
                "path": str(file.path),
                "index": file.index,
                "bytes": file.size,
                "intact": file.damage is None,
                "known": file.known,
            }
            for file in recovery.files
        ]
        shown["recovers_from"] = recovery.start
    shown["damage"] = [described(error) for error in findings]
    return shown
