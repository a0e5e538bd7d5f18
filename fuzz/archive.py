"""
Directories as bytes, for a fuzzer: each file behind a line with its name.

::

    == 0000000000000000-0000000000000000.wal ==
    the bytes of the file

What stands before the first such line is the content of the first segment, so that every input is a directory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["FIRST", "pack", "unpack"]

FIRST = "0000000000000000-0000000000000000.wal"

_LINE = re.compile(rb"\n?== ([^/\0\n]{1,60}) ==\n")

MAX_FILES = 12


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the bytes that ``unpack`` makes these files of."""
    return b"\n".join(b"== %s ==\n%s" % (name.encode("latin-1"), content) for name, content in files.items())


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the files that some bytes stand for."""
    before, *parts = _LINE.split(data)
    files = {FIRST: before} if before else {}
    for name, content in zip(parts[0 : 2 * MAX_FILES : 2], parts[1 : 2 * MAX_FILES : 2], strict=True):
        if name not in (b".", b".."):
            files[name.decode("latin-1")] = content
    return files
