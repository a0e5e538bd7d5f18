# SPDX-License-Identifier: Apache-2.0
"""
Segment file names: ``<sequence>-<first index>.wal``, both as 16 lower-case hexadecimal digits.

The sequence grows by one at each cut. The first index is the one after the log's last index at the cut, so
that the segment with entry *i* is found by name alone; the very first segment is named 0-0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["SegmentName", "select"]

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.wal", re.ASCII)
_TEMPORARY = re.compile(_NAME.pattern + r"\.tmp", re.ASCII)


class SegmentName(NamedTuple):
    """The two numbers in a segment's file name. Names sort as the segments do."""

    sequence: int
    first_index: int

    def __str__(self) -> str:
        return f"{self.sequence:016x}-{self.first_index:016x}.wal"

    @classmethod
    def parse(cls, text: str) -> SegmentName | None:
        """Return the name, or ``None`` if the text is not one to the letter."""
        match = _NAME.fullmatch(text)
        return cls(int(match[1], 16), int(match[2], 16)) if match else None

    @property
    def temporary(self) -> str:
        """The name under which the segment is prepared before it becomes visible."""
        return f"{self}.tmp"


def is_temporary(text: str) -> bool:
    """Tell whether this is the name of a segment in preparation."""
    return _TEMPORARY.fullmatch(text) is not None


def select(names: Sequence[SegmentName], index: int) -> int | None:
    """
    Return the position of the segment from which everything after entry ``index`` can be read.

    That is the last one whose first index is at most ``index``: at the cut that began it, the log's last
    index was below ``index``. ``None`` if the segments begin later.
    """
    return next((at for at in reversed(range(len(names))) if names[at].first_index <= index), None)
