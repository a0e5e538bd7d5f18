"""The generated part of ``docs/performance.md``, between two comments; the rest of the page is written by hand."""

from __future__ import annotations

import re
from pathlib import Path

from results import Results
from tables import goal_table, tables

__all__ = ["write_page"]

BEGIN, END = "<!-- begin: made by benchmarks/bench.py -->", "<!-- end: made by benchmarks/bench.py -->"


def write_page(path: Path, results: Results) -> None:
    """Replace what stands between the comments; make the page if there is none."""
    text = path.read_text() if path.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    generated = f"{BEGIN}\n\n{_generated(results)}\n\n{END}"
    path.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: generated, text, flags=re.DOTALL))


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
