# SPDX-License-Identifier: Apache-2.0
"""What the tests with etcd need, and what they found in numbers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .gowal import GoError, GoWAL, build

BUILT = Path(__file__).parent.parent / ".interop"
LOGS = {"quick": 1_000, "full": 10_000, "deep": 100_000}
LOGS_A_TEST = 500
"""So many that each kind of event is among them."""

COUNTED = "counted"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--log", type=int, action="append", metavar="NUMBER", help="run the random logs of this number alone"
    )
    parser.addoption(
        "--etcd-required", action="store_true", help="fail, and do not skip, where etcd or a Go compiler is missing"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand the random logs out to tests, some hundred each."""
    if "numbers" not in metafunc.fixturenames:
        return
    if chosen := metafunc.config.getoption("--log"):
        metafunc.parametrize(
            "numbers", [range(number, number + 1) for number in chosen], ids=lambda n: f"log {n.start}"
        )
        return
    total = LOGS[metafunc.config.getoption("--effort")]
    numbers = [range(first, first + LOGS_A_TEST) for first in range(0, total, LOGS_A_TEST)]
    metafunc.parametrize("numbers", numbers, ids=lambda n: f"logs {n.start} to {n.stop - 1}")


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """``count(**numbers)`` adds to what is told at the end of the run."""

    def count(numbers: Counter[str] | None = None, **more: int) -> None:
        record_property(COUNTED, {**(numbers or {}), **more})

    return count


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell what the tests have counted, all workers together."""
    total: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, numbers in report.user_properties:
            if name == COUNTED:
                total.update(numbers)
    if total:
        terminalreporter.section("exchanged with etcd")
        for what, number in total.items():
            terminalreporter.write_line(f"{number:12,} {what}")


def _need(request: pytest.FixtureRequest, reason: str) -> None:
    if request.config.getoption("--etcd-required"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def gowal(request: pytest.FixtureRequest) -> Path:
    """The program ``gowal``."""
    try:
        return build(BUILT)
    except GoError as error:
        _need(request, str(error))
        raise


@pytest.fixture(scope="session")
def etcd(request: pytest.FixtureRequest) -> str:
    """The program ``etcd``."""
    program = shutil.which("etcd")
    if program is None:
        _need(request, "there is no etcd here (on Debian: etcd-server)")
    assert program
    return program


@pytest.fixture
def go(gowal: Path) -> Iterator[GoWAL]:
    """etcd's own log package, running."""
    with GoWAL(gowal) as go:
        yield go


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """An empty directory, in memory where there is such a thing: for what is about bytes, and not about syncs."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="wal-", dir=place if os.access(place, os.W_OK) else tmp_path) as path:
        yield Path(path)


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Callable[..., int]:
    """``effort(quick=…, full=…, deep=…)`` is the number for what ``--effort`` says."""

    def number(*, quick: int, full: int, deep: int) -> int:
        return {"quick": quick, "full": full, "deep": deep}[request.config.getoption("--effort")]

    return number
