# SPDX-License-Identifier: Apache-2.0
"""
The decoder of a log that grows: as far as it goes now, and later on from there.

What stands behind the last whole save of the last segment is not judged here: it is a save in the making, or the torn
write of a writer that died, which the next writer cuts. Whoever has waited long enough for it to go on may ask with
``check``. A segment that has a successor will never change again; whatever it lacks then is damage.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ._decoder import Decoder, Position, Run, SegmentDecoder, error_of, goes_on, head_of
from ._errors import CorruptionError, SegmentGapError, TornWriteError, WALNotFoundError
from ._files import READ, File, FileSystem
from ._frame import ALIGNMENT
from ._names import SegmentName
from ._segments import list_segments

__all__ = ["LiveDecoder"]

_NOTHING = bytes(ALIGNMENT)


class LiveDecoder:
    """
    Walks a log from the beginning of a segment on; iterate again to get what has been written since.

    No file is kept open in between. ``path`` and ``position`` say where the walk stands.

    Attributes:
        limit: The sequence number of a segment and an offset in it, behind which nothing is looked at.
    """

    tail: TornWriteError | None = None
    """None is ever found here."""

    def __init__(self, fs: FileSystem, directory: Path, names: list[SegmentName]) -> None:
        self._fs = fs
        self._directory = directory
        self.limit: tuple[int, int] | None = None
        self.bytes: int = 0
        self._enter(names[0], 0 if names[0].sequence == 0 else None)

    @classmethod
    def behind(cls, decoder: Decoder) -> LiveDecoder:
        """Return one that goes on where another decoder has come to the log's end."""
        live = cls(decoder.fs, decoder.directory, [decoder.name])
        live.position, live.bytes = decoder.position, decoder.bytes
        return live

    def _enter(self, name: SegmentName, crc: int | None) -> None:
        self.name: SegmentName = name
        self.path: Path = self._directory / str(name)
        self.position: Position = Position(0, crc, None)

    def __iter__(self) -> Iterator[tuple[Path, Run]]:
        """
        Yield segments' paths with frames of whole saves in them, as many as there are.

        Raises:
            WALNotFoundError: The segment to go on in has been purged.
            CorruptionError: The segment has a successor and does not end well, or has become shorter.
        """
        while self.limit != (self.name.sequence, self.position.offset):
            with self._open() as file:
                if self.position.offset and file.read(self.position.offset, ALIGNMENT) == _NOTHING:
                    return
                # Looked for first: what a segment with a successor holds is all that it will ever hold.
                following = self._following()
                segment = self._segment(file)
                for run in segment.saves():
                    self._move(segment)
                    yield self.path, run
                if following is None:
                    return
                error = error_of(segment, self.path, last_segment=False)
                if error is not None:
                    raise error
                self._enter(following, segment.position.crc)

    def _move(self, segment: SegmentDecoder) -> None:
        self.bytes += segment.position.offset - self.position.offset
        self.position = segment.position

    def _segment(self, file: File) -> SegmentDecoder:
        size = file.size()
        if self.limit is not None and self.limit[0] == self.name.sequence:
            size = min(size, self.limit[1])
        if size < self.position.offset:
            raise CorruptionError(
                self.path,
                self.position.offset,
                "what was read up to here has been cut off since; read the log from its beginning",
            )
        return SegmentDecoder(file.read, size, self.position, () if self.position.offset else head_of(self.name))

    def _open(self) -> File:
        try:
            return File(self._fs, self.path, READ)
        except FileNotFoundError:
            raise WALNotFoundError(self.path, "the segment was purged before all of it was read") from None

    def _following(self) -> SegmentName | None:
        """Return the next segment, if there is one."""
        if self.limit is not None and self.limit[0] <= self.name.sequence:
            return None
        for _ in range(2):  # a large directory is listed in parts, which beside a cut are of different moments
            names = list_segments(self._fs, self._directory)
            later = [name for name in names if name.sequence > self.name.sequence]
            if not later:
                return None
            if later[0].sequence == self.name.sequence + 1:
                return later[0]
        if self.name in names:
            raise SegmentGapError(
                self._directory, 0, f"segment {later[0]} follows {self.name}: what was between them is missing"
            )
        raise WALNotFoundError(self.path, "the segment and the one behind it were purged before they were read")

    def check(self) -> None:
        """
        Raise if what stands behind the last whole save is damage that no save in the making and no crash can explain.

        This may read the whole rest of the segment.

        Raises:
            CorruptionError: It is damage.
            WALNotFoundError: The segment is gone.
        """
        with self._open() as file:
            segment = self._segment(file)
            if next(segment.saves(), None) is not None or self._following() is not None:
                return  # it goes on
            error = error_of(segment, self.path, last_segment=True)
            if error is None or isinstance(error, TornWriteError) or goes_on(segment, file):
                return
            raise error
