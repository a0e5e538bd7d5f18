# SPDX-License-Identifier: Apache-2.0
"""What the tests with etcd need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from .gowal import GoError, GoWAL, build

BUILT = Path(__file__).parent.parent / ".interop"
LOGS = {"quick": 1_000, "full": 10_000, "deep": 100_000}
LOGS_A_TEST = 500
"""So many that each kind of event is among them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--log", type=int, action="append", metavar="NUMBER", help="run the random logs of this number alone"
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


@pytest.fixture(scope="session")
def gowal(missing: Callable[[str], NoReturn]) -> Path:
    """The program ``gowal``."""
    try:
        return build(BUILT)
    except GoError as error:
        missing(str(error))


@pytest.fixture
def go(gowal: Path) -> Iterator[GoWAL]:
    """etcd's own log package, running."""
    with GoWAL(gowal) as go:
        yield go
