"""
The examples in the documents run as tests, and ``--effort`` says how much is tried.

In ``README.md`` and ``docs/`` those are the code blocks marked ``python`` (with ``>>>`` or without); a document
is read from top to bottom, by somebody who has typed everything before. In ``src/`` those are the ``>>>`` examples
in docstrings, which may use all names of their module and of ``wal``. Each file's examples run in a new, empty
directory, and must close the logs that they open. ``<!-- skip: next -->`` in a document leaves a block out.
"""

from __future__ import annotations

import logging
import os
import tempfile
from doctest import ELLIPSIS
from typing import Any

import pytest
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

import wal

_DIRECTORY, _BEFORE, _REGISTRY, _HANDLERS = "__directory__", "__before__", "__registry__", "__handlers__"


def _enter_empty_directory(namespace: dict[str, Any]) -> None:
    namespace[_DIRECTORY] = tempfile.TemporaryDirectory(prefix="wal-examples-")
    namespace[_BEFORE] = os.getcwd()
    namespace[_REGISTRY] = _default_registry().copy()
    namespace[_HANDLERS] = logging.getLogger("wal").handlers.copy()
    os.chdir(namespace[_DIRECTORY].name)


def _enter_with_public_names(namespace: dict[str, Any]) -> None:
    _enter_empty_directory(namespace)
    namespace.update({name: getattr(wal, name) for name in wal.__all__}, wal=wal)


def _leave(namespace: dict[str, Any]) -> None:
    os.chdir(namespace[_BEFORE])
    namespace[_DIRECTORY].cleanup()
    _default_registry()._classes.update(namespace[_REGISTRY]._classes)
    logging.getLogger("wal").handlers[:] = namespace[_HANDLERS]
    left_open = [(name, value) for name, value in namespace.items() if isinstance(value, wal.WAL) and not value.closed]
    for _, log in left_open:
        log.close()
    assert not left_open, f"the examples leave logs open: {', '.join(name for name, _ in left_open)}"


def _default_registry() -> wal.RecordRegistry:
    registry = wal.register_record.__self__  # type: ignore[attr-defined]  # a bound method of it
    assert isinstance(registry, wal.RecordRegistry)
    return registry


_documents = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS), SkipParser()],
    patterns=["*.md"],
    setup=_enter_empty_directory,
    teardown=_leave,
)
_docstrings = Sybil(
    parsers=[DocTestParser(optionflags=ELLIPSIS)],
    patterns=["src/wal/*.py"],
    document_types={".py": PythonDocStringDocument},
    setup=_enter_with_public_names,
    teardown=_leave,
)

pytest_collect_file = (_documents + _docstrings).pytest()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--effort",
        choices=("quick", "full", "deep"),
        default="quick",
        help="how much the tests marked `torture` try: quick is for every day, full for a change, deep for a night",
    )
