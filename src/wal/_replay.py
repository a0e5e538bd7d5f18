# SPDX-License-Identifier: Apache-2.0
"""
The one walk over records: what metadata, states, snapshots and overwriting entries mean.

Reading, verifying and repairing all go through here, so they agree.

* Every segment begins with the same metadata.
* The last state counts. A cut repeats it at the head of the new segment.
* An entry with index i takes the place of every earlier entry from i on (a Raft leader may overrule what was
  not committed). It follows the entry or the snapshot marker before it without a gap.
* A read that starts at a snapshot returns the entries behind it, and must meet its marker on the way. Entries
  up to the snapshot still take the place of later ones, so they are walked all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import compress, repeat
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from ._build import COMPILED
from ._decoder import Decoder, Frame, Position, Run
from ._entry_index import EntryIndex
from ._errors import (
    CorruptionError,
    IndexGapError,
    MetadataConflictError,
    RecordDecodeError,
    SnapshotNotFoundError,
    TornWriteError,
    WALNotFoundError,
)
from ._files import FileSystem
from ._frame import RecordType
from ._live import LiveDecoder
from ._names import SegmentName
from ._records import (
    DEFAULT_REGISTRY,
    Entry,
    EntryT_co,
    Record,
    RecordRegistry,
    SnapshotT_co,
    StateT_co,
    parametrized,
)
from ._segments import segments_from

if COMPILED:
    from ._walk_compiled import unmarshal_entries
else:
    from ._walk import unmarshal_entries

__all__ = ["LogContents", "LogRecord", "RecordWalk", "Replay", "beside_a_purge", "unmarshal"]

_CRC, _ENTRY, _METADATA = RecordType.CRC.value, RecordType.ENTRY.value, RecordType.METADATA.value
_SNAPSHOT, _STATE = RecordType.SNAPSHOT.value, RecordType.STATE.value
_IS_ENTRY = bytes(type == _ENTRY for type in range(256))

_new_tuple = tuple.__new__


@parametrized
class LogRecord(NamedTuple, Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    One record of a log, where it stands.

    Attributes:
        type: METADATA, ENTRY, STATE or SNAPSHOT.
        value: The metadata as bytes, or an object of the registered class.
        path: The segment.
        offset: Where the record's frame begins in it, in bytes.
    """

    type: RecordType
    value: bytes | EntryT_co | StateT_co | SnapshotT_co
    path: Path
    offset: int


@parametrized
class LogContents(NamedTuple, Generic[EntryT_co, StateT_co]):
    """
    What a log holds.

    Attributes:
        metadata: The bytes given to ``WAL.create``.
        state: The last hard state; the registered class's ``empty()`` if none was saved.
        entries: The entries behind the snapshot at which reading started, one after the other.
        tail: The torn write at which the log ends, or ``None``.
    """

    metadata: bytes
    state: StateT_co
    entries: list[EntryT_co]
    tail: TornWriteError | None


