"""Check the built site: python check_site.py SITE."""

from __future__ import annotations

import inspect
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import wal
import wal.aio
import wal.archive
import wal.prometheus
import wal.testing

MODULES = {module.__name__: module for module in (wal, wal.aio, wal.archive, wal.etcd, wal.prometheus, wal.testing)}
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data", "link": "href"}
NOT_PROSE = {"pre", "code", "script", "style", "title", "dt"}
MARKUP = re.compile(r"^(Args|Returns|Raises|Attributes|Yields):$|``|:\w+:`|(^|\s)>>> |\*\*\w", re.MULTILINE)
"""What is left of a docstring's or a page's markup if it was not understood."""


class Page(HTMLParser):
    """What a page links to, loads, has anchors of, and says."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.prose: list[str] = []
        self.fields: dict[str, set[str]] = {}
        self._code = 0
        self._in_label = False
        self._name = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note links, what is loaded, and anchors."""
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "dt" and values.get("id", "").startswith("wal."):
            self._name = values["id"]
        if tag == "dt" and values.get("class", "").startswith("field-"):
            self._in_label = True
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in LOADING and LOADING[tag] in values and values.get("rel") not in ("index", "search", "next", "prev"):
            self.loads.append(values[LOADING[tag]])
        self._code += tag in NOT_PROSE

    def handle_endtag(self, tag: str) -> None:
        """Note where code ends."""
        self._code -= tag in NOT_PROSE
        self._in_label = self._in_label and tag != "dt"

    def handle_data(self, data: str) -> None:
        """Note what is said outside of code."""
        if not self._code:
            self.prose.append(data)
        if self._in_label and data.strip(": \n"):
            self.fields.setdefault(self._name, set()).add(data.strip(": \n"))


def public_names() -> dict[str, Any]:
    """Return every public object by its name, with the members of classes."""
    found: dict[str, Any] = {}
    for module_name, module in MODULES.items():
        for name in module.__all__:
            public = getattr(module, name)
            if inspect.ismodule(public):
                continue
            found[f"{module_name}.{name}"] = public
            if inspect.isclass(public):
                found |= {
                    f"{module_name}.{name}.{member}": value
                    for member, value in vars(public).items()
                    if not member.startswith("_")
                    if inspect.isfunction(value) or isinstance(value, (classmethod, staticmethod, property))
                }
    return found


def internals_of(name: str) -> bool:
    """Tell whether a name is a member of a class that has more for its own module than for callers."""
    return name.startswith("wal.PendingSave.") and name.rpartition(".")[2] not in ("done", "wait")


def main(site: Path) -> int:
    """Print what is wrong; return 1 if anything is."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    wrong: list[str] = []
    anchors = set().union(*(page.anchors for page in pages.values()))
    fields = {name: labels for page in pages.values() for name, labels in page.fields.items()}
    titles = {"Args": "Parameters", "Returns": "Returns", "Raises": "Raises", "Attributes": "Attributes"}
    names = public_names()
    for name, public in names.items():
        if internals_of(name):
            continue
        if name not in anchors:
            wrong.append(f"{name} is not in the reference")
        for title, label in titles.items():
            if re.search(rf"^ *{title}:$", public.__doc__ or "", re.MULTILINE) and label not in fields.get(name, ()):
                wrong.append(f"{name}: the section {title} is not shown")
    for path, page in pages.items():
        for link in (*page.links, *page.loads):
            target = urlsplit(link)
            if target.scheme or target.netloc:
                if link in page.loads:
                    wrong.append(f"{path}: loads {link}")
                continue
            file = (path.parent / unquote(target.path)).resolve() if target.path else path
            if not file.is_file():
                wrong.append(f"{path}: there is no {link}")
            elif target.fragment and file in pages and unquote(target.fragment) not in pages[file].anchors:
                wrong.append(f"{path}: there is no place {link}")
        wrong += [f"{path}: markup is shown: {match[0]!r}" for match in MARKUP.finditer("".join(page.prose))]
    for style in site.rglob("*.css"):
        wrong += [
            f"{style}: loads {url}" for url in re.findall(r"url\(['\"]?((?:https?:)?//[^)'\"]+)", style.read_text())
        ]
    for line in wrong:
        print(line)
    print(f"{len(pages)} pages, {len(names)} names, {len(wrong)} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
