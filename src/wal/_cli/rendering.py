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
from binascii import b2a_base64
from collections.abc import Mapping
from enum import Enum
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from wal import LogEntry, LogRecord, RawRecord, RecordType, Snapshot

from .terminal import Paint, say, visible

__all__ = ["Lines", "counted", "index_of", "json_line", "jsonable", "shortened"]

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
_PLAIN = {bool, int, str, type(None)}


def jsonable(value: Any, depth: int = 0) -> Any:
    """Return a value in the types that JSON has; what it has no form for is its ``repr``."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b2a_base64(value, newline=False).decode("ascii")
    if isinstance(value, float):
        return value if isfinite(value) else repr(value)  # JSON has neither infinities nor NaN
    if depth >= _DEEPEST:
        return repr(value)
    depth += 1
    if isinstance(value, Enum):
        return jsonable(value.value, depth)
    if isinstance(value, (int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(part, depth) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(part, depth) for part in value]
    cls: Any = type(value)
    names = [*_names(cls), *(name for name in getattr(value, "__dict__", ()) if not name.startswith("_"))]
    found = {name: jsonable(getattr(value, name), depth) for name in names if hasattr(value, name)}
    return found or repr(value)


@cache
def _names(cls: Any) -> tuple[str, ...]:
    """Return the names of a class's fields, or of its slots."""
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    slots = [vars(base).get("__slots__", ()) for base in reversed(cls.__mro__)]
    names = [name for some in slots for name in ((some,) if isinstance(some, str) else some)]
    return tuple(name for name in names if not name.startswith("_"))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
