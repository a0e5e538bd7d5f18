# SPDX-License-Identifier: Apache-2.0
"""
The manifest: what an archive holds, and whose it is.

It is JSON in one form alone: what is read must be, byte for byte, what would be written, and has the SHA-256 of itself.
So a manifest that was altered in any way is not taken for one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from wal._names import SegmentName

__all__ = ["Manifest", "Owner", "SegmentObject", "SnapshotObject", "digest_of", "manifest_name", "manifest_number"]

FORMAT = 1
_NAME = re.compile(r"manifest/([0-9]{20})\.json", re.ASCII)


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of an object, as text."""
    return hashlib.sha256(data).hexdigest()


def manifest_name(number: int) -> str:
    """Return the object's name of the manifest with this number."""
    return f"manifest/{number:020d}.json"


def manifest_number(name: str) -> int | None:
    """Return the number of the manifest with this name; ``None`` if it is not the name of one."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Owner:
    """
    An archiver: where it runs, and what tells it from every other.

    Attributes:
        host: Its machine.
        process: Its process.
        token: A random number, as text.
    """

    host: str
    process: int
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


@dataclass(frozen=True, slots=True)
class SegmentObject:
    """
    A sealed segment in the archive.

    Attributes:
        name: The segment's file name.
        bytes: The length of the object.
        sha256: Its digest.
        crc_before: The CRC chain of the log in front of it.
        crc_after: The chain at its end, with which the next one begins.
        last_index: The log's last index at its end.
        lowest_index: The lowest index of an entry in it; ``None`` if it has none.
        committed: What the last hard state at its end commits; ``None`` if none was ever saved.
    """

    name: str
    bytes: int
    sha256: str
    crc_before: int
    crc_after: int
    last_index: int
    lowest_index: int | None
    committed: int | None

    @property
    def object(self) -> str:
        """The object's name."""
        return f"segments/{self.name}"

    @property
    def parsed(self) -> SegmentName:
        """The two numbers in the name."""
        name = SegmentName.parse(self.name)
        if name is None:
            raise ValueError(f"{self.name!r} is not a segment's name")
        return name


@dataclass(frozen=True, slots=True)
class SnapshotObject:
    """
    A snapshot file in the archive.

    Attributes:
        name: The file's name; one that ends in ``.db`` is a database.
        bytes: The length of the object.
        sha256: Its digest.
        index: The index of the last entry that it covers.
        marker: The marker as it stands in the log, in hexadecimal.
        segment: The sequence number of the segment that has the marker.
    """

    name: str
    bytes: int
    sha256: str
    index: int
    marker: str
    segment: int

    @property
    def object(self) -> str:
        """The object's name."""
        return f"snapshots/{self.name}"

    @property
    def database(self) -> bool:
        """Whether it is a database, and not a snapshot that recovery loads."""
        return self.name.endswith(".db")


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    What an archive holds.

    Attributes:
        number: Which manifest this is; each has a number of its own.
        epoch: How often the archive was taken over.
        owner: The archiver that it belongs to.
        storage: Whether it is of a storage, with snapshots, or of a log alone.
        metadata_sha256: The digest of the log's metadata.
        segments: Its segments in their order, without a gap.
        snapshots: Its snapshots, in the order of their upload.
    """

    number: int
    epoch: int
    owner: Owner
    storage: bool
    metadata_sha256: str
    segments: tuple[SegmentObject, ...] = ()
    snapshots: tuple[SnapshotObject, ...] = ()

    @property
    def last_index(self) -> int:
        """The log's last index at the end of all that is archived; 0 if nothing is."""
        return self.segments[-1].last_index if self.segments else 0

    @property
    def objects(self) -> set[str]:
        """The names of all objects that belong to the archive."""
        return {held.object for held in self.segments} | {held.object for held in self.snapshots}

    @property
    def total_bytes(self) -> int:
        """How many bytes they have."""
        return sum(held.bytes for held in self.segments) + sum(held.bytes for held in self.snapshots)

    def extended(self, segments: tuple[SegmentObject, ...], snapshots: tuple[SnapshotObject, ...]) -> Manifest:
        """Return the next manifest, with more in it."""
        return replace(
            self,
            number=self.number + 1,
            segments=self.segments + segments,
            snapshots=self.snapshots + snapshots,
        )

    def encode(self) -> bytes:
        """Return the object."""
        content = {"format": FORMAT, **asdict(self)}
        digest = digest_of(_dumped(content))
        return _dumped({"manifest": content, "sha256": digest}) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """
        Read an object.

        Raises:
            ValueError: It is not a manifest as it was written, or one of a later version of this library.
        """
        try:
            content = dict(json.loads(data)["manifest"])
            digest = json.loads(data)["sha256"]
            if digest != digest_of(_dumped(content)):
                raise ValueError("its digest is wrong")
            if content["format"] != FORMAT:
                raise ValueError(f"it is of format {content['format']}, and this version knows {FORMAT} alone")
            manifest = cls._of(content)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"it is not a manifest ({error!r})") from error
        if manifest.encode() != data:
            raise ValueError("it is not in the form in which manifests are written")
        manifest._check()
        return manifest

    def _check(self) -> None:
        """Refuse names that could lead anywhere else, and segments that are no log."""
        for snapshot in self.snapshots:
            if snapshot.name not in (f"{snapshot.index:016x}.snap", f"{snapshot.index:016x}.snap.db"):
                raise ValueError(f"{snapshot.name!r} is not the name of snapshot {snapshot.index}")
        names = [segment.parsed for segment in self.segments]
        for snapshot in self.snapshots:
            if not names or not names[0].sequence <= snapshot.segment <= names[-1].sequence:
                raise ValueError(f"the marker of {snapshot.name} is not in the archived segments")
        for before, after in pairwise(self.segments):
            if after.parsed.sequence != before.parsed.sequence + 1 or after.crc_before != before.crc_after:
                raise ValueError(f"segment {after.name} does not follow {before.name}")

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> Manifest:
        fields = dict(content)
        del fields["format"]
        fields["owner"] = Owner(**fields["owner"])
        fields["segments"] = tuple(SegmentObject(**segment) for segment in fields["segments"])
        fields["snapshots"] = tuple(SnapshotObject(**snapshot) for snapshot in fields["snapshots"])
        return cls(**fields)


def _dumped(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
