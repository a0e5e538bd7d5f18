"""
Measure this library beside the disk itself, etcd's log in Go, and other stores: ``python benchmarks/bench.py``.

Each subject lives in a process of its own (``worker.py``, ``etcdwal.go``). In each round every row (``rows.py``) is
given to one subject after the other, each on a new directory of the real disk; the next round begins with another
subject. What is shown is the median over the rounds, and ratios are taken within each round: so what disturbs the
machine for a while disturbs all, and what disturbs it for a moment is not seen. Other load still makes all worse.

Everything is printed, and written to ``--output``: ``performance.json`` with the raw results, ``performance.svg``, and
the generated part of ``performance.md``. Who is not installed is left out with a message: ``pip install --group
bench`` brings the Python stores, Debian's ``golang-go`` and ``golang-etcd-server-dev`` etcd. An interrupt ends a run
early, with the rounds that it has.

How to read it: the *floor* is one write and one ``fdatasync`` of the same bytes, into blocks that were zeroed before
or are fresh. *÷ floor* is how many times as long the median save takes as the zeroed floor; *speed ÷ Go* how many
times as fast it is as etcd's. ``--quick`` shows in half a minute that all of it works, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Screen

from chart import draw
from machine import Others, describe_machine
from page import write_comparison, write_page
from results import Results
from rows import Fill, Row, all_rows
from subjects import Subject, Worker, WorkerError, find_subjects
from tables import Table, goal_table, tables

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".bench"
ROUNDS = 7
WIDTH = 150
"""Of what is printed, if not on a terminal."""

BUSY = 0.05
"""If others take a larger share of the processors, a run is of little worth."""


class Run:
    """A run: workers, their directories, and the results so far."""

    def __init__(self, results: Results, subjects: list[Subject], directory: Path, progress: Progress) -> None:
        self._results = results
        self._subjects = subjects
        self._directory = directory
        self._progress = progress
        self._workers: dict[str, Worker] = {}
        self._filled: dict[tuple[str, Fill], Path] = {}

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        for name in list(self._workers):
            self._stop(name)

    def measure(self, rows: list[Row], rounds: int) -> None:
        """Go through all rounds. An interrupt ends this early; what has been measured counts."""
        cells = [(row, subject) for row in rows for subject in self._subjects if _is_asked(subject, row)]
        bar = self._progress.add_task("", total=rounds * len(cells))
        for round in range(rounds):
            # Who comes first after a row's beginning, and who comes after whom, changes from round to round.
            for row in rows:
                asked = [subject for other, subject in cells if other is row]
                turn = round % max(1, len(asked))
                for subject in asked[turn:] + asked[:turn]:
                    self._progress.update(bar, description=f"round {round + 1}: {row.name}, {subject.name}")
                    if not self._results.is_left_out(row.name, subject.name):
                        self._measure(row, subject, round)
                    self._progress.advance(bar)

    def _measure(self, row: Row, subject: Subject, round: int) -> None:
        try:
            if row.new_process:
                self._stop(subject.name)
            path = self._fill(subject, row.fill) if row.fill else self._directory / "log"
            os.sync()  # what others have left to be written is not to be paid for here
            answer = self._worker(subject).ask(row.task, path=str(path), **row.arguments)
        except WorkerError as error:
            self._stop(subject.name)
            answer = {"missing": str(error)}
        if not row.fill:
            shutil.rmtree(self._directory / "log", ignore_errors=True)
        if reason := answer.get("missing"):
            self._results.leave_out(row.name, subject.name, reason)
            words = reason.strip().splitlines()[-1]
            self._progress.console.print(f"{row.name}: without {subject.name}: {words}", markup=False)
        else:
            self._results.add(row.name, subject.name, round, answer)

    def _fill(self, subject: Subject, fill: Fill) -> Path:
        """Return the log that a row reads; write it at the first time."""
        key = (subject.format, fill)
        if key not in self._filled:
            path = self._directory / f"fill-{len(self._filled)}"
            answer = self._worker(subject).ask("write", path=str(path), entries=fill.entries, bytes=fill.bytes)
            assert "missing" not in answer, answer
            self._stop(subject.name)  # it may keep memory that is not the reading's
            self._filled[key] = path
        return self._filled[key]

    def _worker(self, subject: Subject) -> Worker:
        if subject.name not in self._workers:
            self._workers[subject.name] = Worker(subject)
        return self._workers[subject.name]

    def _stop(self, name: str) -> None:
        if worker := self._workers.pop(name, None):
            worker.close()


def _is_asked(subject: Subject, row: Row) -> bool:
    return subject.family in row.families and (subject.primary or row.variants)


def _is_chosen(name: str, patterns: list[str] | None) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns or "*")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure this library beside the disk itself, etcd's log in Go, and other stores.",
        epilog="How it measures, and how to read it, is said at the head of this file.",
    )
    parser.add_argument("--rounds", type=int, help="how often to measure everything (default: 7)")
    parser.add_argument("--rows", nargs="+", metavar="PATTERN", help="measure these rows only, such as 'save-*'")
    parser.add_argument("--subjects", nargs="+", metavar="PATTERN", help="measure these subjects only, such as 'wal*'")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PATH",
        help="an interpreter in whose environment another build of this library is installed, such as the compiled one",
    )
    parser.add_argument("--directory", type=Path, default=KEPT, help="on the disk to be measured (default: .bench)")
    parser.add_argument("--gigabyte", type=int, metavar="BYTES", help="what stands for 1 GB when logs are opened")
    parser.add_argument(
        "--output", type=Path, help="where to write what was found (default: docs; with --quick: nowhere)"
    )
    parser.add_argument("--quick", action="store_true", help="only show that everything works")
    parser.add_argument("--from", dest="source", type=Path, metavar="JSON", help="measure nothing; show this run again")
    parser.add_argument("--list", action="store_true", help="list the rows")
    return parser.parse_args()


def _run(arguments: argparse.Namespace, rows: list[Row], console: Console) -> Results:
    def say(message: str) -> None:
        console.print(message, markup=False)

    arguments.directory.mkdir(exist_ok=True)
    others = Others()
    subjects = [
        subject
        for subject in find_subjects(arguments.python, arguments.directory, say)
        if _is_chosen(subject.name, arguments.subjects)
    ]
    results = Results(
        machine=describe_machine(arguments.directory),
        rows={row.name: {"title": row.title, "task": row.task} for row in rows},
        subjects={
            subject.name: {"family": subject.family, "primary": subject.primary, **subject.facts}
            for subject in subjects
        },
    )
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=arguments.directory)))
        progress = stack.enter_context(Progress(*columns, console=console, refresh_per_second=2))
        run = stack.enter_context(Run(results, subjects, directory, progress))
        try:
            run.measure(rows, arguments.rounds or (1 if arguments.quick else ROUNDS))
        except KeyboardInterrupt:
            say("interrupted: this is what was measured until now")
    share = others.share()
    results.machine["processor time that others took meanwhile"] = f"{share:.0%}"
    if share > BUSY:
        say(f"Others took {share:.0%} of the processors meanwhile: these figures are of little worth.")
    return results


def _print(table: Table, console: Console) -> None:
    screen = Screen(title=table.title, title_justify="left")
    for number, head in enumerate(table.columns):
        screen.add_column(head, justify="right" if number else "left")
    for cells in table.cells:
        screen.add_row(*cells)
    console.print(screen)


def main() -> None:
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    gigabyte = arguments.gigabyte or (250_000 if arguments.quick else 64_000_000)
    rows = [
        row
        for row in all_rows(scale=0.02 if arguments.quick else 1, gigabyte=gigabyte)
        if _is_chosen(row.name, arguments.rows)
    ]
    if not rows:
        sys.exit("no row has such a name; --list shows all")
    if arguments.list:
        for row in rows:
            console.print(f"{row.name:16} {row.title}", markup=False)
        return
    results = Results.read(arguments.source) if arguments.source else _run(arguments, rows, console)
    for table in (*tables(results), goal_table(results)):
        _print(table, console)
    output = arguments.output or (None if arguments.quick else ROOT / "docs")
    if output and results.values:
        output.mkdir(exist_ok=True)
        results.write(output / "performance.json")
        (output / "performance.svg").write_text(draw(results))
        write_page(output / "performance.md", results)
        write_comparison(output / "why.md", results)
        console.print(f"written to {output}: performance.json, performance.svg, performance.md", markup=False)


if __name__ == "__main__":
    main()
