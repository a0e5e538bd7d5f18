"""The generated parts of ``performance.md`` and ``why.md``, between two comments; the rest is written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from results import Results
from tables import goal_table, tables

__all__ = ["write_comparison", "write_page"]

CHOSEN: list[tuple[str, str, str, Callable[[float], str]]] = [
    ("a durable save of 1 entry", "save-1x100", "p50", lambda seconds: f"{seconds * 1000:.2f} ms"),
    ("of 1,000 entries", "save-1000x100", "p50", lambda seconds: f"{seconds * 1000:.2f} ms"),
    ("saves a second by 64 threads", "threads-64", "per_second", lambda rate: f"{rate:,.0f}"),
    ("by 256 tasks", "tasks-256", "per_second", lambda rate: f"{rate:,.0f}"),
    ("reading 500,000 entries", "read-all", "seconds", lambda seconds: f"{seconds:.2f} s"),
]
"""Of each figure the title, its row, what is measured, and how it is shown."""

BEGIN, END = "<!-- begin: made by benchmarks/bench.py -->", "<!-- end: made by benchmarks/bench.py -->"


def write_page(path: Path, results: Results) -> None:
    """Replace what stands between the comments; make the page if there is none."""
    text = path.read_text() if path.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    path.write_text(_filled(text, _generated(results)))


def write_comparison(path: Path, results: Results) -> None:
    """Replace what stands between the comments by a few figures of each store; do nothing if there is no page."""
    if path.exists():
        path.write_text(_filled(path.read_text(), _comparison(results)))


def _filled(text: str, generated: str) -> str:
    return re.sub(
        f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: f"{BEGIN}\n\n{generated}\n\n{END}", text, flags=re.DOTALL
    )


def _comparison(results: Results) -> str:
    lines = [f"|  | {' | '.join(title for title, _, _, _ in CHOSEN)} |", f"| --- |{' ---: |' * len(CHOSEN)}"]
    for subject, known in results.subjects.items():
        if known["primary"] and known["family"] != "floor":
            medians = [(results.median(row, subject, what), show) for _, row, what, show in CHOSEN]
            cells = ["-" if median is None else show(median) for median, show in medians]
            lines.append(f"| {subject} | {' | '.join(cells)} |")
    where = ", ".join(str(results.machine[fact]) for fact in ("processor", "file system") if fact in results.machine)
    return "\n".join([*lines, "", f"Entries of 100 B; medians of {results.rounds} rounds; {where}."])


def _generated(results: Results) -> str:
    machine = "\n".join(f"* {what}: {value}" for what, value in results.machine.items())
    subjects = "\n".join(
        f"* {name}: {', '.join(str(known[fact]) for fact in ('version', 'python', 'crc_backend') if fact in known)}"
        for name, known in results.subjects.items()
    )
    goals = goal_table(results).markdown()
    rows = "\n\n".join(table.markdown() for table in tables(results))
    return "\n\n".join(
        [
            "![Time of a durable save, and durable saves a second by number of savers](performance.svg)",
            "### Goals",
            "The median over the rounds, and in brackets the least and the most.",
            goals,
            "### Figures",
            rows,
            "### Where, when and what",
            f"Medians of {results.rounds} rounds.",
            machine,
            subjects,
        ]
    )
