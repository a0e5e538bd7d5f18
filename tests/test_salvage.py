"""Salvage: what is whole behind damage is given out, what is not certain is left out, and every damage is reported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wal
from damage import append, overwrite, truncate, unstamp, zero
from images import HERE, Files, Image, load, store
from logs import frames, segments, tree
from unsynced import UNSYNCED
from wal._frame import RecordType, encode_frame
from wal._marks import CODES, Mark

SIZE = 4096


def salvaged(files: Files) -> tuple[list[wal.RawRecord], list[wal.CorruptionError]]:
    """Return all that is left of a log in memory, and what is wrong with it."""
    damages: list[wal.CorruptionError] = []
    return list(wal.raw_records(HERE, on_damage=damages.append, fs=Image(files))), damages


def unexpected(error: wal.CorruptionError) -> None:
    """Take no damage."""
    raise AssertionError(error)


def make(path: Path, *, saves: int = 6, save_marks: bool = True) -> Path:
    """Make a log of two segments: saves of three records, each after a sync."""
    with wal.WAL.create(path, b"node", segment_size=SIZE, save_marks=save_marks, fs=UNSYNCED) as log:
        for number in range(saves):
            first = 2 * number + 1
            if number == saves // 2:
                log.save_entry([wal.Entry(first, bytes(SIZE))])
                log.save_entry([wal.Entry(first, b"in the place of the long one")])
            log.save(wal.CommitState(first), [wal.Entry(first, b"first"), wal.Entry(first + 1, b"second")])
    return path


def saves_of(path: Path) -> list[list[tuple[str, int]]]:
    """Return the records of each save, by segment and offset, CRCs left out."""
    saves: list[list[tuple[str, int]]] = []
    for segment in segments(path):
        save: list[tuple[str, int]] = []
        for frame in frames(segment):
            if frame.type is not RecordType.CRC:
                save.append((segment.name, frame.offset))
            if frame.mark in (Mark.NONE, Mark.ONLY, Mark.LAST):
                saves.append(save)
                save = []
    return [save for save in saves if save]


@pytest.mark.parametrize("save_marks", [True, False], ids=["marks", "as Go writes"])
class TestAnIntactLog:
    def test_is_given_out_as_it_is(self, path: Path, save_marks: bool) -> None:
        """Raw records are what a reader decodes, record by record, with or without salvage."""
        make(path, save_marks=save_marks)
        marshalled = [
            (record.type, record.value if isinstance(record.value, bytes) else record.value.marshal(), record.path)
            for record in wal.WALReader(path)
        ]

        raw = list(wal.raw_records(path))

        assert [(record.type, record.data, record.path) for record in raw] == marshalled
        assert [record.offset for record in raw] == [record.offset for record in wal.WALReader(path)]
        assert list(wal.raw_records(path, on_damage=unexpected)) == raw

    def test_frames_take_the_bytes_they_say(self, path: Path, save_marks: bool) -> None:
        """``length`` is the frame's: the next record begins behind it, but for the CRCs at the heads."""
        make(path, save_marks=save_marks)
        expected = [frame.length for s in segments(path) for frame in frames(s) if frame.type is not RecordType.CRC]

        assert [record.length for record in wal.raw_records(path)] == expected

    @pytest.mark.parametrize("index", [0, 1, 6, 7, 8, 12, 99])
    def test_reading_begins_at_the_segment_that_has_the_entry(self, path: Path, save_marks: bool, index: int) -> None:
        """With ``from_index``, older segments are not read, and what is in the later ones is the same."""
        make(path, save_marks=save_marks)
        first = segments(path)[0 if index < 8 else 1]
        expected = [record for record in wal.raw_records(path) if record.path >= first]

        assert list(wal.raw_records(path, from_index=index)) == expected
        assert list(wal.raw_records(path, from_index=index, on_damage=unexpected)) == expected


def flipped(files: Files) -> Iterator[tuple[str, int, Files]]:
    """Yield the log with each single bit of its frames turned over, with the segment and the byte."""
    for name, data in files.items():
        used = len(data.rstrip(b"\0"))
        for byte in range(used):
            for bit in range(8):
                damaged = bytearray(data)
                damaged[byte] ^= 1 << bit
                yield name, byte, {**files, name: bytes(damaged)}


