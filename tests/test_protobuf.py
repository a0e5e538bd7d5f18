"""Protobuf, as much of it as the formats have: what is written is canonical, and nothing else is read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wal._protobuf import BYTES, UINT, bytes_field, decode_message, read_varint, uint_field, varint

MAX = 2**64 - 1
BOUNDARIES = sorted({value for k in range(65) for value in (2**k - 1, 2**k, 2**k + 1) if value <= MAX})

uints = st.integers(0, MAX) | st.sampled_from(BOUNDARIES)
kinds_of_field = st.lists(st.sampled_from((UINT, BYTES)), min_size=1, max_size=4).map(tuple)


def spelled(value: int) -> bytes:
    """A varint, digit by digit: base 128, the lowest digit first, each but the last with the high bit set."""
    digits = [value % 128]
    while value := value // 128:
        digits.append(value % 128)
    return bytes([digit + 128 for digit in digits[:-1]] + digits[-1:])


def field(number: int, kind: int, value: Any) -> bytes:
    """Any field at all, whether a message may have it or not."""
    return spelled(number * 8 + kind) + (spelled(len(value)) + value if kind == BYTES else spelled(value))


@pytest.mark.parametrize("value", BOUNDARIES)
def test_varint_boundaries(value: int) -> None:
    """Each power of two and its neighbours come back, in as few bytes as their bits need."""
    data = varint(value)
    assert data == spelled(value)
    assert len(data) == max(1, -(-value.bit_length() // 7))
    assert read_varint(data, 0, len(data)) == (value, len(data))


@given(value=uints, before=st.binary(max_size=3), after=st.binary(max_size=3))
def test_varint_round_trip(value: int, before: bytes, after: bytes) -> None:
    """A varint is read where it stands, and its end is found."""
    data = before + varint(value) + after
    assert read_varint(data, len(before), len(data)) == (value, len(data) - len(after))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("", id="nothing"),
        pytest.param("80", id="one-byte-of-two"),
        pytest.param("ff ff ff", id="three-bytes-of-four"),
        pytest.param("ff ff ff ff ff ff ff ff ff", id="nine-bytes-of-ten"),
        pytest.param("80 00", id="zero-in-two-bytes"),
        pytest.param("81 00", id="one-in-two-bytes"),
        pytest.param("ff ff ff ff 00", id="28-bits-in-five-bytes"),
        pytest.param("80 80 80 80 80 80 80 80 80 00", id="zero-in-ten-bytes"),
        pytest.param("ff ff ff ff ff ff ff ff ff 02", id="65-bits"),
        pytest.param("80 80 80 80 80 80 80 80 80 02", id="2-to-the-64"),
        pytest.param("ff ff ff ff ff ff ff ff ff 7f", id="70-bits"),
        pytest.param("80 80 80 80 80 80 80 80 80 80 01", id="eleven-bytes"),
        pytest.param("ff " * 11, id="eleven-bytes-and-no-end"),
        pytest.param("80 " * 1000, id="a-thousand-bytes-and-no-end"),
    ],
)
def test_bad_varints(data: str) -> None:
    """R09: a varint that does not end, has a byte too many or more than 64 bits is refused."""
    raw = bytes.fromhex(data)
    with pytest.raises(ValueError, match="varint"):
        read_varint(raw, 0, len(raw))


@given(value=uints, after=st.binary(max_size=12))
def test_truncated_varint(value: int, after: bytes) -> None:
    """The end that the caller names counts, whatever stands behind it."""
    data = varint(value)
    for stop in range(len(data)):
        with pytest.raises(ValueError, match="does not end"):
            read_varint(data + after, 0, stop)


@given(data=st.binary(max_size=12))
@example(b"\xff" * 9 + b"\x01")
def test_a_varint_has_one_form(data: bytes) -> None:
    """Whatever is read as a varint is what would have been written."""
    try:
        value, stop = read_varint(data, 0, len(data))
    except ValueError:
        return
    assert spelled(value) == data[:stop]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@given(value=uints)
def test_uint_field(number: int, value: int) -> None:
    """proto3 leaves a zero out, proto2 writes it, and both write all else."""
    assert uint_field(number, value, keep_zero=True) == field(number, UINT, value)
    assert uint_field(number, value) == (field(number, UINT, value) if value else b"")


@pytest.mark.parametrize("value", [-1, -(2**63), 2**64, 2**70])
@pytest.mark.parametrize("keep_zero", [False, True])
def test_uint_field_range(value: int, keep_zero: bool) -> None:
    """What does not fit 64 bits is refused, not cut."""
    with pytest.raises(ValueError, match="64 bits"):
        uint_field(1, value, keep_zero=keep_zero)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [0, 1, 127, 128, 300, 16_383, 16_384])
def test_bytes_field(number: int, length: int) -> None:
    """Empty bytes are left out; others stand behind their length."""
    value = b"x" * length
    assert bytes_field(number, value) == (field(number, BYTES, value) if length else b"")


@st.composite
def messages(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Any]]:
    """What a message's fields may be, and a value of each."""
    kinds = draw(kinds_of_field)
    return kinds, [draw(st.binary(max_size=300) if kind == BYTES else uints) for kind in kinds]


def encodings(kinds: tuple[int, ...], values: list[Any]) -> Iterator[bytes]:
    """Every form of a message: each zero or empty field may be written or left out."""
    numbered = list(enumerate(zip(kinds, values, strict=True), 1))
    absent = [number for number, (_, value) in numbered if not value]
    for count in range(len(absent) + 1):
        for left_out in combinations(absent, count):
            yield b"".join(field(n, kind, value) for n, (kind, value) in numbered if n not in left_out)


