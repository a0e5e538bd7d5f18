"""Metrics: the names and buckets of etcd where it has them, the right numbers, and several logs in one registry."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import wal
from clocks import TimedDisk
from damage import overwrite, unstamp
from logs import HANG, SMALL, logged, segments
from unsynced import UNSYNCED
from wal import CommitState, Entry, GroupCommit, SegmentCut, SnapshotData, SnapshotSave
from wal.prometheus import PrometheusObserver

OPERATIONS = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()

FROM_1_MS = [*(str(ms / 1000) for ms in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)), "+Inf"]
FROM_100_MS = ["0.1", "0.2", "0.4", "0.8", "1.6", "3.2", "6.4", "12.8", "25.6", "51.2", "+Inf"]
SAVES = ["1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "64.0", "128.0", "256.0", "512.0", "1024.0", "+Inf"]


class Metric(NamedTuple):
    """One metric, as it stands in a table or is exposed."""

    type: str
    etcd_name: str = ""
    buckets: list[str] | None = None


METRICS = {
    "wal_fsync_duration_seconds": Metric("histogram", "etcd_disk_wal_fsync_duration_seconds", FROM_1_MS),
    "wal_write_duration_seconds": Metric("histogram", "etcd_disk_wal_write_duration_seconds", FROM_1_MS),
    "wal_write_bytes_total": Metric("counter", "etcd_disk_wal_write_bytes_total"),
    "wal_write_records_total": Metric("counter"),
    "wal_group_saves": Metric("histogram", "", SAVES),
    "wal_cut_duration_seconds": Metric("histogram", "", FROM_1_MS),
    "wal_repairs_total": Metric("counter"),
    "wal_repaired_bytes_total": Metric("counter"),
    "wal_failures_total": Metric("counter"),
    "wal_purged_segments_total": Metric("counter"),
    "wal_snap_fsync_duration_seconds": Metric("histogram", "etcd_snap_fsync_duration_seconds", FROM_1_MS),
    "wal_snap_save_total_duration_seconds": Metric(
        "histogram", "etcd_debugging_snap_save_total_duration_seconds", FROM_1_MS
    ),
    "wal_snap_db_fsync_duration_seconds": Metric("histogram", "etcd_snap_db_fsync_duration_seconds", FROM_1_MS),
    "wal_snap_db_save_total_duration_seconds": Metric(
        "histogram", "etcd_snap_db_save_total_duration_seconds", FROM_100_MS
    ),
}
"""Written out, from etcd's ``wal/metrics.go`` and ``snap/metrics.go``."""


def exposed(registry: CollectorRegistry) -> dict[str, tuple[str, list[str] | None]]:
    """Return type and buckets of what a registry tells Prometheus, by the name that queries use."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        if family.name.endswith("_created"):
            continue
        buckets = [sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")]
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, buckets or None)
    return found


def values(registry: CollectorRegistry, log: str = "") -> dict[str, float]:
    """Return all counts and sums that are not zero, by their names."""
    return {
        sample.name: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.labels.get("log") == log and "le" not in sample.labels and not sample.name.endswith("_created")
        if sample.value
    }


# ---------------------------------------------------------------------------------------------------- names and buckets


@pytest.mark.parametrize("etcd_names", [False, True])
def test_names_types_and_buckets(etcd_names: bool) -> None:
    """All metrics are there from the beginning, so that an alert sees the first increase; etcd's as etcd has them."""
    registry = CollectorRegistry()
    PrometheusObserver("a", registry=registry, etcd_names=etcd_names)

    assert exposed(registry) == {
        (etcd_names and metric.etcd_name) or name: (metric.type, metric.buckets) for name, metric in METRICS.items()
    }


def test_the_table_in_the_documents_is_complete() -> None:
    """Name, type and etcd's name of each metric, in order; and units that fit the names."""
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in OPERATIONS.split("\n## Metrics for Prometheus\n")[1].split("\n## ")[0].splitlines()
        if line.startswith("| `wal_")
    ]
    assert [(name, type, etcd_name) for name, type, _, etcd_name, _ in rows] == [
        (name, metric.type, metric.etcd_name) for name, metric in METRICS.items()
    ]
    assert all(
        unit in name for name, _, unit, *_ in rows if unit in ("seconds", "bytes", "records", "saves", "segments")
    )


def test_alerts_ask_for_what_there_is() -> None:
    """Every name of ours in a query of the documents is exposed."""
    registry = CollectorRegistry()
    PrometheusObserver(registry=registry)
    exposition = generate_latest(registry).decode()
    asked = set(re.findall(r"\bwal_\w+(?=\[)", OPERATIONS))

    assert len(asked) >= 4
    assert {name for name in asked if f"\n{name}{{" not in exposition} == set()


