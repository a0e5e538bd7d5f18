"""The program ``wal``: what holds for its commands, whatever log they look at."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import re
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import pytest

import wal
from commands import PROGRAM, SCENES, SIZE, Ended, environment, intact, run, start
from logs import Child, fork, segments, tree
from unsynced import UNSYNCED

pytest.importorskip("typer")

from wal._cli import bench as bench_module
from wal._cli import follow as follow_module
from wal._cli import snapshots, terminal
from wal._cli.decoding import Decoding
from wal._cli.exits import Exit
from wal._cli.histogram import bars, duration, quantile
from wal._cli.rendering import jsonable
from wal._cli.terminal import visible

ROOT = Path(__file__).parent.parent
COMMANDS = ["dump", "verify", "stat", "follow", "repair", "archive", "restore", "bench"]
READING = [
    ("dump",),
    ("dump", "--json"),
    ("dump", "--raw", "--keep-going"),
    ("verify",),
    ("verify", "--raw"),
    ("stat",),
    ("repair", "--dry-run"),
]
"""The commands that change nothing."""

reading = pytest.mark.parametrize("command", READING, ids=" ".join)


def records_of(out: str) -> list[dict[str, Any]]:
    """Return what was written as JSON lines."""
    return [json.loads(line) for line in out.splitlines()]


def scene(name: str, directory: Path) -> Path:
    """Make one of the logs of ``commands``, under its name."""
    SCENES[name](directory / name)
    return directory / name


# ---------------------------------------------------------------------------------------------------- exit codes


EXITS = [
    pytest.param(("dump", "intact"), Exit.FINE, id="all is well"),
    pytest.param(("--version",), Exit.FINE, id="version"),
    pytest.param(("dump", "-h"), Exit.FINE, id="help"),
    pytest.param(("dump", "damaged"), Exit.DAMAGE, id="dump, damaged"),
    pytest.param(("dump", "torn"), Exit.DAMAGE, id="dump, torn"),
    pytest.param(("verify", "torn"), Exit.DAMAGE, id="verify, torn"),
    pytest.param(("stat", "damaged"), Exit.DAMAGE, id="stat, damaged"),
    pytest.param(("repair", "damaged", "--yes"), Exit.DAMAGE, id="repair, not torn"),
    pytest.param(("repair", "torn", "--dry-run"), Exit.DAMAGE, id="repair, dry run"),
    pytest.param(("repair", "torn"), Exit.DAMAGE, id="repair, nobody says yes"),
    pytest.param(("repair", "torn", "--yes"), Exit.FINE, id="repair, torn"),
    pytest.param(("repair", "damaged_end", "--yes", "--force"), Exit.FINE, id="repair, forced"),
    pytest.param(("repair", "intact"), Exit.FINE, id="repair, nothing to do"),
    pytest.param((), Exit.USAGE, id="no command"),
    pytest.param(("dumb",), Exit.USAGE, id="no such command"),
    pytest.param(("dump",), Exit.USAGE, id="no path"),
    pytest.param(("dump", "intact", "--type", "crc"), Exit.USAGE, id="no such type"),
    pytest.param(("dump", "intact", "--from", "3", "--to", "2"), Exit.USAGE, id="empty range"),
    pytest.param(("dump", "intact", "--from", "-1"), Exit.USAGE, id="negative index"),
    pytest.param(("dump", "custom"), Exit.USAGE, id="other record classes"),
    pytest.param(("dump", "custom", "--records", "nowhere:REGISTRY"), Exit.USAGE, id="no such module"),
    pytest.param(("dump", "etcd_like"), Exit.USAGE, id="etcd, not told"),
    pytest.param(("dump", "intact/0000000000000000-0000000000000000.wal"), Exit.USAGE, id="a file"),
    pytest.param(("bench", "nowhere"), Exit.USAGE, id="bench, no directory"),
    pytest.param(("archive", "archived/data", "archived/archive"), Exit.FINE, id="archive"),
    pytest.param(("restore", "archived/archive", "archived/restored"), Exit.FINE, id="restore"),
    pytest.param(("restore", "archived/archive", "--dry-run"), Exit.FINE, id="restore, dry run"),
    pytest.param(("restore", "damaged_archive/archive", "restored"), Exit.DAMAGE, id="restore, damaged"),
    pytest.param(("restore", "damaged_archive/archive", "-n"), Exit.DAMAGE, id="restore, dry run, damaged"),
    pytest.param(("archive", "damaged/..", "store"), Exit.ENVIRONMENT, id="archive, no log"),
    pytest.param(("archive", "damaged", "store"), Exit.DAMAGE, id="archive, damaged"),
    pytest.param(("archive", "intact", "archived/archive"), Exit.USAGE, id="archive, another log"),
    pytest.param(("restore", "archived/archive", "there", "--index", "999"), Exit.USAGE, id="restore, no such index"),
    pytest.param(("restore", "archived/archive"), Exit.USAGE, id="restore, no path"),
    pytest.param(("restore", "archived/archive", "archived/data"), Exit.ENVIRONMENT, id="restore, there is something"),
    pytest.param(("restore", "nowhere", "there"), Exit.ENVIRONMENT, id="restore, no archive"),
    pytest.param(("dump", "empty"), Exit.ENVIRONMENT, id="no log"),
    pytest.param(("verify", "nowhere"), Exit.ENVIRONMENT, id="no directory"),
    pytest.param(("verify", "empty", "--etcd"), Exit.ENVIRONMENT, id="no member"),
    pytest.param(("dump", "damaged", "--keep-going"), Exit.GAPS, id="past damage"),
    pytest.param(("dump", "torn", "--keep-going"), Exit.GAPS, id="past a torn end"),
    pytest.param(("dump", "intact", "--keep-going"), Exit.FINE, id="keep going, no damage"),
]


@pytest.mark.parametrize(("arguments", "exit"), EXITS)
def test_exit_code(arguments: tuple[str, ...], exit: Exit, tmp_path: Path) -> None:
    """Each end has its code; and whatever is not fine, and was not asked, is said on standard error."""
    if arguments[:1] in (("archive",), ("restore",)):
        pytest.importorskip("obstore", reason="pip install 'wal[archive]'")
    for name in {argument.partition("/")[0] for argument in arguments} & set(SCENES):
        scene(name, tmp_path)

    code, _, err = run(*arguments, here=tmp_path)

    assert code == exit
    assert (err == "") == (exit == Exit.FINE or ("repair" in arguments and "--dry-run" in arguments))


def test_exit_codes_are_documented() -> None:
    """In the program's help and in docs/cli.md, all of them."""
    documented = [int(Exit[name]) for name in Exit.__members__]
    in_help = re.findall(r"^ +(\d+) {2,}\S", run("--help").out, re.MULTILINE)
    in_docs = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE)

    assert sorted(map(int, in_help)) == sorted(documented)
    assert sorted(map(int, in_docs)) == sorted(documented)


