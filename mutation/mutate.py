"""
Change the library in one place at a time, and see whether its tests notice: ``python mutation/mutate.py [--number N]``.

What is changed is what must never be wrong: framing, recovery and the writer. A change is noticed ("killed") if a
test fails, or takes forever. The modules' own tests go first, then the rest of those that test the log. Without
``--number`` all changes are tried, which takes hours; with it a sample, the same for the same ``--seed`` and source.
Results are kept in ``.mutation``, so that an interrupted run goes on where it was.

The tests run in processes of their own, on a copy of the package: the tests of interrupts and faults count steps of
the interpreter and would not stand a tool that puts its own calls in between.
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
from pathlib import Path
from queue import Empty, SimpleQueue

from changes import Change, Source

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".mutation"
MOST_SECONDS = 180

OWN_TESTS = {
    "_codec": ["test_codec"],
    "_decoder": ["test_decoder"],
    "_encoder": ["test_wal_save"],
    "_frame": ["test_frame"],
    "_hold": ["test_wal_create", "test_wal_locks"],
    "_marks": ["test_marks"],
    "_marshal": ["test_codec", "test_wal_save"],
    "_recovery": ["test_repair"],
    "_repair": ["test_repair"],
    "_replay": ["test_reader"],
    "_segments": ["test_wal_open", "test_reader"],
    "_stamp": ["test_at_rest"],
    "_walk": ["test_walk"],
    "_wal": ["test_wal_save", "test_wal_open", "test_wal_create"],
}
ALL_TESTS = [
    "test_wal_save",
    "test_wal_open",
    "test_wal_create",
    "test_old_bugs",
    "test_reader",
    "test_decoder",
    "test_walk",
    "test_repair",
    "test_fixtures",
    "test_wal_faults",
    "test_at_rest",
    "test_wal_locks",
    "test_public_api",
    "test_marks",
    "test_memory",
    "test_retention",
    "test_file_storage",
    "test_simulation",
    "test_every_fault",
]


class Tree:
    """A copy of the package, to be changed."""

    def __init__(self, number: int) -> None:
        self._path = KEPT / f"tree-{number}"
        shutil.rmtree(self._path, ignore_errors=True)
        shutil.copytree(ROOT / "src", self._path, ignore=shutil.ignore_patterns("__pycache__"))

    def killer(self, source: Source, change: Change) -> str:
        """The test that notices a change; empty if none does."""
        module = self._path / "wal" / f"{change.module}.py"
        module.write_bytes(source.changed(change))
        try:
            own = OWN_TESTS[change.module]
            return self._failure(own) or self._failure([name for name in ALL_TESTS if name not in own])
        finally:
            module.write_bytes(source.text)

    def _failure(self, tests: list[str]) -> str:
        command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        for name in tests:
            with subprocess.Popen(
                [*command, f"tests/{name}.py"],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(self._path)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            ) as run:
                try:
                    output, _ = run.communicate(timeout=MOST_SECONDS)
                except subprocess.TimeoutExpired:
                    os.killpg(run.pid, signal.SIGKILL)
                    return f"{name}, which did not end"
            if run.returncode:
                failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
                return failed[0] if failed else name
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Change the library in one place at a time: do its tests notice?")
    parser.add_argument("--number", type=int, help="how many changes to try; by default all")
    parser.add_argument("--seed", type=int, default=1, help="which sample of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()

    sources = {name: Source(name, (ROOT / "src" / "wal" / f"{name}.py").read_bytes()) for name in OWN_TESTS}
    changes = [change for source in sources.values() for change in source.changes()]
    print(f"{len(changes)} changes are possible.", flush=True)
    random.Random(options.seed).shuffle(changes)
    chosen = changes[: options.number]

    KEPT.mkdir(exist_ok=True)
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
        tree = Tree(number)
        while True:
            try:
                change = todo.get_nowait()
            except Empty:
                return
            known[change] = tree.killer(sources[change.module], change)
            with results.open("a") as file:
                file.write(json.dumps([change, known[change]]) + "\n")
            print("s" if not known[change] else ".", end="", flush=True)

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
