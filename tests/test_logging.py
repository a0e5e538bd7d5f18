"""What is logged: one logger, every record as the table in ``docs/operations.md`` says, and slow syncs once each."""

from __future__ import annotations

import ast
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import wal
import wal.cluster
from clocks import TimedDisk
from damage import overwrite, unstamp
from etcd_cluster import EtcdCluster
from faults import FaultyFileSystem
from logs import HANG, SMALL, Disk, HeldDisk, segments
from unsynced import UNSYNCED
from wal import Entry, SnapshotData, SnapshotMarker, _crc32c
from wal._cluster.client import Client, Refusal, Refused
from wal._cluster.messages import COMPACT, Call

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "src" / "wal").rglob("*.py"))
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


class Row(NamedTuple):
    """A message that is logged: as the table says, or the code."""

    event: str
    level: str
    message: str
    fields: frozenset[str]


def _table() -> list[Row]:
    text = (ROOT / "docs" / "operations.md").read_text().split("\n## Logs\n")[1].split("\n## ")[0]
    found = []
    for line in text.splitlines():
        if line.startswith("| `"):
            event, level, message, fields = (cell.strip() for cell in line.strip("|").split(" | "))
            found.append(
                Row(event.strip("`"), level, message.strip("`"), frozenset(re.findall(r"`(?!exc_info)(\w+)`", fields)))
            )
    return found


TABLE = _table()


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls in a module that log something, each with what it is a method of."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            of = ast.unparse(node.func.value)
            if "log" in of:
                yield of, node


def as_row(call: ast.Call) -> Row:
    assert isinstance(call.func, ast.Attribute)
    (extra,) = (keyword.value for keyword in call.keywords if keyword.arg == "extra")
    assert isinstance(extra, ast.Dict)
    names = [ast.literal_eval(key) for key in extra.keys if key is not None]
    assert names[0] == "wal_event"
    assert all(name.startswith("wal_") for name in names)
    level = "error" if call.func.attr == "exception" else call.func.attr
    fields = frozenset(name.removeprefix("wal_") for name in names[1:])
    return Row(ast.literal_eval(extra.values[0]), level, ast.literal_eval(call.args[0]), fields)


# ----------------------------------------------------------------------------------------------------------- the table


def test_the_table_and_the_code_agree() -> None:
    """Each record that the code can log has its row, with its level, its words and its fields; and no row is left."""
    logged = [as_row(call) for path in MODULES for _, call in calls(path)]

    assert sorted(logged) == sorted(TABLE)
    assert len({row.event for row in TABLE}) == len(TABLE) == 12


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_there_is_one_logger(path: Path) -> None:
    """Its name is ``wal``; one module writes to it, and nothing to the root logger."""
    tree = ast.parse(path.read_text())
    asked = [
        node.args
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "getLogger"
    ]

    assert all([ast.literal_eval(argument) for argument in arguments] == ["wal"] for arguments in asked)
    assert {of for of, _ in calls(path)} <= ({"_logger"} if path.stem == "_events" else set())


# ---------------------------------------------------------------------------------------------------- what is logged


def torn(path: Path) -> Path:
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        log.save_entry([Entry(1)])
    (segment,) = segments(path)
    unstamp(segment)
    overwrite(segment, wal.verify(path).bytes, b"\xff" * 40)
    return segment


def a_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    fs = FaultyFileSystem()
    with wal.WAL.create(path, fs=fs) as log:
        fs.fail("fdatasync")
        for _ in range(3):
            with pytest.raises(wal.WALFailedError):
                log.save_entry([Entry(1)])
    return {"path": path, "error": "OSError(5, 'Input/output error')"}


def a_slow_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    with wal.WAL.create(path, fs=TimedDisk(monkeypatch, fdatasync=1.5)) as log:
        log.save_entry([Entry(1)])
    return {"path": segments(path)[0], "seconds": 1.5}


def a_slow_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    with wal.WAL.create(path, segment_size=SMALL, fs=TimedDisk(monkeypatch, rename=1.5)) as log:
        log.save_entry([Entry(1, b"x" * SMALL)])
        log.save_entry([Entry(2)])
    return {"path": segments(path)[1], "seconds": 1.5}


