# SPDX-License-Identifier: Apache-2.0
"""
What a storage holds, read after it was taken over.

The newest intact snapshot that the log knows is read first. Its manifest says from which batch on the log is needed;
from there on all batches are read, in pages, and verified: each by itself, that they follow each other, and that they
end where the tail says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from wal._decoder import Run
from wal._errors import CorruptionError, NoSnapshotError
from wal._events import log_damaged_snapshot
from wal._file_storage import Recovered
from wal._records import RecordRegistry
from wal._replay import RecordWalk, unmarshal
from wal._snapshotter import SnapshotData

from .batches import BatchSource
from .ends import Ends
from .entities import End, Manifest, path_of
from .ownership import Taken
from .pages import read_range
from .snapshots import SnapshotBytes

__all__ = ["Holdings", "recover"]


class Holdings(NamedTuple):
    """
    What a storage holds, and what its owner must know to go on.

    Attributes:
        recovered: For the application.
        manifests: The snapshots that the log knows, by index.
        intact: The index of the one that was read, or 0.
        ends: Where the batches end that were read.
        last_entry: The index of the last entry.
        last_marker: The greatest index of a marker.
        state: The last hard state.
    """

    recovered: Recovered[Any, Any]
    manifests: dict[int, Manifest]
    intact: int
    ends: Ends
    last_entry: int
    last_marker: int
    state: Any


class _Batches:
    """Reads the batches of a log for a walk, and notes where each of them ends."""

    def __init__(self, taken: Taken, behind: End, *, timeout_s: float) -> None:
        self.source = BatchSource(taken.ownership.keys, behind.batch, behind.crc)
        self.ends = Ends(behind)
        self.walk: RecordWalk[Any, Any, Any] | None = None
        self._taken = taken
        self._timeout_s = timeout_s

    def __iter__(self) -> Iterator[tuple[Path, Run]]:
        ownership = self._taken.ownership
        values = read_range(
            ownership.client,
            ownership.keys.batch(self.source.number + 1),
            ownership.keys.batches_end,
            revision=self._taken.revision,
            renew=ownership.check,
            timeout_s=self._timeout_s,
        )
        assert self.walk is not None
        for kv in values:
            self.source.feed(kv.key, kv.value)
            yield from self.source
            # The walk has taken what it was given before it asks for more.
            self.ends.append(End(self.source.number, self.source.crc, self.walk.last_entry, self.walk.last_marker))


def recover(
    taken: Taken, snapshots: SnapshotBytes, registry: RecordRegistry[Any, Any, Any], *, timeout_s: float
) -> Holdings:
    """
    Read what a storage holds.

    Raises:
        CorruptionError: It is not what was written. Nothing was changed.
        NoSnapshotError: No snapshot is intact, or what is left does not reach up to the newest one.
        FencedError: Somebody else has taken it over meanwhile.
        WALEnvironmentError: The cluster has refused something, or has not answered.
    """
    ownership, tail = taken.ownership, taken.ownership.tail
    manifests, damaged = _manifests(taken, timeout_s=timeout_s)
    if tail.end.marker and tail.end.marker not in manifests.keys() | damaged.keys():
        path = path_of(ownership.keys.manifest(tail.end.marker))
        error = CorruptionError(path, 0, "the log has this snapshot's marker, but the key is gone")
        log_damaged_snapshot(error.path, error.offset, error.reason, error)
        damaged[tail.end.marker] = error
    skipped = dict(damaged)
    snapshot: SnapshotData | None = None
    for manifest in sorted(manifests.values(), reverse=True):
        try:
            snapshot = snapshots.load(manifest, taken.revision)
            break
        except CorruptionError as error:
            log_damaged_snapshot(error.path, error.offset, error.reason, error)
            skipped[manifest.covers] = error
    if snapshot is None and tail.first.batch:
        raise NoSnapshotError(f"{ownership.keys.name} has no snapshot that is intact ({len(skipped)} are damaged)")

    start = snapshot.index if snapshot is not None else 0
    behind = manifests[start].behind if snapshot is not None else tail.first
    batches = _Batches(taken, behind, timeout_s=timeout_s)
    log = Path(ownership.keys.name)
    walk = RecordWalk[Any, Any, Any](log, batches, start, registry, last_entry=behind.entry)
    walk.last_marker, walk.metadata = behind.marker, taken.format.metadata
    batches.walk = walk
    contents = walk.contents()
    end = End(batches.source.number, batches.source.crc, walk.last_entry, walk.last_marker)
    path = path_of(ownership.keys.tail)
    if end != tail.end:
        raise CorruptionError(path, 0, f"the log ends at {end}, and this says {tail.end}")
    if walk.state_data not in (None, tail.state):
        raise CorruptionError(path, 0, "the state is not the one that was saved last")
    state = contents.state if tail.state is None else unmarshal(registry.state, tail.state, path, 0)
    if start + len(contents.entries) < tail.end.marker:
        raise NoSnapshotError(
            f"snapshot {tail.end.marker} of {ownership.keys.name} is missing or damaged, and the log has no entries"
            f" behind {start + len(contents.entries)} to make up for it"
        )
    if not damaged:  # else nobody knows what they refer to
        snapshots.sweep({(manifest.covers, manifest.upload) for manifest in manifests.values()}, taken.revision)
    recovered = Recovered[Any, Any](
        snapshot,
        taken.format.metadata,
        state,
        contents.entries,
        None,
        tuple(skipped[index] for index in sorted(skipped, reverse=True)),
    )
    return Holdings(recovered, manifests, start, batches.ends, walk.last_entry, walk.last_marker, state)


def _manifests(taken: Taken, *, timeout_s: float) -> tuple[dict[int, Manifest], dict[int, CorruptionError]]:
    """Return the manifests by index, and what is wrong with those that are damaged."""
    ownership = taken.ownership
    keys = ownership.keys
    manifests: dict[int, Manifest] = {}
    damaged: dict[int, CorruptionError] = {}
    values = read_range(
        ownership.client,
        keys.manifest(0),
        keys.manifests_end,
        revision=taken.revision,
        renew=ownership.check,
        timeout_s=timeout_s,
    )
    for kv in values:
        try:
            manifest = Manifest.of(kv.value, kv.key)
            if kv.key != keys.manifest(manifest.covers):
                raise CorruptionError(
                    path_of(kv.key), 0, f"this is that of index {manifest.covers}, under another's key"
                )
        except CorruptionError as error:
            log_damaged_snapshot(error.path, error.offset, error.reason, error)
            with suppress(ValueError):  # a key that nobody has written
                damaged[keys.number_of(kv.key)] = error
        else:
            manifests[manifest.covers] = manifest
    return manifests, damaged
