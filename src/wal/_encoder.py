# SPDX-License-Identifier: Apache-2.0
"""
The encoder: whole saves into one segment.

It owns what the next frame depends on: the offset, the CRC chain, and whether all earlier bytes of the segment
are synced. A save is encoded completely before its first byte is written, and written by one call.

If ``write`` or ``sync`` raises, or is interrupted, the three may no longer agree with the file, and the encoder
must not be used again. Its owner sees to that.

Between two lives of the log its end is marked by a stamp (see ``_stamp``), which the first save takes away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from ._build import COMPILED
from ._files import File
from ._frame import Payload
from ._stamp import Stamp, encode_stamp, stamp_offset, stamp_reach

if COMPILED:
    from ._codec_compiled import encode_group
else:
    from ._codec import encode_group

__all__ = ["Encoder", "Payload"]

_logger = logging.getLogger("wal")

SLOW_SYNC_S = 1.0
"""A sync that takes longer is logged; etcd warns from the same time on."""


class Encoder:
    """
    Appends saves to one segment from ``offset`` on, where the CRC chain is ``crc`` and all is synced.

    ``stamped`` says whether there is a stamp close behind.
    """

    def __init__(self, file: File, *, offset: int, crc: int, save_marks: bool, stamped: bool = False) -> None:
        self.file = file
        self.offset = offset
        self.crc = crc
        self.synced = True
        self._save_marks = save_marks
        self._stamped = stamped

    def write(self, records: Sequence[Payload]) -> None:
        """Hand one save to the system. When this returns, it survives the process, but not yet the machine."""
        data, crc = encode_group((records,), self.crc, synced=self.synced, save_marks=self._save_marks)
        self.synced = False
        if self._stamped:
            self.file.write(bytes(stamp_reach(self.offset)), self.offset)
            self._stamped = False
        self.file.write(data, self.offset)
        self.offset += len(data)
        self.crc = crc

    def sync(self) -> None:
        """Make every save so far durable. When this returns, they survive a power cut."""
        started = time.monotonic()
        self.file.fs.fdatasync(self.file.fd)
        self.synced = True
        seconds = time.monotonic() - started
        if seconds > SLOW_SYNC_S:
            _logger.warning("%s: a sync took %.1f seconds; saves wait for the disk", self.file.path, seconds)

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
