"""A plugin for pytest: which lines of the package each test goes through, and how long it takes."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest


class Measuring:
    """
    Writes ``{test: [seconds, {module: [line, ...]}]}`` for the tests that pass.

    Args:
        result: The file to write.
        package: The directory of the modules.
    """

    def __init__(self, result: Path, package: Path) -> None:
        self._result = result
        self._package = package
        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=[f"{package}/*"])
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        begun = time.monotonic()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.monotonic() - begun

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self._failed.add(report.nodeid)

    def pytest_collection_finish(self) -> None:
        self._coverage.start()

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        lines: dict[str, dict[str, list[int]]] = defaultdict(dict)
        for file in data.measured_files():
            for line, through in data.contexts_by_lineno(file).items():
                for test in through:
                    lines[test].setdefault(Path(file).stem, []).append(line)
        passed = self._seconds.keys() - self._failed
        self._result.write_text(json.dumps({test: [self._seconds[test], lines[test]] for test in sorted(passed)}))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Measuring(Path(os.environ["MEASURED"]), Path(os.environ["PACKAGE"])))
