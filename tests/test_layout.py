"""The house has floors, and importing it leaves everything as it was."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wal

PACKAGE = Path(__file__).parent.parent / "src" / "wal"  # what is installed may lack the sources of what is compiled
MODULES = sorted(PACKAGE.glob("*.py"))
COMMAND_LINE = sorted((PACKAGE / "_cli").glob("*.py"))
ARCHIVE = sorted((PACKAGE / "_archive").glob("*.py"))
CLUSTER = sorted((PACKAGE / "_cluster").glob("*.py"))
SUBPACKAGES = {"_archive", "_cli", "_cluster"}

FLOORS = [
    {"_events"},
    {"_build", "_crc32c", "_crc32c_compiled", "_errors", "_locks", "_names", "_observer", "_protobuf"}
    | {"_simulated_disk", "_turns"},
    {"_files", "_frame", "_notices", "_watch", "prometheus"},
    {"_records", "_segments", "_stamp"},
    {"_known", "_marks", "_progress"},
    {"_codec", "_codec_compiled", "_snapshotter", "_storage", "_walk"},
    {"_encoder", "_entry_index", "_marshal", "_memory", "_walk_compiled", "etcd", "testing"},
    {"_decoder"},
    {"_hold", "_live"},
    {"_replay", "_salvage"},
    {"_entries", "_follow", "_purge", "_repair", "_survey"},
    {"_reader", "_wal"},
    {"_recovery"},
    {"_file_storage", "aio"},
    {"archive", "cluster"},
    {"__init__"},
    {"__main__"},
]
"""The modules from the ground up. Each imports from lower floors only."""

DEPENDENCIES = {"crcmod", "portalocker"}
ACCELERATORS = {"crc32c", "google_crc32c"}
COMPILER = {"librt", "mypy_extensions"}
COMMANDS = {"rich", "typer"}
"""What the command line needs besides."""

EXTRAS = {
    "archive": {"obstore"},
    "prometheus": {"prometheus_client"},
    "__main__": COMMANDS,  # which looks whether they are there
}
"""What modules need that come with an extra; ``import wal`` does without them."""

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
each_cluster_module = pytest.mark.parametrize("path", CLUSTER, ids=lambda path: path.stem)
each_command_module = pytest.mark.parametrize("path", COMMAND_LINE, ids=lambda path: path.stem)
any_module = pytest.mark.parametrize(
    "path",
    MODULES + COMMAND_LINE + ARCHIVE + CLUSTER,
    ids=lambda path: str(path.relative_to(PACKAGE).with_suffix("")),
)


COMMAND_LINE_FLOORS = [
    {"exits", "histogram", "options", "terminal"},
    {"outcome", "reading", "rendering"},
    {"classes", "decoding", "extra", "place", "snapshots"},
    {"archive", "bench", "dump", "follow", "repair", "restore", "stat", "verify"},
    {"app"},
    {"__init__"},
]
"""Those of the command line, which stands on the whole library, and on which nothing stands but ``__main__``."""

CLUSTER_FLOORS = [
    {"keys", "messages", "sealed"},
    {"client", "entities"},
    {"batches", "ends", "pages", "quota"},
    {"follower", "ownership"},
    {"snapshots"},
    {"recovery"},
    {"storage"},
    {"opening"},
    {"__init__"},
]
"""Those of the storage on a cluster, which stands on the library, and on which nothing stands but ``cluster``."""

CLIENTS = {"client": {"grpc"}, "messages": {"google"}}
"""What its modules need that comes with the extra."""

PRIVATE = {("bench", "_files"), ("classes", "_records")}
"""The same syncs as a log makes, and the process-wide registry: else the command line knows the public API alone."""


ARCHIVE_FLOORS = [
    {"directory", "errors", "manifest", "walking"},
    {"objects", "source", "target"},
    {"ownership"},
    {"archiver", "reading"},
    {"restoring", "verifying"},
    {"__init__"},
]
"""Those of the archive, which stands on the library, and on which nothing stands but ``archive``."""

STORES = {"directory", "objects"}
"""The modules of the archive that know obstore."""


def floor_of(module: str) -> int:
    return next(floor for floor, modules in enumerate(FLOORS) if module in modules)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield level and module of each import: 1 and the name for one of our own, 0 and the top name for others."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module is None:
                yield from ((node.level, alias.name) for alias in node.names)
            else:
                yield node.level, node.module.partition(".")[0]


def test_every_module_has_a_floor() -> None:
    """A new module is put on a floor, and one that is gone leaves it."""
    assert sorted(module for floor in FLOORS for module in floor) == sorted(path.stem for path in MODULES)


@each_module
def test_imports_run_downwards(path: Path) -> None:
    """A module imports its own kind from lower floors only, by relative imports."""
    own = {module for level, module in imports(ast.parse(path.read_text())) if level} - SUBPACKAGES

    assert {module for module in own if floor_of(module) >= floor_of(path.stem)} == set()
    assert {level for level, _ in imports(ast.parse(path.read_text()))} <= {0, 1}


@each_module
def test_only_the_standard_library_and_the_dependencies_are_imported(path: Path) -> None:
    """
    Nothing else is needed at run time. The accelerators are tried inside of functions, in one module; what is
    written for the compiler needs its library, and nothing needs that.
    """
    tree = ast.parse(path.read_text())
    others = {module for level, module in imports(tree) if not level} - sys.stdlib_module_names
    for_checkers = {
        module
        for condition in ast.walk(tree)
        if isinstance(condition, ast.If) and ast.unparse(condition.test) == "TYPE_CHECKING"
        for statement in condition.body
        for level, module in imports(statement)
        if not level
    }
    inside = {
        module
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for level, module in imports(function)
        if not level
    }

    compiler = COMPILER if path.stem.endswith("_compiled") else set()
    extra = EXTRAS.get(path.stem, set())
    assert for_checkers <= {"typing_extensions"}  # type checkers come with it
    assert others - for_checkers <= DEPENDENCIES | compiler | extra | (
        ACCELERATORS if path.stem == "_crc32c" else set()
    )
    assert others & ACCELERATORS <= inside


def test_every_module_of_the_command_line_has_a_floor() -> None:
    """A new one is put on a floor, and one that is gone leaves it."""
    assert sorted(module for floor in COMMAND_LINE_FLOORS for module in floor) == [path.stem for path in COMMAND_LINE]


@each_command_module
def test_the_command_line_stands_on_the_public_api(path: Path) -> None:
    """Its modules import from its own lower floors, from what users import, and from the libraries of its extra."""
    floor = next(floor for floor, modules in enumerate(COMMAND_LINE_FLOORS) if path.stem in modules)
    lower = set().union(*COMMAND_LINE_FLOORS[:floor])
    tree = ast.parse(path.read_text())
    others = {module for level, module in imports(tree) if not level} - sys.stdlib_module_names

    assert {module for level, module in imports(tree) if level} <= lower
    assert {level for level, _ in imports(tree)} <= {0, 1}
    assert others <= COMMANDS | {"wal"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("wal"):
            _, _, private = (node.module or "").partition(".")
            names = {alias.name for alias in node.names} - {"__compiled__"}
            assert (path.stem, private) in PRIVATE if private else names <= set(wal.__all__)


def test_nothing_but_the_program_imports_the_command_line() -> None:
    """The library is complete without it."""
    users = {
        path.stem for path in MODULES if "_cli" in {m for level, m in imports(ast.parse(path.read_text())) if level}
    }

    assert users == {"__main__"}


def test_every_module_of_the_archive_has_a_floor() -> None:
    """A new one is put on a floor, and one that is gone leaves it."""
    assert sorted(module for floor in ARCHIVE_FLOORS for module in floor) == sorted(path.stem for path in ARCHIVE)


@pytest.mark.parametrize("path", ARCHIVE, ids=lambda path: path.stem)
def test_the_archive_stands_on_the_library(path: Path) -> None:
    """Its modules import from its own lower floors and from the library's modules; two of them know the stores."""
    floor = next(floor for floor, modules in enumerate(ARCHIVE_FLOORS) if path.stem in modules)
    tree = ast.parse(path.read_text())
    others = {module for level, module in imports(tree) if not level} - sys.stdlib_module_names

    assert {module for level, module in imports(tree) if level} <= set().union(*ARCHIVE_FLOORS[:floor])
    assert {level for level, _ in imports(tree)} <= {0, 1}
    assert others <= {"wal"} | ({"obstore"} if path.stem in STORES else set())


