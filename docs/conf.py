"""
How the site is built from these pages: ``make docs`` writes it to ``site/``.

Sphinx, with Markdown by MyST. Docstrings are reStructuredText with Google's sections; they are imported from the
library, so the reference says what the code says. Every reference that leads nowhere is a warning, and `make docs`
makes an error of each warning.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_signature
from sphinx.pycode import ModuleAnalyzer

import wal

project = "wal"
author = "the authors of wal"
project_copyright = "the authors of wal; Apache-2.0"
version = release = version_of("wal")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns: list[str] = []
suppress_warnings: list[str] = []
nitpicky = True
# The libraries of others are not looked up: that would take the network. Type variables have no place of their own.
nitpick_ignore_regex = [
    (r"py:.*", rf"(obstore|prometheus_client|{'|'.join(sorted(sys.stdlib_module_names))})(\..+)?"),
    (r"py:(obj|class)", r"(.+\.)?(_?(Entry|State|Snapshot|Saved)T\w*|_[CRT])"),
]

myst_heading_anchors = 4
myst_links_external_new_tab = False

autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
# As `attributes`, those named `type` and `bytes` would be taken for the types in signatures.
napoleon_custom_sections = [("Attributes", "params_style")]

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"wal {release}"
html_static_path = ["_static"]
html_css_files = ["wal.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None

MADE_BY_OTHERS = {
    "wal.WAL",
    "wal.PendingSave",
    "wal.FileSystem",
    "wal.Storage",
    "wal.EntrySource",
    "wal.Follower",
    "wal.aio.AsyncFollower",
    "wal.cluster.EtcdFollower",
    "wal.cluster.EtcdStorage",
    "wal.cluster.SnapshotStore",
}
"""Classes that callers do not make by themselves, as they do not make errors. Their text says how they are made."""

HOMES = {"Path": "pathlib", "AsyncWAL": "wal.aio"} | dict.fromkeys(
    ("EtcdFollower", "EtcdStorage", "SnapshotStore"), "wal.cluster"
)
BARE_NAMES_OF_OTHERS = {"go", "api/etcd"}
"""Pages on which names without ``wal.`` may be those of something else."""

WITH_A_CAPITAL = re.compile(r"[A-Z]\w+(\.\w+)?$")
PLAIN_NAME = re.compile(rf"(?<![.\w])({'|'.join([*HOMES, *wal.__all__])})\b(?!:)")


def show_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """Leave out what is not for callers, and show values that can be read."""
    if name in MADE_BY_OTHERS or what == "exception":
        return "", None
    if signature is None:
        return None
    signature = re.sub(r"<wal\._[^>]+>", "...", signature)  # the operating system's own file system
    signature = re.sub(r"Unpack\[.*\]", "Any", signature)  # the text says whose options they are
    if not name.startswith("wal.etcd."):
        # The fields of a class that calls itself `wal.X` have annotations that are not looked up in its own module.
        signature = PLAIN_NAME.sub(lambda match: f"~{HOMES.get(match[0], 'wal')}.{match[0]}", signature)
    signature = re.sub(r"(?<== )(?:~wal\.|<class 'wal\.)(\w+)(?:'>)?", r"\1", signature)  # a default is no type
    signature = re.sub(r"(?<== )\d{5,}\b", lambda match: f"{int(match[0]):_}", signature)
    return signature, returned


def link_names(app: Any, doctree: nodes.document, page: str) -> None:
    """Let each public name that is written as code lead to its place in the reference."""
    objects = app.env.domains["py"].objects
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().removesuffix("()")
        if page not in BARE_NAMES_OF_OTHERS and (name in wal.__all__ or WITH_A_CAPITAL.match(name)):
            name = f"wal.{name}"
        parents = (nodes.reference, nodes.title, desc_signature)
        if name not in objects or any(isinstance(parent, parents) for parent in parents_of(literal)):
            continue
        place = objects[name]
        uri = f"{app.builder.get_relative_uri(page, place.docname)}#{place.node_id}"
        literal.replace_self(nodes.reference("", "", literal.deepcopy(), internal=True, refuri=uri))


def name_type_parameters(_app: Any, doctree: nodes.document, _page: str) -> None:
    """Leave out what the name of a type parameter says to type checkers alone."""
    for text in list(doctree.findall(nodes.Text)):
        if re.fullmatch(r"_?(Entry|State|Snapshot|Saved)T(_co|_contra)?", text):
            text.parent.replace(text, nodes.Text(text.strip("_").partition("_")[0]))


def parents_of(node: nodes.Node) -> Iterator[nodes.Node]:
    """Yield what a node stands in, from the inside out."""
    while node.parent is not None:
        node = node.parent
        yield node


def find_source_order() -> None:
    """Let Sphinx know the order in which members are written, although public classes call themselves ``wal.X``."""
    public = ModuleAnalyzer.for_module("wal")
    public.analyze()
    for path in sorted(Path(wal.__file__).parent.glob("_[a-z]*.py")):
        if not path.stem.endswith("_compiled"):
            private = ModuleAnalyzer.for_module(f"wal.{path.stem}")
            private.analyze()
            public.tagorder.update(private.tagorder)


def setup(app: Any) -> None:
    find_source_order()
    app.connect("autodoc-process-signature", show_signature)
    app.connect("doctree-resolved", link_names)
    app.connect("doctree-resolved", name_type_parameters)
