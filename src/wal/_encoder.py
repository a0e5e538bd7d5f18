# SPDX-License-Identifier: Apache-2.0
"""
The encoder: whole saves into one segment.

It owns what the next frame depends on: the offset, the CRC chain, and whether all earlier bytes of the segment
are synced. A save is encoded completely before its first byte is written, and written by one call.

If ``write`` or ``sync`` raises, or is interrupted, the three may no longer agree with the file, and the encoder
must not be used again. Its owner sees to that.

Between two lives of the log its end is marked by a stamp (see ``_stamp``), which the first save takes away.

Space for a segment is reserved when it is made, but a block that was never written is not in use yet for the file
system: the sync of the first write to it must change the file's block map too, in one more transaction. So from time
to time a write goes on with zeros behind the frames, which the same sync makes durable. The next thousands of small
saves are then written over them. Behind large saves it does not pay, since all they write would be written twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ._build import COMPILED
from ._events import log_slow_sync
from ._files import File
from ._frame import Payload
from ._notices import Notices
from ._stamp import Stamp, encode_stamp, stamp_offset, stamp_reach

if COMPILED:
    from ._codec_compiled import encode_group
else:
    from ._codec import encode_group

__all__ = ["Encoder"]

_SMALL = 128
"""Zeros are written ahead if so many writes like this one fit into them: then less than one in a hundred brings any."""


class Encoder:
    """
    Appends saves to one segment from ``offset`` on, where the CRC chain is ``crc`` and all is synced.

    Args:
        notices: Where slow syncs are noted.
        zero_ahead: How far to write zeros ahead, in bytes, within the file; 0: not at all.
        stamped: Whether there is a stamp close behind.
    """

    def __init__(
        self,
        file: File,
        *,
        offset: int,
        crc: int,
        save_marks: bool,
        zero_ahead: int,
        notices: Notices,
        stamped: bool = False,
    ) -> None:
        self.file = file
        self.offset: int = offset
        self.crc: int = crc
        self.synced: bool = True
        self._save_marks = save_marks
        self._zero_ahead = zero_ahead
        self._zeroed = offset
        """Up to here the blocks are in use."""
        self._reserved = file.size() if zero_ahead else 0
        self._stamped = stamped
        self._notices = notices

    def write(self, saves: Sequence[Sequence[Payload]]) -> None:
        """Hand a group of saves to the system. When this returns, they survive the process, not yet the machine."""
        data, crc = encode_group(saves, self.crc, synced=self.synced, save_marks=self._save_marks)
        self.synced = False
        if self._stamped:
            self.file.write(bytes(stamp_reach(self.offset)), self.offset)
            self._stamped = False
        end = self.offset + len(data)
        self.file.write(self._with_zeros(data, end) if end > self._zeroed else data, self.offset)
        self.offset = end
        self.crc = crc

    def _with_zeros(self, data: bytes, end: int) -> bytes:
        self._zeroed = end
        if len(data) * _SMALL <= self._zero_ahead:
            self._zeroed = max(end, min(end + self._zero_ahead, self._reserved))
        return data + bytes(self._zeroed - end)

    def sync(self) -> float:
        """
        Make every save so far durable. When this returns, they survive a power cut.

        Returns:
            How long it took, in seconds. If that is slow it is noted, even if the sync has failed.
        """
        started = time.perf_counter()
        try:
            self.file.fs.fdatasync(self.file.fd)
            self.synced = True
        finally:
            seconds = time.perf_counter() - started
            if seconds > self._notices.slow_sync_s:
                self._notices.note(log_slow_sync, self.file.path, seconds)
        return seconds

    def stamp(self) -> None:
        """
        Say on disk that the log ends here, if it has save marks. Every save must have been synced.

        When this returns, later damage to any of them is known to be damage.
        """
        if self._stamped or not self._save_marks:
            return
        self.file.write(encode_stamp(Stamp(self.offset, self.crc)), stamp_offset(self.offset))
        self._stamped = True
        self.file.fs.fdatasync(self.file.fd)
