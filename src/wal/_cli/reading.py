# SPDX-License-Identifier: Apache-2.0
"""Progress of what is read record by record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from wal import RawRecord

from .terminal import Bar

__all__ = ["watched"]

EACH = 4096
"""How many records are read from one report to the next."""


def watched(records: Iterator[RawRecord], progress: Bar | None) -> Iterator[RawRecord]:
    """Pass records on and report how far they are."""
    return records if progress is None else _reporting(records, progress)


def _reporting(records: Iterator[RawRecord], progress: Bar) -> Iterator[RawRecord]:
    segment: Path | None = None
    before = size = total = 0
    for number, record in enumerate(records):
        if segment is None:
            sizes = _sizes(record.path)
            total = sum(sizes.values())
        if record.path != segment:
            segment, before, size = record.path, before + size, sizes.get(record.path, 0)
        if number % EACH == 0:
            progress(before + record.offset, total)
        yield record


def _sizes(first: Path) -> dict[Path, int]:
    """Return the lengths of a segment and of those behind it."""
    sizes = {}
    for path in sorted(first.parent.glob("*.wal")):
        with suppress(FileNotFoundError):
            if path >= first:
                sizes[path] = path.stat().st_size
    return sizes
