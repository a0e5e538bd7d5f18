"""
A disk in memory that knows what each crash would leave of it.

It keeps two of everything: what a running system sees, and what has been synced. A kill of the process leaves the
first, and a machine that goes down later still loses what was not synced. A power cut leaves the second, and of the
rest whatever the system had happened to write out by itself, in any order.
"""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Generic, Self, TypeVar

Tree = Mapping[str, bytes | None]
"""Files with their bytes and directories with ``None``, by the path from the top of the disk."""

TOP = Path("/a disk in memory")
"""Where every such disk seems to be."""


@dataclass(eq=False)
class Node:
    """A file, or a directory with its names."""

    data: bytes = b""
    synced_data: bytes = b""
    names: dict[str, Node] | None = None
    synced_names: dict[str, Node] = field(default_factory=dict)
    unsynced: list[dict[str, Node | None]] = field(default_factory=list)
    """Changes of names since the last sync of the directory; ``None`` is a name that goes."""
    locked_by: int | None = None

    def change(self, names: dict[str, Node | None]) -> None:
        """Give names to nodes, or take them away."""
        assert self.names is not None
        apply(self.names, names)
        self.unsynced.append(names)

    def sync(self) -> None:
        self.synced_data = self.data
        if self.names is not None:
            self.synced_names, self.unsynced = dict(self.names), []


