# SPDX-License-Identifier: Apache-2.0
"""
What is logged: every record that the library writes to the logger ``wal``, one function each.

``docs/operations.md`` has them in a table, which users build alerts on: the events and the names of their fields stay.
"""

from __future__ import annotations

import logging
from pathlib import Path

__all__ = [
    "log_damaged_snapshot",
    "log_failed",
    "log_fenced",
    "log_foreign_name",
    "log_listener_failed",
    "log_not_compacted",
    "log_not_stamped",
    "log_repaired",
    "log_segment_in_use",
    "log_slow_crc",
    "log_slow_cut",
    "log_slow_sync",
]

_logger = logging.getLogger("wal")


def log_failed(path: Path, failure: BaseException) -> None:
    _logger.error(
        "%s: the log has stopped after a failure (%r); close and reopen it",
        path,
        failure,
        extra={"wal_event": "failed", "wal_path": str(path), "wal_error": repr(failure)},
    )


def log_fenced(path: Path, error: Exception) -> None:
    _logger.warning(
        "%s: the storage has another owner: %s",
        path,
        error,
        extra={"wal_event": "fenced", "wal_path": str(path), "wal_error": repr(error)},
    )


def log_not_compacted(path: Path, words: str) -> None:
    _logger.warning(
        "%s: etcd does not compact: %s",
        path,
        words,
        extra={"wal_event": "not_compacted", "wal_path": str(path), "wal_error": words},
    )


def log_slow_sync(path: Path, seconds: float) -> None:
    _logger.warning(
        "%s: a sync took %.3f seconds; saves wait for the disk",
        path,
        seconds,
        extra={"wal_event": "slow_sync", "wal_path": str(path), "wal_seconds": seconds},
    )


def log_slow_cut(path: Path, seconds: float) -> None:
    _logger.warning(
        "%s: to begin this segment took %.3f seconds; saves wait for the disk",
        path,
        seconds,
        extra={"wal_event": "slow_cut", "wal_path": str(path), "wal_seconds": seconds},
    )


def log_not_stamped(path: Path, error: OSError) -> None:
    _logger.warning(
        "%s: the log is closed, but its end could not be stamped: %s",
        path,
        error,
        extra={"wal_event": "not_stamped", "wal_path": str(path), "wal_error": repr(error)},
    )


def log_repaired(path: Path, offset: int, bytes_cut: int, backup: Path, reason: str) -> None:
    _logger.warning(
        "%s: cut %d bytes at byte %d and kept them in %s: %s",
        path,
        bytes_cut,
        offset,
        backup.name,
        reason,
        extra={
            "wal_event": "repaired",
            "wal_path": str(path),
            "wal_offset": offset,
            "wal_bytes_cut": bytes_cut,
            "wal_backup": str(backup),
            "wal_reason": reason,
        },
    )


def log_damaged_snapshot(path: Path, offset: int, reason: str, error: Exception) -> None:
    _logger.warning(
        "a damaged snapshot is passed over: %s",
        error,
        extra={"wal_event": "damaged_snapshot", "wal_path": str(path), "wal_offset": offset, "wal_reason": reason},
    )


def log_segment_in_use(path: Path, segment: str) -> None:
    _logger.warning(
        "%s: segment %s is in use; it and later ones are not purged",
        path,
        segment,
        extra={"wal_event": "segment_in_use", "wal_path": str(path), "wal_segment": segment},
    )


def log_foreign_name(path: Path, name: str) -> None:
    _logger.warning(
        "%s: %s is not a segment's name; it is ignored",
        path,
        name,
        extra={"wal_event": "foreign_name", "wal_path": str(path), "wal_name": name},
    )


def log_slow_crc() -> None:
    _logger.warning(
        "CRC-32C runs in pure Python at about 10 MB/s; install wal[fast] for several GB/s",
        extra={"wal_event": "slow_crc"},
    )


def log_listener_failed(path: Path, listener: str, error: Exception) -> None:
    _logger.error(
        "%s: %s has raised; the log goes on, and further errors of it are not logged",
        path,
        listener,
        exc_info=error,
        extra={"wal_event": "listener_failed", "wal_path": str(path), "wal_listener": listener},
    )
