"""Who is measured: each subject is a worker process of its own, which is given tasks and answers them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker import BACKENDS, UNZEROED

__all__ = ["Subject", "Worker", "WorkerError", "find_subjects"]

HERE = Path(__file__).resolve().parent

PEERS = ("sqlite3", "lmdb", "plyvel", "rocksdict", "PySyncObj")
SECONDS_TO_ANSWER = 600


class WorkerError(Exception):
    """A worker did not do its task."""


@dataclass
class Subject:
    """
    Somebody to be measured.

    Attributes:
        name: What the tables and ``--subjects`` call it.
        family: ``floor``, ``wal``, ``etcd`` or ``peer``.
        command: Starts its worker.
        format: Subjects of one format can read each other's logs.
        primary: Whether it is none of the variants of this library, but as it comes.
        facts: What its worker said of it.
    """

    name: str
    family: str
    command: list[str]
    format: str
    primary: bool = True
    own_environment: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def compiled(self) -> bool:
        return bool(self.facts.get("compiled"))


class Worker:
    """A subject's process."""

    def __init__(self, subject: Subject) -> None:
        environment = dict(os.environ)
        if subject.own_environment:
            environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            subject.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        # Read away, so that no worker ever waits for it; kept for the case that it dies.
        self._said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        self._said.extend(self._process.stderr)

    def ask(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Have one task done; ``WorkerError`` if it could not be, or took forever."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limit = threading.Timer(SECONDS_TO_ANSWER, self._process.kill)
        limit.start()
        try:
            with suppress(BrokenPipeError):
                print(json.dumps({"task": task, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        finally:
            limit.cancel()
        if not line:
            self._listener.join()
            raise WorkerError("".join(self._said).strip() or f"it ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find_subjects(pythons: list[str], built: Path, say: Callable[[str], None]) -> list[Subject]:
    """
    Return everybody who can be measured here; say why the others cannot.

    Args:
        pythons: Further interpreters whose version of this library is to be measured.
        built: Where to build what must be built. It is kept for the next time.
        say: Takes a message.
    """
    found: list[Subject] = []
    for subject in _candidates(pythons, built, say):
        try:
            with Worker(subject) as worker:
                subject.facts = worker.ask("describe")
        except (WorkerError, OSError) as error:
            subject.facts = {"missing": str(error).splitlines()[-1]}
        if reason := subject.facts.get("missing"):
            say(f"{subject.name} is left out: {reason}")
            continue
        if subject.family == "wal":
            _, _, variant = subject.name.partition("/")
            if variant in BACKENDS and variant != subject.facts["crc_backend"]:
                say(f"wal with {variant} is left out: {variant} is not installed for {subject.command[0]}")
                continue
            if variant in BACKENDS and any(_same(subject, other) for other in found):
                continue  # it is what the library takes by itself
            _name_by_facts(subject, variant, [other for other in found if other.family == "wal"])
        found.append(subject)
    return found


def _same(one: Subject, other: Subject) -> bool:
    return (one.command[0], one.facts) == (other.command[0], other.facts)


def _candidates(pythons: list[str], built: Path, say: Callable[[str], None]) -> Iterator[Subject]:
    def python(name: str, family: str, format: str, *, executable: str = sys.executable, **more: Any) -> Subject:
        return Subject(name, family, [executable, str(HERE / "worker.py"), name], format, **more)

    for kind in ("fresh", "zeroed"):
        yield replace(python(f"floor/{kind}", "floor", "floor"), name=f"floor, {kind}")
    for executable in (sys.executable, *pythons):
        elsewhere = executable != sys.executable
        for name in ("wal", f"wal/{UNZEROED}", *(f"wal/{backend}" for backend in BACKENDS)):
            yield python(name, "wal", "wal", executable=executable, primary=name == "wal", own_environment=elsewhere)
    if program := _build_go(built, say):
        yield Subject("etcd in Go", "etcd", [str(program)], "etcd")
    for name in PEERS:
        yield python(name, "peer", name)


def _name_by_facts(subject: Subject, variant: str, others: list[Subject]) -> None:
    """Name a build of this library by what it turned out to be."""
    parts = ["wal", "compiled" if subject.compiled else "pure", *([variant] if variant else [])]
    if others and others[0].facts["python"] != subject.facts["python"]:
        parts.append(subject.facts["python"])
    if ", ".join(parts) in [other.name for other in others]:
        parts.append(subject.command[0])
    subject.name = ", ".join(parts)


def _build_go(built: Path, say: Callable[[str], None]) -> Path | None:
    source, program = HERE / "etcdwal.go", built / "etcdwal"
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    if shutil.which("go") is None:
        say("etcd in Go is left out: there is no go here (on Debian: golang-go, golang-etcd-server-dev)")
        return None
    environment = {"GOPATH": "/usr/share/gocode", **os.environ, "GO111MODULE": "off"}
    command = ["go", "build", "-o", str(program), str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["go build failed"])[0]
        say(f"etcd in Go is left out (on Debian, golang-etcd-server-dev is needed): {reason}")
        return None
    return program