@pytest.mark.parametrize("save_marks", [True, False], ids=["marks", "as Go writes"])
def test_a_flipped_bit_costs_little_and_nothing_is_invented(path: Path, memory: Path, save_marks: bool) -> None:
    """
    Whatever bit is turned over: what comes out was written, as whole saves and in their order. All saves in front of
    the bit are there, and of those from it on at most two are lost: the damaged one, and the one that tells the chain.
    (Nothing covers the type of a record that Go wrote: those bytes are left out there.)
    """
    small = memory / "log"
    with wal.WAL.create(small, b"node", segment_size=SIZE, save_marks=save_marks, fs=UNSYNCED) as log:
        for index in range(1, 9, 2):
            log.save(wal.CommitState(index), [wal.Entry(index, b"a"), wal.Entry(index + 1, b"bb")])
    (segment,) = segments(small)
    if save_marks:
        unstamp(segment)
    truncate(segment, frames(segment)[-1].offset + frames(segment)[-1].length)
    files = load(small)
    written = {(record.path.name, record.offset): record for record in salvaged(files)[0]}
    saves = saves_of(small)
    lengths = {(record.path.name, record.offset): record.length for record in written.values()}
    ends = [(save[-1][0], save[-1][1] + lengths[save[-1]]) for save in saves]

    types = set() if save_marks else {frame.offset + 9 for frame in frames(segment)}

    for name, byte, damaged in flipped(files):
        if byte in types:
            continue
        records, damages = salvaged(damaged)
        found = [(record.path.name, record.offset) for record in records]

        assert [written[place] for place in found] == records
        assert found == sorted(found)
        lost = [save for save in saves if not set(save) <= set(found)]
        assert all(set(save).isdisjoint(found) for save in lost)
        assert sum(len(save) for save in saves) - sum(len(save) for save in lost) == len(found)
        assert len(lost) <= 2
        assert lost == [] or damages
        if lost:
            first = saves.index(lost[0])
            assert saves[first : first + len(lost)] == lost
            assert first == 0 or ends[first - 1] <= (name, byte)


