# SPDX-License-Identifier: Apache-2.0
"""Members that are killed and paused under load: nothing acknowledged is lost, nothing is doubled or out of order."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import wal
import wal.cluster
from etcd_cluster import EtcdCluster

from .work import MEMBERS, Open, Work, check, finished


@pytest.fixture
def opening(members: EtcdCluster) -> Open:
    return partial(wal.cluster.open_storage, members.endpoints, "proof", timeout_s=60.0, request_timeout_s=1.0)


def followed(members: EtcdCluster, last: bytes) -> list[Any]:
    """Return the entries that a follower sees up to one with these data."""
    seen: list[Any] = []
    with wal.cluster.follow(members.endpoints, "proof", 1, timeout_s=60.0, request_timeout_s=1.0) as follower:
        for record in follower:
            value: Any = record.value
            if record.type is wal.RecordType.ENTRY:
                if value.data == last:
                    break
                seen.append(value)
    return seen


def test_leaders_are_killed(
    members: EtcdCluster, opening: Open, count: Callable[..., None], effort: Callable[..., int]
) -> None:
    """One leader after the other is killed with -9 while it is written; a follower sees what the log has in the end."""
    seconds = effort(quick=5, full=60, deep=3600)
    kills = 0
    with ThreadPoolExecutor(1) as pool:
        with Work(opening) as work:
            work.wait_for(10)
            following = pool.submit(followed, members, b"the end")
            begun = time.monotonic()
            while time.monotonic() - begun < seconds:
                leader = members.leader()
                members.kill(leader)
                kills += 1
                work.wait_for(random.randrange(1, 100))  # the other two go on
                members.restart(leader)
                members.wait_until_ready()
                work.wait_for(random.randrange(1, 200))
        entries = finished(opening, b"the end")
        assert following.result() == entries
    check(work, entries, count, leaders_killed=kills)


def test_all_are_killed(
    members: EtcdCluster, opening: Open, count: Callable[..., None], effort: Callable[..., int]
) -> None:
    """All members at once, as by a power cut that spares the disks."""
    rounds = effort(quick=2, full=8, deep=100)
    with Work(opening) as work:
        for _ in range(rounds):
            work.wait_for(random.randrange(1, 200))
            for number in random.sample(range(MEMBERS), MEMBERS):
                members.kill(number)
            for number in range(MEMBERS):
                members.restart(number)
            members.wait_until_ready()
        work.wait_for(100)
    check(work, finished(opening), count, times_all_killed=rounds)


@pytest.mark.parametrize("whom", ["the leader", "a follower"])
def test_one_is_paused(
    whom: str, members: EtcdCluster, opening: Open, count: Callable[..., None], effort: Callable[..., int]
) -> None:
    """A member that says nothing and keeps its connections is not waited for; when it goes on it harms nothing."""
    rounds = effort(quick=1, full=5, deep=100)
    with Work(opening) as work:
        for _ in range(rounds):
            work.wait_for(random.randrange(1, 200))
            leader = members.leader()
            paused = leader if whom == "the leader" else (leader + 1) % MEMBERS
            members.pause(paused)
            work.wait_for(200)
            members.resume(paused)
            members.wait_until_ready()
        work.wait_for(100)
    check(work, finished(opening), count, times_paused=rounds)


def test_a_majority_is_paused(members: EtcdCluster, count: Callable[..., None], effort: Callable[..., int]) -> None:
    """Without a majority the storage stops when its time is over, and does not say what became of the last save."""
    rounds = effort(quick=1, full=4, deep=50)
    opening = partial(wal.cluster.open_storage, members.endpoints, "proof", timeout_s=2.0, request_timeout_s=0.5)
    with Work(opening) as work:
        for _ in range(rounds):
            work.wait_for(random.randrange(1, 200))
            stopped = work.stopped
            leader = members.leader()
            paused = [leader, (leader + 1) % MEMBERS]
            for number in paused:
                members.pause(number)
            work.wait_until(lambda: work.stopped > stopped)  # noqa: B023 - it is over before the next round
            for number in paused:
                members.resume(number)
            members.wait_until_ready()
        work.wait_for(100)
    check(work, finished(opening), count, times_a_majority_was_paused=rounds)