def a_repair(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    segment = torn(path)
    offset = wal.verify(path).bytes
    report = wal.repair(path)
    return {
        "path": segment,
        "offset": offset,
        "bytes_cut": 40,
        "backup": f"{segment}.{offset:016x}.broken",
        "reason": report.reason,
    }


def a_damaged_snapshot(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    snapshots = wal.Snapshotter(path, fs=UNSYNCED)
    snapshots.save(SnapshotData(1, b"good"))
    damaged = snapshots.save(SnapshotData(2, b"bad"))
    damaged.write_bytes(b"")
    assert snapshots.load().index == 1
    return {"path": damaged, "offset": 0, "reason": "this is not a snapshot: the file is empty"}


def a_segment_in_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    with wal.WAL.create(path, segment_size=SMALL, fs=UNSYNCED) as log:
        log.save_entry([Entry(1, b"x" * SMALL)])
        log.save_entry([Entry(2)])
        log.save_snap(SnapshotMarker(2))
        assert wal.purge(path, SnapshotMarker(2)) == []
    return {"path": path, "segment": segments(path)[0].name}


def a_foreign_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    path.mkdir()
    (path / "notes.wal").touch()
    assert not wal.exists(path)
    return {"path": path, "name": "notes.wal"}


def no_stamp(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    fs = Disk()
    with wal.WAL.create(path, fs=fs) as log:
        log.save_entry([Entry(1)])
        fs.fail("pwrite")
    return {"path": path, "error": "OSError(5, 'Input/output error')"}


def slow_checksums(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(_crc32c, "_backend", "crcmod (pure Python)")
    _crc32c.warn_if_slow.cache_clear()
    try:
        for _ in range(2):
            wal.WAL.create(path / str(_), fs=UNSYNCED).close()
    finally:
        _crc32c.warn_if_slow.cache_clear()
    return {}


class Broken(wal.Observer):
    """Raises each time."""

    def committed(self, group: wal.GroupCommit) -> None:
        raise ValueError("a bug")


def an_observer_with_a_bug(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    with wal.WAL.create(path, observer=Broken(), fs=UNSYNCED) as log:
        for index in (1, 2, 3):
            log.save_entry([Entry(index)])
    return {"path": path, "listener": "Broken.committed"}


def another_owner(etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    storage, _ = wal.cluster.open_storage(etcd.endpoints, "fenced")
    later, _ = wal.cluster.open_storage(etcd.endpoints, "fenced")
    with later, storage:
        for _ in range(2):
            with pytest.raises(wal.FencedError) as caught:
                storage.save(None, [Entry(1)])
    return {"path": "fenced", "error": repr(caught.value)}


def a_refusal_to_compact(etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    def refuse(self: Client, call: Call, request: Any, *, deadline: float) -> Any:
        if call is COMPACT:
            raise Refused(Refusal.FORBIDDEN, "permission denied")
        return ask(self, call, request, deadline=deadline)

    ask = Client.ask
    storage, _ = wal.cluster.open_storage(etcd.endpoints, "not-compacted")
    with storage:
        storage.save_entry([Entry(1)])
        storage.save_snap(SnapshotData(1))
        monkeypatch.setattr(Client, "ask", refuse)
        storage.release(SnapshotMarker(1))
    return {"path": "not-compacted", "error": "permission denied"}


EVENTS: dict[str, Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]] = {
    "failed": a_failure,
    "slow_sync": a_slow_sync,
    "slow_cut": a_slow_cut,
    "repaired": a_repair,
    "damaged_snapshot": a_damaged_snapshot,
    "segment_in_use": a_segment_in_use,
    "foreign_name": a_foreign_name,
    "not_stamped": no_stamp,
    "slow_crc": slow_checksums,
    "listener_failed": an_observer_with_a_bug,
}
"""What makes each record be logged, and the fields that it has then."""

EVENTS_ON_A_CLUSTER: dict[str, Callable[[EtcdCluster, pytest.MonkeyPatch], dict[str, Any]]] = {
    "fenced": another_owner,
    "not_compacted": a_refusal_to_compact,
}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name.startswith("wal_")}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.event)
def test_each_event_is_logged_as_the_table_says(
    path: Path,
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    """Once for each occurrence, with the level and the message; the fields are plain values that JSON takes."""
    path = path.resolve()
    if row.event in EVENTS_ON_A_CLUSTER:
        expected = EVENTS_ON_A_CLUSTER[row.event](request.getfixturevalue("etcd"), monkeypatch)
    else:
        expected = EVENTS[row.event](path, monkeypatch)

    (record,) = (record for record in caplog.records if record.name == "wal")
    assert (record.levelname.lower(), record.msg) == (row.level, row.message)
    assert fields(record) == {"wal_event": row.event} | {
        f"wal_{name}": str(value) if isinstance(value, Path) else value for name, value in expected.items()
    }
    assert {f"wal_{field}" for field in row.fields} | {"wal_event"} == set(fields(record))
    assert json.loads(json.dumps(fields(record))) == fields(record)
    assert bool(record.exc_info) == (row.event == "listener_failed")
    assert all(str(expected[name]) in record.getMessage() for name in ("path", "reason") if name in expected)


def test_fields_get_along_with_the_applications_own(path: Path) -> None:
    """``logging`` refuses fields that a record factory has given the record already; ours are out of the way."""

    def factory(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = logging.LogRecord(*arguments, **named)
        vars(record).update({field: "the application's" for row in TABLE for field in (*row.fields, "event")})
        return record

    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    before = logging.getLogRecordFactory()
    logging.getLogger("wal").addHandler(handler)
    logging.setLogRecordFactory(factory)
    try:
        with wal.WAL.create(path, slow_sync_s=0, fs=UNSYNCED) as log:
            log.save_entry([Entry(1)])
    finally:
        logging.setLogRecordFactory(before)
        logging.getLogger("wal").removeHandler(handler)
    assert [fields(record)["wal_event"] for record in records] == ["slow_sync"]


SILENT = """
import logging, sys, wal
with wal.WAL.create(sys.argv[1], slow_sync_s=0) as log:
    log.save_entry([wal.Entry(1)])
if len(sys.argv) > 2:
    logging.basicConfig(format="%(name)s %(wal_event)s")
    log = wal.read_wal(sys.argv[1], slow_sync_s=0).wal
    with log:
        log.save_entry([wal.Entry(2)])
"""


@pytest.mark.parametrize("configured", [False, True])
def test_nothing_is_printed_without_a_configuration(path: Path, configured: bool) -> None:
    """Warnings of a library that nobody asked for do not appear on a terminal; those that are asked for do."""
    done = subprocess.run(
        [sys.executable, "-c", SILENT, path, *["yes"] * configured],
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG,
    )
    assert (done.stdout, done.stderr) == ("", "wal slow_sync\n" if configured else "")


# ------------------------------------------------------------------------------------------------------- slow syncs


@pytest.mark.parametrize(
    ("threshold", "seconds", "times"),
    [
        pytest.param({}, 1.0, 0, id="one second is not slow"),
        pytest.param({}, 1.25, 1, id="more than one is"),
        pytest.param({"slow_sync_s": 0.25}, 0.25, 0, id="as long as the limit"),
        pytest.param({"slow_sync_s": 0.25}, 0.5, 1, id="longer than the limit"),
        pytest.param({"slow_sync_s": 0}, 2**-10, 1, id="all are slow"),
        pytest.param({"slow_sync_s": 3600}, 1800.0, 0, id="nothing is slow"),
        pytest.param({"slow_sync_s": None}, 1e9, 0, id="turned off"),
    ],
)
@pytest.mark.parametrize("how", ["create", "open", "read_wal", "open_storage"])
def test_each_slow_sync_is_logged_once(
    path: Path,
    how: str,
    threshold: dict[str, Any],
    seconds: float,
    times: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R28: with how long it took, however the log was opened."""
    fs = TimedDisk(monkeypatch)
    options: dict[str, Any] = {**threshold, "fs": fs}
    if how in ("open", "read_wal"):
        wal.WAL.create(path, fs=fs).close()
    if how == "create":
        log: wal.WAL | wal.FileStorage = wal.WAL.create(path, **options)
    elif how == "open":
        log = wal.WAL.open(path, **options)
        log.read_all()
    elif how == "read_wal":
        log = wal.read_wal(path, **options).wal
    else:
        log, _ = wal.open_storage(path, **options)
    caplog.clear()
    fs.takes = {"fdatasync": seconds}
    with log:
        for index in (1, 2, 3):
            log.save_entry([Entry(index)])
        fs.takes = {}

    assert [record.__dict__["wal_seconds"] for record in caplog.records] == [seconds] * 3 * times


@pytest.mark.parametrize("call", ["sync", "close"])
def test_a_slow_sync_of_all_is_logged(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With ``sync=False`` it is that of ``sync()`` or ``close()``."""
    fs = TimedDisk(monkeypatch)
    with wal.WAL.create(path, sync=False, fs=fs) as log:
        log.save_entry([Entry(1)])
        fs.takes = {"fdatasync": 7.0}
        getattr(log, call)()
        fs.takes = {}
    assert [record.__dict__["wal_seconds"] for record in caplog.records] == [7.0]


def test_a_slow_sync_that_fails_is_logged_with_its_duration(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk often takes long before it gives up. First the sync, then the failure."""
    fs = TimedDisk(monkeypatch)
    with wal.WAL.create(path, fs=fs) as log:
        fs.takes = {"fdatasync": 30.0}
        fs.fail("fdatasync")
        with pytest.raises(wal.WALFailedError):
            log.save_entry([Entry(1)])
    assert [record.__dict__["wal_event"] for record in caplog.records] == ["slow_sync", "failed"]
    assert caplog.records[0].__dict__["wal_seconds"] == 30.0


def test_a_slow_handler_delays_no_other_thread(path: Path) -> None:
    """Who waits for the sync that was slow goes on while it is still being logged."""
    entered, go_on, home = threading.Event(), threading.Event(), threading.Semaphore(0)

    def emit(record: logging.LogRecord) -> None:
        seen.append(record)
        if len(seen) == 2:
            entered.set()
            assert go_on.wait(HANG)

    def wait_for(save: wal.PendingSave) -> None:
        save.wait()
        home.release()

    seen: list[logging.LogRecord] = []
    handler, fs = logging.Handler(), HeldDisk()
    handler.emit = emit  # type: ignore[method-assign]
    with wal.WAL.create(path, slow_sync_s=0, fs=fs) as log:
        logging.getLogger("wal").addHandler(handler)
        try:
            first = threading.Thread(target=log.save_entry, args=([Entry(1)],))
            first.start()
            assert fs.begun.wait(HANG)
            others = [log.submit(None, [Entry(index)]) for index in range(2, 7)]
            threads = [threading.Thread(target=wait_for, args=(save,)) for save in others]
            for thread in threads:
                thread.start()
            fs.go_on.set()
            assert entered.wait(HANG)
            for _ in others[1:]:
                assert home.acquire(timeout=HANG)
            assert not home.acquire(blocking=False)
            go_on.set()
            for thread in [first, *threads]:
                thread.join(HANG)
        finally:
            logging.getLogger("wal").removeHandler(handler)


@pytest.mark.parametrize("limit", [-1, -0.001, float("nan"), float("-inf")])
@pytest.mark.parametrize("call", [wal.WAL.create, wal.open_storage], ids=["create", "open_storage"])
def test_a_limit_that_makes_no_sense_is_refused(tmp_path: Path, call: Callable[..., object], limit: float) -> None:
    """Before anything is made."""
    with pytest.raises(ValueError, match="slow_sync_s must be 0 or more, or None"):
        call(tmp_path / "wal", slow_sync_s=limit)
    assert list(tmp_path.iterdir()) == []
