# SPDX-License-Identifier: Apache-2.0
"""
The life of one log that both sides write.

A life is a number of turns. In each, this library or etcd's package makes or opens the log, finds what the model says,
appends, and leaves it: closed, or torn as a crash leaves it. After a tear one of the two recovers *and appends*. What
it found must be what had been durable, and from the rest a prefix: of whole saves where they are marked, of records
where they are not. After each turn both read the log from its beginning and from snapshots, and all three must agree.

Everything is taken from the life's number, so a life that fails can be lived again.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wal
from wal.etcd import Entry, HardState, Snapshot

from .gowal import TORN, GoError, GoWAL
from .model import Contents, Model, Outcome, Save, difference

__all__ = ["KINDS", "REGISTRY", "Life", "outcome", "read"]

REGISTRY = wal.etcd.registry()
SECTOR_BYTES = 512
ROOM_BYTES = 2048
"""By so much, at most, a log overestimates the saves of a group before it writes them."""

KINDS = [
    "made by wal",
    "made by etcd",
    "wal appends to what etcd wrote last",
    "etcd appends to what wal wrote last",
    "wal cuts",
    "etcd cuts",
    "turns with save marks",
    "turns without save marks",
    "saves of one group",
    "saves without a sync",
    "zeros ahead",
    "overruled entries",
    "snapshots from elsewhere",
    "opened at a snapshot",
    "read from a snapshot",
    "stamped, then opened by etcd",
    "purged",
    "cut off at any byte",
    "zeros from any byte on",
    "sectors lost",
    "torn: wal recovers",
    "torn: wal.repair",
    "torn: etcd recovers",
    "torn: etcd refuses, wal recovers",
    "torn: wal refuses, etcd recovers",
    "torn: nothing is left of what was torn",
    "torn: a part of a save is left, by etcd",
]
"""What must happen now and then. A suite that does not come across one of these proves less than it says."""


def read(directory: Path, start: wal.Snapshot | None = None) -> Contents:
    """Read with ``WALReader``."""
    return _contents(wal.WALReader(directory, start, registry=REGISTRY).read_all())


def outcome(directory: Path, start: Snapshot | None = None) -> Outcome:
    """Read; a word if that is refused."""
    try:
        return read(directory, start)
    except wal.SnapshotNotFoundError:
        return "no snapshot"
    except wal.IndexGapError:
        return "gap"
    except wal.CorruptionError as error:
        return f"{type(error).__name__}: {error.reason}"


def _contents(found: wal.LogContents[Any, Any] | wal.ReadWAL[Any, Any, Any]) -> Contents:
    assert isinstance(found.state, HardState)
    return Contents(found.metadata, found.state, [entry for entry in found.entries if isinstance(entry, Entry)])


def _of_each(models: list[Model], start: int) -> list[Outcome]:
    return [model.contents(start) for model in models]


def _of_each_for_etcd(models: list[Model], start: int) -> list[Outcome]:
    return [contents for model in models for contents in model.contents_for_etcd(start)]


def _first_after(model: Model) -> Save:
    """Make up a save that goes on behind what is left after a crash."""
    term = model.term + 1
    entry = Entry(term=term, index=model.last + 1, data=b"after the crash")
    return Save(HardState(term=term, vote=1, commit=model.state.commit), (entry,))


class Life:
    """One log, from its making to its end. ``seen`` counts what came to pass."""

    def __init__(self, number: int, directory: Path, go: GoWAL) -> None:
        self.rng = random.Random(number)
        self.directory = directory
        self.go = go
        self.seen: Counter[str] = Counter()
        self.model = Model(self.rng.randbytes(self.rng.choice([0, 5, 300])))
        self.start: Snapshot | None = None
        """Where the log must be opened at the earliest; the beginning, if there is no reason against it."""
        self.purged = False
        self.writer = ""
        self.at = "at the beginning"
        self._segment_size = self.rng.choice([4096, 4096, 4099, 8192, 65_536])
        self._received = self.rng.random() < 0.2

    def live(self) -> None:
        self.directory.parent.mkdir()
        for turn in range(self.rng.choice([1, 2, 3, 4, 6])):
            writer = self._next_writer()
            self.at = f"turn {turn}, {writer} writes"
            self._take_turn(writer, self._make_up())
            self._compare()
            if self.rng.random() < 0.25:
                self._purge()
        self.seen["logs"] += 1
        self.seen["records written"] += sum(len(save.records()) for save in self.model.saves)

    def _next_writer(self) -> str:
        if self.writer and self.rng.random() < 0.75:
            return {"wal": "etcd", "etcd": "wal"}[self.writer]
        return self.rng.choice(["wal", "etcd"])

    def _make_up(self) -> list[Save]:
        saves = self.model.next_saves(self.rng, self.rng.randint(0, 16), received=self._received)
        last = self.model.last
        for save in saves:
            self.seen["overruled entries"] += bool(save.entries) and save.entries[0].index <= last
            self.seen["snapshots from elsewhere"] += save.marker is not None and save.marker.index > last
            last = save.entries[-1].index if save.entries else max(last, save.marker.index if save.marker else 0)
        return saves

    def _opened_at(self, model: Model | None = None) -> Snapshot | None:
        """
        Choose where to open the log: at its beginning, or at a snapshot; never in front of what is gone.

        ``model`` is what it holds for sure, if that is less than all.
        """
        model = model or self.model
        behind = max(self.start.index if self.start else 0, model.begins_behind)
        choice = [marker for marker in model.markers if marker.index >= behind]
        if behind or (choice and self.rng.random() < 0.4):
            self.seen["opened at a snapshot"] += 1
            return self.rng.choice(choice)
        return None

    # ---------------------------------------------------------------------------------------------- turns

    def _take_turn(self, writer: str, saves: list[Save]) -> None:
        if self.writer and writer != self.writer:
            self.seen[f"{writer} appends to what {self.writer} wrote last"] += 1
        if not self.writer:
            self.seen[f"made by {writer}"] += 1
        before = len(self._segments())
        torn = self.rng.random() < 0.5
        in_flight = self._wal_writes(saves, torn=torn) if writer == "wal" else self._etcd_writes(saves)
        self.seen[f"{writer} cuts"] += max(len(self._segments()) - before - (not self.writer), 0)
        self.writer = writer
        self.model.add(saves)
        if torn and in_flight:
            self._tear(saves[-in_flight:])

    def _wal_writes(self, saves: list[Save], *, torn: bool) -> int:
        """Write the saves, close; or leave things as a kill would. Return how many saves a crash may take away."""
        rng = self.rng
        options: dict[str, Any] = {
            "registry": REGISTRY,
            "segment_size": self._segment_size if rng.random() < 0.7 else rng.choice([4096, 8192]),
            "sync": rng.random() < 0.7,
            "save_marks": rng.random() < 0.7,
            "zero_ahead_bytes": rng.choice([0, 0, 512, 2 << 20]),
        }
        self._marked = options["save_marks"]
        self.seen["turns with save marks" if self._marked else "turns without save marks"] += 1
        self.seen["zeros ahead"] += options["sync"] and options["zero_ahead_bytes"] > 0
        if self.writer:
            log = self._wal_opens(options)
        else:
            log = wal.WAL.create(self.directory, self.model.metadata, **options)
        with log:
            unsynced = self._save(log, saves, sync=options["sync"])
            if options["sync"] and unsynced > 1 and self._end() + ROOM_BYTES >= options["segment_size"]:
                unsynced = 1  # so near to the next cut the group may have been two, with a sync in between
            if torn:
                image = self.directory.with_name("image")
                shutil.copytree(self.directory, image)
        if torn:
            shutil.rmtree(self.directory)
            image.rename(self.directory)
        return unsynced

    def _wal_opens(self, options: dict[str, Any]) -> wal.WAL:
        start = self._opened_at()
        opened = wal.read_wal(self.directory, start, **options)
        try:
            self._same("wal opens", _contents(opened), self.model.contents(start.index if start else 0))
            assert opened.wal.repaired is None, f"{self.at}: wal repairs what is in order: {opened.wal.repaired}"
        except BaseException:
            opened.wal.close()
            raise
        return opened.wal

    def _save(self, log: wal.WAL, saves: list[Save], *, sync: bool) -> int:
        """Save, one by one and in groups. Return how many of the last saves no sync has made durable for sure."""
        rng, left, unsynced = self.rng, list(saves), 0
        while left:
            if not sync and rng.random() < 0.15:
                log.sync()
                unsynced = 0
            size = rng.choice([1, 1, 2, 4])
            group: list[Save] = []
            while left and len(group) < size and not left[0].marker:
                group.append(left.pop(0))
            if len(group) > 1:
                pending = [log.submit(save.state, save.entries) for save in group]
                for one in pending:
                    one.wait()
                self.seen["saves of one group"] += len(group)
            elif group:
                log.save(group[0].state, group[0].entries)
            else:
                marker = left.pop(0).marker
                assert marker
                log.save_snap(marker)
                if rng.random() < 0.3:
                    log.release(marker)
            unsynced = max(len(group), 1) + (0 if sync else unsynced)
            self.seen["saves without a sync"] += not sync
        return unsynced

    def _etcd_writes(self, saves: list[Save]) -> int:
        """Write the saves and close. Return how many of the last saves a crash may take away."""
        self._marked = False
        size, sync = self.rng.choice([4096, 4096, 8192, 65_536]), self.rng.random() < 0.5
        if self.writer:
            self.seen["stamped, then opened by etcd"] += any(
                b"wal ends" in path.read_bytes() for path in self._segments()[-1:]
            )
            start = self._opened_at()
            found = self._etcd_opens(start, segment_size=size, sync=sync)
            self._one_of("etcd opens", found, self.model.contents_for_etcd(start.index if start else 0))
        else:
            metadata = None if not self.model.metadata and self.rng.random() < 0.5 else self.model.metadata
            self.go.create(self.directory, metadata, segment_size=size, sync=sync)
        self.go.append(self.directory, saves)
        self.go.close(self.directory)
        return min(len(saves), self.rng.randint(1, 3))

    def _etcd_opens(self, start: Snapshot | None, **options: Any) -> Outcome:
        try:
            return self.go.open(self.directory, start, **options)
        except GoError as error:
            return str(error)

    def _purge(self) -> None:
        """Remove the segments that the newest snapshot does not need."""
        committed = [marker for marker in self.model.markers if marker.index <= self.model.state.commit]
        if committed:
            newest = max(committed, key=lambda marker: marker.index)
            if wal.purge(self.directory, newest, registry=REGISTRY):
                self.start, self.purged = newest, True
                self.seen["purged"] += 1
                self._compare()

    # ---------------------------------------------------------------------------------------------- tears

    def _tear(self, saves: list[Save]) -> None:
        """Tear the last saves, as a crash before their sync would; let one side recover, and append."""
        flying = self._on_disk(saves)
        while flying is None and len(saves) > 1:
            saves = saves[1:]
            flying = self._on_disk(saves)
        durable = self.model.saves[: len(self.model.saves) - len(saves)]
        if flying is None or Model(b"", durable).state.commit < self.model.begins_behind:
            # There was a cut behind them; or the snapshot from elsewhere, at which such a log must be opened, would not
            # be committed any more.
            return
        path, begin, end = flying
        kind, damage = self._damage(begin, end)
        path.write_bytes(damage(path.read_bytes()))
        self.at += f", {kind} of {path.name} between {begin} and {end}"
        self.seen[kind] += 1
        self._recover(durable, saves, kind)

    def _recover(self, durable: list[Save], torn: list[Save], kind: str) -> None:
        """Let both sides read what a crash left, and one of them recover it and append."""
        records = [record for save in torn for record in save.records()]
        singles = [Model(self.model.metadata, durable + records[:count]) for count in range(len(records) + 1)]
        whole = [Model(self.model.metadata, durable + torn[:count]) for count in range(len(torn) + 1)]
        mine = whole if self._marked else singles
        start = self._opened_at(singles[0])
        index = start.index if start else 0
        before = self._listing()
        found, theirs = outcome(self.directory, start), self.go.outcome(self.directory, start)
        self._same_files("reading", before)
        if isinstance(found, str):
            # Records without marks that follow the damage: rot, or a torn write of several records. Nobody can tell.
            assert (self._marked, kind) == (False, "sectors lost"), f"{self.at}: wal refuses: {found}"
        else:
            self._one_of("wal reads", found, _of_each(mine, index))
        if isinstance(theirs, str):
            assert kind != "cut off at any byte", f"{self.at}: etcd refuses to read: {theirs}"
        else:
            self._one_of("etcd reads", theirs, _of_each_for_etcd(singles, index))

        left = None
        if self.rng.random() < 0.5 or isinstance(found, str):
            left = self._etcd_recovers(start, singles, index)
            self.seen["torn: etcd refuses, wal recovers"] += left is None
            self.seen["torn: wal refuses, etcd recovers"] += isinstance(found, str)
        if left is None:
            assert isinstance(found, Contents), f"{self.at}: neither side can open it: {found}; {theirs}"
            left = self._wal_recovers(start, mine, index)
        self.seen["torn: nothing is left of what was torn"] += left is singles[0] or left is whole[0]
        self.seen["torn: a part of a save is left, by etcd"] += left.contents() not in _of_each(whole, 0)

    def _on_disk(self, saves: list[Save]) -> tuple[Path, int, int] | None:
        """Find the bytes of the last saves; ``None`` if they are not the end of the last segment."""
        values = [value for save in saves for value in (*save.entries, *filter(None, (save.state, save.marker)))]
        path = self._segments()[-1]
        found = list(wal.WALReader(self.directory, self._read_from(), registry=REGISTRY))
        if len(found) <= len(values):
            return None
        before, found = found[-len(values) - 1], found[-len(values) :]
        if [record.value for record in found] != values or {record.path for record in found} != {path}:
            return None
        if before.type is wal.RecordType.METADATA and found[0].type is wal.RecordType.STATE:
            return None  # that state is not theirs, but the head's
        return path, found[0].offset, self._end()

    def _end(self) -> int:
        """Tell where in the last segment the log ends."""
        earlier = sum(path.stat().st_size for path in self._segments()[:-1])
        return wal.verify(self.directory, registry=REGISTRY).bytes - earlier

    def _read_from(self) -> Snapshot | None:
        """Tell from where on the log can be read."""
        behind = self.model.begins_behind
        if behind > (self.start.index if self.start else 0):
            return next(marker for marker in self.model.markers if marker.index == behind)
        return self.start

    def _damage(self, begin: int, end: int) -> tuple[str, Callable[[bytes], bytes]]:
        """Choose what a crash makes of the bytes from ``begin`` to ``end``."""
        rng = self.rng
        at = rng.choice([begin, begin + 1, begin + 8, end - 1, rng.randrange(begin, end)])
        at = min(at, end - 1)
        kind = rng.choice(["cut off at any byte", "zeros from any byte on", "sectors lost"])
        if kind == "cut off at any byte":
            return kind, lambda data: data[:at]
        if kind == "zeros from any byte on":
            return kind, lambda data: data[:at] + bytes(len(data) - at)
        sectors = range(begin // SECTOR_BYTES, -(-end // SECTOR_BYTES))
        lost = [sector for sector in sectors if rng.random() < 0.5] or [rng.choice(sectors)]

        def lose(data: bytes) -> bytes:
            for sector in lost:
                low, high = max(sector * SECTOR_BYTES, begin), min((sector + 1) * SECTOR_BYTES, end)
                data = data[:low] + bytes(high - low) + data[high:]
            return data

        return kind, lose

    def _etcd_recovers(self, start: Snapshot | None, models: list[Model], index: int) -> Model | None:
        """Open as an etcd server does: repair once, after an unexpected end. ``None`` if etcd refuses."""
        found = self._etcd_opens(start, segment_size=self._segment_size)
        if found == TORN:
            assert self.go.repair(self.directory), f"{self.at}: etcd cannot repair {found}"
            found = self._etcd_opens(start, segment_size=self._segment_size)
        if isinstance(found, str):
            return None
        self._one_of("etcd recovers", found, _of_each_for_etcd(models, index))
        possible = [model for model in models if found in model.contents_for_etcd(index)]
        more = _first_after(possible[0])
        self.go.append(self.directory, [more])
        self.go.close(self.directory)
        self.seen["torn: etcd recovers"] += 1
        return self._go_on("etcd", possible, more)

    def _wal_recovers(self, start: Snapshot | None, models: list[Model], index: int) -> Model:
        repaired = self.rng.random() < 0.3
        if repaired:
            wal.repair(self.directory)
            self.seen["torn: wal.repair"] += 1
        opened = wal.read_wal(
            self.directory,
            start,
            registry=REGISTRY,
            segment_size=self._segment_size,
            save_marks=self.rng.random() < 0.7,
        )
        with opened.wal as log:
            assert not (repaired and log.repaired), f"{self.at}: wal repairs twice: {log.repaired}"
            found = _contents(opened)
            self._one_of("wal recovers", found, _of_each(models, index))
            possible = [model for model in models if found == model.contents(index)]
            more = _first_after(possible[0])
            log.save(more.state, more.entries)
        self.seen["torn: wal recovers"] += 1
        return self._go_on("wal", possible, more)

    def _go_on(self, writer: str, possible: list[Model], more: Save) -> Model:
        """
        Tell which of these is in the log, in front of what was saved since, and go on from there.

        They have the same contents, but not always the same markers, nor the same number of entries: one may have taken
        the place of its like.
        """
        newest = wal.valid_snapshots(self.directory, registry=REGISTRY)[-1]
        entries = wal.verify(self.directory, registry=REGISTRY).entries - len(more.entries)
        for model in possible:
            if [Snapshot(), *model.markers][-1] == newest and (self.purged or model.entries_written == entries):
                self.writer = writer
                self.model = Model(model.metadata, [*model.saves, more])
                return model
        raise AssertionError(f"{self.at}: {entries} entries and {newest} are left, in none of {len(possible)} models")

    # ------------------------------------------------------------------------------------------ comparing

    def _compare(self) -> None:
        """
        Let both sides read the log, and compare with the model: from its beginning, from where it can be read from, if
        that is another place, and from two snapshots.
        """
        before = self._listing()
        markers = sorted(set(self.model.markers), key=lambda marker: marker.index)
        starts = {None, self._read_from(), *self.rng.sample(markers, min(2, len(markers)))}
        for start in sorted(starts, key=lambda start: start.index if start else 0):
            mine, theirs = outcome(self.directory, start), self.go.outcome(self.directory, start)
            index = start.index if start else 0
            gone = self.start is not None and index < self.start.index
            if not (gone and mine == theirs == "no snapshot"):
                self._same(f"wal and the model from {index}", mine, self.model.contents(index))
                self._one_of(f"etcd reads from {index}", theirs, self.model.contents_for_etcd(index))
            self.seen["etcd gives back what was overruled"] += mine != theirs
            self._same(f"verify from {index}", self._verified(start, theirs), self.go.verify(self.directory, start))
            self.seen["read from a snapshot" if start else "read from the beginning"] += 1
        report = wal.verify(self.directory, registry=REGISTRY)
        assert report.tail is None, f"{self.at}: wal finds {report.tail}"
        if not self.purged:
            self._same("entries", report.entries, self.model.entries_written)
        if self.model.state != HardState():  # etcd takes no state for one that commits nothing
            mine_valid = wal.valid_snapshots(self.directory, registry=REGISTRY)
            self._same("valid snapshots", mine_valid, self.go.snapshots(self.directory))
        self._same_files("reading", before)
        self.seen["comparisons"] += 1
        self.seen["records read by both"] += report.records

    def _verified(self, start: Snapshot | None, theirs: Outcome) -> str:
        try:
            wal.verify(self.directory, start or Snapshot(), registry=REGISTRY)
        except wal.SnapshotNotFoundError:
            return "no snapshot"
        except wal.IndexGapError:
            assert theirs == "gap", f"{self.at}: wal alone sees a gap"
            return ""  # etcd's Verify does not look at entries
        return ""

    def _same(self, what: str, one: Any, other: Any) -> None:
        if isinstance(one, Contents) or isinstance(other, Contents):
            differs = difference(one, other)
        else:
            differs = None if one == other else f"{one!r:.500} and {other!r:.500}"
        assert differs is None, f"{self.at}: {what}: {differs}"

    def _one_of(self, what: str, found: Outcome, possible: list[Outcome]) -> None:
        assert found in possible, f"{self.at}: {what} none of {len(possible)}; {difference(found, possible[-1])}"

    def _segments(self) -> list[Path]:
        return sorted(self.directory.glob("*.wal"))

    def _listing(self) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.directory.iterdir()}

    def _same_files(self, what: str, before: dict[str, str]) -> None:
        self._same(f"files before and after {what}", before, self._listing())
