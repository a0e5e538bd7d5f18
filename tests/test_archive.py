"""The archive: what is uploaded is whole and stays so, one archiver has it, and what comes back is the log."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

import wal
from logs import segments, tree
from unsynced import Unsynced
from wal.testing import Crash, SimulatedDisk

pytest.importorskip("obstore", reason="pip install 'wal[archive]'")

from obstore.exceptions import GenericError
from obstore.store import LocalStore, MemoryStore

from archives import KINDS, Watched, failing, interleavings, new_store, objects_of, s3_server, store_of
from wal._archive import manifest as manifests
from wal.archive import (
    ArchiveConflictError,
    ArchiveDamagedError,
    ArchiveNotFoundError,
    Archiver,
    ArchiveStoreError,
    restore,
    verify,
)

SIZE = 4096


@pytest.fixture
def tmp_path(memory: Path) -> Path:
    """Nothing here depends on the disk, and much is synced."""
    return memory


@pytest.fixture(scope="session")
def s3() -> Iterator[Callable[[], str]]:
    """The endpoint of an S3 server, started when it is asked for."""
    servers: list[tuple[Any, str]] = []

    def endpoint() -> str:
        if not servers:
            pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
            context = s3_server()
            servers.append((context, context.__enter__()))
        return servers[0][1]

    yield endpoint
    for context, _ in servers:
        context.__exit__(None, None, None)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, s3: Callable[[], str], tmp_path: Path) -> Any:
    """A store with nothing in it, of each kind."""
    return new_store(request.param, s3, tmp_path)


class Life:
    """A storage that saves, snapshots and goes on. Its segments hold ten entries or so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.storage, _ = wal.open_storage(path, b"node", segment_size=SIZE, sync=False)

    def save(self, count: int, *, snapshots: int = 25) -> None:
        """Save entries, each with a state that commits it, and a snapshot now and then."""
        for index in range(self.storage.last_index + 1, self.storage.last_index + 1 + count):
            self.storage.save(wal.CommitState(index), [wal.Entry(index, f"entry {index} ".encode() * 30)])
            if index % snapshots == 0:
                self.storage.save_snap(wal.SnapshotData(index, f"state {index}".encode() * 20))

    def close(self) -> None:
        self.storage.close()

    def sealed(self) -> list[str]:
        """The names of the sealed segments."""
        return [path.name for path in segments(self.path / "wal")][:-1]


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    life = Life(tmp_path / "life")
    yield life
    life.close()


def data_of(entry: wal.LogEntry) -> bytes:
    assert isinstance(entry, wal.Entry)
    return entry.data


def checked(store: Any, life: Life, directory: Path) -> None:
    """The archive holds all that is sealed, once, and restoring it gives the log exactly."""
    report = verify(store)
    held = objects_of(store)
    newest = max(name for name in held if name.startswith("manifest/"))
    manifest = json.loads(held[newest])["manifest"]
    named = {f"segments/{s['name']}" for s in manifest["segments"]}
    named |= {f"snapshots/{s['name']}" for s in manifest["snapshots"]}

    assert report.orphans == ()
    assert named == {name for name in held if not name.startswith("manifest/")}
    assert [segment["name"] for segment in manifest["segments"]] == life.sealed()
    for name in life.sealed():
        assert held[f"segments/{name}"] == (life.path / "wal" / name).read_bytes()

    restored = restore(store, directory)
    assert restored.last_index == report.last_index
    storage, recovered = wal.open_storage(directory)
    with storage:
        start = recovered.snapshot.index if recovered.snapshot else 0
        indexes = list(range(start + 1, restored.last_index + 1))
        assert [entry.index for entry in recovered.entries] == indexes
        assert [data_of(entry) for entry in recovered.entries] == [f"entry {index} ".encode() * 30 for index in indexes]
        assert recovered.state == wal.CommitState(restored.last_index)
        assert recovered.snapshot is None or recovered.snapshot.data == f"state {start}".encode() * 20
        assert recovered.metadata == b"node"


# --------------------------------------------------------------------------------------------------------- upload


