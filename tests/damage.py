"""
Damage by name: each verb changes one file as a broken disk, a crash or a careless hand would.

Offsets are in bytes. Every verb returns nothing; what it did is to be read off the test.
"""

from __future__ import annotations

from pathlib import Path

SECTOR = 512
PAGE = 4096
STAMP = b"wal ends"


def flip_bit(path: Path, bit: int) -> None:
    """Turn over one bit, counted from the start of the file, the lowest of a byte first."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Put other bytes in the place of those at ``offset``."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def zero(path: Path, start: int, stop: int) -> None:
    """Zero the bytes from ``start`` up to ``stop``."""
    overwrite(path, start, bytes(stop - start))


def zero_sector(path: Path, number: int) -> None:
    """Lose one sector of 512 bytes: it reads as zeros."""
    zero(path, number * SECTOR, (number + 1) * SECTOR)


def truncate(path: Path, size: int) -> None:
    """Cut the file to its first ``size`` bytes."""
    with path.open("r+b") as file:
        file.truncate(size)


def append(path: Path, data: bytes) -> None:
    """Put bytes behind the end of the file."""
    with path.open("ab") as file:
        file.write(data)


def unstamp(segment: Path) -> None:
    """Take away the stamp of a closed log: it looks as if its writer had been killed."""
    data = segment.read_bytes()
    place = data.rindex(STAMP)
    assert place % PAGE == 0
    zero(segment, place, place + 24)
    if place + 24 == len(data):
        truncate(segment, place)