class TestBehindDamage:
    def test_the_next_segment_says_what_the_chain_is(self, path: Path) -> None:
        """A segment of which nothing is left is one damage; what is in the next one is all there."""
        first, second = segments(make(path))
        expected = [record for record in wal.raw_records(path) if record.path == second]
        overwrite(first, 0, b"\xff" * first.stat().st_size)
        damages: list[wal.CorruptionError] = []

        assert list(wal.raw_records(path, on_damage=damages.append)) == expected
        assert [(type(error), error.path, error.offset) for error in damages] == [(wal.CorruptionError, first, 0)]

    def test_a_segment_that_is_missing_is_reported(self, path: Path) -> None:
        """Segments before and behind a gap are read, with one damage between them."""
        with wal.WAL.create(path, segment_size=SIZE, fs=UNSYNCED) as log:
            for index in range(1, 4):
                log.save_entry([wal.Entry(index, bytes(SIZE))])
        expected = [record for record in wal.raw_records(path) if record.path != segments(path)[1]]
        gone = segments(path)[1].name
        segments(path)[1].unlink()
        damages: list[wal.CorruptionError] = []

        assert list(wal.raw_records(path, on_damage=damages.append)) == expected
        assert [type(error) for error in damages] == [wal.SegmentGapError]
        with pytest.raises(wal.SegmentGapError):
            wal.raw_records(path)
        assert gone not in str(damages[0])

    def test_a_head_that_does_not_continue_the_segment_before_is_reported_and_read(self, path: Path) -> None:
        """A segment that was taken from another log is read for itself."""
        second = segments(make(path))[1]
        other = path.with_name("other")
        with wal.WAL.create(other, b"another node", segment_size=SIZE, fs=UNSYNCED) as log:
            log.save_entry([wal.Entry(1, bytes(SIZE))])
            log.save_entry([wal.Entry(2, b"strange")])
        second.unlink()
        second.write_bytes(segments(other)[1].read_bytes())
        damages: list[wal.CorruptionError] = []

        records = list(wal.raw_records(path, on_damage=damages.append))

        assert [(type(error), error.path, error.offset) for error in damages] == [(wal.CRCMismatchError, second, 0)]
        assert [record.data for record in records if record.path == second][-1] == wal.Entry(2, b"strange").marshal()

    def test_a_torn_end_is_reported(self, path: Path) -> None:
        """It is the last damage; what is in front of it is there."""
        make(path)
        segment = segments(path)[-1]
        unstamp(segment)
        last = frames(segment)[-1]
        zero(segment, last.offset, last.offset + last.length)
        damages: list[wal.CorruptionError] = []

        records = list(wal.raw_records(path, on_damage=damages.append))

        assert [type(error) for error in damages] == [wal.TornWriteError]
        assert [(record.path, record.offset) for record in records] == [
            (record.path, record.offset) for record in wal.WALReader(path)
        ]

    def test_damage_behind_damage_is_reported_as_well(self, path: Path) -> None:
        """Two places in one segment: what is between them is there, and what is behind them."""
        with wal.WAL.create(path, segment_size=SIZE, fs=UNSYNCED) as log:
            for index in range(1, 11):
                log.save_entry([wal.Entry(index, b"entry %2d" % index)])
        segment = segments(path)[0]
        for index in (3, 7):
            overwrite(segment, segment.read_bytes().index(b"entry %2d" % index), b"E")
        damages: list[wal.CorruptionError] = []

        records = list(wal.raw_records(path, on_damage=damages.append))

        found = [wal.Entry.unmarshal(record.data).index for record in records if record.type is wal.RecordType.ENTRY]
        assert found == [1, 2, 4, 5, 6, 8, 9, 10]
        assert [type(error) for error in damages] == [wal.CRCMismatchError] * 2

    def test_a_segment_that_is_purged_meanwhile_is_not_missed(self, path: Path) -> None:
        """It is no damage; what is behind it is read."""
        with wal.WAL.create(path, segment_size=SIZE, fs=UNSYNCED) as log:
            for index in range(1, 4):
                log.save_entry([wal.Entry(index, bytes(SIZE))])
        expected = [record for record in wal.raw_records(path) if record.path != segments(path)[0]]

        records = wal.raw_records(path, on_damage=unexpected)
        segments(path)[0].unlink()

        assert list(records) == expected

    def test_a_record_of_an_unknown_type_is_left_out_alone(self, path: Path) -> None:
        """The chain goes through it, so the record behind it is not lost."""
        with wal.WAL.create(path, segment_size=SIZE, save_marks=False, fs=UNSYNCED) as log:
            log.save_entry([wal.Entry(1, b"before")])
        segment = segments(path)[0]
        last = frames(segment)[-1]
        end = last.offset + last.length
        unknown = encode_frame(9, wal._crc32c.extend(last.crc, b"future"), b"future", 0)
        crc = wal._crc32c.extend(last.crc, b"future")
        behind = wal.Entry(2, b"behind").marshal()
        overwrite(segment, end, unknown + encode_frame(2, wal._crc32c.extend(crc, behind), behind, 0))
        damages: list[wal.CorruptionError] = []

        records = list(wal.raw_records(path, on_damage=damages.append))

        assert [(type(error), error.offset) for error in damages] == [(wal.UnknownRecordError, end)]
        assert [record.data for record in records][-2:] == [wal.Entry(1, b"before").marshal(), behind]

    def test_half_a_save_is_left_out(self, path: Path) -> None:
        """Behind damage in the middle of a save, the rest of that save is not given out."""
        make(path)
        segment = segments(path)[0]
        second_save = [frame for frame in frames(segment) if frame.type is RecordType.ENTRY][2]
        assert second_save.mark is Mark.FIRST
        overwrite(segment, second_save.offset + second_save.length - 8, b"\xff")
        whole = {(record.path, record.offset) for record in wal.raw_records(path, on_damage=lambda error: None)}
        own = [frame.offset for frame in frames_behind(segment, second_save.offset, 3)]

        assert not whole & {(segment, offset) for offset in own}

    def test_frames_in_a_payload_are_not_records_of_the_log(self, path: Path) -> None:
        """As long as the frame that has them can be stepped over."""
        inner = encode_frame(2, 7, b"inner", CODES[2][Mark.ONLY]) * 3
        with wal.WAL.create(path, segment_size=SIZE, fs=UNSYNCED) as log:
            for index in range(1, 5):
                log.save_entry([wal.Entry(index, inner)])
        segment = segments(path)[0]
        entry = [frame for frame in frames(segment) if frame.type is RecordType.ENTRY][1]
        expected = [record for record in wal.raw_records(path) if record.offset != entry.offset]
        overwrite(segment, entry.offset + entry.length - 8, b"\xff")

        assert list(wal.raw_records(path, on_damage=lambda error: None)) == expected


