"""How much a test tries, what it counts for the end of the run, and what it may ask for: of all suites, as a plugin."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from etcd_cluster import ETCD, NO_ETCD

_COUNTED = "counted"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--effort",
        choices=("quick", "full", "deep"),
        default="quick",
        help="how much long tests try: quick is for every day, full for a change, deep for a night",
    )
    parser.addoption(
        "--etcd-required", action="store_true", help="fail, and do not skip, where etcd or a Go compiler is missing"
    )


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Callable[..., int]:
    """``effort(quick=…, full=…, deep=…)`` is the number for what ``--effort`` says."""

    def number(*, quick: int, full: int, deep: int) -> int:
        return {"quick": quick, "full": full, "deep": deep}[request.config.getoption("--effort")]

    return number


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """``count(**numbers)`` adds to what is told at the end of the run."""

    def count(numbers: Counter[str] | None = None, **more: int) -> None:
        named = {name.replace("_", " "): number for name, number in more.items()}
        record_property(_COUNTED, {**(numbers or {}), **named})

    return count


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell what the tests have counted, all workers together."""
    total: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, numbers in report.user_properties:
            if name == _COUNTED:
                total.update(numbers)
    if total:
        terminalreporter.section("counted")
        for what, number in total.items():
            terminalreporter.write_line(f"{number:12,} {what}")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """An empty directory, in memory where there is such a thing: for what is about bytes or names, and not syncs."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="wal-", dir=place if os.access(place, os.W_OK) else tmp_path) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def missing(request: pytest.FixtureRequest) -> Callable[[str], NoReturn]:
    """``missing(reason)`` skips a test for what is not there; with ``--etcd-required`` it fails."""

    def missing(reason: str) -> NoReturn:
        if request.config.getoption("--etcd-required"):
            pytest.fail(reason)
        pytest.skip(reason)

    return missing


@pytest.fixture(scope="session")
def etcd_program(missing: Callable[[str], NoReturn]) -> str:
    """The program ``etcd``."""
    if ETCD is None:
        missing(NO_ETCD)
    return ETCD
