# SPDX-License-Identifier: Apache-2.0
"""
What a writer holds while it is open: the locked directory, and its locked segments.

The directory's lock comes first and goes last. Segments are added under it and never unlocked before they are
released or all is closed, so between two segments there is no moment without a lock.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ._encoder import Encoder
from ._errors import WALLockedError, WALNotFoundError
from ._files import CREATE, READ_WRITE, File, FileSystem, open_directory
from ._frame import Payload, aligned
from ._names import SegmentName, is_temporary, select
from ._notices import Notices

__all__ = ["Hold"]


class Hold:
    """
    The locks and open files of one writer.

    Raises:
        WALNotFoundError: There is no such directory.
        WALLockedError: Another writer holds it.
    """

    def __init__(self, fs: FileSystem, path: Path) -> None:
        self.fs = fs
        self.path = path
        self.segments: list[tuple[SegmentName, File]] = []
        try:
            self._directory = open_directory(fs, path)
        except FileNotFoundError:
            raise WALNotFoundError(path, "there is no such directory") from None
        try:
            fs.lock_directory(self._directory.fd)
            try:
                if not fs.is_at(self._directory.fd, path):
                    raise BlockingIOError  # another writer made it, failed, and removed it between our two calls
            except BaseException:
                fs.unlock_directory(self._directory.fd)  # a forked child may have the descriptor
                raise
        except BlockingIOError:
            self._directory.close()
            raise _locked(path) from None
        except BaseException:
            self._directory.close()
            raise

    @property
    def tail(self) -> tuple[SegmentName, File]:
        """The segment that is written to."""
        return self.segments[-1]

    def sync_directory(self) -> None:
        """Make the names in the directory durable."""
        self.fs.fsync(self._directory.fd)

    def open_segments(self, names: list[SegmentName]) -> None:
        """
        Open and lock existing segments.

        Raises:
            WALLockedError: Another writer holds one.
            WALNotFoundError: One was purged since it was listed.
        """
        for name in names:
            path = self.path / str(name)
            try:
                file = File(self.fs, path, READ_WRITE)
                self.segments.append((name, file))
                self.fs.lock(file.fd)
            except BlockingIOError:
                raise _locked(path) from None
            except FileNotFoundError:
                raise WALNotFoundError(path, "the segment was purged while the log was opened") from None
            if not self.fs.is_at(file.fd, path):
                raise WALNotFoundError(path, "the segment was purged while the log was opened")

    def remove_temporaries(self) -> None:
        """Remove the segments in preparation that a killed writer left. Other files are not ours."""
        for name in self.fs.listdir(self.path):
            if is_temporary(name):
                self.fs.unlink(self.path / name)

    def begin_segment(
        self,
        name: SegmentName,
        head: list[Payload],
        *,
        crc: int,
        segment_size: int,
        save_marks: bool,
        zero_ahead: int,
        notices: Notices,
    ) -> Encoder:
        """
        Make a segment with this head and take it as the new tail.

        It is prepared under a temporary name. When this returns, it is durable under its own. If this raises,
        it does not exist, as far as the system still allows to remove it.
        """
        file = File(self.fs, self.path / name.temporary, CREATE)
        try:
            self.fs.lock(file.fd)
            self.fs.allocate(file.fd, aligned(segment_size))
            encoder = Encoder(file, offset=0, crc=crc, save_marks=save_marks, zero_ahead=zero_ahead, notices=notices)
            encoder.write([head])
            self.fs.fsync(file.fd)
            encoder.synced = True
            self.fs.rename(file.path, self.path / str(name))
            file.path = self.path / str(name)
            self.sync_directory()
        except BaseException:
            # The segment holds nothing that was acknowledged, whatever its name is by now.
            for path in (self.path / str(name), self.path / name.temporary):
                with suppress(OSError):
                    if self.fs.is_at(file.fd, path):
                        self.fs.unlink(path)
            with suppress(OSError):
                file.close()
            raise
        self.segments.append((name, file))
        return encoder

    def release(self, index: int) -> None:
        """Unlock and close the segments that reading from snapshot ``index`` on does not need."""
        errors: list[Exception] = []
        for _ in range(select([name for name, _ in self.segments], index) or 0):
            _, file = self.segments[0]
            self._give_up(file, self.fs.unlock, errors)
            del self.segments[0]
        if errors:
            raise errors[0]

    def close(self) -> None:
        """
        Unlock and close everything; raise the first error afterwards.

        What an interrupt leaves undone is done by the next call.
        """
        errors: list[Exception] = []
        while self.segments:
            _, file = self.segments[-1]
            self._give_up(file, self.fs.unlock, errors)
            self.segments.pop()
        self._give_up(self._directory, self.fs.unlock_directory, errors)
        if errors:
            raise errors[0]

    def _give_up(self, file: File, unlock: Callable[[int], None], errors: list[Exception]) -> None:
        if file.closed:
            return
        try:
            # A forked child may still have the descriptor, and with it the lock; closing ours is not enough.
            unlock(file.fd)
        except Exception as error:
            errors.append(error)
        try:
            file.close()
        except OSError as error:
            errors.append(error)

    def abandon(self) -> None:
        """Close the descriptors that a fork has copied; the locks stay with the process that took them."""
        for file in [file for _, file in self.segments] + [self._directory]:
            with suppress(OSError):
                file.close()
        self.segments = []


def _locked(path: Path) -> WALLockedError:
    return WALLockedError(
        path, "another writer has the log open; close it there (a forked child of it may still hold the lock)"
    )
