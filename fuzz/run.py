"""
Fuzz the library: ``python fuzz/run.py [--seconds 60] [target ...]``.

Each target runs in a process of its own, with so much time, half a gigabyte of memory, and one second for each
input. It begins with the inputs in ``fuzz/corpus`` and with those that earlier runs found worth keeping in ``.fuzz``.
An input that the library does not stand is written to ``.fuzz/findings``. Take it over into the corpus under a name
that says what it is about, and every test run tries it from then on.

Fuzzing needs atheris, which does not exist for every Python. Without it this says so and does nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import random
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CORPUS = HERE / "corpus"
KEPT = ROOT / ".fuzz"
FINDINGS = KEPT / "findings"

NAMES = ("frames", "records", "directory", "repair", "snapshot")
MOST_BYTES = 1 << 16


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process, which does not come back from that."""
    import atheris

    logging.disable()
    with atheris.instrument_imports(include=["wal"]):
        import wal  # noqa: F401 - before targets, so that it is instrumented
    import mutations
    import targets

    target = targets.TARGETS[name]

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        choose = random.Random(seed)

        def mutate_bytes(part: bytes) -> bytes:
            if choose.random() < 0.5:
                return mutations.some_bytes(choose, part)
            return bytes(atheris.Mutate(part, max(64, 2 * len(part))))

        if choose.random() < 0.05:
            return mutate_bytes(data)[:most]
        return target.mutate(data, choose, mutate_bytes)[:most]

    def check(data: bytes) -> None:
        targets.run(name, data)

    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    FINDINGS.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MOST_BYTES}",
        f"-artifact_prefix={FINDINGS}/{name}-",
        "-rss_limit_mb=512",
        "-timeout=10",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(kept), str(CORPUS / name)], check, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the library.")
    parser.add_argument("--seconds", type=int, default=60, help="how long to fuzz each target (default: 60)")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="target", help=f"by default all: {', '.join(NAMES)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(NAMES):
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if importlib.util.find_spec("atheris") is None:
        version = ".".join(map(str, sys.version_info[:2]))
        print(f"Not fuzzed: atheris is not installed. `pip install atheris`, if there is one for Python {version}.")
        return 0
    if arguments.in_this_process:
        fuzz(arguments.targets[0], arguments.seconds)
        return 0
    parts = ("src", "fuzz", "tests")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in parts)}
    KEPT.mkdir(exist_ok=True)
    failed = []
    for name in arguments.targets or NAMES:
        command = [sys.executable, __file__, "--in-this-process", f"--seconds={arguments.seconds}", name]
        log = KEPT / f"{name}.log"
        with log.open("wb") as output:
            result = subprocess.run(command, env=environment, check=False, stdout=output, stderr=output)
        said = log.read_text(errors="replace")
        if result.returncode:
            failed.append(name)
            print("\n".join([line[:400] for line in said.splitlines() if "INFO" not in line][-40:]))
        inputs = re.search(r"number_of_executed_units: (\d+)", said)
        outcome = "SOMETHING FOUND" if result.returncode else "nothing found"
        print(
            f"{name}: {outcome}, after {inputs[1] if inputs else '?'} inputs (see {log.relative_to(ROOT)})", flush=True
        )
    if failed:
        print(f"The inputs are in {FINDINGS.relative_to(ROOT)}.")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
