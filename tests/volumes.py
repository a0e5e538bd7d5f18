"""
Real file systems that are small: to be filled to the last byte, to lose their power, to become read-only.

They live in a file and are mounted in a private place, which takes root.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

from faults import FaultyFileSystem

KIB = 1 << 10
MIB = 1 << 20


def run(*command: str | Path) -> None:
    """Run a command; its complaints are the error's message."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}".strip())


class Volume:
    """
    A file system of its own, mounted as long as the block lasts.

    Args:
        root: An empty directory for it.
        size: Its size in bytes.
    """

    options = "loop"

    def __init__(self, root: Path, size: int = 16 * MIB) -> None:
        root.mkdir()
        self.image = root / "image"
        self.path = root / "mount"
        self.path.mkdir()
        self.size = size
        self.make()

    def make(self) -> None:
        raise NotImplementedError

    def mount(self, *options: str) -> None:
        run("mount", "-o", ",".join([self.options, *options]), self.image, self.path)

    def unmount(self) -> None:
        run("umount", self.path)

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if os.path.ismount(self.path):
                self.unmount()
        except OSError:  # a failing test has files open there
            run("umount", "--lazy", self.path)
        finally:
            with suppress(FileNotFoundError):
                self.image.unlink()

    def fill(self, *, leave: int = 0) -> None:
        """Take all the space, and give so many bytes back."""
        filler = os.open(self.path / "filler", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            for size in (MIB, 64 * KIB, KIB, 1):
                with suppress(OSError):
                    while True:
                        os.pwrite(filler, bytes(size), os.fstat(filler).st_size)
            os.fsync(filler)
            os.ftruncate(filler, max(os.fstat(filler).st_size - leave, 0))
            os.fsync(filler)
        finally:
            os.close(filler)

    def empty(self) -> None:
        """Give the space back."""
        (self.path / "filler").unlink()
        os.sync()


class Ext4(Volume):
    """ext4 with a journal."""

    options = "loop,errors=remount-ro"

    def make(self) -> None:
        with self.image.open("wb") as file:
            file.truncate(self.size)
        run("mkfs.ext4", "-q", "-F", "-b", "1024", "-m", "0", self.image)

    def cut_power(self) -> None:
        """
        Let nothing that is not on the disk get there any more, the journal included; all later calls fail.

        That is what the file system's own tests of its recovery do.
        """
        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, _SHUTDOWN, struct.pack("I", _WITHOUT_THE_JOURNAL))
        finally:
            os.close(directory)

    def become_read_only(self) -> None:
        """Meet an error, on which it was told to become read-only, whoever is writing."""
        device = os.stat(self.path).st_dev
        name = Path(os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")).name
        Path("/sys/fs/ext4", name, "trigger_fs_error").write_text("as ordered by a test")

    def power_on(self) -> None:
        """Mount it again, as after a power cut: the journal is replayed."""
        self.unmount()
        self.mount()

    @contextmanager
    def as_if_cut_now(self) -> Iterator[Path]:
        """Mount a copy of the disk as it is at this moment, which replays the journal; yield where."""
        root = self.image.parent / "copy"
        root.mkdir()
        image, path = root / "image", root / "mount"
        path.mkdir()
        try:
            while True:  # until nothing was written while it was copied
                shutil.copyfile(self.image, image)
                if self.image.read_bytes() == image.read_bytes():
                    break
            run("mount", "-o", self.options, image, path)
            try:
                yield path
            finally:
                run("umount", path)
        finally:
            shutil.rmtree(root)


_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
_WITHOUT_THE_JOURNAL = 2


class Memory(Volume):
    """tmpfs, with a limit."""

    def make(self) -> None:
        self.image.touch()

    def mount(self, *options: str) -> None:
        run("mount", "-t", "tmpfs", "-o", ",".join([f"size={self.size}", *options]), "tmpfs", self.path)


class PowerCut(FaultyFileSystem):
    """Cuts the power of a volume before the n-th call, and does not notice."""

    def __init__(self, volume: Ext4, number: int) -> None:
        super().__init__()
        self.volume = volume
        self.number = number

    def _run(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        if len(self.trace) + 1 == self.number:
            self.volume.cut_power()
        return super()._run(name, call, *args)


@cache
def why_not() -> str:
    """Return why nothing can be mounted here; empty if it can."""
    if sys.platform != "linux":
        return "volumes are mounted on Linux"
    if os.geteuid() != 0:
        return "mounting takes root"
    missing = [command for command in ("mkfs.ext4", "mount", "umount") if shutil.which(command) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    if not os.path.exists("/dev/loop-control"):
        return "no loop devices"
    try:
        with tempfile.TemporaryDirectory() as directory, Ext4(Path(directory, "volume")):
            return ""
    except OSError as error:
        return str(error)
