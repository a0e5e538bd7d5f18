"""
Mutations that know the formats.

A checksum is never right by chance. So what is mutated here is a log as a list of frames, or a snapshot as its
content, and mostly it gets its checksums back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from archive import FIRST, pack, unpack
from wal._crc32c import extend
from wal._frame import HEADER, RecordType, frame_bytes, parse_record
from wal._marks import CODES, marks_of_save
from wal._names import SegmentName
from wal._protobuf import varint

__all__ = ["Mutation", "of_bytes", "of_directory", "of_segment", "of_snapshots"]

MutateBytes = Callable[[bytes], bytes]
"""Changes some bytes without knowing what they are: the fuzzer's own mutations, or ``some_bytes``."""

Mutation = Callable[[bytes, random.Random, MutateBytes], bytes]

_CRC = RecordType.CRC.value
TYPES = [type.value for type in RecordType]
NUMBERS = [0, 1, 2, 3, 5, 127, 128, 2**32, 2**63, 2**64 - 2, 2**64 - 1]
ALL_CODES = sorted({code for codes in CODES.values() for code in codes.values()})


def some_bytes(choose: random.Random, data: bytes) -> bytes:
    """Change a few bytes in a way that damages or shifts what is behind them."""
    out = bytearray(data)
    for _ in range(choose.choice([1, 1, 2, 4])):
        at = choose.randrange(len(out) + 1)
        stop = min(len(out), at + choose.choice([1, 2, 8, 16, 64, 512]))
        match choose.randrange(8):
            case 0 if at < len(out):
                out[at] ^= 1 << choose.randrange(8)
            case 1 if at < len(out):
                out[at] = choose.choice([0, 1, 0x7F, 0x80, 0xFF, choose.randrange(256)])
            case 2:
                out[at:stop] = bytes(stop - at)
            case 3:
                del out[at:stop]
            case 4:
                out[at:at] = choose.randbytes(choose.choice([1, 2, 8, 20]))
            case 5:
                begin = choose.randrange(len(out) + 1)
                out[at:stop] = out[begin : begin + stop - at]
            case 6:
                out[at:at] = out[at:stop]
            case 7:
                del out[at:]
    return bytes(out)


def of_bytes(data: bytes, choose: random.Random, mutate_bytes: MutateBytes) -> bytes:
    """Bytes without a checksum."""
    return mutate_bytes(data)


# --------------------------------------------------------------------------------------------------------- logs


@dataclass
class Piece:
    """A frame, as far as it can be read; ``zeros`` says that fields of zero are written out, as etcd does."""

    type: int
    data: bytes
    code: int
    crc: int = 0
    zeros: bool = False

    def encode(self) -> bytes:
        record = bytes((8, self.type & 0x7F))
        if self.crc or self.zeros:
            record += b"\x10" + varint(self.crc)
        if self.data or (self.zeros and self.type != _CRC):
            record += b"\x1a" + varint(len(self.data)) + self.data
        padding = -len(record) % 8
        top = self.code << 3 | (0x80 | padding if padding else 0)
        return HEADER.pack(top << 56 | len(record)) + record + bytes(padding)


@dataclass
class Segment:
    """A segment: its frames, and what is behind the last that can be read."""

    pieces: list[Piece] = field(default_factory=list)
    rest: bytes = b""

    @classmethod
    def of(cls, data: bytes) -> Segment:
        pieces = []
        at = 0
        while len(data) - at >= HEADER.size:
            (header,) = HEADER.unpack_from(data, at)
            length = frame_bytes(header)
            if not 0 < length <= len(data) - at:
                break
            stop = at + HEADER.size + (header & 2**56 - 1)
            record = parse_record(data, at + HEADER.size, stop)
            if record is None:
                break
            type, crc, begin = record
            zeros = not crc or (begin == stop and data[stop - 2 : stop] == b"\x1a\0")
            zeros = zeros and data[at + 10 : at + 11] == b"\x10"
            pieces.append(Piece(type, data[begin:stop], header >> 59 & 15, crc, zeros))
            at += length
        return cls(pieces, data[at:])

    def encode(self) -> bytes:
        return b"".join(piece.encode() for piece in self.pieces) + self.rest