def test_a_log_that_is_open_for_writing_is_not_repaired(path: Path) -> None:
    """The error says so; the code is that of the environment."""
    with wal.WAL.create(path, segment_size=SIZE, fs=UNSYNCED):
        code, _, err = run("repair", path, "--yes")

    assert code == Exit.ENVIRONMENT
    assert "another writer has the log open" in err


def test_a_bug_is_not_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised by mistake has a code of its own and a traceback: scripts must not take it for a verdict."""
    intact(path)
    monkeypatch.setattr("wal._cli.stat.survey", lambda *_, **__: 1 / 0)

    code, out, err = run("stat", path)

    assert (code, out) == (Exit.BUG, "")
    assert "ZeroDivisionError" in err
    assert "bug" in err


# ---------------------------------------------------------------------------------------------------------- help


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_option_is_explained_and_there_are_examples(self, command: str) -> None:
        """Each option and argument has words beside it; each example uses options that the command has."""
        code, out, err = run(command, "--help")
        table = out.partition("\nOptions:\n")[2]
        options = set(re.findall(r"^ {2}(?:-\w, )?(--[\w-]+)", table, re.MULTILINE))
        examples = re.findall(r"^ {4}(wal .*)$", out, re.MULTILINE)

        assert (code, err) == (0, "")
        assert len(examples) >= 2
        for example in examples:
            words = shlex.split(re.split(r"[|>]", example)[0])
            assert words[:2] == ["wal", command]
            assert {word for word in words if word.startswith("--")} <= options
        for option in options:
            assert re.search(rf"{option}(?:, -\w)?(?: \S+)*\s{{2,}}\S", table), option

    def test_the_program_lists_its_commands(self) -> None:
        """With a whole sentence for each."""
        _, out, _ = run("--help")

        listed = dict(re.findall(r"^  (\w+) +([A-Z].*)$", out.partition("Commands:")[2], re.MULTILINE))
        assert list(listed) == COMMANDS
        assert all(sentence.endswith(".") and "..." not in sentence for sentence in listed.values())

    def test_version(self) -> None:
        """The version, and what makes a difference in speed."""
        _, out, _ = run("--version")

        assert re.fullmatch(r"wal \d+\.\d+\.\d+\S* \((compiled|pure Python), checksums by \w+\)\n", out)


class TestArchive:
    def test_following_uploads_what_is_sealed(self, tmp_path: Path) -> None:
        """One line for each time that something is new; a store that does not answer is asked again."""
        pytest.importorskip("obstore", reason="pip install 'wal[archive]'")
        with wal.WAL.create(tmp_path / "log", segment_size=SIZE, fs=UNSYNCED) as log:
            log.save_entry([wal.Entry(1, bytes(SIZE))])
            log.save_entry([wal.Entry(2, bytes(SIZE))])
            with start("archive", "log", "store", "--follow", "--interval", "0.05", here=tmp_path) as child:
                assert child.stdout is not None
                assert child.stderr is not None
                assert child.stdout.readline().endswith("; the archive ends with index 1\n")
                (tmp_path / "store").rename(tmp_path / "away")
                (tmp_path / "store").touch()
                log.save_entry([wal.Entry(3, bytes(SIZE))])
                assert "segments/" in child.stderr.readline()
                (tmp_path / "store").unlink()
                (tmp_path / "away").rename(tmp_path / "store")
                assert child.stdout.readline().endswith("; the archive ends with index 2\n")
                child.send_signal(signal.SIGINT)
            assert child.returncode == Exit.INTERRUPTED

    def test_whoever_is_fenced_ends(self, tmp_path: Path) -> None:
        """With the code of the environment, and who has taken over."""
        pytest.importorskip("obstore", reason="pip install 'wal[archive]'")
        with wal.WAL.create(tmp_path / "log", segment_size=SIZE, fs=UNSYNCED) as log:
            log.save_entry([wal.Entry(1, bytes(SIZE))])
            log.save_entry([wal.Entry(2, bytes(SIZE))])
            with start("archive", "log", "store", "--follow", "--interval", "0.05", here=tmp_path) as child:
                assert child.stdout is not None
                assert child.stderr is not None
                child.stdout.readline()
                assert run("archive", "log", "store", here=tmp_path).exit == Exit.FINE
                log.save_entry([wal.Entry(3, bytes(SIZE))])
                assert f"process {os.getpid()} on" in child.stderr.read()
            assert child.returncode == Exit.ENVIRONMENT


# ---------------------------------------------------------------------------------------------------- the program


class TestTheProgram:
    def test_python_m_wal(self, tmp_path: Path) -> None:
        """``python -m wal`` is the program, under its name."""
        scene("new", tmp_path)
        done = subprocess.run(
            [*PROGRAM, "verify", "new"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        told = subprocess.run(
            [*PROGRAM, "dumb"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("new: in order: ")
        assert told.stderr.startswith("Usage: wal ")

    @pytest.mark.parametrize("missing", ["typer", "rich"])
    def test_without_the_extra_it_says_how_to_get_it(self, missing: str, tmp_path: Path) -> None:
        """In one line, with an exit code of its own, and without a traceback."""
        program = f"import sys; sys.modules[{missing!r}] = None; from wal.__main__ import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", program, "verify", "new"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )

        assert (done.returncode, done.stdout) == (5, "")
        assert done.stderr == "wal: the command line needs the extra wal[cli]: pip install 'wal[cli]'\n"

    @pytest.mark.parametrize("command", ["archive", "restore"])
    def test_without_the_extra_of_a_command_it_says_how_to_get_it(self, command: str, tmp_path: Path) -> None:
        """Likewise: obstore is asked for by the commands that need it, and by no other."""
        program = "import sys; sys.modules['obstore'] = None; from wal.__main__ import main; sys.exit(main())"
        intact(tmp_path / "log")

        def run_without(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-c", program, *arguments],
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
            )

        done = run_without(command, "log", "store")

        assert (done.returncode, done.stdout) == (5, "")
        assert done.stderr == "wal: wal.archive needs the extra wal[archive]: pip install 'wal[archive]'\n"
        assert run_without("verify", "log").returncode == 0

    @pytest.mark.parametrize(
        "command", [("dump", "--json"), ("dump",), ("dump", "--keep-going", "--raw")], ids=" ".join
    )
    def test_a_closed_pipe_is_quiet(self, command: tuple[str, ...], tmp_path: Path) -> None:
        """``wal dump log | head -1``: no word about it, and the code that a shell gives for SIGPIPE."""
        with wal.WAL.create(tmp_path / "log", sync=False) as log:
            log.save_entry([wal.Entry(index, bytes(100)) for index in range(1, 5000)])
        with start(*command, "log", here=tmp_path) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.readline()
            child.stdout.close()

            assert child.stderr.read() == ""
        assert child.returncode == Exit.BROKEN_PIPE

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
    @pytest.mark.parametrize("command", ["dump", "verify", "stat"])
    def test_output_that_cannot_be_written_is_an_error(self, command: str, tmp_path: Path) -> None:
        """Also if nothing is written before the end."""
        intact(tmp_path / "log")
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*PROGRAM, command, "log"],
                cwd=tmp_path,
                env=environment(),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )

        assert done.returncode == Exit.ENVIRONMENT
        assert done.stderr == "wal: [Errno 28] No space left on device\n"

    @pytest.mark.parametrize(("closed", "exit"), [("2>&-", Exit.FINE), (">&-", Exit.ENVIRONMENT)])
    def test_streams_that_are_closed(self, closed: str, exit: Exit, tmp_path: Path) -> None:
        """Without standard error nothing is complained about; without standard output there is no point."""
        intact(tmp_path / "log")

        done = subprocess.run(
            f"{shlex.join(PROGRAM)} verify log {closed}", shell=True, cwd=tmp_path, env=environment(), check=False
        )

        assert done.returncode == exit

    def test_a_path_need_not_be_text(self, tmp_path: Path) -> None:
        """Nor harmless: what a terminal would obey is shown, and not sent."""
        strange = tmp_path / os.fsdecode(b"lo\xffg\x1b[31m")
        intact(strange)
        done = subprocess.run(
            [*PROGRAM, "stat", strange], env=environment(PYTHONUTF8="1"), capture_output=True, check=False
        )

        assert (done.returncode, done.stderr) == (0, b"")
        assert b"lo\\udcffg\\x1b[31m" in done.stdout


# -------------------------------------------------------------------------------------------------------- terminal


def in_terminal(*arguments: str, here: Path, **changes: str) -> str:
    """Return what a command writes to a terminal, its progress included."""
    main, other = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=here,
        env=environment(TERM="xterm-256color", **changes),
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    parts = []
    while True:
        try:
            parts.append(os.read(main, 4096))
        except OSError:  # the terminal's other end is closed
            break
        if not parts[-1]:
            break
    child.wait()
    os.close(main)
    return b"".join(parts).decode()


class TestTerminal:
    def test_colour_only_on_a_terminal(self, tmp_path: Path) -> None:
        """There are escapes on one, and none in a pipe or with NO_COLOR; the words are the same."""
        intact(tmp_path / "log")
        coloured = in_terminal("dump", "log", here=tmp_path)
        plain = in_terminal("dump", "log", here=tmp_path, NO_COLOR="1")
        piped = subprocess.run(
            [*PROGRAM, "dump", "log"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
        )

        assert "\x1b[" in coloured
        assert "\x1b" not in plain
        assert "\x1b" not in piped.stdout
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).replace("\r", "") == plain.replace("\r", "") == piped.stdout

    def test_progress_is_for_terminals(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody sees a bar unless standard error is a terminal and the work takes its time."""
        intact(path)

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        for stream, patience, shown in ((Terminal, -1, True), (Terminal, 60, False), (io.StringIO, -1, False)):
            err = stream()
            monkeypatch.setattr(terminal, "PATIENCE_S", patience)
            with monkeypatch.context() as patched:
                patched.setattr(sys, "stderr", err)
                with terminal.progress_bar("verifying") as progress:
                    wal.verify(path, progress=progress)

            assert ("verifying" in err.getvalue()) == shown

    def test_progress_of_a_dump(self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is shown if the records go elsewhere; it grows, never beyond the length of the segments that are read."""
        intact(path)
        seen: list[tuple[int, int]] = []

        @contextmanager
        def watching(doing: str, *, shown: bool) -> Iterator[Any]:
            assert shown
            yield lambda done, total: seen.append((done, total))

        monkeypatch.setattr("wal._cli.dump.progress_bar", watching)
        monkeypatch.setattr("wal._cli.reading.EACH", 1)

        for first in ("0", "9"):
            seen.clear()
            total = sum(s.stat().st_size for s in segments(path) if first == "0" or s == segments(path)[-1])
            assert run("dump", path, "--from", first).exit == Exit.FINE
            assert seen == sorted(set(seen))
            assert {of for _, of in seen} == {total}
            assert seen[-1][0] < total

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            pytest.param("plain größer", "plain größer", id="text"),
            pytest.param("a\x1b[31mb\nc\x7f", "a\\x1b[31mb\\nc\\x7f", id="controls"),
            pytest.param("\u202e", "\\u202e", id="direction"),
            pytest.param("\udcff", "\\udcff", id="no text"),
        ],
    )
    def test_visible(self, text: str, shown: str) -> None:
        """What a terminal would obey becomes what it would be in Python's quotes."""
        assert visible(text) == shown


# ------------------------------------------------------------------------------------------- changes nothing


@contextmanager
def readable_by_all(directory: Path) -> Iterator[None]:
    """Let everybody read and nobody write below a directory."""
    paths = [directory, *directory.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in reversed(paths):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(stat.S_IMODE(modes[path]))


def watched_run(*arguments: str | Path) -> tuple[int, list[str]]:
    """Run a command without root's rights; return its code, and the calls that could change something or lock."""
    changing: list[str] = []

    def look(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and path != os.devnull:
                changing.append(f"open {path!r}")
        elif event.startswith(("os.rename", "os.remove", "os.mkdir", "os.truncate", "os.chmod", "fcntl.")):
            changing.append(f"{event} {given}")

    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    sys.addaudithook(look)
    return run(*arguments).exit, changing


@reading
@pytest.mark.parametrize("name", ["intact", "torn", "damaged", "storage"])
def test_a_read_only_directory_will_do(command: tuple[str, ...], name: str, tmp_path: Path) -> None:
    """
    What only looks opens nothing for writing, locks nothing and changes nothing; it comes to the same end for somebody
    who may only read.
    """
    with tempfile.TemporaryDirectory() as directory:  # which others can reach
        log = scene(name, Path(directory))
        expected = run(*command, log).exit
        before = tree(log)
        with readable_by_all(Path(directory)), Child(lambda: watched_run(*command, log)) as child:
            assert child.wait() == repr((expected, []))

        assert tree(log) == before


@reading
def test_beside_a_live_writer(command: tuple[str, ...], path: Path) -> None:
    """While another process saves, cuts and releases, what only looks sees a log in order at each moment."""
    wal.WAL.create(path, segment_size=SIZE, fs=UNSYNCED).close()
    child = fork()
    if child == 0:
        log = wal.read_wal(path, segment_size=SIZE, fs=UNSYNCED).wal
        for index in range(1, 5000):
            log.save(wal.CommitState(index), [wal.Entry(index, b"saved by another" * 20)])
            if index % 100 == 0:
                log.save_snap(wal.SnapshotMarker(index))
                log.release(wal.SnapshotMarker(index))
        signal.pause()
    try:
        outcomes = [run(*command, path) for _ in range(5)]
        while len(segments(path)) < 3:  # the writer had its turns
            outcomes.append(run(*command, path))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    assert {(outcome.exit, outcome.err) for outcome in outcomes} == {(Exit.FINE, "")}
    if command == ("dump", "--json"):
        for outcome in outcomes:
            entries = [
                record["index"] for record in map(json.loads, outcome.out.splitlines()) if record["type"] == "ENTRY"
            ]
            assert entries == list(range(1, len(entries) + 1))


# ------------------------------------------------------------------------------------------------------------ dump


class TestDump:
    @pytest.mark.parametrize("name", ["intact", "new", "torn", "damaged", "unknown", "skipped_index", "other_metadata"])
    def test_it_shows_what_a_reader_reads(self, name: str, tmp_path: Path) -> None:
        """The same records up to the same end, and the same words about it."""
        log = scene(name, tmp_path)
        reader = wal.WALReader(log)
        expected: list[wal.LogRecord] = []
        end: wal.WALError | None = None
        try:
            expected.extend(reader)
            end = reader.tail
        except wal.WALError as error:
            end = error

        code, out, err = run("dump", log, "--json")

        shown = [(record["segment"], record["offset"], record["type"], record["value"]) for record in records_of(out)]
        count = len(shown)
        assert shown == [(r.path.name, r.offset, r.type.name, jsonable(r.value)) for r in expected][:count]
        assert count >= len(expected)
        assert code == (Exit.FINE if end is None else Exit.DAMAGE)
        assert (str(end) in err) if end is not None else err == ""

    @pytest.mark.parametrize("first", [None, 0, 1, 4, 7, 8, 9, 12])
    @pytest.mark.parametrize("last", [None, 0, 6, 8, 12])
    def test_a_range_of_indexes(self, first: int | None, last: int | None, path: Path) -> None:
        """Entries and markers within it are shown, both ends included; the older segments may be left out."""
        intact(path)
        options = [
            *(["--from", str(first)] if first is not None else []),
            *(["--to", str(last)] if last is not None else []),
        ]
        if first is not None and last is not None and first > last:
            assert run("dump", path, *options).exit == Exit.USAGE
            return
        begin = max(s.name for s in segments(path) if int(s.stem[17:], 16) <= (first or 0))
        everything = records_of(run("dump", path, "--json").out)
        expected = [
            record
            for record in everything
            if not options or ("index" in record and (first or 0) <= record["index"] <= (99 if last is None else last))
            if record["segment"] >= begin
        ]

        assert records_of(run("dump", path, "--json", *options).out) == expected

    def test_raw_and_decoded_are_the_same_records(self, path: Path) -> None:
        """Also with filters, for which the bytes are decoded."""
        intact(path)
        for filters in ([], ["--type", "entry"], ["--from", "7"], ["--from", "3", "--to", "5", "--type", "snapshot"]):
            decoded = records_of(run("dump", path, "--json", *filters).out)
            raw = records_of(run("dump", path, "--json", "--raw", *filters).out)

            assert [(r["segment"], r["offset"]) for r in raw] == [(r["segment"], r["offset"]) for r in decoded]

    def test_from_reads_only_what_it_must(self, path: Path) -> None:
        """Segments with smaller indexes only are not opened: damage in them is not met."""
        intact(path)
        first = segments(path)[0]
        first.write_bytes(b"\xff" * first.stat().st_size)

        assert run("dump", path, "--from", "9").exit == Exit.FINE
        assert run("dump", path, "--from", "8").exit == Exit.DAMAGE

    def test_full_leaves_nothing_out(self, path: Path) -> None:
        """Long values are cut, and it is said by how much, unless they are asked for."""
        intact(path)

        assert "characters more" in run("dump", path).out
        assert "characters more" not in run("dump", path, "--full").out
        assert "l" * SIZE in run("dump", path, "--full").out

    def test_what_is_kept_going_to_is_on_standard_error_in_its_place(self, tmp_path: Path) -> None:
        """The report of damage comes between the records around it, if both streams go to one place."""
        log = scene("damaged", tmp_path)
        done = subprocess.run(
            [*PROGRAM, "dump", log, "--keep-going"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = done.stdout.splitlines()
        damage = next(at for at, line in enumerate(lines) if "damaged:" in line)

        assert "committed=2" in lines[damage - 1]
        assert "going on at" in lines[damage + 1]
        assert "value 4" in lines[damage + 2]


def raised(error: Exception) -> None:
    raise error


def test_decoding_is_reading(path: Path) -> None:
    """Raw records that are decoded are what the reader yields, also behind a purge, and with overwritten entries."""
    intact(path)
    for first in (0, 9):
        if first:
            segments(path)[0].unlink()
        decoded = [record for _, record in Decoding(wal.raw_records(path), wal.RecordRegistry(), raised)]
        read = wal.verify(path)

        assert len(decoded) == read.records - read.segments
        if not first:
            assert decoded == list(wal.WALReader(path))


# ------------------------------------------------------------------------------------------------- record classes


class TestRecords:
    @pytest.mark.parametrize("records", ["shop:REGISTRY", "shop:registry", "shop:records.REGISTRY", "shopping"])
    def test_classes_are_found_in_the_current_directory(self, records: str, tmp_path: Path) -> None:
        """As a registry, as a function that returns one, within something, or registered for the process."""
        scene("custom", tmp_path)

        code, out, err = run("dump", "custom", "--records", records, here=tmp_path)

        assert (code, err) == (0, "")
        assert "Put(index=1, key='colour', value=1.5)" in out

    @pytest.mark.parametrize(
        ("records", "words"),
        [
            pytest.param("nowhere:REGISTRY", "ModuleNotFoundError: No module named 'nowhere'", id="no module"),
            pytest.param("shop:nothing", "AttributeError", id="no such name"),
            pytest.param("shop:NUMBER", "that is a int, not a wal.RecordRegistry", id="a number"),
            pytest.param("shop:refusing", "the call raised RuntimeError: not today", id="a call that fails"),
            pytest.param("shop:", "write module:name", id="half a name"),
            pytest.param(":REGISTRY", "write module:name", id="no module's name"),
            pytest.param("broken:X", "SyntaxError", id="a broken module"),
        ],
    )
    def test_what_is_no_registry_is_a_usage_error(self, records: str, words: str, tmp_path: Path) -> None:
        """The message has the option as it was written, and what happened."""
        scene("custom", tmp_path)
        (tmp_path / "broken.py").write_text("def\n")

        code, out, err = run("verify", "custom", "--records", records, here=tmp_path)

        assert (code, out) == (Exit.USAGE, "")
        assert f"--records {records}: " in err
        assert words in err

    def test_etcd_has_its_own(self, tmp_path: Path) -> None:
        """Both options at once are a contradiction."""
        scene("etcd_like", tmp_path)

        assert run("dump", "etcd_like", "--etcd", "--records", "wal.etcd:registry", here=tmp_path).exit == Exit.USAGE

    @pytest.mark.parametrize("below", ["", "member", "member/wal"])
    def test_a_member_is_found(self, below: str, tmp_path: Path) -> None:
        """By its data directory, by ``member/`` in it, or by the log itself."""
        log = scene("etcd_like", tmp_path)

        assert run("verify", log / below, "--etcd").exit == Exit.FINE


class Colour(Enum):
    RED = b"r"


class Number(IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: int
    y: Any


class Slotted:
    __slots__ = ("_hidden", "unset", "value")

    def __init__(self) -> None:
        self.value, self._hidden = 1, 2


class Plain:
    def __init__(self) -> None:
        self.value, self._hidden = [Point(1, None)], 2


class Single:
    __slots__ = "value"  # noqa: PLC0205 - which is allowed

    def __init__(self) -> None:
        self.value = 2.5


class Opaque:
    __slots__ = ()

    def __repr__(self) -> str:
        return "<opaque>"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param(True, True, id="bool"),
        pytest.param(2**63, 2**63, id="int"),
        pytest.param(1.5, 1.5, id="float"),
        pytest.param(float("nan"), "nan", id="nan"),
        pytest.param(float("-inf"), "-inf", id="infinity"),
        pytest.param("größer", "größer", id="text"),
        pytest.param(b"\0\xff", "AP8=", id="bytes"),
        pytest.param(bytearray(b"a"), "YQ==", id="bytearray"),
        pytest.param((1, [b"a"], {2}), [1, ["YQ=="], [2]], id="sequences"),
        pytest.param({1: b"a", "b": None}, {"1": "YQ==", "b": None}, id="mapping"),
        pytest.param(Colour.RED, "cg==", id="enum"),
        pytest.param(Number.ONE, 1, id="int enum"),
        pytest.param(Path("a/b"), "a/b", id="path"),
        pytest.param(Point(1, Point(2, b"")), {"x": 1, "y": {"x": 2, "y": ""}}, id="dataclass"),
        pytest.param(Slotted(), {"value": 1}, id="slots"),
        pytest.param(Single(), {"value": 2.5}, id="one slot"),
        pytest.param(Plain(), {"value": [{"x": 1, "y": None}]}, id="attributes"),
        pytest.param(Opaque(), "<opaque>", id="nothing to see"),
    ],
)
def test_jsonable(value: object, expected: object) -> None:
    """Every value has a form in JSON, and that form is what ``json`` reads back."""
    assert jsonable(value) == expected
    assert json.loads(json.dumps(jsonable(value), allow_nan=False)) == expected


def test_a_value_within_itself_has_an_end() -> None:
    """What refers to itself is cut off at some depth."""
    point = Point(1, None)
    point.y = [point]

    assert len(json.dumps(jsonable(point))) < 10_000


# ---------------------------------------------------------------------------------------------------------- verify


class TestVerify:
    def test_snapshots_that_a_writer_saved_meanwhile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        If newer snapshots were saved and the known ones released while the log was read, it is read again: that is
        no damage.
        """
        storage = scene("storage", tmp_path)
        looks: list[int] = []

        def late(directory: Path, found: wal.LogSurvey, registry: wal.RecordRegistry) -> Any:
            if not looks:
                made, _ = wal.open_storage(storage, segment_size=SIZE, fs=UNSYNCED)
                with made:
                    for index in (40, 50, 60):
                        made.save(wal.CommitState(index), [wal.Entry(i) for i in range(made.last_index + 1, index + 1)])
                        made.save_snap(wal.SnapshotData(index, b"newer"))
                        made.release(wal.SnapshotData(index))
            looks.append(found.last_index)
            return snapshots.look_at(directory, found, registry)

        monkeypatch.setattr("wal._cli.verify.look_at", late)

        code, out, err = run("verify", storage)

        assert (code, err) == (0, "")
        assert "recovers from snapshot 60" in out
        assert looks == [31, 60]

    @pytest.mark.parametrize(
        "name", ["storage", "storage_with_damaged_snapshot", "storage_without_snapshot", "torn", "intact"]
    )
    def test_it_agrees_with_what_opens(self, name: str, tmp_path: Path) -> None:
        """What is said to recover does, from that snapshot; what is not said to recover does not."""
        directory = scene(name, tmp_path)
        shown = json.loads(run("verify", directory, "--json").out)
        if "recovers_from" not in shown:
            assert shown["in_order"] == (wal.verify(directory).tail is None)
            return
        try:
            opened, recovered = wal.open_storage(directory, segment_size=SIZE, fs=UNSYNCED)
        except wal.NoSnapshotError:
            assert shown["recovers_from"] is None
            return
        opened.close()
        assert recovered.snapshot is not None
        assert shown["recovers_from"] == recovered.snapshot.index

    def test_a_snapshot_that_the_log_does_not_know(self, tmp_path: Path) -> None:
        """A crash left it in front of its marker: that is in order."""
        storage = scene("storage", tmp_path)
        wal.Snapshotter(storage / "snap").save(wal.SnapshotData(31, b"too early"))

        code, out, _ = run("verify", storage)

        assert code == Exit.FINE
        assert "intact, but the log does not know it" in out
        assert "recovers from snapshot 30" in out

    def test_a_snapshot_too_old_for_the_log(self, tmp_path: Path) -> None:
        """
        The newest snapshot is gone, and the log has no entries up to it: it was a snapshot from elsewhere. The one
        before does not make up for it.
        """
        made, _ = wal.open_storage(tmp_path, segment_size=SIZE, fs=UNSYNCED)
        with made:
            made.save(wal.CommitState(2), [wal.Entry(1), wal.Entry(2)])
            made.save_snap(wal.SnapshotData(1, b"own"))
            made.save_state(wal.CommitState(9))
            made.save_snap(wal.SnapshotData(9, b"from elsewhere"))
        assert json.loads(run("verify", tmp_path, "--json").out)["recovers_from"] == 9
        (tmp_path / "snap" / f"{9:016x}.snap").unlink()

        code, out, err = run("verify", tmp_path)

        assert code == Exit.DAMAGE
        assert "does NOT recover" in out
        with pytest.raises(wal.NoSnapshotError) as raised:
            wal.open_storage(tmp_path, segment_size=SIZE, fs=UNSYNCED)
        assert str(raised.value) in err

    def test_a_snapshot_that_goes_meanwhile_is_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that was released since the directory was listed is not damaged."""
        storage = scene("storage", tmp_path)
        real = wal.Snapshotter.names
        gone = f"{20:016x}.snap"
        monkeypatch.setattr(wal.Snapshotter, "names", lambda self: [*real(self), f"{5:016x}.snap"])
        assert run("verify", storage).exit == Exit.FINE

        def removing(self: wal.Snapshotter, markers: Any) -> wal.SnapshotData:
            (storage / "snap" / gone).unlink(missing_ok=True)
            return load(self, markers)

        load = wal.Snapshotter.load_newest_available
        monkeypatch.setattr(wal.Snapshotter, "load_newest_available", removing)

        code, out, err = run("verify", storage)

        assert (code, err) == (Exit.FINE, "")
        assert gone not in out

    def test_the_log_alone_will_do(self, tmp_path: Path) -> None:
        """If no snapshot is intact and the log has its beginning, nothing is lost; the damage is told all the same."""
        storage = scene("storage", tmp_path)
        for file in (storage / "snap").iterdir():
            file.write_bytes(b"")

        code, out, err = run("verify", storage)

        assert code == Exit.DAMAGE
        assert err.count("damaged:") == 2
        assert "recovers from the log alone" in out


# ---------------------------------------------------------------------------------------------------------- repair


class TestRepair:
    @pytest.mark.parametrize(
        ("answer", "cut"),
        [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False), ("yep\n", False)],
    )
    def test_it_asks(self, answer: str, cut: bool, tmp_path: Path) -> None:
        """A yes cuts; anything else changes nothing."""
        log = scene("torn", tmp_path)
        before = tree(log)

        code, out, err = run("repair", log, stdin=answer)

        assert "Cut it off? [y/N] " in err
        assert code == (Exit.FINE if cut else Exit.DAMAGE)
        assert (tree(log) == before) == (not cut)
        assert run("verify", log).exit == (Exit.FINE if cut else Exit.DAMAGE)
        assert out.count("\n") == 7

    def test_what_was_shown_is_what_is_cut(self, tmp_path: Path) -> None:
        """The place, the number of bytes, and the copy with just these bytes."""
        log = scene("torn", tmp_path)
        segment = segments(log)[-1]
        data = segment.read_bytes()

        _, out, _ = run("repair", log, "--yes")

        shown = dict(re.findall(r"^ {2}(cut at|bytes|copy) +(.*)$", out, re.MULTILINE))
        offset, count = int(shown["cut at"].removeprefix("byte ")), int(shown["bytes"])
        assert Path(shown["copy"]).read_bytes() == data[offset : offset + count]
        assert not any(data[offset + count :])
        assert segment.read_bytes()[:offset] == data[:offset]

    def test_the_log_is_locked_while_it_asks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """So what is cut is what was shown, whatever others try meanwhile."""
        log = scene("torn", tmp_path)

        def ask(*_: object) -> bool:
            with pytest.raises(wal.WALLockedError):
                wal.read_wal(log)
            return True

        monkeypatch.setattr("wal._cli.repair._confirm", ask)

        assert run("repair", log).exit == Exit.FINE

    def test_a_dry_run_needs_no_lock(self, tmp_path: Path) -> None:
        """It is for looking, also beside a writer."""
        log = scene("intact", tmp_path)
        with wal.read_wal(log, segment_size=SIZE, fs=UNSYNCED).wal:
            assert run("repair", log, "--dry-run") == Ended(0, "nothing to repair\n", "")


# ---------------------------------------------------------------------------------------------------------- follow


class Followed:
    """What ``WALReader.follow`` gives: an iterator within a ``with``."""

    def __init__(self, records: list[wal.LogRecord]) -> None:
        self.records = iter(records)
        self.left = False

    def __enter__(self) -> Iterator[wal.LogRecord]:
        return self.records

    def __exit__(self, *_: object) -> None:
        self.left = True


class TestFollow:
    @pytest.fixture
    def asked(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The indexes that were followed from, in place of following."""
        intact(path)
        asked: list[int] = []

        def followed(log: Path, registry: wal.RecordRegistry, index: int) -> Followed:
            asked.append(index)
            return Followed(list(wal.WALReader(log, registry=registry)))

        monkeypatch.setattr(follow_module, "_followed", followed)
        return asked

    @pytest.mark.parametrize(
        ("options", "index"), [([], 10), (["--from", "1"], 1), (["--from", "7", "--json"], 7)], ids=str
    )
    def test_where_it_begins(self, options: list[str], index: int, path: Path, asked: list[int]) -> None:
        """By default behind the last entry, or where it is told."""
        run("follow", path, *options)

        assert asked == [index]

    @pytest.mark.usefixtures("asked")
    def test_records_look_as_in_a_dump(self, path: Path) -> None:
        """As lines or as JSON."""
        for options in ([], ["--json"], ["--full"]):
            assert run("follow", path, *options).out == run("dump", path, *options).out

    @pytest.mark.usefixtures("asked")
    def test_control_c_leaves_in_order(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The follower is given back, and the code is the shell's."""
        followed = Followed([])
        monkeypatch.setattr(follow_module, "_followed", lambda *_: followed)

        def interrupted() -> Iterator[wal.LogRecord]:
            raise KeyboardInterrupt
            yield

        followed.records = interrupted()

        assert run("follow", path) == Ended(Exit.INTERRUPTED, "", "")
        assert followed.left

    @pytest.mark.parametrize("name", ["new", "torn", "etcd_like", "storage"])
    def test_where_the_next_entry_will_be(self, name: str, tmp_path: Path) -> None:
        """Is found from the last segment, also if a save is in the making there."""
        log = scene(name, tmp_path)
        log = next(path for path in (log / "member" / "wal", log / "wal", log) if wal.exists(path))
        registry = wal.etcd.registry() if name == "etcd_like" else wal.RecordRegistry()

        expected = wal.verify(log, registry=registry).last_index + 1
        assert follow_module._next_index(log, registry) == expected

    @pytest.mark.skipif(not hasattr(wal.WALReader, "follow"), reason="the library cannot follow yet")
    def test_a_live_log_is_followed(self, tmp_path: Path) -> None:
        """Each save comes out as it is made, across a cut, and Control-C ends it."""
        with wal.WAL.create(tmp_path / "log", segment_size=SIZE, fs=UNSYNCED) as log:
            log.save_entry([wal.Entry(1, b"before")])
            with start("follow", "log", "--json", "--from", "1", here=tmp_path) as child:
                assert child.stdout is not None
                for index in range(1, 20):
                    while (record := json.loads(child.stdout.readline()))["type"] != "ENTRY":
                        pass
                    assert record["index"] == index
                    log.save_entry([wal.Entry(index + 1, bytes(500))])
                child.send_signal(signal.SIGINT)
                child.communicate()
            assert child.returncode == Exit.INTERRUPTED


# ----------------------------------------------------------------------------------------------------------- bench


class TestBench:
    def test_it_measures_and_leaves_nothing(self, tmp_path: Path) -> None:
        """Both kinds of blocks, as many writes as were asked for, and a directory as it was."""
        code, out, err = run("bench", tmp_path, "--writes", "40", "--bytes", "100")

        assert (code, err) == (0, "")
        assert list(tmp_path.iterdir()) == []
        kinds = re.findall(
            r"^(\w+) blocks: 40 writes   p50 .* [um]?s   p90 .*s   p99 .*s   max .*s$", out, re.MULTILINE
        )
        assert kinds == ["fresh", "zeroed"]
        counts = [int(count) for count in re.findall(r"up to +[\d.]+ \w+ +(\d+)", out)]
        assert sum(counts) == 80

    def test_json(self, tmp_path: Path) -> None:
        """The same figures in seconds, each not smaller than the one before."""
        shown = json.loads(run("bench", tmp_path, "--writes", "17", "--json").out)

        assert shown["bytes"] == 512
        for kind in ("fresh", "zeroed"):
            figures = shown[kind]
            assert figures["writes"] == 17
            assert 0 < figures["p50"] <= figures["p90"] <= figures["p99"] <= figures["max"]

    def test_time_is_a_limit_too(self, tmp_path: Path) -> None:
        """It ends in time, whatever number of writes is left."""
        shown = json.loads(run("bench", tmp_path, "--writes", "1000000", "--seconds", "0.01", "--json").out)

        assert 0 < shown["fresh"]["writes"] == shown["zeroed"]["writes"] < 1_000_000

    def test_more_blocks_are_made_ready_when_they_are_used_up(self, tmp_path: Path) -> None:
        """Writes go on behind what was reserved."""
        with bench_module._Blocks(tmp_path / "file", zeroed=True) as blocks:
            for _ in range(5):
                blocks.write(b"\xff" * 1_000_000)

        assert (tmp_path / "file").stat().st_size == 2 * bench_module.RESERVE
        assert (tmp_path / "file").read_bytes()[:5_000_001] == b"\xff" * 5_000_000 + b"\0"

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_leaves_nothing(self, number: signal.Signals, tmp_path: Path) -> None:
        """The files are removed, too, when it is stopped in the middle."""
        with start("bench", ".", "--writes", "1000000", here=tmp_path) as child:
            while not list(tmp_path.glob("*/zeroed")):
                assert child.poll() is None
            child.send_signal(number)
            child.communicate()

        assert child.returncode == Exit.INTERRUPTED
        assert list(tmp_path.iterdir()) == []

    def test_it_runs_in_any_thread(self, tmp_path: Path) -> None:
        """Signals can be taken in the main thread only; elsewhere it does without."""
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(run("bench", tmp_path, "--writes", "1", "--json").exit))
        thread.start()
        thread.join()

        assert codes == [Exit.FINE]
        assert signal.getsignal(signal.SIGTERM) is not signal.default_int_handler


class TestHistogram:
    @pytest.mark.parametrize(
        ("part", "value"), [(0.5, 50), (0.9, 90), (0.99, 99), (1, 100), (0, 1), (0.001, 1)], ids=str
    )
    def test_quantile(self, part: float, value: int) -> None:
        """Of a hundred values, the p-th smallest."""
        assert quantile(list(map(float, range(1, 101))), part) == value

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.0000004, "0.40 us"),
            (0.0000128, "12.8 us"),
            (0.000999, "999 us"),
            (0.0009996, "1.00 ms"),
            (0.00995, "9.95 ms"),
            (0.0256, "25.6 ms"),
            (0.9999, "1.00 s"),
            (12.5, "12.5 s"),
            (1234.0, "1234 s"),
        ],
    )
    def test_duration(self, seconds: float, text: str) -> None:
        """Three digits, and the unit in which they are easy to read."""
        assert duration(seconds) == text

    def test_bars_are_a_scale(self) -> None:
        """All classes between the first and the last are there, and every value is in one."""
        lines = bars([3e-6, 4e-6, 5e-6, 33e-6])

        assert [re.split(r"\s{2,}", line.strip())[:2] for line in lines] == [
            ["up to 4.00 us", "2"],
            ["up to 8.00 us", "1"],
            ["up to 16.0 us", "0"],
            ["up to 32.0 us", "0"],
            ["up to 64.0 us", "1"],
        ]
        assert bars([]) == []
