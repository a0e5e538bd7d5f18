"""Records: they come back from their bytes as they were, and a registry takes classes of the right kind only."""

from __future__ import annotations

import copy
import struct
from abc import abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wal
import wal.aio
from wal import RecordType

MAX = 2**64 - 1

uints = st.integers(0, MAX) | st.sampled_from([0, 1, 127, 128, 2**32, 2**63, MAX])
payloads = st.binary(max_size=300)

DEFAULT_CLASSES = (wal.Entry, wal.CommitState, wal.SnapshotMarker)
ETCD_CLASSES = (wal.etcd.Entry, wal.etcd.HardState, wal.etcd.Snapshot)
CLASSES = [pytest.param(cls, id=f"{cls.__module__}.{cls.__name__}") for cls in DEFAULT_CLASSES + ETCD_CLASSES]


def values_of(cls: type[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments for every field of a record class."""
    return st.fixed_dictionaries({f.name: payloads if f.type in (bytes, "bytes") else uints for f in fields(cls)})


# ------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("cls", CLASSES)
@given(data=st.data())
def test_round_trip(cls: type[Any], data: st.DataObject) -> None:
    """``unmarshal`` makes from ``marshal``'s bytes a record that is equal, of the same class and of equal hash."""
    record = cls(**data.draw(values_of(cls)))
    again = cls.unmarshal(record.marshal())
    assert again == record
    assert type(again) is cls
    assert hash(again) == hash(record)
    assert again.marshal() == record.marshal()
    assert repr(again) == repr(record)


@pytest.mark.parametrize("cls", CLASSES)
@given(data=st.data())
def test_equality(cls: type[Any], data: st.DataObject) -> None:
    """Records are equal exactly if all their fields are; so are their bytes."""
    one = data.draw(values_of(cls))
    other = {**one, **data.draw(values_of(cls))} if data.draw(st.booleans()) else dict(one)
    assert (cls(**one) == cls(**other)) == (one == other)
    assert (cls(**one).marshal() == cls(**other).marshal()) == (one == other)


@pytest.mark.parametrize("cls", CLASSES)
@given(data=st.binary(max_size=40))
def test_arbitrary_bytes(cls: type[Any], data: bytes) -> None:
    """Bytes of another class are refused with ``ValueError``, or understood in full."""
    try:
        record = cls.unmarshal(data)
    except ValueError:
        return
    assert cls.unmarshal(record.marshal()) == record
    shorter, longer = sorted((data, record.marshal()), key=len)
    assert len(shorter) <= len(longer) <= len(shorter) + 2 * len(fields(cls))  # zero fields, left out or not


@pytest.mark.parametrize(
    ("record", "data"),
    [
        pytest.param(wal.Entry(0), "", id="entry-of-zeros"),
        pytest.param(wal.Entry(1), "08 01", id="entry-index"),
        pytest.param(wal.Entry(1, b"a"), "08 01 1a 01 61", id="entry-data"),
        pytest.param(wal.Entry(300, b"abc", 2), "08 ac 02 10 02 1a 03 61 62 63", id="entry"),
        pytest.param(wal.Entry(0, b"a"), "1a 01 61", id="entry-without-index"),
        pytest.param(wal.Entry(MAX), "08 ff ff ff ff ff ff ff ff ff 01", id="entry-greatest-index"),
        pytest.param(wal.CommitState(), "", id="state-of-zeros"),
        pytest.param(wal.CommitState(128), "08 80 01", id="state"),
        pytest.param(wal.SnapshotMarker(), "", id="marker-of-zeros"),
        pytest.param(wal.SnapshotMarker(127), "08 7f", id="marker"),
        pytest.param(wal.etcd.Entry(), "08 00 10 00 18 00", id="etcd-entry-of-zeros"),
        pytest.param(wal.etcd.Entry(term=1, index=2), "08 00 10 01 18 02", id="etcd-entry-empty"),
        pytest.param(
            wal.etcd.Entry(term=5, index=300, type=1, data=b"abc"),
            "08 01 10 05 18 ac 02 22 03 61 62 63",
            id="etcd-entry",
        ),
        pytest.param(wal.etcd.HardState(), "08 00 10 00 18 00", id="etcd-state-of-zeros"),
        pytest.param(wal.etcd.HardState(term=1, vote=2, commit=3), "08 01 10 02 18 03", id="etcd-state"),
        pytest.param(wal.etcd.Snapshot(), "08 00 10 00", id="etcd-snapshot-of-zeros"),
        pytest.param(wal.etcd.Snapshot(index=3, term=1), "08 03 10 01", id="etcd-snapshot"),
        pytest.param(
            wal.etcd.Snapshot(index=3, term=1, conf_state=b"\x08\x01"),
            "08 03 10 01 1a 02 08 01",
            id="etcd-snapshot-with-members",
        ),
    ],
)
def test_exact_bytes(record: wal.Record, data: str) -> None:
    """The default records leave zeros out as the Go original does; etcd's are written with them, as etcd does."""
    assert record.marshal() == bytes.fromhex(data)
    assert type(record).unmarshal(bytes.fromhex(data)) == record


@pytest.mark.parametrize(
    ("cls", "data", "record"),
    [
        pytest.param(wal.Entry, "08 01 10 00 1a 00", wal.Entry(1), id="default-entry-with-zeros"),
        pytest.param(wal.CommitState, "08 00", wal.CommitState(), id="default-state-with-zeros"),
        pytest.param(wal.etcd.Entry, "", wal.etcd.Entry(), id="etcd-entry-without-zeros"),
        pytest.param(wal.etcd.Entry, "18 07", wal.etcd.Entry(index=7), id="etcd-entry-proto3"),
        pytest.param(wal.etcd.Entry, "08 00 10 01 18 02 22 00", wal.etcd.Entry(term=1, index=2), id="etcd-empty-data"),
        pytest.param(wal.etcd.HardState, "18 07", wal.etcd.HardState(commit=7), id="etcd-state-proto3"),
        pytest.param(wal.etcd.Snapshot, "08 07", wal.etcd.Snapshot(index=7), id="etcd-snapshot-before-terms"),
    ],
)
def test_zero_fields_may_be_there_or_not(cls: type[wal.Record], data: str, record: wal.Record) -> None:
    """Both ways of writing a zero are read."""
    assert cls.unmarshal(bytes.fromhex(data)) == record


@pytest.mark.parametrize(
    ("cls", "data"),
    [
        pytest.param(wal.Entry, wal.etcd.Entry(term=1, index=2, data=b"x").marshal(), id="etcd's-entry-as-default"),
        pytest.param(wal.etcd.Entry, wal.Entry(2, b"x").marshal(), id="default-entry-as-etcd's"),
        pytest.param(wal.CommitState, wal.etcd.HardState(term=1).marshal(), id="etcd's-state-as-default"),
        pytest.param(wal.SnapshotMarker, wal.etcd.Snapshot(index=1).marshal(), id="etcd's-snapshot-as-default"),
        pytest.param(wal.CommitState, wal.Entry(1, b"x").marshal(), id="entry-as-state"),
        pytest.param(wal.SnapshotMarker, wal.Entry(1, b"x").marshal(), id="entry-as-marker"),
        pytest.param(wal.Entry, b"\xff" * 20, id="garbage"),
        pytest.param(wal.CommitState, b"\x08", id="truncated"),
        pytest.param(wal.CommitState, b"\x08\x01\x08\x01", id="twice"),
    ],
)
def test_bytes_of_another_class(cls: type[wal.Record], data: bytes) -> None:
    """F22: bytes that another class wrote are a ``ValueError``, not a wrong record."""
    with pytest.raises(ValueError):
        cls.unmarshal(data)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("value", [-1, 2**64])
def test_integers_beyond_64_bits(cls: type[Any], value: int) -> None:
    """An integer that the format cannot hold is refused, not cut off."""
    for field in fields(cls):
        if field.type not in (bytes, "bytes"):
            arguments = {"index": 1, field.name: value} if hasattr(cls, "index") else {field.name: value}
            with pytest.raises(ValueError, match="64 bits"):
                cls(**arguments).marshal()


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(wal.Entry(1.5), id="float-index"),  # type: ignore[arg-type]
        pytest.param(wal.Entry("1"), id="text-index"),  # type: ignore[arg-type]
        pytest.param(wal.Entry(None), id="no-index"),  # type: ignore[arg-type]
        pytest.param(wal.Entry(1, b"", 1.0), id="float-type"),  # type: ignore[arg-type]
        pytest.param(wal.Entry(1, "text"), id="text-data"),  # type: ignore[arg-type]
        pytest.param(wal.Entry(1, ""), id="empty-text-data"),  # type: ignore[arg-type]
        pytest.param(wal.Entry(1, None), id="no-data"),  # type: ignore[arg-type]
        pytest.param(wal.CommitState(2.0), id="float-state"),  # type: ignore[arg-type]
        pytest.param(wal.SnapshotMarker(2.0), id="float-marker"),  # type: ignore[arg-type]
        pytest.param(wal.etcd.Entry(index=1, term=3.0), id="etcd-float-term"),  # type: ignore[arg-type]
        pytest.param(wal.etcd.Entry(index=1, data="text"), id="etcd-text-data"),  # type: ignore[arg-type]
    ],
)
def test_fields_of_the_wrong_type(record: wal.Record) -> None:
    """What would not come back as it was given is a ``TypeError`` when it is to be written."""
    with pytest.raises(TypeError):
        record.marshal()