def apply(names: dict[str, Node], change: Mapping[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def written(before: bytes, data: bytes, offset: int) -> bytes:
    return before[:offset].ljust(offset, b"\0") + data + before[offset + len(data) :]


@dataclass(frozen=True)
class PowerCut:
    """What of the unsynced a machine had written out before it went down."""

    names: str
    """Of the changes to each directory: ``all``, ``none``, or ``only the last``."""
    data: str
    """Of the files: ``all``, or ``none``."""

    def __str__(self) -> str:
        return f"a power cut after which {self.names} of the unsynced names and {self.data} of the data is there"


KILL = "a kill"
POWER_CUTS = [PowerCut(names, data) for names in ("none", "all", "only the last") for data in ("none", "all")]


class MemoryDisk:
    """
    A ``FileSystem`` in memory.

    Attributes:
        before_change: Called before each call that changes anything, and once in the middle of each write, with what
            is about to be done.
    """

    def __init__(self, tree: Tree | None = None) -> None:
        self.top = Node(names={})
        self.before_change: Callable[[str], None] = lambda _: None
        self._open: dict[int, Node] = {}
        self._numbers = count(3)
        for path, data in sorted((tree or {}).items()):
            directory, name = self._parent(TOP / path)
            directory.change({name: Node(names={}) if data is None else Node(data)})
        self._sync_all(self.top)

    def _sync_all(self, node: Node) -> None:
        node.sync()
        for child in (node.names or {}).values():
            self._sync_all(child)

    # ---------------------------------------------------------------------------------------------- after a crash

    def tree(self, cut: PowerCut | None = None) -> dict[str, bytes | None]:
        """Return what is there, or what is left by a power cut."""
        return dict(self._walk(self.top, "", cut or PowerCut("all", "all")))

    def _walk(self, directory: Node, prefix: str, cut: PowerCut) -> Iterator[tuple[str, bytes | None]]:
        names = dict(directory.synced_names)
        changes = {"all": directory.unsynced, "none": [], "only the last": directory.unsynced[-1:]}
        for change in changes[cut.names]:
            apply(names, change)
        for name, node in sorted(names.items()):
            if node.names is None:
                yield prefix + name, node.data if cut.data == "all" else node.synced_data
            else:
                yield prefix + name, None
                yield from self._walk(node, f"{prefix}{name}/", cut)

    def killed(self) -> MemoryDisk:
        """Return the disk as the next process finds it; what is not synced is still not."""
        disk = MemoryDisk()
        disk.top = copy.deepcopy(self.top)
        disk._unlock(disk.top)
        return disk

    def _unlock(self, node: Node) -> None:
        node.locked_by = None
        for child in (node.names or {}).values():
            self._unlock(child)

    def crashed(self) -> Iterator[tuple[str, MemoryDisk]]:
        """Yield what a crash now may leave, each with its name, and no two that are the same."""
        yield KILL, self.killed()
        seen: list[Tree] = []
        for cut in POWER_CUTS:
            tree = self.tree(cut)
            if tree not in seen:
                seen.append(tree)
                yield str(cut), MemoryDisk(tree)

    # -------------------------------------------------------------------------------------------------- the calls

    def _find(self, path: Path) -> Node:
        node = self.top
        for name in path.relative_to(TOP).parts:
            if node.names is None or name not in node.names:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            node = node.names[name]
        return node

    def _parent(self, path: Path) -> tuple[Node, str]:
        directory = self._find(path.parent)
        if directory.names is None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent))
        return directory, path.name

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_CREAT:
            self.before_change("create")
            directory, name = self._parent(path)
            assert directory.names is not None
            if name in directory.names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            directory.change({name: Node()})
        fd = next(self._numbers)
        self._open[fd] = self._find(path)
        return fd

    def close(self, fd: int) -> None:
        node = self._open.pop(fd)
        if node.locked_by == fd:
            node.locked_by = None

    def size(self, fd: int) -> int:
        return len(self._open[fd].data)

    def is_at(self, fd: int, path: Path) -> bool:
        try:
            return self._find(path) is self._open[fd]
        except FileNotFoundError:
            return False

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return self._open[fd].data[offset : offset + length]

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        node, before, data = self._open[fd], self._open[fd].data, bytes(data)
        self.before_change("write")
        node.data = written(before, data[: len(data) // 2], offset)
        self.before_change("write the other half")
        node.data = written(before, data, offset)
        return len(data)

    def truncate(self, fd: int, size: int) -> None:
        self.before_change("truncate")
        self._open[fd].data = self._open[fd].data[:size].ljust(size, b"\0")

    def allocate(self, fd: int, size: int) -> None:
        self.before_change("allocate")
        self._open[fd].data = self._open[fd].data.ljust(size, b"\0")

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def fsync(self, fd: int) -> None:
        self.before_change("sync")
        self._open[fd].sync()

    def lock(self, fd: int) -> None:
        node = self._open[fd]
        if node.locked_by not in (None, fd):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        node.locked_by = fd

    def unlock(self, fd: int) -> None:
        self._open[fd].locked_by = None

    lock_directory = lock
    unlock_directory = unlock

    def rename(self, old: Path, new: Path) -> None:
        self.before_change("rename")
        assert old.parent == new.parent
        node = self._find(old)
        directory, name = self._parent(new)
        directory.change({old.name: None, name: node})

    def unlink(self, path: Path) -> None:
        self.before_change("unlink")
        self._find(path)
        directory, name = self._parent(path)
        directory.change({name: None})

    def mkdir(self, path: Path) -> None:
        self.before_change("mkdir")
        directory, name = self._parent(path)
        assert directory.names is not None
        if name in directory.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        directory.change({name: Node(names={})})

    def rmdir(self, path: Path) -> None:
        self.before_change("rmdir")
        if self._find(path).names:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        directory, name = self._parent(path)
        directory.change({name: None})

    def is_directory(self, path: Path) -> bool:
        try:
            return self._find(path).names is not None
        except FileNotFoundError:
            return False

    def listdir(self, path: Path) -> list[str]:
        names = self._find(path).names
        if names is None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return list(names)


T = TypeVar("T")


class Watch(Generic[T]):
    """
    Looks, before each change of a disk, at what a crash at this moment would leave.

    Args:
        disk: The disk that is about to be used.
        check: Raises if none of the given values is what a crashed disk holds.

        limit: The number of complaints after which it stops looking.

    Attributes:
        complaints: What ``check`` raised, and at which moment the crash was.
        crashes: How many different crashes there were.
    """

    def __init__(
        self, disk: MemoryDisk, check: Callable[[MemoryDisk, Sequence[T]], object], *, limit: int = 10
    ) -> None:
        self.disk = disk
        self.check = check
        self.limit = limit
        self.complaints: list[str] = []
        self.crashes = 0
        self._calls = 0
        self._after_kill: Sequence[T] = ()
        self._after_power_cut: Sequence[T] = ()
        self._seen: set[Hashable] = set()

    def expect(self, after_kill: Sequence[T], after_power_cut: Sequence[T] | None = None) -> None:
        """Say what a disk may hold if it crashes from now on."""
        self._after_kill = after_kill
        self._after_power_cut = after_kill if after_power_cut is None else after_power_cut
        self._seen = set()

    def look(self, what: str) -> None:
        """Check every crash that may happen now."""
        self._calls += 1
        if len(self.complaints) >= self.limit:
            return
        state = tuple(frozenset(self.disk.tree(cut).items()) for cut in (*POWER_CUTS, None))
        if state in self._seen:
            return
        self._seen.add(state)
        for name, crashed in self.disk.crashed():
            self.crashes += 1
            try:
                self.check(crashed, self._after_kill if name == KILL else self._after_power_cut)
            except Exception as error:
                self.complaints.append(f"{name}, before call {self._calls} ({what}): {error!r}")

    def __enter__(self) -> Self:
        self.disk.before_change = self.look
        return self

    def __exit__(self, *_: object) -> None:
        self.disk.before_change = lambda _: None
