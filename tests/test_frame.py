"""Frames: what is written is read back, and nothing is read that no encoder writes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segments import CRC, ENTRY, METADATA, SNAPSHOT, STATE
from wal._crc32c import extend
from wal._frame import HEADER, PREFIX_BYTES, RecordType, encode_frame, frame_bytes, parse_record

TYPES = [pytest.param(type.value, id=type.name) for type in RecordType]
CRCS = [0, 1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**31, 2**32 - 1]
LENGTHS = [*range(41), 126, 127, 128, 129, 16_382, 16_383, 16_384, 16_385, 2**21 - 1, 2**21, 2**21 + 1]
MAX_SIZE = 2**56 - 1

crcs = st.integers(0, 2**32 - 1) | st.sampled_from(CRCS)
known_types = st.sampled_from([type.value for type in RecordType])


def varint(value: int) -> bytes:
    digits = [value % 128]
    while value := value // 128:
        digits.append(value % 128)
    return bytes([digit + 128 for digit in digits[:-1]] + digits[-1:])


def go_record(type: int, crc: int, data: bytes) -> bytes:
    """A record as the Go original writes it (proto3): what is zero or empty is left out."""
    record = b"\x08" + varint(type)
    if crc:
        record += b"\x10" + varint(crc)
    if data:
        record += b"\x1a" + varint(len(data)) + data
    return record


def etcd_record(type: int, crc: int, data: bytes | None) -> bytes:
    """A record as etcd writes it (proto2): type and CRC always, data if they are not nil, even if empty."""
    record = b"\x08" + varint(type) + b"\x10" + varint(crc)
    return record if data is None else record + b"\x1a" + varint(len(data)) + data


def framed(record: bytes, *, mark_code: int = 0) -> bytes:
    """A frame around any record at all."""
    padding = -len(record) % 8
    top = mark_code << 3 | (0x80 + padding if padding else 0)
    return len(record).to_bytes(7, "little") + bytes([top]) + record + bytes(padding)


def parse(record: bytes) -> tuple[int, int, bytes] | None:
    """Read a record as a whole: type, CRC and data."""
    found = parse_record(record, 0, len(record))
    return found and (found[0], found[1], record[found[2] :])


# ---------------------------------------------------------------------------------------------- encode


@pytest.mark.parametrize("length", LENGTHS)
def test_round_trip_of_each_length(length: int) -> None:
    """Data of any length, of any type, with any CRC, are framed on eight bytes and read back."""
    data = random.Random(length).randbytes(length)
    for type in RecordType:
        if type == CRC and data:
            continue
        for crc in CRCS if length < 200 else (0, 2**32 - 1):
            frame = encode_frame(type.value, crc, data, 0)
            (header,) = HEADER.unpack_from(frame)
            assert frame == framed(go_record(type.value, crc, data))
            assert frame_bytes(header) == len(frame)
            assert len(frame) % 8 == 0
            stop = 8 + (header & MAX_SIZE)
            found = parse_record(frame, 8, stop)
            assert found is not None
            assert (*found[:2], frame[found[2] : stop]) == (type, crc, data)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("code", range(16))
def test_the_mark_changes_four_bits_only(type: int, code: int) -> None:
    """A marked frame is the unmarked one but for bits 6 to 3 of the length's top byte, and as long."""
    for length in range(1 if type == CRC else 20):
        plain, marked = (encode_frame(type, 0x12345678, b"x" * length, mark) for mark in (0, code))
        assert marked[:7] + bytes([marked[7] & ~0x78]) + marked[8:] == plain
        assert marked[7] >> 3 & 15 == code
        assert frame_bytes(HEADER.unpack_from(marked)[0]) == len(plain)


@pytest.mark.parametrize(
    ("frame", "data"),
    [
        pytest.param(encode_frame(CRC, 0, b"", 0), "02000000000000 86 0804 000000000000", id="first-crc"),
        pytest.param(
            encode_frame(METADATA, extend(0, b"m"), b"m", 0),
            "0b000000000000 85 0801 10 e099cee408 1a 01 6d 0000000000",
            id="metadata",
        ),
        pytest.param(encode_frame(METADATA, 0, b"", 0), "02000000000000 86 0801 000000000000", id="no-metadata"),
        pytest.param(encode_frame(SNAPSHOT, 1, b"", 0b1111), "04000000000000 fc 0805 1001 00000000", id="marked"),
        pytest.param(encode_frame(ENTRY, 0, b"ab", 0b1110), "06000000000000 f2 0802 1a 02 6162 0000", id="crc-0"),
        pytest.param(encode_frame(STATE, 7, b"ab", 0b1111), "08000000000000 78 0803 1007 1a 02 6162", id="no-padding"),
    ],
)
def test_exact_frames(frame: bytes, data: str) -> None:
    """The bytes on disk."""
    assert frame == bytes.fromhex(data)


