"""
Segments in memory: built save by save, walked as the library walks files.

A segment is given as groups of saves. A group is what lies between two syncs: its first save says "synced before",
the others do not. The head is a group of its own. A save is a list of payloads, a payload is a type and data.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from wal._codec import encode_group
from wal._crc32c import extend
from wal._decoder import Frame, Position, SegmentDecoder
from wal._frame import HEADER, RecordType, encode_frame, frame_bytes
from wal._marks import Damage, Verdict
from wal._names import SegmentName

METADATA, ENTRY, STATE, CRC, SNAPSHOT = (type.value for type in RecordType)

Payload = tuple[int, bytes]
Save = Sequence[Payload]
Group = Sequence[Save]
Fill = Callable[[int], bytes]
"""What stands where a write was lost: so many bytes."""

FIRST_HEAD: Save = ((CRC, b""), (METADATA, b"node"), (SNAPSHOT, b""))
LATER_HEAD: Save = ((CRC, b""), (METADATA, b"node"), (STATE, b"\x08\x01"))
FIRST_HEAD_TYPES = (CRC, METADATA, SNAPSHOT)
LATER_HEAD_TYPES = (CRC, METADATA)

SECTOR = 512


def zeros(count: int) -> bytes:
    return bytes(count)


def garbage(count: int) -> bytes:
    return b"\xa5" * count


def ones(count: int) -> bytes:
    return b"\xff" * count


def noise(count: int) -> bytes:
    return random.Random(count).randbytes(count)


class Segment(NamedTuple):
    """
    A built segment, without the reserved space behind its end.

    ``saves`` are the frames of each save, the head first; ``ends`` is where each ends; ``groups`` is where each
    group begins, the head first; ``crc`` is the chain at the end.
    """

    data: bytes
    saves: list[list[Frame]]
    ends: list[int]
    groups: list[int]
    crc: int

    @property
    def frames(self) -> list[Frame]:
        return [frame for save in self.saves for frame in save]

    @property
    def frame_lengths(self) -> list[tuple[int, int]]:
        """Where each frame begins, and its length with padding."""
        return [(offset, frame_bytes(HEADER.unpack_from(self.data, offset)[0])) for _, _, offset in self.frames]

    @property
    def paddings(self) -> set[int]:
        """The offsets of all padding bytes. Damage to them changes nothing."""
        return {
            at
            for offset, length in self.frame_lengths
            for at in range(offset + length - (self.data[offset + 7] & 7), offset + length)
        }

    def saves_before(self, offset: int) -> int:
        """How many saves, the head being one, lie wholly before ``offset``."""
        return sum(end <= offset for end in self.ends)

    def whole_saves(self, frames: list[Frame]) -> int:
        """How many saves these frames are; it is an error if they are anything else than the first so many."""
        count = [0, *accumulate(map(len, self.saves))].index(len(frames))
        assert frames == self.frames[: len(frames)]
        return count


def segment_of(
    groups: Iterable[Group], *, head: Save = FIRST_HEAD, crc: int = 0, save_marks: bool = True, end: int = 0
) -> Segment:
    """Build the segment with this head and these groups, filled up with zeros to at least ``end`` bytes."""
    data = b""
    saves: list[list[Frame]] = []
    ends: list[int] = []
    starts: list[int] = []
    for group in ([head], *groups):
        starts.append(len(data))
        for number, save in enumerate(group):
            frames, crc = encode_group([save], crc, synced=number == 0, save_marks=save_marks)
            saves.append(list(_frames(save, frames, len(data))))
            data += frames
            ends.append(len(data))
    return Segment(data.ljust(end, b"\0"), saves, ends, starts, crc)


def _frames(save: Save, encoded: bytes, base: int) -> Iterator[Frame]:
    at = 0
    for type, data in save:
        yield type, data, base + at
        at += frame_bytes(HEADER.unpack_from(encoded, at)[0])


def chained(records: Iterable[tuple[int, bytes, int]], crc: int) -> bytes:
    """Return frames with the right chain behind ``crc`` and whatever mark codes are given: type, data, code."""
    frames = []
    for type, data, code in records:
        crc = extend(crc, data)
        frames.append(encode_frame(type, crc, data, code))
    return b"".join(frames)


def entries(*sizes: int, seed: int = 0) -> Save:
    """Return a save of entries with random data of these sizes."""
    numbers = random.Random(f"{seed} {sizes}")
    return [(ENTRY, numbers.randbytes(size)) for size in sizes]


class Bytes:
    """A file in memory. ``longest`` is the greatest length that was asked for, ``reads`` how often."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.longest = 0
        self.reads = 0

    def read(self, offset: int, length: int) -> bytes:
        self.longest = max(self.longest, length)
        self.reads += 1
        return self.data[offset : offset + length]


class Outcome(NamedTuple):
    """What a walk gave, and what its end means."""

    frames: list[Frame]
    position: Position
    verdict: Verdict
    reason: str
    damage: Damage
    runs: list[list[Frame]]


START: Position = Position(0, 0, None)


def walk(
    data: bytes | Bytes,
    *,
    start: Position = START,
    head: Sequence[int] = FIRST_HEAD_TYPES,
    last_segment: bool = True,
) -> Outcome:
    """Walk a segment to its end and judge that."""
    file = data if isinstance(data, Bytes) else Bytes(data)
    segment = SegmentDecoder(file.read, len(file.data), start, head)
    runs = [list(run) for run in segment.saves()]
    verdict, reason = segment.judge(last_segment=last_segment)
    assert segment.damage is not None
    return Outcome([f for run in runs for f in run], segment.position, verdict, reason, segment.damage, runs)


def flipped(data: bytes, bit: int) -> bytes:
    """Turn over one bit, counted from the start, the lowest of a byte first."""
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def replaced(data: bytes, start: int, stop: int, fill: Fill = zeros) -> bytes:
    """Put something else in the place of ``data[start:stop]``."""
    return data[:start] + fill(stop - start) + data[stop:]


def write_log(path: Path, *segments: bytes, sequence: int = 0) -> list[SegmentName]:
    """Write segments to a directory, numbered from ``sequence`` on; return their names."""
    path.mkdir(exist_ok=True)
    names = [SegmentName(number, number * 1000) for number in range(sequence, sequence + len(segments))]
    for name, data in zip(names, segments, strict=True):
        (path / str(name)).write_bytes(data)
    return names
