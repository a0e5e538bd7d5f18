"""Segment names: the two numbers in them, to the letter, and which segment a read begins with."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wal._names import SegmentName, is_temporary, select

numbers = st.integers(0, 2**64 - 1)
names = st.builds(SegmentName, numbers, numbers)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(SegmentName(0, 0), "0000000000000000-0000000000000000.wal", id="first"),
        pytest.param(SegmentName(1, 0x21), "0000000000000001-0000000000000021.wal", id="second"),
        pytest.param(SegmentName(0xABCDEF, 10), "0000000000abcdef-000000000000000a.wal", id="lower-case"),
        pytest.param(SegmentName(2**64 - 1, 2**64 - 1), "ffffffffffffffff-ffffffffffffffff.wal", id="last"),
    ],
)
def test_known_names(name: SegmentName, text: str) -> None:
    """Two numbers of sixteen hexadecimal digits, as the Go programs write them."""
    assert str(name) == text
    assert SegmentName.parse(text) == name
    assert name.temporary == text + ".tmp"


@given(name=names)
def test_round_trip(name: SegmentName) -> None:
    """A name is what its text says, and a temporary name is not the name of a segment."""
    assert SegmentName.parse(str(name)) == name
    assert SegmentName.parse(name.temporary) is None
    assert is_temporary(name.temporary)
    assert not is_temporary(str(name))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("1-2.wal", id="short"),
        pytest.param("0000000000000001-2.wal", id="short-index"),
        pytest.param("1-0000000000000002.wal", id="short-sequence"),
        pytest.param("000000000000001-00000000000000002.wal", id="hyphen-moved"),
        pytest.param("00000000000000001-0000000000000002.wal", id="17-digits"),
        pytest.param("0000000000000001-00000000000000002.wal", id="17-digits-of-index"),
        pytest.param("000000000000000A-0000000000000002.wal", id="upper-case"),
        pytest.param("000000000000000a-000000000000000B.wal", id="upper-case-index"),
        pytest.param("000000000000000a-000000000000000b.WAL", id="upper-case-extension"),
        pytest.param("000000000000000g-0000000000000002.wal", id="not-a-digit"),
        pytest.param("0x00000000000001-0000000000000002.wal", id="prefix-0x"),
        pytest.param("-000000000000001-0000000000000002.wal", id="minus"),
        pytest.param("+000000000000001-0000000000000002.wal", id="plus"),
        pytest.param("00000000_0000001-0000000000000002.wal", id="underscore"),
        pytest.param("000000000000000\u0661-0000000000000002.wal", id="arabic-digit"),
        pytest.param("000000000000000\uff11-0000000000000002.wal", id="full-width-digit"),
        pytest.param(" 000000000000001-0000000000000002.wal", id="space"),
        pytest.param(" 0000000000000001-0000000000000002.wal", id="space-before"),
        pytest.param("0000000000000001-0000000000000002.wal\n", id="newline-behind"),
        pytest.param("0000000000000001-0000000000000002.wal ", id="space-behind"),
        pytest.param("0000000000000001-0000000000000002.wal.tmp", id="temporary"),
        pytest.param("0000000000000001-0000000000000002.wal.tmp.tmp", id="twice-temporary"),
        pytest.param("0000000000000001-0000000000000002.wal.broken", id="backup"),
        pytest.param("0000000000000001-0000000000000002.snap", id="snapshot"),
        pytest.param("0000000000000001-0000000000000002xwal", id="no-dot"),
        pytest.param("0000000000000001-0000000000000002", id="no-extension"),
        pytest.param("00000000000000010000000000000002.wal", id="no-hyphen"),
        pytest.param("0000000000000001_0000000000000002.wal", id="another-hyphen"),
        pytest.param("./0000000000000001-0000000000000002.wal", id="path"),
        pytest.param("0.tmp", id="temporary-of-the-go-programs"),
        pytest.param("lost+found", id="lost-and-found"),
        pytest.param("", id="empty"),
    ],
)
def test_what_is_no_segment(text: str) -> None:
    """F29: a name that is only nearly right belongs to somebody else."""
    assert SegmentName.parse(text) is None
    assert is_temporary(text) == (text == "0000000000000001-0000000000000002.wal.tmp")


@given(text=st.from_regex(r"[0-9a-fA-F]{15,17}-[0-9a-f]{15,17}\.wal(\.tmp)?\n?") | st.text(max_size=40))
def test_a_name_has_one_form(text: str) -> None:
    """Whatever is taken for a name is what would have been written."""
    name = SegmentName.parse(text)
    assert name is None or str(name) == text
    assert not is_temporary(text) or SegmentName.parse(text.removesuffix(".tmp")) is not None


@given(some=st.lists(names))
def test_order(some: list[SegmentName]) -> None:
    """Names sort by sequence, and their texts sort alike."""
    assert [str(name) for name in sorted(some)] == sorted(map(str, some))
    assert [name.sequence for name in sorted(some)] == sorted(name.sequence for name in some)


@pytest.mark.parametrize(
    ("first_indexes", "index", "position"),
    [
        pytest.param([], 0, None, id="no-segments"),
        pytest.param([0], 0, 0, id="one-at-the-beginning"),
        pytest.param([0], 2**64 - 1, 0, id="one-far-behind"),
        pytest.param([0, 11, 21, 31], 0, 0, id="beginning"),
        pytest.param([0, 11, 21, 31], 10, 0, id="last-of-the-first"),
        pytest.param([0, 11, 21, 31], 11, 1, id="first-of-the-second"),
        pytest.param([0, 11, 21, 31], 20, 1, id="last-of-the-second"),
        pytest.param([0, 11, 21, 31], 21, 2, id="first-of-the-third"),
        pytest.param([0, 11, 21, 31], 30, 2, id="last-of-the-third"),
        pytest.param([0, 11, 21, 31], 31, 3, id="first-of-the-last"),
        pytest.param([0, 11, 21, 31], 1_000_000, 3, id="far-behind"),
        pytest.param([11, 21], 0, None, id="beginning-purged"),
        pytest.param([11, 21], 10, None, id="one-before-what-is-left"),
        pytest.param([11, 21], 11, 0, id="first-of-what-is-left"),
        pytest.param([0, 11, 11, 11], 11, 3, id="segments-without-entries"),
        pytest.param([0, 11, 11, 11], 10, 0, id="before-segments-without-entries"),
        pytest.param([0, 11, 5, 8], 4, 0, id="overwritten-before"),
        pytest.param([0, 11, 5, 8], 5, 2, id="overwritten-first"),
        pytest.param([0, 11, 5, 8], 7, 2, id="overwritten-between"),
        pytest.param([0, 11, 5, 8], 8, 3, id="overwritten-second"),
        pytest.param([0, 11, 5, 8], 11, 3, id="overwritten-old-first-index"),
    ],
)
def test_select(first_indexes: list[int], index: int, position: int | None) -> None:
    """R58: a read behind an index begins with the last segment whose name has at most that index."""
    assert select([SegmentName(*pair) for pair in enumerate(first_indexes)], index) == position


def test_selected_segments_suffice() -> None:
    """
    R58: random logs with overwriting entries, markers and cuts, read from every index on.

    The entries behind the index are the same whether all segments are read or those that are selected.
    """
    choices = random.Random(5)
    for _ in range(500):
        segments: list[list[int]] = [[]]
        first_indexes = [0]
        last_entry = last_marker = 0
        for _ in range(choices.randrange(40)):
            last = max(last_entry, last_marker)
            action = choices.randrange(8)
            if action == 0:
                segments.append([])
                first_indexes.append(last + 1)
            elif action == 1:
                last_marker = max(last_marker, choices.randint(max(last - 3, 0), last + 2))
            else:
                last_entry = last + 1 if action > 2 else choices.randint(max(last - 6, 1), last + 1)
                segments[-1].append(last_entry)
        written = [(entry, at, place) for at, segment in enumerate(segments) for place, entry in enumerate(segment)]
        for index in range(max(last_entry, last_marker) + 2):
            position = select([SegmentName(*pair) for pair in enumerate(first_indexes)], index)
            assert position is not None
            assert live(written, index, 0) == live(written, index, position)


def live(written: list[tuple[int, int, int]], index: int, position: int) -> list[tuple[int, int, int]]:
    """What counts in the end of the entries behind ``index``, read from a segment on: a lower one ends the later."""
    kept: list[tuple[int, int, int]] = []
    for entry in written:
        if entry[1] >= position:
            kept = [earlier for earlier in kept if earlier[0] < entry[0]]
            kept.append(entry)
    return [entry for entry in kept if entry[0] > index]