# -------------------------------------------------------------------------------------------- frame_bytes


@pytest.mark.parametrize("size", [*range(130), 2**21, 2**32 - 1, 2**32, 2**55, MAX_SIZE - 8, MAX_SIZE - 1, MAX_SIZE])
def test_which_headers_begin_a_frame(size: int) -> None:
    """
    F36: of all 256 top bytes, those with the right padding bits only; and no record is shorter than its type.

    Bit 7 says that there is padding, bits 2 to 0 how much; without padding all four are zero.
    """
    padding = -size % 8
    right = (1, padding) if padding else (0, 0)
    for top in range(256):
        expected = 8 + size + padding if size >= 2 and (top >> 7, top & 7) == right else 0
        assert frame_bytes(top << 56 | size) == expected


def test_a_zero_word_is_no_frame() -> None:
    """Reserved space does not look like a frame."""
    assert frame_bytes(0) == 0


@given(header=st.integers(0, 2**64 - 1))
def test_any_header(header: int) -> None:
    """Whatever the header, the frame is none, or its size and padding on eight bytes."""
    length = frame_bytes(header)
    size = header & MAX_SIZE
    assert length == 0 or (length % 8 == 0 and 8 + size <= length < 16 + size)


# ------------------------------------------------------------------------------------------- parse_record


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("type", TYPES)
def test_both_encodings(type: int, length: int) -> None:
    """What the Go original writes and what etcd writes is read alike, with a zero CRC or another."""
    data = b"x" * length
    for crc in (0, 1, 2**32 - 1):
        if type != CRC or not data:
            assert parse(go_record(type, crc, data)) == (type, crc, data)
        if type != CRC:
            assert parse(etcd_record(type, crc, data)) == (type, crc, data)
    assert parse(etcd_record(type, 7, None)) == (type, 7, b"")


def test_known_records() -> None:
    """The first record of a new log by either program, and etcd's metadata without bytes."""
    assert parse(bytes.fromhex("0804")) == (CRC, 0, b"")
    assert parse(bytes.fromhex("08041000")) == (CRC, 0, b"")
    assert parse(bytes.fromhex("080110001a00")) == (METADATA, 0, b"")
    assert parse(bytes.fromhex("0805 10 a6c2e7e90b 1a04 08001000")) == (SNAPSHOT, 0xBD39E126, bytes.fromhex("08001000"))


@pytest.mark.parametrize("crc", CRCS)
@pytest.mark.parametrize("data", [b"", b"x", b"x" * 9])
def test_unknown_types_are_read(crc: int, data: bytes) -> None:
    """A record of a type that is not known is well-formed; what it means is for others to say."""
    for type in (6, 7, 8, 64, 127):
        assert parse(go_record(type, crc, data)) == (type, crc, data)


@given(
    type=known_types, crc=crcs, data=st.binary(max_size=50), before=st.binary(max_size=9), after=st.binary(max_size=9)
)
def test_a_record_is_read_where_it_stands(type: int, crc: int, data: bytes, before: bytes, after: bytes) -> None:
    """Neither what is before the record nor what is behind it matters."""
    if type == CRC:
        data = b""
    record = go_record(type, crc, data)
    found = parse_record(before + record + after, len(before), len(before) + len(record))
    assert found == (type, crc, len(before) + len(record) - len(data))


