# SPDX-License-Identifier: Apache-2.0
"""P15: Logs that this library and etcd's package write in turns are the same to both."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from .exchange import KINDS, Life
from .gowal import GoWAL


def live(number: int, directory: Path, go: GoWAL) -> Counter[str]:
    """Live the life of one log; if that fails, say how to repeat it."""
    life = Life(number, directory / str(number) / "wal", go)
    try:
        life.live()
    except Exception as error:
        error.add_note(f"To see it again: make interop OPTIONS='-k random --log {number}'")
        raise
    return life.seen


def test_both_sides_find_the_same_in_random_logs(
    numbers: range, go: GoWAL, memory: Path, count: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    """
    Whoever makes, opens, appends to, cuts, tears and recovers a log, in whatever turns: both sides read the same from
    its beginning and from its snapshots, and that is what was saved.
    """
    seen: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    for number in numbers:
        seen += live(number, memory, go)
        shutil.rmtree(memory / str(number))

    count(seen)
    if not request.config.getoption("--log"):
        assert [kind for kind in KINDS if not seen[kind]] == []
