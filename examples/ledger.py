"""
A bank ledger that survives anything: a state machine on ``wal.open_storage``, or on ``wal.cluster.open_storage``.

Each transfer is a record of our own. It is saved, then applied. Every hundred transfers the balances are saved as a
snapshot, and what only older snapshots need is given up, so the ledger's files stay small however long it runs.

Run it again and again with the same directory: it goes on where it was. Kill it whenever you like. Without a directory
it takes one that is removed in the end. Where the ledger is, on a disk or on an etcd cluster, is one line.

    python ledger.py [DIRECTORY [TRANSFERS]]
    python ledger.py etcd://HOST:PORT,HOST:PORT,HOST:PORT/NAME [TRANSFERS]
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import wal

if TYPE_CHECKING:
    from wal.cluster import EtcdStorage


@dataclass(frozen=True, slots=True)
class Transfer(wal.LogEntry):
    """Money goes from one account to another."""

    index: int
    payer: str
    payee: str
    cents: int

    def marshal(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        return cls(**json.loads(data))


REGISTRY = wal.RecordRegistry(entry=Transfer)


def open_ledger(
    place: str | Path, segment_size: int
) -> tuple[
    wal.FileStorage[Transfer, wal.CommitState] | EtcdStorage[Transfer, wal.CommitState],
    wal.Recovered[Transfer, wal.CommitState],
]:
    """Open the storage in a directory, or the one that ``etcd://host:port,host:port/name`` says."""
    retention = wal.Retention(snapshots=2)
    if str(place).startswith("etcd://"):
        from wal import cluster  # which needs wal[etcd]

        members, _, name = str(place).removeprefix("etcd://").partition("/")
        return cluster.open_storage(members.split(","), name, b"ledger-1", registry=REGISTRY, retention=retention)
    return wal.open_storage(place, b"ledger-1", registry=REGISTRY, retention=retention, segment_size=segment_size)


class Ledger:
    """Balances of accounts, as they are after all transfers that were ever acknowledged."""

    def __init__(self, place: str | Path, *, snapshot_every: int = 100, segment_size: int = 64_000_000) -> None:
        self.balances: dict[str, int] = {}
        self.snapshot_every = snapshot_every
        self.storage, recovered = open_ledger(place, segment_size)
        if recovered.snapshot is not None:
            self.balances = json.loads(recovered.snapshot.data)
        for entry in recovered.entries:
            self._apply(entry)

    @property
    def transfers(self) -> int:
        """How many transfers there have been; each is one entry of the log."""
        return self.storage.last_index

    def transfer(self, payer: str, payee: str, cents: int) -> None:
        """Move money. When this returns, it is durable; if the process dies before, all of it is done or nothing."""
        transfer = Transfer(self.transfers + 1, payer, payee, cents)
        # One node decides alone: what is saved is committed, in the same save.
        self.storage.save(wal.CommitState(transfer.index), [transfer])
        self._apply(transfer)
        if transfer.index % self.snapshot_every == 0:
            self._take_snapshot(transfer.index)

    def _apply(self, transfer: Transfer) -> None:
        self.balances[transfer.payer] = self.balances.get(transfer.payer, 0) - transfer.cents
        self.balances[transfer.payee] = self.balances.get(transfer.payee, 0) + transfer.cents

    def _take_snapshot(self, index: int) -> None:
        snapshot = wal.SnapshotData(index, json.dumps(self.balances).encode())
        self.storage.save_snap(snapshot)
        self.storage.release(snapshot)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.storage.close()


def run(place: str | Path, count: int) -> int:
    """Make some transfers and print the balances; return 1 if money was made or lost, else 0."""
    names = ["ada", "bob", "cyd", "dan"]
    with Ledger(place, segment_size=100_000) as ledger:
        print(f"{ledger.transfers} transfers so far")
        for _ in range(count):
            payer, payee = random.sample(names, 2)
            ledger.transfer(payer, payee, random.randrange(1, 10_000))
        for name, cents in sorted(ledger.balances.items()):
            print(f"{name:5} {cents / 100:12,.2f}")
        total = sum(ledger.balances.values())
        print(f"{ledger.transfers} transfers; the sum is {total}")
    return int(total != 0)


def main(place: str = "", count: str = "500") -> int:
    """Run in the place given, or in a temporary directory."""
    with tempfile.TemporaryDirectory() as temporary:
        return run(place or temporary, int(count))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
