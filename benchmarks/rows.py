"""
What is measured: a row is one task, given to one subject after the other in each round.

Names are made to be chosen from by patterns: ``save-*``, ``tasks-1024``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["BATCHES", "SAVERS", "Fill", "Row", "all_rows"]

BATCHES = [(entries, size) for size in (100, 1000) for entries in (1, 10, 100, 1000)]
"""Entries in a save, and bytes in an entry."""

SAVERS = [1, 16, 64, 256, 1024]

EVERYBODY = frozenset({"floor", "wal", "etcd", "peer"})
READERS = frozenset({"wal", "etcd", "peer"})
LOGS = frozenset({"wal", "etcd"})
OURS = frozenset({"wal"})

_SAVES = {1: 600, 10: 600, 100: 300, 1000: 100}
"""How many saves of so many entries: a fraction of a second, so that a round of all subjects is short."""


@dataclass(frozen=True)
class Fill:
    """The log that a row reads. It is written once for all rounds, by each subject in its own format."""

    entries: int
    bytes: int


@dataclass(frozen=True)
class Row:
    """
    One row of the tables.

    Attributes:
        name: What ``--rows`` chooses.
        title: What it is called in the tables.
        task: What the worker does (see ``worker.py``).
        arguments: With what.
        families: Which subjects are asked at all.
        fill: What must be there before.
        variants: Whether variants of this library, such as with other CRC backends, are of interest here.
        new_process: Whether each subject needs a worker that has done nothing else, to see its memory.
    """

    name: str
    title: str
    task: str
    families: frozenset[str]
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    fill: Fill | None = None
    variants: bool = False
    new_process: bool = False


def all_rows(*, scale: float, gigabyte: int) -> list[Row]:
    """
    Return all rows.

    Args:
        scale: How many saves, entries to read, and seconds, as a part of what a real run has.
        gigabyte: How many bytes stand for one gigabyte in the rows that open long logs.
    """

    def scaled(number: int) -> int:
        return max(10, round(number * scale))

    to_read = Fill(scaled(500_000), 100)
    saves = [
        Row(
            f"save-{entries}x{size}",
            f"durable saves of {_many(entries)} of {size} B",
            "save",
            EVERYBODY,
            {"entries": entries, "bytes": size, "saves": scaled(_SAVES[entries]), "sync": True},
            variants=True,
        )
        for entries, size in BATCHES
    ]
    encoding = Row(
        "encode-1000x100",
        "saves of 1000 entries of 100 B without a sync",
        "save",
        frozenset({"floor", "wal", "etcd"}),
        {"entries": 1000, "bytes": 100, "saves": scaled(200), "sync": False},
        variants=True,
    )
    at_once = [
        Row(
            f"{task}-{savers}",
            f"durable saves of 1 entry of 100 B by {savers} {word}{'s' if savers > 1 else ''}",
            task,
            families,
            {"bytes": 100, "savers": savers, "seconds": max(0.1, scale)},
        )
        for task, word, families in (("threads", "thread", EVERYBODY), ("tasks", "asyncio task", LOGS))
        for savers in SAVERS
    ]
    words = f"of {to_read.entries:,} entries of 100 B"
    reading = [
        Row("read-all", f"reading all {words}", "read_all", READERS, fill=to_read, variants=True),
        Row("stream", f"streaming {words}", "stream", READERS, fill=to_read),
        Row("memory-read-all", f"memory for all {words}", "read_all", LOGS, fill=to_read, new_process=True),
        Row("memory-stream", f"memory for streaming {words}", "stream", LOGS, fill=to_read, new_process=True),
    ]
    opening = [
        Row(
            f"open-{times}",
            f"opening a log of {times} x {gigabyte / 1e6:g} MB",
            "open",
            LOGS,
            fill=Fill(times * gigabyte // 1000, 1000),
        )
        for times in (1, 4, 16)
    ]
    many = Fill(gigabyte // 128, 100)
    found = [
        Row(
            "entry",
            f"one entry of 100 B by its index, of {many.entries:,}",
            "by_index",
            frozenset({"wal", "peer"}),
            {"entries": many.entries, "reads": scaled(20_000)},
            fill=many,
        ),
        Row("follow", "how far a follower is behind", "follow", OURS, {"bytes": 100, "saves": scaled(500)}),
        Row("follow-idle", "a follower while nothing is written", "idle", OURS, {"bytes": 100, "seconds": 10 * scale}),
    ]
    return [*saves, encoding, *at_once, *reading, *opening, *found]


def _many(entries: int) -> str:
    return "1 entry" if entries == 1 else f"{entries} entries"
