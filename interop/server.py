# SPDX-License-Identifier: Apache-2.0
"""A real etcd server, and clients that remember what it has acknowledged."""

from __future__ import annotations

import base64
import http.client
import json
import random
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wal._protobuf import bytes_field, uint_field

__all__ = ["Client", "Server", "Work", "put_request", "raft_request"]

SECONDS_TO_START = 60
UNREACHABLE = (OSError, http.client.HTTPException)


class Server:
    """
    An etcd of one member, with its directory. It syncs, as it does in earnest.

    Args:
        program: What to run.
        data: Its data directory, which may exist.
        snapshot_count: How many entries there are between snapshots.
    """

    def __init__(self, program: str, data: Path, *, snapshot_count: int) -> None:
        self.data = data
        self.log = data / "member" / "wal"
        self.port = 0
        self._command = [
            program,
            f"--data-dir={data}",
            f"--snapshot-count={snapshot_count}",
            "--max-wals=0",  # so that its log can be read from the beginning
            "--max-snapshots=0",
            "--max-request-bytes=8000000",
            "--heartbeat-interval=10",  # the only member need not wait for others
            "--election-timeout=50",
            "--logger=zap",
            "--log-level=error",
        ]

    def start(self) -> None:
        """Start it. When this returns, it serves."""
        for _ in range(3):  # a port that was free may be taken by somebody else meanwhile
            ports = [_free_port() for _ in range(2)]
            self.port = ports[0]
            client, peer = (f"http://127.0.0.1:{port}" for port in ports)
            with self.data.with_suffix(".stderr").open("wb") as stderr:
                self._process = subprocess.Popen(
                    [
                        *self._command,
                        f"--listen-client-urls={client}",
                        f"--advertise-client-urls={client}",
                        f"--listen-peer-urls={peer}",
                        f"--initial-advertise-peer-urls={peer}",
                        f"--initial-cluster=default={peer}",
                    ],
                    stderr=stderr,
                    stdout=stderr,
                )
            if self._serves():
                return
            self.kill()
        said = self.data.with_suffix(".stderr").read_text()
        raise AssertionError(f"etcd does not start on {self.data}: {said[-3000:]}")

    def _serves(self) -> bool:
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with closing(Client(self, "first")) as client:
                    client.get(b"anything")
                return True
            except UNREACHABLE:
                time.sleep(0.02)
        return False

    def kill(self) -> None:
        """Kill it, as a crash would: kill -9."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Client:
    """
    Somebody who asks the server, over its gateway for JSON.

    Attributes:
        name: Its keys begin with that.
        acknowledged: Bytes of each request that the server has said yes to, in this order, that must stand in an entry
            of its log.
    """

    server: Server
    name: str
    acknowledged: list[bytes] = field(default_factory=list)
    _connection: http.client.HTTPConnection | None = None
    _number: int = 0

    def ask(self, path: str, **request: Any) -> dict[str, Any]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=SECONDS_TO_START)
        try:
            self._connection.request("POST", path, json.dumps(request))
            response = self._connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except BaseException:
            self.close()
            raise
        if response.status != 200:
            raise http.client.HTTPException(f"{path}: {answer}")
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, key: bytes) -> bytes | None:
        found = self.ask("/v3/kv/range", key=_encode(key)).get("kvs")
        return base64.b64decode(found[0].get("value", "")) if found else None

    def put(self, key: bytes, value: bytes) -> None:
        self.ask("/v3/kv/put", key=_encode(key), value=_encode(value))
        self.acknowledged.append(put_request(key, value))

    def delete(self, key: bytes) -> None:
        self.ask("/v3/kv/deleterange", key=_encode(key))
        self.acknowledged.append(bytes_field(5, bytes_field(1, key)))

    def put_and_compare(self, key: bytes, value: bytes) -> None:
        """Put in a transaction, if there is no such key."""
        there_is_none = {"key": _encode(key), "target": "CREATE", "create_revision": "0"}
        put = {"request_put": {"key": _encode(key), "value": _encode(value)}}
        answer = self.ask("/v3/kv/txn", compare=[there_is_none], success=[put])
        assert answer["succeeded"]
        self.acknowledged.append(put_request(key, value))

    def grant(self, lease: int) -> None:
        self.ask("/v3/lease/grant", TTL="3600", ID=str(lease))
        self.acknowledged.append(uint_field(1, 3600) + uint_field(2, lease))

    def revoke(self, lease: int) -> None:
        self.ask("/v3/kv/lease/revoke", ID=str(lease))
        self.acknowledged.append(bytes_field(9, uint_field(1, lease)))

    def do_something(self, rng: random.Random, longest: int) -> None:
        """Put, delete, put in a transaction, grant or revoke a lease: something that no request did before."""
        self._number += 1
        key, value = f"{self.name}-{self._number:06}".encode(), rng.randbytes(rng.randint(1, longest))
        kind = rng.choice(["put", "put", "put", "delete", "transaction", "lease"])
        if kind == "put":
            self.put(key, value)
        elif kind == "delete":
            self.put(key, b"soon gone")
            self.delete(key)
        elif kind == "transaction":
            self.put_and_compare(key, value)
        else:
            lease = rng.getrandbits(62) | 1 << 62
            self.grant(lease)
            self.revoke(lease)


def put_request(key: bytes, value: bytes) -> bytes:
    """Return the message by which etcd puts a key."""
    return bytes_field(1, key) + bytes_field(2, value)


def raft_request(id: int, key: bytes, value: bytes) -> bytes:
    """Return the data of the entry by which etcd puts a key: an ``InternalRaftRequest``."""
    header = uint_field(1, id)
    # Its header has the field number 100: a tag of two bytes.
    return bytes_field(4, put_request(key, value)) + b"\xa2\x06" + bytes((len(header),)) + header


class Work:
    """
    Clients at work, side by side, until the server is killed at the end of the ``with`` block.

    Each does something that no request did before; ``longest`` is the greatest length of a value.
    """

    def __init__(self, server: Server, clients: list[Client], *, seed: int, longest: int) -> None:
        self._server = server
        self._clients = clients
        self._news = threading.Condition()
        self.done = 0
        """How many things they have done."""
        self._ended = 0
        self._threads = [
            threading.Thread(target=self._work, args=(client, random.Random(f"{seed} {client.name}"), longest))
            for client in clients
        ]

    def _work(self, client: Client, rng: random.Random, longest: int) -> None:
        try:
            client.close()  # the server that it knows may be gone
            while True:
                client.do_something(rng, longest)
                with self._news:
                    self.done += 1
                    self._news.notify_all()
        except UNREACHABLE:
            with self._news:
                self._ended += 1
                self._news.notify_all()

    def wait_for(self, done: int) -> None:
        """Wait until so many things were done since the beginning."""
        with self._news:
            self._news.wait_for(lambda: self.done >= done or self._ended)
            assert not self._ended, "etcd does not answer any more"

    def go_on(self, seconds: float) -> None:
        """Let them work so long."""
        with self._news:
            self._news.wait_for(lambda: self._ended, timeout=seconds)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.kill()
        for thread in self._threads:
            thread.join()


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