def chain(segments: list[Segment]) -> None:
    """Make all checksums right."""
    crc: int | None = None
    for segment in segments:
        for piece in segment.pieces:
            if piece.type == _CRC:
                crc = piece.crc if crc is None else crc
                piece.data = b""
            else:
                crc = extend(crc or 0, piece.data)
            piece.crc = crc


def mark(pieces: list[Piece], choose: random.Random) -> None:
    """Mark these frames as a writer would: as one save or as several, behind a sync or not."""
    while pieces:
        count = choose.choice([1, 1, 2, 3, len(pieces)])
        save, pieces = pieces[:count], pieces[count:]
        for piece, its_mark in zip(save, marks_of_save(len(save), synced=choose.random() < 0.6), strict=True):
            piece.code = CODES[piece.type][its_mark] if piece.type in CODES else 0


def new_piece(choose: random.Random, pieces: list[Piece]) -> Piece:
    """Make a frame as an application might write one."""
    number = choose.choice([*NUMBERS, *range(1, 30)])
    if pieces and choose.random() < 0.5:
        last = choose.choice(pieces).data
        number = last[1] + choose.choice([-1, 0, 1]) & 0x7F if len(last) > 1 else 1
    data = b"\x08" + varint(number) if number or choose.random() < 0.2 else b""
    type = choose.choice(TYPES)
    if type == RecordType.ENTRY and choose.random() < 0.5:
        payload = choose.choice(
            [b"x", bytes(40), choose.randbytes(20), choose.choice(pieces).encode() if pieces else b""]
        )
        data += b"\x1a" + varint(len(payload)) + payload
    if choose.random() < 0.2:  # in etcd's form
        data = b"".join(bytes((n << 3,)) + varint(choose.choice(NUMBERS[:6])) for n in (1, 2, 3))
    return Piece(type, data, choose.choice(ALL_CODES), choose.getrandbits(32), choose.random() < 0.1)


def change_pieces(segment: Segment, choose: random.Random, mutate_bytes: MutateBytes) -> None:
    """Change the frames of one segment."""
    pieces = segment.pieces
    at = choose.randrange(len(pieces) + 1)
    count = choose.choice([1, 1, 1, 2, 5])
    match choose.randrange(11):
        case 0 | 1:
            pieces.insert(at, new_piece(choose, pieces))
        case 2:
            del pieces[at : at + count]
        case 3:
            copies = [replace(piece) for piece in pieces[at : at + count]]
            place = choose.randrange(len(pieces) + 1)
            pieces[place:place] = copies
        case 4 if at < len(pieces):
            pieces[at].data = mutate_bytes(pieces[at].data)
        case 5 if at < len(pieces):
            pieces[at].type = choose.choice([*TYPES, 6, 127])
        case 6 if at < len(pieces):
            pieces[at].code = choose.randrange(16)
        case 7:
            mark(pieces[at:], choose)
        case 8:
            mark(pieces, choose)
        case 9 if at < len(pieces):
            pieces[at].zeros = not pieces[at].zeros
        case 10:
            segment.rest = choose.choice(
                [
                    b"",
                    bytes(choose.choice([1, 7, 8, 100, 512])),
                    segment.rest[8:],
                    new_piece(choose, pieces).encode() + segment.rest,
                    bytes(16) + new_piece(choose, pieces).encode(),
                    choose.randbytes(choose.randrange(1, 60)),
                    mutate_bytes(segment.rest),
                ]
            )
        case _:
            mark(pieces[-count:], choose)


def damage(data: bytes, choose: random.Random, mutate_bytes: MutateBytes) -> bytes:
    """Damage the bytes of a segment, mostly close to its end."""
    if not data or choose.random() < 0.3:
        return mutate_bytes(data)
    used = len(data.rstrip(b"\0"))
    begin = max(0, used - choose.choice([8, 40, 200, 1000]))
    return data[:begin] + some_bytes(choose, data[begin:])


