"""The decoder: whole saves, in bounded memory, and an end that is clean, torn or a typed error."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate, product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wal
from segments import (
    CRC,
    ENTRY,
    FIRST_HEAD,
    LATER_HEAD,
    METADATA,
    SNAPSHOT,
    STATE,
    Bytes,
    Group,
    Save,
    Segment,
    chained,
    entries,
    flipped,
    replaced,
    segment_of,
    walk,
    write_log,
)
from wal import _decoder, _marks
from wal._crc32c import extend
from wal._decoder import Decoder, Frame, Position
from wal._files import OPERATING_SYSTEM, FileSystem, OperatingSystem
from wal._frame import HEADER, PREFIX_BYTES, encode_frame
from wal._marks import Cause, Verdict
from wal._names import SegmentName

CLEAN, TORN, CORRUPT = Verdict.CLEAN, Verdict.TORN, Verdict.CORRUPT

GROUPS: list[Group] = [
    [entries(40), entries(10, 0, 30)],
    [entries(300), [(ENTRY, b""), (STATE, b"\x08\x02")], entries(200, 70, 5)],
    [[(SNAPSHOT, b"\x08\x01")]],
    [entries(90, 90), entries(7), entries(60, 20, 400)],
]

MARKED = [pytest.param(True, id="marked"), pytest.param(False, id="unmarked")]


@pytest.fixture(params=[64, 72, 256, 1024])
def small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Read so few bytes at once; records may have more."""
    monkeypatch.setattr(_decoder, "CHUNK_BYTES", request.param)
    monkeypatch.setattr(_marks, "CHUNK_BYTES", request.param)
    return int(request.param)


# ------------------------------------------------------------------------------------------ one segment

saves = st.lists(st.tuples(st.sampled_from((METADATA, ENTRY, STATE, SNAPSHOT)), st.binary(max_size=60)), min_size=1)


@given(groups=st.lists(st.lists(saves, min_size=1, max_size=3), max_size=4), save_marks=st.booleans())
def test_what_was_written_is_read(groups: list[Group], save_marks: bool) -> None:
    """Any saves in any groups come back, each record with its place, and the end is where the next one belongs."""
    segment = segment_of(groups, save_marks=save_marks)
    for reserved in (0, 8, 4096):
        outcome = walk(segment.data + bytes(reserved))
        assert outcome.frames == segment.frames
        assert (outcome.verdict, outcome.damage.cause) == (CLEAN, Cause.END)
        assert outcome.position[:2] == (len(segment.data), segment.crc)


@pytest.mark.parametrize("save_marks", MARKED)
@pytest.mark.parametrize("shift", range(0, 72, 8))
def test_frames_across_chunks(small_chunks: int, shift: int, save_marks: bool) -> None:
    """R09: frames and saves that lie across the borders of chunks, or are longer than one, are read all the same."""
    sizes = [small_chunks * 3, 1, 0, small_chunks - 40, small_chunks, 5, small_chunks * 2 + 1]
    segment = segment_of([[entries(shift)], *([entries(*sizes)], [entries(3), entries(*sizes)])], save_marks=save_marks)
    for reserved in (0, small_chunks):
        outcome = walk(segment.data + bytes(reserved))
        assert (outcome.verdict, outcome.frames) == (CLEAN, segment.frames)


def states(segment: Segment) -> Iterator[bytes]:
    """The segment whole, cut and damaged in places all over it."""
    choices = random.Random(8)
    yield segment.data
    for cut in range(0, len(segment.data), 5):
        yield segment.data[:cut]
        yield replaced(segment.data, cut, min(cut + 60, len(segment.data)))
    for _ in range(300):
        yield flipped(segment.data, choices.randrange(8 * len(segment.data)))


@pytest.mark.parametrize("save_marks", MARKED)
def test_the_size_of_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch, save_marks: bool) -> None:
    """Whatever is read at once, the records, the end and the verdict are the same, on good and on bad segments."""
    segment = segment_of(GROUPS, save_marks=save_marks, end=2048)
    expected = [walk(data)[:-1] for data in states(segment)]
    for chunk in (64, 128, 512):
        monkeypatch.setattr(_decoder, "CHUNK_BYTES", chunk)
        monkeypatch.setattr(_marks, "CHUNK_BYTES", chunk)
        assert [walk(data)[:-1] for data in states(segment)] == expected


def test_only_whole_saves_are_given_out(small_chunks: int) -> None:
    """Each run of frames ends where a save ends, at every place at which the file may be truncated."""
    segment = segment_of(GROUPS)
    for cut in range(len(segment.data) + 1):
        outcome = walk(segment.data[:cut])
        for count in accumulate(map(len, outcome.runs)):
            segment.whole_saves(outcome.frames[:count])
        count = segment.whole_saves(outcome.frames)
        paddings = segment.paddings
        complete = sum(all(at in paddings for at in range(cut, end)) for end in segment.ends)
        assert segment.saves_before(cut) <= count <= complete


@pytest.mark.parametrize("save_marks", MARKED)
def test_truncated_at_every_byte(save_marks: bool) -> None:
    """
    R05: behind a file's last whole save there is nothing, or the end is torn; in the head it is corrupt.

    All saves before the cut are there.
    """
    segment = segment_of(GROUPS, save_marks=save_marks)
    frame_ends = [offset + length for offset, length in segment.frame_lengths]
    ends = segment.ends if save_marks else frame_ends
    for cut in range(len(segment.data) + 1):
        outcome = walk(segment.data[:cut])
        last = max([end for end in ends if end <= cut], default=0)
        if last < segment.ends[0]:
            assert outcome.verdict is CORRUPT
        else:
            rest = segment.data[last:cut]
            assert outcome.verdict is (TORN if any(rest) else CLEAN)
            assert outcome.position.offset == last
        assert outcome.frames == [frame for frame, end in zip(segment.frames, frame_ends, strict=True) if end <= last]


@pytest.mark.parametrize("save_marks", MARKED)
def test_reading_goes_on_from_the_end_of_any_save(save_marks: bool) -> None:
    """A position is all that is needed to read on: offset, chain and mark."""
    segment = segment_of(GROUPS, save_marks=save_marks, end=2048)
    for end in segment.ends:
        first = walk(segment.data[:end])
        assert first.position.offset == end
        second = walk(segment.data, start=first.position, head=())
        assert first.frames + second.frames == segment.frames
        assert second.verdict is CLEAN
        assert second.position[:2] == (segment.ends[-1], segment.crc)


class Strict(Bytes):
    """Refuses to be asked for much more than a chunk, or what is left of the file."""

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= len(self.data)
        assert 0 <= length <= max(len(self.data) - offset, _decoder.CHUNK_BYTES) + PREFIX_BYTES
        assert self.reads < 1000
        return super().read(offset, length)


POWERS = [2**k for k in range(56)] + [2**56 - 1, 2**55 - 8, 13_563_782_407_139_376]


@pytest.mark.parametrize("save_marks", MARKED)
def test_impossible_lengths(small_chunks: int, save_marks: bool) -> None:
    """
    R07, R09: any length word is an outcome, and nobody reads or allocates what a damaged length asks for.

    With a length that is not its own, with the padding bits of the old length or those of the new one, a frame
    is torn in the last group and corrupt before it.
    """
    segment = segment_of(GROUPS, save_marks=save_marks, end=2048)
    longest = max(small_chunks + PREFIX_BYTES, *(length for _, length in segment.frame_lengths))
    last = segment.groups[-1] if save_marks else segment.frames[-1][2]
    for offset, _ in segment.frame_lengths:
        (header,) = HEADER.unpack_from(segment.data, offset)
        for size in POWERS:
            padding = -size % 8
            right = header >> 56 & 0x78 | (0x80 | padding if padding else 0)
            for top in {header >> 56, right}:
                damaged = segment.data[:offset] + HEADER.pack(top << 56 | size) + segment.data[offset + 8 :]
                file = Strict(damaged)
                outcome = walk(file)
                assert file.longest <= longest
                if damaged == segment.data:
                    assert outcome.verdict is CLEAN
                    continue
                assert outcome.verdict is (CORRUPT if offset < last else TORN)
                if offset >= segment.ends[0]:
                    assert outcome.frames == segment.frames[: len(outcome.frames)]
                    assert outcome.damage.offset == offset


@pytest.mark.parametrize("length", [2**k for k in range(8, 56, 3)])
def test_impossible_lengths_that_add_up(small_chunks: int, length: int) -> None:
    """R09: so it is if the record agrees with its frame's length."""
    segment = segment_of([[entries(40)]])
    record = encode_frame(ENTRY, 0x12345678, b"", _marks.CODES[ENTRY][_marks.Mark.ONLY])[8:15] + b"\x1a"
    digits, rest = b"", length
    while rest:
        digits, rest = digits + bytes([rest & 0x7F | (0x80 if rest > 0x7F else 0)]), rest >> 7
    record += digits
    size = len(record) + length
    padding = -size % 8
    top = 0b1110 << 3 | (0x80 | padding if padding else 0)
    for reserved in (0, 24, 4096):
        data = segment.data + HEADER.pack(top << 56 | size) + record + bytes(reserved)
        outcome = walk(Strict(data))
        assert (outcome.verdict, outcome.frames) == (TORN, segment.frames)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=600), start=st.sampled_from([0, 1, 2]))
def test_arbitrary_bytes(data: bytes, start: int) -> None:
    """Whatever stands in a segment, at its beginning or behind good saves, is an outcome and invents nothing."""
    segment = segment_of(GROUPS[:start])
    outcome = walk(Strict((segment.data if start else b"") + data))
    if start:
        assert outcome.frames[: len(segment.frames)] == segment.frames
        if outcome.verdict is not CORRUPT:
            assert outcome.position.offset >= len(segment.data)
    else:
        assert outcome.verdict is CORRUPT


@pytest.mark.parametrize("type", [6, 7, 8, 16, 64, 127])
@pytest.mark.parametrize("last", [True, False], ids=["last", "before-others"])
def test_unknown_types(type: int, last: bool) -> None:
    """F22: an intact record of a type that is not known is corruption of its own kind, not a torn end."""
    head = segment_of([])
    data = head.data + chained([(ENTRY, b"a", 0), (type, b"b", 0)], head.crc)
    good = walk(data[: len(data) - 24]).position
    if not last:
        assert good.crc is not None
        data += chained([(ENTRY, b"c", 0)], extend(good.crc, b"b"))
    outcome = walk(data + bytes(64))
    assert (outcome.verdict, outcome.damage.cause) == (CORRUPT, Cause.TYPE)
    assert [value for _, value, _ in outcome.frames[3:]] == [b"a"]


def test_a_crc_record_inside_a_segment() -> None:
    """A CRC record stands anywhere, if it says what the chain is; another chain is a wrong checksum."""
    segment = segment_of([[entries(30)], [[(CRC, b"")]], [entries(20)]], end=512)
    assert (walk(segment.data).verdict, walk(segment.data).frames) == (CLEAN, segment.frames)
    (_, _, offset) = segment.frames[4]
    wrong = encode_frame(CRC, 0x12345678, b"", _marks.CODES[CRC][_marks.Mark.ONLY])
    outcome = walk(segment.data[:offset] + wrong + segment.data[offset + len(wrong) :])
    assert (outcome.verdict, outcome.damage.cause) == (CORRUPT, Cause.CRC)


def test_the_first_chain_begins_with_zero() -> None:
    """The head of the very first segment says 0; one that says something else is not the first one."""
    later = segment_of(GROUPS, crc=0x1234)
    assert walk(later.data).verdict is CORRUPT
    outcome = walk(later.data, start=Position(0, None, None))
    assert (outcome.verdict, outcome.frames) == (CLEAN, later.frames)


# ------------------------------------------------------------------------------------- several segments


def log_of_three(*, save_marks: bool = True) -> list[Segment]:
    """A log that was cut twice; the last segment has reserved space."""
    first = segment_of(GROUPS[:2], save_marks=save_marks)
    second = segment_of(GROUPS[2:], head=LATER_HEAD, crc=first.crc, save_marks=save_marks)
    third = segment_of(GROUPS, head=LATER_HEAD[:2], crc=second.crc, save_marks=save_marks, end=4096)
    return [first, second, third]


def decode(path: Path, names: list[SegmentName], fs: FileSystem = OPERATING_SYSTEM) -> tuple[list[Frame], Decoder]:
    """Walk segments to the end."""
    decoder = Decoder(fs, path, names)
    return [frame for _, frames in decoder for frame in frames], decoder


@pytest.mark.parametrize("save_marks", MARKED)
def test_a_chain_over_segments(path: Path, save_marks: bool) -> None:
    """The chain goes on from one segment to the next, and each frame comes with its segment's path."""
    segments = log_of_three(save_marks=save_marks)
    names = write_log(path, *(segment.data for segment in segments))
    decoder = Decoder(OPERATING_SYSTEM, path, names)
    runs = list(decoder)
    for name, segment in zip(names, segments, strict=True):
        assert [f for where, run in runs if where == path / str(name) for f in run] == segment.frames
    assert decoder.tail is None
    assert decoder.path == path / str(names[-1])
    assert decoder.head_complete
    assert decoder.position[:2] == (segments[-1].ends[-1], segments[-1].crc)
    assert decoder.bytes == sum(segment.ends[-1] for segment in segments)


@pytest.mark.parametrize("first", [1, 2])
def test_a_chain_from_a_later_segment(path: Path, first: int) -> None:
    """R45: a log whose beginning was purged is read from a later segment's head, which says how far the chain is."""
    segments = log_of_three()[first:]
    names = write_log(path, *(segment.data for segment in segments), sequence=first)
    frames, decoder = decode(path, names)
    assert frames == [frame for segment in segments for frame in segment.frames]
    assert (decoder.tail, decoder.position.crc) == (None, segments[-1].crc)


@pytest.mark.parametrize("save_marks", MARKED)
def test_a_segment_that_lost_its_last_save(path: Path, save_marks: bool) -> None:
    """R16: if whole saves are missing from a segment's end, the next segment's head does not fit the chain."""
    first, second, third = log_of_three(save_marks=save_marks)
    for end in first.ends[1:-1]:
        for data in (first.data[:end], replaced(first.data, end, len(first.data))):
            names = write_log(path, data, second.data, third.data)
            with pytest.raises(wal.CRCMismatchError) as caught:
                decode(path, names)
            error = caught.value
            assert (error.path, error.offset) == (path / str(names[1]), 0)
            assert (error.expected, error.found) == (walk(first.data[:end]).position.crc, first.crc)


def test_a_segment_in_the_place_of_another(path: Path) -> None:
    """A segment of another log, or the same one twice, does not fit the chain."""
    first, second, third = log_of_three()
    foreign = segment_of(GROUPS, head=LATER_HEAD, crc=0x1234)
    for data in (foreign.data, third.data, segment_of([], head=LATER_HEAD).data):
        names = write_log(path, first.data, data)
        with pytest.raises(wal.CRCMismatchError):
            decode(path, names)
    names = write_log(path, first.data, second.data, second.data)
    with pytest.raises(wal.CRCMismatchError):
        decode(path, names)


@pytest.mark.parametrize("number", [0, 1])
def test_damage_before_the_last_segment(path: Path, number: int) -> None:
    """
    R15, R16: a segment that is not the last may not end anywhere but at its end, and has no torn writes.

    If whole saves are missing, it is the next segment that does not fit.
    """
    segments = log_of_three()
    names = write_log(path, *(segment.data for segment in segments))
    segment = segments[number]
    for cut in range(segment.ends[0], segment.ends[-1], 3):
        if all(at in segment.paddings for at in range(cut, segment.ends[-1])):
            continue
        (path / str(names[number])).write_bytes(segment.data[:cut])
        with pytest.raises(wal.CorruptionError) as caught:
            decode(path, names)
        assert not isinstance(caught.value, wal.TornWriteError)
        end = segment.ends[segment.saves_before(cut) - 1]
        if any(segment.data[end:cut]):
            assert caught.value.path == path / str(names[number])
            assert end <= caught.value.offset <= cut
        else:
            assert (caught.value.path, caught.value.offset) == (path / str(names[number + 1]), 0)


def test_damage_in_the_last_segment(path: Path) -> None:
    """A torn end is told by ``tail``, which says where the last whole save ends."""
    segments = log_of_three()
    segment = segments[-1]
    for cut in (segment.groups[-1] + 9, segment.ends[-2] + 30, segment.ends[-1] - 20):
        data = replaced(segment.data, cut, len(segment.data))
        names = write_log(path, segments[0].data, segments[1].data, data)
        frames, decoder = decode(path, names)
        tail = decoder.tail
        assert isinstance(tail, wal.TornWriteError)
        assert (tail.path, tail.offset) == (path / str(names[-1]), segment.ends[segment.saves_before(cut) - 1])
        assert decoder.position.offset == tail.offset
        assert len(frames) == sum(map(len, (s for each in segments[:-1] for s in each.saves))) + sum(
            map(len, segment.saves[: segment.saves_before(cut)])
        )


@pytest.mark.parametrize(
    ("damage", "error", "group"),
    [
        pytest.param("data", wal.CRCMismatchError, 1, id="data"),
        pytest.param("length", wal.CorruptionError, 1, id="length"),
        pytest.param("mark", wal.CorruptionError, -1, id="mark-of-the-last-save"),
        pytest.param("type", wal.CorruptionError, -1, id="type-of-the-last-save"),
        pytest.param("unknown", wal.UnknownRecordError, -1, id="unknown-type-at-the-end"),
        pytest.param("head", wal.CorruptionError, 0, id="head"),
    ],
)
def test_damage_is_a_typed_error(path: Path, damage: str, error: type[wal.CorruptionError], group: int) -> None:
    """F22: corruption is raised as what it is, with path, offset and reason."""
    segment = segment_of(GROUPS)
    begin = segment.groups[group]
    bits = {"data": 8 * 22, "length": 0, "mark": 8 * 7 + 4, "type": 8 * 9, "head": 0}
    data = segment.data
    if damage == "unknown":
        begin = len(data)
        data += chained([(9, b"?", 0)], segment.crc)
    else:
        data = flipped(data, 8 * begin + bits[damage])
    names = write_log(path, data + bytes(100))
    with pytest.raises(error) as caught:
        decode(path, names)
    assert type(caught.value) is error
    assert (caught.value.path, caught.value.offset) == (path / str(names[0]), begin)
    assert caught.value.reason


def test_the_expected_and_the_found_crc(path: Path) -> None:
    """A wrong checksum is reported with both values."""
    segment = segment_of([[[(ENTRY, b"abc")]], [entries(30)]])
    (_, _, offset) = segment.frames[3]
    names = write_log(path, segment.data.replace(b"abc", b"abd"))
    with pytest.raises(wal.CRCMismatchError) as caught:
        decode(path, names)
    chain = segment_of([]).crc
    assert (caught.value.expected, caught.value.found) == (extend(chain, b"abd"), extend(chain, b"abc"))
    assert caught.value.offset == offset


def test_a_segment_that_was_purged(path: Path) -> None:
    """R44: a segment that went away between the listing and its turn is a log that is not found, not corruption."""
    names = write_log(path, *(segment.data for segment in log_of_three()))
    (path / str(names[1])).unlink()
    with pytest.raises(wal.WALNotFoundError):
        decode(path, names)


def test_two_thousand_segments(path: Path) -> None:
    """F35: any number of segments without entries is read, without recursion."""
    segments = [segment_of([])]
    for _ in range(2000):
        segments.append(segment_of([], head=LATER_HEAD[:2], crc=segments[-1].crc))
    names = write_log(path, *(segment.data for segment in segments))
    frames, decoder = decode(path, names)
    assert len(frames) == 3 + 2 * 2000
    assert decoder.tail is None


@pytest.mark.parametrize(
    ("head", "first", "later"),
    [
        pytest.param(FIRST_HEAD, True, True, id="with-snapshot"),
        pytest.param(LATER_HEAD, False, True, id="with-state"),
        pytest.param(LATER_HEAD[:2], False, True, id="with-neither"),
        pytest.param(LATER_HEAD[:1], False, False, id="without-metadata"),
        pytest.param(LATER_HEAD[1:], False, False, id="without-crc"),
        pytest.param([*LATER_HEAD[1::-1], *FIRST_HEAD[2:]], False, False, id="metadata-first"),
    ],
)
@pytest.mark.parametrize("sequence", [0, 5])
@pytest.mark.parametrize("save_marks", MARKED)
def test_which_head_a_segment_must_have(
    path: Path, head: Save, first: bool, later: bool, sequence: int, save_marks: bool
) -> None:
    """A segment begins with CRC and metadata, the very first one with a snapshot marker, too; else it is corrupt."""
    names = write_log(path, segment_of(GROUPS, head=head, save_marks=save_marks).data, sequence=sequence)
    if later if sequence else first:
        assert decode(path, names)[1].head_complete
    else:
        with pytest.raises(wal.CorruptionError):
            decode(path, names)


@pytest.mark.parametrize("sequence", [0, 5])
@pytest.mark.parametrize("save_marks", MARKED)
def test_every_flipped_bit_of_a_head(path: Path, sequence: int, save_marks: bool) -> None:
    """
    Damage to a head is never taken for the end of the log, whether saves follow or not.

    Each type has its place in a head, so its byte is looked after there even without marks. Damage in padding
    changes nothing.
    """
    head = FIRST_HEAD if sequence == 0 else LATER_HEAD[:2]
    for groups in ([], GROUPS):
        segment = segment_of(groups, head=head, save_marks=save_marks)
        paddings = segment.paddings
        for bit in range(8 * segment.ends[0]):
            names = write_log(path, flipped(segment.data, bit) + bytes(64), sequence=sequence)
            if bit // 8 in paddings:
                assert decode(path, names)[0] == segment.frames
                continue
            try:
                frames, _ = decode(path, names)
            except wal.CorruptionError as error:
                assert not isinstance(error, wal.TornWriteError)
            else:
                pytest.fail(f"bit {bit}: {len(frames)} of {len(segment.frames)} records, and no error")


@pytest.mark.parametrize("sequence", [0, 5])
@pytest.mark.parametrize("save_marks", MARKED)
def test_the_second_look_agrees(path: Path, sequence: int, save_marks: bool) -> None:
    """Where nobody writes, damage is what it is at the first look: clean, torn or an error, with the same records."""
    head = FIRST_HEAD if sequence == 0 else LATER_HEAD[:2]
    segment = segment_of(GROUPS, head=head, save_marks=save_marks, end=2048)
    start = Position(0, None if sequence else 0, None)
    for data in states(segment):
        expected = walk(data, start=start, head=[type for type, _ in head])
        names = write_log(path, data, sequence=sequence)
        decoder = Decoder(OPERATING_SYSTEM, path, names)
        frames: list[Frame] = []
        raised = False
        try:
            for _, run in decoder:
                frames += run
        except wal.CorruptionError:
            raised = True
        assert raised == (expected.verdict is CORRUPT)
        assert (decoder.tail is not None) == (expected.verdict is TORN)
        assert frames == expected.frames
        assert decoder.position == expected.position


# ------------------------------------------------------------------------------- beside a live writer


class Growing(OperatingSystem):
    """A file system in which the segment becomes another one at the n-th read of it."""

    def __init__(self, before: bytes, after: bytes, reads: int) -> None:
        self.before = before
        self.after = after
        self.reads = reads

    def size(self, fd: int) -> int:
        return len(self.before if self.reads > 0 else self.after)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self.reads -= 1
        return (self.before if self.reads >= 0 else self.after)[offset : offset + length]


def reads_of(path: Path, names: list[SegmentName], data: bytes) -> int:
    """How often a segment that does not change is read."""
    fs = Growing(data, data, 1_000_000)
    with suppress(wal.CorruptionError):
        decode(path, names, fs)
    return 1_000_000 - fs.reads


@pytest.mark.parametrize("reserved", [4096, 0], ids=["reserved", "growing"])
@pytest.mark.parametrize("kind", ["prefix", "sectors"])
@pytest.mark.parametrize("save_marks", MARKED)
def test_a_save_that_is_being_written(path: Path, save_marks: bool, kind: str, reserved: int) -> None:
    """
    R54: half a save that is whole a moment later is the end of the log as it was, not damage.

    Whenever between two reads the rest appears, the reader ends cleanly, with whole saves only.
    """
    segment = segment_of(GROUPS, save_marks=save_marks)
    whole = segment.data + bytes(reserved)
    names = write_log(path, whole)
    start, stop = segment.ends[-2], segment.ends[-1]
    for cut in range(start, stop, 24):
        half = segment.data[:cut] + bytes(reserved and len(whole) - cut)
        if kind == "sectors":
            half = whole[:start] + bytes(cut - start) + whole[cut:]
        for reads in range(reads_of(path, names, half)):
            frames, decoder = decode(path, names, Growing(half, whole, reads))
            assert decoder.tail is None
            if save_marks:
                assert segment.whole_saves(frames) >= len(segment.saves) - 1
            else:
                assert frames == segment.frames[: len(frames)]


def test_a_writer_that_goes_on(path: Path) -> None:
    """R54: several saves that appear while the reader looks at the end are no evidence of damage."""
    segment = segment_of(GROUPS, end=4096)
    names = write_log(path, segment.data)
    for end, cut in product(segment.ends[:-1], (0, 9, 30)):
        half = replaced(segment.data, end + cut, 4096)
        for reads in range(reads_of(path, names, half)):
            frames, decoder = decode(path, names, Growing(half, segment.data, reads))
            assert decoder.tail is None
            assert segment.whole_saves(frames) >= segment.saves_before(end)


def test_a_writer_that_died(path: Path) -> None:
    """Half a save that stays half is a torn end, at the second look, too."""
    segment = segment_of(GROUPS, end=4096)
    names = write_log(path, segment.data)
    for cut in range(segment.ends[-2] + 1, segment.ends[-1] - 8, 24):
        half = replaced(segment.data, cut, 4096)
        _, decoder = decode(path, names, Growing(half, half, 0))
        assert decoder.tail is not None
        assert decoder.tail.offset == segment.ends[-2]


def test_damage_beside_a_live_writer(path: Path) -> None:
    """Damage that is there at the second look counts, whatever was written behind it meanwhile."""
    segment = segment_of(GROUPS, end=4096)
    bad = flipped(segment.data, 8 * (segment.groups[2] + 20))
    before = replaced(bad, segment.groups[4], 4096)
    names = write_log(path, bad)
    for reads in range(8):
        with pytest.raises(wal.CorruptionError):
            decode(path, names, Growing(before, bad, reads))


def test_a_cut_while_reading(path: Path, small_chunks: int) -> None:
    """A segment that is cut to its length, and followed by another, between any two reads, ends cleanly."""
    first, second, _ = log_of_three()
    names = write_log(path, first.data, second.data)
    reserved = first.data + bytes(1000)
    for reads in range(reads_of(path, names[:1], reserved)):
        frames, decoder = decode(path, names[:1], Growing(reserved, first.data, reads))
        assert (frames, decoder.tail) == (first.frames, None)


def test_a_later_segment_that_was_not_listed(path: Path) -> None:
    """
    R16: a torn end is corruption if a segment follows that came too late to be read.

    What is whole in the listed ones is the log as it was; the late one does not belong to it.
    """
    first, second, _ = log_of_three()
    names = write_log(path, first.data, second.data)
    frames, decoder = decode(path, names[:1])
    assert (frames, decoder.tail) == (first.frames, None)
    names = write_log(path, first.data[:-8], second.data)
    with pytest.raises(wal.CorruptionError, match="later segments follow") as caught:
        decode(path, names[:1])
    assert not isinstance(caught.value, wal.TornWriteError)


def test_short_reads(path: Path) -> None:
    """A system that returns fewer bytes than it was asked for, by chance, changes nothing."""

    class Short(OperatingSystem):
        def pread(self, fd: int, length: int, offset: int) -> bytes:
            return super().pread(fd, min(length, 7), offset)

    segments = log_of_three()
    names = write_log(path, *(segment.data for segment in segments))
    frames, decoder = decode(path, names, Short())
    assert frames == [frame for segment in segments for frame in segment.frames]
    assert decoder.tail is None


def test_files_are_closed(path: Path) -> None:
    """R55: no file stays open, whether reading ended, was given up, or raised."""
    opened: set[int] = set()

    class Counting(OperatingSystem):
        def open(self, path: Path, flags: int) -> int:
            fd = super().open(path, flags)
            opened.add(fd)
            return fd

        def close(self, fd: int) -> None:
            super().close(fd)
            opened.discard(fd)

    segments = log_of_three()
    names = write_log(path, *(segment.data for segment in segments))
    decode(path, names, Counting())
    assert not opened
    given_up = iter(Decoder(Counting(), path, names))
    next(given_up)
    assert opened
    given_up.close()  # type: ignore[attr-defined]
    assert not opened
    write_log(path, flipped(segments[0].data, 8 * 60))
    with pytest.raises(wal.CorruptionError):
        decode(path, names, Counting())
    assert not opened
