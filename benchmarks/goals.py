"""What this library has set itself to reach, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from results import Results, Spread
from rows import BATCHES

__all__ = ["BUILDS", "FLOOR", "GO", "Goal", "Measure", "goals"]

FLOOR = "floor, zeroed"
GO = "etcd in Go"


class Measure(NamedTuple):
    """How a goal is measured: its words, the digits that matter, and what gives the value for a row and a subject."""

    words: str
    digits: int
    of: Callable[[Results, str, str], Spread | None]


def _margin_to_peers(results: Results, row: str, subject: str) -> Spread | None:
    peers = [name for name, known in results.subjects.items() if known["family"] == "peer"]
    margins = [margin for peer in peers if (margin := results.ratio(row, peer, subject, "p50"))]
    return min(margins, default=None)


TIMES_FLOOR = Measure("x the p50 of the zeroed floor", 2, lambda r, row, who: r.ratio(row, who, FLOOR, "p50"))
SPEED = Measure("x as fast as etcd in Go, at p50", 2, lambda r, row, who: r.ratio(row, GO, who, "p50"))
P99 = Measure("x the p99 of etcd in Go", 2, lambda r, row, who: r.ratio(row, who, GO, "p99"))
READING = Measure("x as fast as etcd in Go", 2, lambda r, row, who: r.ratio(row, GO, who, "seconds"))
RATE = Measure("saves a second", 0, lambda r, row, who: r.spread(row, who, "per_second"))
TIMES_RATE = Measure("x the rate of etcd in Go", 1, lambda r, row, who: r.ratio(row, who, GO, "per_second"))
PEERS = Measure("x as fast as the fastest other Python store, at p50", 2, _margin_to_peers)


BUILDS = ("pure", "compiled")


@dataclass(frozen=True)
class Goal:
    """In this row, the builds are to reach at least, or at most, so much; a build without a number is not asked."""

    row: str
    measure: Measure
    relation: Literal["≥", "≤"]
    pure: float | None
    compiled: float | None

    def bound(self, build: str) -> float | None:
        return self.pure if build == "pure" else self.compiled

    def is_reached(self, build: str, value: float) -> bool:
        bound = self.bound(build)
        return bound is None or (value >= bound if self.relation == "≥" else value <= bound)


def goals() -> Iterator[Goal]:
    """Yield all goals."""
    for row in ("save-1x100", "save-1x1000"):
        yield Goal(row, TIMES_FLOOR, "≤", 1.15, 1.15)
        yield Goal(row, SPEED, "≥", 1, 1)
    yield Goal("save-100x100", SPEED, "≥", 1.3, 1.8)
    yield Goal("save-1000x100", SPEED, "≥", 0.7, 1.5)
    yield Goal("save-100x1000", SPEED, "≥", 1.2, 1.5)
    yield Goal("save-1000x1000", SPEED, "≥", 1.2, 1.5)
    for entries, size in BATCHES:
        yield Goal(f"save-{entries}x{size}", P99, "≤", 1.1, 1.1)
    for entries, size in BATCHES:
        if entries <= 100:
            yield Goal(f"save-{entries}x{size}", PEERS, "≥", 1, 1)
    yield Goal("encode-1000x100", SPEED, "≥", None, 1)
    yield Goal("threads-64", TIMES_RATE, "≥", 4, 4)
    for row in ("tasks-256", "tasks-1024"):
        yield Goal(row, TIMES_RATE, "≥", 15, 15)
        yield Goal(row, RATE, "≥", 100_000, 100_000)
    yield Goal("read-all", READING, "≥", 1, 2.5)