def of_segment(data: bytes, choose: random.Random, mutate_bytes: MutateBytes) -> bytes:
    """The bytes of one segment."""
    segment = Segment.of(data)
    for _ in range(choose.choice([0, 1, 1, 2, 4])):
        change_pieces(segment, choose, mutate_bytes)
        if choose.random() < 0.3:
            mark(segment.pieces, choose)
    if choose.random() < 0.9:
        chain([segment])
    data = segment.encode()
    return damage(data, choose, mutate_bytes) if choose.random() < 0.4 else data


def of_directory(data: bytes, choose: random.Random, mutate_bytes: MutateBytes) -> bytes:
    """A whole log."""
    files = unpack(data) or {FIRST: b""}
    if choose.random() < 0.15:
        files = _renamed(files, choose)
    segments = {name: Segment.of(content) for name, content in sorted(files.items()) if SegmentName.parse(name)}
    if segments:
        for _ in range(choose.choice([0, 1, 1, 2, 4])):
            change_pieces(choose.choice(list(segments.values())), choose, mutate_bytes)
        if choose.random() < 0.1:
            _cut(segments, choose)
        if choose.random() < 0.9:
            chain(list(segments.values()))
        files |= {name: segment.encode() for name, segment in segments.items()}
        if choose.random() < 0.4:
            name = choose.choice([*segments, max(segments), max(segments)])
            files[name] = damage(files[name], choose, mutate_bytes)
    return pack(files)


def _renamed(files: dict[str, bytes], choose: random.Random) -> dict[str, bytes]:
    """Lose a file, give it another name, or have it twice."""
    files = dict(files)
    old = choose.choice(list(files))
    name = SegmentName.parse(old) or SegmentName(0, 0)
    number = choose.choice(NUMBERS)
    other = {
        0: str(SegmentName(name.sequence, number)),
        1: str(SegmentName(number, name.first_index)),
        2: str(SegmentName(min(name.sequence + 1, 2**64 - 1), name.first_index)),
        3: name.temporary,
        4: f"{name}.{choose.choice(NUMBERS):016x}.broken",
        5: "lost+found",
    }[choose.randrange(6)]
    content = files[old] if choose.random() < 0.3 else files.pop(old)
    if choose.random() < 0.8:
        files[other] = content
    return files or {FIRST: content}


def _cut(segments: dict[str, Segment], choose: random.Random) -> None:
    """End the last segment at some frame and go on in another."""
    name = SegmentName.parse(max(segments))
    assert name is not None
    if name.sequence == 2**64 - 1:
        return
    last = segments[str(name)]
    at = choose.randrange(len(last.pieces) + 1)
    head = [Piece(_CRC, b"", 0), *[replace(piece) for piece in last.pieces if piece.type == RecordType.METADATA][:1]]
    mark(head[:2], choose)
    following = Segment(head + last.pieces[at:], last.rest)
    last.pieces, last.rest = last.pieces[:at], b""
    index = choose.choice([*NUMBERS[:8], *range(1, 12)])
    segments[str(SegmentName(name.sequence + 1, index))] = following


# --------------------------------------------------------------------------------------------------- snapshots


def of_snapshots(data: bytes, choose: random.Random, mutate_bytes: MutateBytes) -> bytes:
    """Snapshot files: the checksum stands in front of what it covers."""
    files = unpack(data)
    name = choose.choice([*files, f"{choose.choice(NUMBERS):016x}.snap"])
    content = files.get(name, b"")
    payload = _payload(content)
    if payload is None or choose.random() < 0.3:
        content = mutate_bytes(content)
    else:
        payload = mutate_bytes(payload)
        crc, length = varint(extend(0, payload)), varint(len(payload))
        content = b"\x08" + crc + b"\x12" + length + payload
        if payload[:1] == b"\x08" and choose.random() < 0.8:
            name = f"{_number(payload[1:11]):016x}.snap"
    files[name] = content
    return pack(files)


def _payload(content: bytes) -> bytes | None:
    """Return what the checksum covers, if it is where it belongs."""
    at = content.find(b"\x12", 1, 8)
    if at < 0:
        return None
    at += 1
    while at < len(content) and content[at] >= 0x80:
        at += 1
    return content[at + 1 :]


def _number(data: bytes) -> int:
    """Decode a varint, of any form."""
    value = 0
    for place, byte in enumerate(data):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    return value & 2**64 - 1
