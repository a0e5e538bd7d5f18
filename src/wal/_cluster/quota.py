# SPDX-License-Identifier: Apache-2.0
"""
The space that is left, so that nothing is sent that etcd would have to refuse.

A member whose database is full raises an alarm, and from then on the whole cluster takes nothing, from anybody, until
an operator has made room. So the members are asked how long their databases are, at opening and again whenever half
of what was left may have been used.
"""

from __future__ import annotations

import time
from collections import deque

from wal._errors import QuotaExceededError

from .client import Client, Refused, Unanswered, refusal_error
from .messages import STATUS

__all__ = ["DEFAULT_QUOTA_BYTES", "Quota"]

DEFAULT_QUOTA_BYTES = 2 << 30
"""etcd's own default."""

REQUEST_OVERHEAD = 2048
"""What a request takes besides its bytes: etcd counts 256 for each key, and its database consists of pages."""

STATUS_TIMEOUT_S = 1.0

REPORTED_AFTER_S = 0.5
"""What a member says does not count what came just before: it collects changes for a tenth of a second."""


class Quota:
    """
    Knows about how full the databases are. One thread at a time may call it.

    Args:
        client: Who is asked.
        quota_bytes: The members' ``--quota-backend-bytes``.
        timeout_s: How long to try until a member has answered for the first time, in seconds.
    """

    def __init__(self, client: Client, quota_bytes: int, *, timeout_s: float) -> None:
        if quota_bytes < 1:
            raise ValueError(f"quota_bytes must be at least 1, not {quota_bytes}")
        self._client = client
        self._quota = quota_bytes
        self._timeout_s = timeout_s
        self._sizes: dict[int, int] = {}
        self._sent = 0
        """Since they were asked, but for what is recent."""
        self._recent: deque[tuple[float, int]] = deque()
        """When how much was sent."""

    def check(self, size: int, *, reserve: int = 0) -> None:
        """
        See that a request of so many bytes fits, and that some are left for what makes room.

        Raises:
            QuotaExceededError: It does not. Nothing was sent.
            ClusterUnavailableError: No member has ever answered.
        """
        size += size // 4 + REQUEST_OVERHEAD
        needed = size + min(reserve, self._quota // 4)
        self._age()
        if not self._sizes or 2 * (self._unreported + needed) > self._left:
            self._ask()
            if self._unreported + needed >= self._left and self._recent:
                time.sleep(REPORTED_AFTER_S)  # rather than to guess
                self._recent.clear()
                self._ask()
            if self._unreported + needed >= self._left:
                raise QuotaExceededError(
                    self._client.path,
                    f"a member's database has {self._quota - self._left:,} of {self._quota:,} bytes; {size:,} more do"
                    f" not fit, with {needed - size:,} kept for a snapshot; save one, release what is not needed, and"
                    " let the members defragment",
                )
        self._recent.append((time.monotonic(), size))

    def _age(self) -> None:
        while self._recent and self._recent[0][0] < time.monotonic() - REPORTED_AFTER_S:
            self._sent += self._recent.popleft()[1]

    @property
    def _unreported(self) -> int:
        """What was sent and the members have not counted, as far as is known."""
        return self._sent + sum(size for _, size in self._recent)

    @property
    def _left(self) -> int:
        return self._quota - max(self._sizes.values(), default=0)

    def _ask(self) -> None:
        """Ask all members; if none has ever answered, until one does."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            unanswered = self._ask_once()
            if unanswered is None:
                self._sent = 0
                return
            if self._sizes:
                return
            self._client.pause(deadline, unanswered)

    def _ask_once(self) -> Unanswered | None:
        """Ask all members; return what the last one said if none of them has answered."""
        answered = False
        unanswered: Unanswered | None = None
        for member in range(len(self._client.endpoints)):
            deadline = time.monotonic() + min(STATUS_TIMEOUT_S, self._timeout_s)
            try:
                status = self._client.call(STATUS, STATUS.request(), deadline=deadline, member=member)
            except Unanswered as error:
                unanswered = error  # what it said last counts
            except Refused as error:
                raise refusal_error(self._client.path, error) from error
            else:
                self._sizes[member], answered = status.db_size, True
        return None if answered else unanswered
