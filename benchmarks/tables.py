"""The tables: rows of cells, to be printed or written as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from goals import BUILDS, FLOOR, GO, Goal, goals
from results import Results, Spread

__all__ = ["Table", "goal_table", "tables"]

FIRST_OPENING = "open-1"
NOTHING = "-"


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    cells: list[list[str]]

    def markdown(self) -> str:
        """Return the table with its title; all columns but the first are numbers."""
        rule = ["---", *("---:" for _ in self.columns[1:])]
        lines = [f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.cells)]
        return "\n".join([f"**{self.title}**", "", *lines])


Column = tuple[str, Callable[[Results, str, str], Spread | None], str, float]
"""Its head, its value, and how to write it: a format, and what to multiply by."""


def _value(what: str) -> Callable[[Results, str, str], Spread | None]:
    return lambda results, row, subject: results.spread(row, subject, what)


def _times(other: str, what: str) -> Callable[[Results, str, str], Spread | None]:
    return lambda results, row, subject: results.ratio(row, subject, other, what)


def _speed(other: str, what: str) -> Callable[[Results, str, str], Spread | None]:
    return lambda results, row, subject: results.ratio(row, other, subject, what)


def _growth(results: Results, row: str, subject: str) -> Spread | None:
    """Say how many times as long each entry takes as in the shortest log."""
    spread = results.ratio(row, subject, subject, "seconds", below_row=FIRST_OPENING)
    more = results.ratio(row, subject, subject, "entries", below_row=FIRST_OPENING)
    return spread and more and Spread(*(value / more.median for value in spread))


_SAVES: list[Column] = [
    ("p50 ms", _value("p50"), "{:.3f}", 1e3),
    ("p99 ms", _value("p99"), "{:.3f}", 1e3),
    ("a second", _value("per_second"), "{:,.0f}", 1),
    ("p50 ÷ floor", _times(FLOOR, "p50"), "{:.2f}", 1),
    ("speed ÷ Go", _speed(GO, "p50"), "{:.2f}", 1),
    ("p99 ÷ Go", _times(GO, "p99"), "{:.2f}", 1),
]
_SAVERS: list[Column] = [
    ("a second", _value("per_second"), "{:,.0f}", 1),
    ("p50 ms", _value("p50"), "{:.3f}", 1e3),
    ("p99 ms", _value("p99"), "{:.3f}", 1e3),
    ("rate ÷ floor", _times(FLOOR, "per_second"), "{:.2f}", 1),
    ("rate ÷ Go", _times(GO, "per_second"), "{:.2f}", 1),
]
_READING: list[Column] = [
    ("seconds", _value("seconds"), "{:.3f}", 1),
    ("speed ÷ Go", _speed(GO, "seconds"), "{:.2f}", 1),
]
_LOOKS: list[Column] = [("p50 µs", _value("p50"), "{:.1f}", 1e6), ("p99 µs", _value("p99"), "{:.1f}", 1e6)]
_IDLE: list[Column] = [("seconds of the processor in a second", _value("seconds"), "{:.5f}", 1)]
_OPENING: list[Column] = [*_READING, ("time per entry ÷ that of the shortest", _growth, "{:.2f}", 1)]
_MEMORY: list[Column] = [("MB", _value("grown"), "{:,.1f}", 1e-6), ("÷ Go", _times(GO, "grown"), "{:.2f}", 1)]


def tables(results: Results) -> Iterator[Table]:
    """Yield one table for each row that was measured."""
    for name, row in results.rows.items():
        subjects = results.subjects_of(name)
        columns = _columns(name, row["task"])
        if not subjects:
            continue
        cells = [
            [subject, *(_written(of(results, name, subject), form, factor) for _, of, form, factor in columns)]
            for subject in subjects
        ]
        yield Table(row["title"], ["", *(head for head, *_ in columns)], cells)


def _columns(name: str, task: str) -> list[Column]:
    if name.startswith("memory"):
        return _MEMORY
    by_task = {"by_index": _LOOKS, "follow": _LOOKS, "idle": _IDLE, "open": _OPENING}
    return {"save": _SAVES, "threads": _SAVERS, "tasks": _SAVERS, **by_task}.get(task, _READING)


def _written(spread: Spread | None, form: str, factor: float = 1) -> str:
    return NOTHING if spread is None else form.format(spread.median * factor)


def goal_table(results: Results) -> Table:
    """Return what was to be reached, and what was: of what has been measured, in either build."""
    cells = []
    for goal in goals():
        line = [cell for build in BUILDS for cell in _reached(results, goal, build)]
        if line != [NOTHING, ""] * len(BUILDS):
            cells.append([goal.row, goal.measure.words, *line])
    return Table("Goals", ["row", "", *(head for build in BUILDS for head in (build, "goal"))], cells)


def _reached(results: Results, goal: Goal, build: str) -> tuple[str, str]:
    subject = results.subject("wal", primary=True, compiled=build == "compiled")
    bound = goal.bound(build)
    measured = None if subject is None or bound is None else goal.measure.of(results, goal.row, subject)
    if measured is None:
        return NOTHING, ""
    form = f"{{:,.{goal.measure.digits}f}}"
    yes_or_no = "yes" if goal.is_reached(build, measured.median) else "NO"
    return f"{form} ({form} to {form})".format(*measured), f"{goal.relation} {bound:,g}: {yes_or_no}"
