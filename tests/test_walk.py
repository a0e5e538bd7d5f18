"""The fast paths of reading give what the exact ones give, and they are taken where they should be."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wal
from segments import (
    ENTRY,
    METADATA,
    SNAPSHOT,
    STATE,
    Group,
    Payload,
    Segment,
    entries,
    flipped,
    segment_of,
    walk,
    write_log,
)
from wal import CommitState, Entry, SnapshotMarker, _decoder, _frame, _marks, _replay
from wal._crc32c import extend
from wal._walk import LANES, Run, Walk

MARKED = [True, False]


@pytest.fixture(scope="module", params=["_walk", "_walk_compiled"], autouse=True)
def kernel(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The fast paths written for the interpreter, and those for mypyc, be they compiled or not."""
    kernel = pytest.importorskip(f"wal.{request.param}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_decoder, "walk", kernel.walk)
        patch.setattr(_replay, "unmarshal_entries", kernel.unmarshal_entries)
        yield kernel


def no_walk(data: bytes, at: int, crc: int, mark: int, run: Run) -> Walk:
    """Walk no frame at all, so that the exact code has to."""
    return Walk(at, crc, mark, 0, at, crc, mark)


@contextmanager
def exactly() -> Iterator[None]:
    """Leave out the fast paths."""
    with (
        mock.patch.object(_decoder, "walk", no_walk),
        mock.patch.object(_replay, "unmarshal_entries", return_value=None),
    ):
        yield


def exact_walk(data: bytes) -> object:
    with exactly():
        return walk(data)


# ---------------------------------------------------------------------------------------------------- frames

SIZES = st.one_of(st.integers(0, 20), st.integers(100, 140), st.sampled_from([16_370, 16_383, 16_384, 16_390]))
RECORDS = st.builds(
    lambda kind, size, seed: (kind, random.Random(seed).randbytes(size)),
    st.sampled_from([ENTRY, ENTRY, ENTRY, STATE, SNAPSHOT, METADATA]),
    SIZES,
    st.integers(0, 1 << 32),
)
SAVES = st.lists(RECORDS, min_size=1, max_size=6)
GROUPS = st.lists(st.lists(SAVES, min_size=1, max_size=3), max_size=5)
DAMAGE: st.SearchStrategy[Callable[[bytes, float, int], bytes]] = st.sampled_from(
    [
        lambda data, _place, _byte: data,
        lambda data, place, byte: flipped(data, int(place * (len(data) - 1)) * 8 + byte % 8),
        lambda data, place, byte: data[: int(place * len(data))] + bytes([byte]) + data[int(place * len(data)) + 1 :],
        lambda data, place, _byte: data[: int(place * len(data))],
        lambda data, place, _byte: data[: int(place * len(data)) & -8] + data[(int(place * len(data)) & -8) + 8 :],
    ]
)


@given(
    groups=GROUPS,
    save_marks=st.booleans(),
    damage=DAMAGE,
    place=st.floats(0, 1),
    byte=st.integers(0, 255),
    chunk=st.sampled_from([64, 512, 1 << 18]),
)
def test_frames_are_walked_as_exactly(
    groups: list[Group],
    save_marks: bool,
    damage: Callable[[bytes, float, int], bytes],
    place: float,
    byte: int,
    chunk: int,
) -> None:
    """Good, damaged or truncated: the frames, the end and the verdict do not depend on the fast path."""
    data = damage(segment_of(groups, save_marks=save_marks, end=4096).data, place, byte)
    with mock.patch.object(_decoder, "CHUNK_BYTES", chunk):
        assert walk(data) == exact_walk(data)


@pytest.mark.parametrize("save_marks", MARKED)
def test_every_flipped_bit(save_marks: bool) -> None:
    """So it is with any bit turned over, in long saves and in short ones."""
    segment = segment_of([[entries(3, 9, 140), [(STATE, b"\x08\x07")]], [entries(20)]], save_marks=save_marks, end=512)
    for bit in range(8 * len(segment.data)):
        data = flipped(segment.data, bit)
        assert walk(data) == exact_walk(data)


def suffix_for(crc: int, value: bytes, wanted: int) -> bytes:
    """Return the four bytes that, put behind ``value``, make the chain behind it what is wanted."""
    register = wanted ^ 0xFFFFFFFF
    for _ in range(32):  # backwards through the division
        register = (register ^ 0x82F63B78) << 1 | 1 if register >> 31 else register << 1
    return (register ^ extend(crc, value) ^ 0xFFFFFFFF).to_bytes(4, "little")


CRCS = [0, 1, 0x7F, 0x80, 2**14 - 1, 2**14, 2**21 - 1, 2**21, 2**28 - 1, 2**28, 2**32 - 1]
LENGTHS = [4, 5, 127, 128, 129, 2**14 - 1, 2**14, 2**14 + 1, 2**21 - 1, 2**21]


def with_crc(crc: int, length: int, wanted: int) -> bytes:
    value = random.Random(length).randbytes(length - 4)
    return value + suffix_for(crc, value, wanted)


@pytest.mark.parametrize("wanted", CRCS, ids=hex)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_width_of_crc_and_length(wanted: int, length: int) -> None:
    """Whatever number of bytes the CRC and the length take, the frame is walked, with the same outcome."""
    crc = segment_of([]).crc
    value = with_crc(crc, length, wanted)
    assert extend(crc, value) == wanted
    segment = segment_of([[[(ENTRY, value)], entries(50)]], end=4096)
    assert walk(segment.data).frames == segment.frames
    assert walk(segment.data) == exact_walk(segment.data)


def digits(value: int, count: int) -> bytes:
    """Return a varint of at least so many bytes, which is not minimal if it could do with less."""
    out = bytearray()
    while value > 0x7F or count > len(out) + 1:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("wanted", CRCS, ids=hex)
@pytest.mark.parametrize("crc_bytes", range(1, 7))
@pytest.mark.parametrize("length", [5, 130])
@pytest.mark.parametrize("length_bytes", range(1, 5))
def test_numbers_that_are_too_long(wanted: int, crc_bytes: int, length: int, length_bytes: int) -> None:
    """A CRC or a length written with more bytes than it needs is not well-formed on either path."""
    head = segment_of([])
    value = with_crc(head.crc, length, wanted)
    record = b"\x08\x02\x10" + digits(wanted, crc_bytes) + b"\x1a" + digits(length, length_bytes) + value
    header, padding = len(record), bytes(-len(record) % 8)
    top = 0b1110 << 3 | (0x80 | len(padding) if padding else 0)
    data = head.data + _frame.HEADER.pack(top << 56 | header) + record + padding + bytes(64)
    outcome = walk(data)
    minimal = digits(wanted, crc_bytes) == digits(wanted, 0) and digits(length, length_bytes) == digits(length, 0)
    assert len(outcome.frames) == (4 if minimal else 3)
    assert outcome == exact_walk(data)


def walked_from(kernel: Any, data: bytes, begin: int, crc: int) -> tuple[Walk, Run]:
    run = Run(begin)
    return kernel.walk(data, begin, crc, _marks.Mark.ONLY, run), run


@pytest.mark.parametrize("save_marks", MARKED)
def test_the_fast_path_is_taken(kernel: Any, save_marks: bool) -> None:
    """Entries, states and markers in saves of any size are canonical, if their CRCs take four bytes or five."""
    save: list[Payload] = [*entries(*[100] * 40, 200, 20_000), (STATE, b"\x08\x07"), (SNAPSHOT, b"\x08\x07")]
    segment = segment_of([[save] * 20, [[payload] for payload in save] * 2], save_marks=save_marks, end=1 << 20)
    begin = segment.ends[0]
    walked, run = walked_from(kernel, segment.data, begin, segment_of([]).crc)
    assert (walked.at, walked.crc, walked.whole) == (segment.ends[-1], segment.crc, len(run))
    assert list(run) == segment.frames[3:]


def test_a_walk_goes_on_where_it_stopped(kernel: Any) -> None:
    """The call that is tuned for the interpreter walks as many frames as it has lanes, and the next one the rest."""
    frame = _frame.encode_frame(ENTRY, 0x80000000, with_crc(0x80000000, 8, 0x80000000), 0)
    data = frame * (LANES + 10)
    first, run = walked_from(kernel, data, 0, 0x80000000)
    limit = LANES if kernel.__name__ == "wal._walk" else LANES + 10
    assert (first.at, first.whole, len(run)) == (limit * len(frame), limit, limit)
    second = kernel.walk(data, first.at, first.crc, first.mark, run)
    assert (second.at, second.crc, len(run)) == (len(data), 0x80000000, LANES + 10)
    assert list(run) == [(ENTRY, run.values[0], k * len(frame)) for k in range(LANES + 10)]


def test_a_walk_ends_where_a_frame_goes_on_behind_the_chunk(kernel: Any) -> None:
    """A frame whose end, or whose padding, is not there is left to the exact code."""
    segment = segment_of([[entries(*[101] * 10)]])
    crc = segment_of([]).crc
    for cut in range(segment.ends[0], len(segment.data)):
        walked, run = walked_from(kernel, segment.data[:cut], segment.ends[0], crc)
        assert walked.whole == 0
        assert (
            list(run)
            == [frame for frame, end in zip(segment.frames, frame_ends(segment), strict=True) if end <= cut][3:]
        )


def frame_ends(segment: Segment) -> list[int]:
    return [offset + length for offset, length in segment.frame_lengths]


# --------------------------------------------------------------------------------------------------- entries


def unmarshalled(values: list[bytes]) -> list[Entry] | None:
    try:
        return [Entry.unmarshal(value) for value in values]
    except ValueError:
        return None


@given(
    first=st.one_of(st.integers(0, 300), st.sampled_from([2**14 - 3, 2**21 - 3, 2**28 - 3, 2**35 - 3, 2**64 - 9])),
    sizes=st.lists(st.sampled_from([0, 1, 3, 100, 127, 128, 129, 16_383, 16_384]), min_size=1, max_size=6),
    same=st.booleans(),
    type=st.sampled_from([0, 0, 0, 1, 200]),
    at=st.integers(0, 5),
    change=st.sampled_from(["nothing", "flip", "cut", "extend", "pad", "index"]),
    place=st.integers(0, 12),
    bit=st.integers(0, 7),
)
def test_entries_are_unmarshalled_as_exactly(
    kernel: Any, first: int, sizes: list[int], same: bool, type: int, at: int, change: str, place: int, bit: int
) -> None:
    """What the fast path returns is what ``Entry.unmarshal`` makes of it, with consecutive indexes."""
    if same:
        sizes = sizes[:1] * len(sizes)
    values = [Entry(first + k, bytes([k]) * size, type).marshal() for k, size in enumerate(sizes)]
    at %= len(values)
    value = values[at]
    place %= len(value) or 1
    values[at] = {
        "nothing": value,
        "flip": flipped(value, 8 * place + bit) if value else b"",
        "cut": value[:-1],
        "extend": value + b"\0",
        # The longer form of the same number
        "pad": value[:place] + bytes([value[place] | 0x80, 0]) + value[place + 1 :] if value else b"",
        "index": Entry(first, bytes(sizes[at])).marshal(),
    }[change]
    fast = kernel.unmarshal_entries(values, first)
    assert fast in (None, unmarshalled(values))
    if fast is not None:
        assert [entry.index for entry in fast] == list(range(first, first + len(values)))


@pytest.mark.parametrize("first", [1, 100, 128, 20_000])
@pytest.mark.parametrize("size", [0, 1, 4, 100, 127, 128, 200])
def test_every_flipped_bit_of_a_payload(kernel: Any, first: int, size: int) -> None:
    """With any bit in front of its data turned over, an entry is what ``Entry.unmarshal`` says, or is refused."""
    good = [Entry(first + k, bytes(size)).marshal() for k in range(3)]
    for at in range(3):
        for bit in range(8 * min(len(good[at]), 9)):
            values = [*good[:at], flipped(good[at], bit), *good[at + 1 :]]
            assert kernel.unmarshal_entries(values, first) in (None, unmarshalled(values))


@pytest.mark.parametrize("index_bytes", range(1, 6))
@pytest.mark.parametrize("length_bytes", range(1, 5))
@pytest.mark.parametrize("size", [5, 130])
@pytest.mark.parametrize("first", [1, 130])
def test_numbers_of_an_entry_that_are_too_long(
    kernel: Any, index_bytes: int, length_bytes: int, size: int, first: int
) -> None:
    """An index or a length written with more bytes than it needs is refused."""
    values = [
        b"\x08" + digits(index, index_bytes) + b"\x1a" + digits(size, length_bytes) + bytes(size)
        for index in (first, first + 1)
    ]
    assert kernel.unmarshal_entries(values, first) in (None, unmarshalled(values))


@pytest.mark.parametrize("first", [1, 70, 128, 16_000, 16_384, 2**21, 2**28, 2**34])
@pytest.mark.parametrize(
    "sizes", [[0], [1, 2, 3, 4], [100], [0, 1, 127], [128], [100, 0, 16_383], [16_384, 5]], ids=str
)
def test_the_fast_path_takes_default_entries(kernel: Any, first: int, sizes: list[int]) -> None:
    """Entries in sequence are taken, whatever is in them, as long as what is before their data fits eight bytes."""
    expected = [Entry(index, bytes([index % 256]) * sizes[index % len(sizes)]) for index in range(first, first + 50)]
    values = [entry.marshal() for entry in expected]
    taken = kernel.unmarshal_entries(values, first)
    if max(len(value) - len(entry.data) for value, entry in zip(values, expected, strict=True)) <= 8:
        assert taken == expected
    else:
        assert taken in (None, expected)


# ------------------------------------------------------------------------------------------------------ logs

LIVES = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5), st.sampled_from([10, 100, 200])),
        st.tuples(st.just("overwrite"), st.integers(1, 5), st.sampled_from([10, 100])),
        st.tuples(st.just("state"), st.integers(0, 200), st.just(0)),
        st.tuples(st.just("marker"), st.integers(0, 12), st.just(0)),
        st.tuples(st.just("jump"), st.integers(1, 12), st.just(0)),
        st.tuples(st.just("metadata"), st.integers(0, 8), st.just(0)),
        st.tuples(st.just("refused"), st.sampled_from([ENTRY, STATE, SNAPSHOT]), st.just(0)),
        st.tuples(st.just("typed"), st.integers(1, 3), st.just(5)),
    ),
    max_size=12,
)


