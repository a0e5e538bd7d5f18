# SPDX-License-Identifier: Apache-2.0
"""
Ownership: transactions that hold only as long as the owner, and the tail, are the ones that this process has left.

Taking it
    The owner's key is replaced by compare-and-swap, with an epoch one greater. From that revision on, whatever an
    earlier owner sends, or has sent and the network delayed, compares the owner and does nothing.

Keeping it
    Every change of the log compares the revisions at which owner and tail were last changed with those that we know,
    and writes a new tail. So of two requests that build on the same tail at most one is done, be it two owners'
    or the same one sent twice.

When an answer is lost
    Nobody knows whether the request was done, or still will be. The owner and the tail are read, by a quorum: if the
    tail is the one that the request was to write, it was done. If it is the one before, the very same request is sent
    again: whichever of them comes first is done, and the other one finds another tail. When there is no time left
    it is the caller who must stop, since the request may still be on its way.

A refusal is final only if no earlier request may be on its way, and not even then if it is for lack of space: etcd
says so also after it has done what filled the database. So the tail is read then, too.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from wal._errors import CorruptionError, FencedError, WALFailedError

from .client import Client, Refusal, Refused, Unanswered, refusal_error
from .entities import BEGINNING, End, Format, Owner, Tail, path_of
from .keys import Keys
from .messages import RANGE, TXN, compare_mod, put_op, range_op, range_request

__all__ = ["Ownership", "Taken", "take"]


class _Seen(NamedTuple):
    """A key's value and the revision at which it was last changed; nothing and 0 if it is not there."""

    value: bytes
    revision: int


def _seen(response: Any) -> _Seen:
    for kv in response.kvs:
        return _Seen(kv.value, kv.mod_revision)
    return _Seen(b"", 0)


class Ownership:
    """
    What the owner may do. One thread at a time may call ``advance``; any may call ``write_beside``.

    Args:
        client: Who is asked.
        keys: The storage's keys.
        owner: Us.
        owner_revision: When the owner's key became ours.
        tail: The tail as it is now.
        tail_revision: When it became so.
        timeout_s: How long a request is tried, in seconds.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        owner: Owner,
        owner_revision: int,
        tail: Tail,
        tail_revision: int,
        *,
        timeout_s: float,
    ) -> None:
        self.client = client
        self.keys = keys
        self.owner = owner
        self.tail: Tail = tail
        self.timeout_s = timeout_s
        self._owner_revision = owner_revision
        self._tail_revision = tail_revision

    def deadline(self) -> float:
        """Return until when a request that begins now is tried."""
        return time.monotonic() + self.timeout_s

    def request(self, tail: Tail, operations: Sequence[Any]) -> Any:
        """Return the transaction that writes a new tail and does these operations."""
        keys = self.keys
        return TXN.request(
            compare=[compare_mod(keys.owner, self._owner_revision), compare_mod(keys.tail, self._tail_revision)],
            success=[put_op(keys.tail, tail.value()), *operations],
            failure=[range_op(keys.owner), range_op(keys.tail)],
        )

    def advance(self, tail: Tail, request: Any) -> None:
        """
        Do what ``request`` returned for this tail, once. When this returns, it is done.

        Raises:
            FencedError: Somebody else is the owner. If an answer was lost it may have been done before that.
            QuotaExceededError, WALEnvironmentError: The cluster has refused it. Nothing was done, nor will be.
            ClusterUnavailableError: Nobody knows.
            WALFailedError: The tail was changed by somebody who is not the owner.
        """
        deadline = self.deadline()
        value = tail.value()
        on_its_way = False
        while True:
            refused: Refused | None = None
            unanswered: Unanswered | None = None
            try:
                response = self.client.call(TXN, request, deadline=deadline)
            except Refused as error:
                if not on_its_way and error.refusal is not Refusal.NO_SPACE:
                    raise refusal_error(self.client.path, error) from error
                refused = error
                owner, now = self._look(deadline)
            except Unanswered as error:
                unanswered, on_its_way = error, True
                self.client.pause(deadline, error)
                owner, now = self._look(deadline)
            else:
                if response.succeeded:
                    self.tail, self._tail_revision = tail, response.header.revision
                    return
                owner, now = (_seen(answer.response_range) for answer in response.responses)
            if owner.revision != self._owner_revision:
                raise self.fenced(owner.value, on_its_way=on_its_way)
            if now.value == value:
                self.tail, self._tail_revision = tail, now.revision
                return
            if now.revision != self._tail_revision or (refused is None and unanswered is None):
                raise WALFailedError(
                    path_of(self.keys.tail), "this was changed by somebody who is not the owner; nothing was written"
                )
            if refused is not None:
                if not on_its_way:
                    raise refusal_error(self.client.path, refused) from refused
                self.client.pause(deadline, Unanswered(refused.words))

    def write_beside(self, operations: Sequence[Any]) -> int:
        """
        Do operations that may be done twice, and that only the owner may do. When this returns, they are done.

        Returns:
            The revision at which they were.

        Raises:
            FencedError: Somebody else is the owner.
            QuotaExceededError, WALEnvironmentError: The cluster has refused it.
            ClusterUnavailableError: Nobody has answered.
        """
        request = TXN.request(
            compare=[compare_mod(self.keys.owner, self._owner_revision)],
            success=operations,
            failure=[range_op(self.keys.owner)],
        )
        try:
            response = self.client.ask(TXN, request, deadline=self.deadline())
        except Refused as error:
            raise refusal_error(self.client.path, error) from error
        if not response.succeeded:
            raise self.fenced(_seen(response.responses[0].response_range).value)
        revision: int = response.header.revision
        return revision

    def check(self) -> int:
        """Return the present revision; ``FencedError`` if somebody else is the owner by now."""
        return self.write_beside([range_op(self.keys.owner)])

    def fenced(self, owner: bytes, *, on_its_way: bool = False) -> FencedError:
        """Return the error that says who the owner is instead of us."""
        try:
            who = f"{Owner.of(owner, self.keys.owner)} has taken it over"
        except CorruptionError:
            who = "its owner's key is gone, or damaged"
        reason = f"{self.keys.name} is not ours any more ({self.owner}): {who}"
        if on_its_way:
            reason += "; an answer was lost just before, so the last save may have been kept, as a whole"
        return FencedError(reason)

    def _look(self, deadline: float) -> tuple[_Seen, _Seen]:
        """Return the owner and the tail as they are now."""
        request = TXN.request(success=[range_op(self.keys.owner), range_op(self.keys.tail)])
        try:
            response = self.client.ask(TXN, request, deadline=deadline)
        except Refused as error:
            raise self.client.unavailable(error.words) from error  # what was asked about is unresolved
        owner, tail = (_seen(answer.response_range) for answer in response.responses)
        return owner, tail


class Taken(NamedTuple):
    """
    A storage that was taken over, or made.

    Attributes:
        ownership: The new owner's.
        format: What was given when the storage was made.
        revision: What is read is read as of then.
    """

    ownership: Ownership
    format: Format
    revision: int


def take(client: Client, keys: Keys, new: tuple[Format, bytes, End], *, timeout_s: float) -> Taken:
    """
    Become the owner of a storage. When this returns, no earlier owner can change it any more.

    Args:
        client: Who is asked.
        keys: The storage's keys.
        new: What a new storage is: its format, its first batch and where that ends.
        timeout_s: How long to try, in seconds.

    Raises:
        CorruptionError: The storage is not in order. Nothing was changed.
        QuotaExceededError, WALEnvironmentError: The cluster has refused it.
        ClusterUnavailableError: Nobody has answered. Whether the storage was taken is not known.
    """
    deadline = time.monotonic() + timeout_s
    token = secrets.token_hex(8)
    try:
        while True:
            found = _read(client, keys, deadline)
            if found.owner.revision == 0:
                _check_that_there_is_nothing(client, keys, found, deadline)
                owner, format = Owner(1, socket.gethostname(), os.getpid(), token), new[0]
                tail = Tail(1, new[2], BEGINNING, None)
                operations = [
                    put_op(keys.format, format.value()),
                    put_op(keys.batch(1), new[1]),
                    put_op(keys.tail, tail.value()),
                ]
                conditions = [compare_mod(key, 0) for key in (keys.owner, keys.format, keys.tail, keys.batch(1))]
            else:
                before, format, tail = found.parsed(keys)
                if before.token == token:  # an answer was lost
                    return Taken(
                        Ownership(
                            client,
                            keys,
                            before,
                            found.owner.revision,
                            tail,
                            found.tail.revision,
                            timeout_s=timeout_s,
                        ),
                        format,
                        found.revision,
                    )
                owner = Owner(max(before.epoch, tail.epoch) + 1, socket.gethostname(), os.getpid(), token)
                operations = []
                conditions = [
                    compare_mod(keys.owner, found.owner.revision),
                    compare_mod(keys.format, found.format.revision),
                ]
            request = TXN.request(
                compare=conditions,
                success=[put_op(keys.owner, owner.value()), *operations, range_op(keys.tail)],
            )
            try:
                response = client.call(TXN, request, deadline=deadline)
            except Unanswered as error:
                client.pause(deadline, error)
                continue
            except Refused as error:
                if error.refusal is Refusal.NO_SPACE and _read(client, keys, deadline).is_of(token, keys):
                    continue
                raise
            if response.succeeded:
                # Between the look and this the former owner may have saved something.
                tail_now = _seen(response.responses[-1].response_range)
                revision = response.header.revision
                ownership = Ownership(
                    client,
                    keys,
                    owner,
                    revision,
                    Tail.of(tail_now.value, keys.tail),
                    tail_now.revision,
                    timeout_s=timeout_s,
                )
                return Taken(ownership, format, revision)
    except Refused as error:
        raise refusal_error(client.path, error) from error


class _Found(NamedTuple):
    """The small keys, as they were at a revision."""

    owner: _Seen
    format: _Seen
    tail: _Seen
    revision: int

    def is_of(self, token: str, keys: Keys) -> bool:
        """Tell whether there is an owner with this token."""
        return self.owner.revision > 0 and Owner.of(self.owner.value, keys.owner).token == token

    def parsed(self, keys: Keys) -> tuple[Owner, Format, Tail]:
        """Return what they say; ``CorruptionError`` if one is missing or damaged."""
        for key, seen in ((keys.format, self.format), (keys.tail, self.tail)):
            if not seen.revision:
                raise CorruptionError(path_of(key), 0, "there is an owner, but this key is gone")
        return (
            Owner.of(self.owner.value, keys.owner),
            Format.of(self.format.value, keys.format),
            Tail.of(self.tail.value, keys.tail),
        )


def _read(client: Client, keys: Keys, deadline: float) -> _Found:
    request = TXN.request(success=[range_op(key) for key in (keys.owner, keys.format, keys.tail)])
    response = client.ask(TXN, request, deadline=deadline)
    owner, format, tail = (_seen(answer.response_range) for answer in response.responses)
    return _Found(owner, format, tail, response.header.revision)


def _check_that_there_is_nothing(client: Client, keys: Keys, found: _Found, deadline: float) -> None:
    """There was no owner: see that it is a new storage, and not one whose key is lost."""
    first, end = keys.everything
    there = client.ask(
        RANGE, range_request(first, end, limit=1, revision=found.revision, keys_only=True), deadline=deadline
    )
    for kv in there.kvs:
        raise CorruptionError(path_of(keys.owner), 0, f"this key is gone, but there is {path_of(kv.key)}")