# ----------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("cls", [wal.Entry, wal.etcd.Entry])
@pytest.mark.parametrize("length", [0, 1, 127, 128, 20_000])
def test_size_of_an_entry(cls: Any, length: int) -> None:
    """An entry's size is the length of its marshalled form."""
    entry = cls(index=7, data=b"x" * length)
    assert entry.size() == len(entry.marshal())


@pytest.mark.parametrize("cls", [wal.CommitState, wal.SnapshotMarker, wal.etcd.HardState, wal.etcd.Snapshot])
def test_empty(cls: Any) -> None:
    """The value before anything was saved is zero, and a new object each time."""
    empty = cls.empty()
    assert type(empty) is cls
    assert getattr(empty, "committed", 0) == getattr(empty, "index", 0) == 0
    assert empty == cls()
    assert empty is not cls.empty()


def test_etcd_names() -> None:
    """An etcd state is committed up to its ``commit``; the fields go by keyword alone."""
    assert wal.etcd.HardState(term=1, vote=2, commit=3).committed == 3
    for cls in ETCD_CLASSES:
        with pytest.raises(TypeError):
            cls(1)  # type: ignore[call-arg]


@pytest.mark.parametrize("cls", CLASSES)
def test_records_copy(cls: type[Any]) -> None:
    """Records can be copied; a copy is equal and on its own."""
    record = cls(index=1) if hasattr(cls, "index") else cls()
    twin = copy.copy(record)
    assert twin == record
    name = fields(cls)[0].name
    setattr(twin, name, 77)
    assert twin != record


