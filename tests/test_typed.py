"""
What type checkers know is true at run time.

``typed/inferred.py`` and ``typed/refused.py`` are for the type checkers; ``make types`` runs those.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inferred
import pytest

import wal.aio
from wal._wal import CreateOptions, OpenOptions

CHECKED = [
    check
    for _, check in inspect.getmembers(inferred, inspect.isroutine)
    if check.__module__ == "inferred" and next(iter(inspect.signature(check).parameters)) in ("path", "_")
]


@pytest.mark.parametrize("check", CHECKED, ids=lambda check: check.__name__)
def test_what_is_inferred_runs(check: Callable[[Path], Any], tmp_path: Path) -> None:
    """A program that type checkers have nothing against does what it says."""
    done = check(tmp_path / "wal")
    if inspect.iscoroutine(done):
        asyncio.run(done)


@pytest.mark.parametrize(
    ("options", "function"),
    [
        pytest.param(CreateOptions, wal.WAL.create, id="create"),
        pytest.param(OpenOptions, wal.WAL.open, id="open"),
        pytest.param(OpenOptions, wal.read_wal, id="read_wal"),
    ],
)
def test_options_that_are_passed_on_are_those_of_the_log(options: Any, function: Callable[..., Any]) -> None:
    """``wal.aio`` hands its options on to these functions, and type checkers know all of them."""
    parameters = inspect.signature(function).parameters.values()
    keywords = {
        parameter.name: parameter.annotation for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY
    }

    assert {name: reference.__forward_arg__ for name, reference in options.__annotations__.items()} == keywords
