# SPDX-License-Identifier: Apache-2.0
"""
What applications put into a log: entries, hard states and snapshot markers.

An application subclasses ``LogEntry``, ``HardState`` or ``Snapshot`` and registers the class in a
``RecordRegistry``, or uses the default ones below. A log keeps the marshalled bytes only; the registry says
which class they come back as. Logs, readers and what they return have these classes as their type parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, overload

from ._errors import RecordTypeError
from ._frame import RecordType
from ._protobuf import BYTES, UINT, bytes_field, decode_message, uint_field

__all__ = [
    "CommitState",
    "Entry",
    "HardState",
    "LogEntry",
    "Record",
    "RecordRegistry",
    "Snapshot",
    "SnapshotMarker",
    "register_record",
]


class Record(ABC):
    """
    A value that a log can keep: it becomes bytes and is made again from them.

    ``cls.unmarshal(record.marshal())`` must equal the record. A log calls ``marshal`` before it writes anything
    and keeps no reference to the record. ``unmarshal`` says no by raising ``ValueError``.
    """

    __slots__ = ()

    @abstractmethod
    def marshal(self) -> bytes:
        """Return the bytes to be kept."""

    @classmethod
    @abstractmethod
    def unmarshal(cls, data: bytes) -> Self:
        """Make the record again from the bytes that ``marshal`` returned."""


class LogEntry(Record):
    """
    One entry of the log, found by its index.

    Attributes:
        index: The entry's place in the log, 1 or greater.
    """

    __slots__ = ()

    index: int

    def size(self) -> int:
        """Return the entry's size in bytes, by default the length of the marshalled form."""
        return len(self.marshal())


class HardState(Record):
    """
    What a state machine must not forget besides its entries; the last one saved counts.

    Attributes:
        committed: The index of the last entry known to be committed.
    """

    __slots__ = ()

    committed: int

    @classmethod
    def empty(cls) -> Self:
        """Return the state before any was saved."""
        return cls()


class Snapshot(Record):
    """
    The marker of a snapshot: from here on the log can be read without what is before.

    Attributes:
        index: The index of the last entry that the snapshot covers.
    """

    __slots__ = ()

    index: int

    @classmethod
    def empty(cls) -> Self:
        """Return the snapshot before any was taken, which covers nothing."""
        return cls()


@dataclass(slots=True, unsafe_hash=True)
class Entry(LogEntry):
    """
    The default entry: bytes with an application-defined type number.

    Attributes:
        index: Its place in the log, 1 or greater.
        data: What it says; the log does not look at it.
        type: A number of the application's choice, 0 or greater.

    Not frozen, because a frozen dataclass takes three times as long to make; treat it as if it were.

    >>> Entry.unmarshal(Entry(7, b"seven").marshal())
    Entry(index=7, data=b'seven', type=0)
    """

    index: int
    data: bytes = b""
    type: int = 0

    def marshal(self) -> bytes:
        """Return the protobuf message ``{1: index, 2: type, 3: data}``, zero fields left out."""
        return uint_field(1, self.index) + uint_field(2, self.type) + bytes_field(3, self.data)

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        """Make the entry from ``marshal``'s bytes; ``ValueError`` if they are anything else."""
        index, type, payload = decode_message(data, (UINT, UINT, BYTES))
        return cls(index, payload, type)

    def size(self) -> int:
        """Return the length of the marshalled form, in bytes."""
        return len(self.marshal())


@dataclass(slots=True, unsafe_hash=True)
class CommitState(HardState):
    """
    The default hard state: how far the log is committed.

    >>> CommitState.unmarshal(CommitState(3).marshal())
    CommitState(committed=3)
    """

    committed: int = 0

    def marshal(self) -> bytes:
        """Return the protobuf message ``{1: committed}``, empty for 0."""
        return uint_field(1, self.committed)

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        """Make the state from ``marshal``'s bytes; ``ValueError`` if they are anything else."""
        return cls(*decode_message(data, (UINT,)))


