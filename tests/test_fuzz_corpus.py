"""What is fuzzed stands every input of the corpus, and many that are made of those, also without a fuzzer."""

from __future__ import annotations

import importlib.util
import logging
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mutations
import run
import seeds
import targets
import wal
from archive import FIRST, pack, unpack
from crashes import SimulatedDisk

INPUTS = sorted(seeds.CORPUS.glob("*/*"))
MOST_CORPUS_BYTES = 300_000


@pytest.fixture(autouse=True)
def _no_warnings_of_the_library(caplog: pytest.LogCaptureFixture) -> None:
    """It has thousands of torn logs to warn of."""
    caplog.set_level(logging.CRITICAL, logger="wal")


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}: {path.name}")
def test_each_input_of_the_corpus(path: Path) -> None:
    """P8, P9, P10, P12: nothing but errors of this library come of it, and all answers agree."""
    targets.run(path.parent.name, path.read_bytes())


@pytest.mark.torture
@pytest.mark.parametrize("name", targets.TARGETS)
def test_inputs_made_of_the_corpus(name: str, effort: Callable[..., int]) -> None:
    """P8, P9, P10, P12: nor of inputs that are made of it by a few mutations each."""
    corpus = [path.read_bytes() for path in INPUTS if path.parent.name == name]
    for number in range(effort(quick=200, full=5000, deep=500_000)):
        choose = random.Random(f"{name} {number}")
        data = choose.choice(corpus)
        for _ in range(choose.choice([1, 1, 2, 4])):
            data = targets.TARGETS[name].mutate(data, choose, lambda part: mutations.some_bytes(choose, part))  # noqa: B023
        try:
            targets.run(name, data)
        except Exception as error:
            error.add_note(f"input {number} of {name}: {data!r:.2000}")
            raise


def test_the_corpus_is_made_of_what_the_library_writes() -> None:
    """``python fuzz/seeds.py`` makes the same seeds again, and every target has some. All of it is small."""
    assert {str(path.relative_to(seeds.CORPUS)): path.read_bytes() for path in seeds.CORPUS.glob("*/seed-*")} == dict(
        seeds.seeds()
    )
    assert {path.parent.name for path in seeds.CORPUS.glob("*/seed-*")} == targets.TARGETS.keys()
    assert sum(path.stat().st_size for path in INPUTS) < MOST_CORPUS_BYTES


def test_targets_complain() -> None:
    """A wrong answer, and one that takes too long, is seen."""
    with pytest.raises(targets.Complaint, match=r"^a{1,2}…$"):
        targets.expect(False, "a" * 100)
    with pytest.raises(targets.Complaint, match="writes"):
        with targets.unchanged(disk := targets.disk_of({"name": b""})):
            disk.before_change("writes")


@pytest.mark.parametrize("name", sorted(targets.TARGETS.keys() - {"records"}))
def test_mutations_keep_checksums(name: str) -> None:
    """Many mutated logs and snapshots are still well-formed for a while; without that, fuzzing has no depth."""
    seed = seeds.CORPUS / name / ("seed-three-snapshots" if name == "snapshot" else "seed-log")
    deep = 0
    for number in range(100):
        choose = random.Random(number)
        data = targets.TARGETS[name].mutate(seed.read_bytes(), choose, lambda part: mutations.some_bytes(choose, part))  # noqa: B023
        if name == "snapshot":
            disk = SimulatedDisk({f"snap/{n}": content for n, content in unpack(data).items()} | {"snap": None})
            snapshotter = wal.Snapshotter(targets.SNAPSHOTS, fs=disk)
            deep += any(snapshotter.is_intact(int(n[:16], 16)) for n in snapshotter.names())
        else:
            content = max(unpack(data).values(), key=len, default=b"")
            deep += any(len(targets.walk(content, *head).frames) > 3 for head in targets.HEADS)
    assert deep > 30


def test_directories_as_bytes() -> None:
    """Any bytes are a directory; and of any small directory there are bytes."""
    files = {"a": b"", "b": b"\n== c", "lost+found": b"== \n"}
    assert unpack(pack(files)) == files
    assert unpack(b"") == {}
    assert unpack(b"no name") == {FIRST: b"no name"}
    assert unpack(b"== .. ==\nx\n== a/b ==\n") == {}


def test_the_runner_knows_the_targets() -> None:
    """It names them before the library is imported, which a fuzzer must see."""
    assert set(run.NAMES) == targets.TARGETS.keys()


@pytest.mark.skipif(importlib.util.find_spec("atheris") is not None, reason="atheris is installed")
def test_the_runner_says_that_atheris_is_missing() -> None:
    """Without it nothing is fuzzed, and that is no failure."""
    result = subprocess.run([sys.executable, run.__file__], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Not fuzzed: atheris is not installed.")


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_runner_fuzzes() -> None:
    """A target that stands everything for a second passes."""
    command = [sys.executable, run.__file__, "--seconds", "1", "records"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "records: nothing found" in result.stdout