class TestUpload:
    def test_what_is_sealed_is_uploaded_and_comes_back(self, store: Any, life: Life, tmp_path: Path) -> None:
        """Segment by segment, as the log goes on, and byte for byte."""
        with Archiver(life.path, store) as archiver:
            assert archiver.run().segments == ()
            for number in range(4):
                life.save(40)
                report = archiver.run()
                assert list(report.segments) == life.sealed()[-len(report.segments) :]
                assert report.bytes > 0
                assert report.adopted == ()
                assert report.last_index == archiver.last_index
                checked(store, life, tmp_path / f"restored-{number}")

    def test_no_request_is_made_if_nothing_is_new(self, store: Any, life: Life) -> None:
        """So it may be asked as often as one likes."""
        life.save(50)
        watched = Watched(store)
        with Archiver(life.path, watched) as archiver:
            archiver.run()
            before = len(watched.requests)
            report = archiver.run()

        assert (report.segments, report.snapshots, report.bytes) == ((), (), 0)
        assert len(watched.requests) == before

    def test_the_requests(self, life: Life) -> None:
        """Those that docs/archive.md counts: for each segment one, and for up to 16 of them two more."""
        life.save(200)
        watched = Watched(MemoryStore())
        with Archiver(life.path, watched) as archiver:
            opening = [kind for kind, _ in watched.requests]
            report = archiver.run()
        kinds = [kind for kind, _ in watched.requests[len(opening) :]]

        assert opening == ["list", "list", "list", "put", "list"]
        runs = -(-len(report.segments) // 16)
        assert kinds.count("put") == len(report.segments) + len(report.snapshots) + runs
        assert kinds.count("list") == runs
        assert set(kinds) == {"put", "list"}

    def test_what_is_sealed_stays_sealed(self, life: Life) -> None:
        """The names in the log's directory are durable before the first segment is uploaded."""
        life.save(60)
        order: list[str] = []

        class Noting(Unsynced):
            def fsync(self, fd: int) -> None:
                order.append("sync")

        store = Watched(MemoryStore(), before=lambda _, kind, name: order.append(name))
        with Archiver(life.path, store, fs=Noting()) as archiver:
            archiver.run()
        uploads = [place for place, what in enumerate(order) if what.startswith("segments/")]

        assert "sync" in order[: uploads[0]]

    def test_a_log_alone(self, store: Any, path: Path, tmp_path: Path) -> None:
        """A log that is not in a storage has no snapshots, and is restored with all its segments."""
        with wal.WAL.create(path, b"node", segment_size=SIZE) as log:
            for index in range(1, 100):
                log.save(None, [wal.Entry(index, bytes(200))])
            with Archiver(path, store) as archiver:
                report = archiver.run()

        restored = restore(store, tmp_path / "restored")

        assert restored.segments == len(report.segments) == len(segments(path)) - 1
        assert restored.snapshot is None
        contents = wal.WALReader(tmp_path / "restored").read_all()
        assert [entry.index for entry in contents.entries] == list(range(1, restored.last_index + 1))
        assert contents.metadata == b"node"

    def test_records_of_ones_own(self, store: Any, path: Path, tmp_path: Path) -> None:
        """A registry says what they are; to restore all of it, none is needed."""

        class Letter(wal.LogEntry):
            def __init__(self, index: int) -> None:
                self.index = index

            def marshal(self) -> bytes:
                return b"letter %d" % self.index + bytes(300)

            @classmethod
            def unmarshal(cls, data: bytes) -> Letter:
                return cls(int(data.rstrip(b"\0").removeprefix(b"letter ")))

        registry = wal.RecordRegistry(entry=Letter)
        with wal.WAL.create(path, registry=registry, segment_size=SIZE) as log:
            log.save_entry([Letter(1)])
            for index in range(2, 60):
                log.save_entry([Letter(index)])
        with Archiver(path, store) as archiver, pytest.raises(wal.RecordDecodeError):
            archiver.run()
        with Archiver(path, store, registry=registry) as archiver:
            archiver.run()

        restore(store, tmp_path / "all")
        restore(store, tmp_path / "some", index=30, registry=registry)

        found = wal.WALReader(tmp_path / "some", registry=registry).read_all().entries
        assert [letter.index for letter in found] == list(range(1, 31))

    def test_a_damaged_segment_is_not_uploaded(self, store: Any, life: Life, tmp_path: Path) -> None:
        """Those in front of it are; the error is that of the log."""
        life.save(100)
        damaged = segments(life.path / "wal")[3]
        intact = damaged.read_bytes()
        damaged.write_bytes(intact[:1000] + bytes([intact[1000] ^ 1]) + intact[1001:])
        with Archiver(life.path, store) as archiver:
            with pytest.raises(wal.CorruptionError) as caught:
                archiver.run()
            assert caught.value.path == damaged
            assert f"segments/{damaged.name}" not in objects_of(store)

            damaged.write_bytes(intact)
            assert archiver.last_index == int(damaged.name[17:33], 16) - 1
            assert archiver.run().adopted == ()
        checked(store, life, tmp_path / "restored")

    def test_a_damaged_snapshot_is_left_out_and_reported(self, life: Life, tmp_path: Path) -> None:
        """The log is archived all the same, and restored from the snapshot before."""
        life.save(100)
        damaged = life.path / "snap" / f"{50:016x}.snap"
        damaged.write_bytes(damaged.read_bytes()[:-1])
        store = MemoryStore()
        with Archiver(life.path, store) as archiver:
            report = archiver.run()

        assert [error.path for error in report.damaged] == [damaged]
        assert restore(store, tmp_path / "restored", index=60).snapshot == 25

    def test_a_snapshot_waits_for_its_marker_to_be_sealed(self, life: Life) -> None:
        """A marker that is not sealed could be taken back by a power cut, and another snapshot could follow."""
        life.save(100)
        store = MemoryStore()
        with Archiver(life.path, store) as archiver:
            archiver.run()
            life.storage.save_snap(wal.SnapshotData(99, b"just now")) if life.storage.last_index < 100 else None
            life.save(25, snapshots=125)
            life.save(0)
            report = archiver.run()
            last = segments(life.path / "wal")[-1].name
            unsealed = int(last[17:33], 16)
        assert all(int(name[:16], 16) <= unsealed for name in report.snapshots)

    def test_databases_come_along(self, store: Any, life: Life, tmp_path: Path) -> None:
        """Also one that was saved when its snapshot had been archived already."""
        import io

        life.save(60)
        life.storage.snapshotter.save_db_from(io.BytesIO(b"first"), 25)
        with Archiver(life.path, store) as archiver:
            archiver.run()
            life.storage.snapshotter.save_db_from(io.BytesIO(b"second"), 50)
            life.save(40)
            archiver.run()
            assert archiver.run().snapshots == ()
        report = restore(store, tmp_path / "restored", index=70)

        assert report.snapshot == 50
        snapshotter = wal.Snapshotter(tmp_path / "restored" / "snap")
        assert snapshotter.db_path(50).read_bytes() == b"second"
        assert restore(store, tmp_path / "older", index=30).snapshot == 25
        assert (tmp_path / "older" / "snap" / f"{25:016x}.snap.db").read_bytes() == b"first"

    def test_progress_grows_to_the_total(self, life: Life, tmp_path: Path) -> None:
        """Of uploading, verifying and restoring."""
        life.save(100)
        store = MemoryStore()
        for work in (
            lambda progress: Archiver(life.path, store).run(progress=progress),
            lambda progress: verify(store, progress=progress),
            lambda progress: restore(store, tmp_path / "restored", progress=progress),
        ):
            seen: list[tuple[int, int]] = []
            work(lambda done, total, seen=seen: seen.append((done, total)))
            assert seen == sorted(seen)
            assert seen[-1][0] == seen[-1][1] > 0

    def test_beside_a_writer(self, store: Any, life: Life, tmp_path: Path) -> None:
        """While another thread saves and cuts: whatever is archived at any time is in order."""
        done = threading.Event()

        def write() -> None:
            while not done.is_set() and life.storage.last_index < 400:
                life.save(10)

        writer = threading.Thread(target=write)
        with Archiver(life.path, store) as archiver:
            writer.start()
            try:
                while archiver.last_index < 150:
                    archiver.run()
                    assert verify(store).last_index == archiver.last_index
            finally:
                done.set()
                writer.join()
            archiver.run()
        checked(store, life, tmp_path / "restored")

    def test_beside_a_purge(self, store: Any, life: Life, tmp_path: Path) -> None:
        """A segment that is purged between the listing and its turn is no error while nothing is archived yet."""
        life.save(100)
        first = segments(life.path / "wal")[0]

        class Purging(Unsynced):
            def open(self, path: Path, flags: int) -> int:
                if purging and path == first:
                    first.unlink(missing_ok=True)
                return super().open(path, flags)

        purging: list[bool] = []
        with Archiver(life.path, store, fs=Purging()) as archiver:
            purging.append(True)
            report = archiver.run()

        assert report.segments[0] == segments(life.path / "wal")[0].name != first.name
        checked(store, life, tmp_path / "restored")

    def test_the_segments_alone_are_a_log(self, life: Life, tmp_path: Path) -> None:
        """Copied out of the store by other means, they can be opened."""
        life.save(100)
        with Archiver(life.path, tmp_path / "store") as archiver:
            archiver.run()
        shutil.copytree(tmp_path / "store" / "segments", tmp_path / "copy")

        log, metadata, state, entries = wal.read_wal(tmp_path / "copy")
        log.close()

        assert metadata == b"node"
        assert state == wal.CommitState(archiver.last_index)
        assert [entry.index for entry in entries] == list(range(1, archiver.last_index + 1))

    def test_a_closed_archiver_takes_no_more_runs(self, life: Life) -> None:
        """Closing it twice is harmless."""
        archiver = Archiver(life.path, MemoryStore())
        archiver.close()
        archiver.close()
        with pytest.raises(wal.WALClosedError):
            archiver.run()

    def test_there_must_be_a_log(self, store: Any, tmp_path: Path) -> None:
        """Nothing is put into the store otherwise."""
        with pytest.raises(wal.WALNotFoundError):
            Archiver(tmp_path, store)
        assert objects_of(store) == {}


# ------------------------------------------------------------------------------------------------------ interrupted


def live(life: Life, store: Any, outcome: list[str]) -> None:
    """Archive a log that grows, in two lives of an archiver."""
    for _ in range(2):
        with Archiver(life.path, store) as archiver:
            for _ in range(2):
                life.save(20)
                archiver.run()
    outcome.append("done")


class TestInterrupted:
    @pytest.mark.torture
    @pytest.mark.parametrize("how", ["before", "after"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_at_each_request(
        self, kind: str, how: str, s3: Callable[[], str], tmp_path: Path, effort: Callable[..., int]
    ) -> None:
        """Whichever request fails, carried out or not: the next archiver makes it whole, and doubles nothing."""
        outcome: list[str] = []
        step = effort(quick=4, full=1, deep=1) if kind == "s3" else 1
        for number in range(0, 1000, step):
            life = Life(tmp_path / f"life-{number}")
            store = new_store(kind, s3, tmp_path)
            with suppress(ArchiveStoreError):
                live(life, failing(store, number, how), outcome)
            if not outcome:
                life.save(20)
                with Archiver(life.path, store) as archiver:
                    archiver.run()
            checked(store, life, tmp_path / f"restored-{number}")
            life.close()
            if outcome:
                break
        assert number >= 20

    @pytest.mark.torture
    @pytest.mark.parametrize("how", ["before", "after"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_same_archiver_goes_on(
        self, kind: str, how: str, s3: Callable[[], str], tmp_path: Path, effort: Callable[..., int]
    ) -> None:
        """A run that failed is run again: what the lost request did is found out, and is no other archiver's."""
        step = effort(quick=4, full=1, deep=1) if kind == "s3" else 1
        number, requests = 0, 1
        while number < requests:
            life = Life(tmp_path / f"life-{number}")
            store = new_store(kind, s3, tmp_path)
            watched = Watched(store)
            archiver = Archiver(life.path, watched)
            opened = len(watched.requests)
            then = failing(store, opened + number, how)
            watched._before, watched._after = then._before, then._after
            for _ in range(2):
                life.save(30)
                for attempt in range(2):
                    try:
                        archiver.run()
                    except ArchiveStoreError:
                        assert attempt == 0
                        life.save(10)
            checked(store, life, tmp_path / f"restored-{number}")
            life.close()
            requests = max(requests, len(watched.requests) - opened)
            number += step
        assert requests >= 8

    @pytest.mark.parametrize("index", [None, 37], ids=["to the end", "to an index"])
    def test_restoring_at_each_request(self, index: int | None, store: Any, life: Life, tmp_path: Path) -> None:
        """Nothing is under the directory's name, nor beside it; another try gives the whole."""
        life.save(60)
        with Archiver(life.path, store) as archiver:
            archiver.run()
        here = tmp_path / "here"
        here.mkdir()
        for number in range(1000):
            try:
                restore(failing(store, number, "before"), here / "restored", index=index)
            except ArchiveStoreError:
                assert list(here.iterdir()) == []
            else:
                break
        assert number >= 5
        assert wal.verify(here / "restored" / "wal").last_index == (index or archiver.last_index)

    def test_only_what_is_needed_is_read(self, life: Life, tmp_path: Path) -> None:
        """From the snapshot on, up to the segment in which the next entry stands."""
        life.save(300)
        store = MemoryStore()
        with Archiver(life.path, store) as archiver:
            archiver.run()
        watched = Watched(store)
        report = restore(watched, tmp_path / "restored", index=120)
        read = [name for kind, name in watched.requests if kind == "get" and name.startswith("segments/")]

        assert report.snapshot == 100
        assert len(read) <= report.segments + 1 <= 4

    @pytest.mark.parametrize("index", [None, 37], ids=["to the end", "to an index"])
    def test_restoring_through_a_power_cut(self, index: int | None, life: Life, tmp_path: Path) -> None:
        """Whatever a crash leaves: there is no such directory, or the whole one."""
        life.save(60)
        store = MemoryStore()
        with Archiver(life.path, store) as archiver:
            archiver.run()
        disk = SimulatedDisk()
        moments: list[Crash] = []
        disk.before_change = lambda _: moments.extend(disk.crashes(random, subsets=4))
        random = Random(index)
        restore(store, disk.top / "a" / "restored", index=index, fs=disk)
        whole = {name: data for name, data in disk.files().items() if name.startswith("a/restored")}
        names = 0
        for crash in [*moments, *disk.crashes(random)]:
            found = {name: data for name, data in crash.files.items() if name.startswith("a/restored")}
            assert found in ({}, whole), crash.name
            names += found == whole

        assert disk.synced_files() == disk.files()
        assert len(moments) > 50
        assert names > 0

    def test_a_failure_of_the_disk_leaves_nothing(self, life: Life, tmp_path: Path) -> None:
        """Each call of the file system fails in turn."""
        life.save(60)
        store = MemoryStore()
        with Archiver(life.path, store) as archiver:
            archiver.run()
        here = tmp_path / "here"
        here.mkdir()
        calls = [0]

        class Failing:
            def __init__(self, at: int) -> None:
                self.at = at

            def __getattr__(self, name: str) -> Any:
                call = getattr(wal._files.OPERATING_SYSTEM, name)

                def counted(*arguments: Any) -> Any:
                    calls[0] += 1
                    if calls[0] == self.at:
                        raise OSError(5, f"{name} failed")
                    return call(*arguments)

                return counted

        for at in range(1, 10_000):
            calls[0] = 0
            try:
                restore(store, here / "restored", index=37, fs=Failing(at))
            except OSError:
                names = [path.name for path in here.iterdir()]
                if "restored" in names:  # all but the sync of its name was done
                    assert wal.verify(here / "restored" / "wal").last_index == 37
                    shutil.rmtree(here / "restored")
                assert [name for name in names if name != "restored"] in ([], names)
                for left in here.iterdir():
                    shutil.rmtree(left)
            else:
                break
        assert at > 50


# ---------------------------------------------------------------------------------------------------------- fencing


class TestFencing:
    def test_a_stale_archiver_fails_at_its_next_manifest(self, store: Any, life: Life, tmp_path: Path) -> None:
        """And ever after. The message says who took over."""
        life.save(40)
        first = Archiver(life.path, store)
        first.run()
        second = Archiver(life.path, store)
        life.save(40)

        with pytest.raises(wal.FencedError, match=r"process \d+ on .* as owner number 2"):
            first.run()
        second.run()
        with pytest.raises(wal.FencedError):
            first.run()
        assert (first.epoch, second.epoch) == (1, 2)
        checked(store, life, tmp_path / "restored")

    def test_one_that_has_slept_while_manifests_were_removed(self, store: Any, life: Life, tmp_path: Path) -> None:
        """It can create the manifest that it is about to create, and finds that it does not count."""
        first = Archiver(life.path, store)
        second = Archiver(life.path, store)
        for _ in range(12):
            life.save(15)
            assert second.run().segments
        assert f"manifest/{2:020d}.json" not in objects_of(store)

        with pytest.raises(wal.FencedError):
            first.run()
        assert f"manifest/{2:020d}.json" in objects_of(store)
        checked(store, life, tmp_path / "restored")
        life.save(15)
        second.run()
        assert f"manifest/{2:020d}.json" not in objects_of(store)

    def test_its_orphan_is_the_same_segment(self, store: Any, life: Life, tmp_path: Path) -> None:
        """What a fenced archiver had uploaded is adopted by the one that has taken over."""
        life.save(30)
        first = Archiver(life.path, store)
        second = Archiver(life.path, store)
        with pytest.raises(wal.FencedError):
            first.run()
        third = Archiver(life.path, store)
        assert third.orphans
        with pytest.raises(wal.FencedError):
            second.run()

        report = third.run()

        assert {f"segments/{name}" for name in report.segments} <= set(report.adopted)
        checked(store, life, tmp_path / "restored")

    def test_old_manifests_are_removed_but_for_some(self, store: Any, life: Life) -> None:
        """The newest one never is."""
        with Archiver(life.path, store) as archiver:
            for _ in range(15):
                life.save(15)
                archiver.run()
        numbers = sorted(name for name in objects_of(store) if name.startswith("manifest/"))

        assert numbers == [f"manifest/{number:020d}.json" for number in range(7, 17)]

    def test_manifests_that_cannot_be_removed_do_no_harm(self, life: Life) -> None:
        """Some buckets allow no deletion."""

        def refuse(_: int, kind: str, name: str) -> None:
            if kind == "delete":
                raise GenericError("not allowed")

        store = Watched(MemoryStore(), before=refuse)
        with Archiver(life.path, store) as archiver:
            for _ in range(15):
                life.save(15)
                archiver.run()

        assert verify(store).last_index == archiver.last_index

    def outcomes(self, life: Life, parties: list[Callable[[Watched], Any]], prepare: Callable[[Any], None]) -> int:
        """Play every order of requests; check what holds in all of them; return how many there were."""
        played = 0
        expected = {name: (life.path / "wal" / name).read_bytes() for name in life.sealed()}

        def make() -> tuple[list[Callable[[Watched], Any]], Any]:
            store = MemoryStore()
            prepare(store)
            return parties, store

        for results, store in interleavings(make):
            played += 1
            fenced = [result for result in results if isinstance(result, wal.FencedError)]
            done = [result for result in results if not isinstance(result, Exception)]
            assert len(fenced) + len(done) == len(parties), results
            assert done, "one of them wins"
            report = verify(store)
            held = objects_of(store)
            assert report.orphans == ()
            assert {f"segments/{name}": data for name, data in expected.items()}.items() <= held.items()
            newest = json.loads(held[max(name for name in held if name.startswith("manifest/"))])["manifest"]
            assert [segment["name"] for segment in newest["segments"]] == life.sealed()
        return played

    def test_every_order_of_a_run_and_a_take_over(self, life: Life) -> None:
        """One archives while another takes over and archives: one wins at least, and the archive is whole."""
        life.save(18, snapshots=1000)
        assert len(life.sealed()) == 1
        opened: list[Archiver] = []

        def prepare(store: Any) -> None:
            opened[:] = [Archiver(life.path, store)]

        def go_on(store: Watched) -> Any:
            archiver = opened[0]
            archiver._objects._store = store
            return archiver.run()

        played = self.outcomes(life, [go_on, lambda store: Archiver(life.path, store).run()], prepare)

        assert played > 200

    def test_every_order_of_two_that_begin(self, life: Life) -> None:
        """Two archivers begin an archive at once: the later one has it, and the other one knows."""
        life.save(18, snapshots=1000)

        def begin(store: Watched) -> Any:
            return Archiver(life.path, store)

        def nothing(store: Any) -> None:
            del store

        epochs = set()
        for results, store in interleavings(lambda: ([begin, begin], MemoryStore())):
            done = [result for result in results if isinstance(result, Archiver)]
            assert all(isinstance(result, Archiver | wal.FencedError) for result in results), results
            newest = max(done, key=lambda archiver: archiver.epoch)
            epochs.add(tuple(sorted(archiver.epoch for archiver in done)))
            newest._objects._store = store
            newest.run()
            for archiver in done:
                archiver._objects._store = store
                if archiver is not newest:
                    with pytest.raises(wal.FencedError):
                        archiver.run()
            assert verify(store).last_index == newest.last_index > 0

        assert epochs == {(1, 2), (2,)}


# --------------------------------------------------------------------------------------------------------- conflicts


class TestConflicts:
    def other_log(self, life: Life, path: Path, how: str) -> Path:
        """Make another log than the one that was archived."""
        if how == "other metadata":
            wal.open_storage(path, b"another node")[0].close()
        elif how == "a log alone":
            wal.WAL.create(path, b"node").close()
        elif how == "a new log":
            wal.open_storage(path, b"node")[0].close()
        elif how == "another course":
            other = Life(path)
            other.storage.save(None, [wal.Entry(1, b"something else")])
            other.save(80)
            other.close()
        elif how == "an older copy":
            shutil.copytree(life.path, path)
            for segment in segments(path / "wal")[3:]:
                segment.unlink()
        elif how == "purged":
            shutil.copytree(life.path, path)
            life_after = Life(path)
            life_after.save(100)
            life_after.close()
            for segment in segments(path / "wal")[:8]:
                segment.unlink()
        elif how == "cut otherwise":
            shutil.copytree(life.path, path)
            for segment in segments(path / "wal")[:-1]:
                segment.unlink()
            last = segments(path / "wal")[0]
            data = bytearray(last.read_bytes())
            head = wal._codec.encode_group(
                [[(4, b""), (1, b"node"), (3, b"\x08\x01")]], 7, synced=True, save_marks=True
            )
            data[: len(head[0])] = head[0]
            last.write_bytes(bytes(len(data)))
            last.write_bytes(head[0])
        return path

    @pytest.mark.parametrize(
        "how",
        [
            "other metadata",
            "a log alone",
            "a new log",
            "another course",
            "an older copy",
            "purged",
            "cut otherwise",
        ],
    )
    def test_another_log_does_not_take_over(self, how: str, store: Any, life: Life, tmp_path: Path) -> None:
        """It is told so; nothing is changed, and the archiver of the right log goes on."""
        life.save(60)
        archiver = Archiver(life.path, store)
        archiver.run()
        before = objects_of(store)

        with pytest.raises(ArchiveConflictError, match="archive this log to a new place"):
            Archiver(self.other_log(life, tmp_path / "other", how), store)

        assert objects_of(store) == before
        life.save(30)
        archiver.run()
        checked(store, life, tmp_path / "restored")

    def test_another_object_in_the_way(self, store: Any, life: Life) -> None:
        """It is never replaced, nor believed."""
        life.save(30)
        archiver = Archiver(life.path, store)
        name = f"segments/{life.sealed()[1]}"
        store_of(store).put(name, b"something else", mode="create")

        with pytest.raises(ArchiveConflictError, match="there with other content"):
            archiver.run()

        assert objects_of(store)[name] == b"something else"
        assert verify(store).segments == 1
        assert verify(store).orphans == (name,)

    def test_a_log_that_was_purged_too_early(self, store: Any, life: Life) -> None:
        """What is missing is told, and nothing behind it is uploaded."""
        life.save(30)
        archiver = Archiver(life.path, store)
        archiver.run()
        life.save(60)
        for segment in segments(life.path / "wal")[:4]:
            segment.unlink()

        with pytest.raises(ArchiveConflictError, match="purged before it was archived"):
            archiver.run()

    def test_objects_without_a_manifest(self, store: Any, life: Life) -> None:
        """Whoever lost it is told; it is not begun anew."""
        life.save(30)
        with Archiver(life.path, store) as archiver:
            archiver.run()
        requests = store_of(store)
        for name in objects_of(store):
            if name.startswith("manifest/"):
                requests.delete(name)

        for look in (lambda: Archiver(life.path, store), lambda: verify(store)):
            with pytest.raises(ArchiveDamagedError, match="no manifest"):
                look()

    def test_a_restored_log_goes_on_in_its_archive(self, store: Any, life: Life, tmp_path: Path) -> None:
        """If it was restored to the end of the archive, and that is where it came from."""
        life.save(60)
        with Archiver(life.path, store) as archiver:
            archiver.run()
        life.close()
        report = restore(store, tmp_path / "again")
        again = Life(tmp_path / "again")
        again.save(60)
        with Archiver(again.path, store) as archiver:
            assert archiver.epoch == 2
            assert archiver.run().last_index > report.last_index
        restored = restore(store, tmp_path / "restored", index=report.last_index + 5)
        again.close()

        storage, recovered = wal.open_storage(tmp_path / "restored")
        storage.close()
        assert restored.last_index == storage.last_index
        assert data_of(recovered.entries[-1]) == f"entry {restored.last_index} ".encode() * 30

    def test_the_lost_machine_comes_back(self, store: Any, life: Life, tmp_path: Path) -> None:
        """Its archiver learns that it is fenced, also where both logs have gone on, each in its own way."""
        life.save(60)
        archiver = Archiver(life.path, store)
        archiver.run()
        restore(store, tmp_path / "again")
        again = Life(tmp_path / "again")
        again.storage.save(None, [wal.Entry(again.storage.last_index + 1, b"another course")])
        again.save(60)
        with Archiver(again.path, store) as successor:
            last_index = successor.run().last_index
        again.close()
        life.save(60)

        with pytest.raises(wal.FencedError, match="owner number 2"):
            archiver.run()
        with pytest.raises(ArchiveConflictError):
            Archiver(life.path, store)
        assert verify(store).last_index == last_index

    def test_a_log_that_is_exchanged_under_an_archiver(self, store: Any, life: Life, tmp_path: Path) -> None:
        """Its next segment does not follow what is archived."""
        life.save(30)
        archiver = Archiver(life.path, store)
        archiver.run()
        other = Life(tmp_path / "other")
        other.storage.save(None, [wal.Entry(1, b"another course")])
        other.save(60)
        other.close()
        (life.path / "wal").rename(tmp_path / "away")
        (other.path / "wal").rename(life.path / "wal")

        with pytest.raises(ArchiveConflictError, match="does not follow"):
            archiver.run()

        assert not any(map(archiver.holds, segments(life.path / "wal")))
        (life.path / "wal").rename(tmp_path / "other-wal")
        (tmp_path / "away").rename(life.path / "wal")

    def test_a_log_that_went_back_does_not(self, store: Any, life: Life, tmp_path: Path) -> None:
        """It goes on otherwise than the archive."""
        life.save(60)
        with Archiver(life.path, store) as archiver:
            archiver.run()
        restore(store, tmp_path / "again", index=30)
        again = Life(tmp_path / "again")
        again.save(60)
        again.close()

        with pytest.raises(ArchiveConflictError):
            Archiver(again.path, store)


# ------------------------------------------------------------------------------------------------------------ damage


def encoded(manifest: dict[str, Any]) -> bytes:
    """Return a manifest as an object, with its digest."""
    digest = manifests.digest_of(manifests._dumped(manifest))
    return manifests._dumped({"manifest": manifest, "sha256": digest}) + b"\n"


DAMAGES: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "a bit flipped at the beginning": lambda data, _: bytes([data[0] ^ 1]) + data[1:],
    "a bit flipped in the middle": lambda data, _: _flipped(data, len(data) // 2),
    "a bit flipped at the end": lambda data, _: data[:-1] + bytes([data[-1] ^ 0x80]),
    "shorter": lambda data, _: data[:-8],
    "longer": lambda data, _: data + bytes(8),
    "empty": lambda data, _: b"",
    "missing": lambda data, _: None,
    "another one": lambda _, other: other,
}


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_each_object(self, damage: str, life: Life, tmp_path: Path) -> None:
        """It is told by name, whichever object is hit, and never restored."""
        life.save(60)
        store = MemoryStore()
        with Archiver(life.path, store) as archiver:
            archiver.run()
        held = objects_of(store)
        newest = max(name for name in held if name.startswith("manifest/"))
        for name, data in held.items():
            if name.startswith("manifest/") and name != newest:
                continue
            kind = name.partition("/")[0]
            other = next(held[other] for other in held if other.startswith(kind) and held[other] != data)
            damaged = DAMAGES[damage](data, other)
            if name == newest and damaged is None:
                continue  # see below
            store.delete(name)
            if damaged is not None:
                store.put(name, damaged)

            with pytest.raises(ArchiveDamagedError) as caught:
                verify(store)
            assert caught.value.path.as_posix() == name
            for index in (None, 20, 40):
                try:
                    restore(store, tmp_path / "restored", index=index)
                except ArchiveDamagedError as error:
                    assert error.path.as_posix() == name
                    assert not (tmp_path / "restored").exists()
                else:  # it is not needed for that
                    wal.verify(tmp_path / "restored" / "wal")
                    assert kind != "manifest"
                    shutil.rmtree(tmp_path / "restored")
            if name == newest:
                with pytest.raises(ArchiveDamagedError):
                    Archiver(life.path, store)

            store.delete(name) if damaged is not None else None
            store.put(name, data)
        assert verify(store).segments == len(life.sealed())

    def test_every_bit_of_the_manifest(self, life: Life) -> None:
        """Also where JSON would not notice; and a byte less, or more."""
        life.save(30)
        store = MemoryStore()
        with Archiver(life.path, store) as archiver:
            archiver.run()
        newest = max(name for name in objects_of(store) if name.startswith("manifest/"))
        data = objects_of(store)[newest]
        damaged = [
            data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in range(len(data)) for bit in range(8)
        ]
        damaged += [data[:-1], data + b"\n", data[1:], b" " + data, b"", b"[" * 100_000]
        for other in damaged:
            with pytest.raises(ValueError):
                manifests.Manifest.decode(other)

        assert manifests.Manifest.decode(data).encode() == data

    def test_a_newest_manifest_that_is_gone(self, store: Any, life: Life, tmp_path: Path) -> None:
        """What the one before does not name is told."""
        with Archiver(life.path, store) as archiver:
            for _ in range(2):
                life.save(30)
                archiver.run()
        newest = max(name for name in objects_of(store) if name.startswith("manifest/"))
        store_of(store).delete(newest)

        assert len(verify(store).orphans) >= 2
        assert restore(store, tmp_path / "restored").orphans == verify(store).orphans

    @pytest.mark.parametrize(
        "forge",
        [
            pytest.param(lambda held: held["snapshots"][0].update(name="../../escaped"), id="a snapshot elsewhere"),
            pytest.param(lambda held: held["snapshots"][0].update(index=3), id="a snapshot of another index"),
            pytest.param(lambda held: held["snapshots"][0].update(segment=99), id="a marker in no segment"),
            pytest.param(lambda held: held["segments"][0].update(name="../../escaped"), id="a segment elsewhere"),
            pytest.param(lambda held: held["segments"].pop(1), id="a gap"),
            pytest.param(lambda held: held["segments"].clear(), id="no segments"),
            pytest.param(lambda held: held["segments"][1].update(crc_before=7), id="another chain"),
            pytest.param(lambda held: held["segments"][-1].update(crc_after=7), id="another chain at the end"),
            pytest.param(lambda held: held["segments"][1].pop("crc_before"), id="a field less"),
            pytest.param(lambda held: held.update(more=1), id="a field more"),
            pytest.param(lambda held: held.update(number=99), id="another number"),
            pytest.param(lambda held: held.update(owner=None), id="no owner"),
        ],
    )
    def test_a_forged_manifest(self, forge: Callable[[dict[str, Any]], object], life: Life) -> None:
        """Its digest is right, and it is refused all the same: no name leads out of the directory."""
        life.save(40)
        store = MemoryStore()
        with Archiver(life.path, store) as archiver:
            archiver.run()
        newest = max(name for name in objects_of(store) if name.startswith("manifest/"))
        manifest = json.loads(objects_of(store)[newest])["manifest"]
        forge(manifest)
        store.put(newest, encoded(manifest))

        with pytest.raises(ArchiveDamagedError):
            verify(store)

    def test_a_manifest_of_a_later_version(self, life: Life) -> None:
        """It is not damaged, but nothing is guessed of it."""
        store = MemoryStore()
        Archiver(life.path, store).close()
        name = f"manifest/{1:020d}.json"
        manifest = json.loads(objects_of(store)[name])["manifest"] | {"format": 2}
        store.put(name, encoded(manifest))

        with pytest.raises(ArchiveDamagedError, match="format 2"):
            verify(store)


# ------------------------------------------------------------------------------------------------------------- purge


class TestPurge:
    def test_nothing_goes_that_is_not_archived(self, store: Any, life: Life) -> None:
        """Segments wait for the archive, and then go."""
        life.save(100)
        log = life.storage.log
        log.release(wal.SnapshotMarker(75))
        with Archiver(life.path, store) as archiver:
            assert wal.purge(log.path, wal.SnapshotMarker(75), archived=archiver.holds) == []
            archiver.run()
            removed = wal.purge(log.path, wal.SnapshotMarker(75), archived=archiver.holds)

        assert len(removed) > 3
        assert {f"segments/{name}" for name in removed} <= set(objects_of(store))

    def test_a_purge_ends_in_front_of_what_is_not_archived(self, life: Life) -> None:
        """Without a gap."""
        life.save(100)
        names = life.sealed()
        life.storage.log.release(wal.SnapshotMarker(75))

        removed = wal.purge(life.storage.log.path, wal.SnapshotMarker(75), archived=lambda path: path.name != names[2])

        assert removed == names[:2]

    def test_a_storage_waits_too(self, store: Any, path: Path, tmp_path: Path) -> None:
        """Its snapshots as well; whatever is removed is in the archive, and can be restored."""
        holder: list[Archiver] = []

        def archived(path: Path) -> bool:
            return bool(holder) and holder[0].holds(path)

        retention = wal.Retention(snapshots=1, archived=archived)
        storage, _ = wal.open_storage(tmp_path / "store", b"node", segment_size=SIZE, sync=False, retention=retention)
        there: set[str] = set()

        def files() -> set[str]:
            return {name for name in tree(tmp_path / "store") if name.endswith((".wal", ".snap"))}

        with storage:
            for index in range(1, 200):
                storage.save(wal.CommitState(index), [wal.Entry(index, f"entry {index} ".encode() * 30)])
                if index % 20 == 0:
                    snapshot = wal.SnapshotData(index, b"state")
                    storage.save_snap(snapshot)
                    there |= files()
                    storage.release(snapshot)
                    held = {name.partition("/")[2] for name in objects_of(store)}
                    assert {name.partition("/")[2] for name in there - files()} <= held
                if index == 90:
                    assert there - files() == set()
                    holder.append(Archiver(tmp_path / "store", store))
                if index % 30 == 0 and holder:
                    holder[0].run()
            assert len(there - files()) > 10
            for index in range(1, holder[0].last_index + 1, 9):
                assert restore(store, tmp_path / f"restored-{index}", index=index).last_index == index

    def test_a_damaged_snapshot_does_not_hold_everything_back(self, life: Life) -> None:
        """It cannot be archived, and is of no use to anybody."""
        life.close()
        retention = wal.Retention(snapshots=1, archived=lambda path: path.name != f"{25:016x}.snap")
        (life.path / "snap").mkdir(exist_ok=True)
        storage, _ = wal.open_storage(life.path, retention=retention, segment_size=SIZE)
        with storage:
            for index in range(1, 60):
                storage.save(wal.CommitState(index), [wal.Entry(index, bytes(300))])
                if index in (25, 50):
                    storage.save_snap(wal.SnapshotData(index, b"state"))
        first = life.path / "snap" / f"{25:016x}.snap"
        storage, _ = wal.open_storage(life.path, retention=retention, segment_size=SIZE)
        with storage:
            storage.release(wal.SnapshotMarker(50))
            assert first.exists()
        first.write_bytes(b"damaged")
        storage, _ = wal.open_storage(life.path, retention=retention, segment_size=SIZE)
        with storage:
            storage.release(wal.SnapshotMarker(50))
        assert not first.exists()

    def test_what_is_held(self, store: Any, life: Life, tmp_path: Path) -> None:
        """The very bytes of this log; when in doubt the answer is no."""
        life.save(60)
        with Archiver(life.path, store) as archiver:
            archiver.run()
            *sealed, last = segments(life.path / "wal")
            intact = sealed[1].read_bytes()

            assert all(map(archiver.holds, sealed))
            assert archiver.holds(life.path / "snap" / f"{25:016x}.snap")
            assert not archiver.holds(last)
            assert not archiver.holds(life.path / "snap" / f"{26:016x}.snap")
            assert not archiver.holds(tmp_path / sealed[1].name)
            assert not archiver.holds(life.path / "wal" / f"{7:016x}-{7:016x}.wal")
            sealed[1].write_bytes(intact + b"\1")
            assert not archiver.holds(sealed[1])
            sealed[1].write_bytes(intact + bytes(100))
            assert archiver.holds(sealed[1])
            sealed[1].write_bytes(intact[:-1])
            assert not archiver.holds(sealed[1])
            sealed[1].unlink()
            assert not archiver.holds(sealed[1])


# --------------------------------------------------------------------------------------------------------- places


class TestPlaces:
    def test_a_directory_by_path_url_or_store(self, life: Life, tmp_path: Path) -> None:
        """All three are the same archive."""
        life.save(30)
        place = tmp_path / "a directory"
        with Archiver(life.path, place) as archiver:
            archiver.run()
        url = "file://" + str(place).replace(" ", "%20")

        assert verify(str(place)) == verify(url) == verify(LocalStore(place)) == verify(place)
        assert Archiver(life.path, url).epoch == 2

    def test_s3_by_url(
        self, life: Life, s3: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Credentials and the endpoint come from the environment."""
        import archives

        for name, value in {**archives.ENVIRONMENT, "AWS_ENDPOINT": s3()}.items():
            monkeypatch.setenv(name, value)
        life.save(30)
        url = f"s3://{archives.new_bucket(s3())}/a/prefix"
        with Archiver(life.path, url) as archiver:
            archiver.run()

        checked(url, life, tmp_path / "restored")

    @pytest.mark.parametrize("url", ["nowhere://bucket/path", "s3://", "az://account"])
    def test_a_url_that_is_none(self, url: str) -> None:
        """It is told which one."""
        with pytest.raises(ArchiveStoreError, match=url):
            verify(url)

    def test_a_store_that_does_not_answer(self, life: Life) -> None:
        """The error is of the environment, and has the store's own as its cause; one line of it is shown."""
        with pytest.raises(ArchiveStoreError) as caught:
            Archiver(life.path, failing(MemoryStore(), 3, "before"))

        assert isinstance(caught.value, OSError)
        assert isinstance(caught.value.__cause__, GenericError)
        assert "creating manifest/00000000000000000001.json failed: the connection was closed" in str(caught.value)

    def test_a_store_that_does_not_list_what_it_has(self, life: Life) -> None:
        """It is not one for an archive, and is not tried for ever."""

        class Forgetful(Watched):
            def list(self, prefix: str | None = None) -> Any:
                return []

        store = MemoryStore()
        Archiver(life.path, store).close()
        with pytest.raises(ArchiveStoreError, match="not consistent"):
            Archiver(life.path, Forgetful(store))

    def test_no_archive(self, store: Any, life: Life, tmp_path: Path) -> None:
        """There is nothing, or nothing in it yet."""
        with pytest.raises(ArchiveNotFoundError, match="no archive"):
            verify(store)
        with pytest.raises(ArchiveNotFoundError, match="no archive"):
            restore(store, tmp_path / "restored")
        with Archiver(life.path, store):
            assert verify(store).segments == 0
            with pytest.raises(ArchiveNotFoundError, match="no segment was sealed"):
                restore(store, tmp_path / "restored")
        assert not (tmp_path / "restored").exists()

    def test_an_object_in_a_directory_is_durable_before_it_has_its_name(
        self, life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """obstore alone would not sync it."""
        calls: list[str] = []
        system = wal._files.OPERATING_SYSTEM
        link, fsync = wal._archive.directory.os.link, type(system).fsync  # type: ignore[attr-defined]

        def noted_sync(self: Any, fd: int) -> None:
            calls.append("sync")
            fsync(self, fd)

        def noted_link(source: Path, target: Path) -> None:
            calls.append("link")
            link(source, target)

        monkeypatch.setattr(type(system), "fsync", noted_sync)
        monkeypatch.setattr("os.link", noted_link)
        store = store_of(tmp_path / "store")
        store.put("segments/x", b"first", mode="create")
        calls.clear()

        store.put("segments/y", b"second", mode="create")

        assert calls == ["sync", "link", "sync"]
        assert sorted(path.name for path in (tmp_path / "store" / "segments").iterdir()) == ["x", "y"]
