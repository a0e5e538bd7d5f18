"""The benchmarks run, measure what they say, and take the ratios that they say."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

import bench
import floor
import ours
import page
import peers
import subjects
import tables
import wal
import worker
from etcd_cluster import EtcdCluster
from goals import goals
from results import Results, Spread
from rows import all_rows
from store import MissingError, Store

BENCH = Path(bench.__file__)

STORES: dict[str, type[Store]] = {
    "wal": ours.Ours,
    "wal without zeros ahead": ours.OursUnzeroed,
    "fresh floor": floor.FreshFloor,
    "zeroed floor": floor.ZeroedFloor,
    **peers.PEERS,
}
each_store = pytest.mark.parametrize("store", STORES.values(), ids=STORES)


def results_of(values: dict[str, dict[str, list[float]]], what: str = "p50") -> Results:
    """Make results of each row's and subject's values, round by round."""
    known = {
        "floor, zeroed": {"family": "floor", "primary": True},
        "etcd in Go": {"family": "etcd", "primary": True},
        "wal, pure": {"family": "wal", "primary": True, "compiled": False},
        "wal, pure, crcmod": {"family": "wal", "primary": False, "compiled": False},
        "sqlite3": {"family": "peer", "primary": True},
        "lmdb": {"family": "peer", "primary": True},
    }
    rows = {row.name: {"title": row.title, "task": row.task} for row in all_rows(scale=1, gigabyte=1000)}
    results = Results(machine={"date": "today"}, rows=rows, subjects=known)
    for row, subjects_of_row in values.items():
        for subject, numbers in subjects_of_row.items():
            for round, number in enumerate(numbers):
                results.add(row, subject, round, {"p50": number, "p99": number, "per_second": number, what: number})
    return results


ROWS = ["save-1x100", "save-1000x1000", "encode-*", "*-16", "read-all", "stream", "memory-*", "open-4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Make a quick run on a machine without Go."""
    path = tmp_path_factory.mktemp("bench")
    command = [sys.executable, str(BENCH), "--quick", "--subjects", "wal*", "floor*", "--rows", *ROWS]
    options = ["--directory", str(path / "data"), "--output", str(path / "output")]
    done = subprocess.run(
        [*command, *options], env={**os.environ, "PATH": ""}, capture_output=True, text=True, check=False
    )
    return SimpleNamespace(done=done, data=path / "data", output=path / "output")


