"""What users import: the names, their signatures, their documentation, and the errors as values."""

from __future__ import annotations

import builtins
import copy
import dataclasses
import inspect
import pickle
import pkgutil
import re
import traceback
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import wal
import wal.aio
import wal.archive
import wal.cluster
import wal.prometheus
import wal.testing
from wal import _errors

PUBLIC = {
    "WAL",
    "CRCMismatchError",
    "CommitState",
    "ClusterUnavailableError",
    "CompactedError",
    "CorruptionError",
    "Entry",
    "EntrySource",
    "EntryTooLargeError",
    "FencedError",
    "FileStorage",
    "FileSystem",
    "Follower",
    "GroupCommit",
    "HardState",
    "IndexGapError",
    "IndexOrderError",
    "LogContents",
    "LogEntry",
    "LogRecord",
    "LogSurvey",
    "MemoryStorage",
    "MetadataConflictError",
    "NoSnapshotError",
    "NotReadError",
    "Observer",
    "PendingSave",
    "RawRecord",
    "ReadWAL",
    "Record",
    "QuotaExceededError",
    "RecordDecodeError",
    "RecordRegistry",
    "RecordType",
    "RecordTypeError",
    "Recovered",
    "RepairPlan",
    "RepairReport",
    "Retention",
    "SegmentCut",
    "RequestTooLargeError",
    "SegmentGapError",
    "SegmentSurvey",
    "Snapshot",
    "SnapshotData",
    "SnapshotMarker",
    "SnapshotNotFoundError",
    "SnapshotOutOfDateError",
    "SnapshotSave",
    "Snapshotter",
    "Storage",
    "SnapshotTooLargeError",
    "TornWriteError",
    "UnavailableError",
    "UnknownRecordError",
    "VerifyReport",
    "WALClosedError",
    "WALEnvironmentError",
    "WALError",
    "WALExistsError",
    "WALFailedError",
    "WALLockedError",
    "WALNotFoundError",
    "WALReader",
    "WALUsageError",
    "crc_backend",
    "etcd",
    "exists",
    "open_storage",
    "plan_repair",
    "purge",
    "raw_records",
    "read_wal",
    "register_record",
    "repair",
    "survey",
    "valid_snapshots",
    "verify",
}
PUBLIC_ETCD = {"Entry", "HardState", "Snapshot", "registry"}
PUBLIC_AIO = {"AsyncFollower", "AsyncReadWAL", "AsyncWAL", "follow", "read_wal"}
PUBLIC_ARCHIVE = {
    "ArchiveConflictError",
    "ArchiveDamagedError",
    "ArchiveNotFoundError",
    "ArchiveReport",
    "ArchiveStoreError",
    "ArchiveVerifyReport",
    "Archiver",
    "ObjectStore",
    "RestoreReport",
    "restore",
    "verify",
}
PUBLIC_CLUSTER = {"EtcdFollower", "EtcdStorage", "SnapshotStore", "follow", "open_storage"}
PUBLIC_PROMETHEUS = {"PrometheusObserver"}
PUBLIC_TESTING = {"Crash", "SimulatedDisk", "StorageConformance"}
PUBLIC_MODULES = {
    wal: PUBLIC,
    wal.aio: PUBLIC_AIO,
    wal.archive: PUBLIC_ARCHIVE,
    wal.cluster: PUBLIC_CLUSTER,
    wal.etcd: PUBLIC_ETCD,
    wal.prometheus: PUBLIC_PROMETHEUS,
    wal.testing: PUBLIC_TESTING,
}

