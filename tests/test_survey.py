"""A survey says what there is, and what is wrong with it; a long read says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import wal
from commands import SCENES
from logs import frames, segments, tree
from wal._files import OperatingSystem

IN_ORDER = ["intact", "new", "skipped_index", "other_metadata", "torn", "damaged", "damaged_end", "unknown"]


def counted(segment: Path, bytes: int) -> tuple[int, int]:
    """Return how many records and entries stand in front of an offset, by the slow way."""
    kinds = [
        record.type for record in before_damage(segment.parent) if record.path == segment and record.offset < bytes
    ]
    return len(kinds), kinds.count(wal.RecordType.ENTRY)


def before_damage(path: Path) -> list[wal.LogRecord]:
    """Return the records in front of damage."""
    found: list[wal.LogRecord] = []
    with suppress(wal.CorruptionError):
        found.extend(wal.WALReader(path))
    return found


@pytest.mark.parametrize("name", IN_ORDER)
def test_figures_are_those_of_the_records(name: str, path: Path) -> None:
    """Per segment: its records, its entries, its bytes, and how far the log's index is at its end."""
    SCENES[name](path)

    found = wal.survey(path)

    assert [segment.path for segment in found.segments] == segments(path)
    for segment in found.segments:
        records, entries = counted(segment.path, segment.bytes)
        assert segment.size == segment.path.stat().st_size
        assert segment.first_index == int(segment.path.stem[17:], 16)
        if segment.read:
            assert segment.bytes <= segment.size
            assert records <= segment.records
            assert entries <= segment.entries
        else:
            assert (segment.records, segment.entries, segment.bytes, segment.last_index) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", IN_ORDER)
def test_a_survey_agrees_with_verify(name: str, path: Path) -> None:
    """Damage is what ``verify`` raises; without damage, the figures are those that it returns."""
    SCENES[name](path)
    found = wal.survey(path)
    try:
        report = wal.verify(path)
    except wal.CorruptionError as error:
        assert found.damage is not None
        assert (type(found.damage), str(found.damage)) == (type(error), str(error))
        return

    assert found.damage is None
    assert (str(found.tail), found.last_index) == (str(report.tail), report.last_index)
    assert sum(segment.bytes for segment in found.segments) == report.bytes
    assert sum(segment.entries for segment in found.segments) == report.entries
    assert all(segment.read for segment in found.segments)
    assert list(found.markers) == wal.valid_snapshots(path)
    if found.tail is None:
        contents = wal.WALReader(path).read_all()
        assert (found.metadata, found.state) == (contents.metadata, contents.state)
        assert sum(segment.records for segment in found.segments) == sum(
            frame.type is not wal.RecordType.CRC for segment in segments(path) for frame in frames(segment)
        )


@pytest.mark.parametrize("name", ["skipped_index", "other_metadata"])
def test_a_record_that_is_refused_is_not_counted(name: str, path: Path) -> None:
    """The figures end where the damage begins, also within a chunk."""
    SCENES[name](path)
    found = wal.survey(path)
    assert found.damage is not None
    damaged = next(segment for segment in found.segments if segment.path == found.damage.path)

    assert damaged.bytes == found.damage.offset
    assert (damaged.records, damaged.entries) == counted(damaged.path, damaged.bytes)


def test_a_gap_leaves_no_log(path: Path) -> None:
    """What is missing cannot be surveyed."""
    SCENES["gap"](path)

    with pytest.raises(wal.SegmentGapError):
        wal.survey(path)


LONG: dict[str, Callable[..., Any]] = {
    "verify": wal.verify,
    "survey": wal.survey,
    "plan_repair": wal.plan_repair,
    "repair": wal.repair,
}


@pytest.mark.parametrize("call", LONG.values(), ids=LONG)
class TestProgress:
    def test_it_grows_to_the_end(self, call: Callable[..., Any], path: Path) -> None:
        """From something to all of the log's bytes, the reserved ones included; the total stays."""
        SCENES["intact"](path)
        total = sum(segment.stat().st_size for segment in segments(path))
        seen: list[tuple[int, int]] = []

        call(path, progress=lambda done, total: seen.append((done, total)))

        assert seen == sorted(set(seen))
        assert {of for _, of in seen} == {total}
        assert 0 < seen[0][0] <= seen[-1][0] == total

    def test_what_it_raises_ends_the_call(self, call: Callable[..., Any], path: Path) -> None:
        """So a long read can be given up; nothing is changed."""
        SCENES["torn"](path)
        before = tree(path)

        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            call(path, progress=stop)
        assert tree(path) == before


@pytest.mark.parametrize("name", ["verify", "survey", "plan_repair"])
def test_progress_beside_a_purge(name: str, path: Path) -> None:
    """A segment that goes while the lengths are added up is not counted, and is no error."""
    SCENES["intact"](path)
    first = segments(path)[0]

    class Purging(OperatingSystem):
        def open(self, path: Path, flags: int) -> int:
            first.unlink(missing_ok=True)
            return super().open(path, flags)

    seen: list[tuple[int, int]] = []

    LONG[name](path, fs=Purging(), progress=lambda done, total: seen.append((done, total)))

    assert seen[-1] == (sum(segment.stat().st_size for segment in segments(path)),) * 2


def test_progress_from_a_snapshot_is_about_what_is_read(path: Path) -> None:
    """Segments that are not read are not in the total."""
    SCENES["intact"](path)
    wal.purge(path, wal.SnapshotMarker(5))
    seen: list[tuple[int, int]] = []

    wal.verify(path, wal.SnapshotMarker(5), progress=lambda done, total: seen.append((done, total)))

    assert seen[-1] == (seen[-1][1],) * 2
