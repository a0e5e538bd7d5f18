# SPDX-License-Identifier: Apache-2.0
"""
Small values that are read by people, too: JSON with a checksum over it.

The checksum is the last member, ``"crc32c"``, of all that is before it, byte by byte.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from wal._crc32c import extend
from wal._errors import CorruptionError, CRCMismatchError

__all__ = ["seal", "unseal"]

_SEAL = re.compile(rb', "crc32c": "([0-9a-f]{8})"\}')
_SEAL_BYTES = len(b', "crc32c": "00000000"}')


def seal(fields: dict[str, Any]) -> bytes:
    """Return the value with these fields."""
    body = json.dumps(fields)[:-1].encode()
    return body + b', "crc32c": "%08x"}' % extend(0, body)


def unseal(value: bytes, path: Path) -> dict[str, Any]:
    """
    Return the fields of a value.

    Raises:
        CorruptionError: It is not what was written. ``path`` says whose value it is.
    """
    body, end = value[:-_SEAL_BYTES], _SEAL.fullmatch(value[-_SEAL_BYTES:])
    if end is None:
        raise CorruptionError(path, 0, f"this does not end with a checksum: {value[-40:]!r}")
    actual, found = extend(0, body), int(end[1], 16)
    if actual != found:
        raise CRCMismatchError(path, 0, "the checksum is wrong", expected=actual, found=found)
    try:
        fields = json.loads(body + b"}")
    except ValueError as error:
        raise CorruptionError(path, 0, f"this is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise CorruptionError(path, 0, "this is not an object of JSON")
    return fields