class RecordWalk(Generic[EntryT_co, StateT_co, SnapshotT_co]):
    """
    Walks the records of whole saves in their order, wherever they come from; iterate over it, or call ``skim()`` or
    ``contents()``.

    Args:
        path: The log's name, for messages.
        decoder: What gives the records: iterated over by each walk.
        start: Leave out entries up to this one, which is 0 or has a snapshot marker; ``None``: leave out nothing.
        registry: The record classes; ``None``: the process-wide registry.
        last_entry: The index of the last entry before the records.
        marker: Whether the start must have a marker.
        noting: Note in ``index`` where each entry stands.

    After the walk, the attributes say what it met.
    """

    def __init__(
        self,
        path: Path,
        decoder: Iterable[tuple[Path, Run]],
        start: int | None,
        registry: RecordRegistry[EntryT_co, StateT_co, SnapshotT_co] | None,
        *,
        last_entry: int,
        marker: bool = True,
        noting: bool = False,
    ) -> None:
        classes: RecordRegistry[Any, Any, Any] = registry or DEFAULT_REGISTRY
        self.decoder: Iterable[tuple[Path, Run]] = decoder
        self.start = start
        self.metadata: bytes | None = None
        self.state: StateT_co = classes.state.empty()
        self.state_data: bytes | None = None
        self.records: int = 0
        self.entries: int = 0
        self.last_entry: int = last_entry
        self._last_at_cut = max(last_entry, start or 0)
        self.last_marker: int = 0
        self.path = path
        self.entry_class: type[EntryT_co] = classes.entry
        self._state, self._snapshot = classes.state, classes.snapshot
        self._found = start is None or not marker
        self.index: EntryIndex | None = EntryIndex(self.last_entry + 1) if noting else None

    @property
    def last_index(self) -> int:
        """The greater of the last entry's index and the greatest marker's."""
        return max(self.last_entry, self.last_marker)

    @property
    def tail(self) -> TornWriteError | None:
        """The torn write at which the log ends."""
        return None

    def __iter__(self) -> Iterator[LogRecord[EntryT_co, StateT_co, SnapshotT_co]]:
        """
        Yield every record but CRCs, in the order of writing.

        Entries up to the start are left out, unless they take the place of entries that were yielded.
        """
        start = self.start or 0
        for path, run in self._runs():
            entries = self._next_entries(run, path) if self.last_entry >= start else None
            if entries is None:
                for type, value, offset in self._one_by_one(run, path):
                    yield LogRecord(type, value, path, offset)
            elif len(entries) == len(run):
                columns = zip(repeat(RecordType.ENTRY), entries, repeat(path), run.offsets(), strict=False)
                yield from map(_new_tuple, repeat(LogRecord), columns)
            else:
                following = iter(entries)
                for frame in run:
                    number, _, offset = frame
                    if number == _ENTRY:
                        yield LogRecord(RecordType.ENTRY, next(following), path, offset)
                    elif number != _CRC:
                        yield LogRecord(*self._other(frame, path), path, offset)

    def skim(self) -> Iterator[LogRecord[EntryT_co, StateT_co, SnapshotT_co]]:
        """Yield every record that is neither a CRC nor an entry. Entries are looked at all the same."""
        for path, run in self._runs():
            if self._next_entries(run, path) is not None:
                for _, frame in run.others():
                    yield LogRecord(*self._other(frame, path), path, frame[2])
            else:
                for type, value, offset in self._one_by_one(run, path):
                    if type is not RecordType.ENTRY:
                        yield LogRecord(type, value, path, offset)

    def _runs(self) -> Iterator[tuple[Path, Run]]:
        for path, run in self.decoder:
            self.records += len(run)
            for part in run.parts():
                yield path, part
        if not self._found:
            raise SnapshotNotFoundError(
                self.start or 0,
                f"{self.path} has no marker of snapshot {self.start}; valid_snapshots() lists those it has",
            )

    def _next_entries(self, run: Run, path: Path) -> list[Any] | None:
        """Return a run's entries if they are default ones, each with the next index; ``None``: look one by one."""
        # Such entries follow each other and take nobody's place, whatever records stand between them.
        if self.entry_class is not Entry:
            return None
        values = run.values
        if (count := run.types.count(_ENTRY)) < len(run):
            values = list(compress(values, run.types.translate(_IS_ENTRY)))
        entries = unmarshal_entries(values, self.last_entry + 1) if count else []
        if entries is not None:
            if self.index is not None:
                self.index.note(path, run, range(self.last_entry + 1, self.last_entry + 1 + count))
            self.last_entry += count
            self.entries += count
        return entries

    def _one_by_one(self, run: Run, path: Path) -> Iterator[tuple[RecordType, Any, int]]:
        """Yield type, value and offset of each record."""
        start = self.start or 0
        make = self.entry_class.unmarshal
        indexes: list[int] | None = None if self.index is None else []
        for frame in run:
            type, data, offset = frame
            if type == _ENTRY:
                before = self.last_entry
                try:
                    entry = make(data)
                except Exception as error:
                    raise _refused(self.entry_class, data, path, offset, error) from error
                index = entry.index
                self._follow(index, path, offset)
                if indexes is not None:
                    indexes.append(index)
                if index > start or before > start:
                    yield RecordType.ENTRY, entry, offset
            elif type != _CRC:
                yield *self._other(frame, path), offset
        if self.index is not None and indexes is not None:
            self.index.note(path, run, indexes)

    def _follow(self, index: int, path: Path, offset: int) -> None:
        if not 0 < index <= self.last_entry + 1 and not 0 < index <= max(self.last_marker, self._last_at_cut) + 1:
            raise IndexGapError(
                path, offset, f"entry {index} follows index {self.last_index}: what was between them is missing"
            )
        self.last_entry = index
        self.entries += 1

    def _other(self, frame: Frame, path: Path) -> tuple[RecordType, Any]:
        """Take notice of a record that is not an entry; return its type and value."""
        type, data, offset = frame
        if type == _METADATA:
            if self.metadata not in (None, data):
                raise MetadataConflictError(
                    path, offset, f"metadata {data[:40]!r} differs from {self.metadata!r:.46} in the segments before"
                )
            self.metadata = data
            return RecordType.METADATA, data
        if type == _STATE:
            self.state, self.state_data = unmarshal(self._state, data, path, offset), data
            return RecordType.STATE, self.state
        snapshot = unmarshal(self._snapshot, data, path, offset)
        self.last_marker = max(self.last_marker, snapshot.index)
        self._found = self._found or snapshot.index == self.start
        return RecordType.SNAPSHOT, snapshot

    def contents(self) -> LogContents[EntryT_co, StateT_co]:
        """
        Walk the whole log and return what it holds.

        Raises:
            CorruptionError: with the entries before the damage as its ``entries``.
        """
        start = self.start or 0
        entries: list[EntryT_co] = []
        try:
            for path, run in self._runs():
                following = self._next_entries(run, path) if self.last_entry == start + len(entries) else None
                if following is None:
                    self._place(run, path, entries)
                    continue
                before = 0
                try:
                    for place, frame in run.others():
                        before = place
                        self._other(frame, path)
                except CorruptionError:
                    del following[run.types.count(_ENTRY, 0, before) :]
                    raise
                finally:
                    entries += following
        except CorruptionError as error:
            error.entries = entries
            raise
        return LogContents(self.metadata or b"", self.state, entries, self.tail)

    def _place(self, run: Run, path: Path, entries: list[EntryT_co]) -> None:
        """Put each of a run's entries in its place."""
        start = self.start or 0
        for type, entry, offset in self._one_by_one(run, path):
            if type is RecordType.ENTRY:
                index = entry.index
                place = max(index - start - 1, 0)
                if place > len(entries):
                    raise IndexGapError(
                        path,
                        offset,
                        f"entry {index} follows a snapshot that covers entries the log does not have;"
                        " read it from that snapshot (valid_snapshots() lists them)",
                    )
                del entries[place:]
                if index > start:
                    entries.append(entry)