@given(message=messages())
def test_message_round_trip(message: tuple[tuple[int, ...], list[Any]]) -> None:
    """All encodings of a message, with zero fields or without, give its values."""
    kinds, values = message
    for data in encodings(kinds, values):
        assert decode_message(data, kinds) == values


def test_an_empty_message() -> None:
    """No bytes at all are a message of zeros."""
    assert decode_message(b"", (UINT, BYTES, UINT)) == [0, b"", 0]


@given(
    kinds=kinds_of_field,
    fields=st.lists(
        st.tuples(st.integers(0, 6), st.just(UINT), uints)
        | st.tuples(st.integers(0, 6), st.just(BYTES), st.binary(max_size=10)),
        max_size=4,
    ),
)
def test_which_fields_a_message_may_have(kinds: tuple[int, ...], fields: list[tuple[int, int, Any]]) -> None:
    """Fields of any numbers and kinds in any order: only known ones, once each, ascending, are a message."""
    data = b"".join(field(*each) for each in fields)
    numbers = [number for number, _, _ in fields]
    good = numbers == sorted(set(numbers)) and all(
        0 < number <= len(kinds) and kind == kinds[number - 1] for number, kind, _ in fields
    )
    if good:
        values: list[Any] = [b"" if kind == BYTES else 0 for kind in kinds]
        for number, _, value in fields:
            values[number - 1] = value
        assert decode_message(data, kinds) == values
    else:
        with pytest.raises(ValueError):
            decode_message(data, kinds)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("20 01", id="unknown-field"),
        pytest.param("08 01 20 01", id="unknown-field-behind-a-known-one"),
        pytest.param("a0 01 01", id="unknown-field-20"),
        pytest.param("80 80 80 80 10 01", id="unknown-field-2-to-the-29"),
        pytest.param("f8 ff ff ff ff ff ff ff ff 01 01", id="greatest-tag"),
        pytest.param("88 00 01", id="tag-in-two-bytes"),
        pytest.param("08 01 08 01", id="duplicate"),
        pytest.param("1a 01 61 1a 01 61", id="duplicate-bytes"),
        pytest.param("10 01 08 01", id="descending"),
        pytest.param("1a 01 61 10 01", id="descending-behind-bytes"),
        pytest.param("00 01", id="field-0"),
        pytest.param("02 01 61", id="field-0-of-bytes"),
        pytest.param("00 00", id="zeros"),
        pytest.param("0a 01 61", id="bytes-for-an-integer"),
        pytest.param("18 01", id="integer-for-bytes"),
        pytest.param("09 01 00 00 00 00 00 00 00", id="64-bit-wire-type"),
        pytest.param("0d 01 00 00 00", id="32-bit-wire-type"),
        pytest.param("0b 0c", id="group"),
        pytest.param("0b 08 01 0c", id="group-around-a-field"),
        pytest.param("0c", id="end-of-a-group"),
        pytest.param("0e 01", id="wire-type-6"),
        pytest.param("0f 01", id="wire-type-7"),
        pytest.param("08", id="tag-alone"),
        pytest.param("08 80", id="integer-does-not-end"),
        pytest.param("08 81 00", id="integer-not-minimal"),
        pytest.param("08 ff ff ff ff ff ff ff ff ff 02", id="integer-of-65-bits"),
        pytest.param("1a", id="bytes-without-length"),
        pytest.param("1a 01", id="bytes-missing"),
        pytest.param("1a 03 61 62", id="bytes-too-short"),
        pytest.param("1a 80 00", id="length-not-minimal"),
        pytest.param("1a 81 00 61", id="length-not-minimal-bytes-there"),
        pytest.param("1a ff ff ff ff ff ff ff ff ff 01 61", id="length-2-to-the-64-less-1"),
        pytest.param("1a ff ff ff ff ff ff ff ff 7f 61", id="length-2-to-the-63-less-1"),
        pytest.param("1a 01 61 00", id="a-zero-behind"),
    ],
)
def test_bad_messages(data: str) -> None:
    """What none of the known encoders writes is refused, the CRC being right or not."""
    with pytest.raises(ValueError):
        decode_message(bytes.fromhex(data), (UINT, UINT, BYTES))


@given(kinds=kinds_of_field, data=st.binary(max_size=30))
@example((UINT, UINT, BYTES), b"\x08\x00\x1a\x00")
def test_arbitrary_bytes(kinds: tuple[int, ...], data: bytes) -> None:
    """Any bytes are one of the forms of a message, or a ``ValueError``."""
    try:
        values = decode_message(data, kinds)
    except ValueError:
        return
    assert data in encodings(kinds, values)


@given(message=messages(), cut=st.integers(0, 40), bit=st.integers(0, 8 * 40))
def test_damaged_messages(message: tuple[tuple[int, ...], list[Any]], cut: int, bit: int) -> None:
    """A message with a flipped bit or without its end is another message or a ``ValueError``."""
    kinds, values = message
    for data in encodings(kinds, values):
        damaged = bytearray(data[:-cut] if cut else data)
        if bit // 8 < len(damaged):
            damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = decode_message(bytes(damaged), kinds)
        except ValueError:
            continue
        assert bytes(damaged) in encodings(kinds, found)