def test_nothing_but_the_public_module_imports_the_archive() -> None:
    """The library is complete without it."""
    users = {
        path.stem
        for path in MODULES + COMMAND_LINE
        if "_archive" in {module for level, module in imports(ast.parse(path.read_text())) if level}
    }

    assert users == {"archive"}


def test_every_module_of_the_cluster_has_a_floor() -> None:
    """A new one is put on a floor, and one that is gone leaves it."""
    assert sorted(module for floor in CLUSTER_FLOORS for module in floor) == [path.stem for path in CLUSTER]


@each_cluster_module
def test_the_cluster_stands_on_the_library(path: Path) -> None:
    """Its modules import from its own lower floors, from the library's, and what the extra brings."""
    floor = next(floor for floor, modules in enumerate(CLUSTER_FLOORS) if path.stem in modules)
    lower = set().union(*CLUSTER_FLOORS[:floor])
    tree = ast.parse(path.read_text())
    library = {
        (node.module or "").partition(".")[2]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("wal")
    }
    others = {module for level, module in imports(tree) if not level} - sys.stdlib_module_names - {"wal"}

    assert {module for level, module in imports(tree) if level} <= lower
    assert {level for level, _ in imports(tree)} <= {0, 1}
    assert {floor_of(module) for module in library} <= set(range(floor_of("cluster")))
    assert others <= CLIENTS.get(path.stem, set())