OPTIONS = (
    "registry=None, segment_size=64000000, sync=True, save_marks=True, max_record_bytes=10000000,"
    " zero_ahead_bytes=2097152, slow_sync_s=1.0, observer=None, fs=..."
)
OPENING = OPTIONS.replace("slow_sync_s=", "index_entries=False, slow_sync_s=")
SIGNATURES = {
    "WAL.create": f"(path, metadata=b'', *, {OPTIONS})",
    "WAL.open": f"(path, snapshot=None, *, {OPENING})",
    "WAL.replay": "(self)",
    "WAL.read_all": "(self)",
    "WAL.entry": "(self, index)",
    "WAL.entries": "(self, lo, hi, max_size=None)",
    "WAL.save": "(self, state, entries)",
    "WAL.submit": "(self, state, entries)",
    "WAL.save_entry": "(self, entries)",
    "WAL.save_state": "(self, state)",
    "WAL.save_snap": "(self, snapshot)",
    "WAL.sync": "(self)",
    "WAL.release": "(self, snapshot)",
    "WAL.close": "(self)",
    "WALReader": "(path, snapshot=None, *, registry=None, fs=...)",
    "WALReader.read_all": "(self)",
    "WALReader.follow": "(self, index=None)",
    "WALReader.entry": "(self, index)",
    "WALReader.entries": "(self, lo, hi, max_size=None)",
    "Follower.stop": "(self)",
    "Follower.close": "(self)",
    "read_wal": f"(path, snapshot=None, *, {OPENING})",
    "verify": "(path, snapshot=None, *, registry=None, progress=None, fs=...)",
    "survey": "(path, *, registry=None, progress=None, fs=...)",
    "raw_records": "(path, *, from_index=0, on_damage=None, fs=...)",
    "valid_snapshots": "(path, *, registry=None, fs=...)",
    "plan_repair": "(path, *, force=False, progress=None, fs=...)",
    "repair": "(path, *, force=False, confirm=None, progress=None, fs=...)",
    "exists": "(path, *, fs=...)",
    "purge": "(path, snapshot, *, keep=0, archived=None, registry=None, fs=...)",
    "open_storage": (
        "(path, metadata=b'', *, registry=None, retention=Retention(snapshots=2, segments=0), "
        + OPENING.removeprefix("registry=None, ")
        + ")"
    ),
    "FileStorage": "(log, snapshotter, *, markers=(), retention=Retention(snapshots=2, segments=0))",
    "FileStorage.entry": "(self, index)",
    "FileStorage.entries": "(self, lo, hi, max_size=None)",
    "FileStorage.save": "(self, state, entries)",
    "FileStorage.save_entry": "(self, entries)",
    "FileStorage.save_state": "(self, state)",
    "FileStorage.save_snap": "(self, snapshot, marker=None)",
    "FileStorage.release": "(self, snapshot)",
    "FileStorage.sync": "(self)",
    "FileStorage.close": "(self)",
    "Snapshotter": "(path, *, observer=None, fs=...)",
    "Snapshotter.save": "(self, snapshot, *, replace=False)",
    "Snapshotter.save_db_from": "(self, source, index, *, progress=None)",
    "Snapshotter.names": "(self)",
    "Snapshotter.load": "(self)",
    "Snapshotter.load_newest_available": "(self, markers)",
    "Snapshotter.is_intact": "(self, index)",
    "Snapshotter.db_path": "(self, index)",
    "Snapshotter.release": "(self, index)",
    "Snapshotter.release_dbs": "(self, index)",
    "Snapshotter.set_aside": "(self, name)",
    "Snapshotter.sweep": "(self)",
    "MemoryStorage": "(*, registry=None)",
    "MemoryStorage.set_hard_state": "(self, state)",
    "MemoryStorage.entries": "(self, lo, hi, max_size=None)",
    "MemoryStorage.entry": "(self, index)",
    "MemoryStorage.append": "(self, entries)",
    "MemoryStorage.apply_snapshot": "(self, snapshot, entries=())",
    "MemoryStorage.create_snapshot": "(self, index, data, metadata=b'')",
    "MemoryStorage.compact": "(self, index)",
    "crc_backend": "()",
    "register_record": "(type, cls=None)",
    "RecordRegistry": (
        "(*, entry=<class 'wal.Entry'>, state=<class 'wal.CommitState'>, snapshot=<class 'wal.SnapshotMarker'>)"
    ),
    "RecordRegistry.register": "(self, type, cls=None)",
    "RecordRegistry.copy": "(self)",
    "Entry": "(index, data=b'', type=0)",
    "CommitState": "(committed=0)",
    "SnapshotMarker": "(index=0)",
    "ReadWAL": "(wal, metadata, state, entries)",
    "LogContents": "(metadata, state, entries, tail)",
    "LogRecord": "(type, value, path, offset)",
    "RawRecord": "(type, data, path, offset, length)",
    "RepairPlan": "(path, offset, bytes_cut, records_cut, backup, torn, reason)",
    "RepairReport": "(path, offset, bytes_cut, backup, reason)",
    "LogSurvey": "(path, segments, metadata, state, markers, last_index, tail, damage)",
    "SegmentSurvey": "(path, first_index, last_index, size, bytes, records, entries, read)",
    "SnapshotData": "(index, data=b'', metadata=b'')",
    "Recovered": "(snapshot, metadata, state, entries, repaired, skipped)",
    "Retention": "(snapshots=2, segments=0, archived=None)",
    "VerifyReport": "(path, segments, records, entries, bytes, last_index, tail)",
    "PendingSave.wait": "(self)",
    "Observer.committed": "(self, group)",
    "Observer.synced": "(self, seconds)",
    "Observer.cut": "(self, cut)",
    "Observer.repaired": "(self, report)",
    "Observer.failed": "(self, error)",
    "Observer.purged": "(self, segments)",
    "Observer.saved_snapshot": "(self, snapshot)",
    "GroupCommit": "(saves, records, bytes, write_s)",
    "SegmentCut": "(path, bytes, seconds)",
    "SnapshotSave": "(path, bytes, database, sync_s, seconds)",
    "prometheus.PrometheusObserver": "(log='', *, registry=..., etcd_names=False)",
    "archive.Archiver": "(path, store, *, registry=None, fs=...)",
    "archive.Archiver.run": "(self, *, progress=None)",
    "archive.Archiver.holds": "(self, path)",
    "archive.Archiver.close": "(self)",
    "archive.ArchiveReport": "(segments, snapshots, bytes, adopted, damaged, last_index)",
    "archive.ArchiveVerifyReport": ("(segments, snapshots, bytes, first_index, last_index, epoch, owner, orphans)"),
    "archive.RestoreReport": "(path, last_index, snapshot, segments, bytes, orphans)",
    "archive.restore": "(store, path, *, index=None, registry=None, progress=None, fs=...)",
    "archive.verify": "(store, *, progress=None)",
    "aio.AsyncWAL": "(log, *, max_pending_bytes=16000000)",
    "aio.AsyncWAL.create": "(path, metadata=b'', *, max_pending_bytes=16000000, **options)",
    "aio.AsyncWAL.save": "(self, state, entries)",
    "aio.AsyncWAL.save_entry": "(self, entries)",
    "aio.AsyncWAL.save_state": "(self, state)",
    "aio.AsyncWAL.save_snap": "(self, snapshot)",
    "aio.AsyncWAL.sync": "(self)",
    "aio.AsyncWAL.release": "(self, snapshot)",
    "aio.AsyncWAL.close": "(self)",
    "aio.follow": "(reader, index=None)",
    "aio.AsyncFollower.stop": "(self)",
    "aio.AsyncFollower.close": "(self)",
    "aio.AsyncReadWAL": "(wal, metadata, state, entries)",
    "aio.read_wal": "(path, snapshot=None, *, max_pending_bytes=16000000, **options)",
    "cluster.open_storage": (
        "(endpoints, name, metadata=b'', *, registry=None, retention=Retention(snapshots=2, segments=0),"
        " timeout_s=30.0,"
        " request_timeout_s=3.0, max_request_bytes=1572864, quota_bytes=2147483648, max_snapshot_bytes=16777216,"
        " snapshot_store=None, compact=True, ca_file=None, cert_file=None, key_file=None, user=None, password=None)"
    ),
    "cluster.follow": (
        "(endpoints, name, index=None, *, registry=None, timeout_s=30.0, request_timeout_s=3.0, ca_file=None,"
        " cert_file=None, key_file=None, user=None, password=None)"
    ),
    "cluster.EtcdStorage.save": "(self, state, entries)",
    "cluster.EtcdStorage.submit": "(self, state, entries)",
    "cluster.EtcdStorage.save_entry": "(self, entries)",
    "cluster.EtcdStorage.save_state": "(self, state)",
    "cluster.EtcdStorage.save_snap": "(self, snapshot, marker=None)",
    "cluster.EtcdStorage.release": "(self, snapshot)",
    "cluster.EtcdStorage.sync": "(self)",
    "cluster.EtcdStorage.close": "(self)",
    "cluster.EtcdFollower.stop": "(self)",
    "cluster.EtcdFollower.close": "(self)",
    "etcd.Entry": "(*, term=0, index=0, type=0, data=b'')",
    "etcd.HardState": "(*, term=0, vote=0, commit=0)",
    "etcd.Snapshot": "(*, index=0, term=0, conf_state=b'')",
    "etcd.registry": "()",
}