@pytest.mark.parametrize("cls", [wal.Record, wal.LogEntry, wal.HardState, wal.Snapshot])
def test_base_classes_are_abstract(cls: type[Any]) -> None:
    """The bases say what a record must have, and are no records."""
    with pytest.raises(TypeError, match="abstract"):
        cls()


# ---------------------------------------------------------------------- classes that an application writes


class Put(wal.LogEntry):
    """An entry with a plain ``__init__``."""

    def __init__(self, index: int, value: str) -> None:
        self.index = index
        self.value = value

    def marshal(self) -> bytes:
        return struct.pack("<Q", self.index) + self.value.encode()

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        return cls(struct.unpack_from("<Q", data)[0], data[8:].decode())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Put) and (self.index, self.value) == (other.index, other.value)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class FrozenPut(wal.LogEntry):
    """An entry that is a frozen dataclass."""

    index: int
    value: str = ""

    def marshal(self) -> bytes:
        return f"{self.index}:{self.value}".encode()

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        index, _, value = data.decode().partition(":")
        return cls(int(index), value)


@dataclass(slots=True)
class Vote(wal.HardState):
    """A state with slots and a field more."""

    committed: int = 0
    voted: str = ""

    def marshal(self) -> bytes:
        return f"{self.committed}:{self.voted}".encode()

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        committed, _, voted = data.decode().partition(":")
        return cls(int(committed), voted)


class Place(wal.Snapshot):
    """A marker whose ``empty()`` is its own, and whose index is a property."""

    def __init__(self, term: int, index: int) -> None:
        self._place = term, index

    @property
    def index(self) -> int:  # type: ignore[override]
        return self._place[1]

    def marshal(self) -> bytes:
        return struct.pack("<QQ", *self._place)

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        return cls(*struct.unpack("<QQ", data))

    @classmethod
    def empty(cls) -> Self:
        return cls(0, 0)


class Delete(Put):
    """A subclass of a registered class."""


