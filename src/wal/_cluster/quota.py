# SPDX-License-Identifier: Apache-2.0
"""
The space that is left, so that nothing is sent that etcd would have to refuse.

A member whose database is full raises an alarm, and from then on the whole cluster takes nothing, from anybody, until
an operator has made room. So the members are asked how long their databases are, at opening and again whenever half
of what was left may have been used.
"""

from __future__ import annotations

import time

from wal._errors import QuotaExceededError

from .client import Client, Refused, Unanswered, refusal_error
from .messages import STATUS

__all__ = ["DEFAULT_QUOTA_BYTES", "Quota"]

DEFAULT_QUOTA_BYTES = 2 << 30
"""etcd's own default."""

REQUEST_OVERHEAD = 2048
"""What etcd counts for a request, besides its bytes: 256 for each key, and some to spare."""

STATUS_TIMEOUT_S = 1.0


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

    def check(self, size: int) -> None:
        """
        See that a request of so many bytes fits.

        Raises:
            QuotaExceededError: It does not. Nothing was sent.
            ClusterUnavailableError: No member has ever answered.
        """
        size += REQUEST_OVERHEAD
        if not self._sizes or 2 * (self._sent + size) > self._left:
            self._ask()
            if size >= self._left:
                raise QuotaExceededError(
                    self._client.path,
                    f"a member's database has {self._quota - self._left:,} of {self._quota:,} bytes;"
                    f" {size:,} more do not fit; release what is not needed, and let the members defragment",
                )
        self._sent += size

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
