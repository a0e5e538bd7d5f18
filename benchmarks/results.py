"""What was measured, and what follows from it: medians over rounds, and ratios within rounds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Self

__all__ = ["Results", "Spread"]


class Spread(NamedTuple):
    """The median over the rounds, and the extremes."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        values = list(values)
        return cls(median(values), min(values), max(values)) if values else None


@dataclass
class Results:
    """
    A run, as it is written to JSON.

    Attributes:
        machine: What it was measured on, when, and in which versions.
        rows: The title and task of each row, by its name.
        subjects: What each subject said of itself, with its family, by its name.
        values: What was measured, by row, subject and round.
        left_out: Why a subject is not in a row, by row and subject.
    """

    machine: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    subjects: dict[str, dict[str, Any]]
    values: dict[str, dict[str, dict[int, dict[str, float]]]] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, row: str, subject: str, round: int, values: dict[str, float]) -> None:
        self.values.setdefault(row, {}).setdefault(subject, {})[round] = values

    def leave_out(self, row: str, subject: str, reason: str) -> None:
        self.left_out.setdefault(row, {})[subject] = reason

    def is_left_out(self, row: str, subject: str) -> bool:
        return subject in self.left_out.get(row, {})

    @property
    def rounds(self) -> int:
        return max((len(rounds) for row in self.values.values() for rounds in row.values()), default=0)

    def subjects_of(self, row: str) -> list[str]:
        """Return who was measured in a row, in the order of the subjects."""
        return [name for name in self.subjects if name in self.values.get(row, {})]

    def subject(self, family: str, **facts: Any) -> str | None:
        """Return the first subject of a family with these facts."""
        for name, known in self.subjects.items():
            if known["family"] == family and facts.items() <= known.items():
                return name
        return None

    def spread(self, row: str, subject: str, what: str) -> Spread | None:
        rounds = self.values.get(row, {}).get(subject, {})
        return Spread.of(values[what] for values in rounds.values())

    def median(self, row: str, subject: str, what: str) -> float | None:
        spread = self.spread(row, subject, what)
        return spread and spread.median

    def ratio(self, row: str, above: str | None, below: str | None, what: str, below_row: str = "") -> Spread | None:
        """
        Divide one subject's value by another's.

        Round by round, and the spread of that: what disturbs the machine for a while disturbs both.
        """
        numerators = self.values.get(row, {}).get(above or "", {})
        denominators = self.values.get(below_row or row, {}).get(below or "", {})
        return Spread.of(
            numerators[round][what] / denominators[round][what]
            for round in numerators.keys() & denominators.keys()
            if denominators[round][what]
        )

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(vars(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        results = cls(**json.loads(path.read_text()))
        for row in results.values.values():
            for subject, rounds in row.items():
                row[subject] = {int(round): values for round, values in rounds.items()}
        return results
