"""
Real etcd members on loopback, started and tormented by tests.

Each member is the child of a keeper, a small process that kills it when its standard input ends: so also when the
tests are killed. Needs the program ``etcd`` (on Debian: ``apt-get install etcd-server``).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

__all__ = ["ETCD", "NO_ETCD", "EtcdCluster", "Tls", "needs_etcd"]

ETCD = shutil.which("etcd")
NO_ETCD = "no etcd: install it (on Debian: apt-get install etcd-server)"
needs_etcd = pytest.mark.skipif(ETCD is None, reason=NO_ETCD)

KEEPER = """
import subprocess, sys, threading

with open(sys.argv[1], "ab") as log:
    member = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
print(member.pid, flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), member.kill()), daemon=True).start()
member.wait()
"""

STARTS = 5
PATIENCE_S = 60.0
LOOPBACK = "127.0.0.1"
POLL_S = 0.02


class Tls(NamedTuple):
    """What members need to be asked by TLS: PEM files of who signs, of their own certificate, and of its key."""

    ca: Path
    certificate: Path
    key: Path


class _Member:
    """One member: where it listens and keeps its data, and the process, if it runs."""

    def __init__(self, name: str, directory: Path, host: str, prefix: Sequence[str]) -> None:
        self.name = name
        self.host = host
        self.prefix = prefix
        self.directory = directory
        self.client_port, self.peer_port = _free_ports(2)
        self.keeper: subprocess.Popen[str] | None = None
        self.pid = 0

    def signal(self, number: int) -> None:
        assert self.keeper is not None and self.keeper.poll() is None, f"{self.name} does not run"
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> None:
        """Kill it, if it runs, and wait until it is gone."""
        if self.keeper is not None:
            assert self.keeper.stdin is not None and self.keeper.stdout is not None
            with suppress(BrokenPipeError):
                self.keeper.stdin.close()
            self.keeper.wait()
            self.keeper.stdout.close()
            self.keeper = None


class EtcdCluster:
    """
    One to some members in a directory of their own. A context manager that starts and stops them.

    Members are known by their numbers, from 0 on.

    Args:
        directory: For data and logs; it is made, and left as it is.
        members: How many.
        quota_bytes: ``--quota-backend-bytes``; etcd's default if ``None``.
        max_request_bytes: ``--max-request-bytes``; etcd's default if ``None``.
        heartbeat_ms: How often the leader says that it is there.
        election_ms: After so long without, another one is elected.
        tls: If the members are to be asked by TLS.
        client_certificates: Whether those who ask must then have a certificate from the same authority.
        hosts: The members' addresses; by default that of loopback.
        prefixes: What stands in front of the members' commands; by default nothing.
        options: More options of etcd.
    """

    def __init__(
        self,
        directory: Path,
        members: int = 1,
        *,
        quota_bytes: int | None = None,
        max_request_bytes: int | None = None,
        heartbeat_ms: int = 50,
        election_ms: int = 500,
        tls: Tls | None = None,
        client_certificates: bool = False,
        hosts: Sequence[str] = (),
        prefixes: Sequence[Sequence[str]] = (),
        options: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self._tls = tls
        self._scheme = "http" if tls is None else "https"
        self._options = [f"--heartbeat-interval={heartbeat_ms}", f"--election-timeout={election_ms}", *options]
        if quota_bytes is not None:
            self._options.append(f"--quota-backend-bytes={quota_bytes}")
        if max_request_bytes is not None:
            self._options.append(f"--max-request-bytes={max_request_bytes}")
        if tls is not None:
            self._options += [f"--cert-file={tls.certificate}", f"--key-file={tls.key}"]
            if client_certificates:
                self._options += ["--client-cert-auth", f"--trusted-ca-file={tls.ca}"]
        self._hosts = hosts or [LOOPBACK] * members
        self._prefixes = prefixes or [()] * members
        self._count = members
        self._members: list[_Member] = []

    # ------------------------------------------------------------------------------------------ lifetime

    def start(self) -> None:
        """Make the cluster and wait until it works."""
        for attempt in range(STARTS):
            directory = self.directory / f"start-{attempt}"
            self._members = [
                _Member(f"m{number}", directory / f"m{number}", self._hosts[number], self._prefixes[number])
                for number in range(self._count)
            ]
            try:
                for member in self._members:
                    self._run(member, new=True)
                self.wait_until_ready()
            except _Ended:
                self.stop()  # most likely another process was given a port that was free
                if attempt == STARTS - 1:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return

    def stop(self) -> None:
        """Kill all members, also those that are paused. A second call does nothing."""
        with ExitStack() as all_of_them:
            for member in self._members:
                all_of_them.callback(member.end)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ------------------------------------------------------------------------------------------- torment

    def kill(self, member: int) -> None:
        """Kill a member with -9. When this returns, it is gone."""
        self._members[member].end()

    def restart(self, member: int, *options: str) -> None:
        """Start a member again that was killed, maybe with more options. It is not waited for."""
        assert self._members[member].keeper is None, "it runs"
        self._options += options
        self._run(self._members[member], new=False)

    def pause(self, member: int) -> None:
        """Stop a member with SIGSTOP: it keeps its connections and says nothing."""
        self._members[member].signal(signal.SIGSTOP)

    def resume(self, member: int) -> None:
        """Let a paused member go on."""
        self._members[member].signal(signal.SIGCONT)

    # ---------------------------------------------------------------------------------------------- look

    @property
    def endpoints(self) -> list[str]:
        """The addresses of all members, in their order."""
        return [f"{self._scheme}://{member.host}:{member.client_port}" for member in self._members]

    @property
    def pids(self) -> list[int]:
        """The processes of the members, in their order; 0 for one that does not run."""
        return [member.pid if member.keeper is not None else 0 for member in self._members]

    def leader(self) -> int:
        """Wait until the members that answer agree on a leader that is one of them, and return its number."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answers = {number: self._status(number) for number in range(self._count)}
            ids = {answer["header"]["member_id"]: number for number, answer in answers.items() if answer}
            leaders = {answer.get("leader", "0") for answer in answers.values() if answer}
            if len(leaders) == 1 and len(ids) > self._count // 2 and (leader := leaders.pop()) in ids:
                return ids[leader]
            assert time.monotonic() < deadline, f"there is no leader: {answers}"
            time.sleep(POLL_S)

    def wait_until_ready(self) -> None:
        """Wait until every member that runs takes part."""
        deadline = time.monotonic() + PATIENCE_S
        for number, member in enumerate(self._members):
            while member.keeper is not None:
                if member.keeper.poll() is not None:
                    raise _Ended(f"{member.name} has ended; see {member.directory}.log")
                answer = self._status(number)
                if answer is not None and answer.get("leader", "0") != "0":
                    break
                assert time.monotonic() < deadline, f"{member.name} does not come up; see {member.directory}.log"
                time.sleep(POLL_S)

    def post(
        self, member: int, path: str, body: dict[str, Any], *, timeout_s: float = 5.0, token: str = ""
    ) -> dict[str, Any]:
        """Ask one member by its JSON gateway, beside everything that is being tested."""
        url = f"{self.endpoints[member]}{path}"
        headers = {"Content-Type": "application/json", **({"Authorization": token} if token else {})}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=timeout_s, context=self._context()) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def _context(self) -> ssl.SSLContext | None:
        if self._tls is None:
            return None
        context = ssl.create_default_context(cafile=str(self._tls.ca))
        context.load_cert_chain(self._tls.certificate, self._tls.key)
        return context

    def _status(self, member: int) -> dict[str, Any] | None:
        try:
            return self.post(member, "/v3/maintenance/status", {}, timeout_s=0.5)
        except (OSError, ValueError):
            return None

    def _run(self, member: _Member, *, new: bool) -> None:
        assert ETCD is not None
        member.directory.parent.mkdir(parents=True, exist_ok=True)
        peers = ",".join(f"{m.name}=http://{m.host}:{m.peer_port}" for m in self._members)
        command = [
            *member.prefix,
            *(ETCD, "--name", member.name, "--data-dir", str(member.directory), "--log-level=warn", "--logger=zap"),
            *("--listen-client-urls", f"{self._scheme}://{member.host}:{member.client_port}"),
            *("--advertise-client-urls", f"{self._scheme}://{member.host}:{member.client_port}"),
            *("--listen-peer-urls", f"http://{member.host}:{member.peer_port}"),
            *("--initial-advertise-peer-urls", f"http://{member.host}:{member.peer_port}"),
            *("--initial-cluster", peers, "--initial-cluster-state", "new" if new else "existing"),
            *("--initial-cluster-token", f"{self.directory}-{self._members[0].peer_port}"),
            *self._options,
        ]
        member.keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", KEEPER, f"{member.directory}.log", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert member.keeper.stdout is not None
        member.pid = int(member.keeper.stdout.readline())


class _Ended(AssertionError):
    """A member has ended by itself."""


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens to just now."""
    with ExitStack() as sockets:
        free = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in free]