class TestTheCommand:
    def test_it_ends_well(self, run: SimpleNamespace) -> None:
        """Every row is printed; who is not there is named; and the disk is left as it was."""
        titles = [row.title for row in all_rows(scale=0.02, gigabyte=250_000) if bench._is_chosen(row.name, ROWS)]

        assert (run.done.returncode, run.done.stderr) == (0, "")
        assert [title for title in titles if title.split()[0] not in run.done.stdout] == []
        assert "etcd in Go is left out: there is no go here" in run.done.stdout
        assert list(run.data.iterdir()) == []

    def test_all_rows_are_measured(self, run: SimpleNamespace) -> None:
        """Nothing is left out but what a subject cannot do."""
        results = Results.read(run.output / "performance.json")
        name = results.subject("wal", primary=True)

        assert name is not None
        assert [row for row in results.rows if name not in results.subjects_of(row)] == []
        assert {row for row in results.left_out if name in results.left_out[row]} == set()
        assert "floor, zeroed" in results.subjects_of("threads-16")
        assert all(value >= 0 for row in results.rows for value in results.values[row][name][0].values())

    def test_it_can_be_shown_again(self, run: SimpleNamespace, tmp_path: Path) -> None:
        """From the raw results the same page and the same chart are made."""
        done = subprocess.run(
            [sys.executable, str(BENCH), "--from", str(run.output / "performance.json"), "--output", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )

        assert (done.returncode, done.stderr) == (0, "")
        for name in ("performance.json", "performance.svg", "performance.md"):
            assert (tmp_path / name).read_text() == (run.output / name).read_text()

    def test_the_chart_is_a_picture(self, run: SimpleNamespace) -> None:
        """It is SVG, with a bar for each subject that is not a variant of another."""
        chart = ET.parse(run.output / "performance.svg").getroot()
        name = "{http://www.w3.org/2000/svg}"
        panels = ("1 entry of 100 B", "1000 entries of 1000 B")

        assert chart.tag == f"{name}svg"
        assert {text.text for text in chart.iter(f"{name}text")} >= {*panels, "floor, zeroed"}
        assert len(list(chart.iter(f"{name}rect"))) == len(panels) * len(("fresh floor", "zeroed floor", "wal"))


class TestStores:
    @each_store
    def test_what_was_saved_is_read(self, store: type[Store], tmp_path: Path) -> None:
        """Every entry that was saved is there when the store is read, for those that can be."""
        try:
            with closing(store(tmp_path / "store", sync=True, most_bytes=1 << 20)) as log:
                log.save(store.batch(1, [b"one", b"two"]))
                log.submit(store.batch(3, [b"three"]))()
            found = store.read_all(tmp_path / "store")
        except (ImportError, MissingError) as error:
            pytest.skip(str(error))

        assert len(found) == 3

    @pytest.mark.parametrize("entries", [1, 7])
    def test_the_floor_writes_as_much_as_the_library(self, entries: int, tmp_path: Path) -> None:
        """The floor's second save is as long as the library's second save."""
        lengths = []
        with closing(ours.Ours(tmp_path / "log", sync=True, most_bytes=0)) as log:
            for first in (1, 1 + entries):
                log.save(ours.Ours.batch(first, [b"x" * 100] * entries))
                lengths.append(wal.verify(tmp_path / "log").bytes)

        assert len(floor.FreshFloor.batch(1, [b"x" * 100] * entries)) == lengths[1] - lengths[0]

    def test_percentiles_are_by_nearest_rank(self) -> None:
        """The p99 of a hundred times is the second longest."""
        found = worker.summary([n * 1_000_000_000 for n in range(1, 101)], 50_000_000_000, 100)

        assert found == {"p50": 50, "p99": 99, "most": 100, "per_second": 2}


class TestWorkers:
    def ask(self, *command: str, task: str = "describe", **arguments: Any) -> dict[str, Any]:
        with subjects.Worker(subjects.Subject("somebody", "peer", [sys.executable, *command], "x")) as somebody:
            return somebody.ask(task, **arguments)

    def test_a_failed_task_is_told(self, tmp_path: Path) -> None:
        """What a store raises reaches the one who asked, and is no answer."""
        with pytest.raises(subjects.WorkerError, match="FileNotFoundError"):
            self.ask(worker.__file__, "floor/fresh", task="write", path=str(tmp_path / "a" / "b"), entries=1, bytes=1)

    def test_a_dead_worker_is_told(self) -> None:
        """A worker that ends without an answer is an error, with what it said."""
        with pytest.raises(subjects.WorkerError, match="no such luck"):
            self.ask("-c", "import sys; sys.exit('no such luck')")

    def test_what_it_cannot_do_is_missing(self, tmp_path: Path) -> None:
        """A store without the ability that is asked for says so."""
        assert "asyncio" in self.ask(
            worker.__file__, "sqlite3", task="tasks", path=str(tmp_path / "x"), bytes=1, savers=1, seconds=0.01
        ).get("missing", "")

    def test_a_crc_backend_can_be_chosen(self) -> None:
        """A worker that is to measure the last backend does not use the first."""
        assert self.ask(worker.__file__, "wal/crcmod")["crc_backend"].startswith("crcmod")


class TestWhatFollows:
    def test_ratios_are_taken_within_rounds(self) -> None:
        """A slow round is slow for both, so that the ratio does not see it."""
        results = results_of({"save-1x100": {"wal, pure": [2, 20, 4], "etcd in Go": [1, 10, 1]}})

        assert results.ratio("save-1x100", "wal, pure", "etcd in Go", "p50") == Spread(2, 2, 4)

    def test_rounds_that_one_of_them_missed_do_not_count(self) -> None:
        """And without a common round there is no ratio."""
        results = results_of(
            {"save-1x100": {"wal, pure": [2, 9], "etcd in Go": [1]}, "save-10x100": {"wal, pure": [1]}}
        )

        assert results.ratio("save-1x100", "wal, pure", "etcd in Go", "p50") == Spread(2, 2, 2)
        assert results.ratio("save-10x100", "wal, pure", "etcd in Go", "p50") is None

    @pytest.mark.parametrize(
        ("ours", "words"),
        [
            pytest.param(1.0, ["≤ 1.15: yes", "≥ 1: yes", "≤ 1.1: yes", "≥ 1: yes"], id="as fast as all"),
            pytest.param(1.12, ["≤ 1.15: yes", "≥ 1: NO", "≤ 1.1: NO", "≥ 1: yes"], id="near the floor, behind Go"),
            pytest.param(1.3, ["≤ 1.15: NO", "≥ 1: NO", "≤ 1.1: NO", "≥ 1: NO"], id="behind all"),
        ],
    )
    def test_goals(self, ours: float, words: list[str]) -> None:
        """A goal is reached at its bound; the margin to other stores is that to the fastest of them."""
        others = {"floor, zeroed": [1.0], "etcd in Go": [1.0], "sqlite3": [1.2], "lmdb": [5.0]}
        table = tables.goal_table(results_of({"save-1x100": {"wal, pure": [ours], **others}}))

        assert [cells[3] for cells in table.cells] == words

    def test_goals_are_about_rows_that_exist(self) -> None:
        """A row that is renamed takes its goals along."""
        assert {goal.row for goal in goals()} <= {row.name for row in all_rows(scale=1, gigabyte=1)}

    def test_growth_is_by_entry(self) -> None:
        """Four times the entries in four times the time is no growth; in eight times it is double."""
        results = results_of({"open-1": {"wal, pure": [1]}, "open-4": {"wal, pure": [8]}}, "seconds")
        for row, entries in (("open-1", 10), ("open-4", 40)):
            results.values[row]["wal, pure"][0]["entries"] = entries

        growth = {table.title: table.cells[0][-1] for table in tables.tables(results)}

        assert list(growth.values()) == ["1.00", "2.00"]

    def test_a_page_keeps_what_was_written_by_hand(self, tmp_path: Path) -> None:
        """Only what stands between the two comments is made anew, as often as it is."""
        path = tmp_path / "page.md"
        path.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
        for _ in range(2):
            page.write_page(path, results_of({"save-1x100": {"wal, pure": [0.001, 0.002, 0.003]}}))

        text = path.read_text()
        assert text.startswith(f"before\n{page.BEGIN}\n")
        assert text.endswith(f"{page.END}\nafter\n")
        assert text.count("| wal, pure | 2.000 | 2.000 |") == 1
        assert "old" not in text

    def test_a_comparison_stands_on_a_page_of_its_own(self, tmp_path: Path) -> None:
        """It shows the stores but not the floor, and no figure where there is none; it does not make the page."""
        path = tmp_path / "why.md"
        results = results_of({"save-1x100": {"floor, zeroed": [0.001], "wal, pure": [0.001, 0.002, 0.003]}})
        page.write_comparison(path, results)
        assert not path.exists()

        path.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
        page.write_comparison(path, results)

        text = path.read_text()
        assert text.startswith(f"before\n{page.BEGIN}\n")
        assert text.endswith(f"{page.END}\nafter\n")
        assert "| wal, pure | 2.00 ms | - | - | - | - |" in text
        assert "| lmdb | - | - | - | - | - |" in text
        assert "floor" not in text
        assert "old" not in text

    def test_the_comparison_is_of_the_run_that_is_shown(self, tmp_path: Path) -> None:
        """The figures on the page that compares are those of the page that measures."""
        docs = BENCH.parent.parent / "docs"
        path = tmp_path / "why.md"
        path.write_text((docs / "why.md").read_text())
        page.write_comparison(path, Results.read(docs / "performance.json"))

        assert path.read_text() == (docs / "why.md").read_text()


# ------------------------------------------------------------------------------------------------- on a cluster


def test_a_cluster_is_measured(etcd: EtcdCluster) -> None:
    """Everything that is told of a cluster comes out of a run, by every client that is installed."""
    pytest.importorskip("grpc", reason="no grpcio: pip install wal[etcd]")
    clusters: Any = importlib.import_module("clusters")

    saves = clusters.measure_saves(etcd, clusters.QUICK)
    clients = clusters.measure_clients(etcd, clusters.QUICK)

    assert len(saves) == 11
    assert all(number > 0 for number in saves.values())
    assert {("grpcio", 100), ("grpcio", 10_000), ("grpcio", 1_000_000)} <= clients.keys()
    assert all(number > 0 for number in clients.values())
