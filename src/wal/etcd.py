# SPDX-License-Identifier: Apache-2.0
"""
The record types of an etcd member, to read its log.

::

    reader = wal.WALReader("default.etcd/member/wal", registry=wal.etcd.registry())
    metadata, state, entries, tail = reader.read_all()

Fields and their numbers are those of etcd's ``raftpb.Entry``, ``raftpb.HardState`` and ``walpb.Snapshot``. Like
etcd, ``marshal`` writes zero fields out, so the bytes are equal to etcd's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from . import _records
from ._protobuf import BYTES, UINT, bytes_field, decode_message, uint_field

__all__ = ["Entry", "HardState", "Snapshot", "registry"]


@dataclass(slots=True, unsafe_hash=True, kw_only=True)
class Entry(_records.LogEntry):
    """
    An entry of a Raft log.

    Attributes:
        term: The Raft term in which it was proposed.
        index: Its place in the log.
        type: 0 for data, 1 for a configuration change, 2 for a configuration change of the second form.
        data: The proposal, empty for the first entry of a term.
    """

    term: int = 0
    index: int = 0
    type: int = 0
    data: bytes = b""

    def marshal(self) -> bytes:
        """Return the protobuf message ``{1: type, 2: term, 3: index, 4: data}``."""
        return (
            uint_field(1, self.type, keep_zero=True)
            + uint_field(2, self.term, keep_zero=True)
            + uint_field(3, self.index, keep_zero=True)
            + bytes_field(4, self.data)
        )

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        """Make the entry from etcd's bytes; ``ValueError`` if they are anything else."""
        type, term, index, payload = decode_message(data, (UINT, UINT, UINT, BYTES))
        return cls(term=term, index=index, type=type, data=payload)


@dataclass(slots=True, unsafe_hash=True, kw_only=True)
class HardState(_records.HardState):
    """
    The hard state of a Raft node.

    Attributes:
        term: The latest term it has seen.
        vote: The member it voted for in that term, 0 if none.
        commit: The index of the last entry known to be committed; also called ``committed``.
    """

    term: int = 0
    vote: int = 0
    commit: int = 0

    @property
    def committed(self) -> int:  # type: ignore[override]  # a second name for a field
        """The same as ``commit``."""
        return self.commit

    def marshal(self) -> bytes:
        """Return the protobuf message ``{1: term, 2: vote, 3: commit}``."""
        return (
            uint_field(1, self.term, keep_zero=True)
            + uint_field(2, self.vote, keep_zero=True)
            + uint_field(3, self.commit, keep_zero=True)
        )

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        """Make the state from etcd's bytes; ``ValueError`` if they are anything else."""
        term, vote, commit = decode_message(data, (UINT, UINT, UINT))
        return cls(term=term, vote=vote, commit=commit)


@dataclass(slots=True, unsafe_hash=True, kw_only=True)
class Snapshot(_records.Snapshot):
    """
    The marker of a snapshot in a member's log.

    Attributes:
        index: The index of the last entry that the snapshot covers.
        term: That entry's term.
        conf_state: The membership at that entry, a marshalled ``raftpb.ConfState`` (etcd 3.5 and later).
    """

    index: int = 0
    term: int = 0
    conf_state: bytes = b""

    def marshal(self) -> bytes:
        """Return the protobuf message ``{1: index, 2: term, 3: conf state}``."""
        return (
            uint_field(1, self.index, keep_zero=True)
            + uint_field(2, self.term, keep_zero=True)
            + bytes_field(3, self.conf_state)
        )

    @classmethod
    def unmarshal(cls, data: bytes) -> Self:
        """Make the marker from etcd's bytes; ``ValueError`` if they are anything else."""
        index, term, conf_state = decode_message(data, (UINT, UINT, BYTES))
        return cls(index=index, term=term, conf_state=conf_state)


def registry() -> _records.RecordRegistry[Entry, HardState, Snapshot]:
    """Return a new registry with these types."""
    return _records.RecordRegistry(entry=Entry, state=HardState, snapshot=Snapshot)
