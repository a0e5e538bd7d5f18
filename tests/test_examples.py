"""The programs in ``examples/`` and the examples at the heads of modules run as they stand."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import kvstore
import ledger
import ledger_on_etcd
import pytest

import wal
from etcd_cluster import ETCD, NO_ETCD, EtcdCluster

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda program: program.stem)
def test_program_runs(program: Path, tmp_path: Path) -> None:
    """A program ends well, without a warning, and leaves nothing behind in the directory it runs in."""
    if program == Path(ledger_on_etcd.__file__) and ETCD is None:
        pytest.skip(NO_ETCD)
    done = subprocess.run(
        [sys.executable, "-W", "error", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", [wal, wal.etcd], ids=lambda module: module.__name__)
def test_example_at_the_head_of_a_module_runs(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The indented example in the docstring of a public module is a program."""
    monkeypatch.chdir(tmp_path)
    wal.WAL.create("default.etcd/member/wal", registry=wal.etcd.registry()).close()
    example = re.search(r"::\n\n((?: {4}.*\n|\n)+)", inspect.getdoc(module) or "")
    assert example
    names: dict[str, object] = {"wal": wal}

    exec(textwrap.dedent(example[1]), names)

    if isinstance(log := names.get("log"), wal.WAL):
        log.close()
    assert names["entries"] == ([wal.Entry(1, b"a"), wal.Entry(2, b"b")] if module is wal else [])


class TestKeyValueStore:
    def test_last_value_is_found_again(self, path: Path) -> None:
        """A store that is opened again has the last value of each key."""
        with kvstore.KeyValueStore(path) as store:
            store.put({"colour": "blue", "shape": "round"})
            store.put({"colour": "red"})

        with kvstore.KeyValueStore(path) as store:
            assert store.values == {"colour": "red", "shape": "round"}

    def test_entries_are_its_own(self, path: Path) -> None:
        """The log gives back the store's own record type."""
        with kvstore.KeyValueStore(path) as store:
            store.put({"a key with spaces": "é\0"})

        assert wal.WALReader(path, registry=kvstore.REGISTRY).read_all().entries == [
            kvstore.Put(1, "a key with spaces", "é\0")
        ]

    def test_half_a_write_is_none(self, path: Path) -> None:
        """A write that a power cut interrupted is gone as a whole, and the store says that it was cut."""
        with kvstore.KeyValueStore(path, segment_size=kvstore.SEGMENT_SIZE) as store:
            store.put(kvstore.batch(1))

        assert kvstore.write_and_cut_power(path) == 1

        with kvstore.KeyValueStore(path) as store:
            assert store.values == kvstore.batch(1)
            assert store.log.repaired

    def test_writes_go_on_after_a_kill(self, path: Path) -> None:
        """A killed writer leaves a store with all that it acknowledged, and with at most one write more."""
        acknowledged = kvstore.write_and_kill(path)

        with kvstore.KeyValueStore(path) as store:
            assert acknowledged >= 1
            assert kvstore.complaint(acknowledged, store) is None


TRANSFER_UNTIL_KILLED = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import ledger

with ledger.Ledger(Path(sys.argv[2]), snapshot_every=10, segment_size=4096) as book:
    while True:
        book.transfer("ada", "bob", book.transfers + 1)
        print(book.transfers, flush=True)
"""


class Place(NamedTuple):
    """Where a ledger is, and what it is opened with there."""

    name: str
    options: dict[str, Any]


@pytest.fixture(params=["files", "etcd"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The ledger is the same, unchanged but for the place."""
    if request.param == "files":
        return Place(str(tmp_path / "wal"), {"segment_size": 4096})
    etcd: EtcdCluster = request.getfixturevalue("etcd")
    members = ",".join(endpoint.removeprefix("http://") for endpoint in etcd.endpoints)
    return Place(f"etcd://{members}/{tmp_path.name}", {})


