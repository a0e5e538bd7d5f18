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

    It lives in memory, so that no test waits for the disk of the machine.

    Args:
        root: An empty directory for it.
        size: Its size in bytes.
    """

    def __init__(self, root: Path, size: int = 16 * MIB) -> None:
        self.root = root
        self.path = root / "mount"
        self.size = size

    def mount(self, *options: str) -> None:
        raise NotImplementedError

    def unmount(self) -> None:
        run("umount", self.path)

    def __enter__(self) -> Self:
        self.root.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={4 * self.size}", "tmpfs", self.root)
        try:
            self.path.mkdir()
            self.mount()
        except BaseException:
            run("umount", self.root)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        run("umount", "--recursive", "--lazy", self.root)  # a failing test may have files open there

    def sync(self) -> None:
        """Let everything get to the disk."""
        run("sync", "--file-system", self.path)

    def power_on(self) -> None:
        """Mount it again, as after a power cut."""
        self.unmount()
        self.mount()

    def clear(self) -> None:
        """Remove everything, whatever was done to it."""
        try:
            self._remove_everything()
        except OSError:
            self.power_on()
            self._remove_everything()

    def _remove_everything(self) -> None:
        for path in self.path.iterdir():
            if not path.is_dir():
                path.unlink()
            elif path.name != "lost+found":
                shutil.rmtree(path)
        self.sync()

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
        self.sync()


class Ext4(Volume):
    """ext4 with a journal."""

    @property
    def image(self) -> Path:
        """The file that it lives in."""
        return self.root / "image"

    def mount(self, *options: str, image: Path | None = None, path: Path | None = None) -> None:
        if not self.image.exists():
            with self.image.open("wb") as file:
                file.truncate(self.size)
            run("mkfs.ext4", "-q", "-F", "-b", "1024", "-m", "0", self.image)
        run("mount", "-o", ",".join(["loop", "errors=remount-ro", *options]), image or self.image, path or self.path)

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

    @contextmanager
    def as_if_cut_now(self) -> Iterator[Path]:
        """Mount a copy of the disk as it is at this moment, which replays the journal; yield where."""
        image, path = self.root / "copied image", self.root / "copy"
        path.mkdir()
        while True:  # until nothing was written while it was copied
            shutil.copyfile(self.image, image)
            if self.image.read_bytes() == image.read_bytes():
                break
        self.mount(image=image, path=path)
        try:
            yield path
        finally:
            run("umount", path)
            path.rmdir()
            image.unlink()


_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
_WITHOUT_THE_JOURNAL = 2


class Memory(Volume):
    """tmpfs, with a limit."""

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
