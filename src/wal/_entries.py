# SPDX-License-Identifier: Apache-2.0
"""
Entries by index, read from disk one by one or in ranges.

``Replay`` notes where they stand while it walks the log; here they are fetched, and checked as a walk would. No file
is kept open in between. What has been written since the last call is walked first, so that no answer is older than
the call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Generic

from ._build import COMPILED
from ._crc32c import extend
from ._entry_index import EntryIndex
from ._errors import CompactedError, CorruptionError, CRCMismatchError, UnavailableError, WALNotFoundError
from ._files import READ, File, FileSystem
from ._frame import ALIGNMENT, HEADER, MAX_RECORD_BYTES, PREFIX_BYTES, RecordType, frame_bytes, parse_record
from ._marks import mark_of
from ._records import Entry, EntryT, EntryT_co
from ._replay import Replay, beside_a_purge, unmarshal
from ._storage import limited
from ._walk import LANES, Run

if COMPILED:
    from ._walk_compiled import unmarshal_entries, walk
else:
    from ._walk import unmarshal_entries, walk

__all__ = ["EntryReader", "Limit"]

LEAST_BYTES, MOST_BYTES = 1 << 10, 1 << 18
"""How much is read at once, but for longer entries."""

_ENTRY = bytes((RecordType.ENTRY,))

Limit = tuple[int, int]
"""The sequence number of a segment, and an offset in it."""


class EntryReader(Generic[EntryT_co]):
    """
    Reads entries of a log from disk. Any thread may use it.

    Args:
        fs: The file system.
        begin: Begins a live walk over the log that notes where entries stand.
    """

    def __init__(self, fs: FileSystem, begin: Callable[[], Replay[EntryT_co, Any, Any]]) -> None:
        self._fs = fs
        self._begin = begin
        self._replay: Replay[EntryT_co, Any, Any] | None = None
        self._lock = threading.Lock()

    def go_on_behind(self, replay: Replay[EntryT_co, Any, Any]) -> None:
        """Take over a walk that has come to the log's end."""
        replay.go_live()
        with self._lock:
            self._replay = replay

    @property
    def first_index(self) -> int:
        """The index of the first entry that is there, or would be."""
        with self._lock:
            replay = self._caught_up(None)
            index = _index_of(replay)
            names = set(self._fs.listdir(replay.path))
            while index.segments and index.segments[0].name not in names:
                index.forget(index.segments[0])
            return index.first

    @property
    def last_index(self) -> int:
        """The index of the last entry; one less than ``first_index`` if there is none."""
        with self._lock:
            return _index_of(self._caught_up(None)).last

    def entries(self, lo: int, hi: int, max_size: int | None = None, limit: Limit | None = None) -> list[EntryT_co]:
        """Return the entries from ``lo`` up to, and without, ``hi``; see ``EntrySource``."""
        if lo > hi:
            raise ValueError(f"entries from {lo} to {hi} are none")
        with self._lock:
            replay = self._caught_up(limit)
            index = _index_of(replay)
            while True:
                if lo < index.first:
                    raise CompactedError(lo, f"entry {lo} is not there any more; the first one is {index.first}")
                if hi - 1 > index.last:
                    raise UnavailableError(hi - 1, f"entry {hi - 1} is not there; the last one is {index.last}")
                try:
                    return limited(self._fetch(index, lo, hi, replay.entry_class), max_size)
                except WALNotFoundError as error:
                    index.forget(error.path)

    def _caught_up(self, limit: Limit | None) -> Replay[EntryT_co, Any, Any]:
        """Walk what was written since the last time, up to a limit."""

        def catch_up() -> Replay[EntryT_co, Any, Any]:
            replay, self._replay = self._replay, None
            first_time = replay is None
            if replay is None:
                replay = self._begin()
            live = replay.go_live()
            if limit is not None and (live.limit is None or limit > live.limit):
                live.limit = limit  # another thread that has asked later may have been here already
            for _ in replay.skim():
                pass
            if first_time:
                live.check()  # or damage would look like the end
            self._replay = replay  # only one that has come to its end can go on
            return replay

        return beside_a_purge(catch_up)

    def _fetch(self, index: EntryIndex, lo: int, hi: int, cls: type[EntryT]) -> Iterator[EntryT]:
        while lo < hi:
            path, before = index.find(lo)
            here = path
            with self._open(path) as file:
                frames = _Frames(file, wanted=hi - lo)
                while lo < hi and here is path:
                    values: list[bytes] = []
                    size = 0
                    while lo + len(values) < hi and here is path and size < MOST_BYTES and len(values) < LANES:
                        values.append(frames.entry_behind(before))
                        size += len(values[-1])
                        if lo + len(values) < hi:
                            here, before = index.find(lo + len(values))
                    yield from _unmarshal(cls, values, lo, path, before)
                    lo += len(values)

    def _open(self, path: Path) -> File:
        try:
            return File(self._fs, path, READ)
        except FileNotFoundError:
            raise WALNotFoundError(path, "the segment was purged") from None