class TestLedger:
    @staticmethod
    def balances(transfers: int) -> dict[str, int]:
        """What ada and bob have when the n-th transfer is n cents."""
        cents = transfers * (transfers + 1) // 2
        return {"ada": -cents, "bob": cents} if transfers else {}

    def test_it_goes_on_where_it_was(self, place: Place) -> None:
        """The program, run twice on one storage: the second time with all that the first one did."""
        for so_far in (0, 120):
            done = subprocess.run(
                [sys.executable, "-W", "error", ledger.__file__, place.name, "120"],
                capture_output=True,
                text=True,
                check=False,
            )

            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith(f"{so_far} transfers so far\n")
            assert done.stdout.endswith(f"{so_far + 120} transfers; the sum is 0\n")

    def test_a_kill_loses_no_transfer_and_no_money(self, path: Path) -> None:
        """Killed four times: what was acknowledged is there, and at most one transfer more, and it was a whole one."""
        for _ in range(4):
            with subprocess.Popen(
                [sys.executable, "-c", TRANSFER_UNTIL_KILLED, str(EXAMPLES[0].parent), str(path)],
                stdout=subprocess.PIPE,
                text=True,
            ) as child:
                assert child.stdout is not None
                acknowledged = [int(child.stdout.readline()) for _ in range(13)]
                child.kill()
                acknowledged += [int(line) for line in child.stdout]

            with ledger.Ledger(path) as book:
                assert book.transfers in (acknowledged[-1], acknowledged[-1] + 1)
                assert book.balances == self.balances(book.transfers)

    @pytest.mark.parametrize("transfers", [0, 1, 9, 10, 11, 120])
    def test_balances_are_found_again(self, place: Place, transfers: int) -> None:
        """Whatever part of them is in a snapshot, and whatever in entries."""
        with ledger.Ledger(place.name, snapshot_every=10, **place.options) as book:
            for number in range(1, transfers + 1):
                book.transfer("ada", "bob", number)

        with ledger.Ledger(place.name) as book:
            assert book.transfers == transfers
            assert book.balances == self.balances(transfers)

    def test_it_stays_small(self, path: Path) -> None:
        """Two snapshots, and the segments that they need."""
        with ledger.Ledger(path, snapshot_every=10, segment_size=4096) as book:
            for number in range(1, 251):
                book.transfer("ada", "bob", number)

        assert len(list((path / "snap").iterdir())) == 2
        assert len(list((path / "wal").iterdir())) <= 2
        assert wal.valid_snapshots(path / "wal", registry=ledger.REGISTRY)[-1].index == 250

    def test_money_that_was_made_is_an_exit_code(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """If the balances do not add up to zero, the program ends with 1."""

        def cheat(self: ledger.Ledger, transfer: ledger.Transfer) -> None:
            self.balances[transfer.payee] = transfer.cents

        monkeypatch.setattr(ledger.Ledger, "_apply", cheat)

        assert ledger.main(str(path), "3") == 1
        assert "the sum is 0" not in capsys.readouterr().out


class TestLedgerOnEtcd:
    """The program that kills members below a ledger."""

    @pytest.mark.parametrize(
        ("acknowledged", "words"),
        [
            pytest.param(3, None, id="all there"),
            pytest.param(4, "4 transfers were acknowledged, and there are 3", id="one lost"),
            pytest.param(2, "2 transfers were acknowledged, and there are 3", id="one too many"),
        ],
    )
    def test_complaint(self, path: Path, acknowledged: int, words: str | None) -> None:
        """What the program says is worth something, because it would say otherwise."""
        with ledger.Ledger(path) as book:
            for number in range(1, 4):
                book.transfer("ada", "bob", number)

            assert ledger_on_etcd.complaint(acknowledged, book) == words
            book.balances["ada"] += 1
            assert ledger_on_etcd.complaint(acknowledged, book) is not None


class TestTheDemoCanFail:
    """What the program says is worth something, because it would say otherwise."""

    @pytest.mark.parametrize(
        ("acknowledged", "harm", "words"),
        [
            pytest.param(3, lambda values: None, None, id="all there"),
            pytest.param(2, lambda values: None, None, id="one more than acknowledged"),
            pytest.param(4, lambda values: None, "acknowledged writes lost: 1", id="one lost"),
            pytest.param(1, lambda values: None, "writes that nobody made: 1", id="one too many"),
            pytest.param(2, lambda values: values.popitem(), "a write is there in part", id="half a write"),
            pytest.param(3, lambda values: values.update({"3.0": ""}), "a write is there in part", id="another value"),
        ],
    )
    def test_complaint(
        self, path: Path, acknowledged: int, harm: Callable[[dict[str, str]], object], words: str | None
    ) -> None:
        """Lost, invented, partial and altered writes are told apart from what is right."""
        with kvstore.KeyValueStore(path) as store:
            for number in range(1, 4):
                store.put(kvstore.batch(number))
        harm(store.values)
        found = kvstore.complaint(acknowledged, store)

        assert found == words or (words is not None and found is not None and found.startswith(words))

    def test_a_lost_write_is_an_exit_code(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """If one acknowledged write is missing, the program says so and ends with 1."""
        monkeypatch.setattr(kvstore, "write_and_kill", lambda path: 1)

        assert kvstore.main() == 1
        assert "FAILED: acknowledged writes lost: 1" in capsys.readouterr().out
