"""Stores for the tests of the archive: three kinds of them, ones that fail, and ones that take turns."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from obstore.exceptions import GenericError
from obstore.store import MemoryStore, S3Store

import wal
from wal.archive import ObjectStore

KINDS = ["memory", "local", "s3"]

SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.disable()
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's S3 server until the end; give its endpoint. It ends with this process, too."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()


_numbers = count()


def new_bucket(endpoint: str) -> str:
    """Make a bucket and return its name."""
    bucket = f"bucket-{next(_numbers)}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()
    return bucket


ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


def new_store(kind: str, endpoint: Callable[[], str], path: Path) -> Any:
    """Make a store with nothing in it, or for ``local`` the directory of one."""
    if kind == "memory":
        return MemoryStore()
    if kind == "local":
        return path / f"store-{next(_numbers)}"
    return S3Store(
        new_bucket(endpoint()),
        prefix="some/prefix",
        endpoint=endpoint(),
        access_key_id="key",
        secret_access_key="secret",
        region="us-east-1",
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )


def store_of(store: Any) -> Any:
    """Return what requests are made of: for a directory, what the library makes of it."""
    return wal._archive.objects.open_objects(store)._store  # type: ignore[attr-defined]


def objects_of(store: Any) -> dict[str, bytes]:
    """Return all objects, by name."""
    store = store_of(store)
    return {found["path"]: bytes(store.get(found["path"]).bytes()) for part in store.list() for found in part}


class Watched:
    """Passes requests on, and calls ``before`` and ``after`` each with its number, its kind and the object's name."""

    def __init__(
        self,
        store: Any,
        *,
        before: Callable[[int, str, str], None] = lambda *_: None,
        after: Callable[[int, str, str], None] = lambda *_: None,
    ) -> None:
        self.store = store_of(store)
        self.requests: list[tuple[str, str]] = []
        self._before, self._after = before, after

    def _request(self, kind: str, name: str, call: Callable[[], Any]) -> Any:
        number = len(self.requests)
        self.requests.append((kind, name))
        self._before(number, kind, name)
        try:
            return call()
        finally:
            self._after(number, kind, name)

    def put(self, path: str, file: bytes, *, mode: Any) -> Any:
        return self._request("put", path, lambda: self.store.put(path, file, mode=mode))

    def get(self, path: str) -> Any:
        return self._request("get", path, lambda: self.store.get(path))

    def list(self, prefix: str | None = None) -> Any:
        return self._request("list", prefix or "", lambda: list(self.store.list(prefix)))

    def delete(self, paths: str) -> Any:
        return self._request("delete", paths, lambda: self.store.delete(paths))


_is_a_store: type[ObjectStore] = Watched


def failing(store: Any, number: int, how: str) -> Watched:
    """Return a store whose request of this number fails: ``before`` it is carried out, or ``after``."""

    def fail(at: int, kind: str, name: str) -> None:
        if at == number:
            raise GenericError("the connection was closed")

    return Watched(store, before=fail) if how == "before" else Watched(store, after=fail)


class Turns:
    """Parties that make their requests in turn, as a schedule says."""

    def __init__(self, parties: list[Callable[[Watched], Any]], store: Any) -> None:
        self.results: list[Any] = [None] * len(parties)
        self._arrived = threading.Semaphore(0)
        self._go = [threading.Semaphore(0) for _ in parties]
        self._done = [False] * len(parties)
        self._threads = [
            threading.Thread(target=self._run, args=(number, party, store)) for number, party in enumerate(parties)
        ]

    def _run(self, number: int, party: Callable[[Watched], Any], store: Any) -> None:
        def wait(*_: Any) -> None:
            self._arrived.release()
            self._go[number].acquire()

        try:
            self.results[number] = party(Watched(store, before=wait))
        except Exception as error:
            self.results[number] = error
        self._done[number] = True
        self._arrived.release()

    def play(self, schedule: list[int]) -> list[tuple[int, list[int]]]:
        """Run to the end; return whose turn it was each time, and who else could have had it."""
        for thread in self._threads:
            thread.start()
            self._arrived.acquire()
        played: list[tuple[int, list[int]]] = []
        while waiting := [number for number, done in enumerate(self._done) if not done]:
            chosen = schedule[len(played)] if len(played) < len(schedule) else waiting[0]
            played.append((chosen, [number for number in waiting if number != chosen]))
            self._go[chosen].release()
            self._arrived.acquire()
        for thread in self._threads:
            thread.join()
        return played


def interleavings(make: Callable[[], tuple[list[Callable[[Watched], Any]], Any]]) -> Iterator[tuple[list[Any], Any]]:
    """Play every order of the parties' requests once; yield what the parties returned or raised, and the store."""
    schedules: list[list[int]] = [[]]
    while schedules:
        schedule = schedules.pop()
        parties, store = make()
        turns = Turns(parties, store)
        played = turns.play(schedule)
        for place in range(len(schedule), len(played)):
            before = [chosen for chosen, _ in played[:place]]
            schedules += [[*before, other] for other in played[place][1]]
        yield turns.results, store