def _index_of(replay: Replay[Any, Any, Any]) -> EntryIndex:
    assert replay.index is not None, "the walk notes where entries stand"
    return replay.index


def _unmarshal(cls: type[EntryT], values: list[bytes], first: int, path: Path, near: int) -> Sequence[EntryT]:
    """Return the entries with these data, whose indexes are ``first`` and those that follow it."""
    if cls is Entry and len(values) > 1:
        entries: list[Any] | None = unmarshal_entries(values, first)
        if entries is not None:
            return entries
    found = [unmarshal(cls, value, path, near) for value in values]
    for index, entry in enumerate(found, first):
        if entry.index != index:
            raise CorruptionError(path, near, f"entry {entry.index} is in the place of entry {index}")
    return found


class _Frames:
    """The frames of one segment, of which so many entries are wanted."""

    def __init__(self, file: File, *, wanted: int) -> None:
        self._file = file
        self._size = file.size()
        self._walks = wanted > 1
        self._chunk_bytes = min(max(wanted * 128, LEAST_BYTES), MOST_BYTES) if self._walks else LEAST_BYTES
        self._begin = 0
        self._data = b""
        self._ready: dict[int, bytes] = {}

    def entry_behind(self, before: int) -> bytes:
        """Return the data of the entry behind the frame at an offset."""
        if before not in self._ready:
            self._read_behind(before)
        return self._ready[before]

    def _read_behind(self, before: int) -> None:
        header, at = self._cover(before)
        type, crc, _ = self._record(before, header, at)
        offset = before + frame_bytes(header)
        if self._walks:
            run = Run(offset)
            at = self._read(offset, min(self._chunk_bytes, self._size - offset))
            walk(self._data, at, crc, mark_of(type, header), run)
            if run.types[:1] == _ENTRY:
                self._ready = dict(zip(chain((before,), run.offsets()), run.values, strict=False))
                return
        header, at = self._cover(offset, whole=True)
        type, found, begin = self._record(offset, header, at)
        data = self._data[begin : at + ALIGNMENT + (header & MAX_RECORD_BYTES)]
        expected = extend(crc, data)
        if found != expected:
            raise CRCMismatchError(
                self._file.path, offset, "an entry that was whole before is damaged", expected=expected, found=found
            )
        if type != RecordType.ENTRY:
            raise self._damaged(offset)
        self._ready = {before: data}

    def _cover(self, offset: int, *, whole: bool = False) -> tuple[int, int]:
        """Return the header of the frame at an offset, and where in the chunk it begins."""
        at = self._read(offset, ALIGNMENT)
        (header,) = HEADER.unpack_from(self._data, at)
        length = frame_bytes(header)
        if not length:
            raise self._damaged(offset)
        return header, self._read(offset, length if whole or length < PREFIX_BYTES else PREFIX_BYTES)

    def _read(self, offset: int, length: int) -> int:
        """Make sure that so many bytes are in the chunk; return where they begin in it."""
        at = offset - self._begin
        if at < 0 or at + length > len(self._data):
            if offset + length > self._size:
                raise self._damaged(offset)
            self._data = self._file.read(offset, max(length, self._chunk_bytes))
            if len(self._data) < length:
                raise self._damaged(offset)
            self._begin, at = offset, 0
        return at

    def _record(self, offset: int, header: int, at: int) -> tuple[int, int, int]:
        record = parse_record(self._data, at + ALIGNMENT, at + ALIGNMENT + (header & MAX_RECORD_BYTES))
        if record is None:
            raise self._damaged(offset)
        return record

    def _damaged(self, offset: int) -> CorruptionError:
        return CorruptionError(self._file.path, offset, "a frame that was whole before is damaged")
