"""
A log against a model of it: whatever is done in whatever order, and wherever it crashes.

The model is a list of saves, each with the segment it went to. From that follows what every reader yields, at which
snapshots the log opens and what it holds there, which segments a purge takes, and what a crash may leave. The log
itself lives on a disk in memory. After each step all that can be seen of it is compared with the model.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import wal
from crashes import TOP, SimulatedDisk
from wal import CommitState, Entry, LogRecord, SnapshotData, SnapshotMarker

LOG = TOP / "log"
METADATA = b"node"
MOST_BYTES = 5000
"""The longest record that is taken."""

# ---------------------------------------------------------------------------------------------------- the disk


class Stop(BaseException):
    """The process is killed, or the machine goes down, in the middle of a call."""


def stop_at(disk: SimulatedDisk, number: int, error: BaseException) -> None:
    """Let the ``number``-th change of the disk from now on raise an error, and all changes behind it."""
    left = number

    def count(_: str) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise error

    disk.before_change = count


def go_on(disk: SimulatedDisk) -> None:
    """Let all changes succeed again."""
    disk.before_change = lambda _: None


class Loss(NamedTuple):
    """
    What a power cut takes of what was not synced.

    Attributes:
        seed: Chooses one of the crashes that the disk tells.
        in_order: Whether what is there was written before what is lost, and nothing else stands in its place.
    """

    seed: int
    in_order: bool


def after_power_cut(disk: SimulatedDisk, loss: Loss) -> SimulatedDisk:
    """Return the disk as it is after a power cut."""
    crashes = list(disk.crashes(Random(loss.seed), subsets=4))
    if loss.in_order:
        first = ("nothing is there", "the first")
        crashes = [crash for crash in crashes if crash.name.startswith(first) and crash.name.endswith("was there")]
    return SimulatedDisk(crashes[loss.seed % len(crashes)].files)


def files(disk: SimulatedDisk, directory: str) -> dict[str, bytes]:
    """Return the files of a directory on the disk."""
    found = ((name.rpartition("/"), data) for name, data in disk.files().items())
    return {name: data for (parent, _, name), data in found if parent == directory and data is not None}


# --------------------------------------------------------------------------------------------------- the model

Save = list[Any]
"""The records of one save, which is all or nothing."""


class Place(NamedTuple):
    """A segment by its name: its number, and the first index in it."""

    sequence: int
    first_index: int

    def __str__(self) -> str:
        return f"{self.sequence:016x}-{self.first_index:016x}.wal"


@dataclass
class Model:
    """
    What a log should be.

    Attributes:
        segments: Those that are there.
        saves: All saves ever, each with the number of its segment; also those in segments that were purged.
        unsynced: How many of the last ones a power cut may take.
        torn: Whether there is something behind the last save that must be repaired.
    """

    segments: list[Place] = field(default_factory=lambda: [Place(0, 0)])
    saves: list[tuple[int, Save]] = field(default_factory=lambda: [(0, [SnapshotMarker(0)])])
    unsynced: int = 0
    torn: bool = False

    def records(self, kind: type[Any], first: int = 0) -> list[Any]:
        """All records of a class, from segment number ``first`` on."""
        return [record for number, save in self.saves if number >= first for record in save if type(record) is kind]

    @property
    def oldest(self) -> int:
        return self.segments[0].sequence

    @property
    def state(self) -> CommitState | None:
        return next(iter(self.records(CommitState)[-1:]), None)

    @property
    def last_index(self) -> int:
        last = self.records(Entry)[-1:] + self.records(SnapshotMarker)
        indexes: list[int] = [record.index for record in last]
        return max(indexes)

    def with_save(self, records: Save, *, marks: bool, cut: bool) -> Model:
        """With one save more, not yet synced; without marks each record is one by itself."""
        saves = [records] if marks else [[record] for record in records]
        segments, unsynced = self.segments, self.unsynced
        if cut:  # all in a segment is synced before there is a next one
            segments = [*segments, Place(segments[-1].sequence + 1, self.last_index + 1)]
            unsynced = 0
        number = segments[-1].sequence
        return Model(segments, self.saves + [(number, save) for save in saves if save], unsynced + len(saves))

    def without(self, count: int) -> Model:
        """Without the last saves."""
        return replace(self, saves=self.saves[: len(self.saves) - count], unsynced=max(0, self.unsynced - count))

    def selected(self, index: int, segments: list[Place] | None = None) -> list[Place]:
        """The segments, of all or of some, that hold everything behind ``index``; none if they begin later."""
        segments = self.segments if segments is None else segments
        first = [at for at, place in enumerate(segments) if place.first_index <= index][-1:]
        return segments[first[0] :] if first else []

    def head(self, number: int) -> Save:
        """What a segment begins with, besides the CRC: the metadata, and the state as it was then."""
        states = [r for n, save in self.saves if n < number for r in save if type(r) is CommitState]
        return [METADATA, *states[-1:]]

    @property
    def frames(self) -> int:
        """How many records there are in the segments, all types together."""
        present = {place.sequence for place in self.segments}
        heads = sum(1 + len(self.head(number)) for number in present)
        return heads + sum(len(save) for number, save in self.saves if number in present)

    def yielded(self, start: int) -> list[tuple[str, Any]]:
        """What a reader yields that starts at a snapshot: entries up to it only if they replace later ones."""
        found: list[tuple[str, Any]] = []
        last = 0
        for number, _ in self.selected(start):
            for record in self.head(number) + [r for n, save in self.saves if n == number for r in save]:
                if type(record) is Entry:
                    before, last = last, record.index
                    if max(before, last) <= start:
                        continue
                found.append((type(record).__name__, record))
        return found

    def entries(self, start: int) -> list[Entry] | type[wal.WALError]:
        """P19: the entries behind a snapshot, or why the log cannot be read from there."""
        segments = self.selected(start)
        if not segments:
            return wal.SnapshotNotFoundError
        kept: dict[int, Entry] = {}
        for entry in self.records(Entry, segments[0].sequence):
            if entry.index > start + 1 and entry.index - 1 not in kept:
                return wal.IndexGapError
            kept = {index: other for index, other in kept.items() if index < entry.index}
            if entry.index > start:
                kept[entry.index] = entry
        if SnapshotMarker(start) not in self.records(SnapshotMarker, segments[0].sequence):
            return wal.SnapshotNotFoundError
        return list(kept.values())

    @property
    def starts(self) -> list[int]:
        """The indexes of the snapshots at which the log can be opened."""
        known = {marker.index for marker in self.records(SnapshotMarker, self.oldest)}
        return sorted(index for index in known if isinstance(self.entries(index), list))

    @property
    def valid_snapshots(self) -> list[SnapshotMarker]:
        markers = self.records(SnapshotMarker, self.oldest)
        return [marker for marker in markers if self.state is None or marker.index <= self.state.committed]


# ----------------------------------------------------------------------------------------------- what is drawn

datas = st.builds(
    lambda fill, size: fill * size,
    st.sampled_from([b"\0", b"\xff", b"x", b"\x08"]),
    st.sampled_from([0, 1, 7, 30, 600, 1600, 1600, 4000]),
)
choices = st.integers(0, 1 << 16)
"""To choose something that depends on the model, by the remainder."""

losses = st.builds(Loss, st.integers(0, 1 << 16), st.just(False))
losses_in_order = st.builds(Loss, st.integers(0, 1 << 16), st.just(True))
"""Of saves without marks: where some have no mark, what is behind a lost sector cannot be told from a later save."""

options = st.fixed_dictionaries(
    {
        "sync": st.booleans(),
        "save_marks": st.sampled_from([True, True, False]),
        "segment_size": st.sampled_from([4096, 4096, 9000]),
    }
)

reopenings = st.fixed_dictionaries(
    {"choice": choices, "way": st.sampled_from(["read_wal", "read_all", "replay"]), "options": options}
)
then = st.none() | reopenings | reopenings | reopenings
"""Mostly, a log that has come to an end is opened again at once."""

opened = precondition(lambda self: self.log is not None)
closed = precondition(lambda self: self.log is None)


def records_of(yielded: Iterable[LogRecord]) -> list[tuple[str, Any]]:
    return [(type(value).__name__, value) for _, value, _, _ in yielded]


class LogMachine(RuleBasedStateMachine):
    """One log, from its creation on."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimulatedDisk()
        self.model = Model()
        self.log: wal.WAL | None = None
        self.held: list[Place] = []
        self.options: dict[str, Any] = {}
        self.steps = 0

    @initialize(options=options)
    def create(self, options: dict[str, Any]) -> None:
        self.options = options
        self.log = wal.WAL.create(LOG, METADATA, fs=self.disk, max_record_bytes=MOST_BYTES, **options)
        self.held = [Place(0, 0)]

    def teardown(self) -> None:
        go_on(self.disk)
        if self.log is not None:
            self.log.close()

    @property
    def writer(self) -> wal.WAL:
        assert self.log is not None
        return self.log

    def places(self, disk: SimulatedDisk) -> list[Place]:
        """Return the segments that are on a disk."""
        matches = (re.fullmatch("([0-9a-f]{16})-([0-9a-f]{16})[.]wal", name) for name in files(disk, "log"))
        return sorted(Place(int(match[1], 16), int(match[2], 16)) for match in matches if match)

    # ------------------------------------------------------------------------------------------------- saving

    def new_entries(self, place: int, datas: list[bytes]) -> list[Entry]:
        """Entries that go on behind the last one, or replace some."""
        last = self.model.last_index
        first = place % last + 1 if place % 3 == 0 and last else last + 1
        return [Entry(index, data) for index, data in enumerate(datas, first)]

    def news(self, state: CommitState | None, entries: list[Entry]) -> list[CommitState]:
        """An old state is written again only behind entries, and the empty one never before another."""
        before = self.model.state
        if state is None or (state == (before or CommitState(0)) and not (entries and before)):
            return []
        return [state]

    def append(self, records: Save, call: Callable[[wal.WAL], None]) -> None:
        """Make a call that saves these records as one save."""
        before = files(self.disk, "log")
        call(self.writer)
        after = files(self.disk, "log")
        if not records:
            assert after == before
            return
        last = str(self.model.segments[-1])
        cut = len(after) > len(before)
        assert not cut or len(after[last]) >= self.options["segment_size"]
        self.model = self.model.with_save(records, marks=self.options["save_marks"], cut=cut)
        if self.options["sync"]:
            self.model.unsynced = 0
        if cut:
            self.held = [*self.held, self.model.segments[-1]]

    @opened
    @rule(place=choices, datas=st.lists(datas, max_size=4), state=st.none() | choices)
    def save(self, place: int, datas: list[bytes], state: int | None) -> None:
        """P1, P3: entries that go on or replace others, a state, both or none."""
        entries = self.new_entries(place, datas)
        new = None if state is None else CommitState(state % (self.model.last_index + 2))
        self.append([*entries, *self.news(new, entries)], lambda log: log.save(new, entries))

    @opened
    @rule(data=datas, times=st.integers(1, 6))
    def save_often(self, data: bytes, times: int) -> None:
        for index in range(self.model.last_index + 1, self.model.last_index + 1 + times):
            self.append([Entry(index, data)], lambda log, index=index: log.save_entry([Entry(index, data)]))  # type: ignore[misc]

    @opened
    @rule(index=choices)
    def save_snap(self, index: int) -> None:
        """A marker of any entry, or of one that is not there yet."""
        marker = SnapshotMarker(index % (self.model.last_index + 3))
        self.append([marker], lambda log: log.save_snap(marker))

    @opened
    @rule(place=choices, wrong=st.sampled_from(["gap", "zero", "hole", "twice", "too large", "entry", "state"]))
    def save_what_is_wrong(self, place: int, wrong: str) -> None:
        """P6: nothing is written, and the log goes on."""
        first = self.new_entries(place, [b""])[0].index
        entries: list[Any] = [Entry(first)]
        error: type[Exception] = wal.IndexOrderError
        match wrong:
            case "gap":
                entries = [Entry(self.model.last_index + 2)]
            case "zero":
                entries = [Entry(0), Entry(1)]
            case "hole":
                entries += [Entry(first + 2)]
            case "twice":
                entries += [Entry(first)]
            case "too large":
                entries, error = [*entries, Entry(first + 1, bytes(MOST_BYTES))], wal.EntryTooLargeError
            case _:
                error = wal.RecordTypeError
        state: Any = Entry(first) if wrong == "state" else None
        if wrong == "entry":
            entries += [SnapshotMarker(first + 1)]
        before = files(self.disk, "log")
        with pytest.raises(error):
            self.writer.save(state, entries)
        assert files(self.disk, "log") == before

    @opened
    @rule()
    def sync(self) -> None:
        self.writer.sync()
        self.model.unsynced = 0

    # --------------------------------------------------------------------------------- old segments, and rivals

    @opened
    @rule(index=choices)
    def release_anywhere(self, index: int) -> None:
        """A snapshot that is not known is no error."""
        self.release(index % (self.model.last_index + 3))

    def release(self, index: int) -> None:
        """The segments that reading from there on does not need are given up."""
        self.writer.release(SnapshotMarker(index))
        self.held = self.model.selected(index, self.held) or self.held

    @rule(choice=choices, keep=st.sampled_from([0, 0, 0, 1]), released=st.booleans())
    def purge(self, choice: int, keep: int, released: bool) -> None:
        """P13: the oldest segments go that the snapshot does not need, up to one that is held."""
        starts = self.model.starts
        index = starts[choice % len(starts)]
        if released and self.log is not None:
            self.release(index)
        free = self.model.segments[: max(0, len(self.model.segments) - len(self.model.selected(index)) - keep)]
        if self.log is not None and self.held[0] in free:
            free = free[: free.index(self.held[0])]
        assert wal.purge(LOG, SnapshotMarker(index), keep=keep, fs=self.disk) == [str(place) for place in free]
        self.model = replace(self.model, segments=self.model.segments[len(free) :], unsynced=0)

    @opened
    @rule(rival=st.sampled_from(["open", "repair", "create"]))
    def rival(self, rival: str) -> None:
        """P7: a second writer is refused at once, and changes nothing."""
        before = files(self.disk, "log")
        with pytest.raises(wal.WALLockedError):
            if rival == "open":
                wal.WAL.open(LOG, SnapshotMarker(self.model.starts[-1]), fs=self.disk)
            elif rival == "repair":
                wal.repair(LOG, fs=self.disk)
            else:
                wal.WAL.create(LOG, fs=self.disk)
        assert files(self.disk, "log") == before

    # -------------------------------------------------------------------------------------- the end, of any kind

    @opened
    @rule(then=then)
    def close(self, then: dict[str, Any] | None) -> None:
        self.writer.close()
        self.writer.close()
        with pytest.raises(wal.WALClosedError):
            self.writer.save_entry([Entry(1)])
        self.log, self.model.unsynced = None, 0
        self.go_on(then)

    def go_on(self, then: dict[str, Any] | None) -> None:
        if then is not None:
            self.reopen_at(**then)

    def crash(self, loss: Loss | None, pending: Save | None = None, purged: int = 0) -> None:
        """
        Go on after a power cut, or after a kill if nothing is lost, with what is there then.

        It must be what the model has, without some of the saves that were not synced; with the pending save or
        without; with a segment begun for it or not; and without some of the segments that were about to be purged.
        """
        go_on(self.disk)
        disk = self.disk.killed() if loss is None else after_power_cut(self.disk, loss)
        if self.log is not None:
            self.log.close()  # on the old disk, where it makes no difference any more
            self.log = None
        self.disk = disk
        places, report = self.places(disk), wal.verify(LOG, fs=disk)
        gone = [place for place in self.model.segments if place not in places]
        assert gone == self.model.segments[: len(gone)]
        assert len(gone) <= purged
        base = replace(self.model, segments=self.model.segments[len(gone) :])
        cut = places[-1] not in base.segments
        full = base.with_save(pending or [], marks=self.options["save_marks"], cut=cut)
        assert places == full.segments
        droppable = len(full.saves) - len(base.saves) + (full.unsynced if loss else 0)
        outcomes = (full.without(count) for count in range(droppable + 1))
        matching = [outcome for outcome in outcomes if outcome.frames == report.records]
        assert matching, f"{report.records} records are left of {full}"
        self.model = matching[0]
        if loss:
            self.model.unsynced = 0
        self.model.torn = report.tail is not None
        assert pending is not None or loss or not self.model.torn or self.was_torn

    was_torn = False

    def choose_loss(self, end: str, loss: Loss, in_order: Loss) -> Loss | None:
        if end == "kill":
            return None
        return loss if self.options["save_marks"] else in_order

    @precondition(lambda self: self.log is not None or self.model.torn or self.model.unsynced)
    @rule(end=st.sampled_from(["kill", "power cut"]), loss=losses, in_order=losses_in_order, then=then)
    def end_between_two_calls(self, end: str, loss: Loss, in_order: Loss, then: dict[str, Any] | None) -> None:
        """P1, P2, P18: a kill takes nothing; a power cut nothing that was synced, and whole saves from the end on."""
        self.was_torn = self.model.torn
        self.crash(self.choose_loss(end, loss, in_order))
        self.go_on(then)

    @opened
    @rule(
        number=st.integers(1, 3) | st.integers(1, 16),
        place=choices,
        datas=st.lists(datas, min_size=1, max_size=4),
        end=st.sampled_from(["kill", "power cut"]),
        error=st.booleans(),
        loss=losses,
        in_order=losses_in_order,
        then=then,
    )
    def end_in_a_save(
        self,
        number: int,
        place: int,
        datas: list[bytes],
        end: str,
        error: bool,
        loss: Loss,
        in_order: Loss,
        then: dict[str, Any] | None,
    ) -> None:
        """P2, P3, P5: a save that does not come to its end is there as a whole or not at all; nothing follows it."""
        entries, state = self.new_entries(place, datas), CommitState(number)
        records = [*entries, *self.news(state, entries)]
        stop_at(self.disk, number, OSError(5, os.strerror(5)) if error else Stop())
        try:
            self.append(records, lambda log: log.save(state, entries))
        except (Stop, wal.WALFailedError):
            go_on(self.disk)
            for call in (self.writer.sync, lambda: self.writer.save(state, entries)):
                with pytest.raises(wal.WALFailedError):
                    call()
            self.crash(self.choose_loss(end, loss, in_order), records)
            self.go_on(then)
        else:
            go_on(self.disk)

    @closed
    @rule(
        number=st.integers(1, 12),
        what=st.sampled_from(["read_wal", "repair", "purge"]),
        choice=choices,
        end=st.sampled_from(["kill", "power cut"]),
        loss=losses,
        in_order=losses_in_order,
    )
    def end_in_something_else(self, number: int, what: str, choice: int, end: str, loss: Loss, in_order: Loss) -> None:
        """P10, P13: recovery and purging may be ended anywhere, too; no save is lost by that."""
        start = self.model.starts[choice % len(self.model.starts)]
        purged = len(self.model.segments) - len(self.model.selected(start)) if what == "purge" else 0
        stop_at(self.disk, number, Stop())
        try:
            if what == "read_wal":
                self.log = wal.read_wal(LOG, SnapshotMarker(start), fs=self.disk).wal
            elif what == "repair":
                wal.repair(LOG, fs=self.disk)
            else:
                wal.purge(LOG, SnapshotMarker(start), fs=self.disk)
        except Stop:
            pass
        self.was_torn = self.model.torn
        self.crash(self.choose_loss(end, loss, in_order), purged=purged)

    # ------------------------------------------------------------------------------------------- opening again

    @closed
    @rule(then=reopenings)
    def reopen(self, then: dict[str, Any]) -> None:
        self.reopen_at(**then)

    def reopen_at(self, choice: int, way: str, options: dict[str, Any]) -> None:
        """P2, P10, P19: at each snapshot the log holds what it should; only a torn end is cut, and reported."""
        starts = self.model.starts
        start = starts[choice % len(starts)]
        arguments: Any = {"fs": self.disk, "max_record_bytes": MOST_BYTES, **options}
        if way == "read_wal" or self.model.torn:
            if way != "read_wal":
                with wal.WAL.open(LOG, SnapshotMarker(start), **arguments) as log, pytest.raises(wal.TornWriteError):
                    log.read_all()
            before = files(self.disk, "log")
            self.log, metadata, state, entries = wal.read_wal(LOG, SnapshotMarker(start), **arguments)
            assert (metadata, state, entries) == (
                METADATA,
                self.model.state or CommitState(0),
                self.model.entries(start),
            )
            self.check_backup(before, self.writer.repaired)
        else:
            self.log = wal.WAL.open(LOG, SnapshotMarker(start), **arguments)
            with pytest.raises(wal.NotReadError):
                self.log.save_entry([Entry(self.model.last_index + 1)])
            if way == "replay":
                assert records_of(self.log.replay()) == self.model.yielded(start)
            else:
                assert self.log.read_all().entries == self.model.entries(start)
        self.options, self.held = options, self.model.selected(start)
        self.model = replace(self.model, unsynced=0, torn=False)

    def check_backup(self, before: dict[str, bytes], report: wal.RepairReport | None) -> None:
        assert (report is not None) == self.model.torn
        if report is not None:
            assert report.backup is not None
            cut = before[str(self.model.segments[-1])][report.offset : report.offset + report.bytes_cut]
            assert files(self.disk, "log")[report.backup.name] == cut
            assert report.backup.name not in before

    @closed
    @rule(force=st.booleans())
    def repair(self, force: bool) -> None:
        """P10: only a torn end is cut, and kept; another repair finds nothing to do."""
        before = files(self.disk, "log")
        report = wal.repair(LOG, force=force, fs=self.disk)
        self.check_backup(before, report if report.backup else None)
        after = files(self.disk, "log")
        assert report.backup or after == before
        assert wal.repair(LOG, force=force, fs=self.disk).bytes_cut == 0
        assert files(self.disk, "log") == after
        self.model.torn = False

    @closed
    @rule(index=choices, what=st.sampled_from(["create", "open", "open", "purge"]))
    def what_is_refused(self, index: int, what: str) -> None:
        """P6: no log is made where one is; none is opened or purged at a snapshot that it does not have."""
        index %= self.model.last_index + 5
        before = {name: data for name, data in files(self.disk, "log").items() if not name.endswith(".wal.tmp")}
        why = wal.WALExistsError if what == "create" else self.model.entries(index)
        if isinstance(why, list) or (what == "purge" and why is not wal.SnapshotNotFoundError):
            return
        with pytest.raises(why):
            if what == "create":
                wal.WAL.create(LOG, fs=self.disk)
            elif what == "open":
                wal.read_wal(LOG, SnapshotMarker(index), fs=self.disk)
            else:
                wal.purge(LOG, SnapshotMarker(index), fs=self.disk)
        assert files(self.disk, "log").items() >= before.items()

    # -------------------------------------------------------------------------------------------- after each step

    @invariant()
    def the_log_knows_itself(self) -> None:
        if self.log is None:
            return
        model, log = self.model, self.log
        assert log.last_index == model.last_index
        assert log.first_index == max(1, min(place.first_index for place in self.held))
        assert (log.state, log.has_state) == (model.state or CommitState(0), model.state is not None)
        assert (log.metadata, log.closed) == (METADATA, False)

    @invariant()
    def readers_see_the_model(self) -> None:
        """P8, P9, P19: whoever reads, beside a writer or behind a crash, finds the same, and changes nothing."""
        if not self.held:
            return
        self.steps += 1
        model = self.model
        start = model.starts[self.steps % len(model.starts)]
        stop_at(self.disk, 1, AssertionError("a reader changes something"))
        reader = wal.WALReader(LOG, SnapshotMarker(start), fs=self.disk)
        assert records_of(reader) == model.yielded(start)
        assert (reader.tail is not None) == model.torn
        metadata, state, entries, tail = reader.read_all()
        assert (metadata, state, entries) == (METADATA, model.state or CommitState(0), model.entries(start))
        assert (tail is not None) == model.torn
        if self.steps % 3 == 0:
            report = wal.verify(LOG, fs=self.disk)
            assert (report.segments, report.records) == (len(model.segments), model.frames)
            assert report.entries == len(model.records(Entry, model.oldest))
            assert (report.last_index, report.tail is not None) == (model.last_index, model.torn)
            assert wal.valid_snapshots(LOG, fs=self.disk) == model.valid_snapshots
            assert wal.exists(LOG, fs=self.disk)
        go_on(self.disk)
        others = files(self.disk, "log").keys() - {str(place) for place in model.segments}
        assert all(name.endswith(".broken") or (name.endswith(".wal.tmp") and self.log is None) for name in others)


