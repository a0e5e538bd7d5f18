# SPDX-License-Identifier: Apache-2.0
"""etcd's own log package, as a process that does what it is asked (``gowal.go``)."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wal.etcd import Entry, HardState, Snapshot

from .model import Contents, Outcome, Save

__all__ = ["GoError", "GoWAL", "build"]

SOURCE = Path(__file__).with_name("gowal.go")

NO_SNAPSHOT = ("wal: snapshot not found", "wal: file not found")
"""What etcd says if a log does not have the snapshot, or begins behind it."""
GAP = "wal: slice bounds out of range"
LOCKED = "fileutil: file already locked"
TORN = "unexpected EOF"


class GoError(Exception):
    """What etcd's package returned as an error. ``str()`` is its text."""


def build(directory: Path) -> Path:
    """
    Build the program, unless it is there and younger than its source.

    Raises:
        GoError: It cannot be built here; the text says what is missing.
    """
    if shutil.which("go") is None:
        raise GoError("there is no go here (on Debian: golang-go and golang-etcd-server-dev)")
    directory.mkdir(exist_ok=True)
    program = directory / "gowal"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the processes that test side by side builds it
        if program.exists() and program.stat().st_mtime > SOURCE.stat().st_mtime:
            return program
        environment = {"GOPATH": "/usr/share/gocode", **os.environ, "GO111MODULE": "off"}
        command = ["go", "build", "-o", str(program), str(SOURCE)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["go build failed"])[0]
        raise GoError(f"{SOURCE.name} cannot be built (on Debian it takes golang-etcd-server-dev): {reason}")
    return program


class GoWAL:
    """A running ``gowal``. Its methods are those of etcd's package."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen([self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def send(self, do: str, directory: Path, **arguments: Any) -> None:
        """Ask for something, and do not wait for the answer."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": do, "dir": str(directory), **arguments}).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """
        Wait for an answer.

        Raises:
            GoError: It is an error.
            EOFError: The process has ended.
        """
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError("gowal has ended")
        answer: dict[str, Any] = json.loads(line)
        if answer["panic"]:
            self.restart()  # what it held may be in any state
            raise GoError(f"panic: {answer['panic']}")
        if answer["error"]:
            raise GoError(answer["error"])
        return answer

    def ask(self, do: str, directory: Path, **arguments: Any) -> dict[str, Any]:
        self.send(do, directory, **arguments)
        return self.answer()

    def create(self, directory: Path, metadata: bytes | None, *, segment_size: int, sync: bool = False) -> None:
        encoded = None if metadata is None else _encode(metadata)
        self.ask("create", directory, metadata=encoded, segment_size=segment_size, sync=sync)

    def open(
        self, directory: Path, start: Snapshot | None = None, *, segment_size: int = 64_000_000, sync: bool = False
    ) -> Contents:
        return _contents(self.ask("open", directory, snapshot=_snapshot(start), segment_size=segment_size, sync=sync))

    def append(self, directory: Path, saves: Iterable[Save]) -> None:
        self.ask("append", directory, saves=[_save(save) for save in saves])

    def append_on(self, directory: Path, saves: Iterable[Save]) -> None:
        """Begin to append; ``acknowledged`` says of each save that it is done."""
        self.send("append_on", directory, saves=[_save(save) for save in saves])

    def acknowledged(self) -> Iterator[int]:
        """Count the saves that ``append_on`` has done, until the process has ended."""
        try:
            while True:
                yield self.answer()["saved"]
        except EOFError:
            return

    def release(self, directory: Path, index: int) -> None:
        self.ask("release", directory, index=index)

    def close(self, directory: Path) -> None:
        self.ask("close", directory)

    def read(self, directory: Path, start: Snapshot | None = None) -> Contents:
        return _contents(self.ask("read", directory, snapshot=_snapshot(start)))

    def outcome(self, directory: Path, start: Snapshot | None = None) -> Outcome:
        """Read; a word if that is refused."""
        try:
            return self.read(directory, start)
        except GoError as error:
            return "no snapshot" if str(error) in NO_SNAPSHOT else "gap" if str(error) == GAP else str(error)

    def verify(self, directory: Path, start: Snapshot | None = None) -> str:
        """Verify; return a word if something is wrong."""
        try:
            self.ask("verify", directory, snapshot=_snapshot(start))
        except GoError as error:
            return "no snapshot" if str(error) in NO_SNAPSHOT else str(error)
        return ""

    def snapshots(self, directory: Path) -> list[Snapshot]:
        return [Snapshot(**marker) for marker in self.ask("snapshots", directory)["snapshots"] or ()]

    def repair(self, directory: Path) -> bool:
        return bool(self.ask("repair", directory)["repaired"])

    def lockable(self, directory: Path) -> list[str]:
        """Return the names of the segments whose lock would be granted."""
        return self.ask("lockable", directory)["names"] or []

    def version(self) -> str:
        return str(self.ask("describe", Path())["names"][0])

    def kill(self) -> None:
        """End it at once, with all that it holds."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()

    def restart(self) -> None:
        self.kill()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(data: str | None) -> bytes:
    return base64.b64decode(data or "")


def _snapshot(snapshot: Snapshot | None) -> dict[str, int]:
    return {"index": snapshot.index, "term": snapshot.term} if snapshot else {}


def _save(save: Save) -> dict[str, Any]:
    state = save.state
    return {
        "state": {"term": state.term, "vote": state.vote, "commit": state.commit} if state else {},
        "entries": [
            {
                "term": entry.term,
                "index": entry.index,
                "type": entry.type,
                # Without data and with an empty field of them: etcd writes, and reads, both.
                "data": _encode(entry.data) if entry.data or entry.index % 2 else None,
            }
            for entry in save.entries
        ],
        "snapshot": _snapshot(save.marker) or None,
    }


def _contents(answer: dict[str, Any]) -> Contents:
    return Contents(
        _decode(answer["metadata"]),
        HardState(**answer["state"]),
        [Entry(**{**entry, "data": _decode(entry["data"])}) for entry in answer["entries"] or ()],
    )
