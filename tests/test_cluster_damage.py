"""What stands in the cluster, and that damage to any of it is told and never returned as data."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import wal
from etcd_cluster import EtcdCluster
from stored import Stored
from wal import CommitState, Entry, RecordType, SnapshotData

pytest.importorskip("grpc", reason="no grpcio: pip install wal[etcd]")

import wal.cluster
from wal._cluster.batches import BatchSource, encode_batch
from wal._cluster.keys import Keys
from wal._cluster.sealed import seal
from wal._crc32c import extend

NAMES = (f"damage/{number}" for number in itertools.count())

SNAPSHOTS = [SnapshotData(3, b"three" * 2000, b"m"), SnapshotData(5, b"five" * 5000)]
ENTRIES = [Entry(6, b"six" * 20), Entry(7, b"new" * 20), Entry(8, b"eight")]


class Scene(NamedTuple):
    """A storage with two snapshots, and entries behind both, as it stands in the cluster."""

    etcd: EtcdCluster
    name: str
    stored: Stored
    keys: dict[str, bytes]

    def open(self) -> wal.Recovered[Any, Any]:
        storage, recovered = wal.cluster.open_storage(self.etcd.endpoints, self.name)
        storage.close()
        return recovered

    def restore(self) -> None:
        """Everything is as it was, but for the owner, of whom there were several."""
        owner = self.keys["owner"]
        self.stored.restore({**self.keys, "owner": owner})


def make(etcd: EtcdCluster, *, retention: wal.Retention | None = None) -> Scene:
    name = next(NAMES)
    storage, _ = wal.cluster.open_storage(
        etcd.endpoints, name, b"meta", retention=retention, max_request_bytes=16384 + 4096
    )
    with storage:
        storage.save(CommitState(2), [Entry(index, b"old" * 20) for index in range(1, 5)])
        storage.save(CommitState(3), [Entry(4, b"four" * 20), Entry(5, b"five" * 20)])
        storage.save_snap(SNAPSHOTS[0])
        storage.save(CommitState(5), [Entry(6, b"six" * 20), Entry(7, b"old" * 20), Entry(8, b"old" * 20)])
        storage.save_snap(SNAPSHOTS[1])
        storage.release(SNAPSHOTS[1])
        storage.save(CommitState(6), [Entry(7, b"new" * 20)])
        storage.save(CommitState(7), [Entry(8, b"eight")])
    stored = Stored(etcd, name)
    return Scene(etcd, name, stored, stored.all())


@pytest.fixture(scope="module", params=[None, wal.Retention(2)], ids=["everything is kept", "released"])
def scene(etcd: EtcdCluster, request: pytest.FixtureRequest) -> Scene:
    return make(etcd, retention=request.param)


@pytest.fixture
def whole(scene: Scene) -> Iterator[Scene]:
    """A scene that is put in order afterwards."""
    yield scene
    scene.restore()


def check(scene: Scene) -> str:
    """Open the storage: either everything is found, or damage is told. Say which."""
    try:
        recovered = scene.open()
    except (wal.CorruptionError, wal.NoSnapshotError) as error:
        return type(error).__name__
    assert recovered.metadata == b"meta"
    assert recovered.state == CommitState(7)
    assert recovered.snapshot in (SNAPSHOTS[1], SNAPSHOTS[0], None)
    start = recovered.snapshot.index if recovered.snapshot else 0
    behind = {1: b"old", 2: b"old", 3: b"old", 4: b"four", 5: b"five"}
    assert recovered.entries == [Entry(i, d * 20) for i, d in behind.items() if i > start] + ENTRIES
    if recovered.snapshot == SNAPSHOTS[1]:
        return "nothing is missing"
    assert recovered.skipped
    return "an older snapshot"


def kind(key: str) -> str:
    return key.partition("/")[0]


NEEDED = {"format", "owner", "tail"}


def test_it_looks_like_this(scene: Scene) -> None:
    """Owner and tail are JSON that tells something; batches are numbered, and snapshots named by their indexes."""
    keys = list(scene.keys)
    owner, tail, format = (json.loads(scene.keys[key]) for key in ("owner", "tail", "format"))

    assert check(scene) == "nothing is missing"
    assert owner["epoch"] == 1 and set(owner) == {"epoch", "host", "pid", "token", "crc32c"}
    assert {name: tail[name] for name in ("epoch", "batch", "entry", "marker", "state")} == {
        "epoch": 1,
        "batch": 8,
        "entry": 8,
        "marker": 5,
        "state": "CAc=",
    }
    assert (format["format"], format["metadata"]) == (1, "bWV0YQ==")
    first = tail["behind"]["batch"] + 1
    assert [key for key in keys if kind(key) == "b"] == [f"b/{number:020d}" for number in range(first, 9)]
    assert [key for key in keys if kind(key) == "m"] == [f"m/{index:020d}" for index in (3, 5)]
    assert len({key.rpartition("/")[0] for key in keys if kind(key) == "s"}) == 2


def test_a_missing_key_is_told(whole: Scene) -> None:
    """Whichever it is."""
    for key in whole.keys:
        whole.stored.delete(key)
        outcome = check(whole)
        whole.restore()

        if kind(key) in NEEDED or (kind(key) == "b" and key > "b/00000000000000000005"):
            assert outcome == "CorruptionError", key
        elif kind(key) == "s" and "/00000000000000000005/" in key:
            assert outcome == "an older snapshot", key


def test_a_cut_value_is_told(whole: Scene) -> None:
    """Cut at any of several places, or with something behind it."""
    for key, value in whole.keys.items():
        for other in (b"", value[:1], value[: len(value) // 2], value[:-1], value + b"\0", value + value):
            whole.stored.put(key, other)
            outcome = check(whole)
            whole.restore()

            if is_read(key):
                assert outcome != "nothing is missing", (key, other)


def is_read(key: str) -> bool:
    """Tell whether opening reads it: not older batches than the newest snapshot needs, nor older snapshots."""
    return kind(key) in NEEDED or (key > "b/00000000000000000005" and "/00000000000000000003" not in key)


def test_a_value_of_another_key_is_told(whole: Scene) -> None:
    """Two values of one kind in each other's place."""
    for first, second in itertools.combinations(whole.keys, 2):
        if kind(first) != kind(second) or whole.keys[first] == whole.keys[second]:
            continue
        whole.stored.put(first, whole.keys[second])
        whole.stored.put(second, whole.keys[first])
        outcome = check(whole)
        whole.restore()

        if is_read(first) or is_read(second):
            assert outcome != "nothing is missing", (first, second)