PROPERTIES = {
    "EntrySource": {"first_index", "last_index"},
    "FileStorage": {"first_index", "last_index", "log", "metadata", "snapshotter", "state"},
    "MemoryStorage": {"first_index", "hard_state", "last_index", "snapshot"},
    "PendingSave": {"done", "slept_for"},
    "RecordRegistry": {"entry", "snapshot", "state"},
    "WAL": {"closed", "first_index", "has_state", "last_index", "metadata", "path", "registry", "repaired", "state"},
    "WALReader": {"first_index", "last_index"},
    "aio.AsyncWAL": {"last_index", "log"},
    "archive.Archiver": {"epoch", "last_index"},
    "cluster.EtcdStorage": {
        *("closed", "epoch", "first_index", "last_index", "metadata", "name", "registry", "state"),
    },
    "etcd.HardState": {"committed"},
}

WRITERS = [
    "WAL.create",
    "WAL.open",
    "WAL.read_all",
    "WAL.save",
    "WAL.save_entry",
    "WAL.save_state",
    "WAL.save_snap",
    "WAL.sync",
    "WAL.close",
    "PendingSave.wait",
    "aio.AsyncWAL.create",
    "aio.AsyncWAL.save",
    "aio.AsyncWAL.save_entry",
    "aio.AsyncWAL.save_state",
    "aio.AsyncWAL.save_snap",
    "aio.AsyncWAL.sync",
    "aio.AsyncWAL.close",
    "aio.read_wal",
    "archive.Archiver.run",
    "archive.restore",
    "cluster.EtcdStorage.save",
    "cluster.EtcdStorage.save_entry",
    "cluster.EtcdStorage.save_state",
    "cluster.EtcdStorage.save_snap",
    "cluster.EtcdStorage.release",
    "cluster.EtcdStorage.close",
    "cluster.EtcdStorage.sync",
    "cluster.open_storage",
    "FileStorage.save",
    "FileStorage.save_entry",
    "FileStorage.save_state",
    "FileStorage.save_snap",
    "FileStorage.release",
    "FileStorage.sync",
    "FileStorage.close",
    "Snapshotter.save",
    "Snapshotter.save_db_from",
    "Snapshotter.release",
    "Snapshotter.release_dbs",
    "Snapshotter.set_aside",
    "open_storage",
    "purge",
    "read_wal",
    "repair",
]
"""What changes files, or makes a log ready for that."""

