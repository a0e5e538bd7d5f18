# SPDX-License-Identifier: Apache-2.0
"""
The members of a cluster, and how they are asked.

A call has one of three outcomes, and nothing else:

* the member's answer,
* ``Refused``: a member has said no, and the call has done nothing (but see ``Refusal.NO_SPACE``),
* ``Unanswered``: nobody knows whether the call was done, or will still be. The next call goes to the next member.

What changes nothing is simply asked again, by ``ask``. What does is the caller's to resolve. gRPC's own retries are
turned off, so that a call is one request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from wal._errors import ClusterUnavailableError, QuotaExceededError, WALEnvironmentError

from .messages import AUTHENTICATE, WATCH, Call

try:
    import grpc
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(f"{missing}; install wal[etcd]", name=missing.name) from missing

__all__ = ["Client", "Credentials", "Refusal", "Refused", "Unanswered", "refusal_error"]

PAUSE_S = 0.05
"""Between two calls of which the first was not answered, so that members that refuse at once are not flooded."""

MAX_ANSWER_BYTES = 64 << 20
"""A longer answer is not taken. Pages are far smaller."""

_OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A member that is stopped, or whose host is gone, is noticed also by those who wait for it to say something.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.use_local_subchannel_pool", 1),  # connections are ours alone, and end with the channel
]
_NEEDS_LEADER = ("hasleader", "true")
"""A member without a leader says so at once, instead of waiting for one."""


class Refusal(Enum):
    """What a member says no for; the values are parts of its words."""

    NO_SPACE = "database space exceeded"
    """It may have been done all the same: etcd applies what fills the database and says this then, too."""
    TOO_LARGE = "too large"
    TOO_LONG_ANSWER = "received message larger than max"
    COMPACTED = "has been compacted"
    FORBIDDEN = "permission denied"
    OTHER = ""


class Refused(Exception):  # noqa: N818  # it is an outcome
    """A member has said no."""

    def __init__(self, refusal: Refusal, words: str) -> None:
        super().__init__(words)
        self.refusal = refusal
        self.words = words


class Unanswered(Exception):  # noqa: N818  # it is an outcome
    """Nobody knows whether the call was done, or will still be."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class Credentials(NamedTuple):
    """
    How to be let in.

    Attributes:
        ca: The certificates of those who sign the members' ones, as PEM; ``None``: those that gRPC comes with.
        certificate: Our own, as PEM, or ``None``.
        key: The private key that belongs to it.
        user: The user's name, or ``None``.
        password: And password.
    """

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    user: str | None = None
    password: str | None = None


@dataclass(frozen=True)
class _Member:
    endpoint: str
    channel: Any


_CODE = grpc.StatusCode
_ANSWERED_NO = {
    _CODE.INVALID_ARGUMENT,
    _CODE.FAILED_PRECONDITION,
    _CODE.NOT_FOUND,
    _CODE.OUT_OF_RANGE,
    _CODE.PERMISSION_DENIED,
    _CODE.UNAUTHENTICATED,
    _CODE.UNIMPLEMENTED,
}
_OLD_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")


