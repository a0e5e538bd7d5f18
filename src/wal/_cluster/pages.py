# SPDX-License-Identifier: Apache-2.0
"""Reading many keys, in pages of bounded size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from .client import Client, Refusal, Refused, refusal_error
from .messages import RANGE, range_request

__all__ = ["read_range"]

PAGE_BYTES = 4 << 20
"""How long a page is to be. One may be longer if values become larger all at once, but not than what a client takes."""

MAX_PAGE_KEYS = 4096
_FIRST_PAGE_KEYS = 16


def read_range(
    client: Client,
    begin: bytes,
    end: bytes,
    *,
    revision: int,
    renew: Callable[[], int],
    timeout_s: float,
    keys_only: bool = False,
) -> Iterator[Any]:
    """
    Yield the keys and values of a range in their order, as they are at a revision.

    Args:
        client: Who is asked.
        begin: The first key.
        end: What comes after the last one.
        revision: Of which time.
        renew: Called if that is compacted meanwhile; returns another revision, or raises.
        timeout_s: How long each page is tried, in seconds.
        keys_only: Leave the values out.

    Raises:
        ClusterUnavailableError: Nobody has answered.
        WALEnvironmentError: The cluster has refused it.
    """
    limit = _FIRST_PAGE_KEYS
    while True:
        request = range_request(begin, end, limit=limit, revision=revision, keys_only=keys_only)
        try:
            page = client.ask(RANGE, request, deadline=time.monotonic() + timeout_s)
        except Refused as error:
            if error.refusal is Refusal.COMPACTED:
                revision = renew()
            elif error.refusal is Refusal.TOO_LONG_ANSWER and limit > 1:
                limit = max(1, limit // 4)
            else:
                raise refusal_error(client.path, error) from error
            continue
        yield from page.kvs
        if not page.more:
            return
        longest = max(len(kv.value) for kv in page.kvs)
        limit = max(1, min(limit * 4, MAX_PAGE_KEYS, PAGE_BYTES // (longest + 1)))
        begin = page.kvs[-1].key + b"\0"