def frames_behind(segment: Path, offset: int, count: int) -> list[Any]:
    """Return some frames from ``offset`` on of a segment whose damage is in a payload."""
    lengths = wal._salvage._frames(lambda at, size: segment.read_bytes()[at : at + size], 1 << 20, offset)
    found: list[Any] = []
    for frame in lengths:
        if not found or frame.offset == found[-1].offset + found[-1].length:
            found.append(frame)
        if len(found) == count:
            break
    return found


class TestErrors:
    def test_damage_is_raised_unless_it_is_asked_for(self, path: Path) -> None:
        """Without ``on_damage``, the records in front of the damage come, and then what a reader would raise."""
        make(path)
        overwrite(segments(path)[0], 200, b"\xff\xff")
        expected: list[tuple[Path, int]] = []
        with pytest.raises(wal.CorruptionError) as told:
            expected.extend((record.path, record.offset) for record in wal.WALReader(path))
        found: list[tuple[Path, int]] = []

        with pytest.raises(wal.CorruptionError) as raised:
            found.extend((record.path, record.offset) for record in wal.raw_records(path))

        assert str(raised.value) == str(told.value)
        assert found == expected

    def test_a_torn_end_is_raised(self, path: Path) -> None:
        """Behind the last whole save."""
        make(path)
        segment = segments(path)[-1]
        unstamp(segment)
        truncate(segment, frames(segment)[-1].offset + 8)

        with pytest.raises(wal.TornWriteError):
            list(wal.raw_records(path))

    def test_no_log_is_an_error_at_once(self, tmp_path: Path) -> None:
        """Not at the first record."""
        for on_damage in (None, print):
            with pytest.raises(wal.WALNotFoundError):
                wal.raw_records(tmp_path, on_damage=on_damage)

    def test_nothing_is_changed(self, path: Path) -> None:
        """Neither by reading an intact log nor by salvaging one."""
        make(path)
        append(segments(path)[-1], b"rubbish!" * 9)
        before = tree(path)

        list(wal.raw_records(path, on_damage=lambda error: None))

        assert tree(path) == before


def test_a_file_of_rubbish_is_read_in_bounded_time(tmp_path: Path) -> None:
    """Frames that claim to be long, one beside the other, do not make the search read the file for each of them."""
    size = 1 << 16
    frame = encode_frame(2, 1, bytes(16), 0)
    rubbish = (frame[:8] + frame[8:]).ljust(64, b"\0")
    long = encode_frame(2, 1, bytes(size // 2), 0)[:24]
    data = b"".join((rubbish[: len(frame)] + long).ljust(64, b"\0") for _ in range(size // 64))
    read = 0

    def counting(offset: int, length: int) -> bytes:
        nonlocal read
        read += length
        return data[offset : offset + length]

    assert wal._salvage._next_save(counting, size, 0) is None
    assert read < 40 * size


def test_a_log_in_memory_is_the_one_on_disk(path: Path) -> None:
    """The tests of this module look at the same bytes either way."""
    files = load(make(path))

    assert [record.offset for record in salvaged(files)[0]] == [record.offset for record in wal.raw_records(path)]
    assert load(store(files, path.with_name("copy"))) == files