@dataclass(slots=True, unsafe_hash=True)
class SnapshotMarker(Snapshot):
    """
    The default snapshot marker: the index that a snapshot covers.

    >>> SnapshotMarker.unmarshal(SnapshotMarker(3).marshal())
    SnapshotMarker(index=3)
    """

    index: int = 0

    def marshal(self) -> bytes:
        """Return the protobuf message ``{1: index}``, empty for 0."""
        return uint_field(1, self.index)

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        """Make the marker from ``marshal``'s bytes; ``ValueError`` if they are anything else."""
        return cls(*decode_message(data, (UINT,)))


# ---------------------------------------------------------------------------------------------- type parameters

if TYPE_CHECKING:
    # Type parameters that are left out are the base classes (PEP 696), so that ``log: wal.WAL`` is a complete type.
    from typing_extensions import TypeVar
else:
    import typing

    def TypeVar(name, *, default=None, **kinds):  # noqa: ANN001, ANN003, ANN202, ARG001, N802
        return typing.TypeVar(name, **kinds)  # whose defaults begin with Python 3.13


EntryT = TypeVar("EntryT", bound=LogEntry, default=LogEntry)
StateT = TypeVar("StateT", bound=HardState, default=HardState)
SnapshotT = TypeVar("SnapshotT", bound=Snapshot, default=Snapshot)

# A log of some classes can stand where one of any is asked for, also for saving: the classes are checked by each save.
EntryT_co = TypeVar("EntryT_co", bound=LogEntry, default=LogEntry, covariant=True)
StateT_co = TypeVar("StateT_co", bound=HardState, default=HardState, covariant=True)
SnapshotT_co = TypeVar("SnapshotT_co", bound=Snapshot, default=Snapshot, covariant=True)

# What can be saved to a storage; its snapshots are of any kind.
SavedT_contra = TypeVar("SavedT_contra", contravariant=True)
EntryT_contra = TypeVar("EntryT_contra", bound=LogEntry, default=LogEntry, contravariant=True)
StateT_contra = TypeVar("StateT_contra", bound=HardState, default=HardState, contravariant=True)

# What a registry has where only some classes are named.
_EntryT = TypeVar("_EntryT", bound=LogEntry, default=Entry)
_StateT = TypeVar("_StateT", bound=HardState, default=CommitState)
_SnapshotT = TypeVar("_SnapshotT", bound=Snapshot, default=SnapshotMarker)

_R = TypeVar("_R", bound=Record)
_C = TypeVar("_C", bound=type)


def parametrized(cls: _C) -> _C:
    """Let type parameters be left out at run time, too, as in ``WAL[Put]``; ``typing`` does from Python 3.13 on."""
    cls.__class_getitem__ = classmethod(GenericAlias)  # type: ignore[attr-defined]
    return cls


