"""The documentation is complete and leads somewhere; that it builds without a warning is what `make docs` sees to."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import wal
import wal.aio
import wal.archive
import wal.cluster
import wal.prometheus
import wal.testing

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
KINDS = (".md", ".rst")
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.suffix in KINDS)
MARKDOWN = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
REFERENCE = {path: path.read_text() for path in sorted((DOCS / "api").glob("*.rst"))}
PUBLIC = [
    f"{module.__name__}.{name}"
    for module in (wal, wal.aio, wal.archive, wal.cluster, wal.etcd, wal.prometheus, wal.testing)
    for name in module.__all__
    if name != "etcd"
]

FENCE = re.compile(r"^( *)(`{3,})([^\n]*)\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)
RUN = {"python", "sh", "console"}
SHOWN = {"text", "{toctree}", "{include} ../CHANGELOG.md"}
"""What a fenced block may be: something that conftest.py runs, or something that nobody could run."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def anchors(path: Path) -> set[str]:
    """The places of a page, by the rule of GitHub and of MyST."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[str]:
    """The links of a page that lead into the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text()))
    return [link for link in found if not link.startswith("https://")]


def entries_of(page: str) -> list[str]:
    """The pages that a page's tables of contents list."""
    text = (DOCS / page).read_text()
    tables = re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    tables += re.findall(r"^\.\. toctree::\n((?: +.*\n|\n)*)", text, re.MULTILINE)
    lines = [line.strip() for table in tables for line in table.splitlines()]
    names = [re.sub(r".*<(.*)>$", r"\1", line) for line in lines if line and not line.startswith(":")]
    folder = Path(page).parent
    return [
        (folder / f"{name}{kind}").as_posix()
        for name in names
        for kind in KINDS
        if (DOCS / folder / f"{name}{kind}").exists()
    ]


class TestPages:
    def test_every_page_is_in_the_navigation_once(self) -> None:
        """From the first page on every page is found, and at one place."""
        listed = ["index.md"]
        for page in listed:
            listed += entries_of(page)

        assert sorted(listed) == PAGES

    @pytest.mark.parametrize("path", MARKDOWN, ids=named)
    def test_links_lead_somewhere(self, path: Path) -> None:
        """A file that is linked is there, and so is the place in it: in the repository as well as on the site."""
        for link in links(path):
            file, _, place = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), link
            assert not place or place in anchors(target), link

    def test_pages_on_the_site_do_not_link_to_pages_that_are_not(self) -> None:
        """A page outside of ``docs`` would be a download."""
        outside = [link for path in DOCS.rglob("*.md") for link in links(path) if re.match(r"(\.\./)+\w+\.md", link)]

        assert outside == []

    @pytest.mark.parametrize("path", MARKDOWN, ids=named)
    def test_every_block_is_run_or_says_why_not(self, path: Path) -> None:
        """Blocks are of a language that conftest.py runs, or of none; commands that are not run have their reason."""
        text = path.read_text()
        for block in FENCE.finditer(text):
            assert block[3] in RUN | SHOWN
            if block[3] == "text":
                assert not re.search(r"^(\$|>>>) ", block[4], re.MULTILINE), block[4]
        for reason in re.finditer(r"<!-- (?:not run|skip)\b(.*)-->\n(.*)", text):
            assert re.fullmatch(r": \w+.{9,} ", reason[1])
            assert reason[2].lstrip() in ("```sh", "```console")


class TestReference:
    def test_every_public_name_has_one_place(self) -> None:
        """A name that users import is documented once; nothing else is."""
        directives = re.findall(
            r"^\.\. auto(?:class|exception|function):: (\S+)", "\n".join(REFERENCE.values()), re.MULTILINE
        )

        assert sorted(directives) == sorted(PUBLIC)

    def test_the_overview_is_complete(self) -> None:
        """It lists all names, of the errors the branches, below the page where each is."""
        overview = REFERENCE[DOCS / "api" / "index.rst"]
        sections = re.findall(r"^:doc:`[^<]+<(\w+)>`\n(.*?)(?=^:doc:|\Z)", overview, re.MULTILINE | re.DOTALL)
        listed = {page: re.findall(r"^   (wal\.\S+)$", text, re.MULTILINE) for page, text in sections}
        errors = {name for name in PUBLIC if name.endswith("Error")}

        for page, names in listed.items():
            assert all(f":: {name}\n" in REFERENCE[DOCS / "api" / f"{page}.rst"] for name in names), page
        assert Counter(name for names in listed.values() for name in names if name not in errors) == Counter(
            name for name in PUBLIC if name not in errors
        )

    def test_members_are_documented(self) -> None:
        """A class with public methods of its own shows them."""
        text = "\n".join(REFERENCE.values())
        for name in PUBLIC:
            module, _, plain = name.rpartition(".")
            public = getattr(sys.modules[module], plain)
            if isinstance(public, type) and any(
                callable(getattr(public, member)) and not member.startswith("_") for member in vars(public)
            ):
                assert re.search(rf":: {re.escape(name)}\n(   :.*\n)*   :members:", text), name


@pytest.fixture
def judge(tmp_path: Path) -> Callable[[str], str]:
    """Judge a document as those of this project are."""
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())

    def run(text: str) -> str:
        (tmp_path / "page.md").write_text(text)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "page.md"]
        command += ["--override-ini", f"pythonpath={ROOT / 'tests'}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    return run


GOOD = """
<!-- file: greeting.py -->
```python
HOUR = 7
print("good morning")
```

```python
import greeting
assert greeting.HOUR == 7
```

```console
$ python greeting.py
good morning
$ echo one; echo two three
one
two ...
```

```sh
test -f greeting.py
```

<!-- not run: it takes too long -->
```sh
false
```
"""


class TestTheExamplesCanFail:
    """What is run and compared is worth something, because it would not pass if it were wrong."""

    def test_a_good_document_passes(self, judge: Callable[[str], str]) -> None:
        """Files are written and imported, commands are run, output is compared, and reasons are respected."""
        assert "4 passed" in judge(GOOD)

    @pytest.mark.parametrize(
        ("good", "bad", "words"),
        [
            pytest.param("\ngood morning\n", "\ngood evening\n", "good morning", id="another output"),
            pytest.param("test -f greeting.py", "test -f other.py; true", "1 failed", id="a command in the middle"),
            pytest.param("test -f", "echo | test ! -f", "1 failed", id="a command that fails"),
            pytest.param("<!-- not run: it takes too long -->\n", "", "1 failed", id="no reason"),
            pytest.param("assert greeting.HOUR == 7", "greeting.nothing", "AttributeError", id="Python"),
            pytest.param("$ python", "python", "begins with a command", id="output without a command"),
        ],
    )
    def test_a_bad_one_fails(self, judge: Callable[[str], str], good: str, bad: str, words: str) -> None:
        """A wrong output, a failing command, a missing reason, an exception."""
        assert good in GOOD
        found = judge(GOOD.replace(good, bad, 1))

        assert words in found
        assert "1 failed" in found
