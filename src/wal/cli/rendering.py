# SPDX-License-Identifier: Apache-2.0
"""
How records look: as lines to read, or as JSON, one object in each line.

The lines are for people, and may change. The JSON is for programs. A record is an object with ``segment``, ``offset``,
``type``, ``index`` (entries and snapshots) and ``value``; a value is an object with the fields of its class; bytes are
base64, as in the JSON form of protobuf.
"""

from __future__ import annotations

import dataclasses
import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from wal import LogEntry, LogRecord, RawRecord, RecordType, Snapshot

from .terminal import Paint, say, visible

__all__ = ["Lines", "index_of", "json_line", "jsonable", "shortened"]

_STYLES = {
    RecordType.METADATA: "magenta",
    RecordType.ENTRY: "green",
    RecordType.STATE: "cyan",
    RecordType.SNAPSHOT: "yellow",
}

SHORT = 120
"""Values are cut to so many characters, unless all of them are asked for."""


def index_of(record: LogRecord) -> int | None:
    """Return the index of an entry or a snapshot marker; ``None`` for records that have none."""
    return record.value.index if isinstance(record.value, LogEntry | Snapshot) else None


class Lines:
    """Writes records as lines; each segment's name stands above the first of its records."""

    def __init__(self, *, full: bool) -> None:
        self._full = full
        self._segment: Path | None = None
        paint = Paint()
        self._types = {type: paint(f"{type.name:<8}", style) for type, style in _STYLES.items()}
        self._paint = paint

    def write(self, record: LogRecord | RawRecord) -> None:
        """Write one."""
        if record.path != self._segment:
            self._segment = record.path
            say(self._paint(visible(record.path.name), "bold"))
        if isinstance(record, RawRecord):
            words = f"{len(record.data):>9,} bytes  {self._text(record.data.hex())}"
        else:
            words = self._text(repr(record.value))
        say(f"{record.offset:>12,}  {self._types[record.type]}  {words}")

    def _text(self, text: str) -> str:
        return visible(text) if self._full else shortened(text, "--full")


def shortened(text: str, *more: str) -> str:
    """Return what a terminal can take of a text, and say how much there is besides."""
    if len(text) <= SHORT:
        return visible(text)
    return f"{visible(text[:SHORT])}… ({', '.join((f'{len(text) - SHORT:,} characters more', *more))})"


def json_line(record: LogRecord | RawRecord) -> str:
    """Return a record as one line of JSON."""
    shown: dict[str, Any] = {"segment": record.path.name, "offset": record.offset, "type": record.type.name}
    if isinstance(record, RawRecord):
        shown |= {"length": record.length, "data": jsonable(record.data)}
    else:
        index = index_of(record)
        shown |= {} if index is None else {"index": index}
        shown["value"] = jsonable(record.value)
    return json.dumps(shown)


_DEEPEST = 20


def jsonable(value: Any, depth: int = 0) -> Any:
    """Return a value in the types that JSON has; what it has no form for is its ``repr``."""
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode("ascii")
    if isinstance(value, float):
        return value if value - value == 0 else repr(value)  # JSON has neither infinities nor NaN
    if depth >= _DEEPEST:
        return repr(value)
    inside: Callable[[Any], Any] = lambda part: jsonable(part, depth + 1)  # noqa: E731
    if isinstance(value, Enum):
        return inside(value.value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): inside(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [inside(part) for part in value]
    fields = _fields(value)
    return repr(value) if fields is None else {name: inside(part) for name, part in fields.items()}


def _fields(value: Any) -> dict[str, Any] | None:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    slots = [name for cls in type(value).__mro__ for name in _names(vars(cls).get("__slots__", ()))]
    found = {name: getattr(value, name) for name in slots if not name.startswith("_") and hasattr(value, name)}
    found |= {name: part for name, part in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    return found or None


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