@pytest.mark.parametrize(
    "record",
    [
        pytest.param("0800", id="type-0"),
        pytest.param("088000", id="type-0-in-two-bytes"),
        pytest.param("088200", id="type-not-minimal"),
        pytest.param("088001", id="type-128"),
        pytest.param("0880", id="type-128-does-not-end"),
        pytest.param("0882", id="type-does-not-end"),
        pytest.param("08ff", id="type-255"),
        pytest.param("1007", id="no-type"),
        pytest.param("1a0161", id="no-type-data-alone"),
        pytest.param("10071a0161", id="no-type-crc-and-data"),
        pytest.param("0000", id="zeros"),
        pytest.param("0a02", id="type-is-bytes"),
        pytest.param("0902", id="type-is-64-bit"),
        pytest.param("0d02", id="type-is-32-bit"),
        pytest.param("0002", id="field-0"),
        pytest.param("2802", id="field-5-first"),
        pytest.param("08020802", id="type-twice"),
        pytest.param("080210071007", id="crc-twice"),
        pytest.param("0802100710071a0161", id="crc-twice-and-data"),
        pytest.param("080210071a01611a0161", id="data-twice"),
        pytest.param("08021a01611007", id="data-before-crc"),
        pytest.param("10070802", id="crc-before-type"),
        pytest.param("1a01610802", id="data-before-type"),
        pytest.param("080210072001", id="unknown-field"),
        pytest.param("08022001", id="unknown-field-without-crc"),
        pytest.param("080210071a01612001", id="unknown-field-behind"),
        pytest.param("0802100700", id="zero-behind"),
        pytest.param("080200", id="zero-behind-type"),
        pytest.param("080210071a016100", id="zero-behind-data"),
        pytest.param("08021a00", id="empty-data-without-crc"),
        pytest.param("08041a00", id="empty-data-without-crc-in-a-crc-record"),
        pytest.param("080410071a00", id="crc-record-with-empty-data"),
        pytest.param("080410071a0161", id="crc-record-with-data"),
        pytest.param("08041a0161", id="crc-record-with-data-alone"),
        pytest.param("0802108080808010", id="crc-2-to-the-32"),
        pytest.param("0802108080808010 1a0161", id="crc-2-to-the-32-and-data"),
        pytest.param("080210ffffffff1f", id="crc-33-bits"),
        pytest.param("080210ffffffff7f", id="crc-35-bits"),
        pytest.param("080210ffffffffffffffffff01", id="crc-64-bits"),
        pytest.param("080210ffffffffffffffffff02", id="crc-65-bits"),
        pytest.param("0802108700", id="crc-not-minimal"),
        pytest.param("0802108000", id="crc-0-not-minimal"),
        pytest.param("080210ffffffff00", id="crc-28-bits-in-five-bytes"),
        pytest.param("08021087808080001a0161", id="crc-7-in-five-bytes"),
        pytest.param("0802108780808080 00", id="crc-7-in-six-bytes"),
        pytest.param("080210", id="crc-missing"),
        pytest.param("08021080", id="crc-does-not-end"),
        pytest.param("080210ffffffff", id="crc-of-five-bytes-does-not-end"),
        pytest.param("080210ffffffffff", id="crc-of-six-bytes-does-not-end"),
        pytest.param("080210071a", id="length-missing"),
        pytest.param("080210071a80", id="length-does-not-end"),
        pytest.param("080210071a8000", id="length-0-not-minimal"),
        pytest.param("080210071a810061", id="length-not-minimal"),
        pytest.param("080210071a01", id="data-missing"),
        pytest.param("080210071a0261", id="data-too-short"),
        pytest.param("080210071a016161", id="data-too-long"),
        pytest.param("080210071a006161", id="length-0-and-data"),
        pytest.param("080210071affffffffffffffffff0161", id="length-64-bits"),
        pytest.param("080210071affffffffffffffffff0261", id="length-65-bits"),
        pytest.param("080212000000", id="crc-is-bytes"),
        pytest.param("08021507000000", id="crc-is-32-bit"),
        pytest.param("080210071801", id="data-is-a-varint"),
        pytest.param("080210071b1c", id="data-is-a-group"),
    ],
)
def test_what_is_no_record(record: str) -> None:
    """R09, F36, F37: one form only is well-formed. A CRC that happens to be right does not make up for it."""
    data = bytes.fromhex(record)
    for after in (b"", bytes(PREFIX_BYTES), b"\x01" * PREFIX_BYTES, b"\xff" * PREFIX_BYTES):
        assert parse_record(data + after, 0, len(data)) is None


def forms(type: int, crc: int, data: bytes) -> Iterator[bytes]:
    """The bytes that the two encoders write for this record."""
    yield go_record(type, crc, data)
    if type != CRC:
        yield etcd_record(type, crc, data)
    if not data:
        yield etcd_record(type, crc, None)


