# SPDX-License-Identifier: Apache-2.0
"""Owners that race: one wins, and the other is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

import wal
import wal.cluster
from etcd_cluster import EtcdCluster

from .work import Open, finished

ROUNDS_A_STORAGE = 50


def opening(members: EtcdCluster, name: str) -> Open:
    return partial(wal.cluster.open_storage, members.endpoints, name, timeout_s=60.0)


class Contender:
    """
    Takes a storage over beside somebody else who does, and saves before and after both have.

    Attributes:
        acknowledged: What it saved.
        wins: Whether it could still save when both had taken it over.
    """

    def __init__(self, open: Open, data: bytes, both: threading.Barrier) -> None:
        self._open = open
        self._data = data
        self._both = both
        self.acknowledged: list[bytes] = []
        self.wins = False

    def run(self) -> None:
        storage = None
        try:
            self._both.wait()
            try:
                storage, _ = self._open()
                self._save(storage, b"at once")
            except wal.FencedError:
                pass
            self._both.wait()
            if storage is not None:
                try:
                    self._save(storage, b"later")
                    self.wins = True
                except wal.FencedError:
                    with pytest.raises(wal.FencedError):
                        self._save(storage, b"again")
        finally:
            if storage is not None:
                storage.close()

    def _save(self, storage: wal.cluster.EtcdStorage, when: bytes) -> None:
        data = self._data + b" " + when
        storage.save(None, [wal.Entry(storage.last_index + 1, data)])
        self.acknowledged.append(data)


def test_one_of_two_owners_wins(members: EtcdCluster, count: Callable[..., None], effort: Callable[..., int]) -> None:
    """
    Two take a storage over at the same moment and save. When both have, one can go on and the other is fenced at each
    save; what was acknowledged to either is there, in order, and nothing else but what nobody was told of.
    """
    rounds = effort(quick=50, full=1000, deep=20_000)
    fenced = 0
    for first in range(0, rounds, ROUNDS_A_STORAGE):
        name = f"race-{first}"
        acknowledged: list[bytes] = []
        for number in range(first, first + ROUNDS_A_STORAGE):
            both = threading.Barrier(2)
            contenders = [Contender(opening(members, name), b"%d %s" % (number, who), both) for who in (b"ada", b"bob")]
            with ThreadPoolExecutor(2) as pool:
                for running in [pool.submit(contender.run) for contender in contenders]:
                    running.result()
            assert [contender.wins for contender in contenders].count(True) == 1
            fenced += 1
            acknowledged += [data for contender in contenders for data in contender.acknowledged]
        there = [entry.data for entry in finished(opening(members, name))]
        assert sorted(there) == sorted(acknowledged)
        assert [int(data.split()[0]) for data in there] == sorted(int(data.split()[0]) for data in acknowledged)
    count(races_for_a_storage=rounds, owners_fenced=fenced)