@parametrized
class RecordRegistry(Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    Which class the entries, states and snapshots of a log come back as.

    Classes that are given here are known to type checkers, and so are the records of every log that is opened with
    the registry; those that are registered later are not.

    A registry is a value: a new one starts with the default classes, two with the same classes are equal, and a
    log takes over the classes when it is opened, so registering later does not change it. Registering while
    other threads open logs is safe; each log sees one class or the other.

    Args:
        entry: The class of entries, a concrete subclass of ``LogEntry``.
        state: The class of hard states, a concrete subclass of ``HardState``.
        snapshot: The class of snapshot markers, a concrete subclass of ``Snapshot``.

    Raises:
        RecordTypeError: A class is not of its kind.
    """

    @overload
    def __init__(self: RecordRegistry[LogEntry, HardState, Snapshot]) -> None: ...

    @overload
    def __init__(
        self: RecordRegistry[_EntryT, _StateT, _SnapshotT],
        *,
        # Not "...", because there are type checkers that take the type of what is left out from here.
        entry: type[_EntryT] = Entry,  # type: ignore[assignment]
        state: type[_StateT] = CommitState,  # type: ignore[assignment]
        snapshot: type[_SnapshotT] = SnapshotMarker,  # type: ignore[assignment]
    ) -> None: ...

    def __init__(
        self,
        *,
        entry: type[LogEntry] = Entry,
        state: type[HardState] = CommitState,
        snapshot: type[Snapshot] = SnapshotMarker,
    ) -> None:
        self._classes: dict[RecordType, type[Any]] = {}
        self._set(RecordType.ENTRY, entry)
        self._set(RecordType.STATE, state)
        self._set(RecordType.SNAPSHOT, snapshot)

    @overload
    def register(self, type: RecordType, cls: type[_R]) -> type[_R]: ...

    @overload
    def register(self, type: RecordType) -> Callable[[type[_R]], type[_R]]: ...

    def register(self, type: RecordType, cls: type[_R] | None = None) -> type[_R] | Callable[[type[_R]], type[_R]]:
        """
        Let records of ``type`` be made by ``cls``; without ``cls``, return a class decorator that does it.

        Args:
            type: ``RecordType.ENTRY``, ``STATE`` or ``SNAPSHOT``.
            cls: A concrete subclass of ``LogEntry``, ``HardState`` or ``Snapshot``, as the type asks.

        Raises:
            RecordTypeError: The type takes no class, or the class is not of its kind.
        """
        if cls is None:
            return lambda decorated: self.register(type, decorated)
        self._set(type, cls)
        return cls

    def _set(self, type: RecordType, cls: type[Record]) -> None:
        base = _BASES.get(type)
        if base is None:
            raise RecordTypeError(f"record type {type!r} takes no class; ENTRY, STATE and SNAPSHOT do")
        if not isinstance(cls, _type) or base not in cls.__mro__:
            raise RecordTypeError(f"{cls!r} is not a subclass of {base.__name__}, which {type!r} records need")
        if missing := sorted(cls.__abstractmethods__):
            raise RecordTypeError(f"{cls.__name__} is abstract; it lacks {', '.join(missing)}")
        self._classes[RecordType(type)] = cls

    @property
    def entry(self) -> type[EntryT_co]:
        """The class of entries."""
        return self._classes[RecordType.ENTRY]

    @property
    def state(self) -> type[StateT_co]:
        """The class of hard states."""
        return self._classes[RecordType.STATE]

    @property
    def snapshot(self) -> type[SnapshotT_co]:
        """The class of snapshot markers."""
        return self._classes[RecordType.SNAPSHOT]

    def copy(self) -> RecordRegistry[EntryT_co, StateT_co, SnapshotT_co]:
        """Return a registry with the same classes that can be changed on its own."""
        other: RecordRegistry[Any, Any, Any] = RecordRegistry()
        other._classes.update(self._classes)
        return other

    def __eq__(self, other: object) -> bool:
        return self._classes == other._classes if isinstance(other, RecordRegistry) else NotImplemented

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # it can change

    def __repr__(self) -> str:
        names = ", ".join(f"{type.name}={cls.__qualname__}" for type, cls in self._classes.items())
        return f"<RecordRegistry {names}>"


_type = type
_BASES: dict[RecordType, type] = {
    RecordType.ENTRY: LogEntry,
    RecordType.STATE: HardState,
    RecordType.SNAPSHOT: Snapshot,
}

DEFAULT_REGISTRY = RecordRegistry()


@overload
def register_record(type: RecordType, cls: type[_R]) -> type[_R]: ...


@overload
def register_record(type: RecordType) -> Callable[[type[_R]], type[_R]]: ...


def register_record(type: RecordType, cls: type[_R] | None = None) -> type[_R] | Callable[[type[_R]], type[_R]]:
    """Register a class for the whole process: for every log without a registry; see ``RecordRegistry.register``."""
    return DEFAULT_REGISTRY.register(type) if cls is None else DEFAULT_REGISTRY.register(type, cls)
