"""
The ledger on three etcd members, whose leader is killed again and again while it writes.

It is the ``Ledger`` of ``ledger.py``; only the place is another one. Transfers wait for the next leader, none is lost
and none is made twice. In the end somebody else opens the ledger, and the first one can change nothing any more.

    python ledger_on_etcd.py [KILLS]

Needs the program ``etcd`` (on Debian: apt-get install etcd-server) and ``pip install wal[etcd]``.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from ledger import Ledger

import wal


class Members:
    """Three etcd members on this machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clients = [free_port() for _ in range(3)]
        self.peers = [free_port() for _ in range(3)]
        self.processes = [self.start(number) for number in range(3)]

    def start(self, number: int) -> subprocess.Popen[bytes]:
        client, peer = (f"http://127.0.0.1:{ports[number]}" for ports in (self.clients, self.peers))
        return subprocess.Popen(
            [
                *("etcd", "--name", f"m{number}", "--data-dir", str(self.directory / f"m{number}")),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", ",".join(f"m{n}=http://127.0.0.1:{port}" for n, port in enumerate(self.peers))),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def leader(self) -> int:
        """Wait until a member says that it is the leader, and return its number."""
        while True:
            for number in range(3):
                status = self.status(number)
                if status is not None and status.get("leader") == status["header"]["member_id"]:
                    return number
            time.sleep(0.05)

    def status(self, number: int) -> dict[str, Any] | None:
        url = f"http://127.0.0.1:{self.clients[number]}/v3/maintenance/status"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=1) as answer:
                status: dict[str, Any] = json.load(answer)
                return status
        except (OSError, ValueError):
            return None

    def kill_leader(self) -> int:
        leader = self.leader()
        self.processes[leader].kill()
        self.processes[leader].wait()
        return leader

    def restart(self, number: int) -> None:
        self.processes[number] = self.start(number)
        while self.status(number) is None:
            time.sleep(0.05)

    @property
    def place(self) -> str:
        return f"etcd://{','.join(f'127.0.0.1:{port}' for port in self.clients)}/ledger"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Clerk(Thread):
    """Makes transfers, the n-th of n cents, until it is told to stop."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.acknowledged = 0
        self.longest_s = 0.0
        self.stopped = False

    def run(self) -> None:
        while not self.stopped:
            started = time.perf_counter()
            self.ledger.transfer("ada", "bob", self.acknowledged + 1)
            self.acknowledged += 1
            self.longest_s = max(self.longest_s, time.perf_counter() - started)

    def wait_for(self, more: int) -> None:
        """Wait until there are so many transfers more."""
        until = self.acknowledged + more
        while self.acknowledged < until and self.is_alive():
            time.sleep(0.01)


def complaint(acknowledged: int, ledger: Ledger) -> str | None:
    """Say what is wrong with a ledger, if anything is."""
    if ledger.transfers != acknowledged:
        return f"{acknowledged} transfers were acknowledged, and there are {ledger.transfers}"
    cents = acknowledged * (acknowledged + 1) // 2
    if ledger.balances != {"ada": -cents, "bob": cents}:
        return f"the balances are {ledger.balances}, and should be {cents}"
    return None


def run(directory: Path, kills: int) -> int:
    """Run the ledger, kill leaders, and return 1 if anything is wrong."""
    with Members(directory) as members:
        members.leader()
        with Ledger(members.place) as ledger:
            clerk = Clerk(ledger)
            clerk.start()
            for _ in range(kills):
                clerk.wait_for(100)
                leader = members.kill_leader()
                print(f"member {leader}, the leader, is killed after {clerk.acknowledged} transfers", flush=True)
                clerk.wait_for(100)
                members.restart(leader)
            clerk.stopped = True
            clerk.join()
            print(f"{clerk.acknowledged} transfers were acknowledged; the longest took {clerk.longest_s:.1f} s")

            with Ledger(members.place) as other:  # takes it over
                wrong = complaint(clerk.acknowledged, other)
                if wrong is not None:
                    print(f"FAILED: {wrong}")
                    return 1
                print(f"all {other.transfers} are there, once, and the balances are right")
                try:
                    ledger.transfer("ada", "bob", 1)
                except wal.FencedError as error:
                    print(f"the first owner is fenced: {error}")
                else:
                    print("FAILED: the first owner could still save")
                    return 1
    return 0


def main(kills: str = "3") -> int:
    """Run in a temporary directory."""
    if shutil.which("etcd") is None:
        sys.exit("this needs etcd (on Debian: apt-get install etcd-server)")
    with tempfile.TemporaryDirectory() as temporary:
        return run(Path(temporary), int(kills))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