class Client:
    """
    Asks the members of a cluster, one at a time. All methods may be called from any thread.

    Args:
        endpoints: Addresses of members: ``host:port``, ``http://host:port`` or ``https://host:port``.
        credentials: How to be let in.
        request_timeout_s: After so many seconds without an answer the next member is asked.
        name: The storage's name, for messages.
    """

    def __init__(
        self, endpoints: Iterable[str], credentials: Credentials, *, request_timeout_s: float, name: str
    ) -> None:
        if not request_timeout_s > 0:
            raise ValueError(f"request_timeout_s must be greater than 0, not {request_timeout_s}")
        self.path: Path = Path(name)
        self.request_timeout_s: float = request_timeout_s
        self._credentials = credentials
        self._token: str | None = None
        self._lock = threading.Lock()
        self._current = 0
        self._closed = False
        self._members = [_Member(address, _channel(address, credentials)) for address in _addresses(endpoints)]

    @property
    def endpoints(self) -> Sequence[str]:
        """The members' addresses."""
        return [member.endpoint for member in self._members]

    def call(self, call: Call, request: Any, *, deadline: float, member: int | None = None) -> Any:
        """
        Make one call to the current member, or to another one.

        Args:
            call: The method.
            request: What it takes.
            deadline: Do not wait longer than until then, by ``time.monotonic``.
            member: Which one, by its place among the endpoints.

        Raises:
            Refused: The member said no.
            Unanswered: Nobody knows.
        """
        number = self._current if member is None else member
        try:
            return self._with_token(number, call, request, deadline)
        except Unanswered:
            if member is None:
                self._leave(number)
            raise

    def ask(self, call: Call, request: Any, *, deadline: float) -> Any:
        """
        Make a call that changes nothing, or nothing when it is repeated, until it is answered.

        Raises:
            Refused: A member said no.
            ClusterUnavailableError: None has answered until the deadline.
        """
        while True:
            try:
                return self.call(call, request, deadline=deadline)
            except Unanswered as error:
                self.pause(deadline, error)

    def pause(self, deadline: float, error: Unanswered) -> None:
        """Wait a moment before another call; ``ClusterUnavailableError`` if the deadline is over, or this is closed."""
        left = deadline - time.monotonic()
        if left <= 0 or self._closed:
            raise self.unavailable(error.words) from error
        time.sleep(min(PAUSE_S, left))

    def unavailable(self, words: str) -> ClusterUnavailableError:
        """Return the error that says so, with the last words of a member."""
        return ClusterUnavailableError(
            self.path, f"none of {', '.join(self.endpoints)} has answered in time; the last one said: {words}"
        )

    def watch(self, request: Any) -> Any:
        """Begin to watch at the current member; return the call, which yields responses and can be cancelled."""
        number = self._current
        metadata = [_NEEDS_LEADER, *self._authorization(number, time.monotonic() + self.request_timeout_s)]
        stream = self._members[number].channel.stream_stream(
            WATCH.path, WATCH.request.SerializeToString, WATCH.response.FromString
        )
        return stream(iter([request]), metadata=metadata)

    def watched(self, stream: Any) -> Iterator[Any]:
        """
        Yield the responses of a watch.

        Raises:
            Refused, Unanswered: It has ended; the next one goes to the next member.
        """
        number = self._current
        try:
            yield from stream
        except grpc.RpcError as error:
            if _text_of(error)[1] in _OLD_TOKEN:
                self._token = None
            self._leave(number)
            raise _meaning(error, self._members[number].endpoint) from None
        self._leave(number)
        raise Unanswered(f"{self._members[number].endpoint} has ended the watch")

    def close(self) -> None:
        """Give up the connections. A second call does nothing."""
        self._closed = True
        for member in self._members:
            member.channel.close()

    # ---------------------------------------------------------------------------------------------- one call

    def _with_token(self, number: int, call: Call, request: Any, deadline: float) -> Any:
        for attempt in (1, 2):
            metadata = self._authorization(number, deadline)
            try:
                return self._send(number, call, request, deadline, metadata)
            except Refused as error:
                # A token ends with time, or when users change. The call has done nothing.
                if attempt == 2 or not metadata or not any(words in error.words for words in _OLD_TOKEN):
                    raise
                self._token = None
        raise AssertionError("the second attempt returns or raises")

    def _authorization(self, number: int, deadline: float) -> list[tuple[str, str]]:
        if self._credentials.user is None:
            return []
        with self._lock:
            if self._token is None:
                request = AUTHENTICATE.request(name=self._credentials.user, password=self._credentials.password or "")
                self._token = self._send(number, AUTHENTICATE, request, deadline, []).token
            return [("token", self._token)]

    def _send(self, number: int, call: Call, request: Any, deadline: float, metadata: list[tuple[str, str]]) -> Any:
        """Send one request to one member and wait for its answer."""
        member = self._members[number]
        left = min(self.request_timeout_s, deadline - time.monotonic())
        send = member.channel.unary_unary(call.path, call.request.SerializeToString, call.response.FromString)
        try:
            return send(request, timeout=max(left, 0.001), metadata=[_NEEDS_LEADER, *metadata])
        except grpc.RpcError as error:
            raise _meaning(error, member.endpoint) from None
        except ValueError as error:  # the channel was closed by another thread
            raise Unanswered(str(error)) from error

    def _leave(self, number: int) -> None:
        with self._lock:
            if self._current == number:
                self._current = (number + 1) % len(self._members)


def refusal_error(path: Path, refused: Refused) -> WALEnvironmentError:
    """Return the error that users get for a refusal."""
    if refused.refusal is Refusal.NO_SPACE:
        return QuotaExceededError(path, f"etcd says: {refused.words}; compact, defragment and disarm the alarm")
    return WALEnvironmentError(path, f"etcd says: {refused.words}")


def _text_of(error: Any) -> tuple[Any, str]:
    return error.code(), error.details() or ""


def _meaning(error: Any, endpoint: str) -> Refused | Unanswered:
    """Say what an error of gRPC means."""
    code, words = _text_of(error)
    full = f"{endpoint}: {code.name}: {words}"
    if code is _CODE.RESOURCE_EXHAUSTED:
        for refusal in (Refusal.NO_SPACE, Refusal.TOO_LONG_ANSWER):
            if refusal.value in words.lower():
                return Refused(refusal, full)
        return Unanswered(full)  # too many requests
    if code in _ANSWERED_NO:
        return Refused(next(refusal for refusal in Refusal if refusal.value in words.lower()), full)
    return Unanswered(full)


# ---------------------------------------------------------------------------------------------- endpoints


def _addresses(endpoints: Iterable[str]) -> list[str]:
    if isinstance(endpoints, str):
        raise TypeError(f"endpoints are several addresses, in a list, not {endpoints!r}")
    addresses = list(endpoints)
    if not addresses:
        raise ValueError("at least one endpoint is needed")
    return addresses


def _channel(endpoint: str, credentials: Credentials) -> Any:
    scheme, separator, address = endpoint.rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise ValueError(f"{endpoint!r} must begin with http:// or https://, or with neither")
    address = address.rstrip("/")
    if not address or "/" in address:
        raise ValueError(f"{endpoint!r} is not an address of the form host:port")
    if not separator:
        scheme = "https" if credentials.ca or credentials.certificate else "http"
    if scheme == "http":
        return grpc.insecure_channel(address, options=_OPTIONS)
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.certificate),
        options=_OPTIONS,
    )