@pytest.mark.parametrize(
    ("entry", "size"),
    [
        pytest.param(Put(3, "abc"), 11, id="plain-init"),
        pytest.param(FrozenPut(3, "abc"), 5, id="frozen-dataclass"),
        pytest.param(Delete(3, ""), 8, id="subclass"),
    ],
)
def test_size_by_default(entry: wal.LogEntry, size: int) -> None:
    """An application's entry need not count its bytes itself."""
    assert entry.size() == size


@pytest.mark.parametrize(
    ("cls", "entries"),
    [
        pytest.param(Put, [Put(1, "a"), Put(2, "ü" * 300)], id="plain-init"),
        pytest.param(FrozenPut, [FrozenPut(1), FrozenPut(2, "b")], id="frozen-dataclass"),
        pytest.param(Delete, [Delete(1, "a"), Delete(2, "")], id="subclass"),
    ],
)
def test_an_application_gets_its_own_objects_back(path: Path, cls: type[Any], entries: list[Any]) -> None:
    """What is saved in classes of the application's own is read in these classes."""
    registry = wal.RecordRegistry()
    registry.register(RecordType.ENTRY, cls)
    registry.register(RecordType.STATE, Vote)
    registry.register(RecordType.SNAPSHOT, Place)
    with wal.WAL.create(path, registry=registry, segment_size=4096) as log:
        assert log.state == Vote(0, "")
        log.save(Vote(2, "me"), entries)
        log.save_snap(Place(7, 1))
    reader = wal.WALReader(path, registry=registry)
    _, state, found, tail = reader.read_all()
    assert (state, found, tail) == (Vote(2, "me"), entries, None)
    assert [type(entry) for entry in found] == [cls, cls]
    assert [type(record.value) for record in reader if record.type is RecordType.SNAPSHOT] == [Place, Place]
    assert wal.valid_snapshots(path, registry=registry)[-1].marshal() == Place(7, 1).marshal()


# ---------------------------------------------------------------------------------------------- registry


def test_a_new_registry_has_the_default_classes() -> None:
    """Whatever was registered elsewhere, a new registry is a clean one."""
    wal.register_record(RecordType.ENTRY, Put)
    registry = wal.RecordRegistry()
    assert (registry.entry, registry.state, registry.snapshot) == DEFAULT_CLASSES


@pytest.mark.parametrize(
    ("type", "cls", "attribute"),
    [
        pytest.param(RecordType.ENTRY, Put, "entry", id="entry"),
        pytest.param(RecordType.ENTRY, FrozenPut, "entry", id="dataclass"),
        pytest.param(RecordType.ENTRY, Delete, "entry", id="subclass-of-a-subclass"),
        pytest.param(RecordType.STATE, Vote, "state", id="state"),
        pytest.param(RecordType.SNAPSHOT, Place, "snapshot", id="snapshot"),
        pytest.param(RecordType.ENTRY, wal.etcd.Entry, "entry", id="etcd's-entry"),
        pytest.param(RecordType.STATE, wal.etcd.HardState, "state", id="etcd's-state"),
        pytest.param(RecordType.SNAPSHOT, wal.etcd.Snapshot, "snapshot", id="etcd's-snapshot"),
    ],
)
def test_register(type: RecordType, cls: Any, attribute: str) -> None:
    """A class is registered for its type alone, and given back, so that it can be done by a decorator."""
    registry, expected = wal.RecordRegistry(), wal.RecordRegistry()
    assert registry.register(type, cls) is cls
    assert getattr(registry, attribute) is cls
    others = {"entry", "state", "snapshot"} - {attribute}
    assert all(getattr(registry, other) is getattr(expected, other) for other in others)
    assert wal.RecordRegistry().register(type)(cls) is cls


def test_classes_given_at_once() -> None:
    """Classes that a registry is made with are as good as registered; those left out are the default ones."""
    registry = wal.RecordRegistry(entry=Put, snapshot=Place)
    assert (registry.entry, registry.state, registry.snapshot) == (Put, wal.CommitState, Place)
    one_by_one = wal.RecordRegistry()
    one_by_one.register(RecordType.ENTRY, Put)
    one_by_one.register(RecordType.SNAPSHOT, Place)
    assert registry == one_by_one
    assert wal.RecordRegistry(state=Vote).copy().state is Vote


