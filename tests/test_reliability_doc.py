"""The track record in the documentation is complete, and every test that it names exists."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent
BESIDE = [TESTS.parent / "interop", TESTS.parent / "cluster"]
TEXT = (TESTS.parent / "docs" / "reliability.md").read_text()
PROMISES, OLD_BUGS, BAD_INPUT = (
    TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0] for title in ("Promises", "Old bugs", "Bad input")
)


def numbered(letter: str, *ranges: tuple[int, int], digits: int = 1) -> list[str]:
    return [f"{letter}{number:0{digits}}" for first, last in ranges for number in range(first, last + 1)]


PROMISE_IDS = numbered("P", (1, 19))
BUG_IDS = [
    *numbered("R", (1, 16), (20, 28), (30, 59), digits=2),
    *numbered("F", (1, 44)),
    *numbered("S", (1, 10)),
    *numbered("M", (1, 8)),
]
WITHOUT_A_TEST = {"R36": "not supported"}
"""The bugs that nothing guards against, and how their rows say so."""


class Row(NamedTuple):
    """A row of a table: its first cell, the cells between, and its last cell, which names tests."""

    name: str
    between: list[str]
    tests: str


def rows(section: str) -> list[Row]:
    tables = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in tables]
    return [Row(row[0], row[1:-1], row[-1]) for row in cells if row[-1] != "test"]


BUGS = rows(OLD_BUGS)
INPUTS = rows(BAD_INPUT)
SECTIONS = [(text.split(":")[0], text) for text in PROMISES.split("\n### ")[1:]]

FILES = [file for folder in [TESTS, *BESIDE] for file in folder.glob("test_*.py")]
REFERENCE = re.compile(r"`(test_\w+\.py)::(test_\w+)(?:\[([^`]+)\])?`")
REFERENCES = sorted({match.group(0).strip("`") for match in REFERENCE.finditer(TEXT)})


def text_of(file: str) -> str:
    return next(path for path in (folder / file for folder in [TESTS, *BESIDE]) if path.exists()).read_text()


@functools.cache
def names_in(file: str) -> frozenset[str]:
    """The names of a file's tests, those in classes too."""
    tree = ast.walk(ast.parse(text_of(file)))
    return frozenset(node.name for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@functools.cache
def texts_in(file: str) -> frozenset[str]:
    """All strings in a file, as the ids of parametrized rows are."""
    tree = ast.walk(ast.parse(text_of(file)))
    return frozenset(node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str))


@pytest.mark.parametrize("reference", REFERENCES)
def test_each_test_that_is_named_exists(reference: str) -> None:
    """A test that is renamed or removed takes its rows along, and so does a parametrized row."""
    match = REFERENCE.fullmatch(f"`{reference}`")
    assert match
    file, name, row = match.groups()

    assert name in names_in(file)
    assert row is None or row in texts_in(file)


def test_each_file_of_tests_has_a_name_of_its_own() -> None:
    """A name leads to one file."""
    assert len({path.name for path in FILES}) == len(FILES)


def test_nothing_else_looks_like_a_test() -> None:
    """A name with a slip in it is not taken for prose and passed over."""
    files = re.compile("|".join(f"`{re.escape(path.name)}`" for path in FILES))
    assert re.findall(r"\btest_\w+|::", files.sub("", REFERENCE.sub("", TEXT))) == []


def test_each_promise_has_its_place_in_order() -> None:
    """P1 to P19, each with what it assumes, its limits and its tests."""
    assert [id for id, _ in SECTIONS] == PROMISE_IDS
    for id, text in SECTIONS:
        assert re.findall(r"^\* (\w+): \S", text, re.MULTILINE) == ["Assumes", "Limits", "Tests"], id
        assert REFERENCE.search(text.split("* Tests:")[1]), id


def test_each_bug_has_one_row_in_order() -> None:
    """No bug is forgotten, and none is told twice."""
    assert [bug.name for bug in BUGS] == BUG_IDS


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_each_bug_is_told_and_guarded(bug: Row) -> None:
    """What went wrong, what prevents it, and a test; those without a test are known, and say so."""
    assert len(bug.between) == 2
    assert all(bug.between)
    if bug.name in WITHOUT_A_TEST:
        assert bug.tests == WITHOUT_A_TEST[bug.name]
        assert WITHOUT_A_TEST[bug.name] in bug.between[1].lower()
    else:
        assert re.fullmatch(rf"{REFERENCE.pattern}(, {REFERENCE.pattern})*", bug.tests)


@pytest.mark.parametrize("row", INPUTS, ids=[row.name for row in INPUTS])
def test_each_bad_input_is_told_and_guarded(row: Row) -> None:
    """What happens, and the tests that show it."""
    assert len(row.between) == 1
    assert all(row.between)
    assert re.fullmatch(rf"{REFERENCE.pattern}(, {REFERENCE.pattern})*", row.tests)


def test_bad_inputs_are_told_once() -> None:
    """Each input has one row."""
    assert [name for name, times in Counter(row.name for row in INPUTS).items() if times > 1] == []
    assert len(INPUTS) > 50


def test_each_link_leads_somewhere() -> None:
    """An issue that is named is linked to its own page, and no link is left over."""
    prose, _, definitions = TEXT.partition("\n[go]: ")
    targets = dict(re.findall(r"^\[([^\]]+)\]: (https://\S+)$", "[go]: " + definitions, re.MULTILINE))
    used = {label for _, label in re.findall(r"(\[[^\]]+\])?\[([\w#-]+)\](?![(:])", REFERENCE.sub("", prose))}
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }

    assert used == set(targets)
    for label, target in targets.items():
        if "#" in label:
            assert target.endswith(f"/issues/{label.split('#')[1]}")
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors
