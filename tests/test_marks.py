"""
Save marks: which saves are whole, and what damage means.

The oracles here are written from the rules, not from the code; the searches are exhaustive over small segments.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segments import (
    CRC,
    ENTRY,
    FIRST_HEAD,
    LATER_HEAD,
    LATER_HEAD_TYPES,
    METADATA,
    SECTOR,
    SNAPSHOT,
    STATE,
    Bytes,
    Fill,
    Group,
    Outcome,
    Save,
    Segment,
    chained,
    entries,
    flipped,
    garbage,
    noise,
    ones,
    replaced,
    segment_of,
    walk,
    zeros,
)
from wal import _marks
from wal._crc32c import extend
from wal._frame import HEADER, PREFIX_BYTES, encode_frame, frame_bytes, parse_record
from wal._marks import CODES, Cause, Damage, Mark, Verdict, ends_save, fits, judge, mark_of, marks_of_save

CLEAN, TORN, CORRUPT = Verdict.CLEAN, Verdict.TORN, Verdict.CORRUPT
FILLS = [pytest.param(fill, id=fill.__name__) for fill in (zeros, garbage, ones, noise)]

# --------------------------------------------------------------------------------------------- the table

TABLE = {
    Mark.NONE: ("0000", "0000"),
    Mark.ONLY: ("1110", "1111"),
    Mark.FIRST: ("1101", "1100"),
    Mark.MORE: ("1011", "1010"),
    Mark.LAST: ("0111", "0110"),
}
TYPES = {METADATA: 0, ENTRY: 0, CRC: 0, STATE: 1, SNAPSHOT: 1}  # the column of the table


def header_with(code: int) -> int:
    """The header of a record of three bytes with this mark code."""
    return (0x85 | code << 3) << 56 | 3


def test_the_table() -> None:
    """The codes on disk, bit for bit."""
    assert {type: {mark: f"{code:04b}" for mark, code in codes.items()} for type, codes in CODES.items()} == {
        type: {mark: codes[column] for mark, codes in TABLE.items()} for type, column in TYPES.items()
    }


@pytest.mark.parametrize("type", range(256))
def test_every_code_is_read_by_the_table(type: int) -> None:
    """Each of the sixteen codes is the table's mark, or invalid; a type that is not known has no marks."""
    for code in range(16):
        marks = [mark for mark, codes in TABLE.items() if type in TYPES and codes[TYPES[type]] == f"{code:04b}"]
        if type not in TYPES and code == 0:
            marks = [Mark.NONE]
        assert mark_of(type, header_with(code)) == (marks[0] if marks else Mark.INVALID)


@pytest.mark.parametrize("mark", [Mark.ONLY, Mark.FIRST, Mark.MORE, Mark.LAST])
@pytest.mark.parametrize("type", TYPES)
def test_no_single_flip_makes_a_valid_pair(type: int, mark: Mark) -> None:
    """F37: a flipped bit in the code, or in the type, which no CRC covers, is always seen."""
    code = CODES[type][mark]
    for bit in range(4):
        assert mark_of(type, header_with(code ^ 1 << bit)) == Mark.INVALID
    for bit in range(8):
        assert mark_of(type ^ 1 << bit, header_with(code)) == Mark.INVALID


@pytest.mark.parametrize("type", TYPES)
def test_a_flip_does_not_mark_an_unmarked_frame(type: int) -> None:
    """One flipped bit does not turn a Go writer's frame into a marked one."""
    assert [mark_of(type, header_with(1 << bit)) for bit in range(4)] == [Mark.INVALID] * 4


@pytest.mark.parametrize(
    ("count", "synced", "marks"),
    [
        pytest.param(1, True, [Mark.ONLY], id="one-synced"),
        pytest.param(1, False, [Mark.LAST], id="one"),
        pytest.param(2, True, [Mark.FIRST, Mark.LAST], id="two-synced"),
        pytest.param(2, False, [Mark.MORE, Mark.LAST], id="two"),
        pytest.param(3, True, [Mark.FIRST, Mark.MORE, Mark.LAST], id="three-synced"),
        pytest.param(3, False, [Mark.MORE, Mark.MORE, Mark.LAST], id="three"),
        pytest.param(5, True, [Mark.FIRST, Mark.MORE, Mark.MORE, Mark.MORE, Mark.LAST], id="five-synced"),
        pytest.param(5, False, [Mark.MORE, Mark.MORE, Mark.MORE, Mark.MORE, Mark.LAST], id="five"),
    ],
)
def test_marks_of_a_save(count: int, synced: bool, marks: list[Mark]) -> None:
    """A save says once that it begins after a sync, if it does, and once that it ends."""
    assert marks_of_save(count, synced=synced) == marks


def test_which_marks_end_a_save() -> None:
    """*Only*, *last* and no mark at all."""
    assert [mark for mark in Mark if mark is not Mark.INVALID and ends_save(mark)] == [Mark.NONE, Mark.ONLY, Mark.LAST]


@pytest.mark.parametrize("before", [None, Mark.NONE, Mark.ONLY, Mark.FIRST, Mark.MORE, Mark.LAST])
@pytest.mark.parametrize("mark", list(Mark))
def test_which_mark_can_follow_which(mark: Mark, before: Mark | None) -> None:
    """
    *Only* and *first* cannot stand inside an open save; *more* and *last* not right behind an unmarked frame, nor at
    the beginning of a segment, before which there is nothing that was not synced. No mark stands anywhere, an
    invalid one nowhere.
    """
    save_is_open = before in (Mark.FIRST, Mark.MORE)
    match mark:
        case Mark.INVALID:
            expected = False
        case Mark.NONE:
            expected = True
        case Mark.ONLY | Mark.FIRST:
            expected = not save_is_open
        case Mark.MORE | Mark.LAST:
            expected = before is not None and before is not Mark.NONE
    assert fits(mark, before) == expected


@given(groups=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), max_size=4))
def test_what_a_writer_marks_fits(groups: list[list[int]]) -> None:
    """Saves of any size in groups of any size are marked so that each mark fits the one before."""
    before: Mark | None = None
    for group in groups:
        for number, count in enumerate(group):
            for mark in map(Mark, marks_of_save(count, synced=number == 0)):
                assert fits(mark, before)
                before = mark
            assert before is not None
            assert ends_save(before)


# --------------------------------------------------------------------------- a crash in the last sync group

# Two groups that were synced, and shapes of a last one that was not. Entries are random bytes.
SYNCED: list[Group] = [
    [entries(40), entries(10, 0, 30)],
    [[(ENTRY, b"\0" * 70), (STATE, b"\x08\x02")], [(STATE, b"\x08\x03")], entries(5)],
]
ONE_SAVE: Group = [entries(500, 600, 900, 20)]
ONE_RECORD: Group = [entries(1600)]
SMALL_SAVE: Group = [[(ENTRY, b""), (STATE, b"")]]
SEVERAL_SAVES: Group = [entries(300), [*entries(20, 600, 3, 200), (STATE, b"\x08\x04")], entries(400, 300), entries(9)]
WITH_ZEROS: Group = [[(ENTRY, bytes(700)), (ENTRY, bytes(500))], [(ENTRY, bytes(600)), (SNAPSHOT, b"\x08\x01")]]

SHAPES = [
    pytest.param(ONE_SAVE, id="one-save"),
    pytest.param(ONE_RECORD, id="one-record"),
    pytest.param(SMALL_SAVE, id="small-save"),
    pytest.param(SEVERAL_SAVES, id="several-saves"),
    pytest.param(WITH_ZEROS, id="payloads-of-zeros"),
]


def sectors(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """The parts of the file's sectors that a write of ``start`` to ``stop`` may harm."""
    return [(max(start, at), min(size, at + SECTOR)) for at in range(start // SECTOR * SECTOR, stop, SECTOR)]


def lost_sectors(data: bytes, start: int, stop: int, fill: Fill) -> Iterator[tuple[int, bytes]]:
    """Every outcome of a write of whole sectors: any of them may be lost. With where the first loss begins."""
    parts = sectors(start, stop, len(data))
    before, behind = data[:start], data[parts[-1][1] :]
    for kept in product((True, False), repeat=len(parts)):
        written = [data[a:b] if keep else fill(b - a) for keep, (a, b) in zip(kept, parts, strict=True)]
        loss = next((a for keep, (a, _) in zip(kept, parts, strict=True) if not keep), len(data))
        yield loss, before + b"".join(written) + behind


def is_whole(segment: Segment, outcome: Outcome, loss: int) -> None:
    """Whole saves only, among them all that lie before the loss, and the end is that of the last one."""
    count = segment.whole_saves(outcome.frames)
    assert count >= segment.saves_before(loss)
    assert outcome.position.offset == segment.ends[count - 1]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("group", SHAPES)
def test_lost_sectors_of_the_last_group(group: Group, fill: Fill) -> None:
    """R01: whichever sectors of the last group were lost, the log ends clean or torn, behind a whole save."""
    segment = segment_of([*SYNCED, group], end=8192)
    for loss, data in lost_sectors(segment.data, segment.groups[-1], segment.ends[-1], fill):
        outcome = walk(data)
        assert outcome.verdict in (CLEAN, TORN), outcome
        is_whole(segment, outcome, loss)


def test_all_subsets_of_thirteen_sectors() -> None:
    """R01: one save over thirteen sectors, of which any may be lost: 8,192 states, all repairable."""
    segment = segment_of([*SYNCED, [entries(*range(40, 1080, 97))]], end=8192)
    start, stop = segment.groups[-1], segment.ends[-1]
    assert len(sectors(start, stop, 8192)) == 13
    verdicts = set()
    for loss, data in lost_sectors(segment.data, start, stop, zeros):
        outcome = walk(data)
        is_whole(segment, outcome, loss)
        verdicts.add(outcome.verdict)
        assert (outcome.frames == segment.frames) == (loss == len(data))
    assert verdicts == {CLEAN, TORN}


@pytest.mark.parametrize("group", SHAPES)
def test_a_file_that_did_not_grow(group: Group) -> None:
    """R01: without reserved space, lost sectors at the end are missing from the file, others are holes of zeros."""
    segment = segment_of([*SYNCED, group])
    start, stop = segment.groups[-1], segment.ends[-1]
    assert walk(segment.data[:start]).verdict is CLEAN
    for _, end in sectors(start, stop, stop):
        for loss, data in lost_sectors(segment.data[:end], start, end, zeros):
            outcome = walk(data)
            assert outcome.verdict in (CLEAN, TORN)
            is_whole(segment, outcome, min(loss, end))


def garbage_to_the_sector(segment: Segment, cut: int) -> bytes:
    stop = -(-cut // SECTOR) * SECTOR
    return replaced(segment.data[:cut] + bytes(len(segment.data) - cut), cut, stop, garbage)


def filled(fill: Fill) -> Callable[[Segment, int], bytes]:
    return lambda segment, cut: replaced(segment.data, cut, len(segment.data), fill)


def shortened(segment: Segment, cut: int) -> bytes:
    return segment.data[:cut]


BEHIND_THE_CUT = [
    pytest.param(filled(zeros), id="zeros"),
    pytest.param(garbage_to_the_sector, id="garbage-to-the-sector"),
    pytest.param(filled(garbage), id="garbage"),
    pytest.param(filled(ones), id="ones"),
    pytest.param(filled(noise), id="noise"),
    pytest.param(shortened, id="end-of-file"),
]


@pytest.mark.parametrize("torn", BEHIND_THE_CUT)
@pytest.mark.parametrize("group", SHAPES)
def test_every_byte_of_the_last_group(group: Group, torn: Callable[[Segment, int], bytes]) -> None:
    """R05, R07, R12: a write that stopped at any byte, whatever is behind it, ends the log clean or torn."""
    segment = segment_of([*SYNCED, group], end=3072)
    for cut in range(segment.groups[-1], segment.ends[-1] + 1):
        data = torn(segment, cut)
        outcome = walk(data)
        is_whole(segment, outcome, cut)
        rest_is_zero = not any(data[outcome.position.offset :])
        assert outcome.verdict is (CLEAN if rest_is_zero else TORN), (cut, outcome)


def test_every_byte_of_a_large_group() -> None:
    """R12: 6,200 places at which one save can be torn, the rest zeros: all repairable, nothing else lost."""
    segment = segment_of([*SYNCED, [entries(*[515] * 12)]], end=8192)
    start, stop = segment.groups[-1], segment.ends[-1]
    assert stop - start > 6200
    for cut in range(start, stop):
        outcome = walk(replaced(segment.data, cut, stop))
        count = segment.whole_saves(outcome.frames)
        complete = segment.data[cut:stop].strip(b"\0") == b""
        assert count == len(segment.saves) - (not complete)
        assert outcome.verdict is (CLEAN if complete or cut == start else TORN)


# ------------------------------------------------------------------------------ damage to what was synced

# Several groups, each of which would be lost if damage before the last one counted as torn.
ACKNOWLEDGED: list[Group] = [
    [entries(3), entries(20, 0, 41), entries(1)],
    [[(ENTRY, b""), (ENTRY, bytes(64)), (STATE, b"\x08\x02")]],
    [entries(100), entries(64, 7)],
    [[(SNAPSHOT, b"\x08\x02")]],
    [entries(33, 30)],
    [entries(50), entries(2, 2)],
]


def only_corrupt(segment: Segment, damaged: bytes, at: int) -> None:
    """The damage is corruption, found at its save; or it changed nothing that counts."""
    outcome = walk(damaged)
    if outcome.verdict is CORRUPT:
        assert segment.whole_saves(outcome.frames) <= segment.saves_before(at)
        assert outcome.position.offset <= at
    else:
        assert outcome.verdict is CLEAN, outcome
        assert outcome.frames == segment.frames


def test_every_flipped_bit_before_the_last_group() -> None:
    """
    F17, F36, F37: a flipped bit in anything that was synced is corruption, and the saves before it are read.

    In padding it changes nothing.
    """
    segment = segment_of(ACKNOWLEDGED, end=2048)
    paddings = segment.paddings
    for bit in range(8 * segment.groups[-1]):
        outcome = walk(flipped(segment.data, bit))
        if bit // 8 in paddings:
            assert (outcome.verdict, outcome.frames) == (CLEAN, segment.frames)
        else:
            assert outcome.verdict is CORRUPT, (bit, outcome)
            assert segment.whole_saves(outcome.frames) == segment.saves_before(bit // 8)


@pytest.mark.parametrize("fill", FILLS)
def test_every_byte_before_the_last_group(fill: Fill) -> None:
    """F17: a byte that turned into another is corruption, or nothing that counts changed; no record is invented."""
    segment = segment_of(ACKNOWLEDGED, end=2048)
    for at in range(segment.groups[-1]):
        outcome = walk(replaced(segment.data, at, at + 1, fill))
        assert outcome.frames == segment.frames[: len(outcome.frames)]
        assert outcome.verdict is CORRUPT or (outcome.verdict is CLEAN and outcome.frames == segment.frames)


@pytest.mark.parametrize("fill", FILLS)
def test_every_damaged_range_before_the_last_group(fill: Fill) -> None:
    """
    F16, F17, R12: any run of words that was lost is corruption if there is a later group.

    The groups in between may have lost their beginnings, too.
    """
    segment = segment_of(ACKNOWLEDGED, end=2048)
    for start, stop in combinations(range(0, segment.groups[-1] + 1, 8), 2):
        only_corrupt(segment, replaced(segment.data, start, stop, fill), start)


def test_every_zeroed_sector_before_the_last_group() -> None:
    """F16, F17: 12 saves, each synced, over many sectors: none of them may be lost but for the last group."""
    segment = segment_of([[entries(size)] for size in range(300, 1500, 100)], end=16384)
    for start, stop in sectors(0, segment.groups[-1], segment.groups[-1]):
        for fill in (zeros, garbage, ones, noise):
            outcome = walk(replaced(segment.data, start, stop, fill))
            assert outcome.verdict is CORRUPT
            assert segment.whole_saves(outcome.frames) == segment.saves_before(start)


@pytest.mark.parametrize("lost", range(1, len(ACKNOWLEDGED) - 1))
def test_the_first_bytes_of_a_later_group_are_enough(lost: int) -> None:
    """The first 24 bytes of a later group's first frame say that all before it had been synced."""
    segment = segment_of(ACKNOWLEDGED, end=2048)
    for group in range(lost + 1, len(segment.groups)):
        begin = segment.groups[group]
        data = replaced(segment.data, segment.groups[lost], len(segment.data))
        data = data[:begin] + segment.data[begin : begin + 24] + data[begin + 24 :]
        outcome = walk(data)
        assert outcome.verdict is CORRUPT
        assert f"{begin:,}" in outcome.reason
        assert segment.whole_saves(outcome.frames) == segment.saves_before(segment.groups[lost])


def test_every_flipped_bit_of_the_last_group() -> None:
    """
    What no later sync vouches for is torn, but never clean; that is the limit, and why repair keeps a copy.

    A wrong mark or type on an intact frame is no crash even there.
    """
    segment = segment_of([*ACKNOWLEDGED, SEVERAL_SAVES], end=4096)
    paddings, verdicts = segment.paddings, set()
    for bit in range(8 * segment.groups[-1], 8 * segment.ends[-1]):
        outcome = walk(flipped(segment.data, bit))
        if bit // 8 in paddings:
            assert (outcome.verdict, outcome.frames) == (CLEAN, segment.frames)
        else:
            verdicts.add(outcome.verdict)
            assert segment.whole_saves(outcome.frames) == segment.saves_before(bit // 8)
    assert verdicts == {TORN, CORRUPT}


def test_misdirected_sectors() -> None:
    """A sector that was overwritten with another one of the segment is corruption if a later group is whole."""
    sizes = random.Random(7)
    groups = [[entries(*(sizes.randrange(300) for _ in range(sizes.randrange(1, 4))), seed=n)] for n in range(24)]
    segment = segment_of(groups, end=8192)
    starts = range(0, segment.groups[-1] - SECTOR, SECTOR)
    assert len(starts) > 12
    for source, target in product(starts, repeat=2):
        data = segment.data[:target] + segment.data[source : source + SECTOR] + segment.data[target + SECTOR :]
        only_corrupt(segment, data, target)


# --------------------------------------------------------------------------- head, later segments, marks

HEADS = [
    pytest.param(FIRST_HEAD, (CRC, METADATA, SNAPSHOT), True, id="first-marked"),
    pytest.param(FIRST_HEAD, (CRC, METADATA, SNAPSHOT), False, id="first-unmarked"),
    pytest.param(LATER_HEAD, LATER_HEAD_TYPES, True, id="later-marked"),
    pytest.param(LATER_HEAD[:2], LATER_HEAD_TYPES, True, id="later-without-state"),
    pytest.param(LATER_HEAD[:2], LATER_HEAD_TYPES, False, id="later-unmarked-without-state"),
]


@pytest.mark.parametrize("saves", [0, 2])
@pytest.mark.parametrize(("head", "types", "marked"), HEADS)
def test_a_damaged_head(head: Save, types: Sequence[int], marked: bool, saves: int) -> None:
    """
    A head was synced before the segment got its name, so damage to it is corruption, in the last segment too.

    The type byte of an unmarked frame is covered by nothing, but each type has its place in a head.
    """
    segment = segment_of([[entries(30)]] * saves, head=head, save_marks=marked, end=1024)
    end, paddings = segment.ends[0], segment.paddings
    for bit in range(8 * end):
        outcome = walk(flipped(segment.data, bit), head=types)
        assert outcome.verdict is (CLEAN if bit // 8 in paddings else CORRUPT), (bit, outcome)
    for start, stop in combinations(range(0, end + 1, 8), 2):
        for fill in (zeros, garbage, ones):
            assert walk(replaced(segment.data, start, stop, fill), head=types).verdict is CORRUPT
    for cut in range(end):
        outcome = walk(segment.data[:cut], head=types)
        complete = not any(at not in paddings for at in range(cut, end))
        assert outcome.verdict is CORRUPT or (complete and outcome.verdict is TORN)


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([(METADATA, b"node")], id="no-crc"),
        pytest.param([(CRC, b"")], id="crc-alone"),
        pytest.param([(CRC, b""), (METADATA, b"node")], id="no-snapshot"),
        pytest.param([(METADATA, b"node"), (CRC, b""), (SNAPSHOT, b"")], id="order"),
        pytest.param([(CRC, b""), (CRC, b""), (METADATA, b"node"), (SNAPSHOT, b"")], id="crc-twice"),
        pytest.param([(CRC, b""), (METADATA, b"node"), (ENTRY, b"")], id="entry-for-snapshot"),
        pytest.param([(CRC, b""), (METADATA, b"node"), (STATE, b"")], id="state-for-snapshot"),
        pytest.param([(CRC, b""), (SNAPSHOT, b""), (METADATA, b"node")], id="snapshot-before-metadata"),
        pytest.param([(ENTRY, b"x")], id="entry"),
    ],
)
@pytest.mark.parametrize("save_marks", [True, False], ids=["marked", "unmarked"])
def test_a_wrong_head(records: Save, save_marks: bool) -> None:
    """A first segment without CRC, metadata and snapshot in this order is corrupt, whatever else it has."""
    segment = segment_of([], head=records, save_marks=save_marks, end=256)
    assert walk(segment.data).verdict is CORRUPT


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4096])
def test_no_head_at_all(size: int) -> None:
    """R30: a segment without a byte, or of zeros only, is corrupt: none gets its name before it has a head."""
    assert walk(bytes(size)).verdict is CORRUPT


@pytest.mark.parametrize("group", SHAPES)
def test_a_later_segment_follows(group: Group) -> None:
    """R16: what ends in the middle of a save is corrupt if there is a later segment; a whole save is an end."""
    segment = segment_of([*SYNCED, group])
    for cut in range(segment.groups[-1], segment.ends[-1] + 1):
        for data in (segment.data[:cut], replaced(segment.data, cut, segment.ends[-1])):
            outcome = walk(data, last_segment=False)
            at_end = not any(data[outcome.position.offset :])
            assert outcome.verdict is (CLEAN if at_end else CORRUPT), (cut, outcome)
            is_whole(segment, outcome, cut)


@pytest.mark.parametrize("types", [(ENTRY, ENTRY), (STATE, SNAPSHOT), (CRC, ENTRY), (METADATA, STATE)])
def test_a_good_frame_with_a_wrong_mark(types: tuple[int, int]) -> None:
    """
    An intact frame whose mark is none, or cannot follow the one before, is corruption: a crash loses sectors,
    it does not change a byte of a frame. All pairs of codes, behind a head.
    """
    head = segment_of([])
    for codes in product(range(16), repeat=2):
        records = [(type, b"" if type == CRC else b"data", code) for type, code in zip(types, codes, strict=True)]
        outcome = walk((head.data + chained(records, head.crc)).ljust(1024, b"\0"))
        marks = [mark_of(type, header_with(code)) for type, code in zip(types, codes, strict=True)]
        count, before = 0, int(Mark.LAST)
        for mark in marks:
            if not fits(mark, before):
                break
            count, before = count + 1, mark
        whole = max((n for n in range(1, count + 1) if ends_save(marks[n - 1])), default=0)
        assert len(outcome.frames) == 3 + whole
        expected = CORRUPT if count < 2 else CLEAN if whole == 2 else TORN
        assert outcome.verdict is expected, (codes, outcome)
        assert (outcome.damage.cause is Cause.MARK) == (count < 2)


@pytest.mark.parametrize("opened", [[Mark.FIRST], [Mark.FIRST, Mark.MORE], [Mark.LAST, Mark.MORE, Mark.MORE]])
def test_an_unmarked_frame_adopts_an_open_save(opened: list[Mark]) -> None:
    """A Go writer went on behind half a save, and so took over its records: each stands now."""
    head = segment_of([])
    records = [(ENTRY, bytes([number]), CODES[ENTRY][mark]) for number, mark in enumerate([*opened, Mark.NONE])]
    data = head.data + chained(records, head.crc)
    outcome = walk(data.ljust(1024, b"\0"))
    assert outcome.verdict is CLEAN
    assert [(type, value) for type, value, _ in outcome.frames[3:]] == [(type, value) for type, value, _ in records]
    assert outcome.position.offset == len(data)
    torn = walk(head.data + chained(records[:-1], head.crc) + bytes(64))
    assert torn.verdict is TORN


def test_marked_saves_behind_unmarked_ones() -> None:
    """A log may have saves of both kinds: whoever begins to mark has synced what was there."""
    unmarked = segment_of([[entries(30, 5)], [entries(40)]], save_marks=False)
    marked = segment_of([[entries(50, 6)]], head=entries(20, 7), crc=unmarked.crc)
    again = segment_of([], head=entries(8, 8), crc=marked.crc, save_marks=False)
    data = unmarked.data + marked.data + again.data
    outcome = walk(data.ljust(2048, b"\0"))
    assert outcome.verdict is CLEAN
    assert [f[1] for f in outcome.frames] == [f[1] for s in (unmarked, marked, again) for f in s.frames]
    begin = len(unmarked.data)
    assert walk(replaced(data, begin - 30, begin)).verdict is CORRUPT


# --------------------------------------------------------------------------------- logs without marks


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("group", SHAPES)
def test_lost_sectors_without_marks(group: Group, fill: Fill) -> None:
    """
    Without marks, frames behind a lost sector look acknowledged: that is an error, but neither loss nor invention.

    Each record stands alone, so what is read is all before the loss.
    """
    segment = segment_of([*SYNCED, group], save_marks=False, end=8192)
    for loss, data in lost_sectors(segment.data, segment.groups[-1], segment.ends[-1], fill):
        prefix_of_records(segment, walk(data), loss)


def prefix_of_records(segment: Segment, outcome: Outcome, loss: int) -> None:
    assert outcome.frames == segment.frames[: len(outcome.frames)]
    assert len(outcome.frames) >= sum(at + length <= loss for at, length in segment.frame_lengths)
    last, length = segment.frame_lengths[len(outcome.frames) - 1]
    assert outcome.position.offset == last + length


@pytest.mark.parametrize("torn", [BEHIND_THE_CUT[0], BEHIND_THE_CUT[2], BEHIND_THE_CUT[-1]])
@pytest.mark.parametrize("group", SHAPES)
def test_every_byte_of_the_last_group_without_marks(group: Group, torn: Callable[[Segment, int], bytes]) -> None:
    """R12: without marks, too, a write that stopped at a byte is repairable, and every whole record is kept."""
    segment = segment_of([*SYNCED, group], save_marks=False, end=3072)
    for cut in range(segment.groups[-1], segment.ends[-1] + 1):
        outcome = walk(torn(segment, cut))
        assert outcome.verdict in (CLEAN, TORN), (cut, outcome)
        prefix_of_records(segment, outcome, cut)


def test_every_flipped_bit_without_marks() -> None:
    """
    F37: a flipped bit in an unmarked frame is corruption if another frame follows, and torn in the last one.

    But a flipped bit of a type may make another type, since nothing covers it: the payload is still what it was.
    """
    segment = segment_of(ACKNOWLEDGED, save_marks=False, end=2048)
    paddings, types = segment.paddings, {offset + 9 for offset, _ in segment.frame_lengths}
    retyped = 0
    for bit in range(8 * segment.ends[0], 8 * segment.ends[-1]):
        outcome = walk(flipped(segment.data, bit))
        if bit // 8 in paddings:
            assert (outcome.verdict, outcome.frames) == (CLEAN, segment.frames)
        elif outcome.verdict is CLEAN:
            retyped += 1
            assert bit // 8 in types
            assert [f[1:] for f in outcome.frames] == [f[1:] for f in segment.frames]
        else:
            assert outcome.verdict is CORRUPT or bit // 8 >= segment.frames[-1][2]
            assert outcome.frames == segment.frames[: len(outcome.frames)]
    assert 0 < retyped < 2 * len(segment.frames)


def test_damage_before_other_frames_without_marks() -> None:
    """F16, F17: an unmarked frame behind damage counts as acknowledged: any lost run of words is corruption."""
    segment = segment_of(ACKNOWLEDGED, save_marks=False, end=2048)
    last = segment.frames[-1][2]
    for start, stop in combinations(range(segment.ends[0], last + 1, 8), 2):
        outcome = walk(replaced(segment.data, start, stop))
        assert outcome.frames == segment.frames[: len(outcome.frames)]
        assert outcome.verdict is CORRUPT or (outcome.verdict is CLEAN and outcome.frames == segment.frames)


# -------------------------------------------------------------------------------- frames inside payloads


def payload_of_frames(shift: int) -> bytes:
    """A payload with frames that say "synced before", and unmarked ones, on the eight bytes of the file."""
    inner = segment_of([[entries(30)], [entries(5, 6)]], save_marks=True).data
    return b"\0" * shift + inner + segment_of([], save_marks=False).data


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("shift", range(8))
def test_payloads_with_frames(shift: int, fill: Fill) -> None:
    """A payload that contains log frames may make a torn end be refused, but loses and invents nothing."""
    payload = payload_of_frames(shift)
    segment = segment_of([*SYNCED, [[(ENTRY, payload), (ENTRY, payload)], [(ENTRY, payload)]]], end=2560)
    assert walk(segment.data).verdict is CLEAN
    states = chain(
        (
            (cut, replaced(segment.data, cut, segment.ends[-1], fill))
            for cut in range(segment.groups[-1], segment.ends[-1])
        ),
        lost_sectors(segment.data, segment.groups[-1], segment.ends[-1], fill),
    )
    for loss, data in states:
        is_whole(segment, walk(data), loss)


@pytest.mark.parametrize("shift", range(8))
def test_payloads_with_frames_before_a_whole_frame(shift: int) -> None:
    """A torn payload that contains frames is stepped over if the frames before and behind it are there."""
    save = [(ENTRY, payload_of_frames(shift)), (ENTRY, b"behind"), (ENTRY, payload_of_frames(shift)), (STATE, b"")]
    segment = segment_of([*SYNCED, [save]], end=2560)
    (_, _, first), (_, _, second), (_, _, third), (_, _, fourth) = segment.saves[-1]
    for start, stop in ((first + 24, second), (third + 24, fourth)):
        for cut in range(start, stop):
            assert walk(replaced(segment.data, cut, stop)).verdict in (CLEAN, TORN)


def test_a_misdirected_header_hides_no_later_group() -> None:
    """
    The length in a header is believed only if a frame stands behind it that continues its checksum.

    The first bytes of a frame that reaches to any place behind take the place of each group but the last.
    """
    segment = segment_of([[entries(30 + 8 * n, seed=n)] for n in range(12)], end=2048)
    for target in segment.groups[1:-1]:
        for end in range(target + 48, len(segment.data) + 1, 8):
            header = encode_frame(ENTRY, 0xF1234567, bytes(end - target - 24), CODES[ENTRY][Mark.MORE])[:24]
            data = segment.data[:target] + header + segment.data[target + 24 :]
            assert walk(data).damage.frame_bytes == end - target
            only_corrupt(segment, data, target)


@pytest.mark.parametrize("shift", range(8))
def test_damaged_payloads_with_frames(shift: int) -> None:
    """A payload that contains frames hides no damage: a lost run of words before a later group is corruption."""
    payload = payload_of_frames(shift)
    segment = segment_of([[[(ENTRY, payload)]], [entries(30)]], end=1024)
    for start, stop in combinations(range(segment.ends[0], segment.groups[-1] + 1, 8), 2):
        only_corrupt(segment, replaced(segment.data, start, stop), start)


# ------------------------------------------------------------------------------ the search for evidence

BIG = 64_000_000
EVIDENCE = [Mark.NONE, Mark.ONLY, Mark.FIRST]
NO_EVIDENCE = [Mark.MORE, Mark.LAST]
DAMAGE_AT = 4096


def evidence(mark: Mark, type: int = ENTRY, size: int = 100) -> bytes:
    """A frame with this mark. Its CRC is not looked at."""
    return encode_frame(type, 0xF1234567, b"" if type == CRC else b"e" * size, CODES[type][mark])


class Planted:
    """A file of zeros with something here and there, without the memory for it."""

    def __init__(self, size: int, frames: dict[int, bytes]) -> None:
        self.size = size
        self.frames = frames
        self.longest = 0

    def read(self, offset: int, length: int) -> bytes:
        self.longest = max(self.longest, length)
        data = bytearray(max(min(length, self.size - offset), 0))
        for at, frame in self.frames.items():
            start, stop = max(at, offset), min(at + len(frame), offset + len(data))
            if start < stop:
                data[start - offset : stop - offset] = frame[start - at : stop - at]
        return bytes(data)


def judged(read: Callable[[int, int], bytes], size: int, damage: Damage) -> tuple[Verdict, str]:
    return judge(read, size, damage, crc=0, save_open=False, head_complete=True, last_segment=True)


def test_a_large_file_of_zeros() -> None:
    """Only zeros from the damage on are the end of the log; a single byte at the end of them is not."""
    file = Planted(BIG, {})
    assert judged(file.read, BIG, Damage(DAMAGE_AT, Cause.END))[0] is CLEAN
    file.frames = {BIG - 1: b"\x01"}
    assert judged(file.read, BIG, Damage(DAMAGE_AT, Cause.END))[0] is TORN
    file.frames = {DAMAGE_AT: b"\x01"}
    assert judged(file.read, BIG, Damage(DAMAGE_AT, Cause.MALFORMED))[0] is TORN


@pytest.mark.parametrize("cause", [Cause.END, Cause.MALFORMED])
@pytest.mark.parametrize("mark", EVIDENCE + NO_EVIDENCE)
def test_evidence_at_the_end_of_a_large_file(mark: Mark, cause: Cause) -> None:
    """F16: one frame at the very end of a hole of 64 MB is found, in bounded memory."""
    frame = evidence(mark)
    at = BIG - len(frame)
    file = Planted(BIG, {DAMAGE_AT: b"\xff" * (cause is Cause.MALFORMED), at: frame})
    verdict, reason = judged(file.read, BIG, Damage(DAMAGE_AT, cause))
    assert verdict is (CORRUPT if mark in EVIDENCE else TORN)
    assert (f"{at:,}" in reason) == (mark in EVIDENCE)
    assert file.longest <= _marks.CHUNK_BYTES + PREFIX_BYTES


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(random.Random(6).randbytes(1 << 20), id="random"),
        pytest.param(b"\x08" * 8, id="eights"),
        pytest.param(b"\xff" * 8, id="ones"),
        pytest.param(b"\x08\x02\x10\xff\xff\xff\xff\x0f", id="records-without-headers"),
        pytest.param(encode_frame(ENTRY, 9, b"x" * 20, CODES[ENTRY][Mark.LAST]), id="frames-of-the-group"),
    ],
)
def test_a_large_file_of_anything(pattern: bytes) -> None:
    """64 MB of anything else hide no frame, and are none."""
    data = pattern * (BIG // len(pattern))
    assert judged(Bytes(data).read, len(data), Damage(DAMAGE_AT, Cause.MALFORMED))[0] is TORN
    frame = evidence(Mark.ONLY)
    at = len(data) - len(frame)
    data = data[:at] + frame
    verdict, reason = judged(Bytes(data).read, len(data), Damage(DAMAGE_AT, Cause.MALFORMED))
    assert verdict is CORRUPT
    assert f"{at:,}" in reason


def test_a_word_that_looks_like_a_header_hides_no_frame_behind_it() -> None:
    """What the look-up of single bytes takes for a frame is looked at, and the search goes on with the next word."""
    frame = evidence(Mark.ONLY, size=509)
    assert frame[:3] == b"\x08\x02\x00", "behind a word of a small record, this is the beginning of one"
    decoy = b"\x02\x00\x01\x00\x00\x00\x00\x00"
    at = DAMAGE_AT + 64
    file = Planted(8192, {DAMAGE_AT: b"\xff", at - 8: decoy, at: frame})
    verdict, reason = judged(file.read, 8192, Damage(DAMAGE_AT, Cause.MALFORMED))
    assert verdict is CORRUPT
    assert f"byte {at:,} " in reason


def found_around_a_border(mark: Mark, type: int, length: int, border: int, *, step: bool) -> None:
    """
    A frame is found wherever it lies around the border of what is read at once.

    The search begins behind the damage, or where stepping over a frame of the torn group led to.
    """
    torn = encode_frame(ENTRY, 1, bytes(400), CODES[ENTRY][Mark.LAST])
    damage = Damage(DAMAGE_AT, Cause.CRC, len(torn)) if step else Damage(DAMAGE_AT, Cause.MALFORMED)
    middle = DAMAGE_AT + (len(torn) if step else 8) + border * _marks.CHUNK_BYTES
    frame = evidence(mark, type, length)
    size = middle + _marks.CHUNK_BYTES + len(frame)
    for at in range(middle - 80, middle + 80, 8):
        file = Planted(size, {DAMAGE_AT: torn if step else b"\xff", at: frame})
        verdict, reason = judged(file.read, size, damage)
        assert verdict is CORRUPT
        assert f"byte {at:,} " in reason


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("mark", EVIDENCE)
@pytest.mark.parametrize("step", [False, True], ids=["search", "step"])
def test_evidence_at_the_borders_of_chunks(type: int, mark: Mark, step: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of frame that says "synced before", short and long, is found around the border of two chunks."""
    monkeypatch.setattr(_marks, "CHUNK_BYTES", 256)
    for length, border in product((1, 30, 100, 3000), (1, 2)):
        found_around_a_border(mark, type, length, border, step=step)


@pytest.mark.parametrize("step", [False, True], ids=["search", "step"])
def test_evidence_at_the_border_of_a_whole_chunk(step: bool) -> None:
    """So it is with chunks as large as they are."""
    found_around_a_border(Mark.ONLY, ENTRY, 100, 1, step=step)


def well_formed(data: bytes, at: int) -> tuple[int, int] | None:
    """The length and the mark of the frame that begins here, if one does."""
    if at + 8 > len(data):
        return None
    (header,) = HEADER.unpack_from(data, at)
    length = frame_bytes(header)
    if not length or at + length > len(data):
        return None
    record = parse_record(data, at + 8, at + 8 + (header & (1 << 56) - 1))
    if record is None or record[0] not in TYPES:
        return None
    mark = mark_of(record[0], header)
    return None if mark == Mark.INVALID else (length, mark)


def continues(data: bytes, before: int, at: int) -> bool:
    """Whether the checksum of the frame at ``at`` is that of the frame at ``before`` and its own data."""
    (_, crc, _) = parsed(data, before)
    (_, found, begin) = parsed(data, at)
    length = HEADER.unpack_from(data, at)[0] & (1 << 56) - 1
    return extend(crc, data[begin : at + 8 + length]) == found


def parsed(data: bytes, at: int) -> tuple[int, int, int]:
    record = parse_record(data, at + 8, at + 8 + (HEADER.unpack_from(data, at)[0] & (1 << 56) - 1))
    assert record
    return record


def find_evidence(data: bytes, damage: Damage) -> int | None:
    """The rule, place by place: step over frames that continue one another, then look at every multiple of eight."""
    at = damage.offset
    here = well_formed(data, at)
    while here and (frame := well_formed(data, at + here[0])) and continues(data, at, at + here[0]):
        at += here[0]
        if frame[1] in EVIDENCE:
            return at
        here = frame
    for place in range(at + 8, len(data), 8):
        frame = well_formed(data, place)
        if frame and frame[1] in EVIDENCE:
            return place
    return None


@pytest.fixture(params=[64, 128, 1 << 20])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Read so much at once."""
    monkeypatch.setattr(_marks, "CHUNK_BYTES", request.param)
    return int(request.param)


def test_the_search_follows_the_rule(chunk_bytes: int) -> None:
    """Frames of all marks, holes and rubbish in any order: what is found is what the rule says, place by place."""
    choices = random.Random(chunk_bytes)
    found = 0
    for _ in range(1500):
        parts = []
        crc = 0
        for _ in range(choices.randrange(1, 9)):
            type = choices.choice(list(TYPES))
            # Mostly marks that are no evidence, so that it takes a while.
            mark = choices.choice([*NO_EVIDENCE * 6, *EVIDENCE])
            payload = b"" if type == CRC else b"e" * choices.choice((0, 1, 7, 20, 60, 200))
            crc = extend(crc, payload) if choices.randrange(4) else 0xF1234567
            frame = encode_frame(type, crc, payload, CODES[type][mark])
            match choices.randrange(6):
                case 0:
                    parts.append(bytes(8 * choices.randrange(12)))
                case 1:
                    parts.append(choices.randbytes(8 * choices.randrange(6)))
                case 2:
                    parts.append(flipped(frame, choices.randrange(8 * min(len(frame), 24))))
                case 3:
                    parts.append(frame[: 8 * choices.randrange(len(frame) // 8)])
                case _:
                    parts.append(frame)
        data = b"\xff" * 8 + b"".join(parts)
        data = data[: len(data) - choices.choice((0, 0, 0, choices.randrange(len(data))))]
        if len(data) < 8:
            continue
        first = well_formed(data, 8)
        damages = [Damage(0, Cause.MALFORMED)]
        if first:
            damages.append(Damage(8, Cause.CRC, first[0]))
        for damage in damages:
            expected = find_evidence(data, damage)
            verdict, reason = judged(Bytes(data).read, len(data), damage)
            if not any(data[damage.offset :]):
                assert verdict is CLEAN
            elif expected is None:
                assert verdict is TORN
            else:
                found += 1
                assert verdict is CORRUPT
                assert f"byte {expected:,} " in reason
    assert found > 100


def test_a_file_that_shrinks_meanwhile() -> None:
    """A segment that is cut to its length while it is judged gives a verdict, not an exception or a hang."""
    for size in range(0, 4096, 8):
        file = Bytes(bytes(DAMAGE_AT) + b"\xff" * 8 + bytes(size))
        for damage in (Damage(DAMAGE_AT, Cause.END), Damage(DAMAGE_AT, Cause.CRC, 24)):
            assert judged(file.read, BIG, damage)[0] in (CLEAN, TORN)