@pytest.mark.parametrize(
    "cls",
    [
        *(wal.RecordRegistry, wal.WAL, wal.WALReader, wal.Follower, wal.FileStorage, wal.MemoryStorage, wal.Storage),
        *(wal.LogRecord, wal.LogContents, wal.ReadWAL, wal.Recovered, wal.aio.AsyncWAL, wal.aio.AsyncFollower),
        wal.aio.AsyncReadWAL,
    ],
)
def test_type_parameters_may_be_left_out(cls: Any) -> None:
    """As type checkers have it, so at run time: in an annotation that is evaluated, and as a base."""
    assert cls[Put].__origin__ is cls

    class Derived(cls[Put]):  # type: ignore[misc]
        pass

    assert Derived.__mro__[1] is cls


def test_decorator() -> None:
    """``register`` without a class decorates one, and leaves it as it is."""
    registry = wal.RecordRegistry()

    @registry.register(RecordType.STATE)
    @dataclass
    class Committed(wal.CommitState):
        pass

    assert registry.state is Committed
    assert Committed(3).committed == 3


def test_the_last_one_registered_counts() -> None:
    """Registering again replaces."""
    registry = wal.RecordRegistry()
    registry.register(RecordType.ENTRY, Put)
    registry.register(RecordType.ENTRY, FrozenPut)
    assert registry.entry is FrozenPut
    registry.register(RecordType.ENTRY, wal.Entry)
    assert registry == wal.RecordRegistry()


class HalfEntry(wal.LogEntry):
    """Lacks ``unmarshal``."""

    def marshal(self) -> bytes:
        return b""


class AbstractState(wal.CommitState):
    """Adds something to be filled in."""

    @abstractmethod
    def describe(self) -> str: ...


class NoRecord:
    """Has the methods, but not the base."""

    index = 1

    def marshal(self) -> bytes:
        return b""

    @classmethod
    def unmarshal(cls, data: bytes) -> NoRecord:
        return cls()


class Adopted:
    """A subclass by declaration only: it has nothing of what the base gives."""


wal.LogEntry.register(Adopted)

WRONG = [
    pytest.param(RecordType.ENTRY, Vote, "LogEntry", id="state-as-entry"),
    pytest.param(RecordType.ENTRY, Place, "LogEntry", id="snapshot-as-entry"),
    pytest.param(RecordType.STATE, Put, "HardState", id="entry-as-state"),
    pytest.param(RecordType.STATE, Place, "HardState", id="snapshot-as-state"),
    pytest.param(RecordType.SNAPSHOT, Put, "Snapshot", id="entry-as-snapshot"),
    pytest.param(RecordType.SNAPSHOT, Vote, "Snapshot", id="state-as-snapshot"),
    pytest.param(RecordType.ENTRY, NoRecord, "LogEntry", id="no-record"),
    pytest.param(RecordType.ENTRY, wal.Record, "LogEntry", id="base-of-the-bases"),
    pytest.param(RecordType.ENTRY, object, "LogEntry", id="object"),
    pytest.param(RecordType.ENTRY, Put(1, ""), "LogEntry", id="object-instead-of-class"),
    pytest.param(RecordType.ENTRY, "Put", "LogEntry", id="name-instead-of-class"),
    pytest.param(RecordType.ENTRY, lambda: None, "LogEntry", id="function"),
    pytest.param(RecordType.ENTRY, wal.LogEntry, "marshal", id="abstract-base"),
    pytest.param(RecordType.STATE, wal.HardState, "marshal", id="abstract-state-base"),
    pytest.param(RecordType.SNAPSHOT, wal.Snapshot, "marshal", id="abstract-snapshot-base"),
    pytest.param(RecordType.ENTRY, HalfEntry, "unmarshal", id="without-unmarshal"),
    pytest.param(RecordType.STATE, AbstractState, "describe", id="abstract-subclass"),
    pytest.param(RecordType.ENTRY, Adopted, "Adopted", id="declared-subclass"),
    pytest.param(RecordType.METADATA, Put, "METADATA", id="metadata"),
    pytest.param(RecordType.CRC, Put, "CRC", id="crc"),
    pytest.param(0, Put, "0", id="type-0"),
    pytest.param(6, Put, "6", id="type-6"),
    pytest.param("ENTRY", Put, "ENTRY", id="type-by-name"),
    pytest.param(int(RecordType.ENTRY), Vote, "LogEntry", id="wrong-class-for-a-plain-number"),
]