@st.composite
def nearly_records(draw: st.DrawFn) -> bytes:
    """Records with something wrong, perhaps: pieces of the format in any order, cut and flipped."""
    piece = st.one_of(
        st.builds(lambda number: b"\x08" + varint(number), st.integers(0, 200)),
        st.builds(lambda crc: b"\x10" + varint(crc), crcs | st.integers(0, 2**64 - 1)),
        st.builds(lambda data: b"\x1a" + varint(len(data)) + data, st.binary(max_size=20)),
        st.builds(lambda length, data: b"\x1a" + varint(length) + data, st.integers(0, 30), st.binary(max_size=20)),
        st.builds(go_record, st.integers(1, 9), crcs, st.binary(max_size=20)),
        st.builds(etcd_record, st.integers(1, 9), crcs, st.none() | st.binary(max_size=20)),
        st.binary(max_size=4),
    )
    data = bytearray(b"".join(draw(st.lists(piece, max_size=3))))
    for bit in draw(st.lists(st.integers(0, 8 * len(data) - 1), max_size=2)) if data else []:
        data[bit // 8] ^= 1 << bit % 8
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@given(record=st.binary(min_size=2, max_size=60) | nearly_records().filter(lambda data: len(data) >= 2))
@example(bytes.fromhex("08021a0161"))
@example(bytes.fromhex("080210001a00"))
def test_a_record_has_two_forms(record: bytes) -> None:
    """Any bytes are no record, or exactly what one of the two encoders writes for it."""
    found = parse(record)
    if found is not None:
        assert found[1] < 2**32
        assert record in forms(*found)


@pytest.mark.parametrize("type", [*TYPES, pytest.param(6, id="unknown")])
def test_every_flipped_bit_before_the_data(type: int) -> None:
    """Each record with one bit of its prefix flipped is no record, or another one in a known form."""
    for crc in CRCS:
        for data in (b"",) if type == CRC else (b"", b"x", b"\x08\x02\x10", b"y" * 130):
            for record in forms(type, crc, data):
                for bit in range(8 * (len(record) - len(data))):
                    damaged = bytearray(record)
                    damaged[bit // 8] ^= 1 << bit % 8
                    found = parse(bytes(damaged))
                    assert found is None or (bytes(damaged) in forms(*found) and found != (type, crc, data))


@pytest.mark.parametrize("bits", range(33))
def test_each_crc_length(bits: int) -> None:
    """CRCs of each length in bits are read, in the first place of the record and in front of data."""
    numbers = random.Random(bits)
    for _ in range(50):
        crc = numbers.getrandbits(bits) | (1 << bits >> 1)
        for data in (b"", b"\xff" * 3):
            for record in forms(ENTRY, crc, data):
                assert parse(record) == (ENTRY, crc, data)


@given(
    record=st.binary(max_size=PREFIX_BYTES) | nearly_records(),
    size=st.integers(PREFIX_BYTES, 2**56 - 1),
    after=st.binary(min_size=30, max_size=30),
)
def test_a_record_longer_than_the_buffer(record: bytes, size: int, after: bytes) -> None:
    """What stands behind the first bytes of a record is not looked at: its data may not have been read yet."""
    first = record.ljust(PREFIX_BYTES, b"a")[: PREFIX_BYTES - HEADER.size]
    assert parse_record(first, 0, size) == parse_record(first + after, 0, size)


@pytest.mark.parametrize("length", [100, 2**21, 2**32, 2**49, 2**56 - 16])
def test_only_the_prefix_is_read(length: int) -> None:
    """A record is understood from its first bytes: type, CRC, and where its data begin."""
    prefix = b"\x08\x02\x10" + varint(2**32 - 1) + b"\x1a" + varint(length)
    found = parse_record(prefix.ljust(PREFIX_BYTES - 8, b"x"), 0, len(prefix) + length)
    assert found == (ENTRY, 2**32 - 1, len(prefix))
    assert parse_record(prefix.ljust(PREFIX_BYTES - 8, b"x"), 0, len(prefix) + length + 1) is None


@given(record=st.binary(min_size=2, max_size=60) | nearly_records().filter(lambda data: len(data) >= 2))
def test_no_byte_behind_the_record_is_needed(record: bytes) -> None:
    """If the whole record is in the buffer, nothing is looked up behind its end."""
    assert parse_record(record, 0, len(record)) == parse_record(record + b"\x01" * 40, 0, len(record))