SEGMENT = Path("data/wal/0000000000000000-0000000000000000.wal")
CORRUPTION = (SEGMENT, 4096, "what is wrong there")
ENVIRONMENT = (SEGMENT.parent, "what stands in the way")
ERRORS = [
    wal.WALError("what is wrong"),
    wal.WALUsageError("what is wrong"),
    wal.WALClosedError("the log is closed"),
    wal.NotReadError("the log was not read"),
    wal.IndexOrderError(7, 4, "entry 7 must have an index from 1 to 4"),
    wal.EntryTooLargeError(20_000_000, 10_000_000),
    wal.RequestTooLargeError(2_000_000, 1_572_864),
    wal.SnapshotTooLargeError(20_000_000, 16_777_216),
    wal.RecordTypeError("not an entry"),
    wal.RecordDecodeError(SEGMENT, 4096, "the class refused the payload"),
    wal.SnapshotNotFoundError(7, "no marker of snapshot 7"),
    wal.NoSnapshotError("there is no snapshot that is intact"),
    wal.SnapshotOutOfDateError(7, "there is a snapshot of index 7"),
    wal.CompactedError(7, "entry 7 is compacted"),
    wal.UnavailableError(7, "entry 7 is not there yet"),
    wal.FencedError("somebody has taken over"),
    wal.CorruptionError(*CORRUPTION),
    wal.TornWriteError(*CORRUPTION),
    wal.CRCMismatchError(*CORRUPTION, expected=1, found=2),
    wal.UnknownRecordError(*CORRUPTION),
    wal.MetadataConflictError(*CORRUPTION),
    wal.IndexGapError(*CORRUPTION),
    wal.SegmentGapError(*CORRUPTION),
    wal.FencedError("node-2 has taken the storage over"),
    wal.WALEnvironmentError(*ENVIRONMENT),
    wal.WALExistsError(*ENVIRONMENT),
    wal.WALNotFoundError(*ENVIRONMENT),
    wal.WALLockedError(*ENVIRONMENT),
    wal.WALFailedError(*ENVIRONMENT),
    wal.ClusterUnavailableError(*ENVIRONMENT),
    wal.QuotaExceededError(*ENVIRONMENT),
]
ERRORS_OF_ARCHIVES = [
    wal.archive.ArchiveConflictError("s3://bucket", "another log"),
    wal.archive.ArchiveDamagedError("s3://bucket", "segments/x.wal", "it is missing", offset=7),
    wal.archive.ArchiveNotFoundError("s3://bucket", "there is no archive here"),
    wal.archive.ArchiveStoreError("s3://bucket", "listing manifest/ failed"),
]
for _error in [*ERRORS, *ERRORS_OF_ARCHIVES]:
    _error.add_note("seen on node 1")
    if isinstance(_error, wal.CorruptionError):
        _error.entries = [lambda: "an object that does not pickle"]