def test_nothing_but_the_public_module_imports_the_cluster() -> None:
    """The library is complete without it."""
    users = {
        path.stem for path in MODULES if "_cluster" in {m for level, m in imports(ast.parse(path.read_text())) if level}
    }

    assert users == {"cluster"}


CLOCK = {
    *("time", "time_ns", "localtime", "gmtime", "ctime", "datetime", "now", "utcnow", "today"),
    *(f"{name}{unit}" for name in ("st_atime", "st_mtime", "st_ctime") for unit in ("", "_ns")),
    *("getatime", "getmtime", "getctime", "utime"),
}


@any_module
def test_no_module_looks_at_the_clock(path: Path) -> None:
    """P17: neither at the time of day nor at the times of files. How long something took is another matter."""
    tree = list(ast.walk(ast.parse(path.read_text())))
    attributes = {node.attr for node in tree if isinstance(node, ast.Attribute)}
    names = {alias.name for node in tree if isinstance(node, ast.ImportFrom) for alias in node.names}
    modules = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names} - {"time"}

    assert (attributes | names | modules) & CLOCK == set()


@any_module
def test_a_module_says_what_it_is(path: Path) -> None:
    """It begins with its licence and a docstring."""
    source = path.read_text()

    assert source.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert ast.get_docstring(ast.parse(source))


@any_module
def test_a_module_has_a_subject(path: Path) -> None:
    """No module is a drawer for what has no place."""
    assert not re.search("util|helper|manager|common|misc|tool|shared", path.stem)


WATCHED_IMPORT = """
import logging, os, signal, sys, threading, time, warnings

def state():
    descriptors = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return {
        "threads": threading.enumerate(),
        "open files": sorted(os.listdir(descriptors)),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hooks": [sys.excepthook, sys.unraisablehook, threading.excepthook, sys.gettrace(), sys.getprofile()],
        "warning filters": list(warnings.filters),
        "root logger": [logging.root.level, logging.root.handlers, logging.root.disabled],
        "recursion limit": sys.getrecursionlimit(),
        "umask": (mask := os.umask(0o77), os.umask(mask))[0],
    }

loaded = set(sys.modules)
before = state()
started = time.perf_counter()
import wal
seconds = time.perf_counter() - started
after = state()
assert after == before, [(name, before[name], after[name]) for name in before if before[name] != after[name]]

heavy = {"asyncio", "concurrent.futures", "ctypes", "multiprocessing", "sqlite3", "ssl", "subprocess", "unittest"}
heavy |= {"google.protobuf", "grpc", "obstore", "typer"}
loaded = set(sys.modules) - loaded
assert not heavy & loaded, heavy & loaded
print(f"import wal took {seconds * 1000:.0f} ms")
"""


def test_importing_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """``import wal`` starts, opens, prints and changes nothing, and loads no heavy module."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED_IMPORT], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    sys.stdout.write(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch("import wal took [0-9]+ ms\n", done.stdout)
    assert list(tmp_path.iterdir()) == []