def saves_of(life: list[tuple[str, int, int]]) -> Iterator[list[Payload]]:
    """Turn steps into saves. Most keep the rules of a log; a few break them."""
    last = 0
    for step, number, size in life:
        if step in ("append", "typed", "overwrite", "jump"):
            first = max(1, last + 1 - number) if step == "overwrite" else last + (number if step == "jump" else 1)
            indexes = range(first, first + (number if step != "jump" else 1))
            type = number if step == "typed" else 0
            yield [(ENTRY, Entry(index, bytes(size), type).marshal()) for index in indexes]
            last = indexes[-1]
        elif step == "state":
            yield [(STATE, CommitState(number).marshal())]
        elif step == "marker":
            yield [(SNAPSHOT, SnapshotMarker(number).marshal())]
        elif step == "metadata":
            yield [(METADATA, b"node" if number else b"other")]
        else:
            yield [(number, b"\x7f")]


def outcomes(path: Path, start: int) -> list[Any]:
    """Return what each way of reading gives or raises."""

    def outcome(read: Callable[[], object]) -> object:
        try:
            return read()
        except wal.WALError as error:
            return type(error), str(error), getattr(error, "offset", None), getattr(error, "entries", None)

    records: list[object] = []

    def stream() -> None:
        records.extend(wal.WALReader(path, SnapshotMarker(start)))

    return [
        outcome(lambda: wal.WALReader(path, SnapshotMarker(start)).read_all()),
        outcome(stream),
        records,
        outcome(lambda: wal.verify(path)),
        outcome(lambda: wal.verify(path, SnapshotMarker(start))),
        outcome(lambda: wal.valid_snapshots(path)),
    ]


@given(life=LIVES, start=st.sampled_from([0, 0, 0, 2, 5]), together=st.booleans())
def test_logs_are_read_as_exactly(
    tmp_path_factory: pytest.TempPathFactory, life: list[tuple[str, int, int]], start: int, together: bool
) -> None:
    """Whatever a log holds, all ways of reading it give the same with the fast paths and without, errors included."""
    path = tmp_path_factory.mktemp("life") / "log"
    saves = list(saves_of(life))
    group = [[payload for save in saves for payload in save]] if together and saves else saves
    write_log(path, segment_of([group] if group else [], end=4096).data)
    fast = outcomes(path, start)
    with exactly():
        assert fast == outcomes(path, start)