def test_etcd_names_follow_one_rule() -> None:
    """Ours is etcd's without ``etcd_disk_``, or with ``wal_`` in the place of ``etcd_``."""
    for name, metric in METRICS.items():
        if metric.etcd_name:
            plain = metric.etcd_name.removeprefix("etcd_disk_").removeprefix("etcd_debugging_").removeprefix("etcd_")
            assert name.removeprefix("wal_") == plain.removeprefix("wal_")


# --------------------------------------------------------------------------------------------------------- several logs


def test_several_logs_in_a_registry_are_told_apart_by_their_label(tmp_path: Path) -> None:
    """Their observers share the metrics."""
    registry = CollectorRegistry()
    for name, saves in (("a", 2), ("b", 3)):
        with wal.WAL.create(tmp_path / name, observer=PrometheusObserver(name, registry=registry), fs=UNSYNCED) as log:
            for index in range(1, saves + 1):
                log.save_entry([Entry(index)])
    assert values(registry, "a")["wal_group_saves_sum"] == 2
    assert values(registry, "b")["wal_group_saves_sum"] == 3


def test_observers_with_one_label_count_together() -> None:
    """As those of a log that is opened again do."""
    registry = CollectorRegistry()
    for _ in range(3):
        PrometheusObserver("a", registry=registry).synced(0.5)
    assert values(registry, "a") == {"wal_fsync_duration_seconds_sum": 1.5, "wal_fsync_duration_seconds_count": 3}


def test_both_kinds_of_names_may_stand_in_a_registry() -> None:
    """What etcd does not have is shared."""
    registry = CollectorRegistry()
    for etcd_names in (True, False, True):
        observer = PrometheusObserver("a", registry=registry, etcd_names=etcd_names)
        observer.synced(1)
        observer.failed(OSError())
    assert values(registry, "a") == {
        "etcd_disk_wal_fsync_duration_seconds_sum": 2,
        "etcd_disk_wal_fsync_duration_seconds_count": 2,
        "wal_fsync_duration_seconds_sum": 1,
        "wal_fsync_duration_seconds_count": 1,
        "wal_failures_total": 3,
    }


def test_registries_have_metrics_of_their_own() -> None:
    """What is counted in one is not in another."""
    first, second = CollectorRegistry(), CollectorRegistry()
    PrometheusObserver(registry=first).synced(1)
    PrometheusObserver(registry=second)
    assert values(second) == {}
    assert values(first)


def test_the_default_is_the_clients_own_registry() -> None:
    """The one that ``start_http_server`` serves."""
    PrometheusObserver("the default").synced(0.25)
    assert values(REGISTRY, "the default")["wal_fsync_duration_seconds_sum"] == 0.25


def test_a_name_of_somebody_else_is_an_error() -> None:
    """It is not taken for ours, the second time neither."""
    registry = CollectorRegistry()
    Counter("wal_failures_total", "Somebody else's.", registry=registry)
    for _ in range(2):
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            PrometheusObserver(registry=registry)


def test_a_registry_is_freed() -> None:
    """That there were observers for it does not keep it."""
    registry = CollectorRegistry()
    PrometheusObserver(registry=registry).synced(1)
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is None