VALUES = [
    wal.Entry(1, b"a", 2),
    wal.CommitState(1),
    wal.SnapshotMarker(1),
    wal.etcd.Entry(term=1, index=2, type=1, data=b"a"),
    wal.etcd.HardState(term=1, vote=2, commit=3),
    wal.etcd.Snapshot(index=1, term=2, conf_state=b"a"),
    wal.RecordType.ENTRY,
    wal.RecordRegistry(),
    wal.LogRecord(wal.RecordType.ENTRY, wal.Entry(1), SEGMENT, 64),
    wal.LogContents(b"node-1", wal.CommitState(1), [wal.Entry(1)], None),
    wal.RepairReport(SEGMENT, 64, 8, SEGMENT.with_suffix(".broken"), "half a save"),
    wal.RawRecord(wal.RecordType.ENTRY, b"a", SEGMENT, 64, 24),
    wal.RepairPlan(SEGMENT, 64, 8, 1, SEGMENT.with_suffix(".broken"), torn=True, reason="half a save"),
    wal.SegmentSurvey(SEGMENT, 0, 2, 4096, 128, 5, 2, read=True),
    wal.LogSurvey(SEGMENT.parent, (), b"node-1", wal.CommitState(1), (wal.SnapshotMarker(0),), 2, None, None),
    wal.VerifyReport(SEGMENT.parent, 1, 5, 2, 128, 2, None),
    wal.GroupCommit(2, 3, 128, 0.001),
    wal.SegmentCut(SEGMENT, 4096, 0.001),
    wal.SnapshotSave(SEGMENT.parent / "0000000000000007.snap", 64, False, 0.001, 0.002),
    wal.SnapshotData(7, b"state", b"metadata"),
    wal.Recovered(wal.SnapshotData(7), b"node-1", wal.CommitState(8), [wal.Entry(8)], None, ()),
    wal.Retention(3, 1),
    wal.archive.ArchiveReport(("a.wal",), ("b.snap",), 7, (), (), 9),
    wal.archive.ArchiveVerifyReport(1, 1, 7, 0, 9, 1, "process 7 on node", ()),
    wal.archive.RestoreReport(SEGMENT.parent, 9, None, 1, 7, ()),
]


CONCRETE = re.compile(
    r"(WAL|WALReader|Follower|RecordRegistry|FileStorage|Snapshotter|MemoryStorage|Observer|aio\.\w+|archive\.Archiver"
    r"|cluster\.Etcd\w+)\."
)
"""The members of classes that are no contracts."""


def named(name: str) -> Any:
    found: Any = wal
    for part in name.split("."):
        found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
    return found.__get__(None, wal.WAL) if isinstance(found, classmethod) else found


NAMES = sorted(
    PUBLIC
    | {f"aio.{name}" for name in PUBLIC_AIO}
    | {f"archive.{name}" for name in PUBLIC_ARCHIVE}
    | {f"cluster.{name}" for name in PUBLIC_CLUSTER}
    | {f"etcd.{name}" for name in PUBLIC_ETCD}
    | {f"prometheus.{name}" for name in PUBLIC_PROMETHEUS}
    | {f"testing.{name}" for name in PUBLIC_TESTING}
)
CLASSES = [name for name in NAMES if inspect.isclass(named(name))]
MEMBERS = [
    f"{name}.{member}"
    for name in CLASSES
    for member, value in vars(named(name)).items()
    if not member.startswith("_")
    if inspect.isfunction(value) or isinstance(value, (classmethod, staticmethod, property))
]


def fields_of(value: Any) -> set[str]:
    """Return the fields of a dataclass or of a named tuple; none for anything else."""
    if dataclasses.is_dataclass(value):
        return {field.name for field in dataclasses.fields(value)}
    return set(getattr(value, "_fields", ()))


def attributes(cls: type) -> set[str]:
    """Return the attributes that the docstrings of a class and of its bases explain."""
    return {name for base in cls.__mro__ for name in sections(base.__doc__ or "").get("Attributes", ())}


def sections(text: str) -> dict[str, list[str]]:
    """Return the names that a docstring's sections list, by the section's title."""
    found: dict[str, list[str]] = {}
    title = None
    for line in inspect.cleandoc(text).splitlines():
        if head := re.fullmatch(r"(Args|Attributes|Raises|Returns):", line):
            title = head[1]
            found[title] = []
        elif line and not line.startswith(" "):
            title = None
        elif title and (item := re.match(r" {4}(\w+(?:, \w+)*):", line)):
            found[title] += item[1].split(", ")
    return found


class TestNames:
    def test_public_names(self) -> None:
        """A public name is for ever, so a new one is a decision, made here."""
        for module, names in PUBLIC_MODULES.items():
            assert set(module.__all__) == names
            assert len(module.__all__) == len(names)

    def test_public_modules(self) -> None:
        """So is a module whose name does not begin with ``_``."""
        modules = {module.name for module in pkgutil.iter_modules(wal.__path__) if not module.name.startswith("_")}

        assert {f"wal.{name}" for name in modules} == {module.__name__ for module in PUBLIC_MODULES} - {"wal"}

    @pytest.mark.parametrize("module", PUBLIC_MODULES, ids=lambda module: module.__name__)
    def test_what_is_not_listed_looks_so(self, module: ModuleType) -> None:
        """What a public module has besides begins with ``_``, or is imported, or is a number."""
        own = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        }

        assert own <= PUBLIC_MODULES[module]

    def test_public_properties(self) -> None:
        """A property is a public name, too. Methods are in the table of signatures."""
        properties = {name for name in MEMBERS if isinstance(named(name), property)}

        assert properties == {f"{cls}.{name}" for cls, names in PROPERTIES.items() for name in names}

    @pytest.mark.parametrize("name", sorted(PUBLIC - {"etcd"}))  # a module
    def test_public_objects_call_themselves_public(self, name: str) -> None:
        """Tracebacks, pickles and reprs show ``wal.X``, not the module in which X is written."""
        assert (named(name).__module__, named(name).__qualname__) == ("wal", name)

    def test_a_traceback_names_what_can_be_caught(self) -> None:
        """The last line of a traceback begins with the name to write after ``except``."""
        error = wal.TornWriteError(Path("segment"), 4096, "half a save")

        assert traceback.format_exception_only(error) == ["wal.TornWriteError: segment at byte 4,096: half a save\n"]

    def test_record_types_have_the_numbers_on_disk(self) -> None:
        """The names and numbers are those of the Go original."""
        assert {type.name: type.value for type in wal.RecordType} == {
            "METADATA": 1,
            "ENTRY": 2,
            "STATE": 3,
            "CRC": 4,
            "SNAPSHOT": 5,
        }

    def test_types_are_shipped(self) -> None:
        """Type checkers believe the annotations of a package that has ``py.typed``."""
        assert files("wal").joinpath("py.typed").is_file()


class TestSignatures:
    @pytest.mark.parametrize("name", SIGNATURES)
    def test_signature(self, name: str) -> None:
        """Names, order, defaults and kinds of parameters; options are keyword-only."""
        found = inspect.signature(named(name))
        parameters = [
            parameter.replace(
                annotation=parameter.empty,
                default=... if parameter.name in ("fs", "registry") and parameter.default else parameter.default,
            )
            for parameter in found.parameters.values()
        ]
        bare = found.replace(parameters=parameters, return_annotation=found.empty)

        assert str(bare).replace("Ellipsis", "...") == SIGNATURES[name]

    def test_every_function_and_method_is_in_the_table(self) -> None:
        """What can be called is in the table above, but for contracts and what fulfils them."""
        functions = {name for name in NAMES if not inspect.isclass(named(name)) and name != "etcd"}
        methods = {name for name in MEMBERS if inspect.isroutine(named(name)) and CONCRETE.match(name)}

        assert functions | methods <= set(SIGNATURES)

    def test_a_log_is_a_storage(self, path: Path) -> None:
        """``WAL`` fulfils ``Storage[Snapshot]``, for ``isinstance`` and for the type checker."""
        with wal.WAL.create(path) as log:
            storage: wal.Storage[wal.Snapshot] = log

            assert isinstance(storage, wal.Storage)
        assert not isinstance(wal.WALReader(path), wal.Storage)