@pytest.mark.torture
def test_a_flipped_bit_is_told(whole: Scene, effort: Callable[..., int]) -> None:
    """In any byte of any value."""
    step = effort(quick=17, full=1, deep=1)
    for number, (key, value) in enumerate(whole.keys.items()):
        for place in range(number % step, min(len(value), 700), step):
            for bit in range(8) if step == 1 and len(value) < 300 else [place % 8]:
                damaged = bytearray(value)
                damaged[place] ^= 1 << bit
                whole.stored.put(key, bytes(damaged))
                outcome = check(whole)
                if is_read(key):
                    assert outcome != "nothing is missing", (key, place, bit)
        whole.restore()


@pytest.mark.parametrize(
    ("key", "changes", "words"),
    [
        pytest.param("format", {"format": 2}, "format 2 is not known", id="a later format"),
        pytest.param("format", {"metadata": "%"}, "not base64", id="metadata that is not base64"),
        pytest.param("tail", {"batch": 7}, "the log ends at", id="a tail that is behind"),
        pytest.param("tail", {"batch": 9}, "the log ends at", id="a tail that is ahead"),
        pytest.param("tail", {"entry": 9}, "the log ends at", id="another entry"),
        pytest.param("tail", {"marker": 3}, "the log ends at", id="another snapshot"),
        pytest.param("tail", {"chain": "00000000"}, "the log ends at", id="another chain"),
        pytest.param("tail", {"state": "CAY="}, "not the one that was saved last", id="another state"),
        pytest.param("tail", {"state": None}, "not the one that was saved last", id="no state"),
        pytest.param("tail", {"epoch": True}, "not a number", id="an epoch that is no number"),
        pytest.param("tail", {"epoch": -1}, "not a number", id="a negative number"),
        pytest.param("owner", {"pid": "x"}, "not a number", id="an owner that is none"),
    ],
)
def test_what_is_intact_but_wrong_is_told(whole: Scene, key: str, changes: dict[str, Any], words: str) -> None:
    """A value whose checksum is right, and that does not fit."""
    fields = json.loads(whole.keys[key])
    del fields["crc32c"]
    whole.stored.put(key, seal({**fields, **changes}))

    with pytest.raises(wal.CorruptionError, match=words) as caught:
        whole.open()
    assert str(caught.value.path) == f"{whole.name}/{key}"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(b"", "does not end with a checksum", id="nothing"),
        pytest.param(b'{"epoch": 1}', "does not end with a checksum", id="no checksum"),
        pytest.param(seal({"epoch": 1})[:-11] + b'00000000"}', "does not end|checksum is wrong", id="a wrong one"),
        pytest.param(seal({}), "not JSON|not what stands here", id="nothing in it"),
    ],
)
def test_small_values_are_checked(whole: Scene, value: bytes, words: str) -> None:
    """What is no JSON, or has another checksum, is not read on."""
    whole.stored.put("tail", value)

    with pytest.raises(wal.CorruptionError, match=words):
        whole.open()


@pytest.mark.parametrize("key", ["b/00000000000000000009", "b/x", "b/9"])
def test_a_batch_too_many_is_told(whole: Scene, key: str) -> None:
    """One behind the tail, or one whose key is none of a batch."""
    whole.stored.put(key, whole.keys["b/00000000000000000008"])

    with pytest.raises(wal.CorruptionError):
        whole.open()