def test_observers_may_be_made_in_many_threads_at_once() -> None:
    """The metrics are made once."""
    registry, errors = CollectorRegistry(), list[BaseException]()
    barrier = threading.Barrier(8)

    def make() -> None:
        try:
            barrier.wait(HANG)
            PrometheusObserver("a", registry=registry).synced(1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert errors == []
    assert values(registry, "a")["wal_fsync_duration_seconds_count"] == 8


# ---------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize(
    ("tell", "expected"),
    [
        pytest.param(
            lambda observer: observer.committed(GroupCommit(3, 4, 500, 0.5)),
            {
                "wal_write_duration_seconds_sum": 0.5,
                "wal_write_duration_seconds_count": 1,
                "wal_write_bytes_total": 500,
                "wal_write_records_total": 4,
                "wal_group_saves_sum": 3,
                "wal_group_saves_count": 1,
            },
            id="committed",
        ),
        pytest.param(
            lambda observer: observer.synced(0.25),
            {"wal_fsync_duration_seconds_sum": 0.25, "wal_fsync_duration_seconds_count": 1},
            id="synced",
        ),
        pytest.param(
            lambda observer: observer.cut(SegmentCut(Path("new"), 4096, 0.75)),
            {"wal_cut_duration_seconds_sum": 0.75, "wal_cut_duration_seconds_count": 1},
            id="cut",
        ),
        pytest.param(
            lambda observer: observer.repaired(wal.RepairReport(Path("segment"), 64, 40, None, "torn")),
            {"wal_repairs_total": 1, "wal_repaired_bytes_total": 40},
            id="repaired",
        ),
        pytest.param(lambda observer: observer.failed(OSError()), {"wal_failures_total": 1}, id="failed"),
        pytest.param(lambda observer: observer.purged(["a", "b"]), {"wal_purged_segments_total": 2}, id="purged"),
        pytest.param(
            lambda observer: observer.saved_snapshot(SnapshotSave(Path("snap"), 64, False, 0.25, 0.5)),
            {
                "wal_snap_fsync_duration_seconds_sum": 0.25,
                "wal_snap_fsync_duration_seconds_count": 1,
                "wal_snap_save_total_duration_seconds_sum": 0.5,
                "wal_snap_save_total_duration_seconds_count": 1,
            },
            id="a snapshot",
        ),
        pytest.param(
            lambda observer: observer.saved_snapshot(SnapshotSave(Path("db"), 64, True, 0.25, 0.5)),
            {
                "wal_snap_db_fsync_duration_seconds_sum": 0.25,
                "wal_snap_db_fsync_duration_seconds_count": 1,
                "wal_snap_db_save_total_duration_seconds_sum": 0.5,
                "wal_snap_db_save_total_duration_seconds_count": 1,
            },
            id="a database",
        ),
    ],
)
def test_each_notice_moves_its_metrics_and_no_other(
    tell: Callable[[wal.Observer], None], expected: dict[str, float]
) -> None:
    """By what it says."""
    registry = CollectorRegistry()
    tell(PrometheusObserver("a", registry=registry))
    assert values(registry, "a") == expected


def test_the_numbers_of_a_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair, saves, cuts, a snapshot, a purge and a failure, on a disk that takes its time."""
    path, registry = tmp_path / "wal", CollectorRegistry()
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        log.save(CommitState(1), [Entry(1)])
    (segment,) = segments(path)
    unstamp(segment)
    overwrite(segment, wal.verify(path).bytes, b"\xff" * 40)
    fs = TimedDisk(monkeypatch, fdatasync=0.5)
    observer = PrometheusObserver("a", registry=registry)
    options = {"segment_size": SMALL, "retention": wal.Retention(snapshots=1)}
    with logged():
        storage, _ = wal.open_storage(tmp_path, observer=observer, fs=fs, **options)  # type: ignore[arg-type]
        with storage:
            for index in range(2, 6):
                storage.save(CommitState(index), [Entry(index, b"x" * SMALL)])
            storage.save_snap(SnapshotData(5, b"state"))
            storage.release(SnapshotData(5))
            fs.fail("fdatasync")
            with pytest.raises(wal.WALFailedError):
                storage.save(CommitState(6), [Entry(6)])

    found = values(registry, "a")
    assert 4 * SMALL < found.pop("wal_write_bytes_total") < 5 * SMALL
    assert found.pop("wal_purged_segments_total") == 5 - len(segments(path))
    assert found == {
        "wal_repairs_total": 1,
        "wal_repaired_bytes_total": 40,
        "wal_fsync_duration_seconds_sum": 2.5,
        "wal_fsync_duration_seconds_count": 5,
        "wal_write_duration_seconds_count": 5,
        "wal_write_records_total": 9,
        "wal_group_saves_sum": 5,
        "wal_group_saves_count": 5,
        "wal_cut_duration_seconds_count": 4,
        "wal_snap_fsync_duration_seconds_count": 1,
        "wal_snap_save_total_duration_seconds_count": 1,
        "wal_failures_total": 1,
    }


# ---------------------------------------------------------------------------------------------------- without the extra

WITHOUT = """
import sys
sys.modules["prometheus_client"] = None
import wal
wal.WAL.create(sys.argv[1], observer=wal.Observer()).close()
try:
    import wal.prometheus
except ModuleNotFoundError as error:
    print(error, "/", error.name)
"""


def test_without_the_client_only_this_module_is_missing(path: Path) -> None:
    """The error says what to install."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, path], capture_output=True, text=True, check=True, timeout=HANG
    )
    assert (
        done.stdout
        == "import of prometheus_client halted; None in sys.modules; install wal[prometheus] / prometheus_client\n"
    )
