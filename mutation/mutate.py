"""
Change the library in one place at a time, and see whether its tests notice: ``python mutation/mutate.py [--number N]``.

What is changed is what must never be wrong: framing, recovery and the writer. The tests are run once first, to see
which lines each of them goes through. A change is then shown to the tests of its line, the quick ones first, up to a
minute of them for each. It is noticed ("killed") if one fails, or takes forever.

Without ``--number`` all changes are tried, which takes hours; with it a sample, the same for the same ``--seed`` and
source. Results are kept in ``.mutation``, so that an interrupted run goes on where it was.

The tests run in processes of their own, on a copy of the package: those of interrupts and faults count steps of the
interpreter and would not stand a tool that puts its own calls in between.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

from changes import Change, Source

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
KEPT = ROOT / ".mutation"

MODULES = (
    "_codec",
    "_decoder",
    "_encoder",
    "_frame",
    "_hold",
    "_marks",
    "_marshal",
    "_recovery",
    "_repair",
    "_replay",
    "_segments",
    "_stamp",
    "_turns",
    "_wal",
    "_walk",
)
TESTS = (
    "at_rest",
    "codec",
    "concurrency",
    "decoder",
    "file_storage",
    "fixtures",
    "frame",
    "group_commit",
    "marks",
    "memory",
    "old_bugs",
    "reader",
    "repair",
    "retention",
    "torn_writes",
    "walk",
    "wal_create",
    "wal_faults",
    "wal_locks",
    "wal_open",
    "wal_save",
    "zero_ahead",
)
SIGNATURES = "tests/test_public_api.py"  # which no test goes through, since they are made when the module is loaded
FORKING = ["tests/test_wal_locks.py", "tests/test_concurrency.py"]
SECONDS_OF_TESTS = 60
MOST_SECONDS = 5 * SECONDS_OF_TESTS
FIRST_TESTS = 40

Measured = dict[str, tuple[float, dict[str, list[int]]]]
PYTEST = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]


class Tree:
    """A copy of the package, to be changed."""

    def __init__(self, name: str) -> None:
        self.path = KEPT / name
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(ROOT / "src", self.path, ignore=shutil.ignore_patterns("__pycache__"))

    def measure(self) -> Measured:
        """Run all tests, and return for each how long it took and through which lines it went."""
        result = KEPT / "measured.json"
        subprocess.run(
            [*PYTEST, "-p", "measuring", *(f"tests/test_{name}.py" for name in TESTS)],
            cwd=ROOT,
            env=self._environment(MEASURED=str(result), PACKAGE=str(self.path / "wal")),
            check=False,  # some do not stand being measured
        )
        measured: Measured = json.loads(result.read_text())
        if not measured:
            sys.exit("No test could be measured.")
        return measured

    def killer(self, source: Source, change: Change, tests: list[str]) -> str:
        """The test that notices a change; empty if none does."""
        module = self.path / "wal" / f"{change.module}.py"
        module.write_bytes(source.changed(change))
        try:
            first, more = tests[:FIRST_TESTS], tests[FIRST_TESTS:]
            return self._failure(first) or self._failure(more) or self._failure([SIGNATURES])
        finally:
            module.write_bytes(source.text)

    def _failure(self, tests: list[str]) -> str:
        if not tests:
            return ""
        arguments = self.path / "tests.txt"
        arguments.write_text("\n".join(tests))
        with subprocess.Popen(
            [*PYTEST, "-x", f"@{arguments}"],
            cwd=ROOT,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as run:
            try:
                output, _ = run.communicate(timeout=MOST_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                return "a test that did not end"
        failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return "" if run.returncode == 0 else failed[0] if failed else output[-200:]

    def _environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.path), str(HERE)]), **more}


def tests_of(measured: Measured, change: Change, line: int) -> Iterator[str]:
    """Yield the tests that go through a line, the quick ones first, or those that do so in processes of their own."""
    left = float(SECONDS_OF_TESTS)
    seen = False
    for test, (seconds, lines) in sorted(measured.items(), key=lambda item: item[1][0]):
        if line in lines.get(change.module, ()):
            seen = True
            yield test
            left -= seconds
            if left < 0:
                return
    if not seen:
        yield from FORKING


def main() -> None:
    parser = argparse.ArgumentParser(description="Change the library in one place at a time: do its tests notice?")
    parser.add_argument("--number", type=int, help="how many changes to try; by default all")
    parser.add_argument("--seed", type=int, default=1, help="which sample of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()

    sources = {name: Source(name, (ROOT / "src" / "wal" / f"{name}.py").read_bytes()) for name in MODULES}
    changes = [change for source in sources.values() for change in source.changes()]
    print(f"{len(changes)} changes are possible.", flush=True)
    random.Random(options.seed).shuffle(changes)
    chosen = changes[: options.number]

    KEPT.mkdir(exist_ok=True)
    measured = Tree("measured").measure()
    texts = hashlib.sha256(b"".join(source.text for source in sources.values())).hexdigest()[:16]
    results = KEPT / f"{texts}.jsonl"
    known: dict[Change, str] = {}
    if results.exists():
        known = {Change(*change): killer for change, killer in map(json.loads, results.read_text().splitlines())}
    todo: SimpleQueue[Change] = SimpleQueue()
    for change in chosen:
        if change not in known:
            todo.put(change)

    def work(number: int) -> None:
        tree = Tree(f"tree-{number}")
        while True:
            try:
                change = todo.get_nowait()
            except Empty:
                return
            source = sources[change.module]
            known[change] = tree.killer(source, change, list(tests_of(measured, change, source.line(change.start))))
            with results.open("a") as file:
                file.write(json.dumps([change, known[change]]) + "\n")
            print("." if known[change] else "s", end="", flush=True)

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(options.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    survivors = [change for change in chosen if not known[change]]
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} changes were noticed.")
    for change in sorted(survivors):
        source = sources[change.module]
        old = source.text[change.start : change.end].decode()
        print(f"  {change.module}.py:{source.line(change.start)}: {' '.join(old.split())!r} to {change.new!r}")


if __name__ == "__main__":
    main()
