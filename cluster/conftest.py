# SPDX-License-Identifier: Apache-2.0
"""What the proofs on a cluster need, and what they found in numbers."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

COUNTED = "counted"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--etcd-required", action="store_true", help="fail, and do not skip, where etcd is missing")


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """``count(**numbers)`` adds to what is told at the end of the run."""

    def count(numbers: Counter[str] | None = None, **more: int) -> None:
        named = {name.replace("_", " "): number for name, number in more.items()}
        record_property(COUNTED, {**(numbers or {}), **named})

    return count


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell what the tests have counted, each by itself and all together."""
    total: Counter[str] = Counter()
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    for report in reports:
        for name, numbers in report.user_properties:
            if name == COUNTED:
                total.update(numbers)
    if total:
        terminalreporter.section("proven on a cluster")
        for what, number in total.items():
            terminalreporter.write_line(f"{number:12,} {what}")


@pytest.fixture(scope="session")
def etcd(request: pytest.FixtureRequest) -> str:
    """The program ``etcd``."""
    program = shutil.which("etcd")
    if program is None:
        reason = "there is no etcd here (on Debian: etcd-server)"
        if request.config.getoption("--etcd-required"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Callable[..., int]:
    """``effort(quick=…, full=…, deep=…)`` is the number for what ``--effort`` says."""

    def number(*, quick: int, full: int, deep: int) -> int:
        return {"quick": quick, "full": full, "deep": deep}[request.config.getoption("--effort")]

    return number
