# SPDX-License-Identifier: Apache-2.0
"""
Batches: groups of saves, each as one value.

::

    batch   ┌─────────────────────────────────────────────────────────────────────────────────────┐
            │ a CRC record: the chain behind the batch before                                     │
            │ in the first batch also the metadata, and the marker of the empty snapshot          │
            ├─────────────────────────────────────────────────────────────────────────────────────┤
            │ the frames of each save, as in a segment                                            │
            ├──────────────────┬───────────────┬──────────────────────────────────────────────────┤
            │ number: 8 bytes  │ check: 4      │  little endian; `check` is the CRC-32C of all     │
            └──────────────────┴───────────────┘  the bytes before it                              │

The frames' own CRCs cover what was saved, and are chained over all batches. The check covers every byte of this one.
So a batch that is damaged, cut, under another's key, missing or taken out of another log is told.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from wal._build import COMPILED
from wal._crc32c import extend
from wal._decoder import Position, Run, SegmentDecoder, error_of
from wal._errors import CorruptionError, CRCMismatchError
from wal._frame import ALIGNMENT, PREFIX_BYTES, Payload, RecordType

from .entities import path_of
from .keys import Keys

if COMPILED:
    from wal._codec_compiled import encode_group
else:
    from wal._codec import encode_group

__all__ = ["BATCH_OVERHEAD", "RECORD_OVERHEAD", "BatchSource", "encode_batch"]

_CRC, _METADATA, _SNAPSHOT = RecordType.CRC.value, RecordType.METADATA.value, RecordType.SNAPSHOT.value
_NUMBER, _CHECK = struct.Struct("<Q"), struct.Struct("<I")
_FOOTER_BYTES = _NUMBER.size + _CHECK.size

RECORD_OVERHEAD = PREFIX_BYTES + ALIGNMENT
"""A record takes no more bytes than this besides its data."""

BATCH_OVERHEAD = RECORD_OVERHEAD + _FOOTER_BYTES
"""And a batch no more than this besides its records."""


def encode_batch(
    number: int, crc: int, saves: Sequence[Sequence[Payload]], head: Sequence[Payload] = ()
) -> tuple[bytes, int]:
    """
    Return the value of a batch, and the CRC chain behind it.

    Args:
        number: The batch's.
        crc: The chain behind the batch before.
        saves: Each of at least one record.
        head: What the first batch begins with, besides its CRC record.
    """
    frames, end = encode_group([[(_CRC, b""), *head], *saves], crc, synced=True, save_marks=True)
    checked = frames + _NUMBER.pack(number)
    return checked + _CHECK.pack(extend(0, checked)), end


class BatchSource:
    """
    Gives the records of batches to a walk, one batch after the other.

    ``feed`` it with batches in their order; each iteration yields the records of those that came since. Everything but
    the meaning of the records is verified.

    Args:
        keys: The storage's keys.
        number: The number of the batch before the first that will come.
        crc: The CRC chain behind it.
    """

    def __init__(self, keys: Keys, number: int, crc: int) -> None:
        self.number = number
        self.crc = crc
        self._keys = keys
        self._fed: deque[bytes] = deque()
        self._next = number

    def feed(self, key: bytes, value: bytes) -> None:
        """
        Take the next batch.

        Raises:
            CorruptionError: It is damaged, or another one.
        """
        path = path_of(key)
        try:
            number = self._keys.number_of(key)
        except ValueError as error:
            raise CorruptionError(path, 0, f"this is not the key of a batch: {error}") from None
        if number != self._next + 1:
            raise CorruptionError(path, 0, f"batch {self._next + 1} is missing; this is the one that follows")
        _check(value, number, path)
        self._fed.append(value)
        self._next = number

    def __iter__(self) -> Iterator[tuple[Path, Run]]:
        while self._fed:
            value = self._fed.popleft()
            yield from self._records(value)

    def _records(self, value: bytes) -> Iterator[tuple[Path, Run]]:
        path = path_of(self._keys.batch(self.number + 1))
        size = len(value) - _FOOTER_BYTES
        head = [_CRC] if self.number else [_CRC, _METADATA, _SNAPSHOT]

        def read(offset: int, length: int) -> bytes:
            return value[offset : min(offset + length, size)]

        batch = SegmentDecoder(read, size, Position(0, self.crc, None), head)
        runs = list(batch.saves())  # a batch is all or nothing, so what is wrong with it is told first
        error = error_of(batch, path, last_segment=False)
        if error is not None:
            raise error
        if batch.position.offset != size or batch.position.crc is None:
            raise CorruptionError(path, batch.position.offset, "the batch goes on behind its last save")
        self.number, self.crc = self.number + 1, batch.position.crc
        for run in runs:
            yield path, run


def _check(value: bytes, number: int, path: Path) -> None:
    """Compare a batch with its footer."""
    if len(value) < _FOOTER_BYTES:
        raise CorruptionError(path, 0, f"a batch has more than {len(value)} bytes")
    actual = extend(0, value[: -_CHECK.size])
    (found,) = _CHECK.unpack_from(value, len(value) - _CHECK.size)
    if actual != found:
        raise CRCMismatchError(path, 0, "the checksum of the batch is wrong", expected=actual, found=found)
    (own,) = _NUMBER.unpack_from(value, len(value) - _FOOTER_BYTES)
    if own != number:
        raise CorruptionError(path, 0, f"this is batch {own}, under another's key")
