"""
The examples in the documents run as tests.

In ``README.md`` and in all of ``docs/`` those are the code blocks marked ``python`` (with ``>>>`` or without), ``sh``
and ``console``; a document is read from top to bottom, by somebody who has typed everything before. In ``src/`` those
are the ``>>>`` examples in docstrings, which may use all names of their module and of ``wal``. Each file's examples run
in a new, empty directory, and must close the logs that they open.

Commands in ``sh`` must succeed. In ``console`` each line with ``$`` is a command, and what stands below it is what it
prints (``...`` is anything). Three comments in front of a block change what is done with it: ``<!-- file: NAME -->``
writes it to a file, ``<!-- not run: REASON -->`` leaves commands alone, and ``<!-- skip: next -->`` any block. In a
document with the comment ``<!-- needs: etcd -->`` Python has ``endpoints``, the addresses of three members; where there
is no etcd it is skipped.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path
from typing import Any
from unittest import SkipTest

from sybil import Document, Example, Region, Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

import wal
from etcd_cluster import ETCD, NO_ETCD, EtcdCluster

pytest_plugins = ["trials"]

_DIRECTORY, _BEFORE, _REGISTRY, _HANDLERS = "__directory__", "__before__", "__registry__", "__handlers__"
_CLUSTER = "__cluster__"


def _enter_empty_directory(namespace: dict[str, Any]) -> None:
    namespace[_DIRECTORY] = tempfile.TemporaryDirectory(prefix="wal-examples-")
    namespace[_BEFORE] = os.getcwd()
    namespace[_REGISTRY] = wal._records.DEFAULT_REGISTRY.copy()
    namespace[_HANDLERS] = logging.getLogger("wal").handlers.copy()
    os.chdir(namespace[_DIRECTORY].name)
    sys.path.insert(0, os.getcwd())


def _enter_with_public_names(namespace: dict[str, Any]) -> None:
    _enter_empty_directory(namespace)
    namespace.update({name: getattr(wal, name) for name in wal.__all__}, wal=wal)


def _leave(namespace: dict[str, Any]) -> None:
    directory = os.getcwd()
    if _CLUSTER in namespace:
        namespace[_CLUSTER].stop()
    sys.path.remove(directory)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(directory + os.sep):
            del sys.modules[name]
    os.chdir(namespace[_BEFORE])
    namespace[_DIRECTORY].cleanup()
    wal._records.DEFAULT_REGISTRY._classes.update(namespace[_REGISTRY]._classes)
    logging.getLogger("wal").handlers[:] = namespace[_HANDLERS]
    left_open = [(name, value) for name, value in namespace.items() if isinstance(value, wal.WAL) and not value.closed]
    for _, log in left_open:
        log.close()
    assert not left_open, f"the examples leave logs open: {', '.join(name for name, _ in left_open)}"


def _comment_before(document: Document, region: Region, what: str) -> str | None:
    match = re.search(rf"<!-- {what}: (.+) -->\n\n?\Z", document.text[: region.start])
    return match and match[1]


class PythonParser(PythonCodeBlockParser):
    """Python is executed, or written to a file."""

    def __call__(self, document: Document) -> Iterable[Region]:
        """Yield the blocks, each with what is to be done."""
        for region in super().__call__(document):
            if name := _comment_before(document, region, "file"):
                region.evaluator = _write_to(Path(name))
            if "<!-- needs: etcd -->" in document.text:
                region.evaluator = _with_etcd(region.evaluator)
            yield region


class ShellParser(CodeBlockParser):
    """Commands are run, unless a reason says why not."""

    def __call__(self, document: Document) -> Iterable[Region]:
        """Yield the blocks that are to be run."""
        for region in super().__call__(document):
            if not _comment_before(document, region, "not run"):
                yield region


def _with_etcd(evaluate: Any) -> Any:
    def run(example: Example) -> Any:
        if ETCD is None:
            raise SkipTest(NO_ETCD)
        if _CLUSTER not in example.namespace:
            cluster = EtcdCluster(Path("etcd").absolute(), 3)
            cluster.start()
            example.namespace.update({_CLUSTER: cluster, "endpoints": cluster.endpoints})
        return evaluate(example)

    return run


def _write_to(path: Path) -> Any:
    def write(example: Example) -> None:
        path.write_text(example.parsed)
        importlib.invalidate_caches()  # it may be imported in the same second

    return write


def _run(command: str) -> str:
    """Run a command with this Python first on the path; return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(  # noqa: S603  # a command of the document
        ["bash", "-euo", "pipefail", "-c", command],  # noqa: S607
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}\nended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def _run_script(example: Example) -> None:
    _run(example.parsed)


def _run_session(example: Example) -> None:
    """Run the commands one by one, and compare what they print."""
    before, *sessions = re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)
    assert not before, f"a session begins with a command, not with {before!r}"
    for session in sessions:
        command, _, expected = session.partition("\n")
        found = _run(command)
        assert OutputChecker().check_output(expected, found, ELLIPSIS), f"{command}\nprinted:\n{found}"


_documents = Sybil(
    parsers=[
        PythonParser(doctest_optionflags=ELLIPSIS),
        ShellParser("sh", _run_script),
        ShellParser("console", _run_session),
        SkipParser(),
    ],
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