class TestDocumentation:
    @pytest.mark.parametrize("name", NAMES + MEMBERS)
    def test_docstring(self, name: str) -> None:
        """Every public name, method and property has a docstring of its own that begins with a sentence."""
        text = named(name).__doc__

        assert text
        assert re.match(r"[A-Z`].*?[.:](\s|$)", inspect.cleandoc(text), re.DOTALL)

    @pytest.mark.parametrize("name", WRITERS)
    def test_writers_say_what_a_return_means(self, name: str) -> None:
        """A method that writes says what is true "when this returns", or which call it stands for."""
        text = " ".join(named(name).__doc__.split())

        assert "When this returns" in text or re.search(r"``save\(.*\)``|; see ``WAL\.", text)

    @pytest.mark.parametrize("name", [name for name in SIGNATURES if not fields_of(named(name))])
    def test_arguments_are_explained(self, name: str) -> None:
        """``Args`` lists the parameters in their order, and is there wherever they are three or more."""
        parameters = [parameter for parameter in inspect.signature(named(name)).parameters if parameter != "self"]
        listed = sections(named(name).__doc__).get("Args")

        assert listed == parameters or (listed is None and len(parameters) < 3)

    @pytest.mark.parametrize("name", NAMES + MEMBERS)
    def test_raises_names_errors(self, name: str) -> None:
        """``Raises`` lists public errors, or errors of Python."""
        for error in sections(named(name).__doc__).get("Raises", ()):
            found = getattr(wal, error, None) or getattr(wal.archive, error, None) or getattr(builtins, error)
            assert issubclass(found, Exception)

    @pytest.mark.parametrize("name", [name for name in CLASSES if fields_of(named(name))])
    def test_fields_are_explained(self, name: str) -> None:
        """``Attributes`` of a class or of its bases list every field."""
        assert fields_of(named(name)) <= attributes(named(name))

    @pytest.mark.parametrize("error", ERRORS + ERRORS_OF_ARCHIVES, ids=lambda error: type(error).__name__)
    def test_fields_of_errors_are_explained(self, error: wal.WALError) -> None:
        """``Attributes`` of an error's class or of its bases list everything that it carries."""
        assert set(vars(error)) - {"__notes__"} <= attributes(type(error))


class TestErrors:
    def test_every_error_has_a_sample(self) -> None:
        """The tests below see each class of the tree."""
        classes = {value for value in vars(_errors).values() if inspect.isclass(value) and issubclass(value, Exception)}

        assert {type(error) for error in ERRORS} == classes
        assert {error.__name__ for error in classes} == {name for name in PUBLIC if name.endswith("Error")}

    def test_the_tree_is_the_one_that_is_drawn(self) -> None:
        """Each error has the base, and the second base from the standard library, that the module's head draws."""
        drawn = {"WALError": (Exception,)}
        branch = ""
        for line in (_errors.__doc__ or "").splitlines():
            if leaf := re.match(r"([ │]*)[├└]── (\w+) *(?:\((\w+)\))?", line):
                indentation, name, second = leaf.groups()
                base = branch if "│" in indentation or len(indentation) > 4 else "WALError"
                branch = branch if base == branch else name
                drawn[name] = (getattr(wal, base), *([getattr(builtins, second)] if second else []))

        assert {type(error).__name__: type(error).__bases__ for error in ERRORS} == drawn

    @pytest.mark.parametrize("error", ERRORS + ERRORS_OF_ARCHIVES, ids=lambda error: type(error).__name__)
    @pytest.mark.parametrize(
        "duplicate",
        [
            pytest.param(lambda error: pickle.loads(pickle.dumps(error)), id="pickle"),
            pytest.param(copy.copy, id="copy"),
            pytest.param(copy.deepcopy, id="deepcopy"),
        ],
    )
    def test_errors_are_values(self, error: wal.WALError, duplicate: Callable[[wal.WALError], wal.WALError]) -> None:
        """An error comes out of another process with its class, words, fields and notes, but without entries."""
        other = duplicate(error)
        fields = {**vars(error), "entries": ()} if isinstance(error, wal.CorruptionError) else vars(error)

        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == fields
        assert other.args == error.args
        assert repr(other) == repr(error)

    @pytest.mark.parametrize("error", ERRORS + ERRORS_OF_ARCHIVES, ids=lambda error: type(error).__name__)
    def test_errors_speak(self, error: wal.WALError) -> None:
        """The text has the reason, and the path and the byte if the error knows them."""
        text = str(error)

        assert error.reason in text
        if hasattr(error, "path"):
            assert str(error.path) in text
        if hasattr(error, "offset"):
            assert f"{error.offset:,}" in text


class TestValues:
    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_values_pickle_and_copy(self, value: object) -> None:
        """Records, results and registries go to other processes and come back equal."""
        assert pickle.loads(pickle.dumps(value)) == value
        assert copy.copy(value) == value
        assert copy.deepcopy(value) == value
