"""
What the commands write, to the letter, with standard error and the exit code.

``tests/data/cli`` has a file for each. ``REFRESH=1 pytest tests/test_cli_golden.py`` writes them anew; look at the
difference before you commit it.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from commands import DATA, SCENES, run

pytest.importorskip("typer")

GOLDEN = DATA / "cli"

COMMANDS = {
    "dump": "dump intact",
    "dump-full": "dump intact --full --from 7 --to 7",
    "dump-json": "dump intact --json",
    "dump-raw": "dump intact --raw",
    "dump-raw-json": "dump intact --raw --json",
    "dump-range": "dump intact --from 7 --to 8",
    "dump-types": "dump intact --type state --type SNAPSHOT",
    "dump-new": "dump new",
    "dump-torn": "dump torn --from 8",
    "dump-torn-keep-going": "dump torn --from 8 --keep-going",
    "dump-damaged": "dump damaged",
    "dump-damaged-keep-going": "dump damaged --keep-going",
    "dump-damaged-keep-going-raw": "dump damaged --keep-going --raw --json",
    "dump-unknown": "dump unknown --from 9",
    "dump-unknown-keep-going": "dump unknown --from 9 --keep-going",
    "dump-gap": "dump gap",
    "dump-gap-keep-going": "dump gap --keep-going",
    "dump-skipped-index": "dump skipped_index",
    "dump-skipped-index-keep-going": "dump skipped_index --keep-going",
    "dump-other-metadata-keep-going": "dump other_metadata --keep-going",
    "dump-etcd": "dump etcd_like --etcd",
    "dump-etcd-not-told": "dump etcd_like",
    "dump-etcd-as-another": "dump etcd_like/member",
    "dump-storage": "dump storage --from 31",
    "dump-records": "dump custom --records shop:REGISTRY",
    "dump-records-json": "dump custom --records shop:registry --json",
    "dump-records-not-told": "dump custom",
    "dump-records-keep-going": "dump custom --keep-going",
    "dump-empty": "dump empty",
    "verify": "verify intact",
    "verify-json": "verify intact --json",
    "verify-raw": "verify custom --raw",
    "verify-new": "verify new",
    "verify-torn": "verify torn",
    "verify-torn-json": "verify torn --json",
    "verify-torn-raw": "verify torn --raw",
    "verify-damaged": "verify damaged",
    "verify-unknown": "verify unknown",
    "verify-gap": "verify gap",
    "verify-skipped-index": "verify skipped_index",
    "verify-other-metadata": "verify other_metadata",
    "verify-etcd": "verify etcd_like --etcd",
    "verify-storage": "verify storage",
    "verify-storage-json": "verify storage --json",
    "verify-storage-damaged-snapshot": "verify storage_with_damaged_snapshot",
    "verify-storage-without-snapshot": "verify storage_without_snapshot",
    "verify-storage-without-snapshot-json": "verify storage_without_snapshot --json",
    "verify-records": "verify custom --records shop:records.REGISTRY",
    "verify-empty": "verify empty",
    "stat": "stat intact",
    "stat-json": "stat intact --json",
    "stat-new": "stat new",
    "stat-torn": "stat torn",
    "stat-damaged": "stat damaged",
    "stat-damaged-json": "stat damaged --json",
    "stat-gap": "stat gap",
    "stat-etcd": "stat etcd_like --etcd",
    "stat-storage": "stat storage",
    "stat-storage-json": "stat storage --json",
    "stat-records": "stat custom --records shopping",
    "repair": "repair intact",
    "repair-torn": "repair torn --yes",
    "repair-torn-no": "repair torn",
    "repair-torn-dry-run": "repair torn --dry-run",
    "repair-damaged": "repair damaged --force",
    "repair-damaged-end": "repair damaged_end",
    "repair-damaged-end-force": "repair damaged_end --force --yes",
    "repair-etcd": "repair etcd_like --etcd",
    "archive": "archive archived/data archived/archive",
    "archive-json": "archive archived/data archived/archive --json",
    "archive-nothing-new": "archive new new/archive",
    "archive-other-log": "archive archived/data/wal archived/archive",
    "archive-empty": "archive empty empty/archive",
    "archive-no-url": "archive intact nowhere://bucket",
    "restore": "restore archived/archive archived/restored",
    "restore-json": "restore archived/archive archived/restored --json",
    "restore-index": "restore archived/archive archived/restored --index 25",
    "restore-index-too-high": "restore archived/archive archived/restored --index 1000",
    "restore-dry-run": "restore archived/archive --dry-run",
    "restore-there-already": "restore archived/archive archived/data",
    "restore-damaged": "restore damaged_archive/archive damaged_archive/restored --index 19",
    "restore-damaged-dry-run": "restore damaged_archive/archive --dry-run",
    "restore-no-archive": "restore empty empty/restored",
    "restore-no-path": "restore archived/archive",
    "fixture-single": "dump fixtures/single",
    "fixture-segments": "dump fixtures/segments --type snapshot --type state",
    "fixture-segments-stat": "stat fixtures/segments",
    "fixture-segments-verify": "verify fixtures/segments",
    "fixture-big-stat": "stat fixtures/big",
    "fixture-etcd": "dump fixtures/etcd --etcd --from 4 --to 20",
    "fixture-etcd-stat": "stat fixtures/etcd --etcd",
    "fixture-etcd-verify": "verify fixtures/etcd --etcd",
}


def session(command: str, here: Path) -> str:
    """Run a command beside the log that it names, and return all that it writes, with its exit code."""
    arguments = shlex.split(command)
    if arguments[0] in ("archive", "restore"):
        pytest.importorskip("obstore", reason="pip install 'wal[archive]'")
    scene = re.split("[ /]", arguments[1])[0]
    SCENES[scene](here / scene)
    code, out, err = run(*arguments, here=here)
    text = f"$ wal {command}\n{out}"
    text += f"--- standard error\n{err}" if err else ""
    return f"{text}--- exit code {code}\n".replace(str(here), "/data")


@pytest.mark.parametrize("name", COMMANDS)
def test_golden(name: str, tmp_path: Path) -> None:
    """A command writes what its file says."""
    found = session(COMMANDS[name], tmp_path)
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("REFRESH"):
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(found)

    assert found == golden.read_text()


def test_every_golden_file_has_a_command() -> None:
    """A file that is left behind would say something that nobody looks at."""
    assert {path.stem for path in GOLDEN.iterdir()} == set(COMMANDS)
