# SPDX-License-Identifier: Apache-2.0
"""
Work on a cluster that is parted again and again; it prints what was found as JSON.

It is run by ``test_partitions.py``, alone in a network namespace: ``partitions DIRECTORY ROUNDS``.
"""

from __future__ import annotations

import json
import random
import sys
import time
from functools import partial
from pathlib import Path

import wal.cluster
from etcd_cluster import EtcdCluster

from .network import Network
from .work import MEMBERS, THREADS, Work, finished

LONG_S = 2.0
"""Four times the time after which members elect a new leader."""


def main(directory: str, rounds: str) -> None:
    """Part the leader from all; then the leader and ourselves from the other two; and so on."""
    with Network(MEMBERS) as network:
        members = EtcdCluster(Path(directory), MEMBERS, hosts=network.hosts, prefixes=network.prefixes)
        acknowledged_alone = 0
        with members:
            opening = partial(
                wal.cluster.open_storage, members.endpoints, "proof", timeout_s=60.0, request_timeout_s=1.0
            )
            with Work(opening) as work:
                for _ in range(int(rounds)):
                    work.wait_for(random.randrange(1, 200))
                    network.part({members.leader()})
                    work.wait_for(100)  # the other two go on
                    network.join()
                    members.wait_until_ready()

                    work.wait_for(random.randrange(1, 200))
                    leader = members.leader()
                    network.part(set(range(MEMBERS)) - {leader})
                    before = work.acknowledged + THREADS  # which the others may have had already
                    time.sleep(LONG_S)  # until they have elected another leader, which nobody can be asked about
                    acknowledged_alone += max(0, work.acknowledged - before)
                    network.join()
                    members.wait_until_ready()
                work.wait_for(100)
            entries = finished(opening)
    found = work.verdict(entries)
    print(json.dumps({**found, "saves acknowledged by a minority": acknowledged_alone}))


if __name__ == "__main__":
    main(*sys.argv[1:])