class Replay(RecordWalk[EntryT_co, StateT_co, SnapshotT_co]):
    """
    Walks the records of a log in files once; see ``RecordWalk``.

    Args:
        fs: The file system.
        path: The log's directory.
        index: Start behind this entry, which is 0 or has a snapshot marker; ``None``: the oldest segment present.
        registry: The record classes; ``None``: the process-wide registry.
        live: Walk as far as the log goes now. Each further walk then goes on where the one before has ended.
        marker: Whether the start must have a marker.
        noting: Note in ``index`` where each entry stands.
    """

    decoder: Decoder | LiveDecoder

    def __init__(
        self,
        fs: FileSystem,
        path: Path,
        index: int | None,
        registry: RecordRegistry[EntryT_co, StateT_co, SnapshotT_co] | None,
        *,
        live: bool = False,
        marker: bool = True,
        noting: bool = False,
    ) -> None:
        # The marker of a snapshot stands in front of what is behind it, maybe in the segment before.
        self.names: list[SegmentName] = segments_from(fs, path, index if marker or index is None else index + 1)
        super().__init__(
            path,
            (LiveDecoder if live else Decoder)(fs, path, self.names),
            index,
            registry,
            # The first index in a segment's name is the one after the log's last index when it was cut, which was that
            # of an entry or of a marker. etcd, reopened at a marker ahead of its entries, does not count that marker.
            last_entry=max(self.names[0].first_index - 1, 0),
            marker=marker,
            noting=noting,
        )

    def go_live(self) -> LiveDecoder:
        """Let further walks go on where the log has ended, with what has been written since."""
        if isinstance(self.decoder, Decoder):
            self.decoder = LiveDecoder.behind(self.decoder)
        return self.decoder

    @property
    def tail(self) -> TornWriteError | None:
        """The torn write at which the log ends."""
        return self.decoder.tail

    @property
    def bytes(self) -> int:
        """How many bytes of the segments hold whole saves."""
        return self.decoder.bytes

    @property
    def end(self) -> Position:
        """The place in the last segment where the next save belongs."""
        return self.decoder.position


_R = TypeVar("_R", bound=Record)


def unmarshal(cls: type[_R], data: bytes, path: Path, offset: int) -> _R:
    try:
        return cls.unmarshal(data)
    except Exception as error:
        raise _refused(cls, data, path, offset, error) from error


def _refused(cls: type[Record], data: bytes, path: Path, offset: int, error: Exception) -> RecordDecodeError:
    return RecordDecodeError(path, offset, f"{cls.__qualname__}.unmarshal refused {len(data):,} intact bytes: {error}")


_T = TypeVar("_T")


def beside_a_purge(read: Callable[[], _T]) -> _T:
    """Read again, without the segments that were purged between the listing and their turn, however often that is."""
    missing: Path | None = None
    while True:
        try:
            return read()
        except WALNotFoundError as error:
            if error.path == missing:  # a purge takes each segment but once
                raise
            missing = error.path
