"""
Lines between a storage and its cluster that lose, delay and double what goes over them.

They stand where the library sends one request to one member, so that requests and answers are real.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from typing import Any
from unittest.mock import patch

from wal._cluster import client, opening
from wal._cluster.client import Client, Refusal, Refused, Unanswered
from wal._cluster.messages import TXN

__all__ = ["Fault", "Line", "over"]

Send = Callable[[], Any]


class Fault(Enum):
    """What may happen to one request."""

    LOST = "the request is lost"
    ANSWER_LOST = "the answer is lost"
    LATE = "it comes after the retry"
    JUST_BEFORE = "it comes just before the retry"
    NEXT = "it comes behind the next request"
    MUCH_LATER = "it comes five requests later"
    TWICE = "it comes twice"
    FULL = "it is refused for lack of space"
    FULL_BUT_DONE = "it is done, and then refused for lack of space"


class Line:
    """
    Counts requests, and does something to some of them.

    Args:
        faults: By the number of a request, from 0 on.
        cut: From this request on all are held back, as if the network were gone.
    """

    def __init__(self, faults: dict[int, Fault] | None = None, cut: int | None = None) -> None:
        self.faults = faults or {}
        self.cut = cut
        self.count = 0
        self.writing: list[bool] = []
        """Of each request, whether it was to change something."""
        self.held: list[Send] = []
        """What is still on its way."""
        self._late: list[tuple[bytes, Send]] = []
        self._just_before: list[tuple[bytes, Send]] = []
        self._at: dict[int, list[Send]] = {}

    def send(self, call: Any, message: Any, send: Send) -> Any:
        """Send a request, or not."""
        number = self.count
        self.count += 1
        request = message.SerializeToString(deterministic=True)
        self.writing.append(writes(call, message))
        for before in self._take(self._just_before, request):
            _quietly(before)
        try:
            return self._one(self.faults.get(number), number, request, send)
        finally:
            for due in self._at.pop(number, []):
                _quietly(due)
            if number not in self.faults:
                for after in self._take(self._late, request):
                    _quietly(after)

    def _one(self, fault: Fault | None, number: int, request: bytes, send: Send) -> Any:
        if self.cut is not None and number >= self.cut:
            self.held.append(send)
            raise Unanswered("the line is cut")
        match fault:
            case None:
                return send()
            case Fault.LOST:
                pass
            case Fault.ANSWER_LOST:
                send()
            case Fault.LATE:
                self._late.append((request, send))
            case Fault.JUST_BEFORE:
                self._just_before.append((request, send))
            case Fault.NEXT:
                self._at.setdefault(number + 1, []).append(send)
            case Fault.MUCH_LATER:
                self._at.setdefault(number + 5, []).append(send)
            case Fault.TWICE:
                answer = send()
                _quietly(send)
                return answer
            case Fault.FULL:
                raise Refused(Refusal.NO_SPACE, "etcdserver: mvcc: database space exceeded")
            case Fault.FULL_BUT_DONE:
                send()
                raise Refused(Refusal.NO_SPACE, "etcdserver: mvcc: database space exceeded")
        raise Unanswered(f"request {number}: {fault.value}")

    @staticmethod
    def _take(waiting: list[tuple[bytes, Send]], request: bytes) -> list[Send]:
        taken = [send for of, send in waiting if of == request]
        waiting[:] = [(of, send) for of, send in waiting if of != request]
        return taken

    def deliver(self) -> None:
        """Let everything arrive that is still on its way."""
        late = [*self.held, *(send for _, send in self._late + self._just_before)]
        late += [send for due in self._at.values() for send in due]
        self.held, self._late, self._just_before, self._at = [], [], [], {}
        for send in late:
            _quietly(send)


def _quietly(send: Send) -> None:
    """Send something whose answer nobody waits for."""
    with suppress(Refused, Unanswered):
        send()


def writes(call: Any, request: Any) -> bool:
    """Tell whether a request is to change something."""
    return call is TXN and any(operation.WhichOneof("which") != "request_range" for operation in request.success)


@contextmanager
def over(line: Line) -> Iterator[None]:
    """
    Let what is opened in this block talk to its cluster over the line, without pauses between tries.

    What is late arrives also when who has sent it is closed, up to the end of the block.
    """
    others: list[Client] = []

    class Lined(Client):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.other = Client(*arguments, **options)
            others.append(self.other)

        def _send(self, number: int, call: Any, request: Any, deadline: float, metadata: Any) -> Any:
            def send() -> Any:
                # What is late has time of its own.
                return self.other._send(number, call, request, max(deadline, time.monotonic() + 5), metadata)

            return line.send(call, request, send)

    with patch.object(opening, "Client", Lined), patch.object(client, "PAUSE_S", 0.0), ExitStack() as stack:
        yield
        for other in others:
            stack.callback(other.close)
