"""
Measure the storage on an etcd cluster, with real members on this machine: ``make bench-cluster``.

First come saves, and an opening, on one member and on three. Then, on one member, a transaction that puts one value if
a key is not there, one at a time, by each client that a program in Python could use; those that are not installed are
left out. In each round everything is measured once, in turns. Printed is the median of the rounds: of each round's
median for what is done one at a time, of the round's rate for the rest.

Members, clients and everything else share this machine's processors and its disk: the figures tell orders of magnitude,
and how clients compare.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib
import json
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import wal
import wal.cluster
from etcd_cluster import ETCD, NO_ETCD, EtcdCluster
from machine import Others, describe_machine
from wal._cluster.client import Client, Credentials
from wal._cluster.messages import TXN, compare_mod, put_op

__all__ = ["CLIENTS", "QUICK", "Scale", "main", "measure_clients", "measure_saves"]

NOWHERE = b"nowhere"
"""A key that is never there."""

_names = count()


class Scale(NamedTuple):
    """How often things are done in a round."""

    saves: int = 200
    entries: int = 100_000
    transactions: int = 200
    long_transactions: int = 20


QUICK = Scale(saves=5, entries=200, transactions=3, long_transactions=1)

Figures = dict[tuple[str, str], list[float]]
"""By what was measured and where: a number of each round."""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description="Measure the storage on an etcd cluster.")
    parser.add_argument("--rounds", type=int, default=3, help="how often to measure everything (default: 3)")
    parser.add_argument("--quick", action="store_true", help="only show that everything works")
    arguments = parser.parse_args()
    if ETCD is None:
        parser.exit(1, f"{NO_ETCD}\n")
    scale, others = QUICK if arguments.quick else Scale(), Others()
    saves: Figures = defaultdict(list)
    clients: Figures = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="wal-clusters-") as directory:
        for what, words in describe_machine(Path(directory)).items():
            print(f"{what}: {words}")
        for round in range(arguments.rounds):
            for members in (1, 3):
                with EtcdCluster(Path(directory) / f"{round}-{members}", members) as cluster:
                    for what, number in measure_saves(cluster, scale).items():
                        saves[what, f"{members} of etcd"].append(number)
            with EtcdCluster(Path(directory) / f"{round}-clients") as cluster:
                for (client, size), number in measure_clients(cluster, scale).items():
                    clients[client, f"{size:,} bytes"].append(number)
    print_medians("saves", saves)
    print_medians("a transaction, in ms", clients)
    print(f"others took {others.share():.0%} of the processors")


def print_medians(title: str, figures: Figures) -> None:
    """Print a table of medians, with the lowest and the greatest beside each."""
    print(f"\n{title}")
    for (what, where), numbers in figures.items():
        least, most = min(numbers), max(numbers)
        print(f"  {what:47} {where:16} {statistics.median(numbers):10,.2f}   ({least:,.2f} to {most:,.2f})")


# ------------------------------------------------------------------------------------------------------ saves


def measure_saves(cluster: EtcdCluster, scale: Scale) -> dict[str, float]:
    """Save in different ways; return what each took."""
    found: dict[str, float] = {}
    for entries, size in ((1, 100), (1, 1000), (100, 100), (1000, 100)):
        name = f"bench/{next(_names)}"
        with wal.cluster.open_storage(cluster.endpoints, name)[0] as storage:
            seconds = []
            for number in range(scale.saves if entries < 1000 else max(scale.saves // 4, 1)):
                first = number * entries + 1
                batch = [wal.Entry(index, bytes(size)) for index in range(first, first + entries)]
                started = time.perf_counter()
                storage.save_entry(batch)
                seconds.append(time.perf_counter() - started)
        median = statistics.median(seconds)
        found[f"{entries:,} x {size:,} bytes: ms a save"] = median * 1000
        found[f"{entries:,} x {size:,} bytes: entries a second"] = entries / statistics.mean(seconds)
    for threads in (16, 64):
        found[f"{threads} threads, 1 x 100 bytes: saves a second"] = _threads_rate(cluster, threads, scale.saves * 20)
    found[f"opening with {scale.entries:,} entries, 50 to a batch: s"] = _opening_s(cluster, scale.entries)
    return found


def _threads_rate(cluster: EtcdCluster, threads: int, saves: int) -> float:
    """Return the saves per second of many threads, each of which waits for its own."""
    with wal.cluster.open_storage(cluster.endpoints, f"bench/{next(_names)}")[0] as storage:
        numbering, indexes = threading.Lock(), count(1)

        def save(_: int) -> None:
            with numbering:
                pending = storage.submit(None, [wal.Entry(next(indexes), bytes(100))])
            pending.wait()

        with ThreadPoolExecutor(threads) as pool:
            started = time.perf_counter()
            list(pool.map(save, range(saves)))
            return saves / (time.perf_counter() - started)


def _opening_s(cluster: EtcdCluster, entries: int) -> float:
    """Return how long it takes to open a storage with so many entries, 50 to a batch."""
    name = f"bench/{next(_names)}"
    with wal.cluster.open_storage(cluster.endpoints, name)[0] as storage:
        for first in range(1, entries + 1, 50):
            storage.save_entry([wal.Entry(index, bytes(100)) for index in range(first, first + 50)])
    started = time.perf_counter()
    storage, recovered = wal.cluster.open_storage(cluster.endpoints, name)
    seconds = time.perf_counter() - started
    storage.close()
    assert len(recovered.entries) == entries
    return seconds


# ------------------------------------------------------------------------------------------------- the clients


def measure_clients(cluster: EtcdCluster, scale: Scale) -> dict[tuple[str, int], float]:
    """Return how many milliseconds a transaction takes, by client and length of the value."""
    found: dict[tuple[str, int], float] = {}
    for size, times in (
        (100, scale.transactions),
        (10_000, scale.transactions),
        (1_000_000, scale.long_transactions),
    ):
        for name, measure in CLIENTS.items():
            try:
                seconds = measure(cluster.endpoints[0], bytes(size), times)
            except ModuleNotFoundError:
                continue
            found[name, size] = statistics.median(seconds) * 1000
    return found


def _timed(times: int, put: Callable[[bytes], bool]) -> list[float]:
    """Put to so many keys, behind one that is not counted; return how many seconds each took."""
    seconds = []
    for number in range(times + 1):
        started = time.perf_counter()
        assert put(b"clients/%d" % number)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def _grpcio(endpoint: str, value: bytes, times: int) -> list[float]:
    """The client that the library has."""
    client = Client([endpoint], Credentials(), request_timeout_s=30, name="bench")

    def put(key: bytes) -> bool:
        request = TXN.request(compare=[compare_mod(NOWHERE, 0)], success=[put_op(key, value)])
        return bool(client.call(TXN, request, deadline=time.monotonic() + 30).succeeded)

    try:
        return _timed(times, put)
    finally:
        client.close()


def _transaction(key: bytes, value: bytes) -> dict[str, Any]:
    """The transaction as the gateway wants it."""
    return {
        "compare": [{"target": "MOD", "key": _text(NOWHERE), "mod_revision": 0}],
        "success": [{"request_put": {"key": _text(key), "value": _text(value)}}],
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _urllib3(endpoint: str, value: bytes, times: int) -> list[float]:
    with importlib.import_module("urllib3").PoolManager() as pool:

        def put(key: bytes) -> bool:
            body = json.dumps(_transaction(key, value))
            return bool(json.loads(pool.request("POST", f"{endpoint}/v3/kv/txn", body=body).data)["succeeded"])

        return _timed(times, put)


def _httpx(endpoint: str, value: bytes, times: int) -> list[float]:
    with importlib.import_module("httpx").Client(timeout=30) as client:

        def put(key: bytes) -> bool:
            return bool(client.post(f"{endpoint}/v3/kv/txn", json=_transaction(key, value)).json()["succeeded"])

        return _timed(times, put)


def _etcd3gw(endpoint: str, value: bytes, times: int) -> list[float]:
    host, _, port = endpoint.removeprefix("http://").partition(":")
    client = importlib.import_module("etcd3gw").client(host=host, port=int(port))
    try:
        return _timed(times, lambda key: bool(client.transaction(_transaction(key, value))["succeeded"]))
    finally:
        client.session.close()


def _aetcd(endpoint: str, value: bytes, times: int) -> list[float]:
    aetcd = importlib.import_module("aetcd")
    host, _, port = endpoint.removeprefix("http://").partition(":")
    with asyncio.Runner() as runner:

        async def connect() -> Any:
            client = aetcd.Client(host, int(port))
            await client.connect()
            return client

        async def transact(key: bytes) -> bool:
            make = client.transactions
            done = await client.transaction(
                compare=[make.mod(NOWHERE) == 0], success=[make.put(key, value)], failure=[]
            )
            return bool(done[0])

        client = runner.run(connect())
        try:
            return _timed(times, lambda key: runner.run(transact(key)))
        finally:
            runner.run(client.close())


CLIENTS: dict[str, Callable[[str, bytes, int], list[float]]] = {
    "grpcio": _grpcio,
    "aetcd (gRPC, asyncio)": _aetcd,
    "urllib3 and the gateway": _urllib3,
    "httpx and the gateway": _httpx,
    "etcd3gw (requests and the gateway)": _etcd3gw,
}

if __name__ == "__main__":
    main()