# ------------------------------------------------------------------------------------------- log and snapshots

STORAGE = TOP / "storage"

retentions = st.sampled_from([None, wal.Retention(1), wal.Retention(1), wal.Retention(2), wal.Retention(2, 1)])


opened_storage = precondition(lambda self: self.storage is not None)
closed_storage = precondition(lambda self: self.storage is None)


class StorageMachine(RuleBasedStateMachine):
    """
    A log with its snapshots. The model of the log has one segment: which there are is the storage's own affair.

    Attributes:
        snapshots: Those that were saved, by their index, without those that retention gave up.
        damaged: The indexes of those whose files were damaged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimulatedDisk({"storage": None})
        self.model = Model()
        self.storage: wal.FileStorage | None = None
        self.snapshots: dict[int, SnapshotData] = {}
        self.damaged: set[int] = set()
        self.retention: wal.Retention | None = None

    def teardown(self) -> None:
        go_on(self.disk)
        if self.storage is not None:
            self.storage.close()

    @property
    def writer(self) -> wal.FileStorage:
        assert self.storage is not None
        return self.storage

    @property
    def newest(self) -> int:
        return max(self.snapshots, default=0)

    @property
    def newest_intact(self) -> int:
        return max(self.snapshots.keys() - self.damaged, default=0)

    # ------------------------------------------------------------------------------------------------ opening

    def open(self, retention: wal.Retention | None, *, compare: bool = True) -> wal.Recovered:
        """P14: it is recovered from the newest intact snapshot, with all that was saved behind that."""
        self.retention = retention
        self.storage, recovered = wal.open_storage(
            STORAGE, METADATA, retention=retention, segment_size=4096, max_record_bytes=MOST_BYTES, fs=self.disk
        )
        if compare:
            self.compare(recovered)
        assert not [
            name for name in (*files(self.disk, "storage/snap"), *files(self.disk, "storage/wal")) if "tmp" in name
        ]
        return recovered

    def compare(self, recovered: wal.Recovered) -> None:
        snapshot = self.newest_intact
        assert recovered.snapshot == self.snapshots.get(snapshot)
        assert recovered.entries == self.model.entries(snapshot)
        assert (recovered.metadata, recovered.state) == (METADATA, self.model.state or CommitState(0))
        skipped = sorted((index for index in self.damaged if index > snapshot), reverse=True)
        assert [error.path.name for error in recovered.skipped] == [f"{index:016x}.snap" for index in skipped]

    @initialize(number=st.integers(1, 30), loss=st.none() | losses, retention=retentions)
    def create(self, number: int, loss: Loss | None, retention: wal.Retention | None) -> None:
        """P11: also if that is ended anywhere, and begun again."""
        stop_at(self.disk, number, Stop())
        try:
            self.open(retention)
        except Stop:
            self.crash(loss)
            assert self.open(retention)[0] is None
        go_on(self.disk)

    @closed_storage
    @rule(retention=retentions)
    def reopen(self, retention: wal.Retention | None) -> None:
        self.open(retention)

    # ------------------------------------------------------------------------------------------------- saving

    def new_entries(self, place: int, datas: list[bytes]) -> list[Entry]:
        """Entries that go on behind the last one, or replace some that no snapshot covers."""
        last, fixed = self.model.last_index, self.newest
        first = fixed + 1 + place % (last - fixed) if place % 3 == 0 and last > fixed else last + 1
        return [Entry(index, data) for index, data in enumerate(datas, first)]

    def with_save(self, entries: list[Entry], committed: int | None) -> Model:
        before = self.model.state
        new = committed is not None and (
            committed != (before.committed if before else 0) or (before is not None and bool(entries))
        )
        records = [*entries, *([CommitState(committed)] if new and committed is not None else [])]
        return self.model.with_save(records, marks=True, cut=False) if records else self.model

    @opened_storage
    @rule(place=choices, datas=st.lists(datas, max_size=4), committed=st.none() | choices)
    def save(self, place: int, datas: list[bytes], committed: int | None) -> None:
        entries = self.new_entries(place, datas)
        if committed is not None:
            committed = self.newest + committed % (self.model.last_index - self.newest + 2)
        state = None if committed is None else CommitState(committed)
        self.writer.save(state, entries)
        self.model = self.with_save(entries, committed)

    def a_snapshot(self, index: int, data: bytes) -> SnapshotData | None:
        """One that can be saved: beyond the newest, and committed."""
        most = self.model.state.committed if self.model.state else self.model.last_index + 2
        if most <= self.newest:
            return None
        return SnapshotData(self.newest + 1 + index % (most - self.newest), data, b"members")

    @opened_storage
    @rule(index=choices, data=datas)
    def save_snap(self, index: int, data: bytes) -> None:
        snapshot = self.a_snapshot(index, data)
        if snapshot is not None:
            self.writer.save_snap(snapshot)
            self.saved(snapshot)

    def saved(self, snapshot: SnapshotData) -> None:
        self.model = self.model.with_save([SnapshotMarker(snapshot.index)], marks=True, cut=False)
        self.snapshots = {**self.snapshots, snapshot.index: snapshot}
        self.damaged = self.damaged - {snapshot.index}

    @opened_storage
    @rule(index=choices, what=st.sampled_from(["old snapshot", "not committed", "old state", "gap"]))
    def what_is_refused(self, index: int, what: str) -> None:
        """P6: nothing is written."""
        before = self.disk.files()
        newest, state = self.newest, self.model.state
        match what:
            case "old snapshot" if newest and newest not in self.damaged:
                with pytest.raises(wal.SnapshotOutOfDateError):
                    self.writer.save_snap(SnapshotData(1 + index % newest))
            case "not committed" if state:
                with pytest.raises(wal.IndexOrderError):
                    self.writer.save_snap(SnapshotData(state.committed + 1))
            case "old state" if newest:
                with pytest.raises(wal.IndexOrderError):
                    self.writer.save(CommitState(index % newest), [])
            case "gap":
                with pytest.raises(wal.IndexOrderError):
                    self.writer.save_entry([Entry(self.model.last_index + 2)])
        assert self.disk.files() == before

    # ------------------------------------------------------------------------------------- what is not needed

    @opened_storage
    @rule(choice=choices)
    def release(self, choice: int) -> None:
        """P13: what is older than the snapshots that are kept goes, and nothing else."""
        if self.snapshots:
            index = sorted(self.snapshots)[choice % len(self.snapshots)]
            before = self.snapshots.keys()
            self.writer.release(SnapshotMarker(index))
            self.released(index)
            left = {int(name[:16], 16) for name in self.writer.snapshotter.names()}
            assert left & before == self.snapshots.keys()

    def released(self, index: int) -> None:
        if self.retention is not None:
            intact = sorted(known for known in self.snapshots if known <= index and known not in self.damaged)
            oldest = next(iter(intact[-self.retention.snapshots :]), 0)
            self.snapshots = {known: snapshot for known, snapshot in self.snapshots.items() if known >= oldest}
            self.damaged = self.damaged & self.snapshots.keys()

    # ----------------------------------------------------------------------------------------------- the end

    @opened_storage
    @rule()
    def close(self) -> None:
        self.writer.close()
        with pytest.raises(wal.WALClosedError):
            self.writer.save_entry([Entry(1)])
        self.storage = None

    @closed_storage
    @rule(at=choices)
    def damage_the_newest_snapshot(self, at: int) -> None:
        """P9, P14: the one before it is taken, if there is one from which on the log is readable."""
        newest = self.newest_intact
        before = max(self.snapshots.keys() - self.damaged - {newest}, default=0)
        entries = self.model.entries(before)
        # Where the damaged one alone covers some entries, nothing can take its place.
        covered = isinstance(entries, list) and before + len(entries) == self.model.last_index
        if newest and covered and (before or str(Place(0, 0)) in files(self.disk, "storage/wal")):
            tree = self.disk.files()
            name = f"storage/snap/{newest:016x}.snap"
            data = bytearray(tree[name] or b"")
            data[at % len(data)] ^= 1 << at % 7
            self.disk = SimulatedDisk({**tree, name: bytes(data)})
            self.damaged = self.damaged | {newest}

    def crash(self, loss: Loss | None) -> None:
        go_on(self.disk)
        disk = self.disk.killed() if loss is None else after_power_cut(self.disk, loss)
        if self.storage is not None:
            self.storage.close()  # on the old disk, where it makes no difference any more
            self.storage = None
        self.disk = disk

    @rule(
        loss=st.none() | losses, number=st.none() | st.integers(1, 10), again=st.none() | losses, retention=retentions
    )
    def end_between_two_calls(
        self, loss: Loss | None, number: int | None, again: Loss | None, retention: wal.Retention | None
    ) -> None:
        """P1, P14: nothing that was saved is lost, also if recovery ends in the middle."""
        self.crash(loss)
        if number is not None:
            stop_at(self.disk, number, Stop())
            try:
                self.open(retention)
            except Stop:
                self.crash(again)
        go_on(self.disk)
        if self.storage is None:
            self.open(retention)

    @opened_storage
    @rule(
        number=st.integers(1, 4) | st.integers(1, 16),
        what=st.sampled_from(["save", "save_snap", "save_snap", "release"]),
        choice=choices,
        datas=st.lists(datas, min_size=1, max_size=3),
        loss=st.none() | losses,
        retention=retentions,
    )
    def end_in_a_call(
        self,
        number: int,
        what: str,
        choice: int,
        datas: list[bytes],
        loss: Loss | None,
        retention: wal.Retention | None,
    ) -> None:
        """P2, P13, P14: a save or a snapshot is there as a whole or not at all, and what is kept is not harmed."""
        entries, snapshot = self.new_entries(choice, datas), self.a_snapshot(choice, datas[0])
        before = self.model, self.snapshots, self.damaged
        stop_at(self.disk, number, Stop())
        try:
            if what == "save":
                self.writer.save(None, entries)
            elif what == "save_snap" and snapshot is not None:
                self.writer.save_snap(snapshot)
            elif what == "release" and self.newest:
                self.writer.release(SnapshotMarker(self.newest))
        except Stop:
            ended = True
        else:
            ended = False
        if what == "save":
            self.model = self.with_save(entries, None)
        elif what == "save_snap" and snapshot is not None:
            self.saved(snapshot)
        elif what == "release" and self.newest:
            self.released(self.newest)
        after = self.model, self.snapshots, self.damaged
        self.crash(loss)
        recovered = self.open(retention, compare=False)
        if ended and what == "release":
            # Some of them are gone. Those that are left are whole.
            _, kept, damaged = before
            left = {int(name[:16], 16) for name in self.writer.snapshotter.names()}
            assert left >= self.snapshots.keys()
            self.snapshots = {index: data for index, data in kept.items() if index in left}
            self.damaged = damaged & left
        elif ended and not self.is_there(recovered, entries if what == "save" else snapshot):
            self.model, self.snapshots, self.damaged = before
        else:
            self.model, self.snapshots, self.damaged = after
        self.compare(recovered)

    def is_there(self, recovered: wal.Recovered, saved: list[Entry] | SnapshotData | None) -> bool:
        if isinstance(saved, list):
            return recovered.entries[-len(saved) :] == saved
        return recovered.snapshot == saved

    # ------------------------------------------------------------------------------------------- after each step

    @invariant()
    def the_storage_knows_itself(self) -> None:
        if self.storage is not None:
            assert self.storage.last_index == self.model.last_index
            assert self.storage.state == (self.model.state or CommitState(0))
            assert self.storage.metadata == METADATA
            names = {f"{index:016x}.snap" for index in self.snapshots}
            assert names <= set(self.storage.snapshotter.names())


# ------------------------------------------------------------------------------------------------------ both


def profile(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True)
def _no_warnings_of_the_library(caplog: pytest.LogCaptureFixture) -> None:
    """It has thousands of torn logs to warn of."""
    caplog.set_level(logging.CRITICAL, logger="wal")


@pytest.mark.torture
def test_a_log_behaves_as_its_model(effort: Callable[..., int]) -> None:
    """P1 to P10, P13, P18, P19: Whatever is done, in whatever order, and wherever it crashes, it is as in the model."""
    run_state_machine_as_test(LogMachine, settings=profile(effort(quick=60, full=2000, deep=50_000), 40))


@pytest.mark.torture
def test_a_storage_behaves_as_its_model(effort: Callable[..., int]) -> None:
    """P1, P2, P6, P9, P11, P13, P14: So do a log and its snapshots, of which some are damaged."""
    run_state_machine_as_test(StorageMachine, settings=profile(effort(quick=40, full=1000, deep=25_000), 40))


def test_a_storage_that_would_fall_back_behind_what_it_has_is_not_opened() -> None:
    """P9, P14: if the entries that a damaged snapshot covers are not in the log, no older snapshot takes its place."""
    disk = SimulatedDisk()
    with wal.open_storage(STORAGE, fs=disk)[0] as storage:
        storage.save_snap(SnapshotData(3, b"three"))
        storage.save_snap(SnapshotData(5, b"five, from another node"))
    disk = SimulatedDisk({**disk.files(), f"storage/snap/{5:016x}.snap": b"damaged"})
    before = disk.files()

    with pytest.raises(wal.NoSnapshotError, match="snapshot 5"):
        wal.open_storage(STORAGE, fs=disk)

    assert disk.files() == before
