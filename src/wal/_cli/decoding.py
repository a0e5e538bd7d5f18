# SPDX-License-Identifier: Apache-2.0
"""
From bytes to records, past whatever is wrong with some of them.

A reader of the library stops at the first thing that is wrong. Here it is given to ``on_damage``, which raises it, or
has the reading go on: without the record if its class refuses it, and with it if it is only not in its place. The
rules are the reader's: all segments begin with the same metadata, and an entry follows the entry or the marker before
it without a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from wal import (
    CorruptionError,
    IndexGapError,
    LogRecord,
    MetadataConflictError,
    RawRecord,
    RecordDecodeError,
    RecordRegistry,
    RecordType,
)

__all__ = ["Decoding", "OnDamage"]

OnDamage = Callable[[CorruptionError | RecordDecodeError], None]


class Decoding:
    """
    Iterate over it to get the records, each as it stands in the log and as an object.

    Args:
        records: The records as they stand in the log.
        registry: Their classes.
        on_damage: Takes what is wrong.
    """

    def __init__(self, records: Iterable[RawRecord], registry: RecordRegistry, on_damage: OnDamage) -> None:
        self._records = records
        self._classes: dict[RecordType, Any] = {
            RecordType.ENTRY: registry.entry,
            RecordType.STATE: registry.state,
            RecordType.SNAPSHOT: registry.snapshot,
        }
        self._on_damage = on_damage
        self._metadata: bytes | None = None
        self._last_entry = 0
        self._last_other = 0
        """The greatest index of a marker, or at the beginning of the first segment that is read."""
        self._gap = False

    @property
    def last_index(self) -> int:
        """The log's last index so far: that of an entry or of a marker."""
        return max(self._last_entry, self._last_other)

    def gap(self) -> None:
        """Take notice that something is missing from here on: the next entry may have any index."""
        self._gap = True

    def __iter__(self) -> Iterator[tuple[RawRecord, LogRecord]]:
        """Yield what is right; see the class."""
        for number, raw in enumerate(self._records):
            if number == 0:
                self._last_entry = self._last_other = max(int(raw.path.stem.partition("-")[2], 16) - 1, 0)
            try:
                value = self._value(raw)
            except RecordDecodeError as error:
                self._on_damage(error)
                self._gap = True
                continue
            if (damage := self._check(raw, value)) is not None:
                self._on_damage(damage)
            yield raw, LogRecord(raw.type, value, raw.path, raw.offset)

    def _value(self, raw: RawRecord) -> Any:
        if raw.type is RecordType.METADATA:
            return raw.data
        cls = self._classes[raw.type]
        try:
            return cls.unmarshal(raw.data)
        except Exception as error:
            reason = f"{cls.__qualname__}.unmarshal refused {len(raw.data):,} intact bytes: {error}"
            raise RecordDecodeError(raw.path, raw.offset, reason) from error

    def _check(self, raw: RawRecord, value: Any) -> CorruptionError | None:
        """Say what is wrong with an intact record in its place."""
        if raw.type is RecordType.METADATA:
            before, self._metadata = self._metadata, value
            if before not in (None, value):
                reason = f"metadata {value[:40]!r} differs from {before!r:.46} in the segments before"
                return MetadataConflictError(raw.path, raw.offset, reason)
        elif raw.type is RecordType.SNAPSHOT:
            self._last_other = max(self._last_other, value.index)
        elif raw.type is RecordType.ENTRY:
            index, last, gap = value.index, self.last_index, self._gap
            follows = 0 < index <= self._last_entry + 1 or 0 < index <= self._last_other + 1
            self._last_entry, self._gap = index, False
            if not follows and not gap:
                reason = f"entry {index} follows index {last}: what was between them is missing"
                return IndexGapError(raw.path, raw.offset, reason)
        return None