def test_nothing_is_swept_when_it_is_not_known_what_is_needed(whole: Scene) -> None:
    """With a damaged manifest the chunks to which it refers stay."""
    manifest = "m/00000000000000000005"
    whole.stored.put(manifest, b"damaged")
    assert check(whole) == "an older snapshot"
    whole.stored.put(manifest, whole.keys[manifest])

    assert check(whole) == "nothing is missing"


def test_chunks_to_which_nothing_refers_are_swept(whole: Scene) -> None:
    """They are from an upload that did not come to its end."""
    whole.stored.put("s/00000000000000000005/1-abc-1/000000", b"a chunk")
    whole.stored.put("s/00000000000000000009/1-abc-2/000000", b"a chunk")
    assert check(whole) == "nothing is missing"

    assert [key for key in whole.stored.all() if kind(key) == "s"] == [key for key in whole.keys if kind(key) == "s"]


def test_a_tail_that_somebody_else_has_written_stops_the_storage(etcd: EtcdCluster) -> None:
    """Whoever writes beside the owner's back is told from a lost answer."""
    scene = make(etcd)
    storage, _ = wal.cluster.open_storage(etcd.endpoints, scene.name)
    with storage:
        scene.stored.put("tail", scene.keys["tail"])
        for _ in range(2):
            with pytest.raises(wal.WALFailedError, match="somebody who is not the owner"):
                storage.save_entry([Entry(9)])


@pytest.mark.parametrize("value", [None, b"damaged"], ids=["deleted", "damaged"])
def test_an_owner_who_is_not_known_is_another_one(etcd: EtcdCluster, value: bytes | None) -> None:
    """Then who has taken over cannot be said, but that it is not ours is sure."""
    scene = make(etcd)
    storage, _ = wal.cluster.open_storage(etcd.endpoints, scene.name)
    with storage:
        if value is None:
            scene.stored.delete("owner")
        else:
            scene.stored.put("owner", value)
        with pytest.raises(wal.FencedError, match="gone, or damaged"):
            storage.save_entry([Entry(9)])


def test_a_damaged_storage_is_not_changed(whole: Scene) -> None:
    """But for the owner."""
    whole.stored.put("b/00000000000000000008", b"damaged")
    before = whole.stored.all()
    with pytest.raises(wal.CorruptionError):
        whole.open()
    after = whole.stored.all()

    assert {key: value for key, value in after.items() if key != "owner"} == {
        key: value for key, value in before.items() if key != "owner"
    }


def test_without_any_snapshot_there_is_an_error(etcd: EtcdCluster) -> None:
    """If the log in front of them was released it cannot be read from its beginning."""
    scene = make(etcd, retention=wal.Retention(1))
    (chunk, *_) = (key for key in scene.keys if kind(key) == "s")
    scene.stored.put(chunk, b"damaged")

    with pytest.raises(wal.NoSnapshotError):
        scene.open()


def test_a_damaged_snapshot_can_be_saved_again(etcd: EtcdCluster) -> None:
    """The newest one, if it is damaged; an intact one stays."""
    scene = make(etcd)
    (chunk, *_) = (key for key in scene.keys if key.startswith("s/00000000000000000005"))
    scene.stored.put(chunk, b"damaged")
    storage, recovered = wal.cluster.open_storage(etcd.endpoints, scene.name)
    with storage:
        assert recovered.snapshot == SNAPSHOTS[0]
        storage.save_snap(SNAPSHOTS[1])
        with pytest.raises(wal.SnapshotOutOfDateError):
            storage.save_snap(SNAPSHOTS[1])

    assert check(scene) == "nothing is missing"


def test_a_batch_under_another_number_is_told() -> None:
    """Also if the chain cannot tell, because what was saved has no bytes."""
    value, crc = encode_batch(2, 7, [[(RecordType.STATE.value, b"")]])
    for number in (2, 3):
        source = BatchSource(Keys.of("a"), number - 1, crc)
        if number == 2:
            source.feed(b"a/b/%020d" % number, value)
            assert [list(run) for _, run in source] == [[(4, b"", 0), (3, b"", 16)]]
            assert (source.number, source.crc) == (2, 7)
        else:
            with pytest.raises(wal.CorruptionError, match="this is batch 2, under another's key"):
                source.feed(b"a/b/%020d" % number, value)


def test_a_batch_that_goes_on_is_told() -> None:
    """Zeros behind the last save, which would be the end of a segment, are none here."""
    value, _ = encode_batch(2, 7, [[(RecordType.STATE.value, b"x")]])
    longer = value[:-12] + bytes(8) + struct.pack("<Q", 2)
    longer += struct.pack("<I", extend(0, longer))
    source = BatchSource(Keys.of("a"), 1, 7)
    source.feed(b"a/b/%020d" % 2, longer)

    with pytest.raises(wal.CorruptionError, match="goes on behind its last save"):
        list(source)
