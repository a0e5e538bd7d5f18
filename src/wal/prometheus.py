# SPDX-License-Identifier: Apache-2.0
"""
Metrics for Prometheus: an observer that counts. It needs the extra ``wal[prometheus]``.

>>> from prometheus_client import CollectorRegistry
>>> registry = CollectorRegistry()
>>> with WAL.create("measured", observer=PrometheusObserver("orders", registry=registry)) as log:
...     log.save(None, [Entry(1, b"one"), Entry(2, b"two")])
>>> registry.get_sample_value("wal_write_records_total", {"log": "orders"})
2.0

What etcd measures, too, has etcd's buckets, and etcd's name without the ``etcd_disk_`` or ``etcd_`` in front; with
``etcd_names=True`` it has etcd's full name. That is not the default: whoever runs etcd has alerts on those names, and
they would be about this process as well.

A registry takes each name once. So its metrics are made for the first observer, and shared by those that follow.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(f"{_missing}; install wal[prometheus]", name=_missing.name) from _missing

from ._observer import GroupCommit, Observer, RepairReport, SegmentCut, SnapshotSave

__all__ = ["PrometheusObserver"]

_ETCD_NAMES = {
    "wal_fsync_duration_seconds": "etcd_disk_wal_fsync_duration_seconds",
    "wal_write_duration_seconds": "etcd_disk_wal_write_duration_seconds",
    "wal_write_bytes_total": "etcd_disk_wal_write_bytes_total",
    "wal_snap_fsync_duration_seconds": "etcd_snap_fsync_duration_seconds",
    "wal_snap_save_total_duration_seconds": "etcd_debugging_snap_save_total_duration_seconds",
    "wal_snap_db_fsync_duration_seconds": "etcd_snap_db_fsync_duration_seconds",
    "wal_snap_db_save_total_duration_seconds": "etcd_snap_db_save_total_duration_seconds",
}

_SECONDS = tuple(0.001 * 2**i for i in range(14))
"""From 1 ms to 8.192 s, as etcd has them."""

_LONG_SECONDS = tuple(0.1 * 2**i for i in range(10))
"""From 100 ms to 51.2 s, as etcd has them for databases."""

_SAVES = tuple(2**i for i in range(11))

_Metric = TypeVar("_Metric", Counter, Histogram)

_lock = threading.Lock()
_made: WeakKeyDictionary[CollectorRegistry, dict[str, Counter | Histogram]] = WeakKeyDictionary()


class PrometheusObserver(Observer):
    """
    Counts what a log does, for Prometheus. Pass it as ``observer=``.

    It may be used from any thread, and again for a log that is closed and opened. What several observers with the
    same label count in one registry is added up.

    Args:
        log: The value of the label ``log``, which tells the logs of a process apart. For Prometheus an empty one is
            no label at all.
        registry: Where the metrics are; by default the client's own registry.
        etcd_names: Whether what etcd measures, too, has etcd's full name.

    Raises:
        ValueError: The registry has a metric of that name already, from somebody else.
    """

    def __init__(self, log: str = "", *, registry: CollectorRegistry = REGISTRY, etcd_names: bool = False) -> None:
        def counter(name: str, text: str) -> Counter:
            metric = _metric(Counter, registry, _ETCD_NAMES.get(name, name) if etcd_names else name, text)
            return metric.labels(log)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            name = _ETCD_NAMES.get(name, name) if etcd_names else name
            return _metric(Histogram, registry, name, text, buckets=buckets).labels(log)

        self._syncs = histogram("wal_fsync_duration_seconds", "How long syncs of saves took.", _SECONDS)
        self._writes = histogram("wal_write_duration_seconds", "How long writes of groups of saves took.", _SECONDS)
        self._bytes = counter("wal_write_bytes_total", "Bytes of the saves that were written.")
        self._records = counter("wal_write_records_total", "Records of the saves that were written.")
        self._saves = histogram("wal_group_saves", "Saves that shared a write and a sync.", _SAVES)
        self._cuts = histogram("wal_cut_duration_seconds", "How long it took to begin new segments.", _SECONDS)
        self._repairs = counter("wal_repairs_total", "Torn writes that were cut off.")
        self._repaired_bytes = counter("wal_repaired_bytes_total", "Bytes of the torn writes that were cut off.")
        self._failures = counter("wal_failures_total", "Failures at which a log has stopped.")
        self._purged = counter("wal_purged_segments_total", "Segments that were removed.")
        self._snapshot_syncs = {
            False: histogram("wal_snap_fsync_duration_seconds", "How long syncs of snapshots took.", _SECONDS),
            True: histogram("wal_snap_db_fsync_duration_seconds", "How long syncs of databases took.", _SECONDS),
        }
        self._snapshot_saves = {
            False: histogram("wal_snap_save_total_duration_seconds", "How long saves of snapshots took.", _SECONDS),
            True: histogram(
                "wal_snap_db_save_total_duration_seconds", "How long saves of databases took.", _LONG_SECONDS
            ),
        }

    def committed(self, group: GroupCommit) -> None:
        """Count a group of saves."""
        self._writes.observe(group.write_s)
        self._bytes.inc(group.bytes)
        self._records.inc(group.records)
        self._saves.observe(group.saves)

    def synced(self, seconds: float) -> None:
        """Count a sync."""
        self._syncs.observe(seconds)

    def cut(self, cut: SegmentCut) -> None:
        """Count a new segment."""
        self._cuts.observe(cut.seconds)

    def repaired(self, report: RepairReport) -> None:
        """Count a torn write."""
        self._repairs.inc()
        self._repaired_bytes.inc(report.bytes_cut)

    def failed(self, error: BaseException) -> None:  # noqa: ARG002
        """Count a failure."""
        self._failures.inc()

    def purged(self, segments: list[str]) -> None:
        """Count segments that were removed."""
        self._purged.inc(len(segments))

    def saved_snapshot(self, snapshot: SnapshotSave) -> None:
        """Count a snapshot."""
        self._snapshot_syncs[snapshot.database].observe(snapshot.sync_s)
        self._snapshot_saves[snapshot.database].observe(snapshot.seconds)


def _metric(cls: type[_Metric], registry: CollectorRegistry, name: str, text: str, **options: Any) -> _Metric:
    """Return the registry's metric of this name; make it if no observer has needed it yet."""
    with _lock:
        made = _made.setdefault(registry, {})
        metric = made.get(name)
        if not isinstance(metric, cls):
            metric = made[name] = cls(name, text, ["log"], registry=registry, **options)
        return metric
