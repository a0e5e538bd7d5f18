# SPDX-License-Identifier: Apache-2.0
"""
What callers give, checked and turned into bytes before anything is written.

Whatever is wrong with an argument, or goes wrong in an application's ``marshal``, is raised here, so that the log
has not been touched and stays usable.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from itertools import islice
from typing import Any

from ._build import COMPILED
from ._errors import EntryTooLargeError, IndexOrderError, RecordTypeError
from ._frame import Payload, RecordType
from ._records import DEFAULT_REGISTRY, Entry, HardState, LogEntry, Record, RecordRegistry, Snapshot

if COMPILED:
    from ._codec_compiled import marshal_entries
else:
    from ._codec import marshal_entries

__all__ = ["Marshaller"]

_ENTRY, _SNAPSHOT = RecordType.ENTRY.value, RecordType.SNAPSHOT.value
_MAX_INDEX = 2**64 - 2  # the next segment's name must hold the index after it


class Marshaller:
    """
    Marshals the records of one log.

    Args:
        registry: The classes that records must be of, taken over as they are now; ``None``: the process-wide ones.
        max_record_bytes: The longest marshalled record that is taken.
    """

    registry: RecordRegistry[Any, Any, Any]

    def __init__(self, registry: RecordRegistry | None, max_record_bytes: int) -> None:
        if operator.index(max_record_bytes) < 1:
            raise ValueError(f"max_record_bytes must be at least 1, not {max_record_bytes}")
        self.registry = (registry or DEFAULT_REGISTRY).copy()
        self._max_record_bytes = max_record_bytes
        self._canonical = self.registry.entry is Entry

    def metadata(self, metadata: object) -> bytes:
        """Return the log's metadata as bytes."""
        return self._bytes(metadata, "metadata")

    def entries(self, entries: Iterable[LogEntry]) -> tuple[list[Payload], range]:
        """Return the payloads of entries with consecutive indexes, and those indexes."""
        records: list[Payload] = []
        rest = iter(entries)
        expected: int | None = None
        while True:
            if self._canonical:
                odd, expected = marshal_entries(rest, records, expected, self._max_record_bytes)
            else:
                odd = list(islice(rest, 1))
            if not odd:
                stop = expected or 0
                return records, range(stop - len(records), stop)
            (entry,) = odd
            index = _index(entry, self.registry.entry)
            if expected is not None and index != expected:
                raise IndexOrderError(
                    index, expected, f"entry {index} follows entry {expected - 1}; indexes of a save are consecutive"
                )
            if not 0 <= index <= _MAX_INDEX:
                raise IndexOrderError(index, _MAX_INDEX, f"entry {index} must have an index from 1 to {_MAX_INDEX}")
            records.append((_ENTRY, self._marshal(entry)))
            expected = index + 1

    def state(self, state: HardState) -> tuple[Any, bytes]:
        """Return a copy of the state, which its owner cannot change, and its bytes."""
        _check_class(state, self.registry.state)
        data = self._marshal(state)
        return self.registry.state.unmarshal(data), data

    def snapshot(self, snapshot: Snapshot) -> tuple[Payload, int]:
        """Return the payload of a snapshot marker, and its index."""
        index = _index(snapshot, self.registry.snapshot)
        if not 0 <= index <= _MAX_INDEX:
            raise IndexOrderError(index, _MAX_INDEX, f"snapshot {index} must have an index from 0 to {_MAX_INDEX}")
        return (_SNAPSHOT, self._marshal(snapshot)), index

    def empty_snapshot(self) -> Payload:
        """Return the payload of the marker that every log begins with."""
        empty = self.registry.snapshot.empty()
        record, index = self.snapshot(empty)
        if index:
            raise RecordTypeError(f"{type(empty).__qualname__}.empty() has the index {index}, not 0")
        return record

    def _marshal(self, record: Record) -> bytes:
        return self._bytes(record.marshal(), f"what {type(record).__qualname__}.marshal() returns")

    def _bytes(self, data: object, what: str) -> bytes:
        if not isinstance(data, bytes):
            if not isinstance(data, (bytearray, memoryview)):
                raise RecordTypeError(f"{what} must be bytes, not {type(data).__qualname__}")
            data = bytes(data)
        if len(data) > self._max_record_bytes:
            raise EntryTooLargeError(len(data), self._max_record_bytes)
        return data


def _check_class(record: Record, cls: type[Record]) -> None:
    if type(record) is not cls and not isinstance(record, cls):  # asking an abstract class takes long
        raise RecordTypeError(
            f"{record!r:.80} is a {type(record).__qualname__}; this log's registry has {cls.__qualname__}"
        )


def _index(record: LogEntry | Snapshot, cls: type[Record]) -> int:
    """Return the index of a record of the right class: before it is marshalled, which may not take any."""
    _check_class(record, cls)
    index = record.index
    if type(index) is not int:
        raise RecordTypeError(f"the index of {record!r:.80} must be an int, not {type(index).__qualname__}")
    return index