@pytest.mark.parametrize(("type", "cls", "hint"), WRONG)
@pytest.mark.parametrize("decorator", [False, True], ids=["call", "decorator"])
def test_wrong_kinds(type: Any, cls: Any, hint: str, decorator: bool) -> None:
    """A class of the wrong kind is a ``RecordTypeError``, a ``TypeError`` too, that says what is wrong."""
    registry = wal.RecordRegistry()
    with pytest.raises(wal.RecordTypeError, match=hint) as caught:
        if decorator:
            registry.register(type)(cls)
        else:
            registry.register(type, cls)
    assert isinstance(caught.value, TypeError)
    assert registry == wal.RecordRegistry()


@pytest.mark.parametrize(
    ("classes", "hint"),
    [
        pytest.param({"entry": Vote}, "LogEntry", id="a-state-for-entries"),
        pytest.param({"state": Put}, "HardState", id="an-entry-for-states"),
        pytest.param({"snapshot": Put}, "Snapshot", id="an-entry-for-snapshots"),
        pytest.param({"entry": None}, "LogEntry", id="none-for-entries"),
        pytest.param({"state": AbstractState}, "describe", id="abstract"),
    ],
)
def test_wrong_kinds_given_at_once(classes: dict[str, Any], hint: str) -> None:
    """They are refused as ``register`` refuses them."""
    with pytest.raises(wal.RecordTypeError, match=hint):
        wal.RecordRegistry(**classes)


def test_registries_are_values() -> None:
    """Two with the same classes are equal; a copy goes its own way; none can be a key, since it can change."""
    one, other = wal.RecordRegistry(), wal.RecordRegistry()
    assert one == other
    one.register(RecordType.ENTRY, Put)
    assert one != other
    twin = one.copy()
    assert twin == one
    twin.register(RecordType.STATE, Vote)
    assert one.state is wal.CommitState
    assert twin != one
    one.register(RecordType.STATE, Vote)
    assert twin == one
    assert one != "a registry"
    with pytest.raises(TypeError):
        hash(one)


def test_repr() -> None:
    """A registry shows its classes."""
    registry = wal.RecordRegistry()
    assert repr(registry) == "<RecordRegistry ENTRY=Entry, STATE=CommitState, SNAPSHOT=SnapshotMarker>"
    registry.register(RecordType.STATE, Vote)
    assert repr(registry) == "<RecordRegistry ENTRY=Entry, STATE=Vote, SNAPSHOT=SnapshotMarker>"


def test_the_process_wide_registry(path: Path) -> None:
    """``register_record`` is for logs without a registry of their own, those that are made afterwards."""
    with wal.WAL.create(path, segment_size=4096) as early:
        wal.register_record(RecordType.ENTRY, Put)
        early.save(None, [wal.Entry(1, b"a")])
        with pytest.raises(wal.RecordTypeError):
            early.save(None, [Put(2, "b")])
    late = path.with_name("late")
    with wal.WAL.create(late, segment_size=4096) as log:
        log.save(None, [Put(1, "a")])
    assert wal.WALReader(late).read_all().entries == [Put(1, "a")]
    assert wal.WALReader(path, registry=wal.RecordRegistry()).read_all().entries == [wal.Entry(1, b"a")]


def test_the_process_wide_decorator(path: Path) -> None:
    """``register_record`` decorates, too."""

    @wal.register_record(RecordType.ENTRY)
    class Renamed(Put):
        pass

    with wal.WAL.create(path, segment_size=4096) as log:
        log.save(None, [Renamed(1, "a")])
    (entry,) = wal.WALReader(path).read_all().entries
    assert type(entry) is Renamed


def test_an_open_log_keeps_its_classes(path: Path) -> None:
    """A registry that is changed later does not change the logs that were made with it."""
    registry = wal.RecordRegistry()
    with wal.WAL.create(path, registry=registry, segment_size=4096) as log:
        registry.register(RecordType.ENTRY, Put)
        log.save(None, [wal.Entry(1, b"a")])
        with pytest.raises(wal.RecordTypeError):
            log.save(None, [Put(2, "b")])


def test_etcd_registry() -> None:
    """etcd's registry has etcd's classes, and each call makes a new one."""
    registry = wal.etcd.registry()
    assert (registry.entry, registry.state, registry.snapshot) == ETCD_CLASSES
    registry.register(RecordType.ENTRY, Put)
    assert wal.etcd.registry().entry is wal.etcd.Entry
    assert wal.RecordRegistry().entry is wal.Entry


def test_record_types() -> None:
    """The numbers on disk."""
    assert {type.name: type.value for type in RecordType} == {
        "METADATA": 1,
        "ENTRY": 2,
        "STATE": 3,
        "CRC": 4,
        "SNAPSHOT": 5,
    }
